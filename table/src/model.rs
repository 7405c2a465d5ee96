//! A table of one bucket and a few item blocks on loom atomics, for `tests/loom_seqlock.rs`. Locks, lookup, version
//! checks and chain walks are the table's own; only the allocator is replaced by the test naming the block.

use crate::arena::Arena;
use crate::chain::{self, KeyBytes};
use crate::section::Section;
use crate::seqlock;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::words::{ITEM_HEADER, ItemHeader, slot_word, tag_of};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

const BLOCK: u64 = 40;
const BLOCKS: u64 = 3;
const HEAP: u64 = 64;

/// The shared state; clones are the same world.
#[derive(Clone)]
pub struct World {
    arena: Arena,
    /// Plain: versions only have to differ.
    versions: Arc<AtomicU64>,
}

impl World {
    /// An empty bucket.
    #[expect(clippy::new_without_default, reason = "made inside a loom model only")]
    pub fn new() -> World {
        let end = HEAP + BLOCK * BLOCKS;
        let section = Section::zeroed(end);
        World {
            arena: Arena {
                section,
                workers: 0,
                deadlines: 0,
                class_map: 0,
                buckets: 0,
                max_buckets: 1,
                heap_start: HEAP,
                heap_end: end,
            },
            versions: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Writes an item of `key` into a free block, links it, and retires what it replaces.
    pub fn swap(&self, key: u64, value: u64, block: u64) {
        let item = HEAP + BLOCK * block;
        let version = self.versions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let header = ItemHeader { version, key_len: 8, value_len: 16, type_and_flags: 0, expiry: 0 };
        let word = |at: u64| self.arena.section.word(item + at);
        seqlock::before_reuse();
        seqlock::retire(word(0));
        word(8).store(header.word1(), Relaxed);
        word(16).store(key, Relaxed);
        word(24).store(value, Relaxed);
        word(32).store(!value, Relaxed);
        word(0).store(header.word0(), Relaxed);
        let bucket = self.arena.section.word(0);
        let seen = seqlock::lock(bucket);
        let probe = chain::probe(&self.arena, 0, tag_of(0), &key.to_le_bytes()[..]);
        let slot = probe.found.map_or(probe.free, |found| found.slot);
        self.arena.section.word(slot).store(slot_word(tag_of(0), item), Release);
        seqlock::unlock(bucket, seen);
        if let Some(found) = probe.found {
            seqlock::retire(self.arena.section.word(found.item));
        }
    }

    /// Unlinks and retires a key's item.
    pub fn remove(&self, key: u64) {
        self.remove_and_tell(key, || ());
    }

    /// The same; between the two `tell` answers whoever asked for it.
    pub fn remove_and_tell(&self, key: u64, tell: impl FnOnce()) {
        let bucket = self.arena.section.word(0);
        let seen = seqlock::lock(bucket);
        let found = chain::find(&self.arena, self.arena.heap_end, 0, tag_of(0), &key.to_le_bytes()[..]);
        let found = found.expect("the model removes what is there");
        self.arena.section.word(found.slot).store(0, Release);
        tell();
        seqlock::unlock(bucket, seen);
        seqlock::retire(self.arena.section.word(found.item));
    }

    /// Moves a key to another slot of its bucket: two stores under one lock, without order of their own.
    pub fn shift(&self, key: u64) {
        let bucket = self.arena.section.word(0);
        let seen = seqlock::lock(bucket);
        let found = chain::find(&self.arena, self.arena.heap_end, 0, tag_of(0), &key.to_le_bytes()[..]);
        let found = found.expect("the model moves what is there");
        self.arena.section.word(found.slot).store(0, Relaxed);
        self.arena.section.word(found.slot + 8).store(found.word, Relaxed);
        seqlock::unlock(bucket, seen);
    }

    /// Whether an optimistic lookup finds the key; none if a writer came between.
    pub fn finds(&self, key: u64) -> Option<bool> {
        let bucket = self.arena.section.word(0);
        let seen = seqlock::read_begin(bucket)?;
        let found = chain::find(&self.arena, self.arena.heap_end, 0, tag_of(0), &key.to_le_bytes()[..]);
        seqlock::read_holds(bucket, seen).then_some(found.is_some())
    }

    /// One optimistic lookup: offset and header word of the item.
    pub fn refer(&self, key: u64) -> Option<((u64, u64), u64)> {
        let bucket = self.arena.section.word(0);
        let seen = seqlock::read_begin(bucket)?;
        let key = key.to_le_bytes();
        let found = chain::find(&self.arena, self.arena.heap_end, 0, tag_of(0), &key[..]);
        if !seqlock::read_holds(bucket, seen) {
            return None;
        }
        found.map(|found| ((found.item, found.header.word0()), found.header.version))
    }

    /// Copies an item's value by reference, if it is still that item.
    pub fn copy(&self, (item, word0): (u64, u64)) -> Option<[u64; 2]> {
        let header = self.arena.section.word(item);
        if header.load(Acquire) != word0 {
            return None;
        }
        let at = item + ITEM_HEADER + 8;
        let value = [at, at + 8].map(|at| self.arena.section.word(at).load(Relaxed));
        seqlock::item_holds(header, word0).then_some(value)
    }

    /// Lookup and copy under the bucket's version alone, as a direct reader does: version and value.
    pub fn read_by_bucket(&self, key: u64) -> Option<(u64, [u64; 2])> {
        let bucket = self.arena.section.word(0);
        let seen = seqlock::read_begin(bucket)?;
        let found = chain::find(&self.arena, self.arena.heap_end, 0, tag_of(0), &key.to_le_bytes()[..])?;
        let at = found.item + ITEM_HEADER + 8;
        let value = [at, at + 8].map(|at| self.arena.section.word(at).load(Relaxed));
        seqlock::read_holds(bucket, seen).then_some((found.header.version, value))
    }

    /// What a handle does: the slot's word, then the item's; whether both are what they were.
    pub fn is_unchanged(&self, slot: u64, word: u64, (item, word0): (u64, u64)) -> bool {
        // ORDER(slot): Acquire, as in `handle`: the item's word is read after it.
        let same = self.arena.section.word(slot).load(Acquire) == word;
        same && self.arena.section.word(item).load(Relaxed) == word0
    }

    /// Slot and word of a key, for a handle.
    pub fn slot_of(&self, key: u64) -> (u64, u64) {
        let found = chain::find(&self.arena, self.arena.heap_end, 0, tag_of(0), &key.to_le_bytes()[..]);
        let found = found.expect("the model asks for what is there");
        (found.slot, found.word)
    }

    /// Lookup, then copy by reference: version and value.
    pub fn read(&self, key: u64) -> Option<(u64, [u64; 2])> {
        let (item, version) = self.refer(key)?;
        Some((version, self.copy(item)?))
    }
}
