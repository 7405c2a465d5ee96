//! The read-only half for clients: lookups and copies that never wait, never write and never leave the section.
//!
//! D1: what was copied counts only after the bucket's or the item's version has been seen to hold. D2: every offset
//! is checked against the committed length before it is followed. D3: retries are bounded.
//! Progress: `copy_value` is wait-free; `get_into` gives up after its retries with [`Busy`].

use crate::arena::Arena;
use crate::chain;
use crate::hashing::Hasher;
use crate::header::{self, JoinError};
use crate::layout::{Header, Part, committed_word};
use crate::outcome::{Busy, Changed, ItemRef};
use crate::section::Section;
use crate::seqlock;
use crate::server_half::{RegionState, TableStats, stats_of};
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::words::{ITEM_HEADER, ItemHeader, tag_of};
use crate::writer::item_ref;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::NonNull;

/// Tries of a lookup before it answers busy.
const TRIES: u32 = 16;

/// A reader of a table, on a mapping that need not be writable.
#[derive(Clone)]
pub struct Reader<'a> {
    arena: Arena,
    hasher: Hasher,
    seed: u64,
    uuid: [u8; 16],
    mapping: PhantomData<&'a [u8]>,
}

impl Reader<'_> {
    /// Joins a table for reading.
    ///
    /// # Safety
    /// `base` must be 64-aligned and mapped readable for `len` bytes throughout the reader's lifetime.
    pub unsafe fn join(base: NonNull<u8>, len: u64) -> Result<Self, JoinError> {
        if !base.as_ptr().addr().is_multiple_of(64) {
            return Err(JoinError::Alignment { found: base.as_ptr().addr() });
        }
        // SAFETY: passed on from the caller.
        let section = unsafe { Section::new(base, len) };
        let identity = header::read(&section, len)?;
        Ok(Reader {
            arena: identity.geometry.arena(section),
            hasher: Hasher::new(identity.seed),
            seed: identity.seed,
            uuid: identity.uuid,
            mapping: PhantomData,
        })
    }

    /// End of the committed heap.
    #[inline]
    fn end(&self) -> u64 {
        // ORDER(committed): Acquire pairs with the Release in `Store::commit_step`.
        let committed = self.arena.section.word(committed_word(Part::Heap)).load(Acquire);
        self.arena.heap_start + committed.min(self.arena.heap_end - self.arena.heap_start)
    }

    /// Replaces the contents of `out` with the value that the server referred to.
    pub fn copy_value(&self, item: &ItemRef, out: &mut Vec<u8>) -> Result<(), Changed> {
        copy_whole(&self.arena, self.end(), item, out)
    }

    /// Copies `len` bytes of the value from `from` on; what was copied counts only if the answer is `Ok`.
    ///
    /// # Safety
    /// `out` must be writable for `len` bytes and private to the caller.
    pub unsafe fn copy_value_part(&self, item: &ItemRef, from: u32, len: u32, out: *mut u8) -> Result<(), Changed> {
        // SAFETY: passed on from the caller.
        unsafe { copy_item(&self.arena, self.end(), item, from, len, out) }
    }

    /// Looks a key up and copies its value into `out`; none if it is absent. Expiry is the caller's to judge.
    pub fn get_into(&self, key: &[u8], hash: u64, out: &mut Vec<u8>) -> Result<Option<ItemRef>, Busy> {
        let backoff = seqlock::Backoff::new();
        for _ in 0..TRIES {
            if let Some(answer) = self.try_get(key, hash, out) {
                return Ok(answer);
            }
            backoff.spin();
        }
        Err(Busy)
    }

    /// One try; none if a writer came between.
    fn try_get(&self, key: &[u8], hash: u64, out: &mut Vec<u8>) -> Option<Option<ItemRef>> {
        let (count, end) = (self.arena.bucket_count(), self.end());
        let index = count.index(hash);
        if index >= self.arena.max_buckets {
            return None;
        }
        let bucket = self.arena.bucket(index);
        let version = self.arena.section.word(bucket);
        let seen = seqlock::read_begin(version)?;
        let found = chain::find(&self.arena, end, bucket, tag_of(hash), key);
        if !seqlock::read_holds(version, seen) {
            return None;
        }
        let Some(found) = found else {
            // A miss only counts if the key's bucket was the right one throughout.
            return (self.arena.bucket_count() == count).then_some(None);
        };
        let item = item_ref(found.item, &found.header);
        copy_whole(&self.arena, end, &item, out).ok()?;
        Some(Some(item))
    }

    /// Hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    /// Seed of the table's hash.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Id of the region.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The region's state.
    pub fn state(&self) -> RegionState {
        // ORDER(state): Acquire pairs with the Release in `Table::set_state`.
        RegionState::from_word(self.arena.section.word(offset_of!(Header, state) as u64).load(Acquire))
    }

    /// Counters as they stand in the section.
    pub fn stats(&self) -> TableStats {
        stats_of(&self.arena)
    }
}

/// Copies part of an item's value and rechecks its version.
///
/// # Safety
/// `out` must be writable for `len` bytes and private to the caller.
#[inline]
pub(crate) unsafe fn copy_item(
    arena: &Arena,
    end: u64,
    item: &ItemRef,
    from: u32,
    len: u32,
    out: *mut u8,
) -> Result<(), Changed> {
    let expected = header_of(item);
    let inside = item.offset >= arena.heap_start
        && item.offset.is_multiple_of(8)
        && item.offset.checked_add(expected.len()).is_some_and(|item_end| item_end <= end)
        && u64::from(from) + u64::from(len) <= u64::from(item.value_len);
    if !inside || item.version == 0 {
        return Err(Changed);
    }
    let word0 = arena.section.word(item.offset);
    // ORDER(word0): Acquire: bytes copied below are not older than the version seen here.
    let same = word0.load(Acquire) == expected.word0();
    let word1 = arena.section.word(item.offset + 8).load(Relaxed);
    if !same || ItemHeader::decode(expected.word0(), word1).value_len != item.value_len {
        return Err(Changed);
    }
    // SAFETY: the source is checked against the section, the target is the caller's promise.
    unsafe { arena.section.read(item.offset + ITEM_HEADER + u64::from(item.key_len) + u64::from(from), out, len as usize) };
    if seqlock::item_holds(word0, expected.word0()) { Ok(()) } else { Err(Changed) }
}

/// Replaces the contents of `out` with an item's value.
pub(crate) fn copy_whole(arena: &Arena, end: u64, item: &ItemRef, out: &mut Vec<u8>) -> Result<(), Changed> {
    out.clear();
    // A length that no item has must not make the caller allocate.
    if item.value_len > crate::words::MAX_VALUE {
        return Err(Changed);
    }
    out.reserve(item.value_len as usize);
    // SAFETY: the spare capacity is the vector's own; its length is set only to what was copied.
    unsafe {
        copy_item(arena, end, item, 0, item.value_len, out.as_mut_ptr())?;
        out.set_len(item.value_len as usize);
    }
    Ok(())
}

fn header_of(item: &ItemRef) -> ItemHeader {
    ItemHeader {
        version: item.version & crate::words::MAX_VERSION,
        key_len: item.key_len & 0x7ff,
        value_len: item.value_len & crate::words::MAX_VALUE,
        type_and_flags: item.type_and_flags,
        expiry: 0,
    }
}
