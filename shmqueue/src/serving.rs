//! The serving word of a shard: which worker serves it now.
//!
//! It rests in the server's private memory. A worker claims it for one pass and gives it back; nobody waits for it, whoever
//! finds it taken goes on to the next shard.
//!
//! ```text
//! 0 (free) ──claim: CAS──▶ worker + 1 ──release: store──▶ 0
//! ```
//!
//! Invariant S1: what a shard's serving word guards is touched by its holder only, and whoever claims it next sees it all.

use crate::sync::{AtomicU32, Ordering};

/// A serving word.
#[derive(Debug)]
pub struct Serving {
    holder: AtomicU32,
}

/// The right to serve a shard, given back on drop.
#[derive(Debug)]
#[must_use]
pub struct Held<'a> {
    serving: &'a Serving,
}

impl Default for Serving {
    fn default() -> Self {
        Self { holder: AtomicU32::new(0) }
    }
}

impl Serving {
    /// Claims the word for `worker`, or tells at once that another holds it.
    #[inline]
    pub fn claim(&self, worker: u32) -> Option<Held<'_>> {
        if self.holder.load(Ordering::Relaxed) != 0 {
            return None;
        }
        // ORDER(holder): Acquire pairs with the Release in `drop`: what the last holder wrote is seen.
        self.holder
            .compare_exchange(0, worker + 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            // Made only for the winner: a `Held` that is dropped frees the word.
            .map(|_| Held { serving: self })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // ORDER(holder): Release publishes the holder's work to the next claim.
        self.serving.holder.store(0, Ordering::Release);
    }
}
