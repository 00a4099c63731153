//! A report says what its results say, and no more: anomalies appear, what is missing is `not run`, a limit that
//! was broken is missed.

// A test that meets what it does not expect ends right there.
#![allow(clippy::unwrap_used)]

use jepsen::{
    report::{
        entry::{Written, render},
        targets::{self, Verdict},
    },
    results::{Began, Book, Broken, Failover, Failure, Line, Mutant, Part, Real, Scenario, Seeds, Steady},
    scenarios::ALL,
    tally::Tally,
    world::sim::{Counts, mutant::SEEDED},
};
use std::{collections::BTreeMap, path::Path, process::Command};

/// A run in which every target is met.
fn good() -> Vec<Line> {
    let mut lines = vec![Line::Began(Began {
        date: "2026-11-22T21:40Z".to_owned(),
        version: "0.1.0".to_owned(),
        commit: "b4ccc5d".to_owned(),
        cores: 2,
        memory_mib: 24_000,
        parts: Part::ALL.to_vec(),
    })];
    lines.extend([seeds(false, 15_000), seeds(true, 300)].map(Line::Seeds));
    lines.extend(ALL.iter().map(|scenario| {
        Line::Scenario(Scenario {
            name: scenario.name.to_owned(),
            shows: "Sound".to_owned(),
            seeds: 20,
            well: true,
            what: "1000 operations".to_owned(),
            elapsed_s: 1.0,
        })
    }));
    lines.extend((0..40).map(|number| Line::Real(Box::new(real(number)))));
    lines.push(Line::Real(Box::new(Real {
        name: "unguarded-lock".to_owned(),
        must_fail: true,
        anomalies: 3,
        ..real(99)
    })));
    for (case, limit_ms) in CASES {
        lines.extend((1..=20).map(|number| Line::Failover(round(case, number, limit_ms))));
    }
    lines.push(Line::Steady(Steady {
        seconds: 600,
        term: 1,
        acknowledged: 5_000_000,
        refused: 0,
    }));
    let hunted = SEEDED.iter().filter(|seeded| seeded.mutant.is_some());
    lines.extend(hunted.map(|seeded| {
        Line::Mutant(Mutant {
            seeds: vec![Some(3), None, Some(5)],
            seeds_max: 200,
            first_seed: Some(2),
            found_as: "an invariant".to_owned(),
            ..Mutant::of(seeded)
        })
    }));
    lines
}

const CASES: [(&str, f64); 6] = [
    ("Kill", 1000.0),
    ("Blackhole", 1000.0),
    ("DeafLeader", 1000.0),
    ("Pause", 1000.0),
    ("SlowDisk", 1000.0),
    ("Stop", 100.0),
];

fn seeds(searched: bool, until: u64) -> Seeds {
    Seeds {
        searched,
        from: 0,
        until,
        seconds: if searched { 20.0 } else { 60.0 },
        counts: Counts {
            operations: 51_000_000,
            unknown: 1_000,
            ..Counts::default()
        },
        simulated_s: 900_000.0,
        cpu_s: 2_600.0,
        elapsed_s: 1_300.0,
        faults: BTreeMap::from([("PowerLoss".to_owned(), 1234)]),
        met: BTreeMap::from([("Bank".to_owned(), BTreeMap::from([("PowerLoss".to_owned(), 7_654)]))]),
        failures: Vec::new(),
    }
}

fn real(number: u64) -> Real {
    let total = Tally {
        operations: 30_000,
        writes: 20_000,
        reads: 9_000,
        refused: 900,
        unknown: 100,
    };
    Real {
        name: format!("kill-{number}"),
        workloads: vec!["Bank".to_owned()],
        fault: "Kill(Leader)".to_owned(),
        members: 3,
        seconds: 16,
        seed: 1,
        faults: 5,
        total,
        by_workload: BTreeMap::from([("Bank".to_owned(), total)]),
        ..Real::default()
    }
}

fn round(case: &str, round: u64, limit_ms: f64) -> Failover {
    Failover {
        case: case.to_owned(),
        round,
        rounds: 20,
        cluster_ms: limit_ms * 0.4 + round as f64,
        client_ms: limit_ms * 0.5 + round as f64,
        not_acknowledged: 0,
        limit_ms,
        limits_writes: case == "Stop",
    }
}

fn missed(lines: &[Line]) -> Vec<String> {
    let targets = targets::of(lines).into_iter();
    let missed = targets.filter(|target| target.verdict != Verdict::Met);
    missed
        .map(|target| format!("{}: {}", target.what, target.verdict.name()))
        .collect()
}

/// The good run with one line changed.
fn changed(change: impl Fn(&mut Line)) -> Vec<Line> {
    let mut lines = good();
    lines.iter_mut().for_each(change);
    lines
}

#[test]
fn a_good_run_meets_every_target_and_says_so() {
    let lines = good();
    assert_eq!(missed(&lines), [""; 0]);
    let Written { html, markdown, svg } = render(&lines);
    for text in [&html, &markdown] {
        assert!(text.contains("targets are met."), "{text}");
        assert!(text.contains("0 anomalies were found."), "{text}");
        assert!(
            text.contains("0 of 800,000 acknowledged writes lost, 0 of 360,000 reads stale."),
            "{text}"
        );
        assert!(text.contains("b4ccc5d") && text.contains("2 cores, 23 GiB"), "{text}");
        // Cluster-hours per CPU-hour, of both kinds of seeds.
        assert!(text.contains("346 cluster-hours"), "{text}");
        assert!(!text.contains("not run") && !text.contains("missed"), "{text}");
    }
    assert!(html.len() < 200_000 && svg.is_some());
}

#[test]
fn an_anomaly_is_seen_in_the_report() {
    let lines = changed(|line| match line {
        Line::Seeds(seeds) if !seeds.searched => seeds.failures.push(Failure {
            seed: 4711,
            seconds: 60.0,
            why: "1 anomalies, the first: lost write (revision): put a=1 <b>|".to_owned(),
            replay: "jepsen sim --seed 4711 --minutes 1".to_owned(),
            faults: vec!["PowerLoss".to_owned()],
            kept: Some("counter-examples/sim-seed-4711.html".to_owned()),
        }),
        Line::Real(real) if real.name == "kill-7" => {
            real.anomalies = 2;
            real.first = vec!["stale read (revision): r".to_owned()];
        }
        _ => {}
    });
    assert_eq!(
        missed(&lines),
        ["simulated anomalies: missed", "real anomalies: missed"]
    );
    let Written { html, markdown, .. } = render(&lines);
    for text in [&html, &markdown] {
        assert!(text.contains("3 anomalies were found."), "{text}");
        assert!(text.contains("jepsen sim --seed 4711 --minutes 1"), "{text}");
        assert!(text.contains("counter-examples/sim-seed-4711.html"), "{text}");
        assert!(
            text.contains("stale read (revision): r") && text.contains("process, kill-7"),
            "{text}"
        );
        assert!(!text.contains("acknowledged writes lost"), "{text}");
    }
    // Neither form is broken by what a failure says.
    assert!(html.contains("put a=1 &lt;b&gt;|") && markdown.contains("put a=1 \\<b>\\|"));
}

#[test]
fn a_part_that_is_missing_was_not_run() {
    for part in Part::ALL {
        let mut lines = good();
        lines.retain(|line| line.part() != Some(part));
        let missed = missed(&lines);
        assert!(
            !missed.is_empty() && missed.iter().all(|missed| missed.ends_with("not run")),
            "{missed:?}"
        );
        let Written { html, markdown, svg } = render(&lines);
        assert!(!markdown.contains("targets are met.") && !html.contains("targets are met."));
        assert!(markdown.to_lowercase().contains("not run"), "{part:?}");
        assert_eq!(svg.is_none(), part == Part::Failover);
    }
    let of_nothing = render(&[]);
    assert!(
        of_nothing
            .markdown
            .contains("Not run, so nothing is known of: simulated seeds")
    );
    assert!(!of_nothing.markdown.contains("| met |"));
}

#[test]
fn a_gap_above_the_limit_is_missed() {
    let slow = |case: &'static str| {
        changed(move |line| match line {
            Line::Failover(round) if round.case == case && round.round == 13 => round.client_ms = 1234.0,
            _ => {}
        })
    };
    let lines = slow("Kill");
    assert_eq!(missed(&lines), ["write gap at a failover: kill: missed"]);
    let Written { html, markdown, svg } = render(&lines);
    assert!(
        markdown.contains("**19 of 20**") && markdown.contains("**1234**"),
        "{markdown}"
    );
    assert!(html.contains("<td class=\"bad\">missed</td>"));
    assert_eq!(svg.unwrap().matches("class=\"over\"").count(), 1);
    assert_eq!(
        missed(&slow("SlowDisk")),
        ["write gap at a failover: slow disk: missed"]
    );
    let refused = changed(|line| match line {
        Line::Failover(round) if round.round == 2 => round.not_acknowledged = 1,
        _ => {}
    });
    assert_eq!(missed(&refused), ["write gap at a failover: stop: missed"]);
    let few = {
        let mut lines = good();
        lines.retain(|line| !matches!(line, Line::Failover(round) if round.case == "Pause" && round.round > 3));
        lines
    };
    assert_eq!(missed(&few), ["write gap at a failover: pause: missed"]);
}

#[test]
fn whatever_has_no_result_is_missed() {
    let broken = |part: Part, name: &str| {
        let mut lines = good();
        lines.push(Line::Broken(Broken {
            part,
            name: name.to_owned(),
            why: "an election without a fault".to_owned(),
        }));
        lines
    };
    assert_eq!(
        missed(&broken(Part::Failover, "Stop")),
        ["write gap at a failover: stop: missed"]
    );
    assert_eq!(
        missed(&broken(Part::Steady, "steady")),
        ["elections under full load without a fault: missed"]
    );
    assert_eq!(
        missed(&broken(Part::Mutants, "mutants")),
        ["seeded bugs that are seen: missed"]
    );
    let without_verdict = changed(|line| match line {
        Line::Real(real) if real.name == "kill-3" => real.skipped = Some("nft is not installed".to_owned()),
        _ => {}
    });
    assert_eq!(
        missed(&without_verdict),
        ["scenarios with real processes that came to a verdict: missed"]
    );
    let text = render(&without_verdict).markdown;
    assert!(
        text.contains("nft is not installed") && text.contains("1 runs came to no verdict"),
        "{text}"
    );
    let blind = changed(|line| match line {
        Line::Real(real) if real.must_fail => real.anomalies = 0,
        _ => {}
    });
    assert_eq!(
        missed(&blind),
        ["the unguarded lock is seen to lose what it guards: missed"]
    );
    let unseen = changed(|line| match line {
        Line::Mutant(mutant) if mutant.number == "m4" => mutant.seeds = vec![None, Some(1), None],
        _ => {}
    });
    assert_eq!(missed(&unseen), ["seeded bugs that are seen: missed"]);
    assert!(render(&unseen).markdown.contains("**not seen within 200 seeds**"));
}

#[test]
fn calm_operations_are_no_operations_under_faults() {
    let calm = changed(|line| match line {
        Line::Real(real) if real.name.as_str() > "kill-2" => real.faults = 0,
        _ => {}
    });
    assert_eq!(missed(&calm), ["real operations in scenarios with faults: missed"]);
}

/// Every tag that is opened is closed, in order; attributes are quoted.
fn assert_well_formed(text: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("`<{tag}` has no end"));
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "`</{name}>` closes something else");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?} are never closed");
}

/// Position, class and text of every label.
fn labels(svg: &str) -> Vec<(f64, f64, f64, String)> {
    let number = |tag: &str, name: &str| -> f64 {
        let value = tag.split(&format!(" {name}=\"")).nth(1).unwrap();
        value.split('"').next().unwrap().parse().unwrap()
    };
    let texts = svg
        .split("<text")
        .skip(1)
        .map(|text| text.split("</text>").next().unwrap());
    let labels = texts.map(|text| {
        let (tag, content) = text.split_once('>').unwrap();
        // About seven units a letter at 12 px.
        let width = content.chars().count() as f64 * 7.0;
        let class = tag.split("class=\"").nth(1).unwrap().split('"').next().unwrap();
        let x = number(tag, "x");
        let from = match class.split(' ').find(|class| ["n", "m"].contains(class)) {
            Some("n") => x - width,
            Some(_) => x - width / 2.0,
            None => x,
        };
        (from, from + width, number(tag, "y"), content.to_owned())
    });
    labels.collect()
}

#[test]
fn the_plot_is_well_formed_and_its_labels_do_not_touch() {
    for longest in [400.0, 1234.0, 2600.0, 9_000.0] {
        let lines = changed(|line| match line {
            Line::Failover(round) if round.case == "SlowDisk" => round.client_ms = longest,
            _ => {}
        });
        let svg = render(&lines).svg.unwrap();
        assert_well_formed(&svg);
        assert_eq!(svg.matches("<circle").count(), 6 * 20 * 2);
        assert!(
            !svg.contains("http://") || svg.matches("http://").count() == 1,
            "only the name of SVG itself"
        );
        let labels = labels(&svg);
        assert!(
            labels.iter().any(|(_, _, _, text)| text == "1000") && labels.iter().any(|(_, _, _, text)| text == "100")
        );
        for (place, (from, to, y, text)) in labels.iter().enumerate() {
            assert!(*from >= 0.0 && *to <= 900.0, "{text} is cut off");
            for (other_from, other_to, other_y, other) in &labels[place + 1..] {
                let apart = (y - other_y).abs() >= 12.0 || to <= other_from || other_to <= from;
                assert!(apart, "`{text}` and `{other}` overlap at {longest} ms");
            }
        }
    }
}

#[test]
fn the_binary_writes_what_is_kept_in_the_repository() {
    let directory = tempfile::tempdir().unwrap();
    let jepsen = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_jepsen"))
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let report = ["report", "--from", &path("results"), "--to", &path("report")];
    let (code, said) = jepsen(&report);
    assert!(code == Some(2) && said.contains("results.jsonl"), "{said}");
    // Too few of everything: it ends with a failure, its results stay, and a second run would mix with them.
    let full = [
        "full",
        "--dir",
        &path("results"),
        "--part",
        "sim",
        "--seeds",
        "2",
        "--operations",
        "1",
    ];
    let full = [&full[..], &["--searched-seeds", "1", "--scenario-seeds", "1"]].concat();
    assert_eq!(jepsen(&full).0, Some(1));
    let (code, said) = jepsen(&full);
    assert!(code == Some(2) && said.contains("--resume"), "{said}");
    assert_eq!(jepsen(&report).0, Some(0));
    // Counter-examples come along.
    let mut book = Book::open(Path::new(&path("results"))).unwrap();
    let drawn = Some("counter-examples/x.html".to_owned());
    book.append(Line::Real(Box::new(Real {
        anomalies: 1,
        kept: drawn,
        ..real(1)
    })))
    .unwrap();
    assert_eq!(jepsen(&report).0, Some(2), "the drawing is missing");
    std::fs::create_dir(Path::new(&path("results")).join("counter-examples")).unwrap();
    std::fs::write(path("results/counter-examples/x.html"), "drawn").unwrap();
    assert_eq!(jepsen(&report).0, Some(0));
    assert_eq!(std::fs::read(path("report/counter-examples/x.html")).unwrap(), b"drawn");
    let markdown = std::fs::read_to_string(Path::new(&path("report")).join("report.md")).unwrap();
    assert!(
        markdown.contains("**missed**") && markdown.contains("| not run |"),
        "{markdown}"
    );
    assert!(
        markdown.contains("[counter-examples/x.html](counter-examples/x.html)"),
        "{markdown}"
    );
    assert!(markdown.contains("Full load without a fault: not run."), "{markdown}");
    assert!(!Path::new(&path("report")).join("failover.svg").exists());
}
