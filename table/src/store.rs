//! The heap that all workers share: the spans behind a lock, and the commitment of memory ahead of them.
//!
//! Lock order: a bucket's version, then `growing`, then `spans`; nobody takes a bucket's lock while holding these. Workers
//! come here once per filled or emptied cache, not per operation.
//! CRASH: memory committed but not yet counted in the header is committed again, which does nothing.

use crate::arena::Arena;
use crate::classes::UNIT;
use crate::layout::Header;
use crate::spans::{Need, Spans};
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard};
use std::mem::offset_of;
use std::sync::TryLockError;
use std::thread::Thread;
use thiserror::Error;

/// Backs ranges of the section with memory; the server does it with `fallocate`.
pub trait Commit: Send + Sync {
    /// Makes `len` bytes from `offset` on safe to touch, and better also quick: nobody has touched them yet. Repeating it
    /// for a range must do no harm.
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
    pub(crate) growing: Mutex<()>,
    pub(crate) commit: Box<dyn Commit>,
    /// Committed bytes of all parts.
    pub(crate) used: AtomicU64,
    limit: AtomicU64,
    /// Bytes of redo lists that writers may come to need, see `redo_memory`.
    pub(crate) redo_wanted: AtomicU64,
    /// A commit failed: memory is short outside. Cleared when the limit is set anew or a commit succeeds.
    pub(crate) refused: AtomicBool,
    /// Who commits ahead, and whether it was woken since it last looked.
    pub(crate) committer: Mutex<Option<Thread>>,
    pub(crate) woken: AtomicBool,
    /// Raised when blocks that lie in workers' caches are wanted; a worker that sees another number hands its own back.
    pressure: AtomicU64,
    /// Free units are few and no more can be committed.
    short: AtomicBool,
    /// Blocks moved to make room.
    moved: AtomicU64,
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
            redo_wanted: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            committer: Mutex::new(None),
            woken: AtomicBool::new(false),
            pressure: AtomicU64::new(0),
            short: AtomicBool::new(false),
            moved: AtomicU64::new(0),
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
    pub(crate) fn take(&self, class: u8, out: &mut [u64], need: Need) -> usize {
        let got = self.growing_take(|spans| Some(spans.take(class, out, need)).filter(|&got| got > 0));
        got.unwrap_or(0)
    }

    /// The same of what is free already.
    pub(crate) fn take_free(&self, class: u8, out: &mut [u64], need: Need) -> usize {
        self.spans().take(class, out, need)
    }

    /// Takes a run for one large item of `len` bytes, growing the heap if it must.
    pub(crate) fn take_run(&self, len: u64, need: Need) -> Option<u64> {
        self.growing_take(|spans| spans.take_run(len.div_ceil(UNIT) as u32, need))
    }

    /// The same of what is free already.
    pub(crate) fn take_free_run(&self, len: u64, need: Need) -> Option<u64> {
        self.spans().take_run(len.div_ceil(UNIT) as u32, need)
    }

    /// Repeats `take` until it has something or the heap can grow no more; the last time without the empty spans.
    fn growing_take<R>(&self, mut take: impl FnMut(&mut Spans) -> Option<R>) -> Option<R> {
        loop {
            let seen = {
                let mut spans = self.spans();
                if let Some(taken) = take(&mut spans) {
                    let free = spans.pool.free_units().saturating_sub(spans.reserve);
                    drop(spans);
                    self.watch(free);
                    return Some(taken);
                }
                spans.pool.units()
            };
            if !self.grow(seen) {
                let mut spans = self.spans();
                let free = spans.pool.free_units().saturating_sub(spans.reserve);
                let taken = if spans.dissolve_empty() { take(&mut spans) } else { None };
                drop(spans);
                self.watch(free);
                return taken;
            }
        }
    }

    /// Looks after the free units: wakes who commits ahead, or says that memory is short.
    fn watch(&self, free: u64) {
        if self.can_grow() {
            if free * UNIT < self.low_mark() {
                self.wake_committer();
            }
        } else if free < (self.limit() / 256 / UNIT).clamp(4, 256) {
            self.short.store(true, Relaxed);
        }
    }

    /// Gives blocks or runs back.
    pub(crate) fn give(&self, blocks: &[u64]) {
        let mut spans = self.spans();
        // Blocks freed together lie anywhere: what the books say of each is fetched side by side.
        blocks.iter().for_each(|&block| spans.fetch_span(block));
        blocks.iter().for_each(|&block| spans.fetch_bit(block));
        for &block in blocks {
            spans.give(block);
        }
    }

    /// The number that changes when caches are to be handed back. Relaxed: a worker that sees it late holds memory longer.
    pub(crate) fn pressure(&self) -> u64 {
        self.pressure.load(Relaxed)
    }

    /// The right to commit, unless somebody else has it.
    pub(crate) fn try_growing(&self) -> Option<MutexGuard<'_, ()>> {
        match self.growing.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The right to commit, as soon as whoever has it is done.
    pub(crate) fn growing(&self) -> MutexGuard<'_, ()> {
        self.growing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Backs a range and counts it as used. A refusal ends committing ahead until a commit succeeds. The caller holds `growing`.
    pub(crate) fn back(&self, offset: u64, len: u64) -> bool {
        let done = self.commit.commit(offset, len).is_ok();
        self.refused.store(!done, Relaxed);
        if done {
            self.used.fetch_add(len, Relaxed);
        }
        done
    }

    /// Asks all workers to hand their caches back.
    pub(crate) fn press(&self) {
        self.pressure.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_moved(&self, blocks: u64) {
        self.moved.fetch_add(blocks, Relaxed);
    }

    /// Blocks moved since this process has the table.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Relaxed)
    }

    /// Whether room is to be made ahead of need.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Relaxed)
    }

    /// There is room again, or none can be made.
    pub(crate) fn stop_making_room(&self) {
        self.short.store(false, Relaxed);
    }

    /// Whether making room has brought the free units up to twice what is called short.
    pub(crate) fn has_room(&self) -> bool {
        let spans = self.spans();
        let free = spans.pool.free_units().saturating_sub(spans.reserve);
        self.can_grow() || free >= 2 * (self.limit() / 256 / UNIT).clamp(4, 256)
    }
}
