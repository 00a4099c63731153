//! Debian's etcdctl runs one script (transcript/script.txt) against a real etcd and against Dipper: after
//! masking what differs between any two clusters, no line may differ.
//!
//! Nothing of the output is written down here: a new case costs one line of the script.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

mod harness;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use harness::{
    Cluster, Kind, peers,
    rpc::{Rpc, block_on, within},
};
use proto::etcdserverpb::{Member, MemberListRequest, MoveLeaderRequest};

const SCRIPT: &str = include_str!("transcript/script.txt");
/// A command that has not ended by then is ended, and its output is what it printed.
const COMMAND_WITHIN: Duration = Duration::from_secs(10);
/// What follows these words in any output belongs to the cluster and not to the API.
const MASKED_AFTER: &[&str] = &[
    "\"raft_term\":",
    "\"raftTerm\":",
    "\"raftIndex\":",
    "\"raftAppliedIndex\":",
    "\"dbSize\":",
    "\"dbSizeInUse\":",
    "\"version\":\"",
    "\"hash\":",
    "\"RaftTerm\" : ",
    "\"RaftIndex\" : ",
    "\"RaftAppliedIndex\" : ",
    "\"DBSize\" : ",
    "\"DBSizeInUse\" : ",
    "\"Version\" : \"3",
    "\"Hash\" : ",
    "took = ",
    "\"took\":\"",
    "remaining(",
    "\"ttl\":",
    "\"TTL\" : ",
];

#[test]
fn etcdctl_cannot_tell_dipper_from_etcd() {
    let (Some(etcd), Some(etcdctl)) = (peers::etcd(), peers::etcdctl()) else {
        return;
    };
    assert_same(&etcdctl, Kind::Etcd { binary: etcd }, Kind::Dipper);
}

/// The masks must cover what differs between two clusters of the same program.
#[test]
fn etcdctl_cannot_tell_etcd_from_etcd() {
    let (Some(etcd), Some(etcdctl)) = (peers::etcd(), peers::etcdctl()) else {
        return;
    };
    assert_same(
        &etcdctl,
        Kind::Etcd { binary: etcd.clone() },
        Kind::Etcd { binary: etcd },
    );
}

fn assert_same(etcdctl: &Path, theirs: Kind, ours: Kind) {
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| Speaker::new(etcdctl, theirs).transcript());
        let ours = Speaker::new(etcdctl, ours).transcript();
        (theirs.join().expect("its panic is printed above"), ours)
    });
    assert_eq!(theirs.len(), ours.len());
    let different: Vec<String> = theirs
        .iter()
        .zip(&ours)
        .filter(|((_, a), (_, b))| a != b)
        .map(|((line, a), (_, b))| format!("$ etcdctl {line}\n--- etcd:\n{a}\n--- dipper:\n{b}"))
        .collect();
    println!(
        "{} commands, {} lines of output",
        theirs.len(),
        theirs.iter().map(|(_, a)| a.lines().count()).sum::<usize>()
    );
    if std::env::var_os("DIPPER_TRANSCRIPT").is_some() {
        for (line, output) in &theirs {
            println!("$ etcdctl {line}\n{output}");
        }
    }
    assert!(
        different.is_empty(),
        "{} commands differ:\n\n{}",
        different.len(),
        different.join("\n\n")
    );
}

/// A cluster, and what its ids and addresses are called in a transcript.
struct Speaker {
    etcdctl: PathBuf,
    cluster: Cluster,
    /// What the script's {words} stand for.
    words: BTreeMap<String, String>,
    /// What is replaced in outputs: (text, name), longest text first.
    names: Vec<(String, String)>,
    /// Commands that were started and not yet finished.
    running: BTreeMap<String, Running>,
}

/// An etcdctl that was started.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Speaker {
    fn new(etcdctl: &Path, kind: Kind) -> Speaker {
        let cluster = Cluster::start(kind, 3, &[]);
        lead_by_first(&cluster);
        let rpc = Rpc::connect(cluster.client_url(0));
        let mut client = rpc.cluster.clone();
        let list = block_on(within(async move {
            client.member_list(MemberListRequest { linearizable: true }).await
        }))
        .expect("the member list");
        let cluster_id = list.header.expect("a header").cluster_id;
        let mut speaker = Speaker {
            etcdctl: etcdctl.to_owned(),
            cluster,
            words: BTreeMap::new(),
            names: vec![
                (format!("{cluster_id:x}"), "<cluster>".into()),
                (cluster_id.to_string(), "<cluster>".into()),
            ],
            running: BTreeMap::new(),
        };
        list.members.iter().for_each(|member| speaker.learn_member(member));
        speaker
    }

    fn learn_member(&mut self, member: &Member) {
        let number = member.name.trim_start_matches('m').to_owned();
        self.words
            .insert(format!("{{member{number}}}"), format!("{:x}", member.id));
        self.name(&format!("{:x}", member.id), &format!("<member{number}>"));
        self.name(&member.id.to_string(), &format!("<member{number}>"));
        for (url, what) in [(&member.client_ur_ls[0], "client"), (&member.peer_ur_ls[0], "peer")] {
            self.words.insert(format!("{{{what}{number}}}"), url.clone());
            self.name(url.trim_start_matches("http://"), &format!("<{what}{number}>"));
        }
    }

    /// Longer texts are replaced first, since one may be a part of another.
    fn name(&mut self, text: &str, name: &str) {
        self.names.push((text.to_owned(), name.to_owned()));
        self.names.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    fn transcript(mut self) -> Vec<(String, String)> {
        let mut transcript = Vec::new();
        for line in SCRIPT
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        {
            let started = Instant::now();
            transcript.push((line.to_owned(), self.run(line)));
            if started.elapsed() > Duration::from_secs(3) {
                println!("slow: {line} took {:?}", started.elapsed());
            }
        }
        transcript
    }

    /// Runs one line of the script; the masked output, with the exit code.
    fn run(&mut self, line: &str) -> String {
        let mut command = self
            .words
            .iter()
            .fold(line.to_owned(), |line, (word, text)| line.replace(word, text));
        if command.contains("{next}") {
            let found = Rpc::connect(self.cluster.client_url(0))
                .get(b"\0")
                .expect("a linearizable read");
            let next = found.header.expect("a header").revision + 1;
            command = command.replace("{next}", &next.to_string());
        }
        let Some((directive, rest)) = command.strip_prefix('@').and_then(|rest| rest.split_once(' ')) else {
            return self.finished(&command, self.spawn(&command, self.endpoint()), None);
        };
        if directive == "all" || directive == "url" {
            let endpoints = self.cluster.endpoints();
            let endpoints = if directive == "url" {
                endpoints
            } else {
                endpoints.replace("http://", "")
            };
            return self.finished(rest, self.spawn(rest, &endpoints), None);
        }
        let (argument, rest) = rest.split_once(' ').expect("an argument of the directive");
        let number = |text: &str| Some(text.parse::<usize>().expect("a number of lines"));
        if directive == "finish" {
            let running = self.running.remove(argument).expect("a command that was started");
            return self.finished("watch", running, number(rest));
        }
        let running = self.spawn(rest, self.endpoint());
        match directive {
            "lines" => self.finished(rest, running, number(argument)),
            "save" => {
                let (output, code) = running.finish(None);
                self.save(argument, &output);
                format!("{}exit {code}", self.masked(rest, &output))
            }
            "start" => {
                self.running.insert(argument.to_owned(), running);
                String::new()
            }
            other => panic!("unknown directive @{other}"),
        }
    }

    /// The first member, as an address without a scheme.
    fn endpoint(&self) -> &str {
        self.cluster.client_url(0).trim_start_matches("http://")
    }

    fn finished(&self, command: &str, running: Running, lines_max: Option<usize>) -> String {
        let (output, code) = running.finish(lines_max);
        format!("{}exit {code}", self.masked(command, &output))
    }

    fn spawn(&self, command: &str, endpoints: &str) -> Running {
        let (arguments, stdin) = command.split_once(" | ").unwrap_or((command, ""));
        let mut etcdctl = Command::new(&self.etcdctl);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL_")) {
            etcdctl.env_remove(name);
        }
        let mut child = etcdctl
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={endpoints}"))
            .args(words(arguments))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        // A command that does not read has closed its end; that is no failure of the test.
        let _ = child
            .stdin
            .take()
            .expect("piped")
            .write_all(stdin.replace("\\n", "\n").as_bytes());
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::sync_channel(1024);
        // Ends with the output, or when nobody wants more of it.
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    /// Remembers the lease id in `lease ID granted with ...` or in its JSON.
    fn save(&mut self, name: &str, output: &str) {
        let hex = output
            .split_whitespace()
            .nth(1)
            .filter(|_| output.starts_with("lease "));
        let decimal = output
            .split("\"ID\":")
            .nth(1)
            .and_then(|rest| rest.split([',', '}']).next());
        let id = hex
            .and_then(|hex| u64::from_str_radix(hex, 16).ok())
            .or_else(|| decimal.and_then(|decimal| decimal.parse().ok()))
            .unwrap_or_else(|| panic!("no lease id in {output:?}"));
        self.words.insert(format!("{{{name}}}"), format!("{id:x}"));
        for text in [format!("{id:016x}"), format!("{id:x}"), id.to_string()] {
            self.name(&text, &format!("<lease {name}>"));
        }
    }

    fn masked(&self, command: &str, output: &str) -> String {
        let named = self
            .names
            .iter()
            .fold(output.to_owned(), |output, (text, name)| output.replace(text, name));
        let mut lines: Vec<String> = named.lines().map(|line| masked_line(command, line)).collect();
        // Ordered by ids, or by who answered first.
        if ["member list", "endpoint health", "lease list"]
            .iter()
            .any(|listed| command.starts_with(listed))
        {
            lines.sort();
        }
        if command.contains("member list -w json") {
            let members = lines
                .concat()
                .replace("]}]}", "]}\n]}")
                .replace("},{", "}\n{")
                .replace(":[{", ":[\n{");
            lines = members.lines().map(str::to_owned).collect();
            lines.sort();
        }
        lines.join("\n") + "\n"
    }
}

/// The order of a list and the leader's mark depend on who leads: let it be the first member in both.
fn lead_by_first(cluster: &Cluster) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let target = Rpc::connect(cluster.client_url(0))
        .status()
        .expect("Status")
        .header
        .expect("a header")
        .member_id;
    while cluster.await_leader(Duration::from_secs(10)) != 0 {
        assert!(
            Instant::now() < deadline,
            "leadership does not move to the first member"
        );
        let leader = cluster.await_leader(Duration::from_secs(10));
        let mut client = Rpc::connect(cluster.client_url(leader)).maintenance;
        // Refused when the leader has just changed: asked again.
        let _ = block_on(within(async move {
            client.move_leader(MoveLeaderRequest { target_id: target }).await
        }));
    }
}

impl Running {
    /// Reads until the end, `lines_max` lines, or the deadline: the output and how it ended.
    fn finish(mut self, lines_max: Option<usize>) -> (String, String) {
        let deadline = Instant::now() + COMMAND_WITHIN;
        let mut lines = Vec::new();
        while lines_max.is_none_or(|max| lines.len() < max) {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => lines.push(line),
                Err(_) => break,
            }
        }
        let enough = lines_max.is_some_and(|max| lines.len() >= max);
        let ended = enough || !await_end(&mut self.child, deadline);
        if ended {
            // SIGKILL: a watch has no other end, and what it printed is already here.
            let _ = self.child.kill();
        }
        let status = self.child.wait().expect("our own child");
        let mut errors = String::new();
        self.child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut errors)
            .expect("text on stderr");
        // Lines of the client's own log tell of retries and times, not of the answer.
        lines.extend(
            errors
                .lines()
                .filter(|line| !line.starts_with("{\"level\":"))
                .map(str::to_owned),
        );
        let code = match (enough, ended) {
            (true, _) => "with more to come".to_owned(),
            (false, true) => format!("not within {COMMAND_WITHIN:?}"),
            (false, false) => format!("{:?}", status.code()),
        };
        (lines.join("\n") + "\n", code)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a panic; a finished one is reaped already, and then this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a process that closed its stdout; false when it does not end in time.
fn await_end(child: &mut Child, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        if child.try_wait().expect("our own child").is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

fn masked_line(command: &str, line: &str) -> String {
    let mut line = line.to_owned();
    for word in MASKED_AFTER {
        // A grant's or a keep-alive's TTL is the granted one: exact.
        let exact = word.to_lowercase().contains("ttl") && !command.contains("timetolive");
        let version = word.to_lowercase().contains("version") && !command.starts_with("endpoint status");
        if !exact && !version {
            line = mask_after(&line, word);
        }
    }
    if command.starts_with("endpoint status") {
        line = mask_columns(&line, &[2, 3, 6, 7, 8]);
    } else if command.starts_with("endpoint hashkv") {
        line = mask_columns(&line, &[1]);
    } else if line.starts_with("| ") || line.starts_with("+-") {
        line = mask_columns(&line, &[]);
    }
    line
}

/// Replaces the number, duration or version behind every `word` by `#`.
fn mask_after(line: &str, word: &str) -> String {
    let mut parts = line.split(word);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let value = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | 'µ' | '-' | '+');
        masked = format!("{masked}{word}#{}", part.trim_start_matches(value));
    }
    masked
}

/// Masks cells of a simple (`, `) or table (`|`) line; the widths of a table's cells follow their content.
fn mask_columns(line: &str, columns: &[usize]) -> String {
    if line.starts_with("+-") {
        return "+-".to_owned();
    }
    let (separator, first) = if line.starts_with("| ") { ("|", 1) } else { (", ", 0) };
    let cells: Vec<&str> = line.split(separator).map(str::trim).collect();
    // Headings and other lines have no number to hide.
    let digits = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit());
    let cell = |(i, cell): (usize, &&str)| {
        let hidden = i >= first && columns.contains(&(i - first)) && digits(cell);
        if hidden { "#".to_owned() } else { (*cell).to_owned() }
    };
    cells.iter().enumerate().map(cell).collect::<Vec<_>>().join(separator)
}

/// Splits at spaces; single quotes hold a word together, and '' is the empty word.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in command.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
