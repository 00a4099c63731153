//! The 103 histories that Jepsen recorded of etcd 0.4.1 in 2014, with the verdicts that everybody's checker agrees
//! on. They are in the package of `todc-utils`, wherever cargo has unpacked it.
//!
//! ```text
//!   INFO  jepsen.util - 4  :invoke  :cas    [3 0]
//!   INFO  jepsen.util - 4  :fail    :cas    [3 0]        the compare failed
//!   INFO  jepsen.util - 2  :info    :write  :timed-out   nobody knows
//! ```
//! Number 095 has no operation (the cluster did not start) and so no verdict.

use jepsen::checkers::linearizable::{Interval, Register, RegisterOperation, Verdict, check_partitions};
use jepsen::expectations::SearchLimits;
use jepsen::history::NEVER;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use todc_utils::specifications::etcd::{EtcdSpecification, history_from_log};
use todc_utils::{History, WGLChecker};

const LINEARIZABLE: [usize; 23] = [
    2, 5, 7, 18, 25, 31, 38, 45, 48, 49, 51, 53, 56, 67, 75, 76, 80, 87, 92, 98, 100, 101, 102,
];
const EMPTY: usize = 95;

fn directory() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // What other platforms need was never fetched on a new machine.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", &platform])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "todc-utils").unwrap();
    let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().join("tests/linearizability/etcd")
}

fn number(text: &str) -> u32 {
    text.trim_matches(['[', ']']).parse().unwrap()
}

fn operation(words: &[&str], succeeded: Option<bool>) -> RegisterOperation {
    match words[0] {
        ":read" if words[1] == "nil" => RegisterOperation::Read(None),
        ":read" => RegisterOperation::Read(Some(number(words[1]))),
        ":write" => RegisterOperation::Write(number(words[1])),
        ":cas" => RegisterOperation::CompareAndSet(number(words[1]), number(words[2]), succeeded),
        other => panic!("{other}"),
    }
}

fn read(log: &str) -> Vec<Interval<RegisterOperation>> {
    let mut intervals: Vec<Interval<RegisterOperation>> = Vec::new();
    let mut open: HashMap<&str, (u64, Vec<&str>)> = HashMap::new();
    for (time, line) in log.lines().enumerate() {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.len() < 7 || words[1] != "jepsen.util" || words[3] == ":nemesis" {
            continue;
        }
        let (time, process) = (time as u64, words[3]);
        if words[4] == ":invoke" {
            open.insert(process, (time, words[5..].to_vec()));
            continue;
        }
        let (call, invoked) = open.remove(process).unwrap();
        let (end, operation) = match words[4] {
            ":ok" => (time, operation(&words[5..], Some(true))),
            // A read that failed has read nothing.
            ":fail" if invoked[0] == ":read" => continue,
            ":fail" => (time, operation(&invoked, Some(false))),
            ":info" => (NEVER, operation(&invoked, None)),
            other => panic!("{other}"),
        };
        let place = intervals.len();
        intervals.push(Interval {
            call,
            end,
            place,
            operation,
        });
    }
    // Whoever never heard of an outcome: it may still happen.
    for (call, invoked) in open.into_values().filter(|(_, invoked)| invoked[0] != ":read") {
        let place = intervals.len();
        intervals.push(Interval {
            call,
            end: NEVER,
            place,
            operation: operation(&invoked, None),
        });
    }
    intervals
}

#[test]
fn all_102_histories_of_etcd_get_the_known_verdict() {
    let directory = directory();
    let (mut judged, mut operations) = (0, 0);
    let mut ours = std::time::Duration::ZERO;
    for file in (0..=102).filter(|file| *file != EMPTY) {
        let path = directory.join(format!("etcd_{file:03}.log"));
        let intervals = read(&std::fs::read_to_string(&path).unwrap());
        assert!(
            intervals.len() > 20,
            "{}: {} operations",
            path.display(),
            intervals.len()
        );
        operations += intervals.len();
        let begun = Instant::now();
        let verdict = check_partitions(vec![(Register, intervals)], SearchLimits::default());
        ours += begun.elapsed();
        assert!(!matches!(verdict, Verdict::Unknown(_)), "{file}: {verdict:?}");
        let expected = LINEARIZABLE.contains(&file);
        assert_eq!(verdict == Verdict::Linearizable, expected, "{file}: {verdict:?}");
        let theirs = history_from_log(path.to_str().unwrap().to_owned());
        let theirs: History<_> = theirs;
        assert_eq!(
            WGLChecker::<EtcdSpecification>::is_linearizable(theirs),
            expected,
            "{file}"
        );
        judged += 1;
    }
    println!("{judged} histories of etcd, {operations} operations, {ours:?}");
    assert_eq!(judged, 102);
}
