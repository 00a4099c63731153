//! `jepsen check`: what is wrong is shrunk, drawn and said by the exit code.

use crate::generate::{self, Mix, Plan, expectations};
use jepsen::checkers::check_all;
use jepsen::history::{Outcome, Record, Reply};
use jepsen::report::{shrink::shrink, timeline::draw};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A history of 400 operations in which one read tells a wrong value, and that read's process.
fn broken() -> (Vec<Record>, u32) {
    let plan = Plan {
        operations: 400,
        processes: 6,
        mix: Mix::Simple,
        ..Plan::small(3)
    };
    let mut history = vec![Record::Expectations(expectations())];
    history.extend(generate::history(plan));
    let mut reads = history.iter_mut().filter_map(|record| match record {
        Record::Operation(operation) => match &mut operation.outcome {
            Outcome::Ok(Reply::Range(reply)) if !reply.kvs.is_empty() => Some((operation.process, reply)),
            _ => None,
        },
        _ => None,
    });
    let (process, reply) = reads.nth(30).unwrap();
    "<never written>".clone_into(&mut reply.kvs[0].value);
    (history, process)
}

fn operations(history: &[Record]) -> usize {
    history
        .iter()
        .filter(|record| matches!(record, Record::Operation(_)))
        .count()
}

#[test]
fn a_counter_example_is_shrunk_and_drawn() {
    let (history, process) = broken();
    let anomalies = check_all(&history, &expectations());
    let wrong = anomalies.iter().find(|anomaly| anomaly.name == "wrong read").unwrap();
    let shrunk = shrink(&history, wrong, &expectations());
    println!(
        "{} operations shrunk to {}",
        operations(&history),
        operations(&shrunk.history)
    );
    assert_eq!(shrunk.anomaly.name, "wrong read");
    assert_eq!(operations(&shrunk.history), 1);
    let drawing = draw("a <title>", &shrunk.history, &[shrunk.anomaly]);
    assert!(drawing.html.contains("class=\"ok marked\""), "{}", drawing.html);
    assert!(drawing.html.contains(&format!("process {process}<")));
    assert!(drawing.html.contains("&lt;never written&gt;") && !drawing.html.contains("<never"));
    assert!(
        !drawing.html.contains("http"),
        "a page that can be opened from a file needs nothing else"
    );
    let marked: Vec<_> = drawing.text.lines().filter(|line| line.starts_with(">>")).collect();
    assert_eq!(marked.len(), 1, "{}", drawing.text);
    assert!(marked[0].contains("<never written>"));
}

#[test]
fn a_search_that_finds_no_order_is_shrunk_to_what_shows_it() {
    let (history, _) = broken();
    let anomalies = check_all(&history, &expectations());
    let illegal = anomalies
        .iter()
        .find(|anomaly| anomaly.name == "not linearizable")
        .unwrap();
    let shrunk = shrink(&history, illegal, &expectations());
    assert!(operations(&shrunk.history) < operations(&history));
    let again = check_all(&shrunk.history, &expectations());
    assert!(again.iter().any(|anomaly| anomaly.name == "not linearizable"));
}

fn jepsen(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jepsen"))
        .arg("check")
        .args(arguments)
        .output()
        .unwrap()
}

fn save(directory: &Path, name: &str, history: &[Record]) -> PathBuf {
    let path = directory.join(name);
    let lines: Vec<_> = history
        .iter()
        .map(|record| serde_json::to_string(record).unwrap())
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

#[test]
fn check_says_by_its_exit_code_what_it_found() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("check");
    std::fs::create_dir_all(&directory).unwrap();
    let mut right = vec![Record::Expectations(expectations())];
    right.extend(generate::history(Plan::small(5)));
    let output = jepsen(&[&save(&directory, "right.jsonl", &right)]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("40 operations") && text.contains("0 anomalies"), "{text}");

    let page = directory.join("broken.html");
    let file = save(&directory, "broken.jsonl", &broken().0);
    let output = jepsen(&[&file, Path::new("--html"), &page]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("wrong read (revision)"), "{text}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
    assert!(
        std::fs::read_to_string(page.with_extension("txt"))
            .unwrap()
            .contains(">>")
    );

    // What cannot be judged is not right.
    let output = jepsen(&[&save(&directory, "empty.jsonl", &[])]);
    assert_eq!(output.status.code(), Some(2));
    let nonsense = directory.join("nonsense.jsonl");
    std::fs::write(&nonsense, "{\"Operation\":7}\n").unwrap();
    let output = jepsen(&[&nonsense]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("line 1"));
    std::fs::remove_dir_all(&directory).unwrap();
}
