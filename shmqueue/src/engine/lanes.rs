//! The server's private knowledge of each client: whose lane it serves, and from where.
//!
//! The claim word of a client slot rests where clients can write; what the server decides by is here. An entry belongs to the
//! shard that its `owner` names, and only the holder of that shard's serving word touches the rest of it.
//!
//! ```text
//! owner:  NOBODY ──word or tick finds a claim──▶ shard ──lane drained, slot released──▶ NOBODY
//! ```

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// Owner of a lane that no shard serves.
pub(super) const NOBODY: u32 = u32::MAX;

/// What the serving worker keeps of a lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lane {
    pub(super) generation: u32,
    /// Next position to read.
    pub(super) position: u64,
    /// Slots in use.
    pub(super) slots: u32,
    /// Requests that the last visit found: so many are expected to be there, and brought near together.
    pub(super) burst: u32,
    /// In the shard's run queue.
    pub(super) queued: bool,
    /// A worker tests the lane directly, and its client puts no words.
    pub(super) hot: bool,
    /// In the list of lanes that were served in this pass.
    pub(super) served: bool,
    /// Last tick in which it was served.
    pub(super) tick: u32,
    pub(super) requests: u64,
    /// Hints taken.
    pub(super) hints: u64,
}

/// One client's entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Shard whose serving word guards `lane`, or [`NOBODY`].
    owner: AtomicU32,
    /// The client is dead or detached: drain and release.
    pub(super) leaving: AtomicBool,
    /// What was taken over of the client's own tallies; by whoever ticks, and by the owner when the client leaves.
    pub(super) tallied: [AtomicU64; 4],
    lane: UnsafeCell<Lane>,
}

/// All clients' entries.
#[derive(Debug)]
pub(super) struct Lanes {
    entries: Vec<CachePadded<Entry>>,
    /// The handlers want what clients leave in their hint rings.
    pub(super) hinted: AtomicBool,
}

// SAFETY: `lane` is only reached through `Lanes::lane`, whose caller holds the serving word of the owning shard.
unsafe impl Sync for Lanes {}

impl Lanes {
    pub(super) fn new(clients: u32) -> Self {
        let entry = || {
            CachePadded::new(Entry {
                owner: AtomicU32::new(NOBODY),
                leaving: AtomicBool::new(false),
                tallied: Default::default(),
                lane: UnsafeCell::new(Lane::default()),
            })
        };
        Self { entries: (0..clients).map(|_| entry()).collect(), hinted: AtomicBool::new(false) }
    }

    pub(super) fn entry(&self, client: u32) -> Option<&Entry> {
        self.entries.get(client as usize).map(|entry| &**entry)
    }

    pub(super) fn owner(&self, client: u32) -> u32 {
        // ORDER(owner): pairs with the Release in `adopt` and `abandon`.
        self.entry(client).map_or(NOBODY, |entry| entry.owner.load(Ordering::Acquire))
    }

    /// Makes `shard` the owner of a lane that nobody serves.
    pub(super) fn adopt(&self, client: u32, shard: u32) -> bool {
        let Some(entry) = self.entry(client) else { return false };
        // ORDER(owner): AcqRel: the entry as its last owner left it is seen, and ours is published.
        entry.owner.compare_exchange(NOBODY, shard, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Gives a lane up.
    pub(super) fn abandon(&self, client: u32) {
        if let Some(entry) = self.entry(client) {
            entry.leaving.store(false, Ordering::Relaxed);
            // ORDER(owner): Release, pairs with `adopt`.
            entry.owner.store(NOBODY, Ordering::Release);
        }
    }

    /// The lane of a client.
    ///
    /// # Safety
    /// The caller holds the serving word of the shard that owns the client, and has no other reference to this lane.
    #[allow(clippy::mut_from_ref, reason = "the serving word stands for the exclusive borrow")]
    #[inline]
    pub(super) unsafe fn lane(&self, client: u32) -> &mut Lane {
        // SAFETY: the caller's promise makes the access exclusive.
        unsafe { &mut *self.entries[client as usize].lane.get() }
    }
}
