//! The tables of the two worlds: workloads against faults, and the scenarios.
//!
//! ```text
//!   fault       times   register   bank   ...   anomalies
//!   kill           41     18,204  9,377                 0
//! ```
//! Not here: failovers and seeded bugs (`content`).

use super::{
    content::{Block, Cell, Table, Tone},
    targets::{Results, grouped, spaced},
};
use crate::{
    results::{Real, Seeds},
    tally::Tally,
    workload::Kind,
};
use std::collections::{BTreeMap, BTreeSet};

/// One fault's row.
#[derive(Default)]
struct Met {
    times: u64,
    operations: BTreeMap<String, u64>,
    anomalies: u64,
}

pub fn real(results: &Results) -> Vec<Block> {
    let mut blocks = vec![Block::Heading("Real processes".to_owned())];
    if results.real.is_empty() {
        blocks.push(Block::Text("Not run.".to_owned()));
        return blocks;
    }
    let mut total = Tally::default();
    let mut matrix: BTreeMap<String, Met> = BTreeMap::new();
    for real in results.judged() {
        total.add(&real.total);
        let kind = real.fault.split('(').next().unwrap_or_default();
        let met = matrix.entry(kind.to_owned()).or_default();
        met.times += real.faults;
        met.anomalies += real.anomalies;
        for (workload, tally) in &real.by_workload {
            *met.operations.entry(workload.clone()).or_default() += tally.operations;
        }
    }
    blocks.push(Block::Text(promise(results, &total)));
    blocks.push(Block::Text(
        "Operations of each workload in the scenarios with a fault; every fault was proven to have taken effect."
            .to_owned(),
    ));
    blocks.push(Block::Table(matrix_of(&matrix)));
    blocks.push(Block::Table(scenarios(&results.real)));
    blocks
}

/// What was acknowledged and what became of it; without an anomaly nothing was lost and nothing stale.
fn promise(results: &Results, total: &Tally) -> String {
    let anomalies: u64 = results.judged().map(|real| real.anomalies).sum();
    let verdict = if anomalies == 0 {
        format!(
            "0 of {} acknowledged writes lost, 0 of {} reads stale.",
            grouped(total.writes),
            grouped(total.reads)
        )
    } else {
        format!(
            "{} acknowledged writes and {} reads, with {anomalies} anomalies: see above which promise they break.",
            grouped(total.writes),
            grouped(total.reads)
        )
    };
    format!(
        "{verdict} {} operations in all; the outcome of {} is unknown ({:.2} %), {} were refused.",
        grouped(total.operations),
        grouped(total.unknown),
        100.0 * total.unknown as f64 / total.operations.max(1) as f64,
        grouped(total.refused)
    )
}

fn scenarios(all: &[&Real]) -> Table {
    let mut table = Table::new(&[
        "scenario",
        "fault",
        "#members",
        "#seconds",
        "#faults",
        "#operations",
        "#writes",
        "#reads",
        "#refused",
        "#unknown",
        "#anomalies",
    ]);
    for real in all {
        let total = &real.total;
        let verdict = if real.error.is_some() {
            Cell::toned("no verdict", Tone::Bad)
        } else if real.skipped.is_some() {
            Cell::muted("not run: skipped")
        } else if real.must_fail && real.anomalies > 0 {
            Cell::toned(format!("{}, as it must", real.anomalies), Tone::Good)
        } else if real.must_fail {
            Cell::toned("0: the checkers are blind", Tone::Bad)
        } else {
            Cell::bad(real.anomalies)
        };
        let numbers = [
            real.members,
            real.seconds,
            real.faults,
            total.operations,
            total.writes,
            total.reads,
            total.refused,
            total.unknown,
        ];
        let mut cells = vec![Cell::from(real.name.as_str()), Cell::from(spaced(&real.fault))];
        cells.extend(numbers.map(|number| Cell::from(grouped(number))));
        cells.push(verdict);
        table.rows.push(cells);
    }
    table
}

pub fn simulated(results: &Results) -> Vec<Block> {
    let mut blocks = vec![Block::Heading("Simulated clusters".to_owned())];
    let all: Vec<&Seeds> = results.long.iter().chain(&results.searched).copied().collect();
    if all.is_empty() {
        blocks.push(Block::Text("Seeds: not run.".to_owned()));
    } else {
        blocks.push(Block::Text(sum(&all)));
        blocks.push(Block::Text(
            "Operations of each workload in the seeds in which a fault happened at least once. Several happen in most \
             seeds, so an operation counts in several rows; a seed that fails does so in the rows of all faults that \
             its world draws from."
                .to_owned(),
        ));
        blocks.push(Block::Table(matrix_of(&matrix_of_seeds(&all))));
    }
    if results.scenarios.is_empty() {
        blocks.push(Block::Text("Named scenarios: not run.".to_owned()));
        return blocks;
    }
    let mut table = Table::new(&["scenario", "has to show", "#seeds", "what it showed"]);
    for scenario in &results.scenarios {
        let tone = if scenario.well { Tone::Plain } else { Tone::Bad };
        table.rows.push(vec![
            scenario.name.as_str().into(),
            spaced(&scenario.shows).into(),
            scenario.seeds.to_string().into(),
            Cell::toned(scenario.what.as_str(), tone),
        ]);
    }
    blocks.push(Block::Table(table));
    blocks
}

fn sum(all: &[&Seeds]) -> String {
    let sum = |of: fn(&Seeds) -> u64| all.iter().map(|seeds| of(seeds)).sum::<u64>();
    let hours = |of: fn(&Seeds) -> f64| all.iter().map(|seeds| of(seeds)).sum::<f64>() / 3600.0;
    let operations = sum(|seeds| seeds.counts.operations);
    let unknown = sum(|seeds| seeds.counts.unknown);
    let (simulated, cpu) = (hours(|seeds| seeds.simulated_s), hours(|seeds| seeds.cpu_s));
    format!(
        "{} seeds, {simulated:.1} simulated hours in {:.1} minutes: {:.0} cluster-hours per CPU-hour. {} operations, of \
         which the outcome of {} is unknown ({:.2} %); {} faults, {} crashes, {} elections, {} snapshots installed; {} \
         seeds failed.",
        grouped(sum(|seeds| seeds.until - seeds.from)),
        60.0 * hours(|seeds| seeds.elapsed_s),
        simulated / cpu.max(f64::MIN_POSITIVE),
        grouped(operations),
        grouped(unknown),
        100.0 * unknown as f64 / operations.max(1) as f64,
        grouped(sum(|seeds| seeds.counts.faults)),
        grouped(sum(|seeds| seeds.counts.crashes)),
        grouped(sum(|seeds| seeds.counts.elections)),
        grouped(sum(|seeds| seeds.counts.snapshots)),
        sum(|seeds| seeds.failures.len() as u64),
    )
}

fn matrix_of_seeds(all: &[&Seeds]) -> BTreeMap<String, Met> {
    let mut matrix: BTreeMap<String, Met> = BTreeMap::new();
    for seeds in all {
        for (fault, times) in &seeds.faults {
            matrix.entry(fault.clone()).or_default().times += times;
        }
        for (workload, faults) in &seeds.met {
            for (fault, operations) in faults {
                let met = matrix.entry(fault.clone()).or_default();
                *met.operations.entry(workload.clone()).or_default() += operations;
            }
        }
        for fault in seeds.failures.iter().flat_map(|failure| &failure.faults) {
            matrix.entry(fault.clone()).or_default().anomalies += 1;
        }
    }
    matrix
}

fn matrix_of(matrix: &BTreeMap<String, Met>) -> Table {
    let met: BTreeSet<&str> = matrix
        .values()
        .flat_map(|met| met.operations.keys().map(String::as_str))
        .collect();
    // In the order in which they are declared.
    let workloads: Vec<String> = Kind::SOUND
        .iter()
        .map(|kind| format!("{kind:?}"))
        .filter(|kind| met.contains(kind.as_str()))
        .collect();
    let mut head = vec!["fault".to_owned(), "#times".to_owned()];
    head.extend(workloads.iter().map(|workload| format!("#{}", spaced(workload))));
    head.push("#anomalies".to_owned());
    let mut rows = Vec::new();
    for (fault, met) in matrix {
        let mut cells = vec![Cell::from(spaced(fault)), Cell::from(grouped(met.times))];
        cells.extend(workloads.iter().map(|workload| match met.operations.get(workload) {
            Some(operations) => Cell::from(short(*operations)),
            None => Cell::muted("-"),
        }));
        cells.push(Cell::bad(met.anomalies));
        rows.push(cells);
    }
    Table { head, rows }
}

/// Three digits that matter: 14 columns have to fit.
fn short(number: u64) -> String {
    match number {
        0..10_000 => grouped(number),
        10_000..1_000_000 => format!("{}k", number / 1000),
        _ => format!("{:.1}M", number as f64 / 1e6),
    }
}
