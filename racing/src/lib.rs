//! Copies of memory that other processes may be writing, or reading, at the same time.
//!
//! A slice of such memory would promise the compiler that it does not change; a plain copy would be a data race. What is copied
//! here moves through inline assembly, which the compiler cannot look into, or through relaxed atomic bytes where there is none
//! (other architectures, Miri). A copy may be torn: every byte of the result was at its place at some moment of the copy, no
//! more. Whoever calls validates afterwards, and orders the copy with fences of its own: these moves order nothing.

/// From this length on, one string move beats a loop of vector moves: below it its start-up costs more than it saves.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STRING_MOVE: usize = 4096;

/// Copies `len` bytes from `src` to `dst`; either side may be in use by other processes.
///
/// # Safety
/// `src` must be mapped for reads and `dst` for writes of `len` bytes during the call, and the two must not overlap. Neither
/// may be covered by a Rust reference to non-atomic memory that outlives the call, on this side or `dst`'s.
#[inline]
pub unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise, passed on.
    unsafe {
        x86_64::copy(src, dst, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: the caller's promise, passed on.
    unsafe {
        bytes(src, dst, len);
    }
}

/// Copies like [`copy`], its first choice being a few bytes: code for those stands where it is called.
///
/// # Safety
/// As [`copy`].
#[inline(always)]
pub unsafe fn copy_few(src: *const u8, dst: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if (8..=16).contains(&len) {
        // SAFETY: the caller's promise, passed on; the two words cover `len` bytes.
        return unsafe { x86_64::copy_two_words(src, dst, len) };
    }
    // SAFETY: the caller's promise, passed on.
    unsafe { copy(src, dst, len) }
}

/// Whether the bytes at `shared`, which other processes may be writing, are the ones of `private`; read once each.
///
/// # Safety
/// `shared` must be mapped for reads of as many bytes as `private` has.
#[inline(always)]
pub unsafe fn equal(shared: *const u8, private: &[u8]) -> bool {
    let len = private.len();
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= 8 {
        let (theirs, mine, mut at) = (shared, private.as_ptr(), 0);
        // Words and no vectors: a key that its owner has just put together of words would have to reach memory before a core can read it as
        // a vector, and whatever comes after would wait for that.
        // SAFETY: every word lies within `len` bytes of both sides, the last one overlapping the one before.
        unsafe {
            while at + 8 < len {
                if !x86_64::equal8(theirs.add(at), mine.add(at)) {
                    return false;
                }
                at += 8;
            }
            return x86_64::equal8(theirs.add(len - 8), mine.add(len - 8));
        }
    }
    let (mut room, mut at) = ([0u8; 64], 0);
    while at < len {
        let part = (len - at).min(room.len());
        // SAFETY: the source is the caller's promise; the target is a local of at least `part` bytes.
        unsafe { copy(shared.add(at), room.as_mut_ptr(), part) };
        if room[..part] != private[at..at + part] {
            return false;
        }
        at += part;
    }
    true
}

/// Which of the eight words of a line have the bits `high` in their upper halves, where `mask` is set: bit n stands for word n. The words
/// may be written by others meanwhile; each is read once.
///
/// # Safety
/// `line` must be mapped for reads of 64 bytes and a multiple of 16.
#[inline(always)]
pub unsafe fn high_halves_equal(line: *const u8, high: u32, mask: u32) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise, passed on.
    unsafe {
        x86_64::high_halves_equal(line, high, mask)
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        (0..8).fold(0, |found, index| {
            // SAFETY: within the caller's 64 bytes and aligned; atomic access allows the race.
            let word = unsafe { (*line.cast::<AtomicU64>().add(index)).load(Relaxed) };
            found | u32::from((word >> 32) as u32 & mask == high) << index
        })
    }
}

/// Copies like [`copy`], but past the caches: for bytes that another core reads next, and this one does not need again. Where two cores
/// are far apart, lines that one has written come over one by one; from memory the reader fetches them ahead.
///
/// # Safety
/// As [`copy`].
#[inline]
pub unsafe fn copy_streaming(src: *const u8, dst: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: the caller's promise, passed on; the aligned middle lies within `len` bytes of both sides.
    unsafe {
        let head = dst.align_offset(64).min(len);
        let lines = (len - head) / 64;
        x86_64::copy(src, dst, head);
        x86_64::stream_lines(src.add(head), dst.add(head), lines);
        let done = head + lines * 64;
        x86_64::copy(src.add(done), dst.add(done), len - done);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: the caller's promise, passed on.
    unsafe {
        copy(src, dst, len);
    }
}

#[cfg(any(test, miri, not(target_arch = "x86_64")))]
unsafe fn bytes(src: *const u8, dst: *mut u8, len: usize) {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
    let mut at = 0;
    if (src as usize | dst as usize).is_multiple_of(8) {
        while at + 8 <= len {
            // SAFETY: both are within the caller's ranges and 8-byte aligned; atomic access allows the race.
            unsafe {
                (*dst.add(at).cast::<AtomicU64>()).store((*src.add(at).cast::<AtomicU64>()).load(Relaxed), Relaxed);
            }
            at += 8;
        }
    }
    while at < len {
        // SAFETY: both are within the caller's ranges; atomic access allows the race.
        unsafe {
            (*dst.add(at).cast::<AtomicU8>()).store((*src.add(at).cast::<AtomicU8>()).load(Relaxed), Relaxed);
        }
        at += 1;
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86_64 {
    use std::arch::asm;
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_ps, _mm_set1_epi32,
        _mm_shuffle_ps,
    };

    macro_rules! mover {
        ($name:ident, $reg:ident, $value:ty, $load:literal, $store:literal) => {
            /// Moves one word of this width, aligned or not.
            #[inline(always)]
            unsafe fn $name(src: *const u8, dst: *mut u8) {
                let word: $value;
                // SAFETY: the caller promises that both places are mapped; the assembly touches nothing else.
                unsafe {
                    asm!($load, word = out($reg) word, src = in(reg) src, options(nostack, preserves_flags, readonly));
                    asm!($store, word = in($reg) word, dst = in(reg) dst, options(nostack, preserves_flags));
                }
            }
        };
    }
    mover!(move16, xmm_reg, core::arch::x86_64::__m128i, "movdqu {word}, [{src}]", "movdqu [{dst}], {word}");
    mover!(move8, reg, u64, "mov {word}, [{src}]", "mov [{dst}], {word}");
    mover!(move4, reg, u32, "mov {word:e}, [{src}]", "mov [{dst}], {word:e}");
    mover!(move2, reg, u16, "mov {word:x}, [{src}]", "mov [{dst}], {word:x}");
    mover!(move1, reg_byte, u8, "mov {word}, [{src}]", "mov [{dst}], {word}");

    /// Moves 8 to 16 bytes as two words that overlap.
    #[inline(always)]
    pub(super) unsafe fn copy_two_words(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: both words lie within `len` bytes of both sides.
        unsafe {
            move8(src, dst);
            move8(src.add(len - 8), dst.add(len - 8));
        }
    }

    /// Reads 16 bytes that others may be writing.
    #[inline(always)]
    unsafe fn load16(src: *const u8) -> __m128i {
        let words: __m128i;
        // SAFETY: the caller promises that the place is mapped; the assembly touches nothing else.
        unsafe {
            asm!("movdqu {words}, [{src}]", words = out(xmm_reg) words, src = in(reg) src, options(nostack, preserves_flags, readonly));
        }
        words
    }

    /// Whether 8 shared bytes are 8 private ones.
    #[inline(always)]
    pub(super) unsafe fn equal8(shared: *const u8, private: *const u8) -> bool {
        let word: u64;
        // SAFETY: the caller promises that both places are mapped; the assembly touches nothing else.
        unsafe {
            asm!("mov {word}, [{src}]", word = out(reg) word, src = in(reg) shared, options(nostack, preserves_flags, readonly));
            word == private.cast::<u64>().read_unaligned()
        }
    }

    /// See [`super::high_halves_equal`].
    #[inline(always)]
    pub(super) unsafe fn high_halves_equal(line: *const u8, high: u32, mask: u32) -> u32 {
        // SAFETY: the four parts lie within the caller's 64 bytes.
        unsafe {
            let (wanted, mask) = (_mm_set1_epi32(high as i32), _mm_set1_epi32(mask as i32));
            // The upper halves of four words side by side.
            let four = |at: usize| {
                let (two, more) = (_mm_castsi128_ps(load16(line.add(at))), _mm_castsi128_ps(load16(line.add(at + 16))));
                let halves = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(two, more));
                _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(_mm_and_si128(halves, mask), wanted))) as u32
            };
            four(0) | four(32) << 4
        }
    }

    /// Moves a cache line's worth: all loads before the stores, so that misses overlap.
    #[inline(always)]
    unsafe fn move64(src: *const u8, dst: *mut u8) {
        // SAFETY: the caller promises that both places are mapped; the assembly touches nothing else.
        unsafe {
            asm!(
                "movdqu {a}, [{src}]", "movdqu {b}, [{src} + 16]", "movdqu {c}, [{src} + 32]", "movdqu {d}, [{src} + 48]",
                "movdqu [{dst}], {a}", "movdqu [{dst} + 16], {b}", "movdqu [{dst} + 32], {c}", "movdqu [{dst} + 48], {d}",
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                src = in(reg) src, dst = in(reg) dst, options(nostack, preserves_flags)
            );
        }
    }

    /// Writes whole lines past the caches, and orders them before the caller's next stores. `dst` is aligned to a line.
    #[inline]
    pub(super) unsafe fn stream_lines(src: *const u8, dst: *mut u8, lines: usize) {
        for line in 0..lines {
            // SAFETY: the caller promises that both places are mapped and `dst` is aligned; the assembly touches nothing else.
            unsafe {
                asm!(
                    "movdqu {a}, [{src}]", "movdqu {b}, [{src} + 16]", "movdqu {c}, [{src} + 32]", "movdqu {d}, [{src} + 48]",
                    "movntdq [{dst}], {a}", "movntdq [{dst} + 16], {b}", "movntdq [{dst} + 32], {c}", "movntdq [{dst} + 48], {d}",
                    a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                    src = in(reg) src.add(line * 64), dst = in(reg) dst.add(line * 64), options(nostack, preserves_flags)
                );
            }
        }
        // SAFETY: a fence touches no memory. Streaming stores are not ordered by the release store that follows without it.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    }

    /// See [`super::copy`].
    #[inline]
    pub(super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: every branch stays within `len` bytes of both sides: tails are moved as the last whole word, overlapping
        // what was moved before.
        unsafe {
            if len >= super::STRING_MOVE {
                asm!(
                    "rep movsb",
                    inout("rcx") len => _, inout("rsi") src => _, inout("rdi") dst => _,
                    options(nostack, preserves_flags)
                );
            } else if len >= 16 {
                let last = len - 16;
                let mut at = 0;
                while at + 64 <= last {
                    move64(src.add(at), dst.add(at));
                    at += 64;
                }
                while at < last {
                    move16(src.add(at), dst.add(at));
                    at += 16;
                }
                move16(src.add(last), dst.add(last));
            } else if len >= 8 {
                move8(src, dst);
                move8(src.add(len - 8), dst.add(len - 8));
            } else if len >= 4 {
                move4(src, dst);
                move4(src.add(len - 4), dst.add(len - 4));
            } else if len >= 2 {
                move2(src, dst);
                move2(src.add(len - 2), dst.add(len - 2));
            } else if len == 1 {
                move1(src, dst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn copies_every_length_at_every_alignment(data in proptest::collection::vec(any::<u8>(), 0..1500), from in 0usize..9, to in 0usize..9) {
            let mut source = vec![0xAA; from];
            source.extend_from_slice(&data);
            for routine in [super::copy as unsafe fn(*const u8, *mut u8, usize), super::copy_streaming, super::copy_few, super::bytes] {
                let mut target = vec![0x55u8; to + data.len() + 8];
                // SAFETY: both ranges are inside the vectors.
                unsafe { routine(source.as_ptr().add(from), target.as_mut_ptr().add(to), data.len()) };
                prop_assert_eq!(&target[to..to + data.len()], &data[..]);
                // SAFETY: as long as the data.
                let same = unsafe { super::equal(target.as_ptr().add(to), &data) };
                prop_assert!(same);
                if let Some(wrong) = data.len().checked_sub(1).map(|last| from * 97 % (last + 1)) {
                    let mut other = data.clone();
                    other[wrong] ^= 1;
                    // SAFETY: as long as the data.
                    let same = unsafe { super::equal(target.as_ptr().add(to), &other) };
                    prop_assert!(!same);
                }
                prop_assert!(target[..to].iter().chain(&target[to + data.len()..]).all(|byte| *byte == 0x55));
            }
        }

        #[test]
        fn words_are_told_by_their_upper_halves(words in any::<[u64; 8]>(), which in 0usize..8, mask in any::<u32>()) {
            #[repr(align(64))]
            struct Line([u64; 8]);
            let line = Line(words);
            let high = (words[which] >> 32) as u32 & mask;
            let expected = (0..8).filter(|index| (words[*index] >> 32) as u32 & mask == high).fold(0, |all, index| all | 1 << index);
            // SAFETY: a whole line.
            prop_assert_eq!(unsafe { super::high_halves_equal(line.0.as_ptr().cast(), high, mask) }, expected);
        }
    }
}
