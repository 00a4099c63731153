//! Seeded bugs: what a test that cannot see them would be worth nothing against.
//!
//! Those of the core are compiled in by the feature `mutants` and chosen by name for the thread that runs the
//! simulation. Those of a layer that the simulator models itself (the disk, the network, the driver's loop, the
//! client) are bugs of that model: they show that the judge sees such a bug, and the layer's own tests must show
//! that the real code has none.

/// Which bug a simulated cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutant {
    #[default]
    None,
    /// In `kv` or `raft-node`, by its name there.
    Core(&'static str),
    /// After a failed sync the log thread syncs again, and believes it.
    SyncRetried,
    /// A new log file takes the old one's place, and its directory is not synced.
    DirectoryNotSynced,
    /// A log is read up to the first broken record, whatever MARK says.
    PointInTimeRecovery,
    /// Leases are measured by a clock that an operator may set.
    LeaseByWallClock,
    /// A client sends a transaction again whose outcome it does not know.
    ClientRetries,
    /// The files of a snapshot are taken as they come.
    SnapshotUnchecked,
    /// The log thread says that a write is durable when it is only written.
    PersistedBeforeSync,
    /// The network delivers a forwarded write twice.
    ForwardTwice,
    /// A crash loses what was synced last.
    SyncIsLost,
    /// One member leaves an entry out.
    EntryIsSkipped,
}

/// A row of the table: number in the plan (or what it is instead), the bug, and where it sits.
#[derive(Clone, Copy, Debug)]
pub struct Seeded {
    pub number: &'static str,
    pub what: &'static str,
    pub layer: &'static str,
    /// `None`: it waits for a capability, which `layer` names.
    pub mutant: Option<Mutant>,
}

const fn seeded(number: &'static str, what: &'static str, layer: &'static str, mutant: Mutant) -> Seeded {
    Seeded {
        number,
        what,
        layer,
        mutant: Some(mutant),
    }
}

const fn pending(number: &'static str, what: &'static str, capability: &'static str) -> Seeded {
    Seeded {
        number,
        what,
        layer: capability,
        mutant: None,
    }
}

/// All of them, in the order of the plan.
pub const SEEDED: &[Seeded] = &[
    seeded(
        "m1",
        "acknowledged before its sync",
        "core: replica",
        Mutant::Core("ack-before-sync"),
    ),
    seeded(
        "m2",
        "a vote is not persisted",
        "core: replica",
        Mutant::Core("vote-not-persisted"),
    ),
    seeded(
        "m3",
        "the applied index in a batch of its own",
        "core: kv",
        Mutant::Core("applied-apart"),
    ),
    seeded(
        "m4",
        "a read without a read index",
        "core: replica",
        Mutant::Core("read-without-index"),
    ),
    seeded(
        "m5",
        "a read index's context is used again",
        "core: replica",
        Mutant::Core("read-context-reused"),
    ),
    seeded(
        "m6",
        "a read before the term's first commit",
        "core: replica",
        Mutant::Core("read-before-noop"),
    ),
    seeded(
        "m7",
        "reads are served while a snapshot is installed",
        "core: replica",
        Mutant::Core("serve-while-installing"),
    ),
    seeded(
        "m8",
        "a failed sync is retried",
        "simulated log thread",
        Mutant::SyncRetried,
    ),
    seeded(
        "m9",
        "a directory is not synced",
        "simulated disk",
        Mutant::DirectoryNotSynced,
    ),
    seeded(
        "m10",
        "point-in-time recovery without MARK",
        "simulated disk",
        Mutant::PointInTimeRecovery,
    ),
    seeded(
        "m11",
        "a deposed leader ends leases",
        "core: replica and kv",
        Mutant::Core("stale-leader-revokes"),
    ),
    seeded(
        "m12",
        "leases by the wall clock",
        "simulated driver",
        Mutant::LeaseByWallClock,
    ),
    seeded(
        "m13",
        "a watch drops events at a page's end",
        "core: kv",
        Mutant::Core("watch-drops"),
    ),
    seeded(
        "m14",
        "progress is told before its events",
        "core: watch cursor",
        Mutant::Core("progress-not-synced"),
    ),
    seeded(
        "m15",
        "a compaction takes the event at its revision",
        "core: kv",
        Mutant::Core("compaction-takes-one-more"),
    ),
    seeded(
        "m16",
        "a transaction compares after it has written",
        "core: kv",
        Mutant::Core("compare-after-write"),
    ),
    pending("m17", "permissions are checked at the top level only", "auth"),
    seeded(
        "m18",
        "a delete of nothing makes a revision",
        "core: kv",
        Mutant::Core("noop-delete-bumps"),
    ),
    seeded(
        "m19",
        "a client retries transactions",
        "simulated client",
        Mutant::ClientRetries,
    ),
    pending("m20", "a learner counts in the quorum", "membership change"),
    pending(
        "m21",
        "a single-step change without the term's first commit",
        "membership change",
    ),
    seeded(
        "m22",
        "a snapshot without a checksum",
        "simulated transfer",
        Mutant::SnapshotUnchecked,
    ),
    seeded(
        "m23",
        "the order of a hash table in apply",
        "core: kv",
        Mutant::Core("unordered-apply"),
    ),
    pending("m24", "no pre-vote with a removed member", "membership change"),
    seeded(
        "b1",
        "durable is said when written",
        "simulated log thread",
        Mutant::PersistedBeforeSync,
    ),
    seeded(
        "b2",
        "a forwarded write arrives twice",
        "simulated network",
        Mutant::ForwardTwice,
    ),
    seeded("b3", "a sync is lost", "simulated disk", Mutant::SyncIsLost),
    seeded(
        "b4",
        "a member leaves an entry out",
        "simulated driver",
        Mutant::EntryIsSkipped,
    ),
];

/// The bug of a number, or of a name in the core.
pub fn by_number(number: &str) -> Option<Mutant> {
    SEEDED.iter().find(|seeded| seeded.number == number)?.mutant
}
