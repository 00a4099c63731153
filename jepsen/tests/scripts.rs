//! The chaos scripts, each used as its help says: what it does is seen from outside, and is over afterwards.
//!
//! Not here: clusters. What a killed leader means is a scenario's business.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

const SCRIPTS: [&str; 6] = ["kill-leader", "partition", "pause", "clock", "disk", "rot"];

fn script(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scripts/{name}.sh"));
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A process that is ours, and gone at the end.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may have been killed already; that was the test.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("jepsen-scripts-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn each_helps_with_an_example_and_refuses_nonsense() {
    for name in SCRIPTS {
        let help = script(name).arg("--help").output().unwrap();
        assert!(
            help.status.success() && text(&help).contains("Example"),
            "{name}: {}",
            text(&help)
        );
        assert!(
            !script(name).arg("--nonsense").status().unwrap().success(),
            "{name} takes anything"
        );
    }
}

#[test]
fn a_paused_process_stands_still_and_goes_on() {
    let sleeper = Sleeper::start();
    let mut pausing = script("pause")
        .args(["--pids", &sleeper.0.id().to_string(), "--seconds", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stood_still = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(10));
        sleeper.state() == 'T'
    });
    assert!(pausing.wait().unwrap().success());
    assert!(stood_still, "it was never stopped");
    assert_ne!(sleeper.state(), 'T', "it still is");
}

#[test]
fn a_flipped_bit_is_one_bit_and_comes_back() {
    let directory = directory("rot");
    let file = directory.join("log");
    let sound: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    fs::write(&file, &sound).unwrap();
    let rotten = script("rot").arg("--file").arg(&file).output().unwrap();
    assert!(rotten.status.success(), "{}", text(&rotten));
    let now = fs::read(&file).unwrap();
    let flipped: u32 = sound.iter().zip(&now).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((now.len(), flipped), (sound.len(), 1), "{}", text(&rotten));
    assert!(script("rot").arg("--restore").arg(&file).status().unwrap().success());
    assert_eq!(fs::read(&file).unwrap(), sound);

    let open = fs::File::open(&file).unwrap();
    let refused = script("rot").arg("--file").arg(&file).output().unwrap();
    assert!(
        !refused.status.success() && text(&refused).contains("open in a process"),
        "{}",
        text(&refused)
    );
    drop(open);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_partition_drops_and_heals() {
    let name = format!("jepsen-scripts-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &name]).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no network namespaces here");
        return;
    }
    let inside = |line: &str| {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &name])
            .args(line.split(' '))
            .stdout(Stdio::null());
        command
    };
    assert!(inside("ip link set lo up").status().unwrap().success());
    let cut = script("partition")
        .args(["--namespace", &name, "--from", "127.0.0.1", "--seconds", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let was_cut = (0..20).any(|_| !inside("ping -c 1 -W 0.1 127.0.0.1").status().unwrap().success());
    let said = cut.wait_with_output().unwrap();
    let is_healed = inside("ping -c 1 -W 1 127.0.0.1").status().unwrap().success();
    assert!(
        Command::new("ip")
            .args(["netns", "delete", &name])
            .status()
            .unwrap()
            .success()
    );
    assert!(
        said.status.success() && text(&said).contains("packets were dropped"),
        "{}",
        text(&said)
    );
    assert!(was_cut && is_healed, "cut: {was_cut}, healed: {is_healed}");
}

#[test]
fn a_clock_jumps_for_those_who_asked_for_it() {
    let directory = directory("clock");
    let file = directory.join("clock");
    let variables = script("clock").arg("--file").arg(&file).arg("--env").output().unwrap();
    if text(&variables).contains("not installed") {
        println!("skipped: {}", text(&variables));
        return;
    }
    let jumped = script("clock")
        .arg("--file")
        .arg(&file)
        .args(["--offset", "+3600"])
        .output()
        .unwrap();
    assert!(jumped.status.success(), "{}", text(&jumped));
    let seconds = |variables: &str| -> i64 {
        let output = Command::new("env")
            .args(variables.split_whitespace())
            .args(["date", "+%s"])
            .output()
            .unwrap();
        text(&output).trim().parse().unwrap()
    };
    let off = seconds(&text(&variables)) - seconds("");
    assert!((3598..=3602).contains(&off), "{off} s off");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_small_disk_is_full_for_a_while() {
    let directory = directory("disk");
    let disk = directory.join("small");
    let made = script("disk")
        .arg("--make")
        .arg(&disk)
        .args(["--size", "32M"])
        .output()
        .unwrap();
    if !made.status.success() {
        println!("skipped: {}", text(&made));
        fs::remove_dir_all(directory).unwrap();
        return;
    }
    let mut filling = script("disk")
        .arg("--directory")
        .arg(&disk)
        .args(["--seconds", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let one_megabyte = vec![7; 1 << 20];
    let was_full = (0..90).any(|_| {
        thread::sleep(Duration::from_millis(10));
        let full = fs::write(disk.join("file"), &one_megabyte).is_err();
        // Removed at once: what is probed with must not be what fills it.
        let _ = fs::remove_file(disk.join("file"));
        full
    });
    assert!(filling.wait().unwrap().success());
    let has_room = fs::write(disk.join("file"), &one_megabyte).is_ok();
    assert!(script("disk").arg("--remove").arg(&disk).status().unwrap().success());
    fs::remove_dir_all(directory).unwrap();
    assert!(was_full && has_room, "full: {was_full}, room again: {has_room}");
}
