//! Memory for the workers' redo lists, committed when a worker first needs its own.
//!
//! R1: what `committed` says of the lists is backed; it is stored after the memory is. R2: what the lists of the writers that there are
//! may come to need is kept back from the limit, so that a full table still takes transactions that delete.

use crate::layout::{Part, committed_word};
use crate::redo::LIST;
use crate::store::Store;
use crate::sync::Ordering::{Relaxed, Release};

/// Bytes of the lists of the workers up to this one.
fn lists_to(worker: u32) -> u64 {
    (u64::from(worker) + 1) * LIST
}

impl Store {
    /// Keeps memory back for the lists of the workers up to this one (R2).
    pub(crate) fn want_redo(&self, worker: u32) {
        // Relaxed: a lone bound.
        self.redo_wanted.fetch_max(lists_to(worker), Relaxed);
    }

    /// The limit, less what is kept back for lists that are not backed yet.
    pub(crate) fn spendable(&self) -> u64 {
        let backed = self.arena.section.word(committed_word(Part::Redo)).load(Relaxed);
        self.limit().saturating_sub(self.redo_wanted.load(Relaxed).saturating_sub(backed))
    }

    /// Backs the lists of the workers up to this one, of which the first lies at `redo`; whether they are.
    #[cold]
    pub(crate) fn back_redo(&self, redo: u64, worker: u32) -> bool {
        let _growing = self.growing();
        let committed = self.arena.section.word(committed_word(Part::Redo));
        let have = committed.load(Relaxed);
        let more = lists_to(worker).saturating_sub(have);
        if more == 0 {
            return true;
        }
        if self.used() + more > self.limit() || !self.back(redo + have, more) {
            return false;
        }
        // ORDER(committed): Release pairs with the Acquire in `redo::is_backed` (R1).
        committed.store(have + more, Release);
        true
    }
}
