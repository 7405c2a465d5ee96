//! Eviction: a full table goes on, keeps what is read, and is never harmed by what clients say they read.

mod memory;

use memory::Memory;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use table::{Change, Condition, Expiry, Outcome, Step, Table, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };

fn key(n: usize) -> Vec<u8> {
    format!("key {n:08}").into_bytes()
}

fn evicting(memory: &Memory) -> Table {
    let table = memory.format();
    table.turn_eviction_on();
    table
}

fn insert_if(writer: &mut Writer<'_>, n: usize, len: usize, condition: Condition) -> Outcome {
    let key = key(n);
    let hash = writer.hash(&key);
    writer.insert(&key, &vec![n as u8; len], hash, condition, Expiry::Never, &NONE, |outcome| *outcome)
}

fn insert(writer: &mut Writer<'_>, n: usize, len: usize) -> Outcome {
    insert_if(writer, n, len, Condition::None)
}

/// Whether the key is there; if so, its value is the right one.
fn holds(writer: &Writer<'_>, n: usize) -> bool {
    let (key, mut out) = (key(n), Vec::new());
    let Some(item) = writer.get(&key, writer.hash(&key)) else { return false };
    writer.value_into(&item, &mut out).expect("nothing changes meanwhile");
    assert!(out.iter().all(|&byte| byte == n as u8), "key {n}");
    true
}

/// Whether the key is there, without leaving a mark.
fn is_there(table: &Table, n: usize) -> bool {
    let mut there = false;
    let wanted = key(n);
    let index = {
        let writer = table.writer(200);
        writer.bucket_of(writer.hash(&wanted))
    };
    let writer = table.writer(200);
    writer.scan(index, 1, &mut |item| {
        there |= item.key() == wanted;
        true
    });
    there
}

#[test]
fn ten_times_the_memory_is_written_without_a_full() {
    for sizes in [&[8][..], &[100], &[1000], &[5000], &[30_000], &[300_000], &[8, 40, 100, 250, 600]] {
        let memory = Memory::new(4 << 20, 1 << 12, 1 << 20);
        let table = evicting(&memory);
        let mut writer = table.writer(0);
        let (mut written, mut n) = (0, 0);
        while written < 40 << 20 {
            let len = sizes[n % sizes.len()];
            let outcome = insert(&mut writer, n, len);
            assert!(matches!(outcome, Outcome::Inserted { .. }), "{sizes:?}: {n}: {outcome:?}");
            assert!(holds(&writer, n), "{sizes:?}: what was just written is there: {n}");
            written += len + 28;
            n += 1;
        }
        let stats = table.stats();
        assert_eq!((stats.full_total, stats.chain_full_total), (0, 0), "{sizes:?}");
        assert!(stats.memory_used_bytes <= 4 << 20 && stats.evicted_total > 0, "{sizes:?}: {stats:?}");
        assert_eq!(stats.items + stats.evicted_total, n as u64, "{sizes:?}");
        let fill = stats.items as usize * (sizes.iter().sum::<usize>() / sizes.len() + 28);
        assert!(fill > (4 << 20) / 4, "{sizes:?}: {} items fill {fill} bytes", stats.items);
        drop(writer);
        table.check_invariants().expect("invariants");
        drop(table);
        let (table, recovery) = memory.join().expect("join");
        assert_eq!((recovery.items, recovery.dropped_slots), (stats.items, 0));
        table.check_invariants().expect("invariants after join");
    }
}

#[test]
fn without_being_asked_nothing_is_evicted() {
    let memory = Memory::new(4 << 20, 1 << 12, 1 << 16);
    let table = memory.format();
    let mut writer = table.writer(0);
    let items = (0..).find(|&n| insert(&mut writer, n, 1000) == Outcome::Full).expect("the limit ends it");
    assert_eq!((writer.evict_step(1 << 20), writer.evict_ahead(1 << 20)), (0, false));
    writer.hint(&[0, u64::MAX]);
    assert!(!table.evicts() && (0..items).all(|n| holds(&writer, n)));
    assert_eq!((table.stats().evicted_total, table.stats().items), (0, items as u64));
}

#[test]
fn what_is_read_survives_what_is_not() {
    const HOT: usize = 500;
    for direct in [false, true] {
        let memory = Memory::new(4 << 20, 1 << 12, 1 << 16);
        let table = evicting(&memory);
        let mut writer = table.writer(0);
        assert!((0..HOT).all(|n| matches!(insert(&mut writer, n, 100), Outcome::Inserted { .. })));
        // Four times the memory of keys that nobody ever reads, and every hot key once per thousand of them.
        for n in HOT..HOT + 100_000 {
            insert(&mut writer, n, 100);
            if n % 1000 == 0 {
                for hot in 0..HOT {
                    if direct {
                        writer.hint(&[table.hash(&key(hot))])
                    } else {
                        holds(&writer, hot);
                    }
                }
            }
        }
        let kept = (0..HOT).filter(|&n| is_there(&table, n)).count();
        assert_eq!(kept, HOT, "direct: {direct}");
        assert!((HOT..2 * HOT).all(|n| !is_there(&table, n)), "what nobody reads has gone");
    }
}

#[test]
fn the_item_that_is_being_replaced_is_never_evicted() {
    let memory = Memory::new(4 << 20, 1 << 8, 1 << 20);
    let table = evicting(&memory);
    let mut writer = table.writer(0);
    let items = (0..).find(|&n| insert(&mut writer, n, 1000) != Outcome::Full && table.stats().evicted_total > 0);
    let last = items.expect("memory ends");
    // From here on each needs memory that is not there, and its key's own item has no mark.
    for round in 1..60 {
        let outcome = insert_if(&mut writer, last, 1000 + 15_000 * round, Condition::IfPresent);
        assert!(matches!(outcome, Outcome::Replaced { .. }), "{round}: {outcome:?}");
    }
    assert!(holds(&writer, last));
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn a_chain_at_its_cap_makes_room_in_itself() {
    let memory = Memory::new(4 << 20, 1, 100);
    let table = evicting(&memory);
    let mut writer = table.writer(0);
    for n in 0..2000 {
        let outcome = insert(&mut writer, n, 8);
        assert!(matches!(outcome, Outcome::Inserted { .. }), "{n}: {outcome:?}");
        assert!(holds(&writer, n));
    }
    assert_eq!(table.stats().chain_full_total, 0);
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn free_memory_is_made_ahead_of_need() {
    let memory = Memory::new(4 << 20, 1 << 12, 1 << 16);
    let table = evicting(&memory);
    let mut writer = table.writer(0);
    assert!(!writer.evict_ahead(64), "an empty table has room");
    let full =
        (0..).find(|&n| !matches!(insert(&mut writer, n, 200), Outcome::Inserted { .. }) || table.stats().evicted_total > 0);
    let items = full.expect("memory ends");
    let before = table.stats().evicted_total;
    while writer.evict_ahead(4) {}
    let evicted = table.stats().evicted_total - before;
    assert!(evicted > 0 && evicted < items as u64 / 4, "{evicted} of {items}");
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn hints_of_any_content_harm_nothing() {
    let memory = Memory::new(2 << 20, 1 << 6, 1 << 12);
    let table = evicting(&memory);
    let mut writer = table.writer(0);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    for n in 0..20_000 {
        assert!(matches!(insert(&mut writer, n, n % 700), Outcome::Inserted { .. }));
        let hashes: Vec<u64> = (0..n % 40)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if random.is_multiple_of(3) { random % 64 } else { random }
            })
            .collect();
        writer.hint(&hashes);
    }
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn workers_evict_at_once_while_readers_look() {
    let memory = Memory::new(8 << 20, 1 << 10, 1 << 16);
    let table = evicting(&memory);
    // SAFETY: the memory outlives the reader, which is 64-aligned like the table's.
    let reader = unsafe { table::Reader::join(memory.base(), memory.len()) }.expect("join");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (table, stop) = (&table, &stop);
        for _ in 0..2 {
            let reader = reader.clone();
            scope.spawn(move || {
                let (mut out, mut n) = (Vec::new(), 0);
                while !stop.load(SeqCst) {
                    n = (n + 7919) % 60_000;
                    if let Ok(Some(_)) = reader.get_into(&key(n), table.hash(&key(n)), &mut out) {
                        assert!(out.iter().all(|&byte| byte == n as u8), "key {n}");
                    }
                }
            });
        }
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                scope.spawn(move || {
                    let mut writer = table.writer(worker);
                    for round in 0..60_000usize {
                        let n = (round * 3 + worker as usize) % 60_000;
                        let len = [20, 90, 333, 1200][n % 4];
                        let outcome = insert(&mut writer, n, len);
                        assert!(matches!(outcome, Outcome::Inserted { .. } | Outcome::Replaced { .. }), "{n}: {outcome:?}");
                        writer.hint(&[table.hash(&key(n / 2))]);
                        if round % 5 == 0 {
                            let name = key(n / 3);
                            writer.delete(&name, table.hash(&name), Condition::None, &NONE, |_| ());
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
        stop.store(true, SeqCst);
    });
    let stats = table.stats();
    assert!(stats.evicted_total > 0 && stats.full_total == 0, "{stats:?}");
    table.check_invariants().expect("invariants");
}

#[test]
fn numbers_and_texts_grow_while_memory_is_full() {
    let memory = Memory::new(4 << 20, 1 << 8, 1 << 20);
    let table = evicting(&memory);
    let mut writer = table.writer(0);
    let mut text = Vec::new();
    let (mut n, mut sum) = (0, 0);
    let (log, count) = (b"log", b"count");
    let (log_hash, count_hash) = (writer.hash(log), writer.hash(count));
    for round in 0..3000usize {
        for _ in 0..20 {
            assert!(matches!(insert(&mut writer, n, 500), Outcome::Inserted { .. }));
            n += 1;
        }
        let outcome = writer.incr(count, count_hash, 7, Expiry::Never, &NONE, |outcome| *outcome);
        sum += 7;
        assert!(matches!(outcome, Outcome::Number { value, .. } if value == sum), "{round}: {outcome:?}");
        let piece = vec![round as u8; round % 90];
        let outcome = writer.append(log, log_hash, &piece, &NONE, |outcome| *outcome);
        text.extend(piece);
        assert!(matches!(outcome, Outcome::Length { len, .. } if len as usize == text.len()), "{round}: {outcome:?}");
        // Each update is a use as well, but nothing says which item the hand meets first.
        assert!(writer.get(log, log_hash).is_some() && writer.get(count, count_hash).is_some());
    }
    let mut out = Vec::new();
    let item = writer.get(log, log_hash).expect("what is read stays");
    writer.value_into(&item, &mut out).expect("nothing changes meanwhile");
    assert!(out == text && table.stats().full_total == 0 && table.stats().evicted_total > 10_000);
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn transactions_find_room_as_well() {
    let memory = Memory::new(4 << 20, 1 << 4, 1 << 16);
    let table = evicting(&memory);
    let mut writer = table.writer(0);
    for n in 0..30_000 {
        let keys = [key(2 * n), key(2 * n + 1)];
        let value = vec![n as u8; 100 + n % 300];
        let change = Change::Insert { value: &value, expiry: Expiry::Never };
        let steps = [0, 1].map(|at| Step { key: &keys[at], compare: Some(0), change });
        let outcome = writer.transact(&steps, &NONE, |_| Some(0), |outcome| *outcome).expect("begun");
        assert!(matches!(outcome, Outcome::Committed { .. }), "{n}: {outcome:?}");
    }
    assert!(table.stats().evicted_total > 30_000 && table.stats().full_total == 0);
    drop(writer);
    table.check_invariants().expect("invariants");
}
