//! Memory that a load of many prefixes took and that nobody needs after it goes back to the system.

/// An allocation of so many bytes gets pages of its own, which go back when it is freed.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 1 << 20;

/// To be called once, before there are threads. By itself glibc raises that limit as soon as something large is freed,
/// and gives every thread a heap.
pub(super) fn set_up() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers; it fails for ones that it does not know.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives back what is free. Takes less than a millisecond unless much is.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
