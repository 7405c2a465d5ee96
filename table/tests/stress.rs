//! Writers and readers on the same keys at once; every value carries its own proof.

mod memory;

use memory::Memory;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use table::{Condition, Expiry, Outcome, Reader, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };
const KEYS: u64 = 96;

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
    let mut key = format!("{n:03}").into_bytes();
    key.resize(3 + (n as usize * 7) % 60, b'k');
    key
}

/// Length, key number, nonce, then bytes that follow from them.
fn value(n: u64, nonce: u64, len: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(len);
    for word in [len as u64, n, nonce] {
        value.extend_from_slice(&word.to_le_bytes());
    }
    let mut random = Random(n << 32 ^ nonce | 1);
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

fn write(writer: &mut Writer<'_>, random: &mut Random, steps: u64) {
    for step in 0..steps {
        let n = random.next() % KEYS;
        let key = key(n);
        let hash = writer.hash(&key);
        match random.next() % 8 {
            0..=4 => {
                let len = match random.next() % 16 {
                    0 => 20_000 + random.next() % 50_000,
                    1..=3 => 24 + random.next() % 4000,
                    _ => 24 + random.next() % 100,
                };
                let value = value(n, step, len as usize);
                let outcome = writer.insert(&key, &value, hash, Condition::None, Expiry::Never, &NONE, |outcome| *outcome);
                assert!(matches!(outcome, Outcome::Inserted { .. } | Outcome::Replaced { .. }), "{outcome:?}");
            }
            5 | 6 => writer.delete(&key, hash, Condition::None, &NONE, |_| ()),
            _ => {
                let mut out = Vec::new();
                if let Some(item) = writer.get(&key, hash)
                    && writer.value_into(&item, &mut out).is_ok()
                {
                    assert_whole(n, &out);
                }
            }
        }
    }
}

#[test]
fn nobody_ever_reads_a_torn_or_foreign_value() {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121);
    println!("SEED={seed}");
    // Two buckets, so that chains and locks are fought for.
    let memory = Memory::new(96 << 20, 2, 1 << 17);
    let table = memory.format();
    let done = AtomicBool::new(false);
    let (reads, misses) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // SAFETY: the memory outlives the scope.
                let reader = unsafe { Reader::join(memory.base(), memory.len()) }.expect("join");
                let (mut random, mut out) = (Random(seed ^ 77), Vec::new());
                while !done.load(Relaxed) {
                    let n = random.next() % KEYS;
                    let key = key(n);
                    match reader.get_into(&key, reader.hash(&key), &mut out) {
                        Ok(Some(item)) => {
                            assert_eq!(item.value_len(), out.len());
                            assert_whole(n, &out);
                            reads.fetch_add(1, Relaxed);
                        }
                        _ => drop(misses.fetch_add(1, Relaxed)),
                    }
                }
            });
        }
        let writers: Vec<_> = (0..3)
            .map(|worker| {
                let table = &table;
                scope.spawn(move || {
                    write(&mut table.writer(worker), &mut Random(seed.wrapping_mul(u64::from(worker) + 3) | 1), 60_000);
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
        done.store(true, Relaxed);
    });
    assert!(reads.load(Relaxed) > 0, "the readers read something");
    table.check_invariants().expect("invariants");
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.dropped_slots, recovery.repaired_buckets), (0, 0));
    table.check_invariants().expect("invariants after join");
}

#[test]
fn increments_of_many_workers_all_count() {
    let memory = Memory::new(8 << 20, 1, 1000);
    let table = memory.format();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let table = &table;
            scope.spawn(move || {
                let mut writer = table.writer(worker);
                for n in 0..20_000u64 {
                    let key = [b"ab"[n as usize % 2]];
                    let hash = writer.hash(&key);
                    let outcome = writer.incr(&key, hash, 1, Expiry::Never, &NONE, |outcome| *outcome);
                    assert!(matches!(outcome, Outcome::Number { .. }));
                }
            });
        }
    });
    let writer = table.writer(0);
    for key in [b"a", b"b"] {
        let mut out = Vec::new();
        let item = writer.get(key, writer.hash(key)).expect("counted");
        writer.value_into(&item, &mut out).expect("quiet");
        assert_eq!(out, b"40000");
    }
}

#[test]
fn locked_buckets_exclude_each_other_whatever_the_order() {
    let memory = Memory::new(8 << 20, 16, 1000);
    let table = memory.format();
    let touched: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(0)).collect();
    let held: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (table, touched, held) = (&table, &touched, &held);
            scope.spawn(move || {
                let (mut writer, mut random) = (table.writer(worker), Random(u64::from(worker) + 5));
                for _ in 0..10_000 {
                    let hashes: Vec<u64> = (0..random.next() % 9).map(|_| random.next()).collect();
                    let mut buckets: Vec<usize> = hashes.iter().map(|&hash| writer.bucket_of(hash) as usize).collect();
                    buckets.sort_unstable();
                    buckets.dedup();
                    let locked = writer.lock_many(&hashes).expect("few enough");
                    assert_eq!((locked.len(), locked.is_empty()), (buckets.len(), buckets.is_empty()));
                    for &bucket in &buckets {
                        assert_eq!(held[bucket].swap(1, Relaxed), 0, "bucket {bucket} held twice");
                        touched[bucket].store(touched[bucket].load(Relaxed) + 1, Relaxed);
                        held[bucket].store(0, Relaxed);
                    }
                    drop(locked);
                }
                assert!(writer.lock_many(&[0; 65]).is_err());
            });
        }
    });
    assert!(touched.iter().all(|count| count.load(Relaxed) > 0));
    table.check_invariants().expect("every lock was released");
}

#[test]
fn a_scan_in_small_steps_meets_all_that_stays_while_others_come_and_go() {
    let memory = Memory::new(16 << 20, 4, 1000);
    let table = memory.format();
    let mut writer = table.writer(0);
    let put = |writer: &mut Writer<'_>, n: u64| {
        let name = n.to_le_bytes();
        let hash = writer.hash(&name);
        writer.insert(&name, &n.to_be_bytes(), hash, Condition::None, Expiry::Never, &NONE, |outcome| *outcome)
    };
    for n in 0..150 {
        assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. }));
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut churn = table.writer(1);
            while !done.load(Relaxed) {
                for n in 1000..1040 {
                    put(&mut churn, n);
                }
                for n in 0..150 {
                    put(&mut churn, n);
                }
                for n in 1000..1040u64 {
                    let name = n.to_le_bytes();
                    let hash = churn.hash(&name);
                    churn.delete(&name, hash, Condition::None, &NONE, |_| ());
                }
            }
        });
        for round in 0..60 {
            let mut seen = std::collections::HashSet::new();
            let (mut cursor, mut steps, mut out) = (Some(0), 0, Vec::new());
            while let Some(at) = cursor {
                let mut room = 1 + round % 5;
                cursor = writer.scan(at, 1, &mut |view| {
                    if room == 0 {
                        return false;
                    }
                    room -= 1;
                    let n = u64::from_le_bytes(view.key().try_into().expect("eight bytes"));
                    if view.value_into(&mut out).is_some() {
                        assert_eq!(out, n.to_be_bytes());
                    }
                    seen.insert(n);
                    true
                });
                steps += 1;
                assert!(steps < 10_000, "the scan comes to an end");
            }
            assert!((0..150).all(|n| seen.contains(&n)), "round {round}");
        }
        done.store(true, Relaxed);
    });
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn a_deleted_prefix_is_gone_and_nothing_else() {
    let memory = Memory::new(16 << 20, 8, 1000);
    let table = memory.format();
    let mut writer = table.writer(0);
    for n in 0..400u64 {
        let name = format!("{}:{n}", ["user", "use", "u"][n as usize % 3]);
        let hash = writer.hash(name.as_bytes());
        writer.insert(name.as_bytes(), b"v", hash, Condition::None, Expiry::Never, &NONE, |_| ());
    }
    let (mut cursor, mut total) = (Some(0), 0);
    while let Some(at) = cursor {
        let (deleted, next) = writer.delete_step(at, 3, b"use:");
        total += deleted;
        cursor = next;
    }
    assert_eq!((total, table.stats().items), (133, 267));
    let empty: Vec<_> = (0..400u64)
        .step_by(3)
        .filter(|n| writer.get(format!("user:{n}").as_bytes(), table.hash(format!("user:{n}").as_bytes())).is_none())
        .collect();
    assert_eq!(empty, Vec::<u64>::new());
    drop(writer);
    table.check_invariants().expect("invariants");
}
