//! Memory for an item before it is linked: reserved, written, then committed or discarded.
//!
//! ```text
//! free ──reserve──▶ private ──commit──▶ linked        a refused commit gives the memory back like a discard
//!                      └──────discard─▶ free
//! ```
//!
//! E1: a reservation's memory has one owner, but stale readers may still look at it; its word 0 says version 0.
//! E2: memory held back for overwrites goes to an overwrite that gives back a block of the same kind.
//! CRASH: a reservation of a dead process is unreachable memory, free after `Table::join`.

use crate::cache::Block;
use crate::classes::{LARGE, class_for, size_of_class};
use crate::clock::Expiry;
use crate::layout::Counters;
use crate::outcome::Refused;
use crate::seqlock;
use crate::spans::{Need, unit_entry};
use crate::sync::Ordering::Relaxed;
use crate::words::{ITEM_HEADER, ItemHeader, MAX_KEY};
use crate::writer::Writer;
use std::mem::offset_of;
use std::ptr::NonNull;

/// An item being written: memory that nobody else sees until it is committed. Plain data, so that a server can keep
/// it while a large value streams in; one that is neither committed nor discarded is lost until the next join.
#[derive(Debug)]
#[must_use = "a reservation that is dropped keeps its memory until the table is joined anew"]
pub struct Reservation {
    pub(crate) block: Block,
    pub(crate) header: ItemHeader,
    value: NonNull<u8>,
    /// Its block was held back for overwrites: what it replaces goes straight back.
    pub(crate) held_back: bool,
    /// The expiry of what it replaces stays.
    pub(crate) keep: bool,
}

// SAFETY: the pointer names memory that the reservation owns, valid as long as the table's mapping.
unsafe impl Send for Reservation {}

impl Reservation {
    /// Where the value's bytes go. Stale readers may still look at this memory: write through [`racing::copy`].
    /// Valid as long as the table.
    pub fn value_ptr(&self) -> NonNull<u8> {
        self.value
    }

    /// Bytes to write there.
    pub fn value_len(&self) -> u32 {
        self.header.value_len
    }

    /// Writes the whole value at once.
    ///
    /// # Panics
    /// If the length is not the one reserved.
    #[inline]
    pub fn write_value(&mut self, value: &[u8]) {
        assert!(value.len() == self.header.value_len as usize, "value written has another length than reserved");
        // SAFETY: the reservation owns value_len bytes from there on; the slice is private.
        unsafe { racing::copy(value.as_ptr(), self.value.as_ptr(), value.len()) }
    }
}

impl Writer<'_> {
    /// Takes memory for an item and writes its key.
    #[inline]
    pub fn reserve(&mut self, key: &[u8], value_len: u32, type_and_flags: u8, expiry: Expiry) -> Result<Reservation, Refused> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Refused::KeyLength { found: key.len() });
        }
        if value_len > self.table.geometry.max_value {
            return Err(Refused::ValueLength { found: value_len, most: self.table.geometry.max_value });
        }
        let header = ItemHeader { version: 0, key_len: key.len() as u16, value_len, type_and_flags, expiry: expiry.word(0) };
        let (class, len) = (class_for(header.len()), header.len());
        let (block, held_back) = match self.allocate(class, len) {
            Some(block) => (block, false),
            None => match self.take_held_back(key, len) {
                Some(block) => (block, true),
                None => match self.evict_for(len, self.hash(key)) {
                    Some(block) => (block, false),
                    None => {
                        self.count(offset_of!(Counters, full), 1);
                        return Err(Refused::Full);
                    }
                },
            },
        };
        let value = self.start_item(&block, &header);
        self.arena.section.write(block.offset + ITEM_HEADER, key);
        Ok(Reservation { block, header, value, held_back, keep: expiry == Expiry::Keep })
    }

    /// Begins an item in its memory; where its value goes.
    #[inline]
    pub(crate) fn start_item(&self, block: &Block, header: &ItemHeader) -> NonNull<u8> {
        seqlock::before_reuse();
        seqlock::retire(self.arena.section.word(block.offset));
        self.arena.section.word(block.offset + 8).store(header.word1(), Relaxed);
        let value_at = block.offset + ITEM_HEADER + u64::from(header.key_len);
        self.arena.section.pointer(value_at, u64::from(header.value_len))
    }

    /// Memory is full: an overwrite by something that fits where the old item lies may still take a block of the
    /// old one's kind, because it gives that one back.
    #[cold]
    fn take_held_back(&mut self, key: &[u8], len: u64) -> Option<Block> {
        let old = self.get(key, self.hash(key))?;
        let entry = unit_entry(&self.arena, old.offset)?;
        self.take_like(entry.class, entry.units, len)
    }

    /// A block of the class (or a run of at most the units) from what is held back, if `len` fits it.
    pub(crate) fn take_like(&mut self, class: u8, units: u32, len: u64) -> Option<Block> {
        let store = &self.table.store;
        if class == LARGE {
            if class_for(len) != LARGE || len > u64::from(units) * crate::classes::UNIT {
                return None;
            }
            return store.take_run(len, Need::Overwrite).map(|offset| Block { offset });
        }
        if len > size_of_class(usize::from(class)) {
            return None;
        }
        self.cache.take_free(store, class, len, Need::Overwrite)
    }

    /// Gives a reservation's memory back.
    pub fn discard(&mut self, reservation: Reservation) {
        self.release(reservation.block.offset, reservation.held_back);
    }

    /// Frees memory that no slot names any more (or never did).
    #[inline]
    pub(crate) fn release(&mut self, offset: u64, held_back: bool) {
        seqlock::retire(self.arena.section.word(offset));
        if held_back {
            self.table.store.give(&[offset]);
        } else {
            self.cache.put(&self.table.store, &self.arena, offset);
        }
    }
}
