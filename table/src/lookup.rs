//! Looking keys up from a worker: optimistic reads of a bucket, and hints ahead of them.
//!
//! G1: an answer counts only if the bucket's version held throughout, or was taken under its lock; a miss only if the bucket was
//! the hash's own after the version was read.
//! Progress: after a bounded number of tries a lookup takes the lock, which only workers hold and only briefly.

use crate::chain::{self, Found};
use crate::layout::SLOTS;
use crate::outcome::ItemRef;
use crate::prefetch;
use crate::seqlock;
use crate::sync::Ordering::Relaxed;
use crate::words::{matches, offset_of_slot, tag_of};
use crate::writer::{Writer, item_ref};

/// Optimistic reads of a bucket before the reader takes its lock.
const READ_TRIES: u32 = 64;

impl Writer<'_> {
    /// The bucket of a hash.
    #[inline]
    pub fn bucket_of(&self, hash: u64) -> u64 {
        self.arena.bucket_count().index(hash)
    }

    /// Fetches the bucket's line for writing.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        let index = self.bucket_of(hash);
        prefetch::for_write(self.arena.section.hint(self.arena.bucket(index)));
        if let Some(eviction) = self.eviction {
            eviction.hits.prefetch(index);
        }
    }

    /// Fetches the item of the first slot whose tag matches; looks at the bucket's own line only.
    #[inline]
    pub fn prefetch_item(&self, hash: u64) {
        let (bucket, tag) = (self.arena.bucket(self.bucket_of(hash)), tag_of(hash));
        for index in 0..SLOTS {
            let word = self.arena.section.word(chain::slot_at(bucket, index)).load(Relaxed);
            if matches(word, tag) {
                return prefetch::for_read(self.arena.section.hint(offset_of_slot(word)));
            }
        }
    }

    /// Looks a key up.
    #[inline]
    pub fn get(&self, key: &[u8], hash: u64) -> Option<ItemRef> {
        match self.try_get(key, hash) {
            Some((bucket, found)) => self.refer(bucket, found),
            None => self.get_contended(key, hash),
        }
    }

    /// One try: the bucket, and what it holds; none if a writer came between.
    #[inline(always)]
    fn try_get(&self, key: &[u8], hash: u64) -> Option<(u64, Option<Found>)> {
        let index = self.bucket_of(hash);
        let bucket = self.arena.bucket(index);
        let version = self.arena.section.word(bucket);
        let seen = seqlock::read_begin(version)?;
        let found = chain::find(&self.arena, self.arena.heap_end, bucket, tag_of(hash), key);
        // A split between the count and the version took the key elsewhere: who saw the version that it left sees its count.
        let settled = found.is_some() || self.bucket_of(hash) == index;
        (seqlock::read_holds(version, seen) && settled).then_some((bucket, found))
    }

    #[cold]
    fn get_contended(&self, key: &[u8], hash: u64) -> Option<ItemRef> {
        let backoff = seqlock::Backoff::new();
        for _ in 0..READ_TRIES {
            if let Some((bucket, found)) = self.try_get(key, hash) {
                return self.refer(bucket, found);
            }
            backoff.snooze();
        }
        let held = self.lock(hash);
        let found = chain::find(&self.arena, self.arena.heap_end, held.bucket, tag_of(hash), key);
        self.unlock_unchanged(held);
        self.refer(held.bucket, found)
    }

    #[inline]
    fn refer(&self, bucket: u64, found: Option<Found>) -> Option<ItemRef> {
        let found = self.living(found)?;
        self.note_hit(bucket, found.slot);
        Some(item_ref(found.item, &found.header))
    }

    /// Copies `len` bytes of an item's value from `from` on; what was copied counts only if the answer is `Ok`.
    ///
    /// # Safety
    /// `out` must be writable for `len` bytes and private to the caller.
    #[inline]
    pub unsafe fn read_value(&self, item: &ItemRef, from: u32, len: u32, out: *mut u8) -> Result<(), crate::Changed> {
        // SAFETY: passed on from the caller.
        unsafe { crate::reader::copy_item(&self.arena, self.arena.heap_end, item, from, len, out) }
    }

    /// Replaces the contents of `out` with an item's value.
    pub fn value_into(&self, item: &ItemRef, out: &mut Vec<u8>) -> Result<(), crate::Changed> {
        crate::reader::copy_whole(&self.arena, self.arena.heap_end, item, out)
    }
}
