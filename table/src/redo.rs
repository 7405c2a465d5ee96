//! The redo list: the slot stores of an operation on several keys, for the server that comes after a death.
//!
//! ```text
//! clear ──entries, asker, answer──▶ written ──commit word──▶ committed ──slot stores──▶ applied
//!   ▲                                                                                     │ reply published
//!   └────────────────────────────────────── clear commit word ◀───────────────────────────┘   all under the buckets' locks
//! ```
//!
//! D1: a list is committed only while its worker holds the locks of every bucket that its entries name; so each of the slots holds the
//! entry's old word or its new one. D2: the commit word is the operation: before it nothing has happened, after it everything
//! will, by this process or by the next. D3: order is the compiler's only (a killed thread has finished what it had executed),
//! kept by Release stores; what else the answer needs (bytes in a lane) is written before the commit word.
//! D4: a worker's list is backed before its first use; `committed` of the part covers the lists of all workers up to that one.
//! CRASH: written, not committed: the operation was not served. Committed: `Table::join` finishes the stores, which may be done any
//! number of times, and reports the operation like an applied intent.

use crate::arena::Arena;
use crate::chain;
use crate::classes::LINE_CLASS;
use crate::geometry::Geometry;
use crate::intent::{Effect, EffectKind, PendingIntent, SlotStore, Ticket, asker_of, ticket_of};
use crate::layout::{LINE, Part, RedoEntry, RedoList, committed_word};
use crate::spans::unit_entry;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::words::{OVERFLOW_MARK, is_link};
use std::mem::{offset_of, size_of};

/// Bytes of one worker's list.
pub(crate) const LIST: u64 = size_of::<RedoList>() as u64;
/// Most entries of a list.
pub(crate) const MOST: usize = 168;

/// Offset of a worker's list.
#[inline]
pub(crate) fn list_of(geometry: &Geometry, worker: u32) -> u64 {
    geometry.parts[Part::Redo as usize].0 + u64::from(worker) * LIST
}

/// Whether a worker's list is backed (D4).
#[inline]
pub(crate) fn is_backed(arena: &Arena, worker: u32) -> bool {
    // ORDER(committed): Acquire pairs with the Release in `Store::back_redo` (`redo_memory`).
    arena.section.word(committed_word(Part::Redo)).load(Acquire) >= (u64::from(worker) + 1) * LIST
}

#[inline]
fn entry(list: u64, at: usize) -> u64 {
    list + (offset_of!(RedoList, entries) + at * size_of::<RedoEntry>()) as u64
}

/// Writes the list and commits it; the stores are the caller's next act.
///
/// # Panics
/// If there are more stores than a list holds, or none.
pub(crate) fn commit(arena: &Arena, list: u64, ticket: &Ticket, effect: &Effect, stores: impl Iterator<Item = SlotStore>) {
    let word = |at: u64| arena.section.word(at);
    let mut count = 0;
    for store in stores {
        assert!(count < MOST, "a redo list holds {MOST} stores");
        let at = entry(list, count);
        word(at + offset_of!(RedoEntry, slot) as u64).store(store.slot, Relaxed);
        word(at + offset_of!(RedoEntry, old) as u64).store(store.old, Relaxed);
        word(at + offset_of!(RedoEntry, new) as u64).store(store.new, Relaxed);
        count += 1;
    }
    assert!(count > 0, "a redo list without stores is never committed");
    let field = |field: usize| word(list + field as u64);
    field(offset_of!(RedoList, asker)).store(asker_of(ticket), Relaxed);
    field(offset_of!(RedoList, generation)).store(u64::from(ticket.generation), Relaxed);
    field(offset_of!(RedoList, position)).store(ticket.position, Relaxed);
    field(offset_of!(RedoList, version)).store(effect.version, Relaxed);
    field(offset_of!(RedoList, value)).store(effect.value, Relaxed);
    // ORDER(commit): Release: the list is whole when it is committed (D3); read by `complete` after a death.
    field(offset_of!(RedoList, commit)).store(count as u64, Release);
}

/// Clears a list, after the reply and before the unlocks.
#[inline]
pub(crate) fn clear(arena: &Arena, list: u64) {
    // ORDER(commit): Release after the slots' and the reply's stores (D3).
    arena.section.word(list + offset_of!(RedoList, commit) as u64).store(0, Release);
}

/// Clears every list that is backed.
pub(crate) fn clear_all(arena: &Arena, geometry: &Geometry) {
    (0..crate::layout::MAX_WORKERS)
        .filter(|&worker| is_backed(arena, worker))
        .for_each(|worker| clear(arena, list_of(geometry, worker)));
}

/// Finishes what is committed; whose it was, and what it did. The lists stay as they are.
pub(crate) fn complete(arena: &Arena, geometry: &Geometry) -> Vec<PendingIntent> {
    let heap_end = arena.heap_start + arena.section.word(committed_word(Part::Heap)).load(Relaxed);
    (0..crate::layout::MAX_WORKERS)
        .filter(|&worker| is_backed(arena, worker))
        .filter_map(|worker| complete_one(arena, heap_end, list_of(geometry, worker), worker))
        .collect()
}

fn complete_one(arena: &Arena, heap_end: u64, list: u64, worker: u32) -> Option<PendingIntent> {
    let word = |at: u64| arena.section.word(at).load(Relaxed);
    let field = |field: usize| word(list + field as u64);
    let count = field(offset_of!(RedoList, commit));
    if count == 0 || count > MOST as u64 {
        return None;
    }
    let store = |at: usize| {
        let at = entry(list, at);
        SlotStore {
            slot: word(at + offset_of!(RedoEntry, slot) as u64),
            old: word(at + offset_of!(RedoEntry, old) as u64),
            new: word(at + offset_of!(RedoEntry, new) as u64),
        }
    };
    let stores = (0..count as usize).map(store);
    // A list that does not fit the table was damaged by something else than a death: it is left alone as a whole.
    if !stores.clone().all(|store| fits(arena, heap_end, &store)) {
        return None;
    }
    for store in stores {
        arena.section.word(store.slot).store(store.new, Relaxed);
    }
    let ticket = ticket_of(
        field(offset_of!(RedoList, asker)),
        field(offset_of!(RedoList, generation)),
        field(offset_of!(RedoList, position)),
    );
    let (version, value) = (field(offset_of!(RedoList, version)), field(offset_of!(RedoList, value)));
    let effect = Effect { kind: EffectKind::Committed, version, value };
    Some(PendingIntent { worker, ticket, applied: true, effect })
}

/// Whether a store names a slot of a bucket or of an overflow line, which holds its old word or its new one (D1).
fn fits(arena: &Arena, heap_end: u64, store: &SlotStore) -> bool {
    let line = store.slot & !(LINE - 1);
    if !store.slot.is_multiple_of(8) || store.slot == line || is_link(store.old) || is_link(store.new) {
        return false;
    }
    let buckets_end = arena.bucket(arena.bucket_count().buckets());
    let in_bucket = line >= arena.buckets && line < buckets_end;
    let in_line = line >= arena.heap_start
        && line < heap_end
        && heap_end - line >= LINE
        && unit_entry(arena, line).is_some_and(|entry| entry.class == LINE_CLASS)
        && arena.section.word(line).load(Relaxed) == OVERFLOW_MARK;
    let item_ok = store.new == 0 || chain::item_of(arena, heap_end, store.new).is_some();
    let there = if in_bucket || in_line { Some(arena.section.word(store.slot).load(Relaxed)) } else { None };
    item_ok && there.is_some_and(|there| there == store.old || there == store.new)
}
