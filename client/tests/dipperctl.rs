//! dipperctl and Debian's etcdctl, side by side on the same etcd: the same arguments in the same state must
//! print the same lines and end with the same code.
//!
//! Known differences of etcdctl 3.4 (masked below, each with its reason): names in the JSON of a
//! transaction's oneof, the columns that 3.6 added to `endpoint status` and `hashkv`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cluster;

use cluster::{Cluster, installed, run};

const DIPPERCTL: &str = env!("CARGO_BIN_EXE_dipperctl");

/// One command of the script: arguments, and what is typed.
struct Step(&'static [&'static str], &'static str);

/// Two fresh etcds of one member see the same script, one from each program.
const SCRIPT: &[Step] = &[
    Step(&["put", "a", "1"], ""),
    Step(&["put", "a", "2", "--prev-kv"], ""),
    Step(&["put", "a", "2", "--prev-kv", "-w", "json"], ""),
    Step(&["put", "b"], "from standard input\n"),
    Step(&["put", "b"], ""),
    Step(&["put", "negative", "--", "-5"], ""),
    Step(&["put", "html", "<&>\"\\", "-w", "json"], ""),
    Step(&["put", "a", "--ignore-value"], ""),
    Step(&["put", "a", "3", "--ignore-lease"], ""),
    Step(&["put", "none", "--ignore-value"], ""),
    Step(&["put", "a", "b", "--lease", "zz"], ""),
    Step(&["put", "a", "b", "--lease", "123"], ""),
    Step(&["put"], ""),
    Step(&["get", "a"], ""),
    Step(&["get", "a", "-w", "json"], ""),
    Step(&["get", "a", "-w", "fields"], ""),
    Step(&["get", "html", "-w", "fields"], ""),
    Step(&["get", "a", "--hex"], ""),
    Step(&["get", "a", "c"], ""),
    Step(&["get", "", "--prefix", "--keys-only"], ""),
    Step(&["get", "", "--prefix", "--limit", "2", "-w", "json"], ""),
    Step(
        &["get", "", "--from-key", "--order", "DESCEND", "--sort-by", "modify"],
        "",
    ),
    Step(&["get", "", "--from-key", "--order", "ascend", "--sort-by", "KEY"], ""),
    Step(&["get", "b", "--from-key"], ""),
    Step(&["get", "a", "--print-value-only"], ""),
    Step(&["get", "a", "--consistency", "s", "--rev", "2"], ""),
    Step(&["get", "missing"], ""),
    Step(&["get", "missing", "-w", "json"], ""),
    Step(&["get", "a", "--consistency", "z"], ""),
    Step(&["get", "a", "--order", "FOO"], ""),
    Step(&["get", "a", "--sort-by", "FOO"], ""),
    Step(&["get", "a", "b", "--prefix"], ""),
    Step(&["get", "a", "--prefix", "--from-key"], ""),
    Step(&["get", "a", "--rev", "1000"], ""),
    Step(&["get", "a", "--write-out", "foo"], ""),
    Step(&["get", "a", "--print-value-only", "-w", "json"], ""),
    Step(&["get"], ""),
    Step(&["get", "--frob"], ""),
    Step(&["frob"], ""),
    Step(
        &["txn"],
        "mod(\"a\") > \"0\"\n\nput a 5 --prev-kv\nget a\ndel b --prev-kv\n\nget k\n\n",
    ),
    Step(
        &["txn"],
        "value(\"a\") = \"5\"\n\nput \"a b\" plain\nget \"a b\"\nput x \"q\\\"x\"\n\n\n",
    ),
    Step(&["txn"], "ver(\"a\") = \"0\"\n\nput a 9\n\nget a\nget k\n\n"),
    Step(
        &["txn", "-w", "json"],
        "create(\"a\") < \"100\"\nc(\"a\") != \"7\"\n\nput a 6 --prev-kv\nget a\ndel x\n\n\n",
    ),
    Step(&["txn", "-w", "json"], "\n\n\n"),
    Step(&["txn", "-i"], "\n\n\n"),
    Step(&["txn"], "\nput a 1\nput a 2\n\n\n"),
    Step(&["txn"], "bogus\n\n\n\n"),
    Step(&["txn"], "mod(\"a\") > \"x\"\n\n"),
    Step(&["txn"], "\nput\n\n"),
    Step(&["txn"], "\nfrob x\n\n"),
    Step(&["txn"], "\nput a 1\n"),
    Step(&["txn", "x"], ""),
    Step(&["del", "a", "--prev-kv"], ""),
    Step(&["del", "missing"], ""),
    Step(&["del", "x", "--prev-kv", "-w", "json"], ""),
    Step(&["del", "missing", "-w", "json"], ""),
    Step(&["del", "n", "--prefix"], ""),
    Step(&["del"], ""),
    Step(&["lease", "list"], ""),
    Step(&["lease", "list", "-w", "json"], ""),
    Step(&["lease", "grant", "100"], ""),
    Step(&["lease", "grant", "100", "-w", "json"], ""),
    Step(&["lease", "grant", "x"], ""),
    Step(&["lease", "grant"], ""),
    Step(&["lease", "list"], ""),
    Step(&["lease", "list", "-w", "json"], ""),
    Step(&["put", "leased", "v", "--lease=LEASE"], ""),
    Step(&["lease", "timetolive", "LEASE"], ""),
    Step(&["lease", "timetolive", "LEASE", "--keys"], ""),
    Step(&["lease", "timetolive", "LEASE", "--keys", "-w", "json"], ""),
    Step(&["lease", "timetolive", "LEASE", "-w", "json"], ""),
    Step(&["lease", "keep-alive", "--once", "LEASE"], ""),
    Step(&["lease", "keep-alive", "--once", "LEASE", "-w", "json"], ""),
    Step(&["lease", "revoke", "LEASE"], ""),
    Step(&["lease", "revoke", "LEASE"], ""),
    Step(&["lease", "revoke", "xx"], ""),
    Step(&["lease", "keep-alive", "--once", "LEASE"], ""),
    Step(&["lease", "keep-alive", "LEASE"], ""),
    Step(&["lease", "keep-alive", "LEASE", "-w", "json"], ""),
    Step(&["lease", "timetolive", "LEASE"], ""),
    Step(&["lease", "timetolive", "LEASE", "-w", "json"], ""),
    Step(&["compaction", "3"], ""),
    Step(&["compaction", "3"], ""),
    Step(&["compaction", "1000"], ""),
    Step(&["compaction", "4", "-w", "json"], ""),
    Step(&["compaction", "5", "--physical"], ""),
    Step(&["compaction", "x"], ""),
    Step(&["compaction"], ""),
    Step(&["get", "a", "--rev", "2"], ""),
    Step(&["watch", "a", "--rev", "1"], ""),
    Step(&["watch", "a", "--rev", "1", "-w", "json"], ""),
    Step(&["watch"], ""),
    Step(&["member", "list"], ""),
    Step(&["member", "list", "-w", "json"], ""),
    Step(&["member", "list", "-w", "table"], ""),
    Step(&["endpoint", "health"], ""),
    Step(&["endpoint", "health", "--cluster"], ""),
    Step(&["endpoint", "health", "-w", "json"], ""),
    Step(&["endpoint", "status", "-w", "json"], ""),
    Step(&["endpoint", "hashkv", "-w", "json"], ""),
    Step(&["move-leader"], ""),
    Step(&["move-leader", "zz"], ""),
    Step(&["move-leader", "123"], ""),
];

/// A program, its etcd, and the lease that its script was given.
struct Side {
    program: &'static str,
    endpoint: String,
    cluster: Cluster,
    lease: String,
}

impl Side {
    async fn start(program: &'static str) -> Option<Self> {
        let cluster = Cluster::start(1).await?;
        let endpoint = cluster.endpoints().remove(0);
        Some(Self {
            program,
            endpoint,
            cluster,
            lease: String::new(),
        })
    }

    /// What the step printed and its exit code, masked.
    fn step(&mut self, Step(args, input): &Step) -> String {
        let args: Vec<_> = args.iter().map(|arg| arg.replace("LEASE", &self.lease)).collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = run(self.program, &self.endpoint, &args, input);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if let (["lease", "grant", "100"], Some(id)) = (args.as_slice(), stdout.split_whitespace().nth(1)) {
            id.clone_into(&mut self.lease);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        // 3.4 says on standard error what later versions say on standard output.
        let healthy = stderr
            .lines()
            .filter(|line| line.contains(" is healthy: "))
            .map(|line| format!("{line}\n"));
        let errors = stderr
            .lines()
            .filter(|line| line.starts_with("Error: ") && !line.contains("unknown"));
        let errors = errors.fold(String::new(), |errors, line| errors + line + "\n");
        // 3.4 prints its usage when a flag is unknown; only the code is compared then.
        let stdout = if stdout.starts_with("NAME:") {
            String::new()
        } else {
            stdout
        };
        let text = format!("{stdout}{}{errors}", healthy.collect::<String>());
        format!("{}exit {}\n", self.mask(&text), output.status.code().unwrap_or(-1))
    }

    fn mask(&self, text: &str) -> String {
        let mut text = text.replace(&format!("{:?}", self.endpoint), "\"ENDPOINT\"");
        if !self.lease.is_empty() {
            let decimal = i64::from_str_radix(&self.lease, 16).unwrap().to_string();
            text = text.replace(&self.lease, "LEASE").replace(&decimal, "LEASE");
        }
        for (old, new) in [
            ("ResponseRange", "response_range"),
            ("ResponsePut", "response_put"),
            ("ResponseDeleteRange", "response_delete_range"),
        ] {
            text = text.replace(old, new);
        }
        text.split_inclusive('\n').map(mask_line).collect()
    }
}

/// Replaces what no two clusters have in common: ids, ports, times and sizes.
fn mask_line(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(|char: char| char.is_ascii_alphanumeric()) {
        let (before, word) = rest.split_at(at);
        let end = word
            .find(|char: char| !char.is_ascii_alphanumeric() && !matches!(char, '.' | 'µ'))
            .unwrap_or(word.len());
        let (word, tail) = word.split_at(end);
        out.push_str(before);
        out.push_str(if is_masked(word, before) { "X" } else { word });
        rest = tail;
    }
    out.push_str(rest);
    out
}

fn is_masked(word: &str, before: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let long_id = word.len() >= 13 && digits >= 3 && word.chars().all(|char| char.is_ascii_hexdigit());
    let port = before.ends_with(':') && word.len() >= 4 && digits == word.len();
    let time = digits > 0 && word.ends_with("ms");
    long_id || port || time || (digits > 0 && word.ends_with("µs"))
}

/// Numbers that depend on the moment: seconds left, sizes, indexes, and hashes of different ids.
fn blur(args: &[&str], text: &str) -> String {
    let blurred: &[&str] = match args {
        ["lease", "timetolive", ..] => &["remaining(", "\"ttl\":"],
        ["endpoint", ..] => &[
            "\"dbSize\":",
            "\"dbSizeInUse\":",
            "\"raftIndex\":",
            "\"raftAppliedIndex\":",
            "\"hash\":",
        ],
        _ => &[],
    };
    let mut text = text.to_owned();
    for name in blurred {
        if let Some(at) = text.find(name) {
            let start = at + name.len();
            let end = text[start..]
                .find(|char: char| !char.is_ascii_digit())
                .map_or(text.len(), |end| start + end);
            text.replace_range(start..end, "N");
        }
    }
    // Tables are as wide as their ports.
    text.replace('-', "").replace("  ", " ")
}

#[tokio::test]
async fn prints_what_etcdctl_prints() {
    if !installed("etcdctl") {
        return;
    }
    let (Some(mut theirs), Some(mut ours)) = (Side::start("etcdctl").await, Side::start(DIPPERCTL).await) else {
        return;
    };
    let mut different = Vec::new();
    for step in SCRIPT {
        let (expected, found) = (blur(step.0, &theirs.step(step)), blur(step.0, &ours.step(step)));
        if expected != found {
            different.push(format!("{:?}\n--- etcdctl\n{expected}--- dipperctl\n{found}", step.0));
        }
    }
    drop((theirs.cluster, ours.cluster));
    assert!(
        different.is_empty(),
        "{} of {} steps differ:\n{}",
        different.len(),
        SCRIPT.len(),
        different.join("\n")
    );
}

/// etcd's background commits move these between two calls.
fn without_moving_sizes(json: &str) -> String {
    ["dbSize", "dbSizeInUse", "raftIndex", "raftAppliedIndex"]
        .iter()
        .fold(json.to_owned(), |json, name| {
            let name = format!("\"{name}\":");
            match json.split_once(&name) {
                Some((before, after)) => {
                    format!(
                        "{before}{name}X{}",
                        after.trim_start_matches(|char: char| char.is_ascii_digit())
                    )
                }
                None => json,
            }
        })
}

#[tokio::test]
async fn both_read_the_same_state_alike() {
    if !installed("etcdctl") {
        return;
    }
    let Some(cluster) = Cluster::start(1).await else { return };
    let endpoint = cluster.endpoints().remove(0);
    for value in ["1", "2", "three"] {
        assert!(run(DIPPERCTL, &endpoint, &["put", "key", value], "").status.success());
    }
    assert!(run(DIPPERCTL, &endpoint, &["del", "key"], "").status.success());
    // Ids, hashes and revisions are the same here; etcd's sizes and indexes move by themselves.
    for args in [
        &["get", "key", "--rev", "4", "-w", "json"][..],
        &["member", "list"],
        &["member", "list", "-w", "json"],
        &["member", "list", "-w", "table"],
        &["endpoint", "status", "-w", "json"],
        &["endpoint", "hashkv", "-w", "json"],
    ] {
        let theirs = run("etcdctl", &endpoint, args, "").stdout;
        let ours = run(DIPPERCTL, &endpoint, args, "").stdout;
        let still = |output: &[u8]| without_moving_sizes(&String::from_utf8_lossy(output));
        assert_eq!(still(&theirs), still(&ours), "{args:?}");
    }
    // 3.4 has fewer columns: those that it has must be there.
    let theirs = run("etcdctl", &endpoint, &["endpoint", "status"], "").stdout;
    let ours = run(DIPPERCTL, &endpoint, &["endpoint", "status"], "").stdout;
    let (theirs, ours) = (String::from_utf8(theirs).unwrap(), String::from_utf8(ours).unwrap());
    let ours: Vec<_> = ours.trim_end_matches('\n').split(", ").collect();
    for column in theirs.trim_end_matches('\n').split(", ") {
        let moves = column.ends_with("kB") || column.parse::<u64>().is_ok();
        assert!(moves || ours.contains(&column), "{column:?} in {ours:?}");
    }
}

/// Watches do not end by themselves: `head` would hide the code, so each is ended by its pid.
#[tokio::test]
async fn watches_print_alike() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    if !installed("etcdctl") {
        return;
    }
    let Some(cluster) = Cluster::start(1).await else { return };
    let endpoint = cluster.endpoints().remove(0);
    for value in ["1", "2"] {
        assert!(run(DIPPERCTL, &endpoint, &["put", "key", value], "").status.success());
    }
    assert!(run(DIPPERCTL, &endpoint, &["del", "key"], "").status.success());
    let script = "env | grep ^ETCD_WATCH | sort";
    for (args, lines) in [
        (&["watch", "key", "--rev", "2"][..], 9),
        (&["watch", "key", "--rev", "2", "-w", "json"], 1),
        (&["watch", "k", "--prefix", "--rev", "2", "--prev-kv"], 13),
        (&["watch", "key", "--rev", "2", "--prev-kv", "-w", "json"], 1),
        (&["watch", "key", "--rev", "2", "--", "sh", "-c", script], 21),
    ] {
        let printed: Vec<Vec<String>> = ["etcdctl", DIPPERCTL]
            .iter()
            .map(|program| {
                let mut child = Command::new(program)
                    .env("ETCDCTL_API", "3")
                    .env("ETCDCTL_ENDPOINTS", &endpoint)
                    .args(args)
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let stdout = BufReader::new(child.stdout.take().unwrap());
                let printed = stdout.lines().take(lines).map(Result::unwrap).collect();
                child.kill().unwrap();
                child.wait().unwrap();
                printed
            })
            .collect();
        assert_eq!(printed[0], printed[1], "{args:?}");
    }
}

#[tokio::test]
async fn bench_counts_and_reports() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let endpoint = cluster.endpoints().remove(0);
    let pid = std::process::id().to_string();
    let args = [
        "bench",
        "put",
        "--total",
        "500",
        "--clients",
        "8",
        "--key-space-size",
        "100",
        "--sequential-keys",
    ];
    let put = run(
        DIPPERCTL,
        &endpoint,
        &[&args[..], &["-w", "json", "--server-pids", &pid]].concat(),
        "",
    );
    let put: serde_json::Value = serde_json::from_slice(&put.stdout).unwrap();
    assert_eq!(put["operations"], 500);
    assert!(put["p99_us"].as_u64().unwrap() >= put["p50_us"].as_u64().unwrap());
    assert!(put["server_cpu_us_per_op"].is_number());
    let count = run(
        DIPPERCTL,
        &endpoint,
        &["get", "", "--prefix", "-w", "json", "--limit", "1"],
        "",
    );
    let count: serde_json::Value = serde_json::from_slice(&count.stdout).unwrap();
    assert_eq!(count["count"], 100);
    let range = run(
        DIPPERCTL,
        &endpoint,
        &["bench", "range", "--seconds", "1", "--rate", "200", "--threads", "2"],
        "",
    );
    let text = String::from_utf8(range.stdout).unwrap();
    assert!(text.contains("op/s") && text.contains("errors        0"), "{text}");
}

#[tokio::test]
async fn leadership_moves_when_the_leader_is_among_the_endpoints() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let endpoints = cluster.endpoints();
    let list = run(DIPPERCTL, &endpoints[0], &["member", "list", "-w", "json"], "").stdout;
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    let id = |at: usize| {
        let name = format!("m{at}");
        let member = list["members"]
            .as_array()
            .unwrap()
            .iter()
            .find(|member| member["name"] == name.as_str());
        format!("{:x}", member.unwrap()["ID"].as_u64().unwrap())
    };
    let refused = run(DIPPERCTL, &endpoints[other], &["move-leader", &id(other)], "");
    assert_eq!(refused.status.code(), Some(128));
    let moved = run(DIPPERCTL, &endpoints.join(","), &["move-leader", &id(other)], "");
    let expected = format!("Leadership transferred from {} to {}\n", id(leader), id(other));
    assert_eq!(String::from_utf8_lossy(&moved.stdout), expected);
    assert_eq!(cluster.leader().await, other);
    let healthy = run(DIPPERCTL, &endpoints[0], &["endpoint", "health", "--cluster"], "");
    assert_eq!(
        String::from_utf8_lossy(&healthy.stdout)
            .matches(" is healthy: ")
            .count(),
        3
    );
}

#[test]
fn an_endpoint_that_is_not_there_ends_with_the_deadline() {
    let output = run(
        DIPPERCTL,
        "127.0.0.1:1",
        &["get", "a", "--command-timeout", "200ms"],
        "",
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "Error: context deadline exceeded\n"
    );
    let output = run(
        DIPPERCTL,
        "127.0.0.1:1",
        &["endpoint", "health", "--command-timeout", "200ms"],
        "",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1 is unhealthy"));
}
