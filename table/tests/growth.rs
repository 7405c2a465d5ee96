//! Growth from one bucket on: under writers, readers and scans at once, at its limits, and across a join at any step.

mod memory;

use memory::Memory;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use table::{Ahead, Condition, Expiry, Geometry, Outcome, Reader, Table, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };
/// Keys that stay and keys that come and go, per writer.
const STAYING: u64 = 40_000;
const WRITERS: u64 = 3;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn insert(writer: &mut Writer<'_>, key: &[u8], value: &[u8]) -> Outcome {
    let hash = writer.hash(key);
    writer.insert(key, value, hash, Condition::None, Expiry::Never, &NONE, |outcome| *outcome)
}

fn delete(writer: &mut Writer<'_>, key: &[u8]) -> Outcome {
    let hash = writer.hash(key);
    writer.delete(key, hash, Condition::None, &NONE, |outcome| *outcome)
}

/// Key and value of a number; the value follows from the key.
fn pair(n: u64) -> ([u8; 16], [u8; 8]) {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key[8..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    (key, (!n).to_be_bytes())
}

fn put(writer: &mut Writer<'_>, n: u64) -> Outcome {
    let (key, value) = pair(n);
    insert(writer, &key, &value)
}

fn holds(writer: &Writer<'_>, n: u64) -> bool {
    let ((key, value), mut out) = (pair(n), Vec::new());
    let Some(item) = writer.get(&key, writer.hash(&key)) else { return false };
    writer.value_into(&item, &mut out).expect("the key's item stays");
    assert_eq!(out, value, "value of {n}");
    true
}

/// How many keys of each writer are in the table for good.
type Written = [AtomicU64; WRITERS as usize];

fn name(writer: u64, n: u64) -> u64 {
    writer << 32 | n
}

fn write_all(table: &Table, which: u64, written: &Written) {
    let mut writer = table.writer(which as u32);
    for n in 0..STAYING {
        assert!(matches!(put(&mut writer, name(which, n)), Outcome::Inserted { .. }));
        written[which as usize].store(n + 1, Release);
        // One that goes again, so that splits meet holes and lines that empty.
        if n % 4 == 0 {
            assert!(matches!(put(&mut writer, name(9 + which, n)), Outcome::Inserted { .. }));
        }
        if n % 4 == 2 {
            assert!(matches!(delete(&mut writer, &pair(name(9 + which, n - 2)).0), Outcome::Deleted { .. }));
        }
        if n % 64 == 0 {
            writer.work_ahead(4);
        }
    }
}

/// Looks up keys that are there for good until `done`; how many.
fn read_all(memory: &Memory, table: &Table, written: &Written, done: &AtomicBool, seed: u64) -> u64 {
    // SAFETY: the memory outlives the reader.
    let reader = unsafe { Reader::join(memory.base(), memory.len()) }.expect("join");
    let writer = table.writer(10 + seed as u32);
    let (mut random, mut out, mut reads) = (Random(seed), Vec::new(), 0);
    while !done.load(Relaxed) {
        let which = random.next() % WRITERS;
        let there = written[which as usize].load(Acquire);
        if there == 0 {
            continue;
        }
        // Half of the look-ups go for what came last: its bucket is the likeliest to be split meanwhile.
        let n = if random.next() % 2 == 0 { random.next() % there } else { there - 1 };
        let (key, value) = pair(name(which, n));
        if reads % 2 == 0 {
            assert!(holds(&writer, name(which, n)), "a worker misses {n} of {there} of {which}");
        } else if let Ok(item) = reader.get_into(&key, reader.hash(&key), &mut out) {
            assert!(item.is_some(), "a reader misses {n} of {there} of {which}");
            assert_eq!(out, value);
        }
        reads += 1;
    }
    reads
}

/// Scans the table until `done`: each scan meets what was there when it began. How many scans.
fn scan_all(table: &Table, written: &Written, done: &AtomicBool) -> u64 {
    let writer = table.writer(20);
    let mut scans = 0;
    loop {
        let last = done.load(Acquire);
        let there: Vec<u64> = written.iter().map(|count| count.load(Acquire)).collect();
        let mut met: Vec<Vec<bool>> = there.iter().map(|&count| vec![false; count as usize]).collect();
        let mut cursor = Some(0);
        while let Some(at) = cursor {
            let mut room = 1 + scans % 200;
            cursor = writer.scan(at, 16, &mut |view| {
                if room == 0 {
                    return false;
                }
                room -= 1;
                let n = u64::from_le_bytes(view.key()[..8].try_into().expect("eight bytes"));
                if let Some(flag) = met.get_mut((n >> 32) as usize).and_then(|met| met.get_mut(n as u32 as usize)) {
                    *flag = true;
                }
                true
            });
        }
        for (which, met) in met.iter().enumerate() {
            let missed = met.iter().position(|met| !met);
            assert_eq!(missed, None, "scan {scans} misses a key of {which}, of {} there when it began", met.len());
        }
        scans += 1;
        if last {
            return scans;
        }
    }
}

/// Ends the other threads also when this one panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Release);
    }
}

/// What writers left undone is done by whoever is idle; then the load is what it should be.
fn catch_up(table: &Table) {
    let mut writer = table.writer(0);
    while writer.work_ahead(1) == Ahead::More {}
    let (items, buckets) = (table.stats().items, table.buckets());
    assert!((items * 4 / 22..items * 4 / 21).contains(&buckets), "{buckets} buckets for {items} items");
}

#[test]
fn from_one_bucket_on_nothing_is_missed_by_readers_writers_or_scans() {
    let memory = Memory::new(64 << 20, 1, 1000);
    let table = memory.format();
    let (written, done) = (Written::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let end = End(&done);
        let readers: Vec<_> = (1..3)
            .map(|seed| {
                scope.spawn({
                    let (memory, table, written, done) = (&memory, &table, &written, &done);
                    move || read_all(memory, table, written, done, seed)
                })
            })
            .collect();
        let scanner = scope.spawn(|| scan_all(&table, &written, &done));
        let writers: Vec<_> = (0..WRITERS)
            .map(|which| {
                scope.spawn({
                    let (table, written) = (&table, &written);
                    move || write_all(table, which, written)
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
        drop(end);
        for reader in readers {
            assert!(reader.join().expect("a reader") > 0);
        }
        assert!(scanner.join().expect("the scanner") > 0);
    });
    let items = table.stats().items;
    assert_eq!(items, WRITERS * STAYING);
    catch_up(&table);
    table.check_invariants().expect("invariants");
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots, recovery.repaired_buckets), (items, 0, 0));
    table.check_invariants().expect("invariants after join");
}

#[test]
fn a_successor_finds_everything_at_every_size() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    let mut sizes = std::collections::HashSet::new();
    for n in 0..3000 {
        assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. }));
        if n < 150 || n % 211 == 0 {
            let image = memory.image();
            let (successor, recovery) = image.join().expect("join");
            assert_eq!((recovery.items, recovery.dropped_slots, recovery.repaired_buckets), (n + 1, 0, 0));
            assert_eq!(successor.buckets(), table.buckets());
            successor.check_invariants().unwrap_or_else(|error| panic!("{n}: {error}"));
            let mut heir = successor.writer(0);
            assert!((0..=n).all(|n| holds(&heir, n)), "{n}");
            // It grows on from there.
            (n + 1..n + 100).for_each(|n| _ = put(&mut heir, n));
            assert!((0..n + 100).all(|n| holds(&heir, n)), "{n} and 100 more");
            sizes.insert(successor.buckets());
        }
    }
    assert!(sizes.len() > 20, "{} sizes", sizes.len());
}

#[test]
fn growth_stops_at_the_limit_and_goes_on_when_it_rises() {
    let memory = Memory::of(Geometry::plan_reserved(3 << 20, 1, 1000, 32 << 20).expect("a plan"));
    let table = memory.format();
    let mut writer = table.writer(0);
    let full = (0..).find(|&n| put(&mut writer, n) == Outcome::Full).expect("the limit ends it");
    let buckets = table.buckets();
    assert!(table.stats().memory_used_bytes <= 3 << 20 && full > 20_000 && buckets > full / 12, "{full} in {buckets}");
    assert!((0..full).all(|n| holds(&writer, n)));
    for n in 0..full {
        assert!(matches!(put(&mut writer, n), Outcome::Replaced { .. }));
    }
    assert_eq!(table.buckets(), buckets, "overwrites grow nothing");
    assert_eq!(table.set_memory_limit(16 << 20), 16 << 20);
    for n in full..4 * full {
        assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. }), "{n}");
    }
    assert!(table.buckets() > 4 * full / 6, "{} buckets for {}", table.buckets(), 4 * full);
    assert!((0..4 * full).all(|n| holds(&writer, n)));
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn growth_waits_while_memory_cannot_be_had() {
    let memory = Memory::new(32 << 20, 1, 1000);
    let table = memory.format();
    memory.refuse.store(true, SeqCst);
    let mut writer = table.writer(0);
    // What the first page of buckets holds is there already.
    for n in 0..2000 {
        assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. }), "{n}");
    }
    assert_eq!(table.buckets(), 64);
    let rest = (0..10_000).map(|_| writer.work_ahead(8)).find(|&ahead| ahead != Ahead::More);
    assert_eq!(rest, Some(Ahead::Nothing), "an idle worker does not try in vain for ever");
    assert!((0..2000).all(|n| holds(&writer, n)));
    table.check_invariants().expect("invariants while it waits");
    memory.refuse.store(false, SeqCst);
    for n in 2000..4000 {
        assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. }), "{n}");
    }
    assert!(table.buckets() >= 4000 / 6, "{} buckets", table.buckets());
    assert!((0..4000).all(|n| holds(&writer, n)));
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn splits_that_a_writer_leaves_undone_are_done_by_others() {
    let memory = Memory::new(32 << 20, 1, 1000);
    let table = memory.format();
    // Each writer leaves after an insert, whatever it has taken upon itself.
    for n in 0..20_000 {
        assert!(matches!(put(&mut table.writer(n as u32 % 7), n), Outcome::Inserted { .. }), "{n}");
    }
    catch_up(&table);
    table.check_invariants().expect("invariants");
}

/// Keys whose hashes agree in their low bits, so many per bucket as a chain holds.
fn flood(table: &Table, low_bits: u64, mask: u64, count: usize) -> Vec<u64> {
    (1 << 40..).filter(|&n| table.hash(&pair(n).0) & mask == low_bits).take(count).collect()
}

#[test]
fn a_bucket_with_the_longest_chain_is_split_like_any_other() {
    for low_bits in [0, 5, 0xaa, 0xff] {
        let memory = Memory::new(32 << 20, 1, 1000);
        let table = memory.format();
        let mut writer = table.writer(0);
        // Agreeing in eight bits they stay together up to 256 buckets.
        let crowd = flood(&table, low_bits, 0xff, 103);
        for &n in &crowd {
            assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. }));
        }
        assert_eq!(table.stats().overflow_lines, 16, "{low_bits:#x}");
        assert_eq!(put(&mut writer, flood(&table, low_bits, 0xff, 104)[103]), Outcome::ChainFull);
        // The others differ in the lowest bit: they are never in the crowd's bucket.
        let others = (0..).filter(|&n| (table.hash(&pair(n).0) ^ low_bits) & 1 == 1).take(6000);
        for (at, n) in others.enumerate() {
            assert!(matches!(put(&mut writer, n), Outcome::Inserted { .. }));
            if at % 8 == 0 {
                assert!(crowd.iter().all(|&n| holds(&writer, n)), "{low_bits:#x}: after {at}");
            }
            if at % 500 == 0 {
                table.check_invariants().unwrap_or_else(|error| panic!("{low_bits:#x}: after {at}: {error}"));
            }
        }
        assert!(table.buckets() > 1000);
        drop(writer);
        table.check_invariants().expect("invariants");
        let (lines, items) = (table.stats().overflow_lines, table.stats().items);
        drop(table);
        let (table, recovery) = memory.join().expect("join");
        assert_eq!((recovery.items, recovery.dropped_slots, table.stats().overflow_lines), (items, 0, lines));
    }
}

#[test]
fn a_table_that_shrank_and_fills_again_does_not_grow_twice() {
    let memory = Memory::new(32 << 20, 1, 1000);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..10_000).for_each(|n| _ = put(&mut writer, n));
    let buckets = table.buckets();
    for _ in 0..3 {
        for n in 0..10_000 {
            assert!(matches!(delete(&mut writer, &pair(n).0), Outcome::Deleted { .. }));
        }
        assert_eq!((table.stats().items, table.stats().overflow_lines), (0, 0));
        (0..10_000).for_each(|n| _ = put(&mut writer, n));
        assert!(table.buckets() <= buckets + 16, "{} buckets after {buckets}", table.buckets());
    }
    drop(writer);
    table.check_invariants().expect("invariants");
}
