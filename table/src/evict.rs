//! Eviction, for who asked for it: when memory is full, items that nobody reads make room for new ones.
//!
//! ```text
//!   hand ─▶ bucket: counter above 0 ─▶ one less, stays
//!                   counter at 0 ────▶ slot zeroed under the bucket's lock, item freed          then the next bucket
//! ```
//!
//! The policy is GCLOCK (A. J. Smith, 1978): an item outlives as many visits of the hand as it had hits since the last, up to
//! three. The hand goes through the buckets in order, which is no order of age, so that it needs no list and no lock but the
//! bucket's. Items begin without a mark: what is written once and never read goes at the hand's next visit, so that scans
//! drive out little.
//!
//! X1: nothing is evicted unless [`Table::turn_eviction_on`] was called. X2: who evicts holds no bucket's lock; whoever finds
//! memory full under one releases it and tries its operation again from the start. X3: the item that the running operation is
//! about to replace is spared. X4: workers share one hand and take stretches of buckets from it, so that they do not meet.
//! Progress: the hand turns at most [`TURNS`] times for one allocation, after which every item has gone that was not spared.
//! CRASH: an eviction is a delete that nobody asked for: one store of one slot word under the bucket's odd version, like each
//! key of `delete_step`. A server that dies before the store leaves the item, one that dies after it leaves none; there is
//! no reply to complete and so no intent. `Table::join` makes the version even, counts what it finds and frees the rest.

use crate::cache::Block;
use crate::chain::{self, Room};
use crate::classes::{LARGE, LINE_CLASS, UNIT, class_for, size_of_class};
use crate::hits::{Hits, MOST_HITS, Place};
use crate::layout::{CHAIN_CAP, Counters, LINE};
use crate::outcome::Outcome;
use crate::prefetch;
use crate::server_half::Table;
use crate::spans::{Spans, unit_entry};
use crate::split::{self, MOST, Spare};
use crate::sync::Ordering::{Relaxed, Release};
use crate::words::{matches, offset_of_slot, slot_tag, tag_of};
use crate::writer::Writer;
use crossbeam_utils::CachePadded;
use std::mem::offset_of;
use std::sync::atomic::AtomicU64;

/// Buckets that a worker takes from the hand at a time.
const STRETCH: u64 = 8;
/// Turns of the hand for one allocation at most: after so many every counter has been at 0.
const TURNS: u64 = MOST_HITS as u64 + 1;
/// Bytes evicted between two tries of an allocation that needs more than one freed block.
const TRY: u64 = 64 * 1024;
/// Hints of one call whose buckets are fetched together.
const GROUP: usize = 16;

/// What a table that evicts has beyond others.
pub(crate) struct Eviction {
    pub(crate) hits: Hits,
    /// Buckets visited so far; the bucket is this modulo their number.
    hand: CachePadded<AtomicU64>,
    /// Bytes to free ahead: set whenever an allocation had to evict for itself.
    owed: CachePadded<AtomicU64>,
}

/// What a visit of the hand may remove.
#[derive(Clone, Copy)]
struct Prey {
    /// Items in blocks of this class only.
    class: Option<u8>,
    /// Hash of a key that is about to be written.
    spared: Option<u64>,
    /// Items of one bucket at most.
    most: usize,
}

/// The slot words of a bucket's items with their counts.
pub(crate) struct Known {
    items: [(u64, u16); MOST],
    len: usize,
}

impl Table {
    /// Has writers evict items instead of answering `Full`. To be called before the first writer is taken.
    pub fn turn_eviction_on(&self) {
        let _ = self.eviction.get_or_init(|| Eviction {
            hits: Hits::new(self.arena.max_buckets),
            hand: CachePadded::default(),
            owed: CachePadded::default(),
        });
    }

    /// Whether writers evict.
    pub fn evicts(&self) -> bool {
        self.eviction.get().is_some()
    }
}

impl<'a> Writer<'a> {
    /// Moves the hand over so many buckets; how many bytes were freed. Nothing happens where eviction is off.
    pub fn evict_step(&mut self, most_buckets: u32) -> u64 {
        let Some(eviction) = self.eviction else { return 0 };
        let (mut left, mut freed) = (u64::from(most_buckets), 0);
        while left > 0 {
            let buckets = left.min(STRETCH);
            freed += self.stretch(eviction, buckets, Prey { class: None, spared: None, most: MOST });
            left -= buckets;
        }
        freed
    }

    /// Evicts ahead of need, at most over so many buckets, if an allocation found memory full lately; whether there is more
    /// to do. So inserts seldom evict for themselves.
    pub fn evict_ahead(&mut self, most_buckets: u32) -> bool {
        let Some(eviction) = self.eviction else { return false };
        // Relaxed, and not one atomic step: a lost count frees a little more or less.
        let owed = eviction.owed.load(Relaxed);
        if owed == 0 {
            return false;
        }
        let left = owed.saturating_sub(self.evict_step(most_buckets));
        eviction.owed.store(left, Relaxed);
        left > 0
    }

    /// Takes what clients say they read directly. Any hash does no more than mark an item of its bucket.
    pub fn hint(&self, hashes: &[u64]) {
        let Some(eviction) = self.eviction else { return };
        for group in hashes.chunks(GROUP) {
            group.iter().for_each(|&hash| self.prefetch(hash));
            group.iter().for_each(|&hash| self.mark(eviction, hash));
        }
    }

    /// Marks the first item whose tag is the hash's. The bucket is not locked: whatever the slots say is good enough (M1).
    fn mark(&self, eviction: &Eviction, hash: u64) {
        let (index, tag) = (self.bucket_of(hash), tag_of(hash));
        let bucket = self.arena.bucket(index);
        let mut marked = false;
        chain::for_each_slot(&self.arena, self.arena.heap_end, bucket, |slot, word| {
            if !marked && matches(word, tag) {
                eviction.hits.hit(index, Place::of(bucket, slot));
                marked = true;
            }
        });
    }

    /// The item of a slot of a bucket's chain was read or replaced.
    #[inline]
    pub(crate) fn note_hit(&self, bucket: u64, slot: u64) {
        if let Some(eviction) = self.eviction {
            eviction.hits.hit((bucket - self.arena.buckets) / LINE, Place::of(bucket, slot));
        }
    }

    /// A new item was linked at a slot of a bucket's chain.
    #[inline]
    pub(crate) fn note_new(&self, bucket: u64, slot: u64) {
        if let Some(eviction) = self.eviction {
            let shared = slot.wrapping_sub(bucket) >= LINE;
            eviction.hits.begin((bucket - self.arena.buckets) / LINE, Place::of(bucket, slot), shared);
        }
    }

    /// Memory for an item of `len` bytes when none is free: evicts until there is. The item of the key with this hash is spared.
    #[cold]
    pub(crate) fn evict_for(&mut self, len: u64, hash: u64) -> Option<Block> {
        let eviction = self.eviction?;
        let class = class_for(len);
        eviction.owed.store(ahead(self.table.store.limit()), Relaxed);
        let any = Prey { class: None, spared: Some(hash), most: MOST };
        let mut own_kind =
            Some(Prey { class: Some(class), ..any }).filter(|_| class != LARGE && self.table.store.spans().is_common(class));
        // As everywhere: what is used least, of whatever size. Where sizes are mixed, this seldom frees a block of the size wanted;
        // what it frees serves those who want the other sizes, or turns into free units by evacuation.
        let share = (self.table.store.limit() / 256).clamp(UNIT / 4, TRY) + 4 * len;
        loop {
            let (block, freed) = self.evict_until(eviction, any, len, share);
            if let Some(block) = block.or_else(|| self.make_room(class, len)) {
                return Some(block);
            }
            // Then once among its own kind, if that is common enough for the hand to meet it often.
            if let Some(prey) = own_kind.take()
                && let (Some(block), _) = self.evict_until(eviction, prey, len, u64::MAX)
            {
                return Some(block);
            }
            if freed < share {
                // Everything has gone.
                return None;
            }
        }
    }

    /// Evicts until there is a block for `len` bytes, at most until `enough` bytes were freed or everything has gone; and the bytes freed.
    fn evict_until(&mut self, eviction: &'a Eviction, prey: Prey, len: u64, enough: u64) -> (Option<Block>, u64) {
        let class = class_for(len);
        let most = TURNS * self.arena.bucket_count().buckets();
        let (mut visited, mut freed, mut tried) = (0, 0, 0);
        while visited < most && freed < enough {
            freed += self.stretch(eviction, STRETCH, prey);
            visited += STRETCH;
            let mut block = if class == LARGE { None } else { self.cache.pop(class) };
            if block.is_none() && freed - tried >= TRY {
                tried = freed;
                block = self.cache.take(&self.table.store, class, len);
            }
            if block.is_some() {
                return (block, freed);
            }
        }
        (self.cache.take(&self.table.store, class, len), freed)
    }

    /// An operation on the key of `hash` was refused for want of an overflow line or of room in the chain, and holds no lock
    /// any more: whether splits that were due parted the chain, or an item of that very bucket made way, so that it may try again. No memory is fetched from elsewhere:
    /// lines are few, and whole spans of items would have to go until one more of them is free.
    #[cold]
    pub(crate) fn made_way(&mut self, refusal: &Outcome, hash: u64) -> bool {
        let full_chain = *refusal == Outcome::ChainFull;
        if full_chain && self.outgrew() {
            return true;
        }
        let Some(eviction) = self.eviction.filter(|_| full_chain || *refusal == Outcome::Full) else {
            if full_chain {
                self.count_refusal(refusal);
            }
            return false;
        };
        let prey = Prey { class: None, spared: Some(hash), most: 1 };
        let made = (0..TURNS).any(|_| {
            let index = self.bucket_of(hash);
            let (unused, used) = self.look(eviction, index, prey);
            // The hand is elsewhere: counters go down only while none is at 0.
            let freed = if unused { self.evict_unused(eviction, index, prey) } else { 0 };
            if freed == 0 {
                eviction.hits.age(index, used);
            }
            freed > 0
        });
        if !made {
            self.count_refusal(refusal);
        }
        made
    }

    /// Lets an item of the bucket of `hash` make way for another one, if none could be linked there now. For operations that cannot begin
    /// again once they hold their locks; whoever takes the room meanwhile makes them answer `Full`.
    pub(crate) fn clear_the_way(&mut self, hash: u64) {
        if self.eviction.is_none() && !self.table.growth.is_behind() {
            return;
        }
        let refusal = match chain::room(&self.arena, self.arena.bucket(self.bucket_of(hash)), |_| false) {
            Room::Slot(_) => return,
            Room::Behind { lines: CHAIN_CAP.., .. } if self.outgrew() => return,
            Room::Behind { lines: CHAIN_CAP.., .. } => Outcome::ChainFull,
            Room::Behind { .. } if self.eviction.is_none() => return,
            Room::Behind { .. } => match self.cache.take(&self.table.store, LINE_CLASS, LINE) {
                Some(line) => return self.cache.put(&self.table.store, &self.arena, line.offset),
                None => Outcome::Full,
            },
        };
        if self.eviction.is_some() {
            self.made_way(&refusal, hash);
        }
    }

    /// Closes a bucket's chain up (see [`split::close_up`]) with the items' counters.
    pub(crate) fn close_up(&self, bucket: u64, goes: impl Fn(u64) -> bool) -> Spare {
        let known = self.known(bucket);
        let spare = split::close_up(&self.arena, bucket, goes);
        self.enter_known(bucket, known.as_ref());
        spare
    }

    /// What the counters say of a bucket's items, to be entered again when these have changed places. Needs the lock.
    pub(crate) fn known(&self, bucket: u64) -> Option<Known> {
        let hits = &self.eviction?.hits;
        let mut known = Known { items: [(0, 0); MOST], len: 0 };
        let index = (bucket - self.arena.buckets) / LINE;
        chain::for_each_slot(&self.arena, self.arena.heap_end, bucket, |slot, word| {
            if known.len < MOST {
                known.items[known.len] = (word, hits.count(index, Place::of(bucket, slot)));
                known.len += 1;
            }
        });
        Some(known)
    }

    /// Enters what was known of those items that are now in this bucket; of those that share a counter, the most.
    pub(crate) fn enter_known(&self, bucket: u64, known: Option<&Known>) {
        let (Some(eviction), Some(known)) = (self.eviction, known) else { return };
        let mut marks = 0;
        chain::for_each_slot(&self.arena, self.arena.heap_end, bucket, |slot, word| {
            if let Some(&(_, count)) = known.items[..known.len].iter().find(|(item, _)| *item == word) {
                Place::of(bucket, slot).raise(&mut marks, count);
            }
        });
        eviction.hits.set((bucket - self.arena.buckets) / LINE, marks);
    }

    /// Takes the next buckets from the hand and visits them; the bytes freed.
    fn stretch(&mut self, eviction: &Eviction, buckets: u64, prey: Prey) -> u64 {
        let count = self.arena.bucket_count().buckets();
        // Relaxed: who visits a bucket decides nothing but what is done twice.
        let first = eviction.hand.fetch_add(buckets, Relaxed);
        for at in first..first + buckets {
            prefetch::for_write(self.arena.section.hint(self.arena.bucket(at % count)));
        }
        (first..first + buckets).map(|at| self.visit(eviction, at % count, prey)).sum()
    }

    /// Lowers the counters of a bucket and evicts what stood at 0; the bytes freed.
    fn visit(&mut self, eviction: &Eviction, index: u64, prey: Prey) -> u64 {
        let (unused, used) = self.look(eviction, index, prey);
        let freed = if unused { self.evict_unused(eviction, index, prey) } else { 0 };
        eviction.hits.age(index, used);
        freed
    }

    /// Whether an item of a bucket has its counter at 0, and the counters that are above. The bucket is not locked: what is
    /// seen only decides which advice to lower and whether to look again under the lock.
    fn look(&self, eviction: &Eviction, index: u64, prey: Prey) -> (bool, u16) {
        let bucket = self.arena.bucket(index);
        let (mut unused, mut used) = (false, 0);
        chain::for_each_slot(&self.arena, self.arena.heap_end, bucket, |slot, word| {
            if self.is_prey(index, word, prey) {
                let place = Place::of(bucket, slot);
                if eviction.hits.count(index, place) == 0 { unused = true } else { used |= place.bit() }
            }
        });
        (unused, used)
    }

    fn is_prey(&self, index: u64, word: u64, prey: Prey) -> bool {
        let spared = prey.spared.is_some_and(|hash| tag_of(hash) == slot_tag(word) && self.bucket_of(hash) == index);
        let kind = |class| unit_entry(&self.arena, offset_of_slot(word)).is_some_and(|entry| entry.class == class);
        !spared && prey.class.is_none_or(kind)
    }

    /// Unlinks the items of a bucket whose counter is at 0, and frees them after the unlock.
    fn evict_unused(&mut self, eviction: &Eviction, index: u64, prey: Prey) -> u64 {
        let mut freed = [0u64; MOST];
        let mut items = 0;
        let held = self.lock_bucket(index);
        chain::for_each_slot(&self.arena, self.arena.heap_end, held.bucket, |slot, word| {
            let unused = self.is_prey(index, word, prey) && eviction.hits.count(index, Place::of(held.bucket, slot)) == 0;
            if unused && items < prey.most {
                // ORDER(slot): Release, one visible step per key for a successor.
                self.arena.section.word(slot).store(0, Release);
                freed[items] = offset_of_slot(word);
                items += 1;
            }
        });
        if items == 0 {
            self.unlock_unchanged(held);
            return 0;
        }
        let spare = self.close_up(held.bucket, |_| false);
        self.unlock(held);
        self.count(offset_of!(Counters, evicted), items as u64);
        self.count(offset_of!(Counters, overflow_lines), (spare.lines().len() as u64).wrapping_neg());
        self.unlinked(items as u64);
        let mut bytes = 0;
        for &offset in freed[..items].iter().chain(spare.lines()) {
            bytes += unit_entry(&self.arena, offset).map_or(0, |entry| match entry.class {
                LARGE => u64::from(entry.units) * UNIT,
                class => size_of_class(usize::from(class)),
            });
            self.release(offset, false);
        }
        bytes
    }
}

/// What is freed ahead: little, since free memory holds no items.
fn ahead(limit: u64) -> u64 {
    (limit / 128).clamp(UNIT, 1 << 20)
}

impl Spans {
    /// Whether blocks of a class make up a sixty-fourth of the heap.
    fn is_common(&self, class: u8) -> bool {
        self.blocks[usize::from(class)] * size_of_class(usize::from(class)) * 64 >= self.pool.units() * UNIT
    }
}
