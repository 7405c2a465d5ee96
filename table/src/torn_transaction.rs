//! Transactions that a death cut short, written by hand, and what `Table::join` makes of them.

use crate::chain;
use crate::clock::Expiry;
use crate::layout::{RedoEntry, RedoList};
use crate::redo;
use crate::sync::Ordering::Relaxed;
use crate::torn::memory::Memory;
use crate::transaction::{Change, Step};
use crate::words::{link_word, slot_word};
use crate::{Condition, EffectKind, Outcome, Table, Ticket, Writer};
use std::mem::{offset_of, size_of};

const TICKET: Ticket = Ticket { shard: 3, client: 5, generation: 7, position: 11 };
const WORKER: u32 = 2;

fn key(n: u64) -> Vec<u8> {
    format!("key-{n}").into_bytes()
}

fn put(writer: &mut Writer<'_>, n: u64) {
    let (key, hash) = (key(n), writer.hash(&key(n)));
    let outcome = writer.insert(&key, b"before", hash, Condition::None, Expiry::Never, &TICKET, |outcome| *outcome);
    assert!(matches!(outcome, Outcome::Inserted { .. }), "{outcome:?}");
}

/// Every key that is there, with its value.
fn contents(table: &Table) -> Vec<(u64, String)> {
    table.check_invariants().expect("invariants");
    let writer = table.writer(WORKER);
    let value = |n: u64| {
        let item = writer.get(&key(n), table.hash(&key(n)))?;
        let mut out = Vec::new();
        writer.value_into(&item, &mut out).expect("nobody writes");
        Some((n, String::from_utf8(out).expect("text")))
    };
    let all: Vec<_> = (0..40).filter_map(value).collect();
    assert_eq!(table.stats().items, all.len() as u64);
    all
}

/// Replaces keys 0 to 3, deletes 4 and 5, adds 20 to 29, in that order; the memory as a death after the last store leaves it.
fn transact(memory: &Memory, writer: &mut Writer<'_>) -> (Memory, Outcome) {
    let keys: Vec<_> = (0..6).chain(20..30).map(key).collect();
    let steps: Vec<_> = (0..)
        .zip(&keys)
        .map(|(at, key)| {
            let change = match at {
                4 | 5 => Change::Delete,
                _ => Change::Insert { value: b"after", expiry: Expiry::Never },
            };
            Step { key, compare: None, change }
        })
        .collect();
    let done = writer.transact(&steps, &TICKET, |_| Some(77), |outcome| (memory.image(), *outcome));
    done.expect("sixteen different keys")
}

fn before() -> Vec<(u64, String)> {
    (0..12).map(|n| (n, "before".into())).collect()
}

fn after() -> Vec<(u64, String)> {
    let old = |n: u64| (n, if n < 4 { "after" } else { "before" }.into());
    (0..4).chain(6..12).map(old).chain((20..30).map(|n| (n, "after".into()))).collect()
}

struct List {
    at: u64,
    entries: Vec<(u64, u64, u64)>,
}

/// The list that stands in the memory.
fn list(table: &Table, memory: &Memory) -> List {
    let at = redo::list_of(&table.geometry, WORKER);
    let word = |at: u64| memory.word(at).load(Relaxed);
    let entry = |index: u64| {
        let at = at + offset_of!(RedoList, entries) as u64 + index * size_of::<RedoEntry>() as u64;
        (word(at), word(at + 8), word(at + 16))
    };
    let entries = (0..word(at)).map(entry).collect();
    List { at, entries }
}

/// A table of two buckets with twelve keys, and what a death after the last store of the transaction leaves.
fn stage(memory: &Memory) -> (Memory, List, Outcome) {
    let table = memory.format();
    let mut writer = table.writer(WORKER);
    (0..12).for_each(|n| put(&mut writer, n));
    let (image, outcome) = transact(memory, &mut writer);
    drop(writer);
    assert_eq!(contents(&table), after(), "the transaction itself");
    let list = list(&table, &image);
    assert_eq!(list.entries.len(), 16);
    (image, list, outcome)
}

fn memory() -> Memory {
    Memory::new(2 << 20, 2, 4096)
}

#[test]
fn a_committed_list_is_finished_from_every_store_on() {
    let memory = memory();
    let (image, list, outcome) = stage(&memory);
    let Outcome::Committed { version, value: 77 } = outcome else { panic!("{outcome:?}") };
    for stored in 0..=list.entries.len() {
        let torn = image.image();
        for &(slot, old, new) in &list.entries[stored..] {
            assert_eq!(torn.word(slot).load(Relaxed), new);
            torn.word(slot).store(old, Relaxed);
        }
        // Killed twice: the second join finds what the first has finished, and reports it again.
        for _ in 0..2 {
            let (_, recovery) = torn.join().expect("join");
            assert_eq!(recovery.intents.len(), 1, "{stored} stored");
            let pending = recovery.intents[0];
            assert_eq!((pending.worker, pending.ticket, pending.applied), (WORKER, TICKET, true));
            assert_eq!((pending.effect.kind, pending.effect.version, pending.effect.value), (EffectKind::Committed, version, 77));
            assert_eq!((recovery.items, recovery.dropped_slots), (20, 0));
        }
        let (table, _) = torn.join().expect("join");
        assert_eq!(contents(&table), after(), "{stored} stored");
        drop(table);
        // A writer was taken: the list is forgotten, and later changes stay.
        let (table, recovery) = torn.join().expect("join");
        assert!(recovery.intents.is_empty());
        put(&mut table.writer(0), 30);
        drop(table);
        assert_eq!(contents(&torn.join().expect("join").0).len(), 21);
    }
}

#[test]
fn a_list_without_its_commit_word_is_nothing() {
    let memory = memory();
    let (image, list, _) = stage(&memory);
    for &(slot, old, _) in &list.entries {
        image.word(slot).store(old, Relaxed);
    }
    image.word(list.at).store(0, Relaxed);
    let (table, recovery) = image.join().expect("join");
    assert_eq!((recovery.intents.len(), recovery.items, recovery.repaired_buckets), (0, 12, 2));
    assert_eq!(contents(&table), before());
    // The lines that were linked for it stand, and take what comes.
    let mut writer = table.writer(WORKER);
    let lines = table.stats().overflow_lines;
    assert!(lines >= 2, "two buckets of 22 keys need lines: {lines}");
    transact(&image, &mut writer);
    drop(writer);
    assert_eq!((contents(&table), table.stats().overflow_lines), (after(), lines));
}

#[test]
fn an_empty_line_linked_before_the_commit_word_is_legal() {
    let memory = Memory::new(2 << 20, 1, 4096);
    let table = memory.format();
    let mut writer = table.writer(WORKER);
    (0..7).for_each(|n| put(&mut writer, n));
    let (new, mut image) = (key(20), None);
    let steps = [Step { key: &new, compare: None, change: Change::Insert { value: b"x", expiry: Expiry::Never } }];
    // The answer is written before the line is linked, the commit word after it: the line is unlinked from neither.
    let told = writer.transact(&steps, &TICKET, |_| Some(1), |_| image = Some(memory.image()));
    told.expect("one key");
    let image = image.expect("published");
    let List { at, entries } = list(&table, &image);
    image.word(at).store(0, Relaxed);
    image.word(entries[0].0).store(entries[0].1, Relaxed);
    let (successor, recovery) = image.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots, successor.stats().overflow_lines), (7, 0, 1));
    successor.check_invariants().expect("invariants");
}

#[test]
fn a_list_that_does_not_fit_the_table_is_left_alone() {
    let memory = memory();
    let (image, list, _) = stage(&memory);
    for &(slot, old, _) in &list.entries {
        image.word(slot).store(old, Relaxed);
    }
    let (table, _) = image.image().join().expect("join");
    let arena = table.arena.clone();
    drop(table);
    let entry = |index: usize| list.at + (offset_of!(RedoList, entries) + index * size_of::<RedoEntry>()) as u64;
    let (first, second) = (list.entries[0], list.entries[1]);
    let item = crate::words::offset_of_slot(first.1);
    for (what, at, word) in [
        ("more entries than a list has", list.at, 169),
        ("all bits", list.at, u64::MAX),
        ("a version word", entry(1), arena.bucket(0)),
        ("an address between words", entry(1), second.0 + 1),
        ("the header", entry(1), 640),
        ("an item", entry(1), item + 8),
        ("beyond the buckets", entry(1), chain::slot_at(arena.bucket(2), 0)),
        ("beyond the heap", entry(1), arena.heap_end - 8),
        ("beyond all", entry(1), u64::MAX - 7),
        ("another old word", entry(1) + 8, second.1 ^ 1),
        ("a link as new word", entry(1) + 16, link_word(arena.heap_start)),
        ("an item beyond the heap", entry(1) + 16, slot_word(0, arena.heap_end)),
    ] {
        let damaged = image.image();
        damaged.word(at).store(word, Relaxed);
        let (table, recovery) = damaged.join().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(recovery.intents.is_empty(), "{what}");
        assert_eq!(contents(&table), before(), "{what}");
    }
}

/// Words of the list and of the buckets are overwritten at random; what a join makes of it is consistent.
#[test]
fn any_damage_of_a_list_leaves_a_consistent_table() {
    let memory = memory();
    let (image, list, _) = stage(&memory);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut finished = 0;
    for round in 0..300 {
        let damaged = image.image();
        for &(slot, old, _) in &list.entries[random() as usize % 16..] {
            damaged.word(slot).store(old, Relaxed);
        }
        for _ in 0..1 + round % 3 {
            let at = list.at + 8 * (random() % 54);
            let from = &list.entries[random() as usize % 16];
            let old = damaged.word(at).load(Relaxed);
            let new = [random(), old ^ (1 << (random() % 64)), from.0, from.1, from.2][random() as usize % 5];
            damaged.word(at).store(new, Relaxed);
        }
        let (table, recovery) = damaged.join().expect("the header is whole");
        finished += recovery.intents.len();
        table.check_invariants().unwrap_or_else(|error| panic!("round {round}: {error} after {recovery:?}"));
        let mut writer = table.writer(0);
        (40..90).for_each(|n| put(&mut writer, n));
        drop(writer);
        table.check_invariants().unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    assert!((10..290).contains(&finished), "some damage matters and some does not: {finished}");
}
