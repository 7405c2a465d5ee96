//! The bucket's version word and the item's version word: who may change what, and how a reader notices.
//!
//! ```text
//! bucket version   even ──lock (CAS)──▶ odd ──unlock (store + 2)──▶ even'
//! item word 0      unlinked ──commit──▶ version V ──retire──▶ 0 ──reuse──▶ version V' ≠ V
//! ```
//!
//! S1: slots and chain lines of a bucket change only while its version is odd, by the one thread that made it odd.
//! S2: a reader's slots are of one moment if it read an even version before and the same version after.
//! S3: an item's bytes are the ones of version V if word 0 said V after they were copied: retire stores 0, then the
//! allocator's release fence stands before the first store into the reused memory, and versions never recur.
//! Progress: readers wait for nobody and bound their retries; a writer waits only for another writer of the bucket.
//! CRASH: a version left odd is made even by `Table::join`, after which S1 holds again.

use crate::sync::{AtomicU64, Ordering, fence};

/// Takes the bucket's lock if it is free; the even version it had.
#[inline]
#[must_use]
pub(crate) fn try_lock(version: &AtomicU64) -> Option<u64> {
    let seen = version.load(Ordering::Relaxed);
    // ORDER(version): Acquire pairs with the Release of `unlock`: the holder sees what the one before stored.
    if seen & 1 == 0 && version.compare_exchange(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
        // ORDER(version): this fence pairs with the Acquire fence of `read_holds`: who saw a store made under the
        // lock sees the odd version too.
        fence(Ordering::Release);
        Some(seen)
    } else {
        None
    }
}

/// Takes the bucket's lock; spins, then yields. Holders are server workers only, and they never die alone.
#[inline]
pub(crate) fn lock(version: &AtomicU64) -> u64 {
    match try_lock(version) {
        Some(seen) => seen,
        None => lock_contended(version),
    }
}

#[cold]
fn lock_contended(version: &AtomicU64) -> u64 {
    let backoff = Backoff::new();
    loop {
        if let Some(seen) = try_lock(version) {
            return seen;
        }
        backoff.snooze();
    }
}

/// Releases the lock after stores; `seen` is what `lock` returned.
#[inline]
pub(crate) fn unlock(version: &AtomicU64, seen: u64) {
    // ORDER(version): Release pairs with the Acquire of `try_lock` and `read_begin`.
    version.store(seen.wrapping_add(2), Ordering::Release);
}

/// Releases the lock when nothing was stored under it, so that readers need not retry.
#[inline]
pub(crate) fn unlock_unchanged(version: &AtomicU64, seen: u64) {
    // ORDER(version): Release pairs with the Acquire of `try_lock`.
    version.store(seen, Ordering::Release);
}

/// Starts an optimistic read; none while a writer holds the bucket.
#[inline]
#[must_use]
pub(crate) fn read_begin(version: &AtomicU64) -> Option<u64> {
    // ORDER(version): Acquire pairs with the Release of `unlock`: slots and items of that version are visible.
    let seen = version.load(Ordering::Acquire);
    (seen & 1 == 0).then_some(seen)
}

/// Whether everything read since `read_begin` is of one moment.
#[inline]
#[must_use]
pub(crate) fn read_holds(version: &AtomicU64, seen: u64) -> bool {
    // ORDER(version): pairs with the Release fence of `try_lock`.
    fence(Ordering::Acquire);
    version.load(Ordering::Relaxed) == seen
}

/// Ends an item's life; before anything of its memory may be handed out again.
#[inline]
pub(crate) fn retire(word0: &AtomicU64) {
    // ORDER(word0): Relaxed, ordered for readers by `before_reuse`, which every later owner of the memory runs.
    word0.store(0, Ordering::Relaxed);
}

/// Stands between taking memory and the first store into it.
#[inline]
pub(crate) fn before_reuse() {
    // ORDER(word0): pairs with the Acquire fence of `item_holds`: who copied a byte stored from here on sees the 0.
    fence(Ordering::Release);
}

/// Whether bytes copied from an item since its word 0 was `expected` are that item's.
#[inline]
#[must_use]
pub(crate) fn item_holds(word0: &AtomicU64, expected: u64) -> bool {
    // ORDER(word0): pairs with the Release fence of `before_reuse`.
    fence(Ordering::Acquire);
    word0.load(Ordering::Relaxed) == expected
}

#[cfg(not(loom))]
pub(crate) use crossbeam_utils::Backoff;

/// Under loom waiting is giving way.
#[cfg(loom)]
pub(crate) struct Backoff;

#[cfg(loom)]
impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff
    }
    pub(crate) fn snooze(&self) {
        loom::thread::yield_now();
    }
}
