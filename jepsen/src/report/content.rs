//! What a report says, as blocks that a page and a table in Markdown render alike.
//!
//! Every number is from the results; what is not in them is said to be `not run`. Not here: whether a target is
//! met (`targets`), how a block looks (`page`, `markdown`), the tables of the two worlds (`worlds`).

use super::{
    plot::at,
    targets::{self, Results, Target, Verdict, cases, grouped, spaced},
    worlds,
};
use crate::{
    results::{Began, Failover, Line, Part},
    world::sim::mutant::SEEDED,
};

const CATALOGUE: &str = include_str!("../../CATALOGUE.md");

/// A part of a report.
pub enum Block {
    Heading(String),
    Text(String),
    Table(Table),
    /// The plot of failovers.
    Plot,
    /// Lines for a terminal.
    Commands(Vec<String>),
}

/// Columns that begin with `#` hold numbers; their sign is not shown.
#[derive(Default)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    /// Nothing is wrong, but nothing was shown either.
    Muted,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    pub tone: Tone,
    /// A file beside the results.
    pub link: Option<String>,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
            link: None,
        }
    }

    /// A count of what should not be: plain at zero.
    pub fn bad(count: u64) -> Self {
        Self::toned(grouped(count), if count == 0 { Tone::Plain } else { Tone::Bad })
    }

    pub fn muted(text: &str) -> Self {
        Self::toned(text, Tone::Muted)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self {
            head: head.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        }
    }
}

/// What a reader sees first.
pub struct Report {
    pub title: String,
    pub blocks: Vec<Block>,
}

/// The whole report.
pub fn of(lines: &[Line]) -> Report {
    let results = Results::of(lines);
    let began: Vec<&Began> = lines.iter().filter_map(began).collect();
    let date = began.last().map_or("of an unknown date", |began| began.date.as_str());
    let day = date.split('T').next().unwrap_or_default();
    let targets = targets::of(lines);
    let mut blocks = head(&began);
    blocks.extend(verdicts(&targets));
    blocks.extend(anomalies(&results));
    blocks.extend(failovers(&results));
    blocks.extend(worlds::real(&results));
    blocks.extend(worlds::simulated(&results));
    blocks.extend(mutants(&results));
    blocks.extend(pending());
    blocks.extend(again());
    Report {
        title: format!("The judge's report on Dipper, {day}"),
        blocks,
    }
}

fn began(line: &Line) -> Option<&Began> {
    match line {
        Line::Began(began) => Some(began),
        _ => None,
    }
}

fn head(began: &[&Began]) -> Vec<Block> {
    let mut table = Table::new(&["begun (UTC)", "version", "commit", "machine", "parts"]);
    for began in began {
        let gib = began.memory_mib as f64 / 1024.0;
        let parts: Vec<&str> = began.parts.iter().map(|part| part.name()).collect();
        table.rows.push(vec![
            began.date.as_str().into(),
            began.version.as_str().into(),
            began.commit.as_str().into(),
            format!("{} cores, {gib:.0} GiB of memory", began.cores).into(),
            parts.join(", ").into(),
        ]);
    }
    let mut blocks = vec![Block::Table(table)];
    let mut commits: Vec<&str> = began.iter().map(|began| began.commit.as_str()).collect();
    commits.dedup();
    if commits.len() > 1 {
        let text = "The parts are of different commits: this is no report on any one of them.";
        blocks.push(Block::Text(text.to_owned()));
    }
    blocks
}

fn verdicts(targets: &[Target]) -> Vec<Block> {
    let count = |verdict: Verdict| targets.iter().filter(|target| target.verdict == verdict).count();
    let all = targets.len();
    let text = match (count(Verdict::Missed), count(Verdict::NotRun)) {
        (0, 0) => format!("All {all} targets are met."),
        (missed, not_run) => format!(
            "Of {all} targets {} are met, {missed} are missed, and {not_run} are not run.",
            count(Verdict::Met)
        ),
    };
    let mut table = Table::new(&["target", "wanted", "measured", "verdict"]);
    for target in targets {
        table.rows.push(vec![
            target.what.as_str().into(),
            target.wanted.as_str().into(),
            target.measured.as_str().into(),
            Cell::toned(target.verdict.name(), tone(target.verdict)),
        ]);
    }
    vec![
        Block::Heading("Targets".to_owned()),
        Block::Text(text),
        Block::Table(table),
    ]
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Met => Tone::Good,
        Verdict::Missed => Tone::Bad,
        Verdict::NotRun => Tone::Muted,
    }
}

fn anomalies(results: &Results) -> Vec<Block> {
    let mut table = Table::new(&["where", "what", "again with", "counter-example"]);
    for seeds in results.long.iter().chain(&results.searched) {
        for failure in &seeds.failures {
            let where_ = format!("sim, seed {}", failure.seed);
            table
                .rows
                .push(anomaly(&where_, &failure.why, &failure.replay, failure.kept.as_ref()));
        }
    }
    for scenario in results.scenarios.iter().filter(|scenario| !scenario.well) {
        let replay = format!("jepsen scenarios --only {}", scenario.name);
        let where_ = format!("sim, scenario {}", scenario.name);
        table.rows.push(anomaly(&where_, &scenario.what, &replay, None));
    }
    for real in &results.real {
        let replay = format!("jepsen process run --only {} --seed {}", real.name, real.seed);
        let where_ = format!("process, {}", real.name);
        if let Some(why) = real.error.as_ref().or(real.skipped.as_ref()) {
            let what = if real.error.is_some() { "no verdict" } else { "skipped" };
            table
                .rows
                .push(anomaly(&where_, &format!("{what}: {why}"), &replay, None));
        }
        if real.anomalies > 0 && !real.must_fail {
            let what = format!("{} anomalies; {}", real.anomalies, real.first.join("; "));
            table.rows.push(anomaly(&where_, &what, &replay, real.kept.as_ref()));
        }
    }
    for (part, name, why) in &results.broken {
        let where_ = format!("{}, {name}", part.name());
        table.rows.push(anomaly(
            &where_,
            why,
            &format!("jepsen full --part {}", part.name()),
            None,
        ));
    }
    let missing: Vec<&str> = [
        (results.long.is_empty(), "simulated seeds"),
        (results.searched.is_empty(), "searched seeds"),
        (results.scenarios.is_empty(), "simulated scenarios"),
        (results.real.is_empty(), "real processes"),
    ]
    .iter()
    .filter(|(is_missing, _)| *is_missing)
    .map(|(_, what)| *what)
    .collect();
    let mut text = format!("{} anomalies were found.", results.anomalies());
    if results.without_verdict() > 0 {
        text = format!("{text} {} runs came to no verdict.", results.without_verdict());
    }
    if !missing.is_empty() {
        text = format!("{text} Not run, so nothing is known of: {}.", missing.join(", "));
    }
    let mut blocks = vec![Block::Heading("Anomalies".to_owned()), Block::Text(text)];
    if !table.rows.is_empty() {
        blocks.push(Block::Table(table));
    }
    blocks
}

fn anomaly(where_: &str, what: &str, replay: &str, kept: Option<&String>) -> Vec<Cell> {
    const WHAT_MAX: usize = 400;
    let what: String = what.chars().take(WHAT_MAX).collect();
    let drawn = kept.map_or_else(
        || Cell::muted("none"),
        |path| Cell {
            link: Some(path.clone()),
            ..Cell::from(path.as_str())
        },
    );
    vec![where_.into(), Cell::toned(what, Tone::Bad), replay.into(), drawn]
}

fn failovers(results: &Results) -> Vec<Block> {
    let mut table = Table::new(&[
        "failover",
        "#rounds",
        "#cluster p50",
        "#p90",
        "#max",
        "#worst client p50",
        "#p90",
        "#max",
        "#not acknowledged",
        "#limit",
        "kept in",
    ]);
    for case in cases() {
        let rounds = results.rounds(&case);
        table.rows.push(failover(results, &case, &rounds));
    }
    let mut blocks = vec![
        Block::Heading("Failovers".to_owned()),
        Block::Text(
            "Time in ms without an acknowledged write around a fault of the leader, three members as processes: of the \
             cluster (nobody was served) and of the one client that waited longest. A leader whose disk hangs answers \
             those that had asked it when the disk does, so its limit is for the cluster."
                .to_owned(),
        ),
    ];
    if !results.failovers.is_empty() {
        blocks.push(Block::Plot);
    }
    blocks.push(Block::Table(table));
    blocks.push(Block::Text(steady(results)));
    blocks
}

fn failover(results: &Results, case: &str, rounds: &[&Failover]) -> Vec<Cell> {
    let mut cells = vec![Cell::from(spaced(case))];
    let Some(first) = rounds.first() else {
        cells.extend(vec![Cell::default(); 9]);
        cells.push(match results.why_broken(Part::Failover, case) {
            Some(_) => Cell::toned("no result", Tone::Bad),
            None => Cell::muted("not run"),
        });
        return cells;
    };
    cells.push(rounds.len().to_string().into());
    let times = |of: fn(&Failover) -> f64| rounds.iter().map(|round| of(round)).collect::<Vec<f64>>();
    for (times, limit) in [
        (times(|round| round.cluster_ms), first.limit_ms),
        (times(|round| round.client_ms), first.limit_ms),
    ] {
        for share in [0.5, 0.9, 1.0] {
            let ms = at(&times, share);
            let tone = if ms > limit { Tone::Bad } else { Tone::Plain };
            cells.push(Cell::toned(format!("{ms:.0}"), tone));
        }
    }
    let refused: u64 = rounds.iter().map(|round| round.not_acknowledged).sum();
    let is_bad = first.limits_writes && refused > 0;
    cells.push(Cell::toned(
        grouped(refused),
        if is_bad { Tone::Bad } else { Tone::Plain },
    ));
    cells.push(format!("{:.0}", first.limit_ms).into());
    let kept = rounds.iter().filter(|round| round.is_kept()).count();
    let tone = if kept == rounds.len() { Tone::Good } else { Tone::Bad };
    cells.push(Cell::toned(format!("{kept} of {}", rounds.len()), tone));
    cells
}

fn steady(results: &Results) -> String {
    let broken = results.why_broken(Part::Steady, "steady");
    match (results.steady, broken) {
        (_, Some(why)) => format!("Full load without a fault: {why}."),
        (Some(steady), None) => format!(
            "Full load without a fault: no election in {} s, {} writes acknowledged, {} not.",
            steady.seconds,
            grouped(steady.acknowledged),
            grouped(steady.refused)
        ),
        (None, None) => "Full load without a fault: not run.".to_owned(),
    }
}

fn mutants(results: &Results) -> Vec<Block> {
    let mut table = Table::new(&["bug", "what", "layer", "#median seeds", "#first seed", "seen as"]);
    for seeded in SEEDED.iter().filter(|seeded| seeded.mutant.is_some()) {
        let mut cells: Vec<Cell> = vec![seeded.number.into(), seeded.what.into(), seeded.layer.into()];
        let found = results.mutants.iter().find(|mutant| mutant.number == seeded.number);
        let seen = found.and_then(|mutant| Some((mutant, mutant.median()?, mutant.first_seed?)));
        cells.extend(match (found, seen) {
            (_, Some((mutant, median, seed))) => [
                Cell::from(median.to_string()),
                seed.to_string().into(),
                mutant.found_as.as_str().into(),
            ],
            (Some(mutant), None) => {
                let why = format!("not seen within {} seeds", mutant.seeds_max);
                [Cell::default(), Cell::default(), Cell::toned(why, Tone::Bad)]
            }
            (None, None) => [Cell::default(), Cell::default(), Cell::muted("not run")],
        });
        table.rows.push(cells);
    }
    let rounds = results
        .mutants
        .iter()
        .map(|mutant| mutant.seeds.len())
        .max()
        .unwrap_or_default();
    let text = format!(
        "Bugs that were put in on purpose, each hunted from {rounds} different first seeds with 20 simulated seconds \
         of faults a seed; the median says how many seeds it took."
    );
    let mut blocks = vec![Block::Heading("Seeded bugs".to_owned())];
    if rounds > 0 {
        blocks.push(Block::Text(text));
    }
    blocks.push(Block::Table(table));
    blocks
}

/// What cannot be judged yet: seeded bugs, and rows of the catalogue.
fn pending() -> Vec<Block> {
    let mut table = Table::new(&["what", "waits for"]);
    for seeded in SEEDED.iter().filter(|seeded| seeded.mutant.is_none()) {
        let what = format!("{}: {}", seeded.number, seeded.what);
        table.rows.push(vec![what.into(), Cell::muted(seeded.layer)]);
    }
    for line in CATALOGUE.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let (Some(name), Some(last)) = (cells.first(), cells.last()) else {
            continue;
        };
        let Some(capability) = last.split("pending: ").nth(1) else {
            continue;
        };
        let bug = if cells.len() > 2 {
            format!("{name}: {}", cells[1])
        } else {
            (*name).to_owned()
        };
        table.rows.push(vec![bug.into(), Cell::muted(capability)]);
    }
    vec![
        Block::Heading("Pending".to_owned()),
        Block::Text(
            "What waits for a capability that does not exist yet, and is no part of any number above.".to_owned(),
        ),
        Block::Table(table),
    ]
}

fn again() -> Vec<Block> {
    let commands = [
        "make judge-full                      # all of it, then this report",
        "jepsen full --part sim               # or: mutants, process, failover, steady",
        "jepsen sim --seed 7 --minutes 1      # one simulated seed, told by its trace",
        "jepsen process run --only kill       # real scenarios by name",
        "jepsen report --from DIR --to DIR2   # this report",
    ];
    vec![
        Block::Heading("Again".to_owned()),
        Block::Commands(commands.map(str::to_owned).to_vec()),
    ]
}
