//! The parts with real processes, one after the other on a quiet machine.

use super::{Session, Sizes, bar, keep};
use crate::{
    checkers::Anomaly,
    results::{Failover, Line, Part, Real, Steady},
    tally,
    world::process::{
        command::{self, Error},
        failover::{self, Case, Gaps},
        fault::Fault,
        member::System,
        scenario::{Run, Scenario},
        sets::Set,
        steady,
    },
};
use clap::ValueEnum as _;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// As measured; for the plan only. A failover with its recovery, and what is around a scenario's own seconds.
pub const SECONDS_PER_FAILOVER: f64 = 4.0;
pub const SECONDS_AROUND: f64 = 4.0;
/// Anomalies of different names that a line tells; all are counted.
const FIRST_MAX: usize = 5;

/// The full set, and the one that must be seen to fail.
pub fn chosen(sizes: &Sizes) -> Vec<Scenario> {
    let scenarios = Set::Full.scenarios().chain(Set::Unguarded.scenarios());
    let chosen = scenarios.filter(|scenario| scenario.name.contains(&sizes.only));
    chosen
        .map(|scenario| Scenario {
            seconds: sizes.scenario_seconds,
            ..scenario
        })
        .collect()
}

impl Session<'_> {
    /// The system under test, if it is there and is no build with seeded bugs, which refuses to start.
    fn system(&self) -> Result<System, String> {
        let beside = || Some(std::env::current_exe().ok()?.with_file_name("dipper"));
        let path = self.full.dipper.clone().or_else(beside).unwrap_or_default();
        let line = format!("{} --version", path.display());
        command::run(&line).map_err(|error| format!("{error}; `--dipper` takes another binary"))?;
        Ok(System::dipper(path))
    }

    pub(super) fn steady(&mut self) -> Result<(), String> {
        let is_done = |line: &Line| line.part() == Some(Part::Steady);
        if self.book.lines.iter().any(is_done) || self.is_over(Part::Steady) {
            return Ok(());
        }
        let system = self.system()?;
        let time = Duration::from_secs_f64(self.full.sizes.steady_minutes * 60.0);
        let bar = bar(Part::Steady, 1);
        let watched = steady::watch(&system, time);
        bar.finish_and_clear();
        match watched {
            Ok(steady) => {
                println!(
                    "no election in {time:?} of full load: term {}, {} writes acknowledged, {} not",
                    steady.term, steady.acknowledged, steady.refused
                );
                self.book.append(Line::Steady(Steady {
                    seconds: time.as_secs(),
                    term: steady.term,
                    acknowledged: steady.acknowledged as u64,
                    refused: steady.refused as u64,
                }))
            }
            Err(error) => self.broken(Part::Steady, "steady", error.to_string()),
        }
    }

    pub(super) fn failover(&mut self) -> Result<(), String> {
        let system = self.system()?;
        let cases = Case::value_variants();
        let bar = bar(Part::Failover, cases.len() as u64);
        for case in cases {
            let name = format!("{case:?}");
            let is_done = |line: &Line| matches!(line, Line::Failover(round) if round.case == name);
            let is_done = self.book.lines.iter().any(is_done) || self.is_broken(Part::Failover, &name);
            if is_done || self.is_over(Part::Failover) {
                continue;
            }
            bar.set_message(name.clone());
            match failover::measure(*case, &system, self.full.sizes.rounds as usize) {
                Ok(gaps) => {
                    bar.suspend(|| println!("{}", gaps.line(*case)));
                    for round in rounds(*case, &gaps) {
                        self.book.append(Line::Failover(round))?;
                    }
                }
                Err(error) => bar.suspend(|| self.broken(Part::Failover, &name, error.to_string()))?,
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    pub(super) fn process(&mut self) -> Result<(), String> {
        let system = self.system()?;
        let scenarios = chosen(&self.full.sizes);
        let bar = bar(Part::Process, scenarios.len() as u64);
        for scenario in scenarios {
            let is_done = |line: &Line| matches!(line, Line::Real(real) if real.name == scenario.name);
            if self.book.lines.iter().any(is_done) {
                bar.inc(1);
                continue;
            }
            if self.is_over(Part::Process) {
                break;
            }
            bar.set_message(scenario.name);
            let real = self.scenario(&scenario, &system)?;
            bar.suspend(|| println!("{:28} {}", real.name, told(&real)));
            self.book.append(Line::Real(Box::new(real)))?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn scenario(&self, scenario: &Scenario, system: &System) -> Result<Real, String> {
        const SEED: u64 = 1;
        let began = Instant::now();
        let real = Real {
            name: scenario.name.to_owned(),
            workloads: scenario.workloads.iter().map(|kind| format!("{kind:?}")).collect(),
            fault: format!("{:?}", scenario.fault),
            members: scenario.members as u64,
            seconds: scenario.seconds,
            seed: SEED,
            must_fail: scenario.must_fail,
            ..Real::default()
        };
        let real = match scenario.run(system, SEED) {
            Ok(run) => {
                let is_calm = run.faults == 0 && scenario.fault != Fault::None;
                Real {
                    error: is_calm.then(|| "no fault happened".to_owned()),
                    ..self.ran(real, &run)?
                }
            }
            Err(Error::Skipped(why)) => Real {
                skipped: Some(why),
                ..real
            },
            Err(Error::Failed(why)) => Real {
                error: Some(why),
                ..real
            },
        };
        Ok(Real {
            elapsed_s: began.elapsed().as_secs_f64(),
            ..real
        })
    }

    fn ran(&self, real: Real, run: &Run) -> Result<Real, String> {
        let kept = match run.anomalies.first() {
            Some(first) if !real.must_fail => {
                let kept = keep::real(self.book.directory(), &real.name, &run.history, first);
                Some(kept.map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        Ok(Real {
            faults: run.faults as u64,
            total: tally::total(&run.history),
            by_workload: tally::by_workload(&run.history),
            anomalies: run.anomalies.len() as u64,
            first: first_of_each(&run.anomalies),
            kept,
            ..real
        })
    }
}

fn first_of_each(anomalies: &[Anomaly]) -> Vec<String> {
    let mut named: BTreeMap<&str, &Anomaly> = BTreeMap::new();
    for anomaly in anomalies {
        named.entry(&anomaly.name).or_insert(anomaly);
    }
    let told = named.values().take(FIRST_MAX);
    told.map(|anomaly| format!("{} ({}): {}", anomaly.name, anomaly.checker, anomaly.text))
        .collect()
}

fn told(real: &Real) -> String {
    let total = &real.total;
    let counts = format!(
        "{} operations, {} refused, {} unknown, {} faults",
        total.operations, total.refused, total.unknown, real.faults
    );
    match (&real.error, &real.skipped) {
        (Some(why), _) => format!("FAILED: {why}"),
        (_, Some(why)) => format!("SKIPPED: {why}"),
        _ if real.must_fail && real.anomalies == 0 => format!("FAILED: a broken workload went unnoticed; {counts}"),
        _ if real.must_fail => format!("{counts}; caught, as it must be"),
        _ if real.anomalies > 0 => format!("FAILED: {} anomalies: {:?}; {counts}", real.anomalies, real.first),
        _ => counts,
    }
}

fn rounds(case: Case, gaps: &Gaps) -> Vec<Failover> {
    let measured = gaps
        .cluster_ms
        .iter()
        .zip(&gaps.worst_client_ms)
        .zip(&gaps.not_acknowledged);
    let rounds = measured
        .enumerate()
        .map(|(number, ((cluster_ms, client_ms), refused))| Failover {
            case: format!("{case:?}"),
            round: number as u64 + 1,
            rounds: gaps.cluster_ms.len() as u64,
            cluster_ms: *cluster_ms,
            client_ms: *client_ms,
            not_acknowledged: *refused as u64,
            limit_ms: case.gap_max().as_secs_f64() * 1000.0,
            limits_writes: case == Case::Stop,
        });
    rounds.collect()
}
