//! The memory under the table, reached by offset only: every access is checked against the length, so that no
//! value read from the region can lead outside it.
//!
//! Under `cfg(loom)` the same type stands on a vector of loom atomics and the algorithms above run unchanged.

use crate::sync::{AtomicU64, Ordering::Relaxed};

#[cfg(not(loom))]
use std::ptr::NonNull;

/// A range of shared memory, valid for reads (and in a writer for writes) of its whole length.
#[cfg(not(loom))]
#[derive(Clone)]
pub(crate) struct Section {
    base: NonNull<u8>,
    len: u64,
}

/// The words of a bucket or overflow line.
#[cfg(not(loom))]
#[repr(transparent)]
pub(crate) struct LineWords(pub(crate) [AtomicU64; 8]);

// SAFETY: the section is only a pointer; all access goes through atomics or racing copies.
#[cfg(not(loom))]
unsafe impl Send for Section {}
// SAFETY: as above.
#[cfg(not(loom))]
unsafe impl Sync for Section {}

#[cfg(not(loom))]
impl Section {
    /// # Safety
    /// `base` must be 64-aligned and mapped for `len` bytes as long as the section or a clone of it lives; if any
    /// method that stores is called, writable.
    pub(crate) unsafe fn new(base: NonNull<u8>, len: u64) -> Section {
        Section { base, len }
    }

    #[inline(always)]
    pub(crate) fn contains(&self, at: u64, len: u64) -> bool {
        at <= self.len && len <= self.len - at
    }

    /// The word at an offset that is a multiple of 8.
    #[inline(always)]
    pub(crate) fn word(&self, at: u64) -> &AtomicU64 {
        assert!(at & 7 == 0 && self.contains(at, 8), "offset outside the section");
        // SAFETY: in bounds and aligned (the base is 64-aligned); all other accesses to shared words are atomic or racing copies.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at as usize).cast()) }
    }

    /// The words of the line at an offset that is a multiple of 8, checked once.
    #[inline(always)]
    pub(crate) fn line(&self, at: u64) -> &LineWords {
        assert!(at & 7 == 0 && self.contains(at, 64), "line outside the section");
        // SAFETY: in bounds and aligned, and atomics may be shared with whoever writes.
        unsafe { &*self.base.as_ptr().add(at as usize).cast::<LineWords>() }
    }

    /// The two words at an offset that is a multiple of 8.
    #[inline(always)]
    pub(crate) fn pair(&self, at: u64) -> &[AtomicU64; 2] {
        assert!(at & 7 == 0 && self.contains(at, 16), "words outside the section");
        // SAFETY: as in `line`.
        unsafe { &*self.base.as_ptr().add(at as usize).cast::<[AtomicU64; 2]>() }
    }

    /// The address of an offset.
    ///
    /// # Safety
    /// The offset must lie inside the section.
    #[inline(always)]
    pub(crate) unsafe fn within(&self, at: u64) -> *const u8 {
        debug_assert!(at <= self.len);
        // SAFETY: passed on from the caller.
        unsafe { self.base.as_ptr().add(at as usize) }
    }

    /// The words of a line, unchecked.
    ///
    /// # Safety
    /// The line must lie inside the section, at a multiple of 8.
    #[inline(always)]
    pub(crate) unsafe fn line_within(&self, at: u64) -> &LineWords {
        debug_assert!(at & 7 == 0 && self.contains(at, 64));
        // SAFETY: passed on from the caller; atomics may be shared with whoever writes.
        unsafe { &*self.within(at).cast::<LineWords>() }
    }

    /// Two words, unchecked.
    ///
    /// # Safety
    /// They must lie inside the section, at a multiple of 8.
    #[inline(always)]
    pub(crate) unsafe fn pair_within(&self, at: u64) -> &[AtomicU64; 2] {
        debug_assert!(at & 7 == 0 && self.contains(at, 16));
        // SAFETY: passed on from the caller; atomics may be shared with whoever writes.
        unsafe { &*self.within(at).cast::<[AtomicU64; 2]>() }
    }

    /// The address of a range; panics when it leaves the section.
    #[inline]
    pub(crate) fn pointer(&self, at: u64, len: u64) -> NonNull<u8> {
        assert!(self.contains(at, len), "range outside the section");
        // SAFETY: at is inside the mapping.
        unsafe { self.base.add(at as usize) }
    }

    /// An address to prefetch; never dereferenced, and inside the section.
    #[inline]
    pub(crate) fn hint(&self, at: u64) -> *const u8 {
        let at = if at < self.len { at } else { 0 };
        self.base.as_ptr().wrapping_add(at as usize)
    }

    /// Racing copy out of the section.
    ///
    /// # Safety
    /// `to` must be writable for `len` private bytes.
    #[inline]
    pub(crate) unsafe fn read(&self, at: u64, to: *mut u8, len: usize) {
        let from = self.pointer(at, len as u64);
        // SAFETY: the source is in bounds, the target by the caller's promise.
        unsafe { racing::copy(from.as_ptr(), to, len) }
    }

    /// Racing copy into the section.
    #[inline]
    pub(crate) fn write(&self, at: u64, from: &[u8]) {
        let to = self.pointer(at, from.len() as u64);
        // SAFETY: the target is in bounds, the source a private slice.
        unsafe { racing::copy(from.as_ptr(), to.as_ptr(), from.len()) }
    }

    /// Racing copy from one place of the section to another that does not overlap it.
    pub(crate) fn copy_inside(&self, from: u64, to: u64, len: u64) {
        assert!(from.abs_diff(to) >= len, "overlapping copy");
        let (source, target) = (self.pointer(from, len), self.pointer(to, len));
        // SAFETY: both in bounds and apart.
        unsafe { racing::copy(source.as_ptr(), target.as_ptr(), len as usize) }
    }

    /// Whether the bytes at `at` (a multiple of 8) equal `bytes`; false when they would leave the section.
    #[inline(always)]
    pub(crate) fn equals(&self, at: u64, bytes: &[u8]) -> bool {
        let len = bytes.len();
        if at & 7 != 0 || !self.contains(at, (len as u64).next_multiple_of(8)) {
            return false;
        }
        let (mine, mut done) = (bytes.as_ptr(), 0);
        // SAFETY: the whole words that cover the range are in bounds and aligned; only `len` bytes of `bytes` are read.
        unsafe {
            let theirs = self.base.as_ptr().add(at as usize).cast::<u64>();
            while done + 8 <= len {
                let word = AtomicU64::from_ptr(theirs.add(done / 8)).load(Relaxed);
                if word != mine.add(done).cast::<u64>().read_unaligned() {
                    return false;
                }
                done += 8;
            }
            if done == len {
                return true;
            }
            let word = AtomicU64::from_ptr(theirs.add(done / 8)).load(Relaxed);
            (word ^ tail_word(&bytes[done..])) << (64 - 8 * (len - done)) == 0
        }
    }
}

/// Fewer than eight bytes as a little-endian word.
#[inline]
fn tail_word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte))
}

#[cfg(loom)]
mod model {
    use super::*;
    use std::sync::Arc;

    /// The section as loom sees it: words only; byte ranges start at a word and are padded with zeros.
    #[derive(Clone)]
    pub(crate) struct Section(Arc<Vec<AtomicU64>>);

    impl Section {
        pub(crate) fn zeroed(len: u64) -> Section {
            Section(Arc::new((0..len / 8).map(|_| AtomicU64::new(0)).collect()))
        }

        pub(crate) fn contains(&self, at: u64, len: u64) -> bool {
            at + len <= self.0.len() as u64 * 8
        }

        pub(crate) fn word(&self, at: u64) -> &AtomicU64 {
            assert!(at % 8 == 0);
            &self.0[at as usize / 8]
        }

        pub(crate) fn equals(&self, at: u64, bytes: &[u8]) -> bool {
            bytes.chunks(8).enumerate().all(|(i, chunk)| {
                let word = self.word(at + 8 * i as u64).load(Relaxed);
                (word ^ tail_word(chunk)) << (64 - 8 * chunk.len()) == 0
            })
        }
    }
}

#[cfg(loom)]
pub(crate) use model::Section;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn equals_sees_every_byte_and_nothing_beyond() {
        let mut memory = vec![0u64; 64];
        let base = NonNull::new(memory.as_mut_ptr()).expect("a vector").cast();
        // SAFETY: the vector outlives the section; only 8-alignment is needed here.
        let section = unsafe { Section::new(base, 512) };
        let key: Vec<u8> = (1..=40).collect();
        section.write(64, &key);
        for len in 0..40 {
            assert!(section.equals(64, &key[..len]));
            for wrong in 0..len {
                let mut other = key[..len].to_vec();
                other[wrong] ^= 0x80;
                assert!(!section.equals(64, &other), "byte {wrong} of {len}");
            }
        }
        assert!(!section.equals(512, b"x") && !section.equals(u64::MAX - 7, b"x") && !section.equals(3, b"x"));
    }
}
