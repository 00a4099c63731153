//! The binary `jepsen`: simulates clusters, or judges what others recorded.

use clap::Parser;
use jepsen::commands::Command;
use std::process::ExitCode;

/// The judge: runs workloads and faults against a cluster, and says whether anything was lost.
#[derive(Parser)]
#[command(name = "jepsen", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    Arguments::parse().command.run()
}
