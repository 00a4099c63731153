//! Memory: who allocates, and that memory given back is kept for a while.
//!
//! A member under load frees and allocates megabytes a second (entries, frames, the ring, memtables). Both
//! allocators hand freed memory to the kernel at once, which gives it back a moment later, a fault and a zeroed
//! page at a time: a twelfth of a put's CPU.
//!
//! What is kept is given back when a burst of writes is over (`driver/flusher`). That mimalloc is the allocator is said
//! by the binary (`main`).
//!
//! | allocator | serves | kept |
//! |---|---|---|
//! | mimalloc | Rust | freed pages, for [`PURGE_DELAY_MS`] |
//! | the C library's | RocksDB: memtables are most of it | up to [`KEPT_BYTES`] at the end of its heap |
//!
//! Huge pages are declined: a member's memory grows by small pieces, and to clear 2 MiB for the first of them takes
//! a millisecond, in which the raft or apply thread stands still (p99 of a put: 12 ms with them, 8 without).

use std::ffi::{c_int, c_long};

/// Longer than the pause between two batches, short enough that a burst of large requests is soon forgotten.
const PURGE_DELAY_MS: c_long = 1_000;
/// Two full memtables, which is what a flush frees.
const KEPT_BYTES: c_int = 64 << 20;
/// Above a memtable's blocks (a mebibyte), so that they come from the heap and return to it.
const MAPPED_BYTES: c_int = 32 << 20;
/// What the heap grows by: a system call for a few blocks, not for each.
const GROWTH_BYTES: c_int = 4 << 20;

/// mimalloc's `mi_option_purge_delay`, which its crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Sets both up; to be called before there are threads.
pub fn keep_freed_memory() {
    // SAFETY: all of them only store numbers, and no other thread runs yet.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS);
        for (option, value) in [
            (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
            (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
            (libc::M_TOP_PAD, GROWTH_BYTES),
        ] {
            libc::mallopt(option, value);
        }
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// Both allocators give back what they keep. Takes some milliseconds, and what is needed next comes from the kernel
/// again: for when a burst is over.
pub fn give_back_freed_memory() {
    // SAFETY: both only give pages without contents back to the kernel, and may be called by any thread at any time.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
        libc::malloc_trim(0);
    }
}
