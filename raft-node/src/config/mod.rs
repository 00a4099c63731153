//! What a member is told at start: etcd's flags and `ETCD_*` variables, read once into one value.
//!
//! `Config::parse` is a pure function of command line and environment: it opens nothing, resolves no name and prints
//! nothing. What the directories hold is judged in `data_dir`.

mod checks;
mod flags;
mod urls;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::checks::overlapping;
use self::flags::{Asked, Value};
pub use self::urls::{ListenUrl, Url};
use crate::error::{Cause, StartError};
use crate::ids::{ClusterId, MemberId};
use crate::limits::{
    QUOTA_DEFAULT_BYTES, REQUEST_BYTES_MAX, SNAPSHOT_COUNT_MAX, TXN_OPS_MAX, WATCH_PROGRESS_INTERVAL_MIN,
};

/// The version of etcd whose API is served; clients read it to decide what they may use.
pub const ETCD_API_VERSION: &str = "3.7.1";

/// Whether the first start founds a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// All members of `initial-cluster` start it together.
    New,
    /// The cluster runs already.
    Existing,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// The default.
    Stderr,
    /// For those who collect it from there.
    Stdout,
}

/// A member of the initial cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its id, computed from URLs and token.
    pub id: MemberId,
    /// Its `--name`.
    pub name: String,
    /// Where the others reach it, sorted.
    pub peer_urls: Vec<Url>,
}

/// All that a member is told at start, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// None: the log lies in the data directory.
    pub wal_dir: Option<PathBuf>,
    pub listen_peer_urls: Vec<ListenUrl>,
    pub listen_client_urls: Vec<ListenUrl>,
    pub listen_metrics_urls: Vec<ListenUrl>,
    pub initial_advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// Sorted by id; this member is among them.
    pub initial_cluster: Vec<InitialMember>,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub snapshot_count: u64,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    /// None: no quota.
    pub quota_backend_bytes: Option<u64>,
    /// None: history is never compacted by itself.
    pub auto_compaction_retention: Option<Duration>,
    pub watch_progress_notify_interval: Duration,
    pub log_level: slog::Level,
    pub log_output: LogOutput,
}

/// Something worth a log line once there is a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogNote {
    /// A variable that set a flag.
    UsedVariable { name: String, value: String },
    /// A variable that looks like a flag and is none.
    UnknownVariable { name: String, value: String },
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// To run a member.
    Run { config: Box<Config>, notes: Vec<LogNote> },
    /// To print the help text.
    Help(String),
    /// To print the version.
    Version(String),
}

impl LogNote {
    /// Writes the line that etcd writes.
    pub fn log(&self, logger: &slog::Logger) {
        match self {
            LogNote::UsedVariable { name, value } => slog::info!(
                logger, "recognized and used environment variable";
                "variable-name" => name, "variable-value" => value,
            ),
            LogNote::UnknownVariable { name, value } => slog::warn!(
                logger, "unrecognized environment variable"; "environment-variable" => format!("{name}={value}"),
            ),
        }
    }
}

impl Config {
    /// Reads command line (without the program's name) and environment.
    pub fn parse(
        args: impl Iterator<Item = OsString>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Parsed, StartError> {
        match flags::read(args, env)? {
            Asked::Help(text) => Ok(Parsed::Help(text)),
            Asked::Version => Ok(Parsed::Version(version_text())),
            Asked::Run { values, notes } => {
                let config = Box::new(Self::from_values(&Values(values))?);
                Ok(Parsed::Run { config, notes })
            }
        }
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> ClusterId {
        let ids: Vec<MemberId> = self.initial_cluster.iter().map(|member| member.id).collect();
        ClusterId::of_initial(&ids)
    }

    /// This member's id.
    pub fn member_id(&self) -> MemberId {
        let own = self.initial_cluster.iter().find(|member| member.name == self.name);
        own.expect("parse refuses an initial cluster without this member").id
    }

    fn from_values(values: &Values) -> Result<Self, StartError> {
        let name = checks::name(values.text("name"))?;
        let data_dir = match values.get("data-dir") {
            value if value.given && !value.text.is_empty() => PathBuf::from(&value.text),
            _ => PathBuf::from(format!("{name}.dipper")),
        };
        let wal_dir = Some(values.text("wal-dir"))
            .filter(|text| !text.is_empty())
            .map(PathBuf::from);
        checks::directories(&data_dir, wal_dir.as_deref())?;
        checks::only_choice(values.get("logger"), "zap")?;
        let (heartbeat_interval, election_timeout) = intervals(values)?;
        let listen_client_urls = values.listen("listen-client-urls")?;
        if values.get("listen-client-urls").given && !values.get("advertise-client-urls").given {
            return Err(checks::advertise_missing());
        }
        let peer_urls = values.advertised("initial-advertise-peer-urls")?;
        let token = values.text("initial-cluster-token");
        let cluster = values.get("initial-cluster");
        let initial_cluster = if cluster.given {
            checks::parse_cluster(cluster)?
        } else {
            vec![(name.clone(), peer_urls.clone())]
        };
        let initial_cluster = checks::initial_cluster(initial_cluster, &name, &peer_urls, token)?;
        Ok(Self {
            data_dir,
            wal_dir,
            listen_peer_urls: checks::not_empty(values.get("listen-peer-urls"), values.listen("listen-peer-urls")?)?,
            listen_client_urls: checks::not_empty(values.get("listen-client-urls"), listen_client_urls)?,
            listen_metrics_urls: values.listen("listen-metrics-urls")?,
            initial_advertise_peer_urls: peer_urls,
            advertise_client_urls: values.advertised("advertise-client-urls")?,
            initial_cluster,
            initial_cluster_state: cluster_state(values.get("initial-cluster-state"))?,
            initial_cluster_token: token.to_owned(),
            heartbeat_interval,
            election_timeout,
            snapshot_count: values.bounded("snapshot-count", 1, SNAPSHOT_COUNT_MAX)?,
            max_txn_ops: values.bounded("max-txn-ops", 1, TXN_OPS_MAX)? as usize,
            max_request_bytes: values.bounded("max-request-bytes", 1, REQUEST_BYTES_MAX)? as usize,
            quota_backend_bytes: quota(values.read("quota-backend-bytes", values::signed)?),
            auto_compaction_retention: auto_compaction(values)?,
            watch_progress_notify_interval: progress_interval(values)?,
            log_level: log_level(values.get("log-level"))?,
            log_output: log_output(values.get("log-outputs"))?,
            name,
        })
    }
}

struct Values(BTreeMap<&'static str, Value>);

impl Values {
    fn get(&self, name: &str) -> &Value {
        self.0
            .get(name)
            .expect("every flag of the table has a value, and only those are asked for")
    }

    fn text(&self, name: &str) -> &str {
        &self.get(name).text
    }

    fn read<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, StartError> {
        let value = self.get(name);
        read(&value.text).map_err(|why| checks::bad_value(value, &why))
    }

    fn bounded(&self, name: &str, min: u64, max: u64) -> Result<u64, StartError> {
        let number = self.read(name, values::whole)?;
        checks::within(self.get(name), number, min, max)?;
        Ok(number)
    }

    fn listen(&self, name: &str) -> Result<Vec<ListenUrl>, StartError> {
        let value = self.get(name);
        urls::parse_listen(&value.text, &value.origin)
    }

    fn advertised(&self, name: &str) -> Result<Vec<Url>, StartError> {
        let value = self.get(name);
        checks::not_empty(value, urls::parse_advertised(&value.text, &value.origin)?)
    }
}

fn intervals(values: &Values) -> Result<(Duration, Duration), StartError> {
    let heartbeat = values.read("heartbeat-interval", values::whole)?;
    let election = values.read("election-timeout", values::whole)?;
    checks::intervals(heartbeat, election)?;
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn quota(bytes: i64) -> Option<u64> {
    match bytes {
        0 => Some(QUOTA_DEFAULT_BYTES),
        bytes => u64::try_from(bytes).ok(),
    }
}

fn auto_compaction(values: &Values) -> Result<Option<Duration>, StartError> {
    let mode = values.get("auto-compaction-mode");
    if mode.text == "revision" {
        let text = format!("{}: only periodic exists yet, not 'revision'", mode.origin);
        return Err(StartError::new(Cause::CompactionMode, text));
    }
    checks::only_choice(mode, "periodic")?;
    values.read("auto-compaction-retention", values::retention)
}

fn progress_interval(values: &Values) -> Result<Duration, StartError> {
    let name = "watch-progress-notify-interval";
    let interval = values.read(name, values::duration)?;
    if interval < WATCH_PROGRESS_INTERVAL_MIN {
        let origin = &values.get(name).origin;
        let text = format!("{origin}[{interval:?}] is out of bounds: {WATCH_PROGRESS_INTERVAL_MIN:?} is the least");
        return Err(StartError::new(Cause::OutOfBounds, text));
    }
    Ok(interval)
}

fn cluster_state(value: &Value) -> Result<ClusterState, StartError> {
    match value.text.as_str() {
        "new" => Ok(ClusterState::New),
        "existing" => Ok(ClusterState::Existing),
        _ => Err(checks::bad_value(value, "'new' or 'existing' is needed")),
    }
}

// zap's panic and fatal are above every line that a running member writes, except its last one.
fn log_level(value: &Value) -> Result<slog::Level, StartError> {
    match value.text.as_str() {
        "debug" => Ok(slog::Level::Debug),
        "info" => Ok(slog::Level::Info),
        "warn" => Ok(slog::Level::Warning),
        "error" => Ok(slog::Level::Error),
        "panic" | "fatal" => Ok(slog::Level::Critical),
        _ => Err(checks::bad_value(
            value,
            "debug, info, warn, error, panic or fatal is needed",
        )),
    }
}

fn log_output(value: &Value) -> Result<LogOutput, StartError> {
    match value.text.as_str() {
        "default" | "stderr" => Ok(LogOutput::Stderr),
        "stdout" => Ok(LogOutput::Stdout),
        _ => Err(checks::bad_value(value, "default, stderr or stdout is needed")),
    }
}

fn version_text() -> String {
    format!(
        "dipper Version: {}\netcd API: {ETCD_API_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    )
}
