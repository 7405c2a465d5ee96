//! The heap's books against each other, for the full check.

use crate::classes::{CLASSES, LARGE, UNIT, size_of_class};
use crate::spans::{NONE, RUN, Spans, UnitEntry, unit_entry};
use crate::spans_lists::BINS;

impl Spans {
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
                taken += u64::from(span.taken());
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
                    && span.withdrawn.get(index / 64).is_none_or(|free| free & (1 << (index % 64)) == 0)
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
                (RUN, Some(UnitEntry { class: LARGE, index: 0, units, .. })) => unit += units as usize,
                (id, Some(UnitEntry { class, index: 0, units, .. })) if id != NONE && id != RUN => {
                    let span = &self.spans[id as usize];
                    if (span.first, span.units, span.class) != (unit as u32, units, class) {
                        return Err(format!("class map and span of unit {unit} differ"));
                    }
                    let set: u32 = span.bits.iter().map(|word| word.count_ones()).sum();
                    let withdrawn: u32 = span.withdrawn.iter().map(|word| word.count_ones()).sum();
                    let unused = span.bits.len() as u32 * 64 - span.blocks;
                    if set - unused - withdrawn != span.taken() {
                        return Err(format!("span of unit {unit} counts {} free blocks wrongly", span.free));
                    }
                    if span.is_leaving() != self.leaving.contains(&id) {
                        return Err(format!("span of unit {unit} leaves and is not known to, or the reverse"));
                    }
                    if !span.is_leaving() {
                        free_blocks[usize::from(class)] += u64::from(span.free);
                    }
                    blocks[usize::from(class)] += u64::from(span.blocks);
                    unit += units as usize;
                }
                (owner, entry) => return Err(format!("unit {unit}: owner {owner} against class map {entry:?}")),
            }
        }
        let listed =
            |class| (0..BINS).flat_map(move |bin| self.listed(class, bin)).map(|id| u64::from(self.spans[id as usize].free));
        if (0..CLASSES).any(|class| listed(class).sum::<u64>() != self.free_blocks[class]) {
            return Err("listed spans have other free blocks than their classes".into());
        }
        if free_blocks != self.free_blocks || blocks != self.blocks {
            return Err("blocks per class differ from the spans' sum".into());
        }
        let pooled: u64 = self.pool.longest_first().map(|(_, len)| u64::from(len)).sum();
        if pooled != free_units || pooled != self.pool.free_units() {
            return Err(format!("pool holds {pooled} units, counts {}, map says {free_units}", self.pool.free_units()));
        }
        Ok(())
    }
}
