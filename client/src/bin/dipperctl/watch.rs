//! watch: prints events until it is interrupted, or runs a command for each. In interactive mode every line
//! `watch [options] <key> [range_end]` starts one more watch and `progress` asks all for their revision.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use clap::{Args, Parser};
use dipper_client::{Batch, Client, Error, Watcher};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    process::Command,
    sync::watch,
    task::JoinSet,
};

use crate::{
    failure::{Exit, Failure, explain},
    global::Global,
    keys::Range,
    output::{Output, print_line, type_name},
    quote::quoted,
};

/// Watches of one interactive session: more is a script gone wrong.
const WATCHES_MAX: usize = 1000;

#[derive(Debug, Args)]
pub struct Watch {
    /// Key and, for a range, the excluded end
    #[arg(env = "ETCDCTL_WATCH_KEY")]
    args: Vec<OsString>,
    /// A command to run for each event
    #[arg(last = true)]
    exec: Vec<OsString>,
    #[command(flatten)]
    options: Options,
    /// Interactive mode
    #[arg(short, long)]
    interactive: bool,
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// Watch on a prefix if prefix is set
    #[arg(long)]
    prefix: bool,
    /// Revision to start watching
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// Get the previous key-value pair before the event happens
    #[arg(long)]
    prev_kv: bool,
    /// Get periodic watch progress notification from server
    #[arg(long)]
    progress_notify: bool,
}

/// A line of an interactive session.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    options: Options,
    args: Vec<OsString>,
}

impl Watch {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let output = global.output()?;
        let client = global.client()?;
        if self.interactive {
            return interactive(&client, output).await;
        }
        let watcher = self.options.open(&client, self.args).await?;
        // Nobody asks for progress outside interactive mode: the sender is dropped at once.
        let (_, progress) = watch::channel(());
        follow(watcher, output, &self.exec, progress).await
    }
}

impl Options {
    async fn open(self, client: &Client, args: Vec<OsString>) -> Result<Watcher, Failure> {
        let end = std::env::var_os("ETCDCTL_WATCH_RANGE_END").filter(|_| args.len() == 1 && !self.prefix);
        let args = args.into_iter().chain(end).collect();
        let (key, range_end) = Range {
            args,
            prefix: self.prefix,
            from_key: false,
        }
        .pair("bad number of arguments")?;
        let mut watch = client.watch(key).range_end(range_end).start_revision(self.rev);
        if self.prev_kv {
            watch = watch.prev_kv();
        }
        if self.progress_notify {
            watch = watch.progress_notify();
        }
        watch.open().await.map_err(|error| canceled(&error))
    }
}

/// What etcdctl says when the server ends a watch.
fn canceled(error: &Error) -> Failure {
    eprintln!("watch was canceled ({})", explain(error));
    Failure::new(Exit::Interrupted, "watch is canceled by the server")
}

/// Prints a watch until it ends; its end is always a failure.
async fn follow(
    mut watcher: Watcher,
    output: Output,
    exec: &[OsString],
    mut progress: watch::Receiver<()>,
) -> Result<(), Failure> {
    let mut asked = true;
    loop {
        let batch = tokio::select! {
            batch = watcher.next() => batch,
            changed = progress.changed(), if asked => {
                asked = changed.is_ok();
                if asked {
                    watcher.request_progress();
                }
                continue;
            }
        };
        match batch {
            Some(Ok(batch)) => show(&batch, output, exec).await?,
            Some(Err(error)) => {
                if let Error::Compacted { compact_revision } = error {
                    output.compacted(&watcher.last_header(), compact_revision)?;
                }
                return Err(canceled(&error));
            }
            None => return Err(Failure::new(Exit::Interrupted, "watch is canceled by the server")),
        }
    }
}

async fn show(batch: &Batch, output: Output, exec: &[OsString]) -> Result<(), Failure> {
    if batch.events.is_empty() {
        print_line(&format!("progress notify: {}", batch.header.revision))?;
    }
    if !batch.events.is_empty() || output.format == crate::output::Format::Json {
        output.batch(batch)?;
    }
    let Some((program, arguments)) = exec.split_first() else {
        return Ok(());
    };
    for event in &batch.events {
        let kv = event.kv.clone().unwrap_or_default();
        let status = Command::new(program)
            .args(arguments)
            .env("ETCD_WATCH_REVISION", batch.header.revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", quoted(type_name(event).as_bytes()))
            .env("ETCD_WATCH_KEY", quoted(&kv.key))
            .env("ETCD_WATCH_VALUE", quoted(&kv.value))
            .status()
            .await;
        let failed = match status {
            Ok(status) => status
                .code()
                .filter(|code| *code != 0)
                .map(|code| format!("exit status {code}")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = failed {
            let program = String::from_utf8_lossy(program.as_bytes()).into_owned();
            return Err(Failure::new(Exit::Error, format!("command {program:?} error ({why})")));
        }
    }
    Ok(())
}

/// Reads lines until the input ends; then the watches go on until one fails.
async fn interactive(client: &Client, output: Output) -> Result<(), Failure> {
    let mut lines = BufReader::new(stdin()).lines();
    let mut watches = JoinSet::new();
    let (progress, _) = watch::channel(());
    while let Some(line) = lines.next_line().await? {
        let words: Vec<_> = line
            .split_whitespace()
            .map(|word| word.trim_matches('"').to_owned())
            .collect();
        match words.split_first() {
            Some((first, _)) if first == "progress" => {
                progress.send_replace(());
            }
            Some((first, rest)) if first == "watch" && watches.len() < WATCHES_MAX => {
                match Line::try_parse_from(rest) {
                    Ok(Line { options, args }) => {
                        let watcher = options.open(client, args).await?;
                        let progress = progress.subscribe();
                        watches.spawn(async move { follow(watcher, output, &[], progress).await });
                    }
                    Err(error) => eprintln!("Invalid command {line} ({error})"),
                }
            }
            _ => eprintln!("Invalid command {line} (only support watch and progress)"),
        }
    }
    match watches.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(Failure::new(Exit::Error, error.to_string())),
        None => Ok(()),
    }
}
