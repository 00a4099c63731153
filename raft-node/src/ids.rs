//! Member and cluster ids by etcd's algorithm, so that a cluster with the same flags has the same ids in both.
//!
//! A member's id is the first eight bytes of SHA-1 over its sorted peer URLs and the cluster token; the cluster's id
//! the same over its members' ids in ascending order. Not here: incarnations (`data_dir`), which are random.

use std::fmt;

use sha1::{Digest, Sha1};

/// A member's id, the one of raft, of etcd's API and of FORMAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// A cluster's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl MemberId {
    /// The id of a member of an initial cluster. The URLs' order does not matter, their spelling does.
    pub fn of_initial(peer_urls: &[impl AsRef<str>], token: &str) -> Self {
        let mut urls: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
        urls.sort_unstable();
        let mut hash = Sha1::new();
        for url in urls {
            hash.update(url.as_bytes());
        }
        hash.update(token.as_bytes());
        Self(first_eight_bytes(hash))
    }
}

impl ClusterId {
    /// The id of the cluster that starts with these members, in any order.
    pub fn of_initial(members: &[MemberId]) -> Self {
        let mut members = members.to_vec();
        members.sort_unstable();
        let mut hash = Sha1::new();
        for member in members {
            hash.update(member.0.to_be_bytes());
        }
        Self(first_eight_bytes(hash))
    }
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}

// etcd prints ids in lower-case hexadecimal without prefix and without leading zeros.
impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(members: &[&[&str]], token: &str) -> (Vec<String>, String) {
        let members: Vec<MemberId> = members.iter().map(|urls| MemberId::of_initial(urls, token)).collect();
        (
            members.iter().map(ToString::to_string).collect(),
            ClusterId::of_initial(&members).to_string(),
        )
    }

    /// etcd's own e2e test TestCtlV3GetFormat hard-codes this cluster id.
    #[test]
    fn the_cluster_id_of_etcds_test() {
        assert_eq!(ids(&[&["https://localhost:20001"]], "new").1, "34c21a2d427db393");
    }

    /// Printed by etcd 3.4.23 started with these flags.
    #[test]
    fn the_ids_that_etcd_prints() {
        let (members, cluster) = ids(&[&["http://localhost:2380"]], "etcd-cluster");
        assert_eq!(
            (members[0].as_str(), cluster.as_str()),
            ("8e9e05c52164694d", "cdf818194e3a8c32")
        );

        let three: [&[&str]; 3] = [
            &["http://127.0.0.1:42380"],
            &["http://127.0.0.1:42390"],
            &["http://127.0.0.1:42400"],
        ];
        let (members, cluster) = ids(&three, "tok-1");
        assert_eq!(members, ["832985029aad8ffd", "de5d2ccc2d0be8e6", "a461f5db4ce49e75"]);
        assert_eq!(cluster, "5aaa61337a89a12e");

        // Two URLs given in descending order, no token, and an id that would have a leading zero.
        let (members, cluster) = ids(&[&["http://127.0.0.1:42381", "http://127.0.0.1:42380"]], "");
        assert_eq!(
            (members[0].as_str(), cluster.as_str()),
            ("d30757d1187e17d", "cf5f8aee5ce457f8")
        );
    }
}
