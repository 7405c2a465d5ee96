//! The table's writer half: format, join, statistics, and the writers handed out to workers.
//!
//! T1: only the one process that formatted or joined the section writes it. T2: a worker number has one writer at a
//! time, and only it writes the worker's record. T3: whatever is not reachable from a bucket is free memory.

use crate::arena::Arena;
use crate::clock::RegionClock;
use crate::deadlines::NO_DEADLINE;
use crate::evict::Eviction;
use crate::geometry::Geometry;
use crate::growth::Growth;
use crate::hashing::Hasher;
use crate::header;
use crate::layout::{Counters, Header, LAYOUT_MAJOR, LAYOUT_MINOR, MAX_WORKERS, Part, WorkerRecord};
use crate::section::Section;
use crate::spans::Spans;
use crate::store::{Commit, CommitError, Store};
use crate::sweep::Sweeping;
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::{AtomicBool, Mutex};
use crate::writer::Writer;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::OnceLock;
use thiserror::Error;

/// Why a section could not be formatted.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableError {
    /// Its memory could not be backed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The base address is not aligned to a cache line.
    #[error("formatting table failed: found base address {found:#x} against a multiple of 64; map it page-aligned")]
    Alignment {
        /// The address.
        found: usize,
    },
    /// There is something in it already.
    #[error("formatting table failed: found {found:#x} in the first word against 0; give it fresh memory")]
    NotEmpty {
        /// The first word.
        found: u64,
    },
}

/// Where a region is in its life; readers of a replaced region learn it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum RegionState {
    /// Being formatted or recovered.
    Forming = 0,
    /// Serving.
    Ready = 1,
    /// The server takes no new requests.
    Draining = 2,
    /// The server left.
    Closed = 3,
    /// Another region of the name took its place.
    Superseded = 4,
}

impl RegionState {
    pub(crate) fn from_word(word: u64) -> RegionState {
        match word {
            0 => RegionState::Forming,
            1 => RegionState::Ready,
            2 => RegionState::Draining,
            3 => RegionState::Closed,
            _ => RegionState::Superseded,
        }
    }
}

/// Counters of a table, summed over its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableStats {
    /// Items linked, but for those that a clear removed and the sweep has yet to unlink.
    pub items: u64,
    /// Buckets.
    pub buckets: u64,
    /// Overflow lines linked.
    pub overflow_lines: u64,
    /// Committed bytes.
    pub memory_used_bytes: u64,
    /// Cap on them.
    pub memory_limit_bytes: u64,
    /// Mutations refused for want of memory.
    pub full_total: u64,
    /// Mutations refused because a bucket's chain was at its cap.
    pub chain_full_total: u64,
    /// Expired items removed.
    pub expired_total: u64,
    /// Milliseconds since the earliest expiry whose item may still take memory; 0 if there is none. Known to the server only.
    pub expiry_lag_ms: u64,
    /// Items evicted.
    pub evicted_total: u64,
    /// Layout version, major and minor.
    pub layout_version: (u32, u32),
}

/// The writer half of a table.
pub struct Table {
    pub(crate) store: Store,
    pub(crate) arena: Arena,
    pub(crate) hasher: Hasher,
    pub(crate) geometry: Geometry,
    uuid: [u8; 16],
    claimed: Box<[AtomicBool]>,
    pub(crate) clock: RegionClock,
    pub(crate) growth: Growth,
    pub(crate) sweeping: Sweeping,
    /// Held by whoever clears the table, and by the sweep that ends a round after a clear.
    pub(crate) clearing: Mutex<()>,
    /// Intents found by `join` still stand in their records.
    pub(crate) intents_stand: Mutex<bool>,
    /// There if writers evict.
    pub(crate) eviction: OnceLock<Eviction>,
}

impl Table {
    /// Formats fresh, zeroed memory as an empty table. Backs the ranges of [`Geometry::initial_commit`] first, and
    /// stores the magic last, so that a table half formatted is never joined.
    ///
    /// # Safety
    /// `base` must be mapped readable and writable for [`Geometry::file_len`] bytes as long as the table lives, the
    /// ranges that `commit` has backed must be safe to touch, and no other process may write the section meanwhile.
    pub unsafe fn format(
        base: NonNull<u8>,
        geometry: &Geometry,
        seed: u64,
        uuid: [u8; 16],
        commit: Box<dyn Commit>,
    ) -> Result<Table, TableError> {
        if !base.as_ptr().addr().is_multiple_of(64) {
            return Err(TableError::Alignment { found: base.as_ptr().addr() });
        }
        for (offset, len) in geometry.initial_commit() {
            commit.commit(offset, len)?;
        }
        // SAFETY: passed on from the caller; the base is aligned.
        let section = unsafe { Section::new(base, geometry.file_len()) };
        let found = section.word(offset_of!(Header, magic) as u64).load(Relaxed);
        if found != 0 {
            return Err(TableError::NotEmpty { found });
        }
        header::write(&section, geometry, seed, uuid);
        let arena = geometry.arena(section);
        let mut spans = Spans::new(arena.clone(), reserve_units(geometry));
        spans.grow(geometry.initial_heap() / crate::classes::UNIT, true);
        header::seal(&arena.section);
        Ok(Table::new(arena, geometry.clone(), seed, uuid, spans, commit, geometry.initial_bytes(), NO_DEADLINE))
    }

    #[expect(clippy::too_many_arguments, reason = "what format and join found out, each in its own way")]
    pub(crate) fn new(
        arena: Arena,
        geometry: Geometry,
        seed: u64,
        uuid: [u8; 16],
        spans: Spans,
        commit: Box<dyn Commit>,
        used: u64,
        next_due: u64,
    ) -> Table {
        let limit = geometry.memory_limit;
        let clock = RegionClock::new(arena.section.word(offset_of!(Header, epoch) as u64).load(Relaxed));
        let (items, buckets) = (live_items(&arena), arena.bucket_count().buckets());
        let floor = arena.version_floor();
        Table {
            store: Store::new(arena.clone(), spans, commit, used, limit),
            arena,
            hasher: Hasher::new(seed),
            geometry,
            uuid,
            clock,
            growth: Growth::new(items, buckets),
            sweeping: Sweeping::new(next_due, floor),
            clearing: Mutex::new(()),
            claimed: (0..MAX_WORKERS).map(|_| AtomicBool::new(false)).collect(),
            intents_stand: Mutex::new(false),
            eviction: OnceLock::new(),
        }
    }

    /// The writer of a worker. Taking the first one after a join forgets the intents that the join reported: publish
    /// their replies before.
    ///
    /// # Panics
    /// If the number is not below [`MAX_WORKERS`](crate::MAX_WORKERS), or its writer is still there.
    pub fn writer(&self, worker: u32) -> Writer<'_> {
        assert!(worker < MAX_WORKERS, "worker {worker} beyond the {MAX_WORKERS} records of a table");
        // ORDER(claimed): AcqRel pairs with the Release in `release`: a record passes whole from writer to writer.
        assert!(!self.claimed[worker as usize].swap(true, AcqRel), "worker {worker} has a writer already");
        let mut stand = self.intents_stand.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if std::mem::take(&mut *stand) {
            for each in 0..MAX_WORKERS {
                crate::intent::clear(&self.arena, self.arena.record(each));
            }
            crate::redo::clear_all(&self.arena, &self.geometry);
        }
        drop(stand);
        self.store.want_redo(worker);
        Writer::new(self, worker)
    }

    pub(crate) fn release(&self, worker: u32) {
        // ORDER(claimed): Release pairs with the AcqRel in `writer`.
        self.claimed[worker as usize].store(false, Release);
    }

    /// Whether any writer is there.
    pub(crate) fn has_writers(&self) -> bool {
        // ORDER(claimed): Acquire pairs with the Release in `release`: what a gone writer stored is visible.
        self.claimed.iter().any(|claimed| claimed.load(Acquire))
    }

    /// Hash of a key under the table's seed.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    /// The region's clock.
    pub fn clock(&self) -> RegionClock {
        self.clock
    }

    /// Id of the region.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The table's geometry.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Buckets at the moment.
    pub fn buckets(&self) -> u64 {
        self.arena.bucket_count().buckets()
    }

    /// Longest value accepted.
    pub fn max_value(&self) -> u32 {
        self.geometry.max_value
    }

    /// Counters; reads a line per worker, no bucket.
    pub fn stats(&self) -> TableStats {
        let mut stats = stats_of(&self.arena);
        stats.memory_used_bytes = self.store.used();
        stats.memory_limit_bytes = self.store.limit();
        stats.expiry_lag_ms = self.sweeping.lag_ms(self.clock.now_ms());
        stats
    }

    /// Blocks of memory whose contents were moved to make room, since this process has the table.
    pub fn moved_blocks(&self) -> u64 {
        self.store.moved()
    }

    /// Sets the cap on committed bytes, at most what was reserved at format; what was set. Committed memory stays.
    pub fn set_memory_limit(&self, bytes: u64) -> u64 {
        self.store.set_limit(bytes)
    }

    /// Names the thread that is unparked when [`Table::commit_ahead`] is to be called: once when what was committed ahead
    /// gets low, not per operation.
    pub fn set_committer(&self, thread: std::thread::Thread) {
        self.store.set_committer(thread);
    }

    /// Commits memory ahead of the workers' need, for a background thread: true if it did and may be called again.
    pub fn commit_ahead(&self) -> bool {
        self.store.commit_ahead()
    }

    /// Sets where the region is in its life.
    pub fn set_state(&self, state: RegionState) {
        // ORDER(state): Release pairs with the Acquire in `Reader::state`.
        self.arena.section.word(offset_of!(Header, state) as u64).store(state as u64, Release);
    }

    /// The region's state.
    pub fn state(&self) -> RegionState {
        RegionState::from_word(self.arena.section.word(offset_of!(Header, state) as u64).load(Relaxed))
    }
}

/// Units that inserts leave for overwrites of large items.
pub(crate) fn reserve_units(geometry: &Geometry) -> u64 {
    let largest = geometry.largest_item_units();
    if largest * crate::classes::UNIT <= crate::classes::MAX_CLASS_SIZE {
        return 0;
    }
    // A table too small for the largest item beside others keeps an eighth.
    largest.min(geometry.memory_limit / 8 / crate::classes::UNIT)
}

/// One counter of all workers.
pub(crate) fn sum_of(arena: &Arena, field: usize) -> u64 {
    (0..MAX_WORKERS).fold(0u64, |sum, worker| {
        let at = arena.record(worker) + (offset_of!(WorkerRecord, counters) + field) as u64;
        sum.wrapping_add(arena.section.word(at).load(Relaxed))
    })
}

/// Items linked, less those below the version floor that the sweep has yet to find.
pub(crate) fn live_items(arena: &Arena) -> u64 {
    let cleared = arena.section.word(offset_of!(Header, cleared) as u64).load(Relaxed);
    let below = cleared.wrapping_sub(sum_of(arena, offset_of!(Counters, cleared)));
    sum_of(arena, offset_of!(Counters, items)).wrapping_sub(below)
}

/// The counters that stand in the section.
pub(crate) fn stats_of(arena: &Arena) -> TableStats {
    let sum = |field: usize| sum_of(arena, field);
    let committed: u64 = [Part::Redo, Part::Deadlines, Part::ClassMap, Part::Buckets, Part::Heap]
        .map(|part| arena.section.word(crate::layout::committed_word(part)).load(Relaxed))
        .iter()
        .fold(0, |sum, committed| sum.wrapping_add(*committed));
    TableStats {
        items: live_items(arena),
        buckets: arena.bucket_count().buckets(),
        overflow_lines: sum(offset_of!(Counters, overflow_lines)),
        memory_used_bytes: committed.wrapping_add(arena.workers + crate::layout::WORKERS_LEN),
        memory_limit_bytes: arena.section.word(offset_of!(Header, memory_limit) as u64).load(Relaxed),
        full_total: sum(offset_of!(Counters, full)),
        chain_full_total: sum(offset_of!(Counters, chain_full)),
        expired_total: sum(offset_of!(Counters, expired)),
        evicted_total: sum(offset_of!(Counters, evicted)),
        expiry_lag_ms: 0,
        layout_version: (LAYOUT_MAJOR, LAYOUT_MINOR),
    }
}
