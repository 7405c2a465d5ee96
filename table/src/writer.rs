//! A worker's writer: linking and unlinking items, and the versions and counters that go with it.
//!
//! A1: a mutation is lock, intent, one slot store, publish, clear, unlock, then the free of what was replaced.
//! A2: an item's bytes are complete before the slot store. A3: a version is used once. Nothing is allocated outside
//! the section and no lock but the bucket's is taken, save when a cache runs empty or over.
//! CRASH: see `intent`; a reservation of a dead process is unreachable memory and is free after `Table::join`.

use crate::arena::Arena;
use crate::cache::Cache;
use crate::chain::{self, Found, ItemKey, KeyBytes, Probe};
use crate::classes::LINE_CLASS;
use crate::clock::{Expiry, RegionClock};
use crate::evict::Eviction;
use crate::intent::{self, Effect, EffectKind, SlotStore, Ticket};
use crate::layout::{CHAIN_CAP, Counters, Header, LINE, WorkerRecord};
use crate::outcome::{Condition, ItemRef, Outcome, Refused};
use crate::reservation::Reservation;
use crate::seqlock;
use crate::server_half::Table;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::words::{ITEM_HEADER, ItemHeader, MAX_VERSION, is_link, slot_word, tag_of};
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::offset_of;

/// Versions that a worker takes at a time.
pub(crate) const VERSION_BLOCK: u64 = 4096;
/// Items linked or unlinked until a writer tells the table of them.
const TELL: i64 = 32;
/// An expiry that is no further off is judged by a clock that was just read: longer than any batch takes.
const NEAR_MS: u64 = 1_000;
/// Tries of an operation that eviction makes room for, while others take it.
pub(crate) const ROOM_TRIES: u32 = 8;
/// The writer of one worker.
pub struct Writer<'a> {
    pub(crate) table: &'a Table,
    pub(crate) arena: Arena,
    pub(crate) cache: Cache,
    worker: u32,
    pub(crate) record: u64,
    next_version: u64,
    version_end: u64,
    /// There if this writer evicts.
    pub(crate) eviction: Option<&'a Eviction>,
    clock: RegionClock,
    /// What this writer takes for now; 0 until it has asked the clock.
    now: Cell<u64>,
    /// It was told so, and does not ask.
    fixed: Cell<bool>,
    /// Items linked less unlinked that growth has not been told of.
    pub(crate) untold: i64,
    /// Splits that this writer has taken upon itself.
    pub(crate) owed_splits: u32,
    /// One thread at a time may use a writer, though it may move between threads.
    single: PhantomData<Cell<()>>,
}

/// A version for an item, with the floor that it is not below: what is alive is judged by this floor (see `clear`).
#[derive(Clone, Copy)]
pub(crate) struct Fresh {
    pub(crate) version: u64,
    pub(crate) floor: u64,
}

/// A bucket whose lock this writer holds.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) bucket: u64,
    seen: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(table: &'a Table, worker: u32) -> Writer<'a> {
        let arena = table.arena.clone();
        let record = arena.record(worker);
        Writer {
            table,
            arena,
            cache: Cache::new(),
            worker,
            record,
            next_version: 0,
            version_end: 0,
            eviction: table.eviction.get(),
            clock: table.clock,
            now: Cell::new(0),
            fixed: Cell::new(false),
            untold: 0,
            owed_splits: 0,
            single: PhantomData,
        }
    }

    /// The worker's number.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// The table.
    pub fn table(&self) -> &'a Table {
        self.table
    }

    /// Hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.table.hasher.hash(key)
    }

    /// Has this writer ask the clock again when it next needs the time: to be called before a batch of operations. Until
    /// then it stays with what it took for now.
    #[inline]
    pub fn refresh_clock(&mut self) {
        self.now.set(0);
        self.fixed.set(false);
    }

    /// Sets what this writer takes for now, until [`Writer::refresh_clock`], in milliseconds since the region's epoch: items
    /// that expire up to then count as absent.
    #[inline]
    pub fn set_now(&mut self, ms: u64) {
        self.now.set(ms.max(1));
        self.fixed.set(true);
    }

    /// What this writer takes for now.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        match self.now.get() {
            0 => self.ask_clock(),
            now => now,
        }
    }

    #[cold]
    fn ask_clock(&self) -> u64 {
        let now = self.clock.now_ms().max(1);
        self.now.set(now);
        now
    }

    /// The expiry of an item that is to live for so many milliseconds from now on.
    pub fn deadline(&self, ttl_ms: u64) -> Expiry {
        Expiry::At(self.now_ms().saturating_add(ttl_ms))
    }

    /// Whether an item counts as absent: expired, or of before the last clear, whose version floor is `floor`.
    #[inline(always)]
    pub(crate) fn is_dead(&self, header: &ItemHeader, floor: u64) -> bool {
        header.version < floor || (header.expiry != 0 && self.has_passed(header.expiry))
    }

    /// Whether a time has come. What a batch took for now at its beginning does for times far off; near one the clock is asked again, so that
    /// no write finds alive what a reader has found gone before.
    fn has_passed(&self, expiry: u64) -> bool {
        let now = self.now_ms();
        expiry <= now || (expiry - now <= NEAR_MS && !self.fixed.get() && expiry <= self.ask_clock())
    }

    /// The item a lookup found, unless it counts as absent.
    #[inline(always)]
    pub(crate) fn living(&self, found: Option<Found>) -> Option<Found> {
        self.living_above(found, self.arena.version_floor())
    }

    /// Walks a locked bucket for a key: the walk, and the item that is alive by this floor.
    #[inline(always)]
    pub(crate) fn probe_living<K: KeyBytes>(&self, held: Held, hash: u64, key: K, floor: u64) -> (Probe, Option<Found>) {
        let mut probe = chain::probe(&self.arena, held.bucket, tag_of(hash), key);
        let live = self.living_above(probe.found, floor);
        probe.dead = probe.found.is_some() && live.is_none();
        (probe, live)
    }

    /// The same by a floor that was read before.
    #[inline(always)]
    pub(crate) fn living_above(&self, found: Option<Found>, floor: u64) -> Option<Found> {
        found.filter(|found| !self.is_dead(&found.header, floor))
    }

    /// Hands all cached memory back, for a worker about to idle.
    pub fn trim(&mut self) {
        self.cache.flush(&self.table.store);
    }

    /// Links a reserved item under its key, or refuses. `publish` runs with the outcome: after the slot store and
    /// before the bucket is unlocked if the item was linked, else when nothing is held. It must not panic.
    #[inline]
    pub fn commit<R>(
        &mut self,
        reservation: Reservation,
        hash: u64,
        condition: Condition,
        ticket: &Ticket,
        publish: impl FnOnce(&Outcome) -> R,
    ) -> R {
        let Reservation { block, mut header, keep, held_back, .. } = reservation;
        let key = ItemKey { at: block.offset + ITEM_HEADER, len: usize::from(header.key_len) };
        let mut tries = 0;
        loop {
            let held = self.lock(hash);
            let Some(Fresh { version, floor }) = self.take_version() else {
                self.unlock_unchanged(held);
                self.release(block.offset, held_back);
                return publish(&Outcome::Full);
            };
            header.version = version;
            self.arena.section.word(block.offset).store(header.word0(), Relaxed);
            let (probe, live) = self.probe_living(held, hash, key, floor);
            if keep {
                header.expiry = live.map_or(0, |live| live.header.expiry);
                self.arena.section.word(block.offset + 8).store(header.word1(), Relaxed);
            }
            let refusal = if condition.met(live.map(|found| found.header.version)) {
                let kind = if live.is_some() { EffectKind::Replaced } else { EffectKind::Inserted };
                match self.place(&probe, slot_word(tag_of(hash), block.offset)) {
                    Ok(store) => {
                        let effect = Effect { kind, version, value: 0 };
                        return self.apply(held, &probe, store, &header, ticket, effect, held_back, publish);
                    }
                    Err(refusal) => refusal,
                }
            } else {
                Outcome::ConditionNotMet { version: live.map_or(0, |found| found.header.version) }
            };
            self.unlock_unchanged(held);
            tries += 1;
            if tries == ROOM_TRIES || !self.made_way(&refusal, hash) {
                self.release(block.offset, held_back);
                return publish(&refusal);
            }
        }
    }

    /// Reserves, writes and commits a small value in one go.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    pub fn insert<R>(
        &mut self,
        key: &[u8],
        value: &[u8],
        hash: u64,
        condition: Condition,
        expiry: Expiry,
        ticket: &Ticket,
        publish: impl FnOnce(&Outcome) -> R,
    ) -> R {
        match self.reserve(key, u32::try_from(value.len()).unwrap_or(u32::MAX), 0, expiry) {
            Ok(mut reservation) => {
                reservation.write_value(value);
                self.commit(reservation, hash, condition, ticket, publish)
            }
            Err(Refused::Full) => publish(&Outcome::Full),
            Err(_) => publish(&Outcome::TooLong),
        }
    }

    /// Where an item's slot word goes: over the key's old one, into a free slot, or with a new overflow line.
    #[inline]
    pub(crate) fn place(&mut self, probe: &Probe, word: u64) -> Result<SlotStore, Outcome> {
        if let Some(found) = &probe.found {
            return Ok(SlotStore { slot: found.slot, old: found.word, new: word });
        }
        if probe.free != 0 {
            return Ok(SlotStore { slot: probe.free, old: 0, new: word });
        }
        self.place_in_new_line(probe, word)
    }

    #[cold]
    fn place_in_new_line(&mut self, probe: &Probe, word: u64) -> Result<SlotStore, Outcome> {
        if probe.lines >= CHAIN_CAP {
            return Err(self.refused(Outcome::ChainFull));
        }
        let Some(block) = self.allocate(LINE_CLASS, LINE) else {
            return Err(self.refused(Outcome::Full));
        };
        seqlock::before_reuse();
        let (slot, old, new) = chain::fill_line(&self.arena, probe.last, block.offset, word);
        Ok(SlotStore { slot, old, new })
    }

    /// Counts a refusal, unless eviction or growth may still take it back.
    fn refused(&self, refusal: Outcome) -> Outcome {
        if self.eviction.is_none() && refusal == Outcome::Full {
            self.count_refusal(&refusal);
        }
        refusal
    }

    /// Counts an operation that is refused for want of memory or of room in a chain.
    pub(crate) fn count_refusal(&self, refusal: &Outcome) {
        let chain = matches!(refusal, Outcome::ChainFull);
        self.count(if chain { offset_of!(Counters, chain_full) } else { offset_of!(Counters, full) }, 1);
    }

    /// The mutation proper (A1): intent, slot store, publish, clear, unlock, free.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the one place where all that a mutation is comes together")]
    pub(crate) fn apply<R>(
        &mut self,
        held: Held,
        probe: &Probe,
        store: SlotStore,
        header: &ItemHeader,
        ticket: &Ticket,
        effect: Effect,
        held_back: bool,
        publish: impl FnOnce(&Outcome) -> R,
    ) -> R {
        if header.expiry != 0 {
            self.lower_deadline(held.bucket, header.expiry);
        }
        intent::write_and_apply(&self.arena, self.record, ticket, &effect, store);
        let answer = publish(&Outcome::of(&effect));
        intent::clear(&self.arena, self.record);
        match &probe.found {
            Some(found) => {
                if probe.dead {
                    self.count_dead(&found.header);
                }
                self.note_hit(held.bucket, found.slot);
            }
            // A line that was just linked shares the counters of the chain's other lines, whatever they say.
            None if is_link(store.new) => {}
            None => self.note_new(held.bucket, store.slot),
        }
        self.unlock(held);
        if is_link(store.new) {
            self.count(offset_of!(Counters, overflow_lines), 1);
        }
        match &probe.found {
            Some(found) => self.release(found.item, held_back),
            None => self.linked(is_link(store.new)),
        }
        answer
    }

    /// Removes a key.
    #[inline]
    pub fn delete<R>(
        &mut self,
        key: &[u8],
        hash: u64,
        condition: Condition,
        ticket: &Ticket,
        publish: impl FnOnce(&Outcome) -> R,
    ) -> R {
        let held = self.lock(hash);
        let found = chain::find(&self.arena, self.arena.heap_end, held.bucket, tag_of(hash), key);
        let Some(found) = self.living(found) else {
            self.unlock_unchanged(held);
            let absent = matches!(condition, Condition::None | Condition::IfPresent);
            return publish(if absent { &Outcome::NotFound } else { &Outcome::ConditionNotMet { version: 0 } });
        };
        let version = found.header.version;
        if !condition.met(Some(version)) {
            self.unlock_unchanged(held);
            return publish(&Outcome::ConditionNotMet { version });
        }
        let store = SlotStore { slot: found.slot, old: found.word, new: 0 };
        let effect = Effect { kind: EffectKind::Deleted, version, value: 0 };
        intent::write_and_apply(&self.arena, self.record, ticket, &effect, store);
        let answer = publish(&Outcome::Deleted { version });
        intent::clear(&self.arena, self.record);
        let line = if found.parent == 0 { None } else { chain::unlink_if_empty(&self.arena, found.parent) };
        self.unlock(held);
        self.unlinked(1);
        self.release(found.item, false);
        if let Some(line) = line {
            self.count(offset_of!(Counters, overflow_lines), u64::MAX);
            self.release(line, false);
        }
        answer
    }

    /// Takes the lock of a hash's bucket.
    #[inline(always)]
    pub(crate) fn lock(&self, hash: u64) -> Held {
        loop {
            let index = self.arena.bucket_count().index(hash);
            let held = self.lock_bucket(index);
            if self.arena.bucket_count().index(hash) == index {
                return held;
            }
            self.unlock_unchanged(held);
        }
    }

    #[inline(always)]
    pub(crate) fn lock_bucket(&self, index: u64) -> Held {
        let bucket = self.arena.bucket(index);
        Held { bucket, seen: seqlock::lock(self.arena.section.word(bucket)) }
    }

    pub(crate) fn try_lock_bucket(&self, index: u64) -> Option<Held> {
        let bucket = self.arena.bucket(index);
        let seen = seqlock::try_lock(self.arena.section.word(bucket))?;
        Some(Held { bucket, seen })
    }

    #[inline]
    pub(crate) fn unlock(&self, held: Held) {
        seqlock::unlock(self.arena.section.word(held.bucket), held.seen);
    }

    #[inline]
    pub(crate) fn unlock_unchanged(&self, held: Held) {
        seqlock::unlock_unchanged(self.arena.section.word(held.bucket), held.seen);
    }

    /// A version that was never used and never will be again, and not below the version floor; none when all 2^48 are
    /// spent. Whoever links an item takes its version under the bucket's lock, before judging what is alive (see `clear`).
    #[inline(always)]
    pub(crate) fn take_version(&mut self) -> Option<Fresh> {
        loop {
            let floor = self.arena.version_floor();
            if self.next_version < self.version_end && self.next_version >= floor {
                self.next_version += 1;
                return Some(Fresh { version: self.next_version - 1, floor });
            }
            if !self.take_version_block() {
                return None;
            }
        }
    }

    #[cold]
    fn take_version_block(&mut self) -> bool {
        let counter = self.arena.section.word(offset_of!(Header, next_version) as u64);
        if counter.load(Relaxed) > MAX_VERSION - 512 * VERSION_BLOCK {
            return false;
        }
        // A clear stores the floor before it raises the counter: whoever comes between helps it, or would find no block above.
        // ORDER(next_version): Release: who takes a version above the floor after us sees the floor that we saw (F3).
        counter.fetch_max(self.arena.version_floor(), Release);
        // ORDER(next_version): Acquire pairs with the Release in `clear`: whoever gets a version above a floor sees that floor.
        self.next_version = counter.fetch_add(VERSION_BLOCK, Acquire);
        self.version_end = self.next_version + VERSION_BLOCK;
        true
    }

    /// An item was linked where none was, in a new overflow line or not: a small table may be full of items that nobody told of.
    #[inline]
    pub(crate) fn linked(&mut self, in_new_line: bool) {
        self.count(offset_of!(Counters, items), 1);
        self.untold += 1;
        if self.untold >= TELL || self.owed_splits > 0 || in_new_line {
            self.grow();
        }
    }

    /// Items were unlinked.
    #[inline]
    pub(crate) fn unlinked(&mut self, items: u64) {
        self.count(offset_of!(Counters, items), items.wrapping_neg());
        self.untold -= items as i64;
        if self.untold <= -TELL {
            self.tell();
        }
    }

    /// An item that counted as absent leaves its slot: says why it did, before the bucket is unlocked, so that a sweep that has been
    /// at the bucket since counts it.
    #[cold]
    pub(crate) fn count_dead(&self, header: &ItemHeader) {
        let floor = self.arena.version_floor();
        let field = if header.version < floor { offset_of!(Counters, cleared) } else { offset_of!(Counters, expired) };
        self.count(field, 1);
    }

    /// Adds to one of this worker's counters; a plain load and store, since nobody else writes it.
    #[inline]
    pub(crate) fn count(&self, field: usize, by: u64) {
        let word = self.arena.section.word(self.record + (offset_of!(WorkerRecord, counters) + field) as u64);
        word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.tell();
        self.give_splits_back();
        self.cache.flush(&self.table.store);
        self.table.release(self.worker);
    }
}

#[inline]
pub(crate) fn item_ref(offset: u64, header: &ItemHeader) -> ItemRef {
    ItemRef {
        offset,
        version: header.version,
        expiry: header.expiry,
        value_len: header.value_len,
        key_len: header.key_len,
        type_and_flags: header.type_and_flags,
    }
}
