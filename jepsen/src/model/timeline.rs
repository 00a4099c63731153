//! Every version of every key, so that the state at any revision can be asked for.
//!
//! ```text
//!   "a" -> [(2, v1), (5, deleted), (9, v2)]        at(5).get("a") == None, at(8) too, at(4) == v1
//! ```
//! Not here: which versions come next (`execute` says, or a log that was observed), and compaction: old states
//! stay readable, because a checker must know what was there before.

use crate::history::{Event, KeyValue};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A fresh store is at revision 1.
pub const FIRST_REVISION: i64 = 1;

#[derive(Clone, Debug)]
pub struct Timeline {
    keys: BTreeMap<String, Vec<Version>>,
    revision: i64,
}

#[derive(Clone, Debug)]
struct Version {
    revision: i64,
    /// None: deleted.
    kv: Option<KeyValue>,
}

impl Default for Timeline {
    fn default() -> Timeline {
        Timeline {
            keys: BTreeMap::new(),
            revision: FIRST_REVISION,
        }
    }
}

impl Timeline {
    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The state after `revision`.
    pub fn at(&self, revision: i64) -> Snapshot<'_> {
        Snapshot {
            timeline: self,
            revision,
        }
    }

    pub fn now(&self) -> Snapshot<'_> {
        self.at(self.revision)
    }

    /// Makes the next revision of `events`; an empty one is a hole in a log of which nothing is known.
    pub fn append(&mut self, events: &[Event]) {
        self.revision += 1;
        for event in events {
            let versions = self.keys.entry(event.kv.key.clone()).or_default();
            // Twice in one revision: the later one is what stays.
            if versions.last().is_some_and(|last| last.revision == self.revision) {
                versions.pop();
            }
            versions.push(Version {
                revision: self.revision,
                kv: (!event.is_delete).then(|| event.kv.clone()),
            });
        }
    }
}

/// The state at one revision.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    timeline: &'a Timeline,
    pub revision: i64,
}

impl<'a> Snapshot<'a> {
    pub fn get(self, key: &str) -> Option<&'a KeyValue> {
        self.timeline.keys.get(key).and_then(|versions| self.pick(versions))
    }

    /// Everything in `[key, range_end)`, by key.
    pub fn range(self, key: &str, range_end: &str) -> impl Iterator<Item = &'a KeyValue> + use<'a> {
        // BTreeMap panics at an end below its start; etcd finds nothing there.
        let is_empty = !range_end.is_empty() && range_end != "\0" && range_end <= key;
        let end = match range_end {
            "\0" => Bound::Unbounded,
            end if end.is_empty() || is_empty => Bound::Included(key),
            end => Bound::Excluded(end),
        };
        let keys = self.timeline.keys.range::<str, _>((Bound::Included(key), end));
        keys.filter(move |_| !is_empty)
            .filter_map(move |(_, versions)| self.pick(versions))
    }

    /// The same timeline at another revision.
    #[must_use]
    pub fn at(self, revision: i64) -> Snapshot<'a> {
        Snapshot { revision, ..self }
    }

    fn pick(self, versions: &'a [Version]) -> Option<&'a KeyValue> {
        let after = versions.partition_point(|version| version.revision <= self.revision);
        versions[..after].last().and_then(|version| version.kv.as_ref())
    }
}

/// Whether `key` is in etcd's `[start, range_end)`.
pub fn contains(start: &str, range_end: &str, key: &str) -> bool {
    match range_end {
        "" => key == start,
        "\0" => key >= start,
        end => key >= start && key < end,
    }
}
