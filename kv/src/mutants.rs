//! Seeded breaks: bugs that this field has had, switched on by name so that tests can be shown to notice them.
//!
//! Only a build with the feature `mutants` contains them, and even there only the one that the environment
//! variable DIPPER_MUTANT names. Without the feature [`is`] is `false` at compile time.
//!
//! | name | what breaks |
//! |---|---|
//! | count-after-filter | a range's count ignores keys that its revision filters leave out |
//! | noop-delete-bumps | a delete of nothing makes a revision |
//! | value-compare-missing | a VALUE compare treats a missing key as one with an empty value |
//! | reput-keeps-lease | a put without a lease keeps the old one |
//! | compaction-off-by-one | the compacted revision itself cannot be read |
//! | no-sync | the Raft log is written without a sync |

/// Whether this process has the break called `name`.
#[cfg(feature = "mutants")]
pub fn is(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<String> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("DIPPER_MUTANT").unwrap_or_default()) == name
}

/// Whether this process has the break called `name`: never, in this build.
#[cfg(not(feature = "mutants"))]
pub const fn is(_name: &str) -> bool {
    false
}
