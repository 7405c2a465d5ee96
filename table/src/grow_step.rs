//! The writer's half of a split, see [`crate::split`].

use crate::arena::Arena;
use crate::chain;
use crate::classes::LINE_CLASS;
use crate::deadlines::group_word;
use crate::hashing::Hasher;
use crate::layout::{CHAIN_CAP, Counters, GROUP, Header, LINE};
use crate::prefetch;
use crate::seqlock;
use crate::split::{self, Words};
use crate::sync::Ordering::{Relaxed, Release};
use crate::words::{BucketCount, ITEM_HEADER, MAX_KEY, hash_bit};
use crate::writer::Writer;
use std::mem::offset_of;

impl Writer<'_> {
    /// Splits the next bucket; whether there was memory for it. The caller holds the right to split (Y1).
    pub(crate) fn split(&mut self) -> bool {
        let arena = self.arena.clone();
        let count = arena.bucket_count();
        let (old, new, level) = (count.split(), count.buckets(), count.level());
        if new >= arena.max_buckets || !self.table.store.backs_bucket(new) {
            return false;
        }
        let held = self.lock_bucket(old);
        let hasher = &self.table.hasher;
        let goes = |word: u64| hash_bit(word, level).unwrap_or_else(|| key_bit(&arena, hasher, word, level));
        let known = self.known(held.bucket);
        let mut moved = Words::new();
        chain::for_each_slot(&arena, arena.heap_end, held.bucket, |_, word| {
            if goes(word) {
                moved.push(word);
            }
        });
        let mut lines = [0; CHAIN_CAP as usize];
        let lines = &mut lines[..moved.lines()];
        if !self.take_lines(lines) {
            self.unlock_unchanged(held);
            return false;
        }
        let bucket = arena.bucket(new);
        let version = arena.section.word(bucket);
        // A dead server may have left it odd; nobody else has ever locked it.
        let seen = version.load(Relaxed) & !1;
        version.store(seen + 1, Relaxed);
        split::fill(&arena, bucket, &moved, lines);
        let next = if old + 1 == 1 << level { BucketCount::new(level + 1, 0) } else { BucketCount::new(level, old + 1) };
        // ORDER(bucket_count): Release pairs with the Acquire in `Arena::bucket_count` (Z1).
        arena.section.word(offset_of!(Header, bucket_count) as u64).store(next.0, Release);
        self.cover(old, new);
        let spare = split::close_up(&arena, held.bucket, goes);
        self.enter_known(held.bucket, known.as_ref());
        self.enter_known(bucket, known.as_ref());
        seqlock::unlock(version, seen);
        self.unlock(held);
        self.count(offset_of!(Counters, overflow_lines), lines.len() as u64);
        self.count(offset_of!(Counters, overflow_lines), (spare.lines().len() as u64).wrapping_neg());
        for &line in spare.lines() {
            self.release(line, false);
        }
        prefetch::for_write(arena.section.hint(arena.bucket(next.split())));
        prefetch::for_write(arena.section.hint(bucket + LINE));
        true
    }

    /// Takes memory for overflow lines, all or none.
    fn take_lines(&mut self, lines: &mut [u64]) -> bool {
        for at in 0..lines.len() {
            let Some(block) = self.cache.take(&self.table.store, LINE_CLASS, LINE) else {
                for &line in &lines[..at] {
                    self.release(line, false);
                }
                return false;
            };
            lines[at] = block.offset;
        }
        seqlock::before_reuse();
        true
    }

    /// Has the new bucket's group due as early as the old one's (X1).
    fn cover(&self, old: u64, new: u64) {
        let (from, to) = (old / GROUP, new / GROUP);
        if from != to {
            self.table.sweeping.deadlines.cover(group_word(&self.arena, from), from, group_word(&self.arena, to));
        }
    }
}

/// The hash bit that a small table's split decides by, from the key itself.
#[cold]
fn key_bit(arena: &Arena, hasher: &Hasher, word: u64, number: u32) -> bool {
    let Some((item, header)) = chain::item_of(arena, arena.heap_end, word) else { return false };
    let mut key = [0u8; MAX_KEY];
    let len = usize::from(header.key_len);
    // SAFETY: `item_of` admits keys of at most MAX_KEY bytes.
    unsafe { arena.section.read(item + ITEM_HEADER, key.as_mut_ptr(), len) };
    hasher.hash(&key[..len]) >> number & 1 != 0
}
