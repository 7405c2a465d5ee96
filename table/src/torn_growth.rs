//! States that a death leaves behind in the middle of a split, of an expiry or of a clear, written by hand or caught on the way, and what
//! `Table::join` makes of them: nothing is lost, nothing there twice, nothing counted as damage.

use crate::arena::Arena;
use crate::chain::{self, is_item};
use crate::classes::LINE_CLASS;
use crate::deadlines::{deadline_word, group_word};
use crate::intent::{self, SlotStore};
use crate::layout::{Header, LINE, Part, SLOTS, committed_word};
use crate::section::Section;
use crate::split::{self, Words};
use crate::sync::Ordering::Relaxed;
use crate::torn::memory::Memory;
use crate::words::{BucketCount, ITEM_HEADER, ItemHeader, is_link};
use crate::writer::Writer;
use crate::{Change, Condition, Effect, EffectKind, Expiry, Outcome, Step, Table, Ticket};
use std::mem::offset_of;

const TICKET: Ticket = Ticket { shard: 3, client: 5, generation: 7, position: 11 };
const VALUE: &[u8] = b"value";

fn key(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

fn put(writer: &mut Writer<'_>, n: u64, expiry: Expiry) -> Outcome {
    let hash = writer.hash(&key(n));
    writer.insert(&key(n), VALUE, hash, Condition::None, expiry, &TICKET, |outcome| *outcome)
}

/// A table that does not grow by itself, with so many items.
fn held_back(memory: &Memory, items: u64) -> Table {
    let table = memory.format();
    assert!(table.growth.try_begin());
    let mut writer = table.writer(0);
    (0..items).for_each(|n| assert!(matches!(put(&mut writer, n, Expiry::Never), Outcome::Inserted { .. }), "{n}"));
    drop(writer);
    table
}

/// Joins a copy of the memory, twice, and then goes on with it: all items are there, once.
fn assert_survives(memory: &Memory, items: u64, what: &str) {
    let image = memory.image();
    for again in [false, true] {
        let (table, recovery) = image.join().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((recovery.items, recovery.dropped_slots), (items, 0), "{what}, again: {again}");
        table.check_invariants().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let (table, recovery) = image.join().expect("join");
    assert_eq!(recovery.repaired_buckets, 0, "{what}: the first join repaired all");
    let mut writer = table.writer(0);
    for n in 0..items {
        assert!(writer.get(&key(n), table.hash(&key(n))).is_some(), "{what}: {n} is lost");
    }
    // It grows on over whatever the death left in the bucket to come.
    for n in items..2 * items + 40 {
        assert!(matches!(put(&mut writer, n, Expiry::Never), Outcome::Inserted { .. }), "{what}: {n}");
    }
    assert!((0..2 * items + 40).all(|n| writer.get(&key(n), table.hash(&key(n))).is_some()), "{what}");
    drop(writer);
    table.check_invariants().unwrap_or_else(|error| panic!("{what}, grown: {error}"));
}

/// The memory as the algorithms see it, without a join that would mend it.
fn arena_of(memory: &Memory) -> Arena {
    // SAFETY: the memory is aligned, writable, and outlives the test.
    memory.geometry.arena(unsafe { Section::new(memory.base(), memory.len()) })
}

/// Whether the split of this level moves the item that a slot word names.
fn goes(table: &Table, arena: &Arena, word: u64, level: u32) -> bool {
    let (item, _) = chain::item_of(arena, arena.heap_end, word).expect("an item");
    let key = arena.section.word(item + ITEM_HEADER).load(Relaxed).to_le_bytes();
    table.hash(&key) >> level & 1 == 1
}

/// Slots of a chain that may hold items, in order, and the links.
fn slots_of(arena: &Arena, bucket: u64) -> (Vec<u64>, Vec<u64>) {
    let (mut slots, mut links, mut line) = (Vec::new(), Vec::new(), bucket);
    loop {
        slots.extend((0..SLOTS - 1).map(|index| chain::slot_at(line, index)));
        let last = chain::slot_at(line, SLOTS - 1);
        let word = arena.section.word(last).load(Relaxed);
        if !is_link(word) {
            slots.push(last);
            return (slots, links);
        }
        links.push(last);
        line = chain::line_of(arena, arena.heap_end, word).expect("a line");
    }
}

/// Does what `split::close_up` does, store by store, with a look after each.
fn close_up_by_hand(arena: &Arena, bucket: u64, goes: impl Fn(u64) -> bool, mut look: impl FnMut(&str)) {
    let word = |slot: u64| arena.section.word(slot);
    let (slots, links) = slots_of(arena, bucket);
    for &slot in &slots {
        if is_item(word(slot).load(Relaxed)) && goes(word(slot).load(Relaxed)) {
            word(slot).store(0, Relaxed);
            look("zeroed");
        }
    }
    if links.is_empty() {
        return;
    }
    let held = |slot: &&u64| word(**slot).load(Relaxed) != 0;
    let items = slots.iter().filter(held).count();
    while let Some(&hole) = slots[..items].iter().find(|slot| !held(slot)) {
        let &last = slots[items..].iter().rfind(held).expect("as many items beyond as holes before");
        word(hole).store(word(last).load(Relaxed), Relaxed);
        look("twice in the chain");
        word(last).store(0, Relaxed);
        look("moved forward");
    }
    let kept = items.saturating_sub(7).div_ceil(6);
    if let Some(&link) = links.get(kept) {
        let heads_next = slots.get(6 * (kept + 1)).filter(|_| items > 6 * (kept + 1));
        word(link).store(heads_next.map_or(0, |&slot| word(slot).load(Relaxed)), Relaxed);
        look("chain cut");
    }
}

/// Goes through the splits of a table of one bucket, and of those that come of it, dying before and after every single store.
#[test]
fn a_split_may_end_after_any_store() {
    for items in [3, 7, 8, 30, 103] {
        let memory = Memory::new(2 << 20, 1, 100);
        let table = held_back(&memory, items);
        for _ in 0..3 {
            tear_split(&memory, &table, items);
            assert!(table.writer(0).split());
            table.check_invariants().expect("invariants after the real one");
        }
        assert_eq!(table.buckets(), 4);
    }
}

/// Does the next split by hand in a copy, with a death after each store; what comes of it is what the table's own close-up makes.
fn tear_split(memory: &Memory, table: &Table, items: u64) {
    let mut writer = table.writer(0);
    let count = table.arena.bucket_count();
    let (old, new, level) = (table.arena.bucket(count.split()), table.arena.bucket(count.buckets()), count.level());
    let mut moved = Words::new();
    chain::for_each_slot(&table.arena, table.arena.heap_end, old, |_, word| {
        if goes(table, &table.arena, word, level) {
            moved.push(word);
        }
    });
    let take = |_| writer.cache.take(&table.store, LINE_CLASS, LINE).expect("room").offset;
    let lines: Vec<u64> = (0..moved.lines()).map(take).collect();

    let torn = memory.image();
    let arena = arena_of(&torn);
    let survives = |what: &str| assert_survives(&torn, items, &format!("{items} in all, bucket {count:?}: {what}"));
    torn.word(old).fetch_add(1, Relaxed);
    // Whatever an earlier death left in the line to come.
    (0..8).for_each(|at| torn.word(new + 8 * at).store(0xdead_beef << 8 | at | 1, Relaxed));
    survives("nonsense in the new bucket");
    torn.word(new).store(1, Relaxed);
    split::fill(&arena, new, &moved, &lines);
    survives("filled, not counted");
    let end = count.split() + 1 == 1 << level;
    let next = if end { BucketCount::new(level + 1, 0) } else { BucketCount::new(level, count.split() + 1) };
    torn.word(offset_of!(Header, bucket_count) as u64).store(next.0, Relaxed);
    survives("counted");

    let twin = torn.image();
    close_up_by_hand(&arena, old, |word| goes(table, &arena, word, level), survives);
    let real = arena_of(&twin);
    let spare = split::close_up(&real, old, |word| goes(table, &real, word, level));
    let contents = |arena: &Arena| {
        let (slots, links) = slots_of(arena, old);
        slots.iter().chain(&links).map(|&slot| arena.section.word(slot).load(Relaxed)).collect::<Vec<_>>()
    };
    assert_eq!(contents(&arena), contents(&real), "by hand and by the table");
    let before = slots_of(&table.arena, old).1.len();
    assert_eq!(before, slots_of(&real, old).1.len() + spare.lines().len(), "every line stays or is spare");
    lines.iter().for_each(|&line| writer.release(line, false));
}

/// A worker at a split, or one that owes many, may lose its processor for long: whoever runs into a full chain does what is due.
#[test]
fn a_chain_that_is_full_because_splits_are_due_is_parted_by_who_needs_room() {
    for way in 0..4 {
        let memory = Memory::new(2 << 20, 1, 100);
        let table = held_back(&memory, 103);
        let mut writer = table.writer(0);
        memory.refuse.store(true, Relaxed);
        let backed = table.arena.section.word(committed_word(Part::Buckets));
        let there = backed.swap(LINE, Relaxed);
        assert_eq!(put(&mut writer, 200, Expiry::Never), Outcome::ChainFull, "without memory nobody is waited for");
        memory.refuse.store(false, Relaxed);
        backed.store(there, Relaxed);
        table.growth.end();
        let (key, hash) = (key(103), table.hash(&key(103)));
        let outcome = match way {
            0 => put(&mut writer, 103, Expiry::Never),
            1 => writer.incr(&key, hash, 1, Expiry::Never, &TICKET, |outcome| *outcome),
            2 => writer.append(&key, hash, VALUE, &TICKET, |outcome| *outcome),
            _ => {
                let change = Change::Insert { value: VALUE, expiry: Expiry::Never };
                let steps = [Step { key: &key, compare: None, change }];
                writer.transact(&steps, &TICKET, |_| Some(0), |outcome| *outcome).expect("one step")
            }
        };
        let done = [EffectKind::Inserted, EffectKind::Number, EffectKind::Length, EffectKind::Committed][way];
        assert_eq!(
            std::mem::discriminant(&outcome),
            std::mem::discriminant(&Outcome::of(&Effect { kind: done, version: 0, value: 0 }))
        );
        assert!(table.buckets() >= 18 && table.stats().chain_full_total == 1, "{} buckets", table.buckets());
        drop(writer);
        table.check_invariants().expect("invariants");
    }
}

#[test]
fn a_table_does_not_grow_beyond_its_range() {
    let memory = Memory::new(2 << 20, 1, 100);
    let mut table = memory.format();
    table.arena.max_buckets = 33;
    let mut writer = table.writer(0);
    for n in 0..1000 {
        assert!(matches!(put(&mut writer, n, Expiry::Never), Outcome::Inserted { .. }), "{n}");
    }
    assert_eq!(table.buckets(), 33);
    assert_eq!(writer.work_ahead(8), crate::Ahead::Nothing, "there is nothing that an idle worker could do");
    assert!((0..1000).all(|n| writer.get(&key(n), table.hash(&key(n))).is_some()));
    drop(writer);
    table.check_invariants().expect("invariants");
}

/// A split that finds no memory for the lines it needs leaves everything as it was, and holds nothing.
#[test]
fn a_split_without_memory_for_its_lines_does_nothing() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = held_back(&memory, 0);
    let mut writer = table.writer(0);
    // All of them are to go to the new bucket.
    let crowd: Vec<u64> = (0..).filter(|&n| table.hash(&key(n)) & 1 == 1).take(60).collect();
    crowd.iter().for_each(|&n| assert!(matches!(put(&mut writer, n, Expiry::Never), Outcome::Inserted { .. })));
    let mut taken = Vec::new();
    while let Some(block) = writer.cache.take(&table.store, LINE_CLASS, LINE) {
        taken.push(block.offset);
    }
    let before = table.arena.section.word(table.arena.bucket(0)).load(Relaxed);
    // One line short.
    (0..8).for_each(|_| writer.release(taken.pop().expect("many"), false));
    assert!(!writer.split());
    assert_eq!((table.buckets(), table.arena.section.word(table.arena.bucket(0)).load(Relaxed)), (1, before));
    table.check_invariants().expect("invariants");
    taken.iter().for_each(|&line| writer.release(line, false));
    assert!(writer.split() && table.buckets() == 2);
    assert!(crowd.iter().all(|&n| writer.get(&key(n), table.hash(&key(n))).is_some()));
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn an_expiry_set_but_not_answered_is_reported_and_one_announced_only_is_not_applied() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = held_back(&memory, 9);
    let mut writer = table.writer(2);
    writer.set_now(1);
    let hash = table.hash(&key(4));
    let item = writer.get(&key(4), hash).expect("present");
    for (expiry, seen) in [(Expiry::At(500), 500), (Expiry::At(300), 300), (Expiry::Never, 0), (Expiry::At(400), 400)] {
        let image = writer.expire(&key(4), hash, expiry, &TICKET, |_| memory.image());
        let (heir, recovery) = image.join().expect("join");
        assert_eq!((recovery.intents.len(), recovery.dropped_slots, recovery.items), (1, 0, 9));
        assert_eq!((recovery.intents[0].applied, recovery.intents[0].ticket), (true, TICKET));
        assert_eq!(Outcome::of(&recovery.intents[0].effect), Outcome::Expires { version: item.version });
        heir.check_invariants().expect("the deadline is the item's");
        let mut writer = heir.writer(0);
        writer.set_now(1);
        assert_eq!(writer.get(&key(4), hash).map(|item| item.expiry), Some(seen));
    }
    // Announced, and no more: the deadline is lowered, the item is what it was.
    let header = ItemHeader::decode(memory.word(item.offset).load(Relaxed), memory.word(item.offset + 8).load(Relaxed));
    let store = SlotStore { slot: item.offset + 8, old: header.word1(), new: ItemHeader { expiry: 7, ..header }.word1() };
    let effect = Effect { kind: EffectKind::Expires, version: item.version, value: 0 };
    group_word(&table.arena, 0).store(deadline_word(7), Relaxed);
    intent::write(&table.arena, writer.record, &TICKET, &effect, store);
    let (heir, recovery) = memory.image().join().expect("join");
    assert!(recovery.intents.len() == 1 && !recovery.intents[0].applied);
    assert_eq!(heir.arena.section.word(item.offset + 8).load(Relaxed), header.word1());
    assert_eq!(group_word(&heir.arena, 0).load(Relaxed), deadline_word(400), "worked out anew");
}

#[test]
fn a_clear_not_answered_is_reported_with_its_count_and_one_announced_only_is_not_applied() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = held_back(&memory, 40);
    let mut writer = table.writer(2);
    let floor = table.arena.version_floor();
    let slot = offset_of!(Header, version_floor) as u64;
    let effect = Effect { kind: EffectKind::Cleared, version: 1 << 30, value: 40 };
    intent::write(&table.arena, writer.record, &TICKET, &effect, SlotStore { slot, old: floor, new: 1 << 30 });
    let (_, recovery) = memory.image().join().expect("join");
    assert!(recovery.intents.len() == 1 && !recovery.intents[0].applied && recovery.items == 40);
    intent::clear(&table.arena, writer.record);
    let image = writer.clear(&TICKET, |_| memory.image());
    for _ in 0..2 {
        let (heir, recovery) = image.join().expect("join");
        assert_eq!((recovery.items, recovery.dropped_slots, recovery.intents.len()), (0, 0, 1));
        assert!(recovery.intents[0].applied && recovery.intents[0].ticket == TICKET);
        assert_eq!(Outcome::of(&recovery.intents[0].effect), Outcome::Cleared { count: 40 });
        assert_eq!(heir.stats().items, 0);
        heir.check_invariants().expect("invariants");
    }
}

/// An insert that was judged before a clear and stored after it carries a version below the floor: it is gone, with or without a death.
#[test]
fn an_item_linked_below_the_floor_is_cleared() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = held_back(&memory, 10);
    let mut late = table.writer(1);
    let hash = table.hash(&key(99));
    let image = late.insert(&key(99), VALUE, hash, Condition::None, Expiry::Never, &TICKET, |_| {
        table.writer(2).clear(&TICKET, |outcome| assert_eq!(*outcome, Outcome::Cleared { count: 10 }));
        memory.image()
    });
    let (_, recovery) = image.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (0, 0));
    assert!(late.get(&key(99), hash).is_none());
    let mut sweeping = table.writer(3);
    while sweeping.work_ahead(8) == crate::Ahead::More {}
    assert_eq!(table.stats().items, 0, "the count is exact after the sweep");
    drop((late, sweeping));
    table.check_invariants().expect("invariants");
}
