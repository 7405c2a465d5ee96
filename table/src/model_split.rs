//! A table of one bucket that is split into two, on loom atomics, for `tests/loom_split.rs`. Locks, walks and the split's two halves are
//! the table's own; a key's hash is the key.

use crate::arena::Arena;
use crate::chain;
use crate::layout::Header;
use crate::section::Section;
use crate::seqlock;
use crate::split::{self, Words};
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::words::{BucketCount, ITEM_HEADER, ItemHeader, offset_of_slot, slot_word, tag_of};
use std::mem::offset_of;

/// The buckets and the heap lie where the header has words that no model needs.
const BUCKETS: u64 = 0;
const HEAP: u64 = 128;
const BLOCK: u64 = 32;
const COUNT: u64 = offset_of!(Header, bucket_count) as u64;

/// The shared state; clones are the same world.
#[derive(Clone)]
pub struct SplitWorld {
    arena: Arena,
}

impl SplitWorld {
    /// One bucket with these keys, each in the block of its number.
    pub fn new(keys: &[u64]) -> SplitWorld {
        let section = Section::zeroed(COUNT + 8);
        let arena = Arena {
            section,
            workers: 0,
            deadlines: 0,
            class_map: 0,
            buckets: BUCKETS,
            max_buckets: 2,
            heap_start: HEAP,
            heap_end: COUNT,
        };
        let world = SplitWorld { arena };
        keys.iter().for_each(|&key| world.insert(key, key, 1 + key));
        world
    }

    fn version(&self, bucket: u64) -> &crate::sync::AtomicU64 {
        self.arena.section.word(bucket)
    }

    fn bucket_of(&self, key: u64) -> u64 {
        self.arena.bucket(self.arena.bucket_count().index(key))
    }

    /// Takes the lock of a key's bucket, as `Writer::lock` does.
    fn lock(&self, key: u64) -> (u64, u64) {
        loop {
            let bucket = self.bucket_of(key);
            let seen = seqlock::lock(self.version(bucket));
            if self.bucket_of(key) == bucket {
                return (bucket, seen);
            }
            seqlock::unlock_unchanged(self.version(bucket), seen);
        }
    }

    /// Writes an item into a free block and links it.
    pub fn insert(&self, key: u64, block: u64, version: u64) {
        let item = HEAP + BLOCK * block;
        let header = ItemHeader { version, key_len: 8, value_len: 8, type_and_flags: 0, expiry: 0 };
        let word = |at: u64| self.arena.section.word(item + at);
        seqlock::before_reuse();
        seqlock::retire(word(0));
        word(8).store(header.word1(), Relaxed);
        word(16).store(key, Relaxed);
        word(24).store(!key, Relaxed);
        word(0).store(header.word0(), Relaxed);
        let (bucket, seen) = self.lock(key);
        let probe = chain::probe(&self.arena, bucket, tag_of(key), &key.to_le_bytes()[..]);
        assert!(probe.found.is_none() && probe.free != 0, "the model inserts what is not there");
        self.arena.section.word(probe.free).store(slot_word(tag_of(key), item), Release);
        seqlock::unlock(self.version(bucket), seen);
    }

    /// Unlinks and retires a key's item.
    pub fn remove(&self, key: u64) {
        let (bucket, seen) = self.lock(key);
        let found = chain::find(&self.arena, self.arena.heap_end, bucket, tag_of(key), &key.to_le_bytes()[..]);
        let found = found.expect("what is there throughout is found under its lock");
        self.arena.section.word(found.slot).store(0, Release);
        seqlock::unlock(self.version(bucket), seen);
        seqlock::retire(self.arena.section.word(found.item));
    }

    /// Splits the bucket, in the order of `Writer::split`.
    pub fn split(&self) {
        let (old, new) = (self.arena.bucket(0), self.arena.bucket(1));
        let held = seqlock::lock(self.version(old));
        let goes = |word: u64| {
            let key = self.arena.section.word(offset_of_slot(word) + ITEM_HEADER).load(Relaxed);
            key & 1 == 1
        };
        let mut moved = Words::new();
        chain::for_each_slot(&self.arena, self.arena.heap_end, old, |_, word| {
            if goes(word) {
                moved.push(word);
            }
        });
        let seen = self.version(new).load(Relaxed) & !1;
        self.version(new).store(seen + 1, Relaxed);
        split::fill(&self.arena, new, &moved, &[]);
        self.arena.section.word(COUNT).store(BucketCount::new(1, 0).0, Release);
        split::close_up(&self.arena, old, goes);
        seqlock::unlock(self.version(new), seen);
        seqlock::unlock(self.version(old), held);
    }

    /// One optimistic lookup, as `Writer::get` and `Reader::get` try it: whether the key is there, none if a writer came between.
    pub fn finds(&self, key: u64) -> Option<bool> {
        self.refer(key).map(|found| found.is_some())
    }

    fn refer(&self, key: u64) -> Option<Option<(u64, u64)>> {
        let bucket = self.bucket_of(key);
        let seen = seqlock::read_begin(self.version(bucket))?;
        let found = chain::find(&self.arena, self.arena.heap_end, bucket, tag_of(key), &key.to_le_bytes()[..]);
        let settled = found.is_some() || self.bucket_of(key) == bucket;
        (seqlock::read_holds(self.version(bucket), seen) && settled)
            .then(|| found.map(|found| (found.item, found.header.word0())))
    }

    /// Lookup and copy: the value, or none if the key is absent or a writer came between.
    pub fn read(&self, key: u64) -> Option<u64> {
        let (item, word0) = self.refer(key)??;
        let header = self.arena.section.word(item);
        if header.load(Acquire) != word0 {
            return None;
        }
        let value = self.arena.section.word(item + ITEM_HEADER + 8).load(Relaxed);
        seqlock::item_holds(header, word0).then_some(value)
    }

    /// How often a key stands in the buckets that count; nobody else may be at work.
    pub fn places(&self, key: u64) -> usize {
        let mut places = 0;
        for index in 0..self.arena.bucket_count().buckets() {
            chain::for_each_slot(&self.arena, self.arena.heap_end, self.arena.bucket(index), |_, word| {
                let at = offset_of_slot(word) + ITEM_HEADER;
                places += usize::from(self.arena.section.word(at).load(Relaxed) == key);
            });
        }
        places
    }
}
