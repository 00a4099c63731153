//! Giving freed memory back to the kernel when a burst of writes is over; what keeps it until then is the binary's
//! choice (`allocator.rs`).

/// Both allocators give back what they keep. Takes some milliseconds, and what is needed next comes from the kernel
/// again: for when a burst is over.
pub fn give_back_freed() {
    // SAFETY: both only give pages without contents back to the kernel, and may be called by any thread at any time.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
        libc::malloc_trim(0);
    }
}
