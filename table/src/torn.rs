//! States that a death leaves behind, written by hand, and what `Table::join` makes of them.

#[path = "../tests/memory/mod.rs"]
pub(crate) mod memory;

use crate::chain;
use crate::classes::UNIT;
use crate::intent::{self, SlotStore};
use crate::layout::{Header, LINE, PARTS, Part, SLOTS};
use crate::sync::Ordering::Relaxed;
use crate::words::{ItemHeader, OVERFLOW_MARK, link_word, slot_word, tag_of};
use crate::{Condition, Effect, EffectKind, Expiry, JoinError, Outcome, Table, Ticket, Writer};
use memory::Memory;
use std::mem::{forget, offset_of};

const TICKET: Ticket = Ticket { shard: 3, client: 5, generation: 7, position: 11 };

fn small(buckets: u64) -> Memory {
    Memory::new(2 << 20, buckets, 4096)
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n}").into_bytes()
}

fn put(writer: &mut Writer<'_>, n: u64) -> Outcome {
    let (key, value) = (key(n), format!("value of {n}"));
    let hash = writer.hash(&key);
    writer.insert(&key, value.as_bytes(), hash, Condition::None, Expiry::Never, &TICKET, |outcome| *outcome)
}

fn value(table: &Table, writer: &Writer<'_>, n: u64) -> Option<Vec<u8>> {
    let key = key(n);
    let item = writer.get(&key, table.hash(&key))?;
    let mut out = Vec::new();
    writer.value_into(&item, &mut out).expect("nobody writes");
    Some(out)
}

fn assert_items(table: &Table, present: std::ops::Range<u64>) {
    table.check_invariants().expect("invariants");
    assert_eq!(table.stats().items, present.end - present.start);
    let writer = table.writer(0);
    for n in present {
        assert_eq!(value(table, &writer, n), Some(format!("value of {n}").into_bytes()), "key {n}");
    }
}

#[test]
fn an_odd_version_goes_to_the_next_even_one() {
    let memory = small(4);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..10).for_each(|n| assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. })));
    let held = writer.lock_bucket(2);
    let odd = memory.word(held.bucket).load(Relaxed);
    assert_eq!(odd & 1, 1);
    forget(writer);
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.repaired_buckets, recovery.dropped_slots), (10, 1, 0));
    assert_eq!(memory.word(table.arena.bucket(2)).load(Relaxed), odd + 1);
    assert_items(&table, 0..10);
}

#[test]
fn an_intent_whose_slot_was_not_stored_is_reported_unapplied() {
    let memory = small(4);
    let table = memory.format();
    let mut writer = table.writer(9);
    (0..10).for_each(|n| {
        put(&mut writer, n);
    });
    let name = key(10);
    let hash = table.hash(&name);
    let reservation = writer.reserve(&name, 3, 0, Expiry::Never).expect("room");
    let held = writer.lock(hash);
    let probe = chain::probe(&table.arena, held.bucket, tag_of(hash), name.as_slice());
    let store = writer.place(&probe, slot_word(tag_of(hash), reservation.block.offset)).expect("room");
    let effect = Effect { kind: EffectKind::Inserted, version: 99, value: 0 };
    intent::write(&table.arena, writer.record, &TICKET, &effect, store);
    forget(writer);
    drop(table);
    for _ in 0..2 {
        let (table, recovery) = memory.join().expect("join");
        let pending = recovery.intents[0];
        assert_eq!((pending.worker, pending.ticket, pending.applied, pending.effect), (9, TICKET, false, effect));
        assert_eq!((recovery.intents.len(), recovery.items), (1, 10));
        table.check_invariants().expect("the reserved block is free again");
    }
    let (table, _) = memory.join().expect("join");
    assert_items(&table, 0..10);
    drop(table);
    // A writer was taken: the intents are forgotten.
    assert!(memory.join().expect("join").1.intents.is_empty());
}

#[test]
fn a_slot_stored_but_not_answered_is_reported_with_its_effect() {
    let memory = small(1);
    let table = memory.format();
    let mut writer = table.writer(1);
    // 7 fill the bucket, the eighth takes an overflow line, later ones land in it.
    for n in 0..12 {
        let (name, mut image) = (key(n), None);
        let hash = table.hash(&name);
        let text = format!("value of {n}");
        let answer = writer.insert(&name, text.as_bytes(), hash, Condition::None, Expiry::Never, &TICKET, |outcome| {
            image = Some(memory.image());
            *outcome
        });
        let image = image.expect("published");
        let (successor, recovery) = image.join().expect("join");
        assert_eq!(recovery.repaired_buckets, 1);
        assert_eq!(recovery.intents.len(), 1);
        assert!(recovery.intents[0].applied);
        assert_eq!(Outcome::of(&recovery.intents[0].effect), answer);
        assert_items(&successor, 0..n + 1);
    }
    for n in (0..12).rev() {
        let (name, mut image) = (key(n), None);
        let hash = table.hash(&name);
        let answer = writer.delete(&name, hash, Condition::None, &TICKET, |outcome| {
            image = Some(memory.image());
            *outcome
        });
        let image = image.expect("published");
        let (successor, recovery) = image.join().expect("join");
        assert_eq!(Outcome::of(&recovery.intents[0].effect), answer);
        assert!(recovery.intents[0].applied && matches!(answer, Outcome::Deleted { .. }));
        assert_items(&successor, 0..n);
    }
}

#[test]
fn numbers_and_lengths_are_reported_with_their_values() {
    let memory = small(2);
    let table = memory.format();
    let mut writer = table.writer(0);
    let hash = table.hash(b"n");
    for (by, sum) in [(-5i64, -5i64), (47, 42)] {
        let image = writer.incr(b"n", hash, by, Expiry::Never, &TICKET, |_| memory.image());
        let (_, recovery) = image.join().expect("join");
        assert!(matches!(Outcome::of(&recovery.intents[0].effect), Outcome::Number { value, .. } if value == sum));
    }
    let image = writer.append(b"n", hash, b"abc", &TICKET, |_| memory.image());
    let (_, recovery) = image.join().expect("join");
    assert!(matches!(Outcome::of(&recovery.intents[0].effect), Outcome::Length { len: 5, .. }));
}

#[test]
fn an_overflow_line_filled_but_not_linked_is_free_memory() {
    let memory = small(1);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..7).for_each(|n| {
        put(&mut writer, n);
    });
    let name = key(7);
    let hash = table.hash(&name);
    let reservation = writer.reserve(&name, 3, 0, Expiry::Never).expect("room");
    let held = writer.lock(hash);
    let probe = chain::probe(&table.arena, held.bucket, tag_of(hash), name.as_slice());
    let store = writer.place(&probe, slot_word(tag_of(hash), reservation.block.offset)).expect("room");
    assert!(crate::words::is_link(store.new), "the bucket is full, so a line was filled");
    forget(writer);
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.repaired_buckets, recovery.dropped_slots), (7, 1, 0));
    assert_items(&table, 0..7);
    assert_eq!(table.stats().overflow_lines, 0);
}

#[test]
fn an_empty_line_left_linked_is_used_again() {
    let memory = small(1);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..8).for_each(|n| {
        put(&mut writer, n);
    });
    let line = chain::line_of(&table.arena, table.arena.heap_end, {
        memory.word(chain::slot_at(table.arena.bucket(0), SLOTS - 1)).load(Relaxed)
    });
    let line = line.expect("a line");
    // The death came after the second delete's slot store, before the unlink.
    (0..SLOTS).for_each(|index| memory.word(chain::slot_at(line, index)).store(0, Relaxed));
    forget(writer);
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (6, 0));
    assert_eq!(table.stats().overflow_lines, 1);
    let mut writer = table.writer(0);
    (0..9).for_each(|n| {
        put(&mut writer, n);
    });
    drop(writer);
    assert_items(&table, 0..9);
}

#[test]
fn slots_with_garbage_are_dropped_and_counted() {
    let memory = small(4);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..80).for_each(|n| {
        put(&mut writer, n);
    });
    drop(writer);
    let arena = table.arena.clone();
    let item = {
        let writer = table.writer(0);
        writer.get(&key(0), table.hash(&key(0))).expect("present")
    };
    drop(table);
    let home = |at: u64| chain::slot_at(arena.bucket(at), 0);
    let count = arena.bucket_count();
    let line = (0..count.buckets())
        .find_map(|at| {
            let last = memory.word(chain::slot_at(arena.bucket(at), 6)).load(Relaxed);
            chain::line_of(&arena, arena.heap_end, last).filter(|_| crate::words::is_link(last))
        })
        .expect("some bucket has a line");
    let elsewhere = (count.index(table_hash(&memory, &key(0))) + 1) % count.buckets();
    for (what, slot, word) in [
        ("offset below the heap", home(0), slot_word(tag_of(1 << 40), 64)),
        ("offset beyond the heap", home(0), slot_word(tag_of(1 << 40), arena.heap_end)),
        ("all bits", home(0), u64::MAX),
        ("middle of an item", home(0), slot_word(tag_of(1 << 40), item.offset + 8)),
        ("an item of another bucket", home(elsewhere), slot_word(tag_of(1 << 40), item.offset)),
        ("link in slot 0", home(1), link_word(line)),
        ("link to itself", chain::slot_at(line, 6), link_word(line)),
        ("link to an item", chain::slot_at(line, 6), link_word(item.offset & !63)),
        ("link beyond the heap", chain::slot_at(line, 6), link_word(arena.heap_end)),
    ] {
        let image = memory.image();
        image.word(slot).store(word, Relaxed);
        let (table, recovery) = image.join().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(recovery.dropped_slots >= 1, "{what}");
        table.check_invariants().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!((60..=80).contains(&table.stats().items), "{what}: {}", table.stats().items);
        drop(table);
        let (table, again) = image.join().expect("second join");
        assert_eq!((again.dropped_slots, again.repaired_buckets), (0, 0), "{what}");
        assert_eq!(again.items, table.stats().items, "{what}");
    }
}

fn table_hash(memory: &Memory, key: &[u8]) -> u64 {
    crate::hash(memory.word(offset_of!(Header, seed) as u64).load(Relaxed), key)
}

#[test]
fn a_freed_or_unversioned_item_is_dropped() {
    let memory = small(4);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..5).for_each(|n| {
        put(&mut writer, n);
    });
    let item = writer.get(&key(4), table.hash(&key(4))).expect("present");
    drop(writer);
    drop(table);
    memory.word(item.offset).store(ItemHeader::decode(memory.word(item.offset).load(Relaxed), 0).word0() & 0xffff, Relaxed);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots, recovery.repaired_buckets), (4, 1, 1));
    assert_items(&table, 0..4);
}

#[test]
fn versions_stay_unique_after_a_join_whatever_the_counter_says() {
    let memory = small(4);
    let table = memory.format();
    let mut writer = table.writer(0);
    let Outcome::Inserted { version: before } = put(&mut writer, 0) else { panic!("inserted") };
    drop(writer);
    drop(table);
    memory.word(offset_of!(Header, next_version) as u64).store(0, Relaxed);
    let (table, _) = memory.join().expect("join");
    let Outcome::Replaced { version: after } = put(&mut table.writer(3), 0) else { panic!("replaced") };
    assert!(after > before);
}

/// Words all over the section are overwritten at random; a join answers, and what it answers is consistent.
#[test]
fn any_damage_is_an_error_or_a_consistent_table() {
    let memory = small(8);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..150).for_each(|n| {
        put(&mut writer, n);
    });
    drop(writer);
    let arena = table.arena.clone();
    drop(table);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut joined = 0;
    for round in 0..300 {
        let image = memory.image();
        for _ in 0..1 + round % 5 {
            let at = match random() % 4 {
                0 => random() % 4096,
                1 => arena.class_map + random() % 128,
                2 => arena.buckets + random() % (8 * LINE),
                _ => arena.heap_start + random() % 32_768,
            } & !7;
            let old = image.word(at).load(Relaxed);
            let new = match random() % 3 {
                0 => random(),
                1 => old ^ (1 << (random() % 64)),
                _ => image.word((arena.buckets + random() % (8 * LINE)) & !7).load(Relaxed),
            };
            image.word(at).store(new, Relaxed);
        }
        if let Ok((table, recovery)) = image.join() {
            joined += 1;
            table.check_invariants().unwrap_or_else(|error| panic!("round {round}: {error} after {recovery:?}"));
            let mut writer = table.writer(0);
            (0..200).for_each(|n| {
                put(&mut writer, n);
            });
        }
    }
    assert!(joined > 100, "most damage leaves a table: {joined}");
}

#[test]
fn a_foreign_truncated_or_newer_section_is_refused_by_name() {
    let memory = small(4);
    assert!(matches!(memory.join(), Err(JoinError::NotATable { found: 0, .. })), "never formatted");
    drop(memory.format());
    let layout = offset_of!(Header, layout) as u64;
    let image = memory.image();
    image.word(layout).store(9 << 32 | 4, Relaxed);
    assert!(matches!(image.join(), Err(JoinError::Layout { found_major: 9, found_minor: 4, major: 2, .. })));
    let image = memory.image();
    image.word(layout).fetch_add(1, Relaxed);
    assert!(image.join().is_ok(), "a higher minor version may be joined");
    image.word(offset_of!(Header, features_incompatible) as u64).store(1, Relaxed);
    assert!(matches!(image.join(), Err(JoinError::Incompatible { what: "features", .. })));
    let image = memory.image();
    image.word(offset_of!(Header, file_len) as u64).fetch_add(4096, Relaxed);
    assert!(matches!(image.join(), Err(JoinError::Truncated { .. })));
    for part in 0..PARTS as u64 {
        for field in 0..4 {
            let image = memory.image();
            image.word(crate::layout::part_entry(Part::Workers) + 32 * part + 8 * field).store(u64::MAX, Relaxed);
            assert!(matches!(image.join(), Err(JoinError::Damaged { .. })), "part {part} field {field}");
        }
    }
    let text = JoinError::Layout { found_major: 3, found_minor: 0, major: 1, minor: 0 }.to_string();
    assert!(text.contains("3.0") && text.contains("1.0"), "{text}");
}

#[test]
fn a_line_without_its_mark_is_not_followed() {
    let memory = small(1);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..9).for_each(|n| {
        put(&mut writer, n);
    });
    drop(writer);
    let link = memory.word(chain::slot_at(table.arena.bucket(0), 6)).load(Relaxed);
    let line = chain::line_of(&table.arena, table.arena.heap_end, link).expect("a line");
    assert_eq!(memory.word(line).load(Relaxed), OVERFLOW_MARK);
    drop(table);
    memory.word(line).store(1, Relaxed);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (6, 1));
    assert_items(&table, 0..6);
}

#[test]
fn nonsense_in_an_intent_record_is_ignored() {
    let memory = small(4);
    let table = memory.format();
    for (worker, slot, old, new) in [(0, 7, 1, 2), (1, u64::MAX - 7, 1, 2), (2, 0, 1, 2), (3, table.arena.buckets + 8, 5, 5)] {
        let effect = Effect { kind: EffectKind::Deleted, version: 1, value: 0 };
        intent::write(&table.arena, table.arena.record(worker), &TICKET, &effect, SlotStore { slot, old, new });
    }
    memory.word(table.arena.record(4)).store(0xff, Relaxed);
    drop(table);
    assert!(memory.join().expect("join").1.intents.is_empty());
}

/// An item of a key's bucket: its slot and its block.
fn slot_of(table: &Table, n: u64) -> (u64, u64) {
    let name = key(n);
    let hash = table.hash(&name);
    let bucket = table.arena.bucket(table.arena.bucket_count().index(hash));
    let found = chain::find(&table.arena, table.arena.heap_end, bucket, tag_of(hash), name.as_slice()).expect("there");
    (found.slot, found.item)
}

#[test]
fn a_move_is_before_or_after_whatever_was_copied() {
    for switched in [false, true] {
        let memory = small(4);
        let table = memory.format();
        let mut writer = table.writer(0);
        (0..10).for_each(|n| assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. })));
        // As an evacuation leaves it: the copy whole, the slot stored or not, the old block not retired.
        let (slot, from) = slot_of(&table, 3);
        let to = writer.reserve(&key(3), 10, 0, Expiry::Never).expect("room").block.offset;
        table.arena.section.copy_inside(from, to, 32);
        if switched {
            memory.word(slot).store(slot_word(tag_of(table.hash(&key(3))), to), Relaxed);
        }
        writer.lock_bucket(table.arena.bucket_count().index(table.hash(&key(3))));
        forget(writer);
        drop(table);
        let (table, recovery) = memory.join().expect("join");
        assert_eq!((recovery.items, recovery.repaired_buckets, recovery.dropped_slots), (10, 1, 0));
        assert_eq!(slot_of(&table, 3).1, if switched { to } else { from });
        assert_items(&table, 0..10);
    }
}

#[test]
fn a_span_that_was_being_trimmed_keeps_its_items() {
    let memory = small(4);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..10).for_each(|n| assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. })));
    let entry = |table: &Table, unit: u64| table.arena.class_map + 8 * unit;
    let (_, item) = slot_of(&table, 0);
    let unit = (item - table.arena.heap_start) / UNIT;
    let before = memory.word(entry(&table, unit)).load(Relaxed);
    assert!(before >> 32 > 1, "a span of several units");
    // The first store of a trim: the span's first unit says one unit, the others are as they were.
    memory.word(entry(&table, unit)).store(before & u64::from(u32::MAX) | 1 << 32, Relaxed);
    forget(writer);
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (10, 0));
    assert_eq!(memory.word(entry(&table, unit + 1)).load(Relaxed), 0, "what was trimmed is free");
    assert_items(&table, 0..10);
}
