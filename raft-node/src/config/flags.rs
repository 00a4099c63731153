//! The table of flags, and how command line and environment become one value per flag.
//!
//! A row of the table is a flag of etcd with our default; from it come the parser, the help text and the `ETCD_*`
//! variables. A flag that this version does not act on is not in the table: it is refused instead of ignored.
//! What the values mean is read in `config::mod`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::LogNote;
use crate::error::{Cause, StartError};

/// A flag: etcd's name, the text in force when it is not given, and one sentence.
pub struct Flag {
    pub name: &'static str,
    pub default: &'static str,
    pub about: &'static str,
}

const fn flag(name: &'static str, default: &'static str, about: &'static str) -> Flag {
    Flag { name, default, about }
}

/// Every flag that takes a value, in the order of the help text.
pub const FLAGS: &[Flag] = &[
    flag("name", "default", "Human-readable name of this member"),
    flag("data-dir", "${name}.dipper", "Directory of all that this member keeps"),
    flag(
        "wal-dir",
        "",
        "Directory of the log, if it should lie on another disk than the data directory",
    ),
    flag(
        "listen-peer-urls",
        "http://localhost:2380",
        "Where to listen for the other members",
    ),
    flag(
        "listen-client-urls",
        "http://localhost:2379",
        "Where to listen for clients",
    ),
    flag("listen-metrics-urls", "", "Where else to serve /metrics and /health"),
    flag(
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        "Where the other members reach this one",
    ),
    flag(
        "advertise-client-urls",
        "http://localhost:2379",
        "Where clients reach this member",
    ),
    flag(
        "initial-cluster",
        "${name}=${initial-advertise-peer-urls}",
        "All members of a new cluster: name=url,name=url,...",
    ),
    flag(
        "initial-cluster-state",
        "new",
        "Whether the cluster is 'new' or 'existing'",
    ),
    flag(
        "initial-cluster-token",
        "etcd-cluster",
        "Keeps clusters apart that were started with the same URLs",
    ),
    flag(
        "heartbeat-interval",
        "30",
        "Milliseconds between two heartbeats of a leader",
    ),
    flag(
        "election-timeout",
        "150",
        "Milliseconds without a leader before an election",
    ),
    flag("snapshot-count", "10000", "Committed entries between two snapshots"),
    flag("max-txn-ops", "128", "Operations that a transaction may have"),
    flag("max-request-bytes", "1572864", "Bytes that a client's request may have"),
    flag(
        "quota-backend-bytes",
        "0",
        "Bytes of live data before writes are refused (0: 2 GiB, negative: no quota)",
    ),
    flag(
        "auto-compaction-mode",
        "periodic",
        "How history is compacted; only 'periodic' exists yet",
    ),
    flag(
        "auto-compaction-retention",
        "1h",
        "How much history is kept (no unit: hours, 0: all)",
    ),
    flag(
        "watch-progress-notify-interval",
        "10m",
        "Interval of progress notices on quiet watches",
    ),
    flag("log-level", "info", "debug, info, warn, error, panic or fatal"),
    flag("logger", "zap", "Only 'zap': lines of JSON with zap's keys"),
    flag("log-outputs", "default", "'default' and 'stderr', or 'stdout'"),
];

/// A flag's text and where it came from.
#[derive(Clone, Debug)]
pub struct Value {
    pub text: String,
    /// `--name`, `ETCD_NAME`, or the flag's name when the text is the default.
    pub origin: String,
    /// Whether flag or variable set it.
    pub given: bool,
}

/// What the command line asks for.
pub enum Asked {
    Run {
        values: BTreeMap<&'static str, Value>,
        notes: Vec<LogNote>,
    },
    Help(String),
    Version,
}

/// Reads command line and environment together.
pub fn read(
    args: impl Iterator<Item = OsString>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Asked, StartError> {
    let matches = match command().try_get_matches_from(normalised(args)?) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Ok(Asked::Help(error.to_string())),
        Err(error) => return Err(usage(&error)),
    };
    if matches.get_flag("version") {
        return Ok(Asked::Version);
    }
    let mut given = BTreeMap::new();
    for flag in FLAGS {
        if let Some(text) = matches.get_one::<String>(flag.name) {
            given.insert(
                flag.name,
                Value {
                    text: text.clone(),
                    origin: format!("--{}", flag.name),
                    given: true,
                },
            );
        }
    }
    let notes = add_variables(&mut given, env)?;
    for flag in FLAGS {
        let default = || Value {
            text: flag.default.to_owned(),
            origin: format!("--{}", flag.name),
            given: false,
        };
        given.entry(flag.name).or_insert_with(default);
    }
    Ok(Asked::Run { values: given, notes })
}

fn command() -> Command {
    let args = FLAGS.iter().map(|flag| {
        let about = if flag.default.is_empty() {
            flag.about.to_owned()
        } else {
            format!("{} [default: {}]", flag.about, flag.default)
        };
        Arg::new(flag.name)
            .long(flag.name)
            .value_name("VALUE")
            .num_args(1)
            .allow_hyphen_values(true)
            .help(about)
    });
    Command::new("dipper")
        .about("A member of a Dipper cluster. Every flag can also be set as ETCD_<FLAG>, for instance ETCD_DATA_DIR.")
        .args(args)
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::SetTrue)
                .help("Show the version and end"),
        )
        .disable_version_flag(true)
        .args_override_self(true)
}

// Go's flag package takes `-name` and `--name` alike; clap would read `-name` as four short flags. A value is passed
// on as it is, dash or not.
fn normalised(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, StartError> {
    let mut out = vec!["dipper".to_owned()];
    let mut value_next = false;
    for arg in args {
        let arg = arg.into_string().map_err(|arg| {
            let text = format!(
                "invalid value {:?} on the command line: not UTF-8",
                arg.to_string_lossy()
            );
            StartError::new(Cause::BadValue, text)
        })?;
        let name = arg.trim_start_matches('-');
        let dashes = arg.len() - name.len();
        let is_flag = !value_next && (dashes == 1 || dashes == 2) && name.len() > 1;
        value_next = is_flag && FLAGS.iter().any(|flag| flag.name == name);
        out.push(if is_flag { format!("--{name}") } else { arg });
    }
    Ok(out)
}

fn usage(error: &clap::Error) -> StartError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    if error.kind() == ErrorKind::InvalidValue {
        let name = arg.split(' ').next().unwrap_or_default();
        let text = format!("flag needs an argument: {name}. See 'dipper --help'.");
        return StartError::new(Cause::MissingValue, text);
    }
    let similar = context(ContextKind::SuggestedArg)
        .map(|near| format!(", did you mean '{near}'?"))
        .unwrap_or_default();
    let text = format!("unexpected argument '{arg}'{similar} See 'dipper --help'.");
    StartError::new(Cause::UnknownArgument, text)
}

fn add_variables(
    given: &mut BTreeMap<&'static str, Value>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Vec<LogNote>, StartError> {
    let names: BTreeMap<String, &'static str> = FLAGS.iter().map(|flag| (variable(flag.name), flag.name)).collect();
    let flags: BTreeSet<&'static str> = given.keys().copied().collect();
    let mut notes = Vec::new();
    let mut env: Vec<_> = env.filter(|(name, _)| name.starts_with("ETCD_")).collect();
    env.sort();
    for (name, text) in env {
        match names.get(&name) {
            Some(flag) if flags.contains(flag) => {
                let text = format!(
                    "conflicting environment variable {name:?} is shadowed by corresponding command-line flag (either \
                     unset environment variable or disable flag): {name} and --{flag} are both given"
                );
                return Err(StartError::new(Cause::Shadowed, text));
            }
            Some(_) if text.is_empty() => {}
            Some(flag) => {
                given.insert(
                    flag,
                    Value {
                        text: text.clone(),
                        origin: name.clone(),
                        given: true,
                    },
                );
                notes.push(LogNote::UsedVariable { name, value: text });
            }
            None => notes.push(LogNote::UnknownVariable { name, value: text }),
        }
    }
    Ok(notes)
}

fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}
