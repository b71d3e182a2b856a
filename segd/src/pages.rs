//! Large buffers in huge pages: to be given 16 MB in pages of 4 kB takes longer than to fill them.

/// Bytes of a huge page on the machines that segd runs on; a wrong number costs time only.
const HUGE: usize = 2 << 20;

/// An empty vector with room for so many. Where the kernel has no huge pages, it is in small ones.
pub(crate) fn vec_with_capacity<T>(capacity: usize) -> Vec<T> {
    let mut vec: Vec<T> = Vec::with_capacity(capacity);
    let room = vec.spare_capacity_mut();
    let (first, bytes) = (room.as_mut_ptr(), size_of_val(room));
    // madvise(2) wants whole pages.
    let skipped = first.addr().next_multiple_of(HUGE) - first.addr();
    if let Some(inside) = bytes.checked_sub(skipped).map(|rest| rest / HUGE * HUGE).filter(|rest| *rest > 0) {
        // SAFETY: the range lies within the vector's own memory, and MADV_HUGEPAGE changes nothing of what is there.
        unsafe {
            libc::madvise(first.cast::<u8>().add(skipped).cast(), inside, libc::MADV_HUGEPAGE);
        }
    }
    vec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_size_has_room() {
        for capacity in [0, 1, 1000, HUGE / 8, HUGE, 3 * HUGE / 8 + 1] {
            let mut vec: Vec<u64> = vec_with_capacity(capacity);
            assert!(vec.capacity() >= capacity);
            vec.extend(0..capacity as u64);
            assert!(vec.iter().copied().eq(0..capacity as u64));
        }
        assert_eq!(vec_with_capacity::<()>(7).len(), 0);
    }
}
