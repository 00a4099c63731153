//! lease: grant, revoke, timetolive, list and keep-alive. Ids are hexadecimal here and decimal in JSON.

use clap::{Args, Subcommand};
use dipper_client::{
    Error, KeepAliveState,
    etcdserverpb::{LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse},
};

use crate::{
    failure::{Exit, Failure, explain},
    global::{Global, parse_i64},
    json,
    output::{Format, Output, print_line},
};

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Creates leases
    Grant(Grant),
    /// Revokes leases
    Revoke(Id),
    /// Gets lease information
    Timetolive(TimeToLive),
    /// Lists all active leases
    List,
    /// Keeps leases alive (renew)
    KeepAlive(KeepAlive),
}

#[derive(Debug, Args)]
pub struct Grant {
    /// TTL in seconds
    args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Id {
    /// Lease ID in hexadecimal
    args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct TimeToLive {
    #[command(flatten)]
    id: Id,
    /// Get keys attached to this lease
    #[arg(long)]
    keys: bool,
}

#[derive(Debug, Args)]
pub struct KeepAlive {
    #[command(flatten)]
    id: Id,
    /// Resets the keep-alive time to its original value and exits at once
    #[arg(long)]
    once: bool,
}

impl Lease {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let output = global.output()?;
        match self {
            Self::Grant(grant) => grant.run(global, output).await,
            Self::Revoke(id) => revoke(&id, global, output).await,
            Self::Timetolive(time_to_live) => time_to_live.run(global, output).await,
            Self::List => list(global, output).await,
            Self::KeepAlive(keep_alive) => keep_alive.run(global, output).await,
        }
    }
}

impl Id {
    fn parse(&self, needs: &str) -> Result<i64, Failure> {
        let [id] = self.args.as_slice() else {
            return Err(Failure::arguments(needs));
        };
        parse_i64(id, 16)
            .map_err(|error| Failure::arguments(format!("bad lease ID arg ({error}), expecting ID in Hex")))
    }
}

impl Grant {
    async fn run(&self, global: &Global, output: Output) -> Result<(), Failure> {
        let [ttl] = self.args.as_slice() else {
            return Err(Failure::arguments("lease grant command needs TTL argument"));
        };
        let ttl = parse_i64(ttl, 10).map_err(|error| Failure::arguments(format!("bad TTL ({error})")))?;
        let granted = global
            .client()?
            .lease_grant(ttl)
            .await
            .map_err(|error| failed("grant", &error))?;
        let json = json::Object::new()
            .header_fields(granted.header.as_ref())
            .raw("ID", granted.id)
            .raw("TTL", granted.ttl)
            .raw("Error", json::string(&granted.error))
            .end();
        output.line(
            &format!("lease {:016x} granted with TTL({}s)", granted.id, granted.ttl),
            &json,
        )
    }
}

fn failed(what: &str, error: &Error) -> Failure {
    Failure::new(Exit::Error, format!("failed to {what} lease ({})", explain(error)))
}

fn bad_connection(error: &Error) -> Failure {
    Failure::new(Exit::BadConnection, explain(error))
}

async fn revoke(id: &Id, global: &Global, output: Output) -> Result<(), Failure> {
    let id = id.parse("lease revoke command needs 1 argument")?;
    let revoked = global
        .client()?
        .lease_revoke(id)
        .await
        .map_err(|error| failed("revoke", &error))?;
    let json = json::Object::new().header(revoked.header.as_ref()).end();
    output.line(&format!("lease {id:016x} revoked"), &json)
}

impl TimeToLive {
    async fn run(&self, global: &Global, output: Output) -> Result<(), Failure> {
        let id = self.id.parse("lease timetolive command needs lease ID as argument")?;
        let request = LeaseTimeToLiveRequest { id, keys: self.keys };
        let left = global
            .client()?
            .lease_time_to_live(request)
            .await
            .map_err(|error| bad_connection(&error))?;
        output.line(&self.line(&left), &time_to_live_json(&left))
    }

    fn line(&self, left: &LeaseTimeToLiveResponse) -> String {
        let (id, granted, ttl) = (left.id, left.granted_ttl, left.ttl);
        if granted == 0 && ttl == -1 {
            return format!("lease {id:016x} already expired");
        }
        let keys: Vec<_> = left.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
        let keys = if self.keys {
            format!(", attached keys([{}])", keys.join(" "))
        } else {
            String::new()
        };
        format!("lease {id:016x} granted with TTL({granted}s), remaining({ttl}s){keys}")
    }
}

fn time_to_live_json(left: &LeaseTimeToLiveResponse) -> String {
    let keys: Vec<_> = left.keys.iter().map(|key| json::base64(key)).collect();
    // A nil slice in Go, and this field is not left out.
    let keys = if keys.is_empty() {
        "null".to_owned()
    } else {
        json::array(&keys)
    };
    json::Object::new()
        .header_fields(left.header.as_ref())
        .raw("id", left.id)
        .raw("ttl", left.ttl)
        .raw("granted-ttl", left.granted_ttl)
        .raw("keys", keys)
        .end()
}

async fn list(global: &Global, output: Output) -> Result<(), Failure> {
    let list = global
        .client()?
        .lease_list()
        .await
        .map_err(|error| bad_connection(&error))?;
    let count = list.leases.len();
    let ids: Vec<_> = list.leases.iter().map(|lease| format!("\n{:016x}", lease.id)).collect();
    let leases: Vec<_> = list
        .leases
        .iter()
        .map(|lease| json::Object::new().raw("id", lease.id).end())
        .collect();
    let json = json::Object::new()
        .header_fields(list.header.as_ref())
        .raw("leases", json::array(&leases))
        .end();
    output.line(&format!("found {count} leases{}", ids.concat()), &json)
}

impl KeepAlive {
    async fn run(&self, global: &Global, output: Output) -> Result<(), Failure> {
        let id = self.id.parse("lease keep-alive command needs lease ID as argument")?;
        let client = global.client()?;
        if self.once {
            let answer = client
                .lease_keep_alive_once(id)
                .await
                .map_err(|error| bad_connection(&error))?;
            return renewed(&answer, output);
        }
        let mut keep_alive = client.lease_keep_alive(id);
        while let Some(state) = keep_alive.changed().await {
            match state {
                KeepAliveState::Starting => {}
                KeepAliveState::Alive(answer) => renewed(&answer, output)?,
                KeepAliveState::Lost(_) => break,
            }
        }
        keep_alive.close().await;
        if output.format == Format::Simple {
            print_line(&format!("lease {id:016x} expired or revoked."))?;
        }
        Ok(())
    }
}

fn renewed(answer: &LeaseKeepAliveResponse, output: Output) -> Result<(), Failure> {
    let json = json::Object::new()
        .header_fields(answer.header.as_ref())
        .raw("ID", answer.id)
        .raw("TTL", answer.ttl)
        .end();
    output.line(
        &format!("lease {:016x} keepalived with TTL({})", answer.id, answer.ttl),
        &json,
    )
}
