//! Who is awake, and how a worker that sleeps is rung.
//!
//! The count of awake workers is written by workers only: a client that stopped between changing it and its system call
//! would leave nobody to wake the worker. A client only reads it; when it is zero the client raises the *token* of its
//! shard's home worker and wakes it, every time, because an earlier ringer may have stopped before its system call.
//!
//! ```text
//! worker                                   client
//!   seen = token                             publish request or word
//!   awake −= 1                               fence
//!   fence                                    awake = 0?  token += 1, futex wake
//!   anything published?  awake += 1, go on
//!   futex wait while token = seen
//!   awake += 1
//! ```
//!
//! Invariant D1: of the worker's last look and the client's look at `awake`, at least one sees the other's store (both have a
//! sequentially consistent fence between their store and their look), so a published request is never left to sleepers.

use crate::sync::{AtomicU32, Ordering, fence};

/// The count of awake workers.
#[derive(Clone, Copy, Debug)]
pub struct Awake<'a> {
    workers: &'a AtomicU32,
}

impl<'a> Awake<'a> {
    /// A view over the count.
    pub fn new(workers: &'a AtomicU32) -> Self {
        Self { workers }
    }

    /// A worker says that it is awake.
    pub fn rise(&self) {
        // ORDER(workers): SeqCst only to be on the same total order as the fences of D1; the count guards no data.
        self.workers.fetch_add(1, Ordering::SeqCst);
    }

    /// A worker says that it is about to sleep. It must look for work once more before it does. Returns whether it was the last one awake.
    pub fn lie_down(&self) -> bool {
        let before = self.workers.fetch_sub(1, Ordering::SeqCst);
        // ORDER(workers): D1, the worker's side.
        fence(Ordering::SeqCst);
        before == 1
    }

    /// Whether everybody sleeps. The caller has published what it wants served, and a fence stands between.
    #[inline]
    pub fn nobody(&self) -> bool {
        self.workers.load(Ordering::Relaxed) == 0
    }

    /// How many are awake.
    pub fn count(&self) -> u32 {
        self.workers.load(Ordering::Relaxed)
    }

    /// Forgets the workers of a server that died.
    pub fn reset(&self) {
        self.workers.store(0, Ordering::SeqCst);
    }
}

/// The token of one worker.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    word: &'a AtomicU32,
}

impl<'a> Token<'a> {
    /// A view over the word.
    pub fn new(word: &'a AtomicU32) -> Self {
        Self { word }
    }

    /// The value to sleep on, read before the last look for work.
    pub fn seen(&self) -> u32 {
        // ORDER(word): Acquire, so that the look for work stays behind it.
        self.word.load(Ordering::Acquire)
    }

    /// Raises the token: a worker that has not fallen asleep yet will not.
    pub fn raise(&self) {
        // ORDER(word): Release: the ringer's publication is before it.
        self.word.fetch_add(1, Ordering::Release);
    }

    /// The futex word.
    pub fn word(&self) -> &'a AtomicU32 {
        self.word
    }

    /// Raises the token and wakes the worker.
    #[cfg(not(loom))]
    pub fn ring(&self) {
        self.raise();
        crate::wait::wake(self.word, std::num::NonZeroU32::MAX);
    }
}
