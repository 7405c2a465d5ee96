//! The heap that all workers share: the spans behind a lock, and the commitment of memory ahead of them.
//!
//! Lock order: a bucket's version, then `growing`, then `spans`; nobody takes a bucket's lock while holding these. Workers
//! come here once per filled or emptied cache, not per operation.
//! CRASH: memory committed but not yet counted in the header is committed again, which does nothing.

use crate::arena::Arena;
use crate::classes::UNIT;
use crate::layout::{Header, PAGE, Part, committed_word};
use crate::redo::LIST;
use crate::spans::Spans;
use crate::sync::Ordering::{Relaxed, Release};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard};
use std::mem::offset_of;
use std::sync::TryLockError;
use thiserror::Error;

/// Backs ranges of the section with memory; the server does it with `fallocate`.
pub trait Commit: Send + Sync {
    /// Makes `len` bytes from `offset` on safe to touch. Repeating it for a range must do no harm.
    fn commit(&self, offset: u64, len: u64) -> Result<(), CommitError>;
}

/// Memory could not be had.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "committing table memory failed: found {reason} against {len} bytes at {offset} wanted; free shared memory or lower --memory"
)]
pub struct CommitError {
    /// Start of the range.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// What the system said.
    pub reason: String,
}

/// The shared heap of a table's writer half.
pub(crate) struct Store {
    pub(crate) arena: Arena,
    spans: Mutex<Spans>,
    /// Held while memory is being committed.
    growing: Mutex<()>,
    commit: Box<dyn Commit>,
    /// Committed bytes of all parts.
    used: AtomicU64,
    limit: AtomicU64,
    /// A commit failed: memory is short outside. Cleared when the limit is set anew or a commit succeeds.
    refused: AtomicBool,
}

impl Store {
    /// `used` is what is committed already, `spans` knows the heap's share of it.
    pub(crate) fn new(arena: Arena, spans: Spans, commit: Box<dyn Commit>, used: u64, limit: u64) -> Store {
        Store {
            arena,
            spans: Mutex::new(spans),
            growing: Mutex::new(()),
            commit,
            used: AtomicU64::new(used),
            limit: AtomicU64::new(limit),
            refused: AtomicBool::new(false),
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    pub(crate) fn set_limit(&self, bytes: u64) -> u64 {
        let reserved = self.arena.heap_end - self.arena.heap_start;
        let bytes = bytes.min(reserved);
        self.limit.store(bytes, Relaxed);
        self.refused.store(false, Relaxed);
        self.arena.section.word(offset_of!(Header, memory_limit) as u64).store(bytes, Relaxed);
        bytes
    }

    /// The books, whatever a panicking holder left: a panic ends the process.
    pub(crate) fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes blocks of a class into `out`, growing the heap if it must; how many.
    pub(crate) fn take(&self, class: u8, out: &mut [u64]) -> usize {
        loop {
            let seen = {
                let mut spans = self.spans();
                let got = spans.take(class, out, false);
                if got > 0 {
                    return got;
                }
                spans.pool.units()
            };
            if !self.grow(seen) {
                let mut spans = self.spans();
                return if spans.dissolve_empty() { spans.take(class, out, false) } else { 0 };
            }
        }
    }

    /// Takes one block of a class for an overwrite, from what is held back.
    pub(crate) fn take_held_back(&self, class: u8) -> Option<u64> {
        let mut out = [0];
        (self.spans().take(class, &mut out, true) == 1).then_some(out[0])
    }

    /// Takes a run for one large item of `len` bytes.
    pub(crate) fn take_run(&self, len: u64, overwrite: bool) -> Option<u64> {
        let units = len.div_ceil(UNIT) as u32;
        loop {
            let seen = {
                let mut spans = self.spans();
                if let Some(offset) = spans.take_run(units, overwrite) {
                    return Some(offset);
                }
                spans.pool.units()
            };
            if !self.grow(seen) {
                let mut spans = self.spans();
                return if spans.dissolve_empty() { spans.take_run(units, overwrite) } else { None };
            }
        }
    }

    /// Backs the redo lists of the workers up to this one; whether they are.
    #[cold]
    pub(crate) fn back_redo(&self, redo: u64, worker: u32) -> bool {
        let _growing = self.growing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let committed = self.arena.section.word(committed_word(Part::Redo));
        let (have, need) = (committed.load(Relaxed), (u64::from(worker) + 1) * LIST);
        let more = need.saturating_sub(have);
        if more == 0 {
            return true;
        }
        if self.used() + more > self.limit() || !self.back(redo + have, more) {
            return false;
        }
        // ORDER(committed): Release pairs with the Acquire in `redo::is_backed`.
        committed.store(need, Release);
        true
    }

    /// Gives blocks or runs back.
    pub(crate) fn give(&self, blocks: &[u64]) {
        let mut spans = self.spans();
        for &block in blocks {
            spans.give(block);
        }
    }

    /// Commits one more step unless the heap has grown beyond `seen` units meanwhile; whether there is more now.
    fn grow(&self, seen: u64) -> bool {
        let _growing = self.growing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let units = self.spans().pool.units();
        units > seen || self.commit_step(units, false)
    }

    /// Keeps a stretch of free units ahead of the workers; whether it committed any.
    pub(crate) fn commit_ahead(&self) -> bool {
        let ahead = (self.limit() / 16).min(16 << 20) / UNIT;
        let _growing = self.growing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if self.buckets_ahead() {
            return true;
        }
        let (units, free) = {
            let spans = self.spans();
            (spans.pool.units(), spans.pool.free_units())
        };
        free < ahead && self.commit_step(units, true)
    }

    /// The right to commit, unless somebody else has it.
    pub(crate) fn try_growing(&self) -> Option<MutexGuard<'_, ()>> {
        match self.growing.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Backs a range and counts it as used. The caller holds `growing`.
    pub(crate) fn back(&self, offset: u64, len: u64) -> bool {
        let done = self.commit.commit(offset, len).is_ok();
        self.refused.store(!done, Relaxed);
        if done {
            self.used.fetch_add(len, Relaxed);
        }
        done
    }

    /// Commits the next step of the heap and of the class map. The caller holds `growing`.
    fn commit_step(&self, units: u64, ahead: bool) -> bool {
        if ahead && self.refused.load(Relaxed) {
            return false;
        }
        let (used, limit) = (self.used(), self.limit());
        let step = (limit / 32 / UNIT).clamp(16, 256);
        let map_end = self.arena.section.word(committed_word(Part::ClassMap)).load(Relaxed);
        let mut step = step.min((self.arena.heap_end - self.arena.heap_start) / UNIT - units);
        let map_need = ((units + step) * 8).next_multiple_of(PAGE).saturating_sub(map_end);
        step = step.min(limit.saturating_sub(used + map_need) / UNIT);
        if step == 0 {
            return false;
        }
        let (map_at, heap_at) = (self.arena.class_map + map_end, self.arena.heap_start + units * UNIT);
        let done =
            (map_need == 0 || self.commit.commit(map_at, map_need).is_ok()) && self.commit.commit(heap_at, step * UNIT).is_ok();
        self.refused.store(!done, Relaxed);
        if !done {
            return false;
        }
        // ORDER(committed): Release pairs with the Acquire of readers: what they may touch by it is backed.
        let entry = |part: Part| self.arena.section.word(committed_word(part));
        entry(Part::ClassMap).store(map_end + map_need, Release);
        entry(Part::Heap).store((units + step) * UNIT, Release);
        self.used.fetch_add(map_need + step * UNIT, Relaxed);
        self.spans().grow(step, true);
        true
    }
}
