//! Making room: blocks are moved out of sparse spans, so that their units can serve another class or a larger item.
//!
//! ```text
//! choose spans ─▶ for each block still taken: a place for it ─▶ copy ─▶ lock its bucket ─▶ is it still linked here?
//!                  └ yes: one slot store names the copy ─▶ unlock ─▶ retire and free the old block
//!                  └ no (cached, reserved, freed meanwhile, or the bucket is busy): the place is given back
//! ```
//!
//! O1: a moved item keeps its version and all its bytes; a reader that holds on to the old place sees word 0 = 0 there and
//! looks the key up again. O2: an item is copied before its bucket is locked: it cannot change while it is linked, but for
//! its expiry (word 1), which is copied under the lock; and linked it was throughout if word 0 is the same under the lock,
//! since no version recurs at a place (M1 of [`crate::spans_leaving`]). O3: buckets are only tried, never waited for, so
//! that a writer may make room while it holds others.
//! Progress: a step moves a bounded number of blocks.
//! CRASH: no intent is needed. The one slot store switches from the old copy to the new, and nothing answers a request:
//! before it the new block is unreferenced memory, after it the old one is, and `Table::join` frees either. A join never
//! meets both, and the lock it may find taken is released like any other.

use crate::cache::Block;
use crate::chain;
use crate::classes::{LARGE, UNIT, least_units};
use crate::layout::{CHAIN_CAP, LINE, SLOTS};
use crate::seqlock;
use crate::spans::Need;
use crate::spans_leaving::Move;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::words::{
    ITEM_HEADER, ItemHeader, MAX_KEY, OVERFLOW_MARK, is_link, link_word, offset_of_slot, slot_tag, slot_word, tag_of,
};
use crate::writer::{Held, Writer};

/// Blocks that are moved between two looks at the heap.
const BATCH: usize = 32;
/// Batches before an allocation is refused.
const BATCHES: usize = 2048;

impl Writer<'_> {
    /// A block for `len` bytes whose class is `class`; room is made for it if it must, unless this writer evicts: then items go
    /// first, and blocks are moved if that alone did not help.
    #[inline]
    pub(crate) fn allocate(&mut self, class: u8, len: u64) -> Option<Block> {
        match self.cache.take(&self.table.store, class, len) {
            None if self.eviction.is_none() => self.make_room(class, len),
            block => block,
        }
    }

    /// The last resort before an allocation is refused. It may run while this writer holds buckets (O3).
    #[cold]
    pub(crate) fn make_room(&mut self, class: u8, len: u64) -> Option<Block> {
        let units = if class == LARGE { len.div_ceil(UNIT) } else { least_units(usize::from(class)) } as u32;
        let store = &self.table.store;
        for _ in 0..2 {
            for _ in 0..BATCHES {
                if !self.evacuate(BATCH, units) {
                    break;
                }
                let block = self.cache.take_free(store, class, len, Need::Usual);
                if block.is_some() {
                    return block;
                }
            }
            // What waits to leave has room of its own, and what was passed by for a while is tried again.
            store.spans().cancel_all();
            let block = self.cache.take_free(store, class, len, Need::Last);
            if block.is_some() {
                return block;
            }
        }
        None
    }

    /// Looks after the memory of the table between requests: hands cached blocks back when others need them, and once the
    /// limit is reached makes room ahead of need, `most` blocks at a time. Whether there is more to do at once.
    #[inline]
    pub fn memory_ahead(&mut self, most: usize) -> bool {
        let store = &self.table.store;
        self.cache.yield_to_pressure(store);
        store.is_short() && self.make_room_ahead(most)
    }

    #[cold]
    fn make_room_ahead(&mut self, most: usize) -> bool {
        let more = self.evacuate_step(most) && !self.table.store.has_room();
        if !more {
            self.table.store.stop_making_room();
        }
        more
    }

    /// Moves at most `most` blocks out of sparse spans; false if there is nothing worth it.
    pub fn evacuate_step(&mut self, most: usize) -> bool {
        self.evacuate(most, u32::MAX)
    }

    /// The same for the sake of `units` in a row; `u32::MAX` asks for any.
    fn evacuate(&mut self, most: usize, units: u32) -> bool {
        let mut moves = [Move::default(); BATCH];
        let room = most.clamp(1, BATCH);
        let store = &self.table.store;
        let mut got = {
            let mut spans = store.spans();
            match spans.next_moves(&mut moves[..room]) {
                0 if spans.is_fruitless(units) => return false,
                got => got,
            }
        };
        if got == 0 {
            // Blocks that this worker caches would be in the way.
            self.cache.flush(store);
            let mut spans = store.spans();
            if !spans.pass_again() && !spans.choose_for(units) {
                return false;
            }
            got = spans.next_moves(&mut moves[..room]);
            drop(spans);
            store.press();
        }
        let (mut free, mut moved) = ([0; BATCH], 0);
        for (one, free) in moves[..got].iter().zip(&mut free) {
            let done = self.move_block(one);
            *free = if done { one.from } else { one.to };
            moved += u64::from(done);
        }
        store.give(&free[..got]);
        store.count_moved(moved);
        true
    }

    /// Moves what is linked at `from`, if anything is; whether `from` is free now.
    fn move_block(&self, Move { from, to, room }: &Move) -> bool {
        let (from, to, room) = (*from, *to, *room);
        let section = &self.arena.section;
        // ORDER(word0): Acquire: what is copied is not older than the version seen here.
        let word0 = section.word(from).load(Acquire);
        if word0 == OVERFLOW_MARK && room == LINE {
            return self.move_line(from, to);
        }
        let header = ItemHeader::decode(word0, section.word(from + 8).load(Relaxed));
        let (key_len, len) = (usize::from(header.key_len), header.len());
        if header.version == 0 || key_len == 0 || key_len > MAX_KEY || len > room {
            return false;
        }
        seqlock::before_reuse();
        seqlock::retire(section.word(to));
        section.copy_inside(from + ITEM_HEADER, to + ITEM_HEADER, len - ITEM_HEADER);
        let hash = self.hash_at(to + ITEM_HEADER, key_len);
        let Some(held) = self.try_lock(hash) else { return false };
        let slot = self.slot_naming(held.bucket, from).filter(|&(_, word)| slot_tag(word) == tag_of(hash));
        let Some((slot, _)) = slot.filter(|_| section.word(from).load(Relaxed) == word0) else {
            self.unlock_unchanged(held);
            return false;
        };
        section.word(to + 8).store(section.word(from + 8).load(Relaxed), Relaxed);
        section.word(to).store(word0, Relaxed);
        // ORDER(slot): Release: the copy is whole before it is named, also for a successor.
        section.word(slot).store(slot_word(tag_of(hash), to), Release);
        self.unlock(held);
        seqlock::retire(section.word(from));
        true
    }

    /// Moves an overflow line. Which bucket's it is, one of its items says.
    fn move_line(&self, from: u64, to: u64) -> bool {
        let section = &self.arena.section;
        let words = (0..SLOTS).map(|index| section.word(chain::slot_at(from, index)).load(Relaxed));
        let mut items = words.filter(|&word| word != 0 && !is_link(word));
        let Some((item, header)) = items.next().and_then(|word| chain::item_of(&self.arena, self.arena.heap_end, word)) else {
            return false;
        };
        let Some(held) = self.try_lock(self.hash_at(item + ITEM_HEADER, usize::from(header.key_len))) else { return false };
        let Some(parent) = self.link_to(held.bucket, from) else {
            self.unlock_unchanged(held);
            return false;
        };
        seqlock::before_reuse();
        section.copy_inside(from, to, LINE);
        // ORDER(slot): Release: as in `move_block`.
        section.word(parent).store(link_word(to), Release);
        self.unlock(held);
        seqlock::retire(section.word(from));
        true
    }

    /// Hash of the key bytes at an offset; of whatever stands there.
    fn hash_at(&self, at: u64, len: usize) -> u64 {
        let mut key = [0u8; MAX_KEY];
        let len = len.min(MAX_KEY);
        // SAFETY: the array has room for len bytes.
        unsafe { self.arena.section.read(at, key.as_mut_ptr(), len) };
        self.hash(&key[..len])
    }

    /// Takes the lock of a hash's bucket if it is free.
    fn try_lock(&self, hash: u64) -> Option<Held> {
        let count = self.arena.bucket_count();
        let held = self.try_lock_bucket(count.index(hash))?;
        if self.arena.bucket_count() == count {
            return Some(held);
        }
        self.unlock_unchanged(held);
        None
    }

    /// The slot of a locked bucket that names the item at an offset, and its word.
    fn slot_naming(&self, bucket: u64, item: u64) -> Option<(u64, u64)> {
        let mut found = None;
        chain::for_each_slot(&self.arena, self.arena.heap_end, bucket, |slot, word| {
            if !is_link(word) && offset_of_slot(word) == item {
                found = Some((slot, word));
            }
        });
        found
    }

    /// The slot of a locked bucket's chain that links to a line.
    fn link_to(&self, bucket: u64, line: u64) -> Option<u64> {
        let mut at = bucket;
        for _ in 0..CHAIN_CAP {
            let parent = chain::slot_at(at, SLOTS - 1);
            let word = self.arena.section.word(parent).load(Relaxed);
            if !is_link(word) {
                return None;
            }
            at = chain::line_of(&self.arena, self.arena.heap_end, word)?;
            if at == line {
                return Some(parent);
            }
        }
        None
    }
}
