//! Seeded breaks: bugs that this field has had, switched on by name so that tests can be shown to notice them.
//!
//! Only a build with the feature `mutants` contains them, and even there only the one that the environment
//! variable DIPPER_MUTANT names, or that a simulation chose for its own thread. Without the feature [`is`] is
//! `false` at compile time.
//!
//! | name | what breaks |
//! |---|---|
//! | count-after-filter | a range's count ignores keys that its revision filters leave out |
//! | noop-delete-bumps | a delete of nothing makes a revision |
//! | value-compare-missing | a VALUE compare treats a missing key as one with an empty value |
//! | reput-keeps-lease | a put without a lease keeps the old one |
//! | compaction-off-by-one | the compacted revision itself cannot be read |
//! | no-sync | the Raft log is written without a sync |
//! | ack-before-sync | messages that promise durability leave before the log is synced |
//! | vote-not-persisted | a vote without entries is not written |
//! | read-without-index | a read is answered from whatever is applied |
//! | read-context-reused | every round of read index has the same context |
//! | read-before-noop | a new leader answers reads before it has committed in its term |
//! | serve-while-installing | reads behind a snapshot are answered before its state is there |
//! | stale-leader-revokes | a member that leads no more ends leases by its own clock |
//! | applied-apart | the applied index is written before what was applied |
//! | watch-drops | events beyond the first page of a watch are forgotten |
//! | compaction-takes-one-more | the event at the compacted revision goes, too |
//! | compare-after-write | a nested compare sees what the outer transaction wrote |
//! | progress-not-synced | a watch tells progress before the events up to it |
//! | unordered-apply | the keys of an ended lease are deleted in any order |

#[cfg(feature = "mutants")]
thread_local! {
    /// What a simulation chose for its thread, and a number that is different at every use.
    static HERE: std::cell::Cell<(Option<&'static str>, u64)> = const { std::cell::Cell::new((None, 0)) };
}

/// From here on this thread has the break called `name`, whatever the environment says.
#[cfg(feature = "mutants")]
pub fn choose(name: &'static str) {
    HERE.set((Some(name), 0));
}

/// A number that is different at every use, as the order of a hash table is; 0 without the feature.
#[cfg(feature = "mutants")]
pub fn draw() -> usize {
    let (name, number) = HERE.get();
    HERE.set((name, number + 1));
    number as usize
}

/// A number that is different at every use, as the order of a hash table is; 0 without the feature.
#[cfg(not(feature = "mutants"))]
pub const fn draw() -> usize {
    0
}

/// Whether this thread or process has the break called `name`.
#[cfg(feature = "mutants")]
pub fn is(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<String> = OnceLock::new();
    let chosen = || CHOSEN.get_or_init(|| std::env::var("DIPPER_MUTANT").unwrap_or_default());
    HERE.get().0.map_or_else(|| chosen() == name, |here| here == name)
}

/// Whether this process has the break called `name`: never, in this build.
#[cfg(not(feature = "mutants"))]
pub const fn is(_name: &str) -> bool {
    false
}
