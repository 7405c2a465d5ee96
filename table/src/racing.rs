//! Copies between private memory and memory that another thread or process may write at the same time.
//!
//! A racing copy may return torn bytes; whoever asked rechecks a version afterwards and throws the copy away. No
//! reference to the shared bytes is ever formed. On x86-64 the moves are `asm!` blocks, opaque to the compiler (a
//! plain load that races would be undefined); elsewhere, and under Miri, they are relaxed atomic words and bytes.
//! Progress: wait-free, linear in the length.

/// Copies `len` bytes out of shared memory.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes, `to` must be private to the caller, and the two must not overlap.
#[inline]
pub unsafe fn copy_from_shared(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: passed on unchanged from the caller.
    unsafe { imp::copy_from(from, to, len) }
}

/// Copies `len` bytes into shared memory.
///
/// # Safety
/// `from` must be readable and private to the caller (nobody writes it), `to` writable for `len` bytes; no overlap.
#[inline]
pub unsafe fn copy_to_shared(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: passed on unchanged from the caller.
    unsafe { imp::copy_to(from, to, len) }
}

/// Copies `len` bytes between two places of shared memory, both of which may be read or written by others.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes; no overlap.
#[inline]
pub unsafe fn copy_within_shared(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: passed on unchanged from the caller.
    unsafe { imp::copy_both(from, to, len) }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod imp {
    use std::arch::asm;

    pub(super) use copy as copy_from;
    pub(super) use copy as copy_to;
    pub(super) use copy as copy_both;

    /// From here on `rep movsb` beats the loop of 16-byte moves.
    const STRING_MOVE: usize = 512;

    #[inline]
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        if len == 8 {
            // SAFETY: 8 bytes are in bounds on both sides by the caller's promise.
            unsafe { move8(from, to) }
        } else if len >= STRING_MOVE {
            // SAFETY: len bytes are in bounds on both sides; the direction flag is clear by the ABI.
            unsafe {
                asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                     options(nostack, preserves_flags));
            }
        } else if len >= 16 {
            let mut at = 0;
            while at + 16 <= len {
                // SAFETY: at + 16 <= len.
                unsafe { move16(from.add(at), to.add(at)) };
                at += 16;
            }
            if at != len {
                // SAFETY: len >= 16: the last 16 bytes overlap what has been copied.
                unsafe { move16(from.add(len - 16), to.add(len - 16)) };
            }
        } else if len > 8 {
            // SAFETY: 8 < len < 16: two overlapping moves cover it.
            unsafe {
                move8(from, to);
                move8(from.add(len - 8), to.add(len - 8));
            }
        } else {
            // SAFETY: in bounds by the caller's promise.
            unsafe { short(from, to, len) }
        }
    }

    #[inline]
    unsafe fn move16(from: *const u8, to: *mut u8) {
        // SAFETY: 16 bytes in bounds by the callers above; movups needs no alignment.
        unsafe {
            asm!("movups {t}, [{f}]", "movups [{o}], {t}", t = out(xmm_reg) _, f = in(reg) from, o = in(reg) to,
                 options(nostack, preserves_flags));
        }
    }

    #[inline]
    unsafe fn move8(from: *const u8, to: *mut u8) {
        // SAFETY: 8 bytes in bounds by the callers above.
        unsafe {
            asm!("mov {t}, [{f}]", "mov [{o}], {t}", t = out(reg) _, f = in(reg) from, o = in(reg) to,
                 options(nostack, preserves_flags));
        }
    }

    /// Fewer than eight bytes.
    #[inline]
    unsafe fn short(from: *const u8, to: *mut u8, len: usize) {
        if len >= 4 {
            for at in [0, len - 4] {
                // SAFETY: 4 <= len < 8: two overlapping moves cover it.
                unsafe {
                    asm!("mov {t:e}, [{f}]", "mov [{o}], {t:e}", t = out(reg) _, f = in(reg) from.add(at),
                         o = in(reg) to.add(at), options(nostack, preserves_flags));
                }
            }
        } else {
            for at in 0..len {
                // SAFETY: at < len.
                unsafe {
                    asm!("mov {t}, [{f}]", "mov [{o}], {t}", t = out(reg_byte) _, f = in(reg) from.add(at),
                         o = in(reg) to.add(at), options(nostack, preserves_flags));
                }
            }
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod imp {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

    /// One byte, both sides atomic: the slow end of a copy whose sides are not both aligned.
    unsafe fn bytes(from: *const u8, to: *mut u8, len: usize) {
        for at in 0..len {
            // SAFETY: at < len, in bounds by the caller's promise; a byte is always aligned.
            unsafe {
                let byte = AtomicU8::from_ptr(from.add(at).cast_mut()).load(Relaxed);
                AtomicU8::from_ptr(to.add(at)).store(byte, Relaxed);
            }
        }
    }

    pub(super) unsafe fn copy_from(from: *const u8, to: *mut u8, len: usize) {
        let head = from.align_offset(8).min(len);
        // SAFETY: head <= len.
        unsafe { bytes(from, to, head) };
        let mut at = head;
        while at + 8 <= len {
            // SAFETY: from + at is aligned and in bounds; the private side is written unaligned.
            unsafe {
                let word = AtomicU64::from_ptr(from.add(at).cast_mut().cast()).load(Relaxed);
                to.add(at).cast::<u64>().write_unaligned(word);
            }
            at += 8;
        }
        // SAFETY: the rest, below len.
        unsafe { bytes(from.add(at), to.add(at), len - at) };
    }

    pub(super) unsafe fn copy_to(from: *const u8, to: *mut u8, len: usize) {
        let head = to.align_offset(8).min(len);
        // SAFETY: head <= len.
        unsafe { bytes(from, to, head) };
        let mut at = head;
        while at + 8 <= len {
            // SAFETY: to + at is aligned and in bounds; the private side is read unaligned.
            unsafe {
                let word = from.add(at).cast::<u64>().read_unaligned();
                AtomicU64::from_ptr(to.add(at).cast()).store(word, Relaxed);
            }
            at += 8;
        }
        // SAFETY: the rest, below len.
        unsafe { bytes(from.add(at), to.add(at), len - at) };
    }

    pub(super) unsafe fn copy_both(from: *const u8, to: *mut u8, len: usize) {
        if from.align_offset(8) != to.align_offset(8) {
            // SAFETY: in bounds by the caller's promise.
            return unsafe { bytes(from, to, len) };
        }
        // SAFETY: equally aligned: each word is loaded and stored at aligned addresses on both sides.
        unsafe { copy_to_words(from, to, len) }
    }

    unsafe fn copy_to_words(from: *const u8, to: *mut u8, len: usize) {
        let head = to.align_offset(8).min(len);
        // SAFETY: head <= len.
        unsafe { bytes(from, to, head) };
        let mut at = head;
        while at + 8 <= len {
            // SAFETY: both sides are aligned at `at` and in bounds.
            unsafe {
                let word = AtomicU64::from_ptr(from.add(at).cast_mut().cast()).load(Relaxed);
                AtomicU64::from_ptr(to.add(at).cast()).store(word, Relaxed);
            }
            at += 8;
        }
        // SAFETY: the rest, below len.
        unsafe { bytes(from.add(at), to.add(at), len - at) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_alignment_copies_exactly() {
        let source: Vec<u8> = (0..1400u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for copy in [copy_from_shared, copy_to_shared, copy_within_shared] {
            for len in (0..80).chain([127, 128, 129, 255, 256, 257, 511, 512, 513, 1300]) {
                for (skew_from, skew_to) in [(0, 0), (1, 0), (0, 3), (5, 5), (7, 2)] {
                    let mut target = vec![0xeeu8; 1440];
                    // SAFETY: both vectors are longer than skew + len.
                    unsafe { copy(source.as_ptr().add(skew_from), target.as_mut_ptr().add(8 + skew_to), len) };
                    let start = 8 + skew_to;
                    assert_eq!(target[start..start + len], source[skew_from..skew_from + len]);
                    assert!(target[..start].iter().chain(&target[start + len..]).all(|&b| b == 0xee), "{len}");
                }
            }
        }
    }
}
