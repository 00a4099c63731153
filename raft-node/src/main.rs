//! The binary `dipper`: one member. Reads flags and `ETCD_*` variables, starts, and stops on a signal.

use std::{process::ExitCode, time::Duration};

use raft_node::{
    allocator,
    config::{Config, Parsed},
    error::StartError,
    limits,
    log_output::start_log,
    node,
    open_files::{check_open_files, raise_open_files},
};
use slog::{Logger, error, info};
use tokio::signal::unix::{SignalKind, signal};

/// Small allocations of many threads are most of what a member does with memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    // A build with seeded bugs in it is not a product, and must not be taken for one by accident.
    if cfg!(feature = "mutants") && std::env::var_os("DIPPER_MUTANT").is_none() {
        eprintln!("dipper: this build contains seeded bugs and serves only tests, which set DIPPER_MUTANT");
        return ExitCode::FAILURE;
    }
    // A thread that broke an invariant must not leave the others answering. Not in the profile: see Cargo.toml.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match Config::parse(std::env::args_os().skip(1), variables) {
        Ok(Parsed::Help(text) | Parsed::Version(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Parsed::Run { config, notes }) => {
            let started = start_log(config.log_output, config.log_level).map(|(logger, lines)| {
                for note in &notes {
                    note.log(&logger);
                }
                let code = run(&config, &logger);
                lines.flush(Duration::from_secs(1));
                code
            });
            started.unwrap_or_else(|refusal| refuse(&refusal))
        }
        Err(refusal) => refuse(&refusal),
    }
}

fn refuse(refusal: &StartError) -> ExitCode {
    eprintln!("dipper: {refusal}");
    ExitCode::from(refusal.exit_code() as u8)
}

fn run(config: &Config, logger: &Logger) -> ExitCode {
    match start(config, logger) {
        Ok(running) => running,
        Err(refusal) => {
            error!(logger, "cannot start"; "error" => %refusal);
            refuse(&refusal)
        }
    }
}

fn start(config: &Config, logger: &Logger) -> Result<ExitCode, StartError> {
    info!(logger, "starting"; "version" => env!("CARGO_PKG_VERSION"), "etcd_api" => proto::ETCD_VERSION,
        "name" => &config.name, "data_dir" => %config.data_dir.display(),
        "member" => %config.member_id(), "cluster" => %config.cluster_id());
    check_open_files(raise_open_files()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::unusable("main".as_ref(), "starting its runtime", &error))?;
    let running = node::start(config, logger)?;
    let code = runtime.block_on(serve_until_stopped(running, logger.clone()));
    // What was not waited for still uses it, and a drop would wait for that, or panic. The process ends next.
    std::mem::forget(runtime);
    Ok(code)
}

async fn serve_until_stopped(running: node::Running, logger: Logger) -> ExitCode {
    let broken = tokio::select! {
        () = stop_signal() => None,
        reason = running.broken() => Some(reason),
    };
    if let Some(reason) = broken {
        error!(&logger, "this member cannot go on"; "error" => &reason);
        eprintln!("dipper: {reason}");
        // It has a runtime of its own, which must not be dropped on this one: the end of the process ends it.
        std::mem::forget(running);
        return ExitCode::FAILURE;
    }
    let told = logger.clone();
    let stopped = tokio::spawn(async move { running.stop(&told).await });
    tokio::select! {
        stopped = stopped => {
            stopped.expect("a panic ends the process, so it cannot be met here");
            ExitCode::SUCCESS
        }
        () = tokio::time::sleep(limits::STOP_MAX) => {
            // Whatever hangs: what was acknowledged is on disk in any case.
            error!(logger, "not stopped in time: stopping at once");
            ExitCode::FAILURE
        }
        () = stop_signal() => {
            info!(logger, "told to stop a second time: stopping at once");
            ExitCode::FAILURE
        }
    }
}

/// Resolves at SIGTERM or SIGINT.
async fn stop_signal() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    if let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    } else {
        // Without handlers the signals end the process by themselves.
        std::future::pending::<()>().await;
    }
}
