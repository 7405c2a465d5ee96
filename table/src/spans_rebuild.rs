//! Rebuilding the heap's books at a join: what the buckets reach is marked, the rest is free.
//!
//! The class map is shared memory that a dead process may have left half written: a span is believed only if all its
//! entries agree and nothing else claims its units. How long it is the first unit's entry says, since a span may have
//! been about to be trimmed. P1 to P3 of [`crate::spans`] hold after `settle`.

use crate::classes::{LARGE, UNIT, size_of_class};
use crate::spans::{NONE, RUN, Spans, UnitEntry, unit_entry};
use crate::sync::Ordering::Relaxed;

impl Spans {
    /// Rebuild: marks the block at `offset`, which holds `len` bytes, as linked. False when the class map contradicts
    /// or the block is marked already. New spans are unlisted until `settle`.
    pub(crate) fn mark(&mut self, offset: u64, len: u64) -> bool {
        let unit = (offset - self.arena.heap_start) / UNIT;
        if unit >= self.pool.units() {
            return false;
        }
        let mut id = self.owner[unit as usize];
        if id == NONE {
            match self.adopt(unit as u32, offset, len) {
                Some(adopted) => id = adopted,
                None => return false,
            }
            if id == RUN {
                return true;
            }
        }
        if id == RUN {
            return false;
        }
        let first = self.offset(self.spans[id as usize].first);
        let span = &mut self.spans[id as usize];
        let size = size_of_class(usize::from(span.class));
        let (index, rest) = ((offset - first) / size, (offset - first) % size);
        if rest != 0 || len > size || index >= u64::from(span.blocks) {
            return false;
        }
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        if span.bits[word] & bit != 0 {
            return false;
        }
        span.bits[word] |= bit;
        span.free -= 1;
        true
    }

    /// Rebuild: believes the class map about the span or run around `unit` if all its entries agree.
    fn adopt(&mut self, unit: u32, offset: u64, len: u64) -> Option<u32> {
        let claimed = unit_entry(&self.arena, offset)?;
        let first = unit.checked_sub(claimed.index)?;
        let entry = unit_entry(&self.arena, self.offset(first)).filter(|entry| entry.index == 0)?;
        if claimed.index >= entry.units || u64::from(first) + u64::from(entry.units) > self.pool.units() {
            return None;
        }
        for index in 0..entry.units {
            let UnitEntry { class, index: place, .. } = unit_entry(&self.arena, self.offset(first + index))?;
            if (class, place) != (entry.class, index) || self.owner[(first + index) as usize] != NONE {
                return None;
            }
        }
        if entry.class == LARGE {
            if offset != self.offset(first) || len > u64::from(entry.units) * UNIT {
                return None;
            }
            self.enter(first, entry.units, LARGE, RUN);
            return Some(RUN);
        }
        if u64::from(entry.units) * UNIT < size_of_class(usize::from(entry.class)) {
            return None;
        }
        Some(self.install(first, entry.units, entry.class))
    }

    /// Rebuild: after the last mark, lists the spans with room and gives all other units to the pool.
    pub(crate) fn settle(&mut self) {
        for id in 0..self.spans.len() as u32 {
            let (class, free, blocks) = {
                let span = &self.spans[id as usize];
                (usize::from(span.class), span.free, span.blocks)
            };
            if free == blocks {
                // Adopted for a block that was then refused.
                let (first, units) = (self.spans[id as usize].first, self.spans[id as usize].units);
                self.owner[first as usize..(first + units) as usize].fill(NONE);
                self.blocks[class] -= u64::from(blocks);
                self.vacant.push(id);
            } else {
                self.open(id);
            }
        }
        let mut unit = 0;
        while unit < self.owner.len() {
            let start = unit;
            while unit < self.owner.len() && self.owner[unit] == NONE {
                let word = self.arena.section.word(self.arena.class_map + 8 * unit as u64);
                if word.load(Relaxed) != 0 {
                    word.store(0, Relaxed);
                }
                unit += 1;
            }
            if unit > start {
                self.pool.give(start as u32, (unit - start) as u32);
            } else {
                unit += 1;
            }
        }
    }
}
