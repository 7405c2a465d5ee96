//! Spans of blocks over the heap's units: bitmaps and free counts per class, private to the server.
//!
//! P1: a unit is free, or of one span, or of one large run; the shared class map says which, and is stored before a
//! block of the unit is handed out. P2: a bit is set while its block is linked, cached by a worker or reserved.
//! P3: `free_blocks[class]` is the sum over the class's spans. P4: the last [`held_back`] free blocks of a class go to
//! overwrites only, so that these go on when memory is full: each gives back the block it replaces.
//! CRASH: bitmaps die with the server; `Table::join` marks what the buckets reach and clears the map of the rest.

use crate::arena::Arena;
use crate::classes::{CLASSES, LARGE, UNIT, size_of_class, span_units};
use crate::runs::RunPool;
use crate::sync::Ordering::Relaxed;

pub(crate) const NONE: u32 = u32::MAX;
/// In `owner`: first unit of a large run.
pub(crate) const RUN: u32 = u32::MAX - 1;

/// What the class map says about a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitEntry {
    pub(crate) class: u8,
    /// Place of the unit in its span or run.
    pub(crate) index: u32,
    /// Units of the span or run.
    pub(crate) units: u32,
}

impl UnitEntry {
    fn word(self) -> u64 {
        (u64::from(self.units) << 32) | (u64::from(self.index) << 8) | u64::from(self.class)
    }

    /// None for a free unit or an impossible word.
    #[inline]
    pub(crate) fn decode(word: u64) -> Option<UnitEntry> {
        let entry = UnitEntry { class: word as u8, index: (word >> 8) as u32 & 0xff_ffff, units: (word >> 32) as u32 };
        let known = usize::from(entry.class) < CLASSES || entry.class == LARGE;
        (entry.units > 0 && entry.index < entry.units && known).then_some(entry)
    }
}

/// The class map's entry for the unit that an offset lies in.
#[inline]
pub(crate) fn unit_entry(arena: &Arena, offset: u64) -> Option<UnitEntry> {
    let unit = offset.checked_sub(arena.heap_start)? / UNIT;
    // ORDER(class map): Relaxed: written before a block of the unit was handed out, and with it its offset.
    UnitEntry::decode(arena.section.word(arena.class_map + 8 * unit).load(Relaxed))
}

pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) units: u32,
    pub(crate) class: u8,
    pub(crate) blocks: u32,
    pub(crate) free: u32,
    next: u32,
    prev: u32,
    pub(crate) bits: Vec<u64>,
}

/// The heap's private books; always behind a lock.
pub(crate) struct Spans {
    pub(crate) arena: Arena,
    pub(crate) pool: RunPool,
    /// Per unit: the span's place in `spans`, [`RUN`] or [`NONE`].
    pub(crate) owner: Vec<u32>,
    pub(crate) spans: Vec<Span>,
    /// Places of `spans` to use again.
    pub(crate) vacant: Vec<u32>,
    /// Per class the list of spans with a free block.
    heads: [u32; CLASSES],
    pub(crate) free_blocks: [u64; CLASSES],
    /// All blocks of a class, free or taken.
    pub(crate) blocks: [u64; CLASSES],
    /// Units kept for overwrites of large items.
    reserve: u64,
}

/// Free blocks of a class that only overwrites may take.
fn held_back(class: u8) -> u64 {
    if size_of_class(usize::from(class)) <= UNIT { 2 } else { 1 }
}

impl Spans {
    pub(crate) fn new(arena: Arena, reserve: u64) -> Spans {
        Spans {
            arena,
            pool: RunPool::new(),
            owner: Vec::new(),
            spans: Vec::new(),
            vacant: Vec::new(),
            heads: [NONE; CLASSES],
            free_blocks: [0; CLASSES],
            blocks: [0; CLASSES],
            reserve,
        }
    }

    /// Adds committed units; `free` also puts them into the pool (a rebuild does that later, in `settle`).
    pub(crate) fn grow(&mut self, units: u64, free: bool) {
        let first = self.pool.units() as u32;
        self.pool.grow(units);
        self.owner.resize(first as usize + units as usize, NONE);
        if free {
            self.pool.give(first, units as u32);
        }
    }

    pub(crate) fn offset(&self, unit: u32) -> u64 {
        self.arena.heap_start + u64::from(unit) * UNIT
    }

    /// Takes up to `out.len()` blocks of a class; how many there were. `overwrite` may use what is held back.
    pub(crate) fn take(&mut self, class: u8, out: &mut [u64], overwrite: bool) -> usize {
        let keep = if overwrite { 0 } else { held_back(class) };
        let c = usize::from(class);
        let mut got = 0;
        while got < out.len() {
            while self.free_blocks[c] <= keep {
                if !self.new_span(class) {
                    return got;
                }
            }
            let id = self.heads[c];
            let want = (out.len() - got).min((self.free_blocks[c] - keep) as usize);
            let n = self.take_from(id, &mut out[got..got + want]);
            self.free_blocks[c] -= n as u64;
            got += n;
        }
        got
    }

    fn take_from(&mut self, id: u32, out: &mut [u64]) -> usize {
        let base = self.offset(self.spans[id as usize].first);
        let span = &mut self.spans[id as usize];
        let size = size_of_class(usize::from(span.class));
        let mut got = 0;
        for (place, word) in span.bits.iter_mut().enumerate() {
            while *word != u64::MAX && got < out.len() {
                let bit = word.trailing_ones();
                *word |= 1 << bit;
                out[got] = base + (place as u64 * 64 + u64::from(bit)) * size;
                got += 1;
            }
            if got == out.len() {
                break;
            }
        }
        span.free -= got as u32;
        if span.free == 0 {
            self.unlist(id);
        }
        got
    }

    /// Makes a span of the class from free units; smaller than usual when there is no long run.
    fn new_span(&mut self, class: u8) -> bool {
        let least = size_of_class(usize::from(class)).div_ceil(UNIT);
        let usual = span_units(usize::from(class));
        for units in [usual, least.max(usual / 2), least] {
            if self.pool.free_units() >= self.reserve + units
                && let Some(first) = self.pool.take(units as u32)
            {
                let id = self.install(first, units as u32, class);
                self.list(id);
                self.free_blocks[usize::from(class)] += u64::from(self.spans[id as usize].blocks);
                return true;
            }
        }
        false
    }

    /// Enters a span into the books and the class map, all blocks free.
    pub(crate) fn install(&mut self, first: u32, units: u32, class: u8) -> u32 {
        let blocks = (u64::from(units) * UNIT / size_of_class(usize::from(class))) as u32;
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.spans.push(Span { first: 0, units: 0, class: 0, blocks: 0, free: 0, next: NONE, prev: NONE, bits: Vec::new() });
            self.spans.len() as u32 - 1
        });
        let span = &mut self.spans[id as usize];
        (span.first, span.units, span.class, span.blocks, span.free) = (first, units, class, blocks, blocks);
        (span.next, span.prev) = (NONE, NONE);
        self.blocks[usize::from(class)] += u64::from(blocks);
        span.bits.clear();
        span.bits.resize(blocks.div_ceil(64) as usize, 0);
        if !blocks.is_multiple_of(64) {
            // Bits beyond the last block stay set and are never handed out.
            *span.bits.last_mut().expect("a span has blocks") = u64::MAX << (blocks % 64);
        }
        self.enter(first, units, class, id);
        id
    }

    pub(crate) fn enter(&mut self, first: u32, units: u32, class: u8, owner: u32) {
        for index in 0..units {
            self.owner[(first + index) as usize] = owner;
            let word = UnitEntry { class, index, units }.word();
            self.arena.section.word(self.arena.class_map + 8 * u64::from(first + index)).store(word, Relaxed);
        }
    }

    fn leave(&mut self, first: u32, units: u32) {
        for unit in first..first + units {
            self.owner[unit as usize] = NONE;
            self.arena.section.word(self.arena.class_map + 8 * u64::from(unit)).store(0, Relaxed);
        }
        self.pool.give(first, units);
    }

    /// Gives back a block of any class, or a large run.
    pub(crate) fn give(&mut self, offset: u64) {
        let unit = ((offset - self.arena.heap_start) / UNIT) as u32;
        let id = self.owner[unit as usize];
        assert!(id != NONE, "freed block lies in no span");
        if id == RUN {
            let units = unit_entry(&self.arena, offset).map_or(1, |entry| entry.units);
            return self.leave(unit, units);
        }
        let first = self.offset(self.spans[id as usize].first);
        let span = &mut self.spans[id as usize];
        let class = usize::from(span.class);
        let index = ((offset - first) / size_of_class(class)) as usize;
        let (word, bit) = (index / 64, 1 << (index % 64));
        assert!(span.bits[word] & bit != 0, "block freed twice");
        span.bits[word] &= !bit;
        span.free += 1;
        self.free_blocks[class] += 1;
        if span.free == 1 {
            self.list(id);
        }
        // One empty span of a class may stay, so that a single item coming and going costs nothing.
        let span = &self.spans[id as usize];
        if span.free == span.blocks && self.free_blocks[class] > u64::from(span.blocks) + held_back(span.class) {
            self.dissolve(id);
        }
    }

    fn dissolve(&mut self, id: u32) {
        self.unlist(id);
        let (first, units, class, blocks) = {
            let span = &self.spans[id as usize];
            (span.first, span.units, span.class, span.blocks)
        };
        self.free_blocks[usize::from(class)] -= u64::from(blocks);
        self.blocks[usize::from(class)] -= u64::from(blocks);
        self.leave(first, units);
        self.vacant.push(id);
    }

    /// Gives the units of empty spans back, save what a class in use holds back; whether there were any.
    pub(crate) fn dissolve_empty(&mut self) -> bool {
        let mut any = false;
        for class in 0..CLASSES {
            let mut id = self.heads[class];
            while id != NONE {
                let (next, empty) = {
                    let span = &self.spans[id as usize];
                    let kept = self.free_blocks[class] >= u64::from(span.blocks) + held_back(span.class);
                    let idle = self.free_blocks[class] == self.blocks[class];
                    (span.next, span.free == span.blocks && (kept || idle))
                };
                if empty {
                    self.dissolve(id);
                    any = true;
                }
                id = next;
            }
        }
        any
    }

    /// Takes a run of units for one large item.
    pub(crate) fn take_run(&mut self, units: u32, overwrite: bool) -> Option<u64> {
        let keep = if overwrite { 0 } else { self.reserve };
        if self.pool.free_units() < keep + u64::from(units) {
            return None;
        }
        let first = self.pool.take(units)?;
        self.enter(first, units, LARGE, RUN);
        Some(self.offset(first))
    }

    pub(crate) fn list(&mut self, id: u32) {
        let class = usize::from(self.spans[id as usize].class);
        let head = self.heads[class];
        self.spans[id as usize].next = head;
        self.spans[id as usize].prev = NONE;
        if head != NONE {
            self.spans[head as usize].prev = id;
        }
        self.heads[class] = id;
    }

    fn unlist(&mut self, id: u32) {
        let (next, prev, class) = {
            let span = &self.spans[id as usize];
            (span.next, span.prev, usize::from(span.class))
        };
        if next != NONE {
            self.spans[next as usize].prev = prev;
        }
        if prev != NONE {
            self.spans[prev as usize].next = next;
        } else {
            self.heads[class] = next;
        }
    }
}
