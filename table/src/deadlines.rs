//! The groups' deadlines that lead the sweep to what expired, and the one that it waits for: who lowers them, takes them away and puts
//! them back, beside each other.
//!
//! X1: a group's deadline is never above the expiry of an item linked in one of its buckets when that is unlocked: it is lowered before the item
//! is linked or its expiry set, and taken away by the sweep only, which enters every bucket's earliest expiry under its lock; `is_at` says for
//! which group it may not hold. X2: `next_due` is never above a group's deadline, but for the time a sweep needs to go once around: it is
//! emptied before the first group's word is read, and gets the least of all words at the end; who lowers a word meanwhile lowers it too.
//!
//! A deadline rests in the section as its distance from beyond the latest expiry, so that 0 is "none", an earlier one is
//! greater, and lowering it is one atomic maximum. Progress: wait-free.
//! CRASH: deadlines are worked out anew by `Table::join`.

use crate::arena::Arena;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use crate::sync::{AtomicU64, fence};
use crate::words::MAX_EXPIRY;
use crossbeam_utils::CachePadded;

/// No deadline, as a time.
pub(crate) const NO_DEADLINE: u64 = u64::MAX;
/// Stands for no group.
const NO_GROUP: u64 = u64::MAX;

/// The deadline that a group's word stands for.
#[inline]
pub(crate) fn deadline_of(word: u64) -> u64 {
    if word == 0 { NO_DEADLINE } else { (MAX_EXPIRY + 1).saturating_sub(word) }
}

/// The word of a group whose earliest expiry this is.
#[inline]
pub(crate) fn deadline_word(deadline: u64) -> u64 {
    if deadline == NO_DEADLINE { 0 } else { MAX_EXPIRY + 1 - deadline.min(MAX_EXPIRY) }
}

/// The word of a group of buckets.
#[inline]
pub(crate) fn group_word(arena: &Arena, group: u64) -> &AtomicU64 {
    arena.section.word(arena.deadlines + 8 * group)
}

/// The server's own share of the deadlines.
pub(crate) struct Deadlines {
    /// The earliest deadline there may be, as a time.
    next_due: CachePadded<AtomicU64>,
    /// The group that is being swept.
    group: AtomicU64,
}

impl Deadlines {
    pub(crate) fn new(next_due: u64) -> Deadlines {
        Deadlines { next_due: CachePadded::new(AtomicU64::new(next_due)), group: AtomicU64::new(NO_GROUP) }
    }

    /// What the sweep waits for.
    #[inline]
    pub(crate) fn next_due(&self) -> u64 {
        self.next_due.load(Relaxed)
    }

    /// Something is due by this time.
    #[inline]
    pub(crate) fn due_by(&self, expiry: u64) {
        if self.next_due.load(Relaxed) > expiry {
            // ORDER(next_due): AcqRel pairs with the sweep's swap: who empties it after this sees the group's word.
            self.next_due.fetch_min(expiry, AcqRel);
        }
    }

    /// Lowers a group's deadline and what the sweep waits for. The bucket whose item it is for is locked.
    #[inline]
    pub(crate) fn lower(&self, word: &AtomicU64, expiry: u64) {
        let wanted = deadline_word(expiry);
        // Most items outlive another one of their group: a look is enough for them. The sweep clears the word before it looks at
        // the group's buckets, each under its lock, and our bucket is locked: what it finds out does not miss our item.
        if word.load(Relaxed) < wanted {
            // ORDER(deadline): AcqRel pairs with the sweep's look at the word.
            word.fetch_max(wanted, AcqRel);
            // ORDER(deadline): before the look at `next_due`; pairs with the fence in `begin`: the sweep empties `next_due` first and
            // reads the words after, so that it sees our word or we see that it emptied `next_due`.
            fence(SeqCst);
        }
        self.due_by(expiry);
    }

    /// Lowers the deadline of a new bucket's group to that of the one it was split from. While the sweep is at that one its word says less
    /// than it should: the new group is then due at once. The old bucket is locked: the sweep does not leave the group before it. The
    /// new bucket counts already and is locked: a sweep that takes its group's word away after this looks at it, and waits for its lock.
    pub(crate) fn cover(&self, from: &AtomicU64, from_group: u64, to: &AtomicU64) {
        // ORDER(deadline): Acquire pairs with the swap in `take`: who sees a word taken away sees whose it was.
        let mut word = from.load(Acquire);
        if self.is_at(from_group) {
            word = deadline_word(1);
        }
        if word != 0 {
            // ORDER(deadline): AcqRel pairs with the swap in `take`: a sweep that takes this away sees the new bucket counted.
            to.fetch_max(word, AcqRel);
        }
    }

    /// Begins a round of the sweep: nothing is waited for until it has seen every group's word.
    pub(crate) fn begin(&self) {
        // ORDER(next_due): AcqRel pairs with `due_by`.
        self.next_due.swap(NO_DEADLINE, AcqRel);
        // ORDER(next_due): before the first group's word is read (X2); pairs with the fence in `lower`.
        fence(SeqCst);
    }

    /// Takes a group's deadline away, before the first of its buckets is looked at.
    pub(crate) fn take(&self, group: u64, word: &AtomicU64) {
        // ORDER(group): Release by the swap that follows: who sees the word taken away sees the group.
        self.group.store(group, Relaxed);
        // ORDER(deadline): AcqRel: as above, and before the group's buckets are locked.
        word.swap(0, AcqRel);
    }

    /// Enters the earliest expiry that a swept bucket has left, under its lock.
    #[inline]
    pub(crate) fn enter(word: &AtomicU64, least: u64) {
        // ORDER(deadline): AcqRel, as in `lower`.
        word.fetch_max(deadline_word(least), AcqRel);
    }

    /// Leaves the group; the deadline that it has now.
    pub(crate) fn leave(&self, word: &AtomicU64) -> u64 {
        self.group.store(NO_GROUP, Relaxed);
        // ORDER(deadline): Acquire pairs with `lower`.
        deadline_of(word.load(Acquire))
    }

    /// Whether a group's word may say less than it should.
    #[inline]
    pub(crate) fn is_at(&self, group: u64) -> bool {
        self.group.load(Relaxed) == group
    }
}
