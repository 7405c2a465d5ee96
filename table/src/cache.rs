//! A worker's own blocks: a small stack per class, filled from and emptied into the shared heap in batches, so that
//! an operation takes no lock. Private to the worker; the bytes it may hold per class are bounded, and go back when
//! the heap is pressed for memory: at the next refill or overflow, or when the worker looks after memory ahead.

use crate::arena::Arena;
use crate::classes::{CLASSES, LARGE, size_of_class};
use crate::spans::{Need, unit_entry};
use crate::store::Store;

/// Blocks per class at most.
const DEPTH: usize = 64;
/// Bytes per class at most; classes above it have no cache.
const BYTES: u64 = 16 * 1024;

#[derive(Clone, Copy)]
struct Magazine {
    len: u32,
    cap: u32,
    blocks: [u64; DEPTH],
}

/// The caches of one worker.
pub(crate) struct Cache {
    magazines: Box<[Magazine; CLASSES]>,
    /// The heap's pressure when the caches were last handed back for it.
    pressure: u64,
}

/// A piece of memory that a worker owns: a block of a class, or a run of units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) offset: u64,
}

impl Cache {
    pub(crate) fn new() -> Cache {
        let mut magazines = Box::new([Magazine { len: 0, cap: 0, blocks: [0; DEPTH] }; CLASSES]);
        for (class, magazine) in magazines.iter_mut().enumerate() {
            magazine.cap = (BYTES / size_of_class(class)).min(DEPTH as u64) as u32;
        }
        Cache { magazines, pressure: 0 }
    }

    /// A block of the class from the cache alone.
    #[inline]
    pub(crate) fn pop(&mut self, class: u8) -> Option<Block> {
        let magazine = &mut self.magazines[usize::from(class)];
        let len = magazine.len.checked_sub(1)?;
        magazine.len = len;
        Some(Block { offset: magazine.blocks[len as usize % DEPTH] })
    }

    /// A block for `len` bytes whose class is `class`, from the cache or the heap.
    #[inline]
    pub(crate) fn take(&mut self, store: &Store, class: u8, len: u64) -> Option<Block> {
        if class != LARGE
            && let Some(block) = self.pop(class)
        {
            return Some(block);
        }
        self.refill(store, class, len)
    }

    #[cold]
    fn refill(&mut self, store: &Store, class: u8, len: u64) -> Option<Block> {
        self.yield_to_pressure(store);
        if class == LARGE {
            let run = store.take_run(len, Need::Usual).or_else(|| {
                self.flush(store);
                store.take_run(len, Need::Usual)
            });
            return run.map(|offset| Block { offset });
        }
        let magazine = &mut self.magazines[usize::from(class)];
        let want = (magazine.cap as usize / 2).max(1);
        let got = store.take(class, &mut magazine.blocks[..want], Need::Usual);
        if got > 0 {
            magazine.len = got as u32;
            // Ascending addresses come out first.
            magazine.blocks[..got].reverse();
            return self.pop(class);
        }
        // What this worker holds in other classes may be whole spans.
        self.flush(store);
        self.take_free(store, class, len, Need::Usual)
    }

    /// A block or run from what the heap has free, past the cache.
    pub(crate) fn take_free(&mut self, store: &Store, class: u8, len: u64, need: Need) -> Option<Block> {
        if class == LARGE {
            return store.take_free_run(len, need).map(|offset| Block { offset });
        }
        let mut one = [0];
        (store.take_free(class, &mut one, need) == 1).then_some(Block { offset: one[0] })
    }

    /// Hands everything back if the heap was pressed since the last time.
    pub(crate) fn yield_to_pressure(&mut self, store: &Store) {
        let pressure = store.pressure();
        if pressure != self.pressure {
            self.pressure = pressure;
            self.flush(store);
        }
    }

    /// Keeps a freed block for the next use, or hands half of the class back to the heap.
    #[inline]
    pub(crate) fn put(&mut self, store: &Store, arena: &Arena, offset: u64) {
        // A block of a span that leaves goes straight back, as large runs do.
        let entry = unit_entry(arena, offset).filter(|entry| !entry.leaving);
        let class = entry.map_or(LARGE, |entry| entry.class);
        if class != LARGE {
            let magazine = &mut self.magazines[usize::from(class)];
            if magazine.len < magazine.cap {
                magazine.blocks[magazine.len as usize % DEPTH] = offset;
                magazine.len += 1;
                return;
            }
        }
        self.overflow(store, class, offset);
    }

    #[cold]
    fn overflow(&mut self, store: &Store, class: u8, offset: u64) {
        self.yield_to_pressure(store);
        if class != LARGE && self.magazines[usize::from(class)].cap > 1 {
            let magazine = &mut self.magazines[usize::from(class)];
            // The older half goes: what was freed last is still in the processor's cache.
            let half = (magazine.len as usize).div_ceil(2);
            store.give(&magazine.blocks[..half]);
            magazine.blocks.copy_within(half..magazine.len as usize, 0);
            magazine.len -= half as u32;
            magazine.blocks[magazine.len as usize] = offset;
            magazine.len += 1;
        } else {
            store.give(&[offset]);
        }
    }

    /// Hands everything back.
    pub(crate) fn flush(&mut self, store: &Store) {
        for magazine in self.magazines.iter_mut().filter(|magazine| magazine.len > 0) {
            store.give(&magazine.blocks[..magazine.len as usize]);
            magazine.len = 0;
        }
    }
}
