//! Spans of blocks over the heap's units: bitmaps and free counts per class, private to the server.
//!
//! P1: a unit is free, or of one span, or of one large run; the shared class map says which, and is stored before a
//! block of the unit is handed out. P2: a bit is set while its block is linked, cached by a worker or reserved, or
//! withdrawn from a span that is leaving, see [`crate::spans_leaving`]. P3: `free_blocks[class]` is the sum over the
//! class's spans that are not leaving. P4: the last [`held_back`] free blocks of a class go to overwrites only, so
//! that these go on when memory is full: each gives back the block it replaces.
//! CRASH: bitmaps die with the server; `Table::join` marks what the buckets reach and clears the map of the rest.

use crate::arena::Arena;
use crate::classes::{CLASSES, LARGE, UNIT, is_thrifty, size_of_class, span_units};
use crate::prefetch;
use crate::runs::RunPool;
use crate::spans_lists::BINS;
use crate::sync::Ordering::{Relaxed, Release};

pub(crate) const NONE: u32 = u32::MAX;
/// In `owner`: first unit of a large run.
pub(crate) const RUN: u32 = u32::MAX - 1;

/// What the class map says about a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitEntry {
    pub(crate) class: u8,
    /// Place of the unit in its span or run.
    pub(crate) index: u32,
    /// Units of the span or run; of a span that was trimmed only the first unit's entry says the right number.
    pub(crate) units: u32,
    /// The unit's blocks are to go back to the heap at once. A hint for this process; a join clears it.
    pub(crate) leaving: bool,
}

/// The mark of [`UnitEntry::leaving`] in the word.
const LEAVING: u64 = 1 << 31;

impl UnitEntry {
    fn word(self) -> u64 {
        let leaving = if self.leaving { LEAVING } else { 0 };
        (u64::from(self.units) << 32) | leaving | (u64::from(self.index) << 8) | u64::from(self.class)
    }

    /// None for a free unit or an impossible word.
    #[inline]
    pub(crate) fn decode(word: u64) -> Option<UnitEntry> {
        let entry = UnitEntry {
            class: word as u8,
            index: (word >> 8) as u32 & 0x7f_ffff,
            units: (word >> 32) as u32,
            leaving: word & LEAVING != 0,
        };
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
    /// Free blocks below `cut`.
    pub(crate) free: u32,
    /// Blocks from here on leave; the number of blocks while none does.
    pub(crate) cut: u32,
    /// Leaving blocks that are still taken.
    pub(crate) pending: u32,
    /// Leaving blocks that are free; empty while none leaves.
    pub(crate) withdrawn: Vec<u64>,
    /// Where an evacuation goes on, and up to which unit it may put what it moves.
    pub(crate) cursor: u32,
    pub(crate) below: u32,
    pub(crate) spread: bool,
    pub(crate) passes: u8,
    /// Choices of a span to evacuate that pass this one by, counted from the heap's first.
    pub(crate) avoided_until: u64,
    pub(crate) bin: u8,
    pub(crate) next: u32,
    pub(crate) prev: u32,
    pub(crate) bits: Vec<u64>,
}

impl Span {
    const fn vacant() -> Span {
        Span {
            first: 0,
            units: 0,
            class: 0,
            blocks: 0,
            free: 0,
            cut: 0,
            pending: 0,
            withdrawn: Vec::new(),
            cursor: 0,
            below: 0,
            spread: false,
            passes: 0,
            avoided_until: 0,
            bin: 0,
            next: NONE,
            prev: NONE,
            bits: Vec::new(),
        }
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.cut != self.blocks
    }

    /// Blocks that are linked, cached or reserved.
    pub(crate) fn taken(&self) -> u32 {
        self.cut - self.free + self.pending
    }
}

/// How far a taker of memory may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Not into what is held back, nor into spans that waste much.
    Usual,
    /// Spans may waste what they like: the alternative is to refuse.
    Last,
    /// As the last, and what is held back for overwrites too.
    Overwrite,
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
    /// Per class the lists of spans with a free block, by how much of the span is free.
    pub(crate) heads: [[u32; BINS]; CLASSES],
    /// Per class its empty spans, and their sum.
    empty: [u32; CLASSES],
    pub(crate) empty_spans: u64,
    /// Spans that leave, and choices made so far, see [`crate::spans_leaving`].
    pub(crate) leaving: Vec<u32>,
    pub(crate) choices: u64,
    /// Blocks given back so far, and the number when a choice was last fruitless, with what it was for.
    pub(crate) given: u64,
    pub(crate) fruitless: (u64, u32),
    /// Large runs to move below a unit.
    pub(crate) runs_to_move: Vec<(u32, u32)>,
    pub(crate) free_blocks: [u64; CLASSES],
    /// All blocks of a class, free or taken.
    pub(crate) blocks: [u64; CLASSES],
    /// Units kept for overwrites of large items.
    pub(crate) reserve: u64,
}

/// Free blocks of a class that only overwrites may take.
pub(crate) fn held_back(class: u8) -> u64 {
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
            heads: [[NONE; BINS]; CLASSES],
            empty: [0; CLASSES],
            empty_spans: 0,
            leaving: Vec::new(),
            choices: 0,
            given: 0,
            fruitless: (u64::MAX, 0),
            runs_to_move: Vec::new(),
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

    /// Takes up to `out.len()` blocks of a class; how many there were.
    pub(crate) fn take(&mut self, class: u8, out: &mut [u64], need: Need) -> usize {
        let keep = if need == Need::Overwrite { 0 } else { held_back(class) };
        let c = usize::from(class);
        let mut got = 0;
        while got < out.len() {
            while self.free_blocks[c] <= keep {
                if !self.new_span(class, need != Need::Usual) {
                    return got;
                }
            }
            let id = self.fullest(c);
            let want = (out.len() - got).min((self.free_blocks[c] - keep) as usize);
            let n = self.take_from(id, &mut out[got..got + want]);
            self.free_blocks[c] -= n as u64;
            got += n;
        }
        got
    }

    /// Takes free blocks of a span below its cut.
    pub(crate) fn take_from(&mut self, id: u32, out: &mut [u64]) -> usize {
        let base = self.offset(self.spans[id as usize].first);
        let was_empty = self.is_empty(id);
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
        if was_empty && got > 0 {
            self.count_empty(id, false);
        }
        self.relist(id);
        got
    }

    pub(crate) fn is_empty(&self, id: u32) -> bool {
        let span = &self.spans[id as usize];
        span.free == span.blocks && !span.is_leaving()
    }

    pub(crate) fn count_empty(&mut self, id: u32, more: bool) {
        let class = usize::from(self.spans[id as usize].class);
        if more {
            self.empty[class] += 1;
            self.empty_spans += 1;
        } else {
            self.empty[class] -= 1;
            self.empty_spans -= 1;
        }
    }

    /// Makes a span of the class from free units, smaller than usual when there is no long run.
    fn new_span(&mut self, class: u8, wasteful: bool) -> bool {
        let usual = span_units(usize::from(class));
        let mut units = usual;
        while units > 0 {
            if self.pool.free_units() >= self.reserve + units
                && (wasteful || is_thrifty(usize::from(class), units))
                && size_of_class(usize::from(class)) <= units * UNIT
                && let Some(first) = self.pool.take(units as u32)
            {
                let id = self.install(first, units as u32, class);
                self.open(id);
                return true;
            }
            units -= 1;
        }
        false
    }

    /// Lets blocks of a span be taken from now on.
    pub(crate) fn open(&mut self, id: u32) {
        let span = &self.spans[id as usize];
        self.free_blocks[usize::from(span.class)] += u64::from(span.free);
        if self.is_empty(id) {
            self.count_empty(id, true);
        }
        self.relist(id);
    }

    /// Enters a span into the books and the class map, all blocks free; it is not open yet.
    pub(crate) fn install(&mut self, first: u32, units: u32, class: u8) -> u32 {
        let blocks = (u64::from(units) * UNIT / size_of_class(usize::from(class))) as u32;
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.spans.push(Span::vacant());
            self.spans.len() as u32 - 1
        });
        let span = &mut self.spans[id as usize];
        (span.first, span.units, span.class) = (first, units, class);
        (span.blocks, span.free, span.cut, span.pending) = (blocks, blocks, blocks, 0);
        (span.bin, span.avoided_until) = (crate::spans_lists::UNLISTED, 0);
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

    /// Makes units a span's or a run's in the class map, the first unit first: see [`Spans::trim`].
    pub(crate) fn enter(&mut self, first: u32, units: u32, class: u8, owner: u32) {
        for index in 0..units {
            self.owner[(first + index) as usize] = owner;
            self.store_entry(first + index, UnitEntry { class, index, units, leaving: false });
        }
    }

    /// Marks the units of a span from one on as leaving, or no more.
    pub(crate) fn mark_leaving(&mut self, id: u32, from: u32, leaving: bool) {
        let (first, units, class) = {
            let span = &self.spans[id as usize];
            (span.first, span.units, span.class)
        };
        for index in from..units {
            self.store_entry(first + index, UnitEntry { class, index, units, leaving });
        }
    }

    fn store_entry(&self, unit: u32, entry: UnitEntry) {
        // ORDER(class map): Release keeps the entries' stores in program order for a successor.
        self.arena.section.word(self.arena.class_map + 8 * u64::from(unit)).store(entry.word(), Release);
    }

    pub(crate) fn leave(&mut self, first: u32, units: u32) {
        for unit in first..first + units {
            self.owner[unit as usize] = NONE;
            // ORDER(class map): as in `store_entry`.
            self.arena.section.word(self.arena.class_map + 8 * u64::from(unit)).store(0, Release);
        }
        self.pool.give(first, units);
    }

    /// The span that a block is of, if it is of one.
    fn span_of(&self, offset: u64) -> Option<&Span> {
        let unit = (offset.checked_sub(self.arena.heap_start)? / UNIT) as usize;
        self.spans.get(*self.owner.get(unit)? as usize)
    }

    /// Fetches the record of a block's span.
    pub(crate) fn fetch_span(&self, offset: u64) {
        if let Some(span) = self.span_of(offset) {
            prefetch::for_write(std::ptr::from_ref(span).cast());
        }
    }

    /// Fetches the word of a block's bit.
    pub(crate) fn fetch_bit(&self, offset: u64) {
        if let Some(span) = self.span_of(offset) {
            let index = (offset - self.offset(span.first)) / size_of_class(usize::from(span.class)) / 64;
            if let Some(word) = span.bits.get(index as usize) {
                prefetch::for_write(std::ptr::from_ref(word).cast());
            }
        }
    }

    /// Gives back a block of any class, or a large run.
    pub(crate) fn give(&mut self, offset: u64) {
        let unit = ((offset - self.arena.heap_start) / UNIT) as u32;
        let id = self.owner[unit as usize];
        assert!(id != NONE, "freed block lies in no span");
        self.given += 1;
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
        if index >= span.cut as usize {
            return self.give_leaving(id, index as u32);
        }
        span.bits[word] &= !bit;
        span.free += 1;
        if span.is_leaving() {
            return;
        }
        self.free_blocks[class] += 1;
        if self.is_empty(id) {
            self.count_empty(id, true);
            // One empty span of a class may stay, so that a single item coming and going costs nothing.
            let span = &self.spans[id as usize];
            if self.free_blocks[class] > u64::from(span.blocks) + held_back(span.class) {
                return self.dissolve(id);
            }
        }
        self.relist(id);
    }

    fn dissolve(&mut self, id: u32) {
        self.count_empty(id, false);
        let blocks = u64::from(self.spans[id as usize].blocks);
        self.free_blocks[usize::from(self.spans[id as usize].class)] -= blocks;
        self.remove(id);
    }

    /// Takes a span that nothing counts as open out of the books; its units are free.
    pub(crate) fn remove(&mut self, id: u32) {
        self.unlist(id);
        let (first, units, class, blocks) = {
            let span = &self.spans[id as usize];
            (span.first, span.units, span.class, span.blocks)
        };
        self.blocks[usize::from(class)] -= u64::from(blocks);
        self.leave(first, units);
        self.vacant.push(id);
    }

    /// Gives the units of empty spans back, save what a class in use holds back; whether there were any.
    pub(crate) fn dissolve_empty(&mut self) -> bool {
        let mut any = false;
        if self.empty_spans == 0 {
            return any;
        }
        for class in 0..CLASSES {
            let mut id = if self.empty[class] == 0 { NONE } else { self.heads[class][BINS - 1] };
            while id != NONE {
                let (next, blocks) = (self.spans[id as usize].next, u64::from(self.spans[id as usize].blocks));
                let kept = self.free_blocks[class] >= blocks + held_back(class as u8);
                let idle = self.free_blocks[class] == self.blocks[class];
                if self.is_empty(id) && (kept || idle) {
                    self.dissolve(id);
                    any = true;
                }
                id = next;
            }
        }
        any
    }

    /// Takes a run of units for one large item.
    pub(crate) fn take_run(&mut self, units: u32, need: Need) -> Option<u64> {
        let keep = if need == Need::Overwrite { 0 } else { self.reserve };
        if self.pool.free_units() < keep + u64::from(units) {
            return None;
        }
        let first = self.pool.take(units)?;
        self.enter(first, units, LARGE, RUN);
        Some(self.offset(first))
    }
}
