//! Copies of values by reference: the server says where an item was, and the copy counts if it still is.
//!
//! V1: a reference is checked against the end of the heap before it is followed. V2: a copy counts only if the item's word 0 says its
//! version before and after (S3 of `seqlock`). Progress: wait-free.

use crate::arena::Arena;
use crate::outcome::{Changed, ItemRef};
use crate::seqlock;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::words::{ITEM_HEADER, ItemHeader, MAX_VALUE, MAX_VERSION};

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
    if item.value_len > MAX_VALUE {
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
        version: item.version & MAX_VERSION,
        key_len: item.key_len & 0x7ff,
        value_len: item.value_len & MAX_VALUE,
        type_and_flags: item.type_and_flags,
        expiry: 0,
    }
}
