//! When the table grows: the count of items against the buckets, and who does the splits that are due.
//!
//! Writers tell the table of the items they linked some tens at a time. What is then above the load is shared out as splits that the
//! writers do one by one, each after an insert of a new key, so that no insert pays for more than one (W. Litwin, 1980).
//!
//! Y1: one split at a time, by whoever holds `splitting`; nobody waits for it, but for who finds a chain full because splits are due. Y2: `grown_for` counts the splits handed out, done or not.
//! Who misses memory for a split leaves it to later inserts, and says so in `stalled`: idle workers don't try in vain again and again.
//! CRASH: all of this is private to the server; a joined table counts anew.

use crate::seqlock::Backoff;
use crate::sync::AtomicBool;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::writer::Writer;
use crossbeam_utils::CachePadded;
use std::sync::atomic::AtomicI64;

/// Items per bucket that the table grows at, in quarters. More is smaller, less is faster: with 5.5 a lookup sees 1.2 lines.
const LOAD_QUARTERS: i64 = 22;
/// Splits that a writer takes upon itself at once.
const SHARE: i64 = 16;

/// The books of growth.
pub(crate) struct Growth {
    /// Items, as far as writers told.
    items: CachePadded<AtomicI64>,
    /// Buckets that there are or that writers owe.
    grown_for: CachePadded<AtomicI64>,
    splitting: CachePadded<AtomicBool>,
    /// The last split tried could not be done.
    stalled: AtomicBool,
}

impl Growth {
    pub(crate) fn new(items: u64, buckets: u64) -> Growth {
        Growth {
            items: CachePadded::new(AtomicI64::new(items as i64)),
            grown_for: CachePadded::new(AtomicI64::new(buckets as i64)),
            splitting: CachePadded::new(AtomicBool::new(false)),
            stalled: AtomicBool::new(false),
        }
    }

    /// Whether splits are due that nobody took, and the last one tried was done.
    #[inline]
    pub(crate) fn is_behind(&self) -> bool {
        self.items.load(Relaxed) * 4 / LOAD_QUARTERS > self.grown_for.load(Relaxed) && !self.stalled.load(Relaxed)
    }

    /// Takes what one writer may do of the splits that are due.
    fn take_share(&self, items: i64) -> i64 {
        let grown_for = self.grown_for.load(Relaxed);
        let due = (items * 4 / LOAD_QUARTERS - grown_for).min(SHARE);
        // Relaxed: a count of work; a lost race leaves it to the next who tells.
        if due > 0 && self.grown_for.compare_exchange(grown_for, grown_for + due, Relaxed, Relaxed).is_ok() { due } else { 0 }
    }

    /// Gives splits back that could not be done.
    fn give_back(&self, splits: u32) {
        self.grown_for.fetch_sub(i64::from(splits), Relaxed);
    }

    pub(crate) fn try_begin(&self) -> bool {
        // ORDER(splitting): Acquire pairs with the Release in `end`: a split follows the one before.
        !self.splitting.load(Relaxed) && !self.splitting.swap(true, Acquire)
    }

    pub(crate) fn end(&self) {
        // ORDER(splitting): Release pairs with the Acquire in `try_begin`.
        self.splitting.store(false, Release);
    }
}

impl Writer<'_> {
    /// Tells the table how many items this writer linked and unlinked since.
    pub(crate) fn tell(&mut self) -> i64 {
        // Relaxed: a lone count.
        let untold = std::mem::take(&mut self.untold);
        self.table.growth.items.fetch_add(untold, Relaxed) + untold
    }

    /// After an insert of a new key, every now and then, when a chain got longer, or while splits are owed: takes a share, does one.
    #[cold]
    pub(crate) fn grow(&mut self) {
        if self.owed_splits == 0 {
            let items = self.tell();
            self.owed_splits = self.table.growth.take_share(items) as u32;
        }
        if self.owed_splits > 0 {
            self.owe_less();
        }
    }

    /// Does a split that is due, if any; whether there are more.
    #[inline]
    pub(crate) fn catch_up(&mut self) -> bool {
        if self.owed_splits == 0 && !self.table.growth.is_behind() {
            return false;
        }
        if self.owed_splits == 0 {
            let items = self.tell();
            self.owed_splits = self.table.growth.take_share(items) as u32;
        }
        self.owe_less() || self.table.growth.is_behind()
    }

    /// Does one of the splits that this writer owes, unless another writer is at one; whether there are more to do.
    fn owe_less(&mut self) -> bool {
        if self.owed_splits > 0 && self.table.growth.try_begin() {
            let done = self.split();
            self.table.growth.end();
            // Relaxed: a hint.
            self.table.growth.stalled.store(!done, Relaxed);
            if done {
                self.owed_splits -= 1;
            } else {
                // There is no memory for it yet, or no more room in the section: whoever tells next tries again.
                self.give_splits_back();
            }
        }
        self.owed_splits > 0
    }

    /// Whether the table was behind its growth and is no more, so that a chain that was full may have room. Whoever was at a split may have lost
    /// its processor, and others may owe what is due: it is waited for and done in their place. The caller holds no lock.
    #[cold]
    pub(crate) fn outgrew(&mut self) -> bool {
        let (table, backoff) = (self.table, Backoff::new());
        let buckets = || table.arena.bucket_count().buckets() as i64;
        let (before, wanted) = (buckets(), self.tell() * 4 / LOAD_QUARTERS);
        while buckets() < wanted.min(table.arena.max_buckets as i64) {
            if !table.store.backs_bucket_by_now(buckets() as u64) {
                break;
            }
            if table.growth.try_begin() {
                let done = self.split();
                table.growth.end();
                table.growth.stalled.store(!done, Relaxed);
                // Nobody had handed it out (Y2).
                table.growth.grown_for.fetch_add(i64::from(done), Relaxed);
                if !done {
                    break;
                }
            } else {
                backoff.snooze();
            }
        }
        buckets() > before
    }

    /// Leaves the splits that this writer owes to others.
    pub(crate) fn give_splits_back(&mut self) {
        self.table.growth.give_back(std::mem::take(&mut self.owed_splits));
    }
}
