//! A table at its limit: what still works, and that everything comes back.

mod memory;

use memory::Memory;
use std::sync::atomic::Ordering::SeqCst;
use table::{Condition, Expiry, Outcome, Refused, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };

fn key(n: usize) -> Vec<u8> {
    format!("key {n:08}").into_bytes()
}

fn insert(writer: &mut Writer<'_>, n: usize, len: usize) -> Outcome {
    let key = key(n);
    let hash = writer.hash(&key);
    writer.insert(&key, &vec![n as u8; len], hash, Condition::None, Expiry::Never, &NONE, |outcome| *outcome)
}

fn delete(writer: &mut Writer<'_>, n: usize) -> Outcome {
    let key = key(n);
    let hash = writer.hash(&key);
    writer.delete(&key, hash, Condition::None, &NONE, |outcome| *outcome)
}

fn holds(writer: &Writer<'_>, n: usize, len: usize) -> bool {
    let mut out = Vec::new();
    let key = key(n);
    writer.get(&key, writer.hash(&key)).is_some_and(|item| writer.value_into(&item, &mut out).is_ok())
        && out.len() == len
        && out.iter().all(|&byte| byte == n as u8)
}

fn fill(writer: &mut Writer<'_>, len: usize) -> usize {
    let inserted = |outcome: Outcome| matches!(outcome, Outcome::Inserted { .. } | Outcome::Full);
    (0..)
        .find(|&n| {
            let outcome = insert(writer, n, len);
            assert!(inserted(outcome), "{outcome:?}");
            outcome == Outcome::Full
        })
        .expect("the limit ends it")
}

#[test]
fn at_the_limit_reads_deletes_and_fitting_overwrites_go_on() {
    for len in [8, 100, 1000, 5000, 30_000, 100_000, 300_000] {
        let memory = Memory::new(16 << 20, 1 << 15, 1 << 20);
        let table = memory.format();
        let mut writer = table.writer(0);
        let items = fill(&mut writer, len);
        assert!(items * (len + 28) * 100 >= (14 << 20) * 60, "{items} items of {len} bytes fill a fair part");
        assert!(table.stats().memory_used_bytes <= 16 << 20 && table.stats().full_total > 0);
        // Larger fits a few times at most, where room can be made; the same length and shorter do, again and again.
        let larger = (0..items).find(|&n| insert(&mut writer, n, len * 3 + 4000) == Outcome::Full).expect("full again");
        assert!(larger * (len * 2 + 4000) <= 1 << 20, "{larger} larger than {len}");
        for round in 0..3 {
            for n in 0..items {
                let shorter = if round == 2 { len - len / 16 } else { len };
                assert!(matches!(insert(&mut writer, n, shorter), Outcome::Replaced { .. }), "{len}: overwrite {n}");
                assert!(holds(&writer, n, shorter), "{len}: {n}");
            }
        }
        assert!((0..items).all(|n| matches!(delete(&mut writer, n), Outcome::Deleted { .. })));
        assert_eq!(table.stats().items, 0);
        drop(writer);
        table.check_invariants().expect("invariants");
    }
}

#[test]
fn small_values_shrink_and_count_while_full() {
    let memory = Memory::new(4 << 20, 1 << 12, 1 << 16);
    let table = memory.format();
    let mut writer = table.writer(0);
    let (name, hash) = (b"counter", writer.hash(b"counter"));
    writer.incr(name, hash, 1_000_000, Expiry::Never, &NONE, |_| ());
    let items = fill(&mut writer, 2000);
    let small = (0..).find(|&n| insert(&mut writer, items + n, 3) == Outcome::Full).expect("full again");
    for step in 1..500 {
        let outcome = writer.incr(name, hash, 1, Expiry::Never, &NONE, |outcome| *outcome);
        assert!(matches!(outcome, Outcome::Number { value, .. } if value == 1_000_000 + step), "{outcome:?}");
    }
    // From a large class down to one that has no memory of its own.
    for n in 0..items {
        assert!(matches!(insert(&mut writer, n, 600), Outcome::Replaced { .. }), "shrink {n}");
    }
    assert!((0..items).all(|n| holds(&writer, n, 600)) && (items..items + small).all(|n| holds(&writer, n, 3)));
    drop(writer);
    table.check_invariants().expect("invariants");
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), ((items + small + 1) as u64, 0));
    table.check_invariants().expect("invariants after join");
}

#[test]
fn freed_memory_serves_other_sizes() {
    let memory = Memory::new(16 << 20, 1 << 15, 1 << 20);
    let table = memory.format();
    let mut writer = table.writer(0);
    for len in [8, 1 << 20, 200, 5000, 70_000, 8, 300_000, 40] {
        let items = fill(&mut writer, len);
        let bytes = items * (len + 28);
        assert!(bytes >= 8 << 20, "{items} items of {len} bytes are {bytes}");
        assert!((0..items).all(|n| holds(&writer, n, len) && matches!(delete(&mut writer, n), Outcome::Deleted { .. })));
    }
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn memory_that_cannot_be_had_is_full_not_death() {
    let memory = Memory::new(64 << 20, 64, 1 << 16);
    let table = memory.format();
    memory.refuse.store(true, SeqCst);
    let mut writer = table.writer(0);
    let items = fill(&mut writer, 5000);
    assert!(items > 0 && !table.commit_ahead());
    memory.refuse.store(false, SeqCst);
    assert!(matches!(insert(&mut writer, items, 5000), Outcome::Inserted { .. }));
    assert!((0..=items).all(|n| holds(&writer, n, 5000)));
}

#[test]
fn the_limit_may_rise_and_the_rest_of_the_range_is_used() {
    let geometry = table::Geometry::plan_reserved(2 << 20, 1 << 10, 1 << 16, 16 << 20).expect("a plan");
    let memory = Memory::of(geometry);
    let table = memory.format();
    let mut writer = table.writer(0);
    let before = fill(&mut writer, 1000);
    drop(writer);
    drop(table);
    let (table, _) = memory.join().expect("join");
    assert_eq!(table.stats().memory_limit_bytes, 2 << 20);
    assert_eq!(table.set_memory_limit(1 << 40), 16 << 20);
    let mut writer = table.writer(0);
    let after = (before..).find(|&n| insert(&mut writer, n, 1000) == Outcome::Full).expect("full again");
    assert!(after > 4 * before && table.stats().memory_used_bytes <= 16 << 20);
    assert!((0..after).all(|n| holds(&writer, n, 1000)));
}

#[test]
fn a_chain_ends_at_its_cap() {
    let memory = Memory::new(4 << 20, 1, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    // No split parts keys whose hashes agree in all bits that the largest table of this limit looks at.
    let flood: Vec<usize> = (0..).filter(|&n| table.hash(&key(n)) & 0xffff == 1).take(104).collect();
    let items = flood.iter().position(|&n| insert(&mut writer, n, 8) == Outcome::ChainFull).expect("the cap ends it");
    assert_eq!(items, 6 + 15 * 6 + 7);
    assert!(matches!(insert(&mut writer, flood[0], 8), Outcome::Replaced { .. }));
    assert!(matches!(delete(&mut writer, flood[5]), Outcome::Deleted { .. }));
    assert!(matches!(insert(&mut writer, flood[items], 8), Outcome::Inserted { .. }));
    let stats = table.stats();
    assert_eq!((stats.chain_full_total, stats.overflow_lines, stats.items), (1, 16, items as u64));
    assert_eq!(writer.delete_step(0, u32::MAX, b""), (items as u64, None));
    drop(writer);
    assert_eq!(table.stats().overflow_lines, 0);
    table.check_invariants().expect("invariants");
}

#[test]
fn reserving_more_than_there_is_says_full() {
    let memory = Memory::new(2 << 20, 64, 2 << 19);
    let table = memory.format();
    let mut writer = table.writer(0);
    let first = writer.reserve(b"a", 1 << 20, 0, Expiry::Never).expect("room for one");
    assert_eq!(writer.reserve(b"b", 1 << 20, 0, Expiry::Never).err(), Some(Refused::Full));
    writer.discard(first);
    let again = writer.reserve(b"b", 1 << 20, 0, Expiry::Never).expect("room again");
    writer.discard(again);
    drop(writer);
    table.check_invariants().expect("invariants");
}
