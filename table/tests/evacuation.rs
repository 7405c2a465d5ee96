//! Making room by moving items: nothing is lost, torn or refused that fits, whoever reads and writes meanwhile.

mod memory;

use memory::Memory;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use table::{Condition, Expiry, Outcome, Reader, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn key(n: u64) -> Vec<u8> {
    format!("key {n:08}").into_bytes()
}

/// Length, key number and nonce, then bytes that follow from them; short ones are the beginning of it.
fn value(n: u64, nonce: u64, len: usize) -> Vec<u8> {
    let mut value: Vec<u8> = [len as u64, n, nonce].into_iter().flat_map(u64::to_le_bytes).collect();
    let mut random = Random((n << 32) ^ nonce | 1);
    while value.len() < len {
        value.extend_from_slice(&random.next().to_le_bytes());
    }
    value.truncate(len);
    value
}

fn assert_whole(n: u64, bytes: &[u8]) {
    assert!(bytes.len() >= 24, "value of {} bytes", bytes.len());
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!((word(0), word(8)), (bytes.len() as u64, n), "foreign or torn value");
    assert_eq!(bytes, value(n, word(16), bytes.len()), "torn value");
}

fn insert(writer: &mut Writer<'_>, n: u64, bytes: &[u8]) -> Outcome {
    let key = key(n);
    let hash = writer.hash(&key);
    writer.insert(&key, bytes, hash, Condition::None, Expiry::Never, &NONE, |outcome| *outcome)
}

fn delete(writer: &mut Writer<'_>, n: u64) -> Outcome {
    let key = key(n);
    let hash = writer.hash(&key);
    writer.delete(&key, hash, Condition::None, &NONE, |outcome| *outcome)
}

fn read(writer: &Writer<'_>, n: u64) -> Option<(u64, Vec<u8>)> {
    let (key, mut out) = (key(n), Vec::new());
    let item = writer.get(&key, writer.hash(&key))?;
    writer.value_into(&item, &mut out).ok()?;
    Some((item.version, out))
}

fn fill(writer: &mut Writer<'_>, from: u64, len: usize) -> u64 {
    let full = (from..).find(|&n| match insert(writer, n, &value(n, 0, len)) {
        Outcome::Inserted { .. } => false,
        Outcome::Full => true,
        other => panic!("{other:?}"),
    });
    full.expect("the limit ends it")
}

#[test]
fn a_moved_item_keeps_key_value_and_version() {
    let memory = Memory::new(8 << 20, 1 << 10, 1 << 16);
    let table = memory.format();
    let mut writer = table.writer(0);
    for n in 0..6000 {
        assert!(matches!(insert(&mut writer, n, &value(n, n, 200)), Outcome::Inserted { .. }));
    }
    (0..6000).filter(|n| n % 4 != 0).for_each(|n| assert!(matches!(delete(&mut writer, n), Outcome::Deleted { .. })));
    let before: Vec<_> = (0..6000).step_by(4).map(|n| read(&writer, n).expect("there")).collect();
    while writer.evacuate_step(16) {}
    assert!(table.moved_blocks() > 500, "{} blocks were moved", table.moved_blocks());
    let after: Vec<_> = (0..6000).step_by(4).map(|n| read(&writer, n).expect("still there")).collect();
    assert_eq!(before, after);
    table.check_invariants().expect("invariants");
    drop(writer);
    table.check_invariants().expect("invariants without writers");
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (1500, 0));
    table.check_invariants().expect("invariants after join");
}

#[test]
fn small_items_fit_where_one_large_item_was_deleted_in_a_full_table() {
    for len in [20_000, 50_000, 100_000, 120_000, 300_000] {
        let memory = Memory::new(16 << 20, 1 << 12, 1 << 20);
        let table = memory.format();
        let mut writer = table.writer(0);
        let items = fill(&mut writer, 0, len);
        let small = fill(&mut writer, items, 24);
        assert!(matches!(delete(&mut writer, items / 2), Outcome::Deleted { .. }));
        let more = fill(&mut writer, small, 24);
        // A small item takes 56 bytes; of what was freed less than a unit at either end may stay out of reach.
        let units = (len as u64 / (16 << 10)).saturating_sub(1).max(1);
        assert!(more - small >= units * 250, "{len}: {} small items", more - small);
        assert!(
            (0..items).filter(|&n| n != items / 2).all(|n| read(&writer, n).is_some_and(|(_, bytes)| bytes == value(n, 0, len)))
        );
        drop(writer);
        table.check_invariants().expect("invariants");
    }
}

#[test]
fn large_items_find_room_in_a_row_among_scattered_small_ones() {
    let memory = Memory::new(32 << 20, 1 << 12, 1 << 20);
    let table = memory.format();
    let mut writer = table.writer(0);
    let items = fill(&mut writer, 0, 3000);
    let mut random = Random(5);
    let kept: Vec<u64> = (0..items).filter(|_| random.next().is_multiple_of(2)).collect();
    (0..items)
        .filter(|n| kept.binary_search(n).is_err())
        .for_each(|n| assert!(matches!(delete(&mut writer, n), Outcome::Deleted { .. })));
    let large = fill(&mut writer, items, 1 << 20);
    assert!(large - items >= 11, "{} items of 1 MiB fit into half of 32 MiB", large - items);
    for n in kept {
        assert_eq!(read(&writer, n).expect("there").1, value(n, 0, 3000));
    }
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn what_another_worker_caches_comes_back_when_memory_is_short() {
    let memory = Memory::new(8 << 20, 1 << 10, 1 << 16);
    let table = memory.format();
    let (mut one, mut other) = (table.writer(0), table.writer(1));
    for round in 0..60 {
        for n in 0..16 {
            assert!(matches!(insert(&mut other, n, &value(n, 0, 100 * (round + 1))), Outcome::Inserted { .. }));
        }
        (0..16).for_each(|n| assert!(matches!(delete(&mut other, n), Outcome::Deleted { .. })));
    }
    let items = fill(&mut one, 100, 3000);
    other.memory_ahead(1);
    let more = fill(&mut one, items, 3000);
    assert!(more - items >= 50, "{} more", more - items);
    drop((one, other));
    table.check_invariants().expect("invariants");
}

#[test]
fn the_committing_thread_is_woken_once_little_is_left() {
    let memory = Memory::new(64 << 20, 1 << 10, 1 << 16);
    let table = memory.format();
    let done = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| {
            table.set_committer(std::thread::current());
            while !done.load(Relaxed) {
                while table.commit_ahead() {
                    rounds.fetch_add(1, Relaxed);
                }
                std::thread::park();
            }
        });
        let mut writer = table.writer(0);
        // Nobody wakes the thread but the table: without it the writer would wait here for ever.
        let mut n = 0;
        while rounds.load(Relaxed) < 8 {
            if n < 10_000 {
                assert!(matches!(insert(&mut writer, n, &value(n, 0, 3000)), Outcome::Inserted { .. }));
                n += 1;
            } else {
                std::thread::yield_now();
            }
        }
        done.store(true, Relaxed);
        committing.thread().unpark();
    });
    table.check_invariants().expect("invariants");
}

fn churn(writer: &mut Writer<'_>, random: &mut Random, keys: std::ops::Range<u64>, steps: u64) -> u64 {
    let mut full = 0;
    for step in 0..steps {
        let n = keys.start + random.next() % (keys.end - keys.start);
        match random.next() % 8 {
            0..=3 => {
                let len = 24u64 << (random.next() % 12);
                match insert(writer, n, &value(n, step, (len + random.next() % len) as usize)) {
                    Outcome::Inserted { .. } | Outcome::Replaced { .. } => {}
                    Outcome::Full => full += 1,
                    other => panic!("{other:?}"),
                }
            }
            4..=6 => {
                let outcome = delete(writer, n);
                assert!(matches!(outcome, Outcome::Deleted { .. } | Outcome::NotFound), "{outcome:?}");
            }
            _ => {
                if let Some((_, bytes)) = read(writer, n) {
                    assert_whole(n, &bytes);
                }
            }
        }
    }
    full
}

#[test]
fn readers_and_writers_never_notice_a_move() {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121);
    println!("SEED={seed}");
    let memory = Memory::new(8 << 20, 16, 1 << 18);
    let table = memory.format();
    let done = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: the memory outlives the scope.
            let reader = unsafe { Reader::join(memory.base(), memory.len()) }.expect("join");
            let (mut random, mut out) = (Random(seed ^ 77), Vec::new());
            while !done.load(Relaxed) {
                let n = random.next() % 600;
                let key = key(n);
                if let Ok(Some(_)) = reader.get_into(&key, reader.hash(&key), &mut out) {
                    assert_whole(n, &out);
                    reads.fetch_add(1, Relaxed);
                }
            }
        });
        scope.spawn(|| {
            let mut mover = table.writer(7);
            while !done.load(Relaxed) {
                if !mover.evacuate_step(8) {
                    std::thread::yield_now();
                }
            }
        });
        let writers: Vec<_> = (0..2)
            .map(|worker| {
                let table = &table;
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_mul(worker + 3) | 1);
                    churn(&mut table.writer(worker as u32), &mut random, 0..600, 40_000);
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
        done.store(true, Relaxed);
    });
    assert!(reads.load(Relaxed) > 0 && table.moved_blocks() > 0);
    table.check_invariants().expect("invariants");
    let items = table.stats().items;
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots, recovery.repaired_buckets), (items, 0, 0));
    table.check_invariants().expect("invariants after join");
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, usize),
    Delete(u64),
    Evacuate(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u64..200, prop_oneof![Just(30usize), 24..300usize, 1000..20_000usize, 30_000..200_000usize])
            .prop_map(|(n, len)| Step::Insert(n, len)),
        3 => (0u64..200).prop_map(Step::Delete),
        2 => (1usize..40).prop_map(Step::Evacuate),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_table_that_makes_room_is_still_the_map_it_models(steps in steps()) {
        let memory = Memory::new(3 << 20, 8, 1 << 18);
        let table = memory.format();
        let mut writer = table.writer(0);
        let mut model: HashMap<u64, Vec<u8>> = HashMap::new();
        for (nonce, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(n, len) => {
                    let bytes = value(n, nonce as u64, len);
                    match insert(&mut writer, n, &bytes) {
                        Outcome::Inserted { .. } => prop_assert!(model.insert(n, bytes).is_none()),
                        Outcome::Replaced { .. } => prop_assert!(model.insert(n, bytes).is_some()),
                        outcome => prop_assert_eq!(outcome, Outcome::Full),
                    }
                }
                Step::Delete(n) => {
                    let deleted = matches!(delete(&mut writer, n), Outcome::Deleted { .. });
                    prop_assert_eq!(deleted, model.remove(&n).is_some());
                }
                Step::Evacuate(most) => {
                    writer.evacuate_step(most);
                    table.check_invariants().map_err(TestCaseError::fail)?;
                }
            }
        }
        for n in 0..200 {
            prop_assert_eq!(read(&writer, n).map(|(_, bytes)| bytes), model.get(&n).cloned());
        }
        drop(writer);
        table.check_invariants().map_err(TestCaseError::fail)?;
        drop(table);
        let (table, recovery) = memory.join().expect("join");
        prop_assert_eq!((recovery.items, recovery.dropped_slots), (model.len() as u64, 0));
        table.check_invariants().map_err(TestCaseError::fail)?;
    }
}
