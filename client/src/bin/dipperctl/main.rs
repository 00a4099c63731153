//! `dipperctl`: etcdctl's commands, output and exit codes over the client library, and a load generator.
//!
//! Each command has a file that reads its arguments and makes the call; `output` prints what came back.
//! Not here yet: users, roles, snapshots, membership changes, TLS. They come with the server's.

mod bench;
mod cluster;
mod failure;
mod global;
mod json;
mod keys;
mod lease;
mod output;
mod quote;
mod table;
mod txn;
mod watch;

use std::process::ExitCode;

use clap::{
    Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

use crate::{
    failure::{Exit, Failure},
    global::Global,
};

/// The version of etcd's command line that this one follows.
const API_VERSION: &str = "3.7";

#[derive(Debug, Parser)]
#[command(
    name = "dipperctl",
    about = "A command line client for Dipper and etcd",
    disable_version_flag = true
)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts the given key; the value is read from standard input when it is not given
    Put(keys::Put),
    /// Gets a key or a range of keys
    Get(keys::Get),
    /// Removes a key or a range of keys
    Del(keys::Del),
    /// Runs a transaction read from standard input
    Txn(txn::Txn),
    /// Prints events of a key or range as they happen
    Watch(watch::Watch),
    /// Forgets the history below a revision
    #[command(alias = "compact")]
    Compaction(keys::Compaction),
    /// Grants, revokes, lists and renews leases
    #[command(subcommand)]
    Lease(lease::Lease),
    /// Lists the members
    #[command(subcommand)]
    Member(cluster::Member),
    /// Asks each endpoint for its health, status or hash
    Endpoint(cluster::Endpoint),
    /// Hands leadership to another member
    MoveLeader(cluster::MoveLeader),
    /// Measures a cluster under load
    Bench(bench::Bench),
    /// Prints the version
    Version,
}

fn main() -> ExitCode {
    match parse().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("Error: {}", failure.message);
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// clap's own exit code is 2; etcdctl's for a flag or command it does not know is 1.
fn parse() -> Result<Arguments, Failure> {
    Arguments::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        kind => Failure::new(Exit::Error, complaint(&error, kind)),
    })
}

/// The two that scripts meet are worded as etcdctl words them.
fn complaint(error: &clap::Error, kind: ErrorKind) -> String {
    let unknown = |context| error.get(context).map(ToString::to_string);
    match kind {
        ErrorKind::UnknownArgument => unknown(ContextKind::InvalidArg).map(|flag| format!("unknown flag: {flag}")),
        ErrorKind::InvalidSubcommand => unknown(ContextKind::InvalidSubcommand)
            .map(|name| format!("unknown command {name:?} for \"dipperctl\"\nRun 'dipperctl --help' for usage.")),
        _ => None,
    }
    .unwrap_or_else(|| {
        error
            .render()
            .to_string()
            .trim_start_matches("error: ")
            .trim_end()
            .to_owned()
    })
}

fn run(Arguments { global, command }: Arguments) -> Result<(), Failure> {
    let command = match command {
        Command::Bench(bench) => return bench.run(&global),
        Command::Version => {
            println!(
                "dipperctl version: {}\nAPI version: {API_VERSION}",
                env!("CARGO_PKG_VERSION")
            );
            return Ok(());
        }
        other => other,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Put(put) => put.run(&global).await,
            Command::Get(get) => get.run(&global).await,
            Command::Del(del) => del.run(&global).await,
            Command::Txn(txn) => txn.run(&global).await,
            Command::Watch(watch) => watch.run(&global).await,
            Command::Compaction(compaction) => compaction.run(&global).await,
            Command::Lease(lease) => lease.run(&global).await,
            Command::Member(member) => member.run(&global).await,
            Command::Endpoint(endpoint) => endpoint.run(&global).await,
            Command::MoveLeader(move_leader) => move_leader.run(&global).await,
            Command::Bench(_) | Command::Version => unreachable!("they need no runtime and have returned above"),
        }
    })
}
