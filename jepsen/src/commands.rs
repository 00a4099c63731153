//! What the binary can be told to do, one variant a subcommand; each says by its exit code whether all is well.

use crate::{campaign, full, judge_file, report, scenarios, seeded, world::process::entry};
use clap::Subcommand;
use std::process::ExitCode;

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Runs simulated clusters: one seed, or many.
    Sim(campaign::Sim),
    /// Runs real processes, Dipper's or etcd's, under real faults.
    Process(entry::Process),
    /// Runs the named scenarios.
    Scenarios(scenarios::Scenarios),
    /// Judges a recorded history, and draws what is wrong with it.
    Check(judge_file::Check),
    /// Shows that bugs which were put in on purpose are seen (needs the feature `mutants`).
    Mutants(seeded::Mutants),
    /// Runs all of the above within an hour, and writes down what was found.
    Full(full::Full),
    /// Makes a page and a table from what `full` has written.
    Report(report::entry::Write),
}

impl Command {
    /// Does it.
    pub fn run(self) -> ExitCode {
        match self {
            Self::Sim(sim) => sim.run(),
            Self::Process(process) => entry::main(&process),
            Self::Scenarios(scenarios) => scenarios.run(),
            Self::Check(check) => check.run(),
            Self::Mutants(mutants) => mutants.run(),
            Self::Full(full) => full.run(),
            Self::Report(report) => report.run(),
        }
    }
}
