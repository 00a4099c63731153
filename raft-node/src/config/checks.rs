//! Which values go together: the refusals of a configuration that can be read but must not be run.
//!
//! The texts are etcd's where etcd has one; each names its flags.

use std::collections::BTreeSet;
use std::path::Path;

use super::InitialMember;
use super::flags::Value;
use super::urls::{self, Url};
use crate::error::{Cause, StartError};
use crate::ids::MemberId;
use crate::limits::{ELECTION_TIMEOUT_MAX, TICK};

/// The refusal of a text that a flag cannot have.
pub fn bad_value(value: &Value, why: &str) -> StartError {
    StartError::new(
        Cause::BadValue,
        format!("invalid value {:?} for {}: {why}", value.text, value.origin),
    )
}

/// Refuses all but the one text that a flag can have.
pub fn only_choice(value: &Value, choice: &str) -> Result<(), StartError> {
    if value.text == choice {
        return Ok(());
    }
    Err(bad_value(value, &format!("only '{choice}' is served")))
}

/// Refuses a number beyond its bounds.
pub fn within(value: &Value, number: u64, min: u64, max: u64) -> Result<(), StartError> {
    if (min..=max).contains(&number) {
        return Ok(());
    }
    let text = format!(
        "{}[{number}] is out of bounds: from {min} to {max} is allowed",
        value.origin
    );
    Err(StartError::new(Cause::OutOfBounds, text))
}

/// Refuses an empty list of URLs.
pub fn not_empty<T>(value: &Value, urls: Vec<T>) -> Result<Vec<T>, StartError> {
    if urls.is_empty() {
        Err(bad_value(value, "at least one URL is needed"))
    } else {
        Ok(urls)
    }
}

/// etcd's rule: whoever says where to listen must say what clients are told.
pub fn advertise_missing() -> StartError {
    let text = "--advertise-client-urls is required when --listen-client-urls is set explicitly: clients are told these \
                URLs, and dipper cannot guess which of its addresses they can reach";
    StartError::new(Cause::AdvertiseMissing, text)
}

/// Refuses a name that could not stand in `--initial-cluster`.
pub fn name(name: &str) -> Result<String, StartError> {
    if name.is_empty() || name.contains([',', '=']) || name.contains(char::is_control) {
        let text =
            format!("{name:?} cannot be a member's name (--name): it must not be empty nor have ',' or '=' in it");
        return Err(StartError::new(Cause::BadName, text));
    }
    Ok(name.to_owned())
}

/// Refuses a log directory that could not be told from the data directory.
pub fn directories(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), StartError> {
    let Some(wal_dir) = wal_dir else { return Ok(()) };
    if wal_dir.starts_with(data_dir) || data_dir.starts_with(wal_dir) {
        return Err(overlapping(data_dir, wal_dir));
    }
    Ok(())
}

/// The refusal of a log directory within the data directory or around it.
pub fn overlapping(data_dir: &Path, wal_dir: &Path) -> StartError {
    let (data_dir, wal_dir) = (data_dir.display(), wal_dir.display());
    let text =
        format!("--wal-dir {wal_dir} must be a directory apart from --data-dir {data_dir}, not within or around it");
    StartError::new(Cause::WalDirOverlaps, text)
}

/// Refuses heartbeats and elections that could not keep a leader.
pub fn intervals(heartbeat_ms: u64, election_ms: u64) -> Result<(), StartError> {
    let tick_ms = TICK.as_millis() as u64;
    let max_ms = ELECTION_TIMEOUT_MAX.as_millis() as u64;
    if heartbeat_ms < tick_ms {
        let text = format!("--heartbeat-interval[{heartbeat_ms}ms] is shorter than one tick ({tick_ms}ms)");
        return Err(StartError::new(Cause::HeartbeatTooShort, text));
    }
    if election_ms / 5 < heartbeat_ms {
        let text = format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as \
             --heartbeat-interval[{heartbeat_ms}ms]"
        );
        return Err(StartError::new(Cause::ElectionTooShort, text));
    }
    if election_ms > max_ms {
        let text = format!("--election-timeout[{election_ms}ms] is too long, and should be set less than {max_ms}ms");
        return Err(StartError::new(Cause::ElectionTooLong, text));
    }
    Ok(())
}

/// Reads `name=url,name=url`; a name may occur several times, once for each of its URLs.
pub fn parse_cluster(value: &Value) -> Result<Vec<(String, Vec<Url>)>, StartError> {
    let mut members: Vec<(String, Vec<Url>)> = Vec::new();
    for part in value.text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, url)) = part.split_once('=') else {
            return Err(bad_value(value, &format!("{part:?} is not of the form name=url")));
        };
        let urls = urls::parse_advertised(url, &value.origin)?;
        if name.is_empty() || urls.is_empty() {
            return Err(bad_value(value, &format!("{part:?} is not of the form name=url")));
        }
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.extend(urls),
            None => members.push((name.to_owned(), urls)),
        }
    }
    Ok(members)
}

/// Checks the initial cluster as a whole and gives each member its id.
pub fn initial_cluster(
    members: Vec<(String, Vec<Url>)>,
    own_name: &str,
    own_urls: &[Url],
    token: &str,
) -> Result<Vec<InitialMember>, StartError> {
    let Some((_, listed)) = members.iter().find(|(name, _)| name == own_name) else {
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        let text = format!(
            "couldn't find local name {own_name:?} in the initial cluster configuration (--name, --initial-cluster has: \
             {})",
            names.join(", ")
        );
        return Err(StartError::new(Cause::NotInCluster, text));
    };
    check_advertised(own_name, listed, own_urls)?;
    check_duplicates(&members)?;
    let mut members: Vec<InitialMember> = members
        .into_iter()
        .map(|(name, mut peer_urls)| {
            peer_urls.sort();
            InitialMember {
                id: MemberId::of_initial(&peer_urls, token),
                name,
                peer_urls,
            }
        })
        .collect();
    members.sort_by_key(|member| member.id);
    Ok(members)
}

fn check_advertised(name: &str, listed: &[Url], own: &[Url]) -> Result<(), StartError> {
    let all_in = |some: &[Url], others: &[Url]| some.iter().all(|url| others.iter().any(|other| url.same_place(other)));
    if all_in(listed, own) && all_in(own, listed) {
        return Ok(());
    }
    let join = |urls: &[Url]| urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",");
    let (listed, own) = (join(listed), join(own));
    let text = format!("--initial-cluster has {name}={listed} but missing from --initial-advertise-peer-urls={own}");
    Err(StartError::new(Cause::AdvertiseDiffers, text))
}

fn check_duplicates(members: &[(String, Vec<Url>)]) -> Result<(), StartError> {
    let mut seen = BTreeSet::new();
    for url in members.iter().flat_map(|(_, urls)| urls) {
        if !seen.insert(url.as_str()) {
            let text = format!("--initial-cluster has duplicate url {url}: each member needs its own");
            return Err(StartError::new(Cause::DuplicateUrl, text));
        }
    }
    Ok(())
}
