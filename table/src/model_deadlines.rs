//! The deadlines of two buckets, and of a third that the first is split into, with room for one item each, on loom atomics, for
//! `tests/loom_deadlines.rs`. The first is a group, the other two are one. Locks and what is done to the deadlines are the table's own; the
//! order of calls is that of `sweep`, `grow_step` and `expiry`.

use crate::deadlines::{Deadlines, NO_DEADLINE, deadline_of, deadline_word};
use crate::section::Section;
use crate::seqlock;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use std::sync::Arc;

const LOCKS: u64 = 0;
/// Expiries of the items, 0: no item.
const ITEMS: u64 = 24;
const WORDS: u64 = 48;
const COUNT: u64 = 64;
/// The bucket that the split makes.
const NEW: u64 = 2;

fn group_of(bucket: u64) -> u64 {
    bucket.min(1)
}

/// The shared state; clones are the same world.
#[derive(Clone)]
pub struct DeadlineWorld {
    section: Section,
    deadlines: Arc<Deadlines>,
}

impl DeadlineWorld {
    /// Two buckets, the first with an item of this expiry (0: none), with the groups' deadlines and what the sweep waits for.
    pub fn new(item: u64, deadlines: [u64; 2], next_due: u64) -> DeadlineWorld {
        let section = Section::zeroed(COUNT + 8);
        section.word(ITEMS).store(item, Relaxed);
        section.word(WORDS).store(deadline_word(deadlines[0]), Relaxed);
        section.word(WORDS + 8).store(deadline_word(deadlines[1]), Relaxed);
        section.word(COUNT).store(NEW, Relaxed);
        DeadlineWorld { section, deadlines: Arc::new(Deadlines::new(next_due)) }
    }

    fn count(&self) -> u64 {
        self.section.word(COUNT).load(Acquire)
    }

    fn group_word(&self, bucket: u64) -> &AtomicU64 {
        self.at(WORDS, group_of(bucket))
    }

    fn at(&self, part: u64, bucket: u64) -> &AtomicU64 {
        self.section.word(part + 8 * bucket)
    }

    /// Links the item, or sets its expiry; it belongs into the first bucket, and into the new one once there is one.
    pub fn insert(&self, expiry: u64) {
        let home = || if self.count() > NEW { NEW } else { 0 };
        loop {
            let bucket = home();
            let seen = seqlock::lock(self.at(LOCKS, bucket));
            if bucket == home() {
                self.deadlines.lower(self.group_word(bucket), expiry);
                self.at(ITEMS, bucket).store(expiry, Relaxed);
                return seqlock::unlock(self.at(LOCKS, bucket), seen);
            }
            seqlock::unlock_unchanged(self.at(LOCKS, bucket), seen);
        }
    }

    /// Moves the item to the new bucket.
    pub fn split(&self) {
        let held = seqlock::lock(self.at(LOCKS, 0));
        self.at(LOCKS, NEW).store(1, Relaxed);
        self.at(ITEMS, NEW).store(self.at(ITEMS, 0).load(Relaxed), Relaxed);
        self.section.word(COUNT).store(NEW + 1, Release);
        self.deadlines.cover(self.group_word(0), group_of(0), self.group_word(NEW));
        self.at(ITEMS, 0).store(0, Relaxed);
        seqlock::unlock(self.at(LOCKS, NEW), 0);
        seqlock::unlock(self.at(LOCKS, 0), held);
    }

    /// One round of the sweep at this time.
    pub fn sweep(&self, now: u64) {
        self.deadlines.begin();
        let mut least = NO_DEADLINE;
        for group in 0..2 {
            let word = self.at(WORDS, group);
            let deadline = deadline_of(word.load(Acquire));
            if deadline > now {
                least = least.min(deadline);
                continue;
            }
            self.deadlines.take(group, word);
            let mut bucket = group;
            while group_of(bucket) == group && bucket < self.count() {
                self.sweep_bucket(bucket, now);
                bucket += 1;
            }
            least = least.min(self.deadlines.leave(word));
        }
        self.deadlines.due_by(least);
    }

    fn sweep_bucket(&self, bucket: u64, now: u64) {
        let seen = seqlock::lock(self.at(LOCKS, bucket));
        let item = self.at(ITEMS, bucket);
        let expiry = item.load(Relaxed);
        if expiry > now {
            Deadlines::enter(self.group_word(bucket), expiry);
        } else {
            item.store(0, Relaxed);
        }
        seqlock::unlock(self.at(LOCKS, bucket), seen);
    }

    /// Panics unless every item is led to by its group's deadline and by what the sweep waits for; nobody else may be at work.
    pub fn check(&self) {
        for bucket in 0..self.count() {
            let expiry = self.at(ITEMS, bucket).load(Relaxed);
            if expiry != 0 {
                let deadline = deadline_of(self.group_word(bucket).load(Relaxed));
                assert!(deadline <= expiry, "bucket {bucket}: deadline {deadline} above the expiry {expiry}");
                let due = self.deadlines.next_due();
                assert!(due <= expiry, "bucket {bucket}: the sweep waits for {due}, the item expires at {expiry}");
            }
        }
    }
}
