//! member list, endpoint health/status/hashkv and move-leader: commands about members rather than keys.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use dipper_client::{
    Client, Error,
    etcdserverpb::{AlarmType, Member as MemberMessage, MemberListRequest, StatusResponse},
};

use crate::{
    failure::{Exit, Failure, explain},
    global::{Global, parse_u64},
    json,
    output::{Format, Output, print_line},
    quote,
};

#[derive(Debug, Subcommand)]
pub enum Member {
    /// Lists all members in the cluster
    List {
        /// Linearizable(l) or Serializable(s)
        #[arg(long, default_value = "l")]
        consistency: String,
    },
}

impl Member {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let Self::List { consistency } = self;
        let output = global.output()?;
        let request = MemberListRequest {
            linearizable: consistency != "s",
        };
        let list = global.client()?.member_list_with(request).await?;
        let headers = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
        let rows: Vec<_> = list.members.iter().map(member_row).collect();
        output.rows(&headers, &rows, &json::members(&list))
    }
}

fn member_row(member: &MemberMessage) -> Vec<String> {
    let status = if member.name.is_empty() { "unstarted" } else { "started" };
    vec![
        format!("{:x}", member.id),
        status.to_owned(),
        member.name.clone(),
        member.peer_ur_ls.join(","),
        member.client_ur_ls.join(","),
        member.is_learner.to_string(),
    ]
}

#[derive(Debug, Args)]
pub struct Endpoint {
    /// Ask all members of the cluster instead of the given endpoints
    #[arg(long, global = true)]
    cluster: bool,
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Checks whether a proposal can be committed through each endpoint
    Health,
    /// Prints the status of each endpoint
    Status,
    /// Prints the hash of the key-value history of each endpoint
    Hashkv {
        /// Maximum revision to hash (0: all)
        #[arg(long, default_value_t = 0)]
        rev: i64,
    },
}

impl Endpoint {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let output = global.output()?;
        let names = if self.cluster {
            members_of(global).await?
        } else {
            global.endpoints.clone()
        };
        let mut asked = Vec::with_capacity(names.len());
        for name in names {
            asked.push((global.client_of(&[&name])?, name));
        }
        match self.question {
            Question::Health => health(&asked, output).await,
            Question::Status => status(&asked, output).await,
            Question::Hashkv { rev } => hash_kv(&asked, rev, output).await,
        }
    }
}

async fn members_of(global: &Global) -> Result<Vec<String>, Failure> {
    let list = global.client()?.member_list().await.map_err(|error| {
        Failure::new(
            Exit::Error,
            format!(
                "failed to fetch endpoints from etcd cluster member list: {}",
                explain(&error)
            ),
        )
    })?;
    Ok(list
        .members
        .into_iter()
        .flat_map(|member| member.client_ur_ls)
        .collect())
}

struct Health {
    endpoint: String,
    took: Duration,
    error: Option<String>,
}

async fn health(asked: &[(Client, String)], output: Output) -> Result<(), Failure> {
    let checks = asked.iter().map(|(client, endpoint)| async move {
        let start = Instant::now();
        let error = health_error(client).await;
        Health {
            endpoint: endpoint.clone(),
            took: start.elapsed(),
            error,
        }
    });
    let checks = futures_util::future::join_all(checks).await;
    print_health(&checks, output)?;
    if checks.iter().any(|check| check.error.is_some()) {
        return Err(Failure::new(Exit::Error, "unhealthy cluster"));
    }
    Ok(())
}

/// A read that went through consensus proves health, and so does being forbidden to read.
async fn health_error(client: &Client) -> Option<String> {
    match client.get("health").send().await {
        Ok(_) => {}
        Err(error) if error.row() == Some(&dipper_client::ServerError::PermissionDenied) => {}
        Err(error) => return Some(explain(&error)),
    }
    match client.alarms().await {
        Ok(alarms) if alarms.alarms.is_empty() => None,
        Ok(alarms) => {
            let names = alarms.alarms.iter().map(|alarm| match alarm.alarm() {
                AlarmType::Nospace => "NOSPACE ",
                AlarmType::Corrupt => "CORRUPT ",
                AlarmType::None => "UNKNOWN ",
            });
            Some(format!("Active Alarm(s): {}", names.collect::<String>()))
        }
        Err(_) => Some("Unable to fetch the alarm list".to_owned()),
    }
}

fn print_health(checks: &[Health], output: Output) -> Result<(), Failure> {
    if output.format == Format::Simple {
        for Health { endpoint, took, error } in checks {
            match error {
                None => print_line(&format!(
                    "{endpoint} is healthy: successfully committed proposal: took = {}",
                    quote::duration(*took)
                ))?,
                Some(error) => eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}"),
            }
        }
        return Ok(());
    }
    let row = |check: &Health| {
        let error = check.error.clone().unwrap_or_default();
        vec![
            check.endpoint.clone(),
            check.error.is_none().to_string(),
            quote::duration(check.took),
            error,
        ]
    };
    let object = |check: &Health| {
        json::Object::new()
            .raw("endpoint", json::string(&check.endpoint))
            .raw("health", check.error.is_none())
            .raw("took", json::string(&quote::duration(check.took)))
            .text("error", check.error.as_deref().unwrap_or_default())
            .end()
    };
    let rows: Vec<_> = checks.iter().map(row).collect();
    let objects: Vec<_> = checks.iter().map(object).collect();
    output.rows(&["endpoint", "health", "took", "error"], &rows, &json::array(&objects))
}

/// Asks everyone, prints who answered, and names on standard error who did not.
async fn status(asked: &[(Client, String)], output: Output) -> Result<(), Failure> {
    let answers = futures_util::future::join_all(asked.iter().map(|(client, _)| client.status())).await;
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for ((_, endpoint), answer) in asked.iter().zip(&answers) {
        match answer {
            Ok(status) => {
                rows.push(status_row(endpoint, status));
                let endpoint = json::string(endpoint);
                objects.push(
                    json::Object::new()
                        .raw("Endpoint", endpoint)
                        .raw("Status", json::status(status))
                        .end(),
                );
            }
            Err(error) => eprintln!("Failed to get the status of endpoint {endpoint} ({})", explain(error)),
        }
    }
    output.rows(&STATUS_HEADERS, &rows, &json::array(&objects))?;
    fail_quietly_if(answers.iter().any(Result::is_err))
}

const STATUS_HEADERS: [&str; 16] = [
    "endpoint",
    "ID",
    "version",
    "storage version",
    "db size",
    "in use",
    "percentage not in use",
    "quota",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
    "downgrade target version",
    "downgrade enabled",
];

fn status_row(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let (size, in_use) = (status.db_size.unsigned_abs(), status.db_size_in_use.unsigned_abs());
    // A member without data has nothing unused.
    let unused = (size.saturating_sub(in_use) * 100)
        .checked_div(size)
        .unwrap_or_default();
    let member = status.header.as_ref().map_or(0, |header| header.member_id);
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    vec![
        endpoint.to_owned(),
        format!("{member:x}"),
        status.version.clone(),
        status.storage_version.clone(),
        quote::bytes(size),
        quote::bytes(in_use),
        format!("{unused}%"),
        quote::bytes(status.db_size_quota.unsigned_abs()),
        (status.leader == member).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

/// Exit code 1 without a line: each failure has had its own.
fn fail_quietly_if(failed: bool) -> Result<(), Failure> {
    if failed {
        Err(Failure::new(Exit::Error, ""))
    } else {
        Ok(())
    }
}

async fn hash_kv(asked: &[(Client, String)], revision: i64, output: Output) -> Result<(), Failure> {
    let answers = futures_util::future::join_all(asked.iter().map(|(client, _)| client.hash_kv(revision))).await;
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for ((_, endpoint), answer) in asked.iter().zip(&answers) {
        match answer {
            Ok(hash) => {
                rows.push(vec![
                    endpoint.clone(),
                    hash.hash.to_string(),
                    hash.hash_revision.to_string(),
                ]);
                let endpoint = json::string(endpoint);
                objects.push(
                    json::Object::new()
                        .raw("Endpoint", endpoint)
                        .raw("HashKV", json::hash_kv(hash))
                        .end(),
                );
            }
            Err(error) => eprintln!("Failed to get the hash of endpoint {endpoint} ({})", explain(error)),
        }
    }
    output.rows(&["endpoint", "hash", "hash_revision"], &rows, &json::array(&objects))?;
    fail_quietly_if(answers.iter().any(Result::is_err))
}

#[derive(Debug, Args)]
pub struct MoveLeader {
    /// ID of the member that shall lead, in hexadecimal
    args: Vec<String>,
}

impl MoveLeader {
    /// Only the leader takes this call, and only the given endpoints are asked, as with etcdctl.
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let [target] = self.args.as_slice() else {
            return Err(Failure::arguments("move-leader command needs 1 argument"));
        };
        let target = parse_u64(target, 16).map_err(Failure::arguments)?;
        let output = global.output()?;
        let (client, leader) = leader_among(global).await?;
        let moved = client.move_leader(target).await?;
        let json = json::Object::new().header(moved.header.as_ref()).end();
        output.line(&format!("Leadership transferred from {leader:x} to {target:x}"), &json)
    }
}

async fn leader_among(global: &Global) -> Result<(Client, u64), Failure> {
    for endpoint in &global.endpoints {
        let client = global.client_of(&[endpoint])?;
        let answer: Result<StatusResponse, Error> = client.status().await;
        let status = answer?;
        if status
            .header
            .as_ref()
            .is_some_and(|header| header.member_id == status.leader)
        {
            return Ok((client, status.leader));
        }
    }
    Err(Failure::arguments(format!(
        "no leader endpoint given at [{}]",
        global.endpoints.join(" ")
    )))
}
