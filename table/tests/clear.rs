//! Clearing the whole table at once: what is there before is gone, what comes after stays, whoever writes meanwhile.

mod memory;

use memory::Memory;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use table::{Ahead, Condition, Expiry, Outcome, Reader, Table, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };
/// Offset of the header's version floor and of its version counter.
const VERSION_FLOOR: u64 = 648;
const NEXT_VERSION: u64 = 704;

/// Ends the other threads also when this one panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Release);
    }
}

fn key(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

fn put_if(writer: &mut Writer<'_>, n: u64, condition: Condition) -> Outcome {
    let hash = writer.hash(&key(n));
    writer.insert(&key(n), &n.to_le_bytes(), hash, condition, Expiry::Never, &NONE, |outcome| *outcome)
}

fn put(writer: &mut Writer<'_>, n: u64) -> Outcome {
    put_if(writer, n, Condition::None)
}

fn delete(writer: &mut Writer<'_>, n: u64) -> Outcome {
    let hash = writer.hash(&key(n));
    writer.delete(&key(n), hash, Condition::None, &NONE, |outcome| *outcome)
}

fn version_of(writer: &Writer<'_>, n: u64) -> Option<u64> {
    writer.get(&key(n), writer.hash(&key(n))).map(|item| item.version)
}

fn clear(writer: &mut Writer<'_>) -> u64 {
    match writer.clear(&NONE, |outcome| *outcome) {
        Outcome::Cleared { count } => count,
        other => panic!("clear answered {other:?}"),
    }
}

fn drain(writer: &mut Writer<'_>) {
    for _ in 0..1_000_000 {
        if writer.work_ahead(16) != Ahead::More {
            return;
        }
    }
    panic!("the sweep comes to an end");
}

#[test]
fn cleared_items_are_absent_to_every_operation_and_counted_once() {
    let memory = Memory::new(8 << 20, 1, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    // SAFETY: the memory outlives the reader.
    let reader = unsafe { Reader::join(memory.base(), memory.len()) }.expect("join");
    assert_eq!(clear(&mut writer), 0);
    let mut versions = Vec::new();
    for n in 0..1000 {
        let Outcome::Inserted { version } = put(&mut writer, n) else { panic!("{n} inserted") };
        versions.push(version);
    }
    assert_eq!(clear(&mut writer), 1000);
    assert_eq!(table.stats().items, 0);
    table.check_invariants().expect("invariants before the sweep");
    let mut out = Vec::new();
    assert!((0..1000).all(|n| version_of(&writer, n).is_none()));
    assert!((0..1000).all(|n| reader.get_into(&key(n), reader.hash(&key(n)), &mut out).expect("quiet").is_none()));
    assert_eq!(writer.scan(0, u32::MAX, &mut |_| panic!("nothing is met")), None);
    assert_eq!(delete(&mut writer, 0), Outcome::NotFound);
    assert_eq!(put_if(&mut writer, 0, Condition::IfPresent), Outcome::ConditionNotMet { version: 0 });
    assert_eq!(put_if(&mut writer, 0, Condition::IfVersion(versions[0])), Outcome::ConditionNotMet { version: 0 });
    assert!(matches!(put_if(&mut writer, 1, Condition::IfAbsent), Outcome::Inserted { version } if version > versions[999]));
    let hash = writer.hash(&key(2));
    let number = writer.incr(&key(2), hash, 5, Expiry::Never, &NONE, |outcome| *outcome);
    assert!(matches!(number, Outcome::Number { value: 5, .. }), "{number:?}");
    let hash = writer.hash(&key(3));
    let length = writer.append(&key(3), hash, b"abc", &NONE, |outcome| *outcome);
    assert!(matches!(length, Outcome::Length { len: 3, .. }), "{length:?}");
    let hash = writer.hash(&key(4));
    assert_eq!(writer.expire(&key(4), hash, Expiry::At(9), &NONE, |outcome| *outcome), Outcome::NotFound);
    assert_eq!(writer.delete_step(0, 1, &key(5)).0, 0);
    assert_eq!(table.stats().items, 3);
    // Once more with half of it swept, and again at once.
    writer.work_ahead(20);
    (500..600).for_each(|n| _ = put(&mut writer, n));
    assert_eq!((table.stats().items, clear(&mut writer), clear(&mut writer)), (103, 103, 0));
    (0..50).for_each(|n| _ = put(&mut writer, n));
    assert_eq!(table.stats().items, 50);
    drain(&mut writer);
    assert_eq!((table.stats().items, table.stats().expired_total), (50, 0));
    assert_eq!(writer.work_ahead(1), Ahead::Nothing);
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn a_clear_of_a_full_table_makes_room() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    let mut fills = Vec::new();
    for _ in 0..4 {
        fills.push((0..).find(|&n| put(&mut writer, n) == Outcome::Full).expect("the limit ends it"));
        assert_eq!(Some(&clear(&mut writer)), fills.last());
        drain(&mut writer);
    }
    assert!(fills.iter().all(|&fill| fill >= fills[0]), "{fills:?}");
    drop(writer);
    table.check_invariants().expect("invariants");
}

/// What each writer knows: the clears that had ended when it began a write, and those that had begun when it was answered.
struct Clears {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// Writes keys over and over and reads each back: present unless a clear ran meanwhile, absent once one has begun and ended since.
fn write_among_clears(table: &Table, clears: &Clears, which: u64, done: &AtomicBool) -> (u64, u64) {
    let mut writer = table.writer(which as u32);
    let (mut seen, mut lost, mut n) = (0, 0, 0);
    while !done.load(Acquire) {
        let name = (which << 32) | (n % 97);
        n += 1;
        // SeqCst throughout: the counts stand for replies and requests, which order everything.
        let ended_before = clears.ended.load(SeqCst);
        let version = match put(&mut writer, name) {
            Outcome::Inserted { version } | Outcome::Replaced { version } => version,
            other => panic!("insert answered {other:?}"),
        };
        let begun_at_reply = clears.begun.load(SeqCst);
        if n % 64 == 0 {
            std::thread::yield_now();
        }
        let ended_at_read = clears.ended.load(SeqCst);
        let found = version_of(&writer, name);
        let begun_at_answer = clears.begun.load(SeqCst);
        assert!(found.is_none_or(|found| found == version), "nobody else writes {name}");
        if begun_at_answer == ended_before {
            assert_eq!(found, Some(version), "no clear ran between");
            seen += 1;
        }
        if ended_at_read > begun_at_reply {
            assert_eq!(found, None, "a clear that began after the reply has ended");
            lost += 1;
        }
    }
    (seen, lost)
}

#[test]
fn a_clear_takes_what_was_answered_before_it_and_nothing_that_came_after() {
    let memory = Memory::new(32 << 20, 1, 100);
    let table = memory.format();
    let (clears, done) = (Clears { begun: AtomicU64::new(0), ended: AtomicU64::new(0) }, AtomicBool::new(false));
    let (seen, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let end = End(&done);
        let writers: Vec<_> = (0..2)
            .map(|which| {
                let (table, clears, done, seen, lost) = (&table, &clears, &done, &seen, &lost);
                scope.spawn(move || {
                    let (one, other) = write_among_clears(table, clears, which, done);
                    seen.fetch_add(one, Relaxed);
                    lost.fetch_add(other, Relaxed);
                })
            })
            .collect();
        let mut writer = table.writer(9);
        for round in 0..3000 {
            clears.begun.fetch_add(1, SeqCst);
            clear(&mut writer);
            clears.ended.fetch_add(1, SeqCst);
            // Sweeps of all lengths stand in the middle when the next clear comes.
            for _ in 0..round % 40 {
                writer.work_ahead(1 + round % 7);
            }
            std::thread::yield_now();
        }
        drop(end);
        for writer in writers {
            writer.join().expect("a writer");
        }
    });
    assert!(seen.load(Relaxed) > 0 && lost.load(Relaxed) > 0, "{} seen, {} cleared", seen.load(Relaxed), lost.load(Relaxed));
    let mut writer = table.writer(0);
    drain(&mut writer);
    // After the sweep the counts are exact, whatever raced before.
    let (mut there, mut cursor) = (0, Some(0));
    while let Some(at) = cursor {
        cursor = writer.scan(at, 8, &mut |_| {
            there += 1;
            true
        });
    }
    assert_eq!(table.stats().items, there);
    assert_eq!(clear(&mut writer), there);
    drain(&mut writer);
    drop(writer);
    table.check_invariants().expect("invariants");
}

/// Two keys written one after the other by one client: a clear between may leave the second alone, never the first alone.
#[test]
fn what_one_client_writes_in_order_is_cleared_in_order() {
    let memory = Memory::new(32 << 20, 1, 100);
    let table = memory.format();
    let done = AtomicBool::new(false);
    let survived = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let end = End(&done);
        let writer = scope.spawn(|| {
            let mut writer = table.writer(1);
            while !done.load(Acquire) {
                delete(&mut writer, 1);
                delete(&mut writer, 2);
                put(&mut writer, 1);
                put(&mut writer, 2);
                // Nobody else writes: only the clears take anything.
                let (second, first) = (version_of(&writer, 2), version_of(&writer, 1));
                assert!(first.is_none() || second.is_some(), "the first outlived a clear that took the second");
                survived.fetch_add(u64::from(first.is_some()), Relaxed);
            }
        });
        let mut clearing = table.writer(2);
        for round in 0..20_000 {
            clear(&mut clearing);
            if round % 16 == 0 {
                clearing.work_ahead(4);
                std::thread::yield_now();
            }
        }
        drop(end);
        writer.join().expect("the writer");
    });
    assert!(survived.load(Relaxed) > 0, "the clears left time to write");
    table.check_invariants().expect("invariants");
}

/// Versions run out of their blocks all the time while clears raise the floor: an item that was answered after a clear took effect
/// is not taken by a second floor of the same clear.
#[test]
fn a_clear_takes_effect_once() {
    let memory = Memory::new(32 << 20, 64, 100);
    let table = memory.format();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = End(&done);
        let writers: Vec<_> = (1..3)
            .map(|worker| {
                let (table, memory, done) = (&table, &memory, &done);
                scope.spawn(move || {
                    let mut writer = table.writer(worker);
                    let name = u64::from(worker);
                    while !done.load(Acquire) {
                        let floor = memory.word(VERSION_FLOOR).load(SeqCst);
                        put(&mut writer, name);
                        if version_of(&writer, name).is_none() {
                            // One floor at a time is raised, so one floor was between.
                            let now = memory.word(VERSION_FLOOR).load(SeqCst);
                            assert!(now > floor, "{name} vanished without a clear");
                        }
                    }
                })
            })
            .collect();
        let mut clearing = table.writer(0);
        let mut floors = 0;
        for _ in 0..20_000 {
            let before = memory.word(VERSION_FLOOR).load(SeqCst);
            let counter = memory.word(NEXT_VERSION).load(SeqCst);
            clear(&mut clearing);
            let after = memory.word(VERSION_FLOOR).load(SeqCst);
            // Two floors of one clear would stand two gaps above the counter.
            assert!(after > before && after - counter < 2 << 20, "from {before} to {after} with the counter at {counter}");
            floors += 1;
        }
        drop(end);
        for writer in writers {
            writer.join().expect("a writer");
        }
        assert_eq!(floors, 20_000);
    });
    table.check_invariants().expect("invariants");
}

#[test]
fn a_successor_finds_a_clear_done_or_not_begun() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    (0..500).for_each(|n| _ = put(&mut writer, n));
    let last = version_of(&writer, 499).expect("present");
    let counter = memory.word(NEXT_VERSION).load(Relaxed);
    // The floor is stored, the counter is not raised: what a death between the two leaves.
    let image = memory.image();
    image.word(VERSION_FLOOR).store(counter + (1 << 20), Relaxed);
    let (heir, recovery) = image.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (0, 0));
    assert_eq!(heir.stats().items, 0);
    heir.check_invariants().expect("invariants");
    let mut writer_of_heir = heir.writer(0);
    assert!((0..500).all(|n| version_of(&writer_of_heir, n).is_none()));
    let Outcome::Inserted { version } = put(&mut writer_of_heir, 1) else { panic!("inserted") };
    assert!(version >= counter + (1 << 20) && version > last, "above the floor: {version}");
    assert_eq!(version_of(&writer_of_heir, 1), Some(version));
    assert_eq!(clear(&mut writer_of_heir), 1);
    // A clear that was answered, its sweep in the middle, and items of after it.
    assert_eq!(clear(&mut writer), 500);
    (0..30).for_each(|n| _ = put(&mut writer, n));
    writer.work_ahead(10);
    let image = memory.image();
    let (heir, recovery) = image.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (30, 0));
    heir.check_invariants().expect("invariants");
    let mut writer_of_heir = heir.writer(0);
    assert!((0..30).all(|n| version_of(&writer_of_heir, n).is_some()));
    assert_eq!(heir.stats().items, 30);
    assert_eq!(writer_of_heir.work_ahead(8), Ahead::Nothing, "the join has swept");
    assert_eq!(clear(&mut writer_of_heir), 30);
    drain(&mut writer_of_heir);
    drop(writer_of_heir);
    heir.check_invariants().expect("invariants after another clear");
}
