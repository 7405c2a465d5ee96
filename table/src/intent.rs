//! The intent record: what a worker is about to store, for the server that comes after a death.
//!
//! ```text
//! clear ──write──▶ pending ──slot store──▶ applied ──reply published──▶ ──clear──▶ clear      all under the bucket's lock
//! ```
//!
//! N1: the record is pending only while the worker holds the lock of the slot's bucket (or, for the version floor, of all
//! clears); so the slot's word is the record's old word (not applied) or its new one (applied), and nobody else's.
//! N2: the successor sees stores in program order (a killed thread has finished what it had executed), so the order
//! between record, slot, reply and clearing is the compiler's only, kept by Release stores.
//! CRASH: pending with the old word: the request was not served. Pending with the new word: it was, and its reply
//! may be missing; the effect tells the server what to answer. `Table::join` reports and clears both.

use crate::arena::Arena;
use crate::layout::Intent;
use crate::sync::Ordering::{Relaxed, Release};
use std::mem::offset_of;

/// Who asked for a mutation, by the coordinates of its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Shard of the client.
    pub shard: u32,
    /// Its slot.
    pub client: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Position of the request in the client's lane.
    pub position: u64,
}

/// What a mutation did, in fixed width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// What happened.
    pub kind: EffectKind,
    /// Version of the item: the new one, or the deleted one.
    pub version: u64,
    /// Number (as the bits of an i64), length, count, or what the answer to a transaction was said to be; else 0.
    pub value: u64,
}

/// The kinds of [`Effect`]; numbers are part of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EffectKind {
    /// A key was added.
    Inserted = 1,
    /// A key's item was replaced.
    Replaced = 2,
    /// A key was removed.
    Deleted = 3,
    /// A number was changed.
    Number = 4,
    /// Bytes were appended.
    Length = 5,
    /// An item's expiry was set or removed; the slot of the record is the item's word 1.
    Expires = 6,
    /// The version floor was raised; the slot of the record is the floor, the value how many items were there.
    Cleared = 7,
    /// A transaction stored several slots; only redo lists speak of it, no intent.
    Committed = 64,
}

impl EffectKind {
    fn from_number(number: u8) -> Option<EffectKind> {
        Some(match number {
            1 => EffectKind::Inserted,
            2 => EffectKind::Replaced,
            3 => EffectKind::Deleted,
            4 => EffectKind::Number,
            5 => EffectKind::Length,
            6 => EffectKind::Expires,
            7 => EffectKind::Cleared,
            _ => return None,
        })
    }
}

/// A mutation that was under way when the server died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingIntent {
    /// The worker that served it.
    pub worker: u32,
    /// Whose request it was.
    pub ticket: Ticket,
    /// Whether the table holds its result. If so and the request is unanswered, `effect` is the answer; if not, the
    /// request is to be served anew.
    pub applied: bool,
    /// What it did.
    pub effect: Effect,
}

/// The word that names the shard and the client of a ticket.
#[inline]
pub(crate) fn asker_of(ticket: &Ticket) -> u64 {
    u64::from(ticket.client) << 32 | u64::from(ticket.shard)
}

/// The ticket that three words of a record stand for.
pub(crate) fn ticket_of(asker: u64, generation: u64, position: u64) -> Ticket {
    Ticket { shard: asker as u32, client: (asker >> 32) as u32, generation: generation as u32, position }
}

/// One store of a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotStore {
    pub(crate) slot: u64,
    pub(crate) old: u64,
    pub(crate) new: u64,
}

/// Writes the record and stores the slot.
#[inline]
pub(crate) fn write_and_apply(arena: &Arena, record: u64, ticket: &Ticket, effect: &Effect, store: SlotStore) {
    write(arena, record, ticket, effect, store);
    // ORDER(slot): Release after the record (N2).
    arena.section.word(store.slot).store(store.new, Release);
}

/// Writes the record.
#[inline]
pub(crate) fn write(arena: &Arena, record: u64, ticket: &Ticket, effect: &Effect, store: SlotStore) {
    let word = |field: usize| arena.section.word(record + field as u64);
    word(offset_of!(Intent, asker)).store(asker_of(ticket), Relaxed);
    word(offset_of!(Intent, generation)).store(u64::from(ticket.generation), Relaxed);
    word(offset_of!(Intent, position)).store(ticket.position, Relaxed);
    word(offset_of!(Intent, slot)).store(store.slot, Relaxed);
    word(offset_of!(Intent, old)).store(store.old, Relaxed);
    word(offset_of!(Intent, new)).store(store.new, Relaxed);
    word(offset_of!(Intent, value)).store(effect.value, Relaxed);
    // ORDER(state): Release: the record is whole when its state says so; read by `join` after a death.
    word(offset_of!(Intent, state)).store(effect.version << 8 | effect.kind as u64, Release);
}

/// Clears the record, after the reply and before the unlock.
#[inline]
pub(crate) fn clear(arena: &Arena, record: u64) {
    // ORDER(state): Release after the reply's stores (N2).
    arena.section.word(record + offset_of!(Intent, state) as u64).store(0, Release);
}

/// Reads a worker's record: the store it announced and whose it was; none if clear or nonsense.
pub(crate) fn read(arena: &Arena, worker: u32) -> Option<(PendingIntent, SlotStore)> {
    let record = arena.record(worker);
    let word = |field: usize| arena.section.word(record + field as u64).load(Relaxed);
    let state = word(offset_of!(Intent, state));
    let kind = EffectKind::from_number(state as u8)?;
    let ticket =
        ticket_of(word(offset_of!(Intent, asker)), word(offset_of!(Intent, generation)), word(offset_of!(Intent, position)));
    let effect = Effect { kind, version: state >> 8, value: word(offset_of!(Intent, value)) };
    let store = SlotStore {
        slot: word(offset_of!(Intent, slot)),
        old: word(offset_of!(Intent, old)),
        new: word(offset_of!(Intent, new)),
    };
    Some((PendingIntent { worker, ticket, applied: false, effect }, store))
}
