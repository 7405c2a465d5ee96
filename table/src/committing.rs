//! Committing the heap and its class map in steps, ahead of the workers, within the limit. For the buckets see [`crate::bucket_memory`].
//!
//! J1: a step is backed, and touched by whoever backs it, before it is published: so no worker meets a page for the first
//! time, unless it had to commit itself. J2: `used` never passes the limit.
//! CRASH: memory committed but not yet counted in the header is committed again, which does nothing.

use crate::classes::UNIT;
use crate::layout::{HUGE_PAGE, PAGE, Part, committed_word};
use crate::store::Store;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::thread::Thread;

/// Least step.
const STEP: u64 = 256 << 10;

impl Store {
    /// Who is woken when little is left of what was committed ahead.
    pub(crate) fn set_committer(&self, thread: Thread) {
        *self.committer.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(thread);
        self.wake_committer();
    }

    /// Wakes the committing thread unless it was woken since it last looked.
    #[cold]
    pub(crate) fn wake_committer(&self) {
        // ORDER(woken): AcqRel pairs with the swap in `commit_ahead`: what made this worker ask is seen there.
        if !self.woken.swap(true, AcqRel)
            && let Some(thread) = &*self.committer.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        {
            thread.unpark();
        }
    }

    /// Whether a commit may succeed.
    pub(crate) fn can_grow(&self) -> bool {
        self.used() + UNIT + PAGE <= self.spendable() && !self.refused.load(Relaxed)
    }

    /// Bytes that are kept committed ahead of the heap's use.
    fn high_mark(&self) -> u64 {
        (self.used() / 48).clamp(512 << 10, 16 << 20).min(self.limit() / 16)
    }

    /// Bytes left ahead at which the committing thread is woken.
    pub(crate) fn low_mark(&self) -> u64 {
        self.high_mark() / 2
    }

    /// Committed bytes of a part.
    #[inline]
    pub(crate) fn committed(&self, part: Part) -> u64 {
        // ORDER(committed): Acquire pairs with the Release in `publish`: the memory is backed.
        self.arena.section.word(committed_word(part)).load(Acquire)
    }

    pub(crate) fn publish(&self, part: Part, bytes: u64) {
        // ORDER(committed): Release pairs with the Acquire of readers: what they may touch by it is backed.
        self.arena.section.word(committed_word(part)).store(bytes, Release);
    }

    /// Commits one more step unless the heap has grown beyond `seen` units meanwhile; whether there is more now.
    pub(crate) fn grow(&self, seen: u64) -> bool {
        let _growing = self.growing();
        let units = self.spans().pool.units();
        // A worker that has to do it itself does little.
        units > seen || self.commit_heap(units, STEP)
    }

    /// Keeps memory ahead of the workers and of growth; whether it committed any. For one background thread.
    pub(crate) fn commit_ahead(&self) -> bool {
        // ORDER(woken): AcqRel pairs with `wake_committer`.
        self.woken.swap(false, AcqRel);
        if self.refused.load(Relaxed) {
            return false;
        }
        let _growing = self.growing();
        if self.buckets_ahead() {
            return true;
        }
        let (units, free) = {
            let spans = self.spans();
            (spans.pool.units(), spans.pool.free_units())
        };
        free * UNIT < self.high_mark() && self.commit_heap(units, self.step(units * UNIT, STEP))
    }

    /// Length of the next step of a part that has `bytes` already, not below `least` but for the way to a huge page's end.
    pub(crate) fn step(&self, bytes: u64, least: u64) -> u64 {
        let to_boundary = HUGE_PAGE - bytes % HUGE_PAGE;
        (bytes / 64 / UNIT * UNIT).clamp(least, HUGE_PAGE).min(to_boundary)
    }

    /// Commits `bytes` more of the heap, as far as the limit allows, and of the class map. The caller holds `growing`.
    fn commit_heap(&self, units: u64, bytes: u64) -> bool {
        let (used, limit) = (self.used(), self.spendable());
        let map_end = self.committed(Part::ClassMap);
        let left = (self.arena.heap_end - self.arena.heap_start) / UNIT - units;
        let step = (bytes / UNIT).min(left);
        let map_need = ((units + step) * 8).next_multiple_of(PAGE).saturating_sub(map_end);
        let step = step.min(limit.saturating_sub(used + map_need) / UNIT);
        if step == 0 {
            return false;
        }
        if map_need > 0 {
            if !self.back(self.arena.class_map + map_end, map_need) {
                return false;
            }
            self.publish(Part::ClassMap, map_end + map_need);
        }
        if !self.back(self.arena.heap_start + units * UNIT, step * UNIT) {
            return false;
        }
        self.publish(Part::Heap, (units + step) * UNIT);
        self.spans().grow(step, true);
        true
    }
}
