//! Spans that leave: their blocks from a cut on are handed out no more, and when the last of those is given back their
//! units are free. What is still linked there is moved by [`crate::evacuate`].
//!
//! ```text
//! open ──retire(cut)──▶ leaving ──last block given back──▶ removed (cut 0) or trimmed to the blocks below the cut, open
//!   ▲                      │
//!   └────────cancel────────┘     blocks that cannot be moved (cached, reserved, in a busy bucket) are left where they are
//! ```
//!
//! M1: a block is moved to a lower offset only. So an item has each offset at most once in its life, and (offset,
//! version) names one copy for ever, as [`crate::seqlock`] S3 needs although a moved item keeps its version.
//! M2: no block of a leaving span is taken but by an evacuation of that span; its free blocks count as nobody's.
//! CRASH: which spans leave is private. Trimming stores the first unit's entry before the others, and a join believes
//! that entry about the length, so that whatever is stored of the rest, no linked block falls outside of its span.

use crate::classes::{LARGE, UNIT, is_thrifty, size_of_class, span_units};
use crate::spans::{RUN, Spans, held_back, unit_entry};
use crate::spans_lists::BINS;

/// Spans of a list that are looked at for room.
const LOOK: usize = 32;
/// Leaving spans that may wait for blocks which could not be moved.
const WAITING: usize = 8;
/// Choices for which a cancelled span is passed by.
const AVOID: u64 = 64;

/// A block to be moved, and the block that waits for it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Move {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Bytes of the block.
    pub(crate) room: u64,
}

impl Spans {
    /// Closes the blocks of an open span from `cut` on; what it holds may go below the unit `below`, and if it may
    /// spread, into new spans.
    pub(crate) fn retire(&mut self, id: u32, cut: u32, below: u32, spread: bool) {
        if self.is_empty(id) {
            self.count_empty(id, false);
        }
        let span = &mut self.spans[id as usize];
        let class = usize::from(span.class);
        self.free_blocks[class] -= u64::from(span.free);
        span.withdrawn.clear();
        span.withdrawn.resize(span.bits.len(), 0);
        let mut freed = 0;
        for place in cut as usize / 64..span.bits.len() {
            let mask = if place == cut as usize / 64 { u64::MAX << (cut % 64) } else { u64::MAX };
            span.withdrawn[place] = !span.bits[place] & mask;
            freed += span.withdrawn[place].count_ones();
            span.bits[place] |= mask;
        }
        span.free -= freed;
        span.pending = span.blocks - cut - freed;
        (span.cut, span.cursor, span.below, span.spread, span.passes) = (cut, cut, below, spread, 0);
        let from = (u64::from(cut) * size_of_class(class) / UNIT) as u32;
        self.relist(id);
        self.mark_leaving(id, from, true);
        self.leaving.push(id);
        if self.spans[id as usize].pending == 0 {
            self.finish(id);
        }
    }

    /// Takes a leaving block back.
    pub(crate) fn give_leaving(&mut self, id: u32, index: u32) {
        let span = &mut self.spans[id as usize];
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        assert!(span.withdrawn[word] & bit == 0, "leaving block freed twice");
        span.withdrawn[word] |= bit;
        span.pending -= 1;
        if span.pending == 0 {
            self.finish(id);
        }
    }

    /// Frees the units of what has left.
    fn finish(&mut self, id: u32) {
        self.leaving.retain(|&other| other != id);
        let span = &mut self.spans[id as usize];
        span.withdrawn.clear();
        if span.cut > 0 {
            return self.trim(id);
        }
        span.cut = span.blocks;
        self.remove(id);
    }

    /// Shortens a span to the blocks below its cut and opens it again.
    fn trim(&mut self, id: u32) {
        let span = &mut self.spans[id as usize];
        let (first, class, before) = (span.first, span.class, span.units);
        let units = (u64::from(span.cut) * size_of_class(usize::from(class))).div_ceil(UNIT) as u32;
        self.blocks[usize::from(class)] -= u64::from(span.blocks - span.cut);
        (span.blocks, span.units) = (span.cut, units);
        span.bits.truncate(span.blocks.div_ceil(64) as usize);
        self.enter(first, units, class, id);
        if before > units {
            self.leave(first + units, before - units);
        }
        self.open(id);
    }

    /// Opens a leaving span again with all that is free of it.
    pub(crate) fn cancel(&mut self, id: u32) {
        self.leaving.retain(|&other| other != id);
        let choices = self.choices;
        let span = &mut self.spans[id as usize];
        for (bits, withdrawn) in span.bits.iter_mut().zip(&span.withdrawn) {
            *bits &= !withdrawn;
        }
        span.free += span.blocks - span.cut - span.pending;
        (span.cut, span.pending, span.avoided_until) = (span.blocks, 0, choices + AVOID);
        span.withdrawn.clear();
        self.mark_leaving(id, 0, false);
        self.open(id);
    }

    /// Opens all leaving spans again, and passes none by any longer.
    pub(crate) fn cancel_all(&mut self) {
        self.runs_to_move.clear();
        while let Some(&id) = self.leaving.last() {
            self.cancel(id);
        }
        self.choices += AVOID;
        self.fruitless = (u64::MAX, 0);
    }

    /// After a pass over all leaving spans: lets the next one try again what was busy, once per span; whether any will.
    /// Of those that wait for blocks which cannot be moved, the oldest is opened if they are too many.
    pub(crate) fn pass_again(&mut self) -> bool {
        let mut any = false;
        for &id in &self.leaving {
            let span = &mut self.spans[id as usize];
            if span.passes == 0 {
                (span.passes, span.cursor) = (1, span.cut);
                any = true;
            }
        }
        if !any && self.leaving.len() > WAITING {
            self.cancel(self.leaving[0]);
        }
        any
    }

    /// The next blocks to move, each with a place for it; how many. None is left when every leaving span was gone through.
    pub(crate) fn next_moves(&mut self, out: &mut [Move]) -> usize {
        let mut got = self.next_run(out);
        let mut place = 0;
        while got < out.len() && place < self.leaving.len() {
            let id = self.leaving[place];
            match self.next_taken(id) {
                None => place += 1,
                Some(from) => match self.place_below(id) {
                    Some(to) => {
                        out[got] = Move { from, to, room: size_of_class(usize::from(self.spans[id as usize].class)) };
                        got += 1;
                    }
                    // The room it was chosen for has gone to others.
                    None => self.cancel(id),
                },
            }
        }
        got
    }

    /// A large run to move with its place.
    fn next_run(&mut self, out: &mut [Move]) -> usize {
        while let Some((unit, below)) = self.runs_to_move.pop() {
            let from = self.offset(unit);
            let entry = unit_entry(&self.arena, from).filter(|entry| entry.class == LARGE && entry.index == 0);
            if self.owner[unit as usize] == RUN
                && let Some(entry) = entry
                && let Some(first) = self.pool.take_below(entry.units, below)
            {
                self.enter(first, entry.units, LARGE, RUN);
                out[0] = Move { from, to: self.offset(first), room: u64::from(entry.units) * UNIT };
                return 1;
            }
        }
        0
    }

    /// The next block of a leaving span that is taken.
    fn next_taken(&mut self, id: u32) -> Option<u64> {
        let base = self.offset(self.spans[id as usize].first);
        let span = &mut self.spans[id as usize];
        while span.cursor < span.blocks {
            let index = span.cursor;
            span.cursor += 1;
            if span.withdrawn[index as usize / 64] & (1 << (index % 64)) == 0 {
                return Some(base + u64::from(index) * size_of_class(usize::from(span.class)));
            }
        }
        None
    }

    /// A free block of a leaving span's class at a lower offset than its leaving blocks.
    fn place_below(&mut self, id: u32) -> Option<u64> {
        let span = &self.spans[id as usize];
        let (class, below, own) = (usize::from(span.class), span.below, span.free > 0);
        let mut out = [0];
        if own {
            self.take_from(id, &mut out);
            return Some(out[0]);
        }
        if self.free_blocks[class] > held_back(class as u8) {
            let other = (0..BINS).flat_map(|bin| self.listed(class, bin).take(LOOK)).find(|&other| {
                let other = &self.spans[other as usize];
                other.first + other.units <= below
            });
            if let Some(other) = other {
                self.take_from(other, &mut out);
                self.free_blocks[class] -= 1;
                return Some(out[0]);
            }
        }
        if !self.spans[id as usize].spread {
            return None;
        }
        let thrifty = (1..=span_units(class)).rev().filter(|&units| is_thrifty(class, units)).map(|units| units as u32);
        let (units, first) = thrifty.into_iter().find_map(|units| Some((units, self.pool.take_below(units, below)?)))?;
        let id = self.install(first, units, class as u8);
        self.open(id);
        self.take_from(id, &mut out);
        self.free_blocks[class] -= 1;
        Some(out[0])
    }
}
