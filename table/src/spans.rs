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

const NONE: u32 = u32::MAX;
/// In `owner`: first unit of a large run.
const RUN: u32 = u32::MAX - 1;

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

struct Span {
    first: u32,
    units: u32,
    class: u8,
    blocks: u32,
    free: u32,
    next: u32,
    prev: u32,
    bits: Vec<u64>,
}

/// The heap's private books; always behind a lock.
pub(crate) struct Spans {
    arena: Arena,
    pub(crate) pool: RunPool,
    /// Per unit: the span's place in `spans`, [`RUN`] or [`NONE`].
    owner: Vec<u32>,
    spans: Vec<Span>,
    /// Places of `spans` to use again.
    vacant: Vec<u32>,
    /// Per class the list of spans with a free block.
    heads: [u32; CLASSES],
    free_blocks: [u64; CLASSES],
    /// All blocks of a class, free or taken.
    blocks: [u64; CLASSES],
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

    fn offset(&self, unit: u32) -> u64 {
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
            if self.pool.free_units() >= self.reserve + units && let Some(first) = self.pool.take(units as u32) {
                let id = self.install(first, units as u32, class);
                self.list(id);
                self.free_blocks[usize::from(class)] += u64::from(self.spans[id as usize].blocks);
                return true;
            }
        }
        false
    }

    /// Enters a span into the books and the class map, all blocks free.
    fn install(&mut self, first: u32, units: u32, class: u8) -> u32 {
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
        if blocks % 64 != 0 {
            // Bits beyond the last block stay set and are never handed out.
            *span.bits.last_mut().expect("a span has blocks") = u64::MAX << (blocks % 64);
        }
        self.enter(first, units, class, id);
        id
    }

    fn enter(&mut self, first: u32, units: u32, class: u8, owner: u32) {
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
                    let kept = self.free_blocks[class] - u64::from(span.blocks) >= held_back(span.class);
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

    fn list(&mut self, id: u32) {
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
        let entry = unit_entry(&self.arena, offset)?;
        let first = unit.checked_sub(entry.index)?;
        if u64::from(first) + u64::from(entry.units) > self.pool.units() {
            return None;
        }
        for index in 0..entry.units {
            let other = unit_entry(&self.arena, self.offset(first + index))?;
            if other != (UnitEntry { index, ..entry }) || self.owner[(first + index) as usize] != NONE {
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
            } else if free > 0 {
                self.free_blocks[class] += u64::from(free);
                self.list(id);
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

    /// Blocks and large runs that are marked taken.
    pub(crate) fn taken(&self) -> u64 {
        let mut taken = 0;
        for (unit, &id) in self.owner.iter().enumerate() {
            let span = match id {
                NONE => continue,
                RUN => {
                    let entry = unit_entry(&self.arena, self.offset(unit as u32));
                    taken += u64::from(entry.is_some_and(|entry| entry.index == 0));
                    continue;
                }
                id => &self.spans[id as usize],
            };
            if span.first as usize == unit {
                taken += u64::from(span.blocks - span.free);
            }
        }
        taken
    }

    /// Whether the block at `offset` is marked taken and holds `len` bytes.
    pub(crate) fn is_taken(&self, offset: u64, len: u64) -> bool {
        let unit = (offset - self.arena.heap_start) / UNIT;
        match self.owner.get(unit as usize) {
            None | Some(&NONE) => false,
            Some(&RUN) => unit_entry(&self.arena, offset)
                .is_some_and(|e| e.class == LARGE && e.index == 0 && len <= u64::from(e.units) * UNIT),
            Some(&id) => {
                let span = &self.spans[id as usize];
                let size = size_of_class(usize::from(span.class));
                let at = offset - self.offset(span.first);
                let index = (at / size) as usize;
                at.is_multiple_of(size)
                    && len <= size
                    && index < span.blocks as usize
                    && span.bits[index / 64] & (1 << (index % 64)) != 0
            }
        }
    }

    /// The books against each other: counts against bitmaps, lists, the class map and the pool.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (mut free_blocks, mut blocks) = ([0u64; CLASSES], [0u64; CLASSES]);
        let mut unit = 0;
        let mut free_units = 0;
        while unit < self.owner.len() {
            let entry = unit_entry(&self.arena, self.offset(unit as u32));
            match (self.owner[unit], entry) {
                (NONE, None) => {
                    free_units += 1;
                    unit += 1;
                }
                (RUN, Some(UnitEntry { class: LARGE, index: 0, units })) => unit += units as usize,
                (id, Some(UnitEntry { class, index: 0, units })) if id != NONE && id != RUN => {
                    let span = &self.spans[id as usize];
                    if (span.first, span.units, span.class) != (unit as u32, units, class) {
                        return Err(format!("class map and span of unit {unit} differ"));
                    }
                    let set: u32 = span.bits.iter().map(|word| word.count_ones()).sum();
                    let unused = span.bits.len() as u32 * 64 - span.blocks;
                    if set - unused != span.blocks - span.free {
                        return Err(format!("span of unit {unit} counts {} free blocks wrongly", span.free));
                    }
                    free_blocks[usize::from(class)] += u64::from(span.free);
                    blocks[usize::from(class)] += u64::from(span.blocks);
                    unit += units as usize;
                }
                (owner, entry) => return Err(format!("unit {unit}: owner {owner} against class map {entry:?}")),
            }
        }
        if free_blocks != self.free_blocks || blocks != self.blocks {
            return Err("blocks per class differ from the spans' sum".into());
        }
        let pooled: u64 = self.pool.runs().map(|(_, len)| u64::from(len)).sum();
        if pooled != free_units || pooled != self.pool.free_units() {
            return Err(format!("pool holds {pooled} units, counts {}, map says {free_units}", self.pool.free_units()));
        }
        Ok(())
    }
}
