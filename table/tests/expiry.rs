//! Items with a time to live, under a clock that the test sets: invisible on time, swept exactly, and no deadline lost to
//! growth, splits, other writers or a join.

mod memory;

use memory::Memory;
use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use table::{Ahead, Condition, Expiry, MAX_EXPIRY, Outcome, Reader, Table, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

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

fn put_if(writer: &mut Writer<'_>, n: u64, expiry: Expiry, condition: Condition) -> Outcome {
    let hash = writer.hash(&key(n));
    writer.insert(&key(n), b"7", hash, condition, expiry, &NONE, |outcome| *outcome)
}

fn put(writer: &mut Writer<'_>, n: u64, expiry: Expiry) -> Outcome {
    put_if(writer, n, expiry, Condition::None)
}

fn expire(writer: &mut Writer<'_>, n: u64, expiry: Expiry) -> Outcome {
    let hash = writer.hash(&key(n));
    writer.expire(&key(n), hash, expiry, &NONE, |outcome| *outcome)
}

/// The expiry of a key's item.
fn expiry_of(writer: &Writer<'_>, n: u64) -> Option<u64> {
    writer.get(&key(n), writer.hash(&key(n))).map(|item| item.expiry)
}

fn met_by_scan(writer: &Writer<'_>) -> Vec<u64> {
    let (mut met, mut cursor) = (Vec::new(), Some(0));
    while let Some(at) = cursor {
        cursor = writer.scan(at, 7, &mut |view| {
            met.push(u64::from_be_bytes(view.key().try_into().expect("eight bytes")));
            true
        });
    }
    met.sort_unstable();
    met
}

/// Sweeps until there is nothing to do at this time: what is waited for then.
fn drain(writer: &mut Writer<'_>, now: u64) -> Option<u64> {
    writer.set_now(now);
    for _ in 0..1_000_000 {
        match writer.work_ahead(16) {
            Ahead::More => {}
            Ahead::Nothing => return None,
            Ahead::At(at) if at > now => return Some(at),
            Ahead::At(at) => panic!("told to wait until {at} at {now}"),
        }
    }
    panic!("the sweep comes to an end");
}

/// The same, and on over the rests that the sweep takes: until nothing is due before `end`.
fn drain_until(writer: &mut Writer<'_>, now: u64, end: u64) {
    let mut waits = Some(now);
    while let Some(at) = waits.filter(|&at| at < end) {
        waits = drain(writer, at);
    }
}

#[test]
fn a_dead_item_is_absent_to_every_operation() {
    let memory = Memory::new(4 << 20, 4, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    // SAFETY: the memory outlives the reader.
    let mut reader = unsafe { Reader::join(memory.base(), memory.len()) }.expect("join");
    let absent = [
        "insert",
        "if absent",
        "if present",
        "if version",
        "delete",
        "incr",
        "append",
        "expire",
        "persist",
        "scan",
        "prefix",
        "locked",
    ];
    for (n, what) in absent.into_iter().enumerate() {
        let n = n as u64;
        let (key, mut out) = (key(n), Vec::new());
        let hash = writer.hash(&key);
        writer.set_now(1000);
        let Outcome::Inserted { version } = put(&mut writer, n, Expiry::At(1500)) else { panic!("{what}: not inserted") };
        writer.set_now(1499);
        reader.set_now(1499);
        assert_eq!(expiry_of(&writer, n), Some(1500));
        assert!(reader.get_into(&key, hash, &mut out).expect("quiet").is_some());
        writer.set_now(1500);
        reader.set_now(1500);
        assert_eq!(expiry_of(&writer, n), None, "{what}");
        assert_eq!(reader.get_into(&key, hash, &mut out).expect("quiet"), None, "{what}");
        let outcome = match what {
            "insert" => put(&mut writer, n, Expiry::Keep),
            "if absent" => put_if(&mut writer, n, Expiry::Never, Condition::IfAbsent),
            "if present" => put_if(&mut writer, n, Expiry::Never, Condition::IfPresent),
            "if version" => put_if(&mut writer, n, Expiry::Never, Condition::IfVersion(version)),
            "delete" => writer.delete(&key, hash, Condition::None, &NONE, |outcome| *outcome),
            "incr" => writer.incr(&key, hash, 3, Expiry::At(1600), &NONE, |outcome| *outcome),
            "append" => writer.append(&key, hash, b"ab", &NONE, |outcome| *outcome),
            "expire" => expire(&mut writer, n, Expiry::At(9000)),
            "persist" => expire(&mut writer, n, Expiry::Never),
            "scan" => {
                assert!(!met_by_scan(&writer).contains(&n));
                continue;
            }
            "prefix" => {
                let expired = table.stats().expired_total;
                assert_eq!(writer.delete_step(0, u32::MAX, &key), (0, None));
                assert_eq!(table.stats().expired_total, expired + 1);
                continue;
            }
            _ => {
                assert_eq!(writer.value_locked(&key, hash, &mut out), None);
                continue;
            }
        };
        let (alive, expected) = match outcome {
            Outcome::Inserted { version: new } => (what.starts_with("in") || what == "if absent", new > version),
            Outcome::ConditionNotMet { version: 0 } => (false, what == "if present" || what == "if version"),
            Outcome::NotFound => (false, ["delete", "expire", "persist"].contains(&what)),
            Outcome::Number { value: 3, .. } => (true, what == "incr"),
            Outcome::Length { len: 2, .. } => (true, what == "append"),
            _ => (false, false),
        };
        assert!(expected, "{what} answered {outcome:?}");
        let kept = if what == "incr" { 1600 } else { 0 };
        assert_eq!(expiry_of(&writer, n), alive.then_some(kept), "{what}");
        table.check_invariants().unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    // What was dead and replaced, and what is dead still, is all counted once.
    drain(&mut writer, 1500);
    assert_eq!(table.stats().expired_total, absent.len() as u64);
    assert_eq!(table.stats().items, 4);
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn expiry_is_kept_changed_and_removed_as_asked() {
    let memory = Memory::new(4 << 20, 4, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    writer.set_now(100);
    let hash = writer.hash(&key(1));
    put(&mut writer, 1, Expiry::Keep);
    assert_eq!(expiry_of(&writer, 1), Some(0), "nothing to keep");
    let Outcome::Replaced { version } = put(&mut writer, 1, Expiry::At(500)) else { panic!("replaced") };
    assert_eq!(expiry_of(&writer, 1), Some(500));
    for (expiry, seen) in [(Expiry::At(300), 300), (Expiry::Never, 0), (Expiry::At(900), 900), (Expiry::Keep, 900)] {
        assert_eq!(expire(&mut writer, 1, expiry), Outcome::Expires { version });
        assert_eq!(expiry_of(&writer, 1), Some(seen));
    }
    put(&mut writer, 1, Expiry::Keep);
    writer.incr(&key(1), hash, 1, Expiry::At(200), &NONE, |_| ());
    writer.append(&key(1), hash, b"0", &NONE, |_| ());
    assert_eq!(expiry_of(&writer, 1), Some(900), "kept by insert, incr and append");
    put(&mut writer, 1, Expiry::Never);
    assert_eq!(expiry_of(&writer, 1), Some(0));
    put(&mut writer, 1, Expiry::At(u64::MAX));
    assert_eq!(expiry_of(&writer, 1), Some(MAX_EXPIRY));
    put(&mut writer, 1, Expiry::At(0));
    assert_eq!(expiry_of(&writer, 1), None, "gone at once");
    assert_eq!(expire(&mut writer, 2, Expiry::At(900)), Outcome::NotFound);
    assert_eq!(writer.deadline(50), Expiry::At(150));
    assert_eq!(writer.deadline(u64::MAX), Expiry::At(u64::MAX));
    table.check_invariants().expect("invariants");
}

#[test]
fn the_sweep_removes_the_dead_exactly_and_says_when_it_goes_on() {
    let memory = Memory::new(16 << 20, 1, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    let mut random = Random(20_261_121);
    let mut expiries = HashMap::new();
    writer.set_now(1);
    for n in 0..6000 {
        let at = if n % 3 == 0 { 0 } else { 10_000 + random.below(40) * 20_000 };
        put(&mut writer, n, if at == 0 { Expiry::Never } else { Expiry::At(at) });
        expiries.insert(n, at);
    }
    assert_eq!(drain(&mut writer, 9_999), Some(10_000));
    let mut now = 9_999;
    while let Some(at) = drain(&mut writer, now) {
        let alive = |n: u64| expiries[&n] == 0 || expiries[&n] > now;
        let mut left: Vec<u64> = (0..6000).filter(|&n| alive(n)).collect();
        assert_eq!(met_by_scan(&writer), left);
        assert_eq!((table.stats().items, table.stats().expired_total), (left.len() as u64, 6000 - left.len() as u64), "at {now}");
        left.retain(|n| expiries[n] != 0);
        let earliest = left.iter().map(|n| expiries[n]).min().expect("the sweep waits for something");
        // It rests a while after a round, a few seconds at most.
        assert!((earliest..earliest.max(now + 5_001)).contains(&at) || at == earliest, "waits for {at} at {now}: {earliest}");
        table.check_invariants().unwrap_or_else(|error| panic!("at {now}: {error}"));
        now = at;
    }
    assert!(met_by_scan(&writer).iter().all(|n| n % 3 == 0));
    assert_eq!(table.stats().items, 2000);
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn the_lag_is_the_age_of_what_is_dead_and_there() {
    let memory = Memory::new(4 << 20, 4, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    assert_eq!(table.stats().expiry_lag_ms, 0);
    put(&mut writer, 1, Expiry::At(1));
    while table.clock().now_ms() < 3 {
        std::hint::spin_loop();
    }
    assert!(table.stats().expiry_lag_ms >= 2);
    drain(&mut writer, 2);
    assert_eq!((table.stats().expiry_lag_ms, table.stats().items), (0, 0));
    put(&mut writer, 1, Expiry::At(MAX_EXPIRY));
    assert_eq!(table.stats().expiry_lag_ms, 0);
}

/// Small steps of everything in one thread, checked after each: what a sweep in its middle, or resting at its end, must not lose.
#[test]
fn no_deadline_is_lost_to_a_sweep_in_small_steps_between_inserts_splits_and_clears() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121);
    println!("SEED={seed}");
    for round in 0..40u64 {
        let memory = Memory::new(4 << 20, 1, 100);
        let table = memory.format();
        let mut writer = table.writer(0);
        let mut random = Random(seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut expiries: HashMap<u64, u64> = HashMap::new();
        let mut now = 1;
        for step in 0..1500u64 {
            writer.set_now(now);
            match random.below(10) {
                0..=5 => {
                    let n = random.below(1200);
                    let at = if random.below(4) == 0 { 0 } else { now + 1 + random.below(400) };
                    put(&mut writer, n, if at == 0 { Expiry::Never } else { Expiry::At(at) });
                    expiries.insert(n, at);
                }
                6 => {
                    let n = random.below(1200);
                    let at = now + 1 + random.below(50);
                    if let Outcome::Expires { .. } = expire(&mut writer, n, Expiry::At(at)) {
                        expiries.insert(n, at);
                    }
                }
                7 => now += random.below(30),
                8 if random.below(100) == 0 => {
                    writer.clear(&NONE, |_| ());
                    expiries.clear();
                }
                _ => drop(writer.work_ahead(1 + random.below(20) as u32)),
            }
            if step % 16 == 0 {
                table.check_invariants().unwrap_or_else(|error| panic!("round {round}, step {step}: {error}"));
            }
        }
        writer.set_now(now);
        let mut left: Vec<u64> = expiries.iter().filter(|&(_, &at)| at == 0 || at > now).map(|(&n, _)| n).collect();
        left.sort_unstable();
        assert_eq!(met_by_scan(&writer), left, "round {round}");
        // All that may expire does, and the sweep finds it.
        drain_until(&mut writer, now + 10_000, u64::MAX);
        left.retain(|n| expiries[n] == 0);
        assert_eq!((met_by_scan(&writer).len(), table.stats().items), (left.len(), left.len() as u64), "round {round}");
        drop(writer);
        table.check_invariants().unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

#[test]
fn a_sweep_beside_inserts_expires_and_splits_loses_nothing() {
    let memory = Memory::new(64 << 20, 1, 100);
    let table = memory.format();
    // The writers' time, moved on by one of them.
    let (clock, done) = (AtomicU64::new(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let end = End(&done);
        let sweeper = scope.spawn(|| {
            let mut writer = table.writer(9);
            while !done.load(Acquire) {
                writer.set_now(clock.load(Relaxed));
                writer.work_ahead(8);
            }
        });
        let writers: Vec<_> = (0..2u64)
            .map(|which| {
                let (table, clock) = (&table, &clock);
                scope.spawn(move || {
                    let mut writer = table.writer(which as u32);
                    let mut random = Random(which + 77);
                    for n in 0..60_000 {
                        let now = if which == 0 { clock.fetch_add(n % 2, Relaxed) } else { clock.load(Relaxed) };
                        writer.set_now(now);
                        let name = which << 32 | n;
                        // A quarter stays; the others live for up to a sixth of the run, or beyond its end.
                        let expiry = match n % 4 {
                            0 => Expiry::Never,
                            1 => Expiry::At(1 << 30),
                            _ => Expiry::At(now + 1 + random.below(5000)),
                        };
                        assert!(matches!(put(&mut writer, name, expiry), Outcome::Inserted { .. }));
                        if n % 8 == 5 {
                            let outcome = expire(&mut writer, name, Expiry::At(now + 1 + random.below(5000)));
                            assert!(matches!(outcome, Outcome::Expires { .. }), "{outcome:?}");
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().expect("a writer");
        }
        drop(end);
        sweeper.join().expect("the sweeper");
    });
    table.check_invariants().expect("no item is forgotten");
    assert!(table.stats().expired_total > 0);
    let now = clock.load(Relaxed);
    let mut writer = table.writer(0);
    writer.set_now(now);
    let staying = |n: u64| n.is_multiple_of(4) || n % 8 == 1;
    let met = met_by_scan(&writer);
    assert_eq!(met.iter().filter(|&&n| staying(n as u32 as u64)).count(), 2 * 22_500);
    drain_until(&mut writer, now + 20_000, 1 << 30);
    let met = met_by_scan(&writer);
    assert!(met.len() == 45_000 && met.iter().all(|&n| staying(n as u32 as u64)), "{} left", met.len());
    assert_eq!((table.stats().items, table.stats().expired_total), (45_000, 75_000));
    drain_until(&mut writer, 2 << 30, u64::MAX);
    assert_eq!((table.stats().items, table.stats().expired_total), (30_000, 90_000));
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn a_successor_works_the_deadlines_out_anew() {
    let memory = Memory::new(8 << 20, 1, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    writer.set_now(1);
    for n in 0..2000 {
        put(&mut writer, n, if n % 2 == 0 { Expiry::At(1000 + n) } else { Expiry::Never });
    }
    // The dead lie there unswept, and a sweep stands in the middle of a group.
    writer.set_now(2000);
    assert_eq!(writer.work_ahead(5), Ahead::More);
    for n in 2000..2100 {
        put(&mut writer, n, Expiry::At(5000));
    }
    let image = memory.image();
    let (heir, recovery) = image.join().expect("join");
    assert_eq!((recovery.dropped_slots, recovery.repaired_buckets), (0, 0));
    heir.check_invariants().expect("invariants after join");
    let mut writer = heir.writer(0);
    writer.set_now(2000);
    assert_eq!(expiry_of(&writer, 1000), None);
    assert_eq!(expiry_of(&writer, 1002), Some(2002));
    assert!(drain(&mut writer, 2000).is_some());
    assert_eq!(heir.stats().items, 1000 + 499 + 100);
    assert_eq!(met_by_scan(&writer).len(), 1599);
    drain_until(&mut writer, 20_000, u64::MAX);
    assert_eq!(heir.stats().items, 1000);
    drop(writer);
    heir.check_invariants().expect("invariants");
}

fn fill_until_full(table: &Table, expiry: Expiry) -> u64 {
    let mut writer = table.writer(3);
    writer.set_now(1);
    (0..).find(|&n| put(&mut writer, n, expiry) == Outcome::Full).expect("the limit ends it")
}

#[test]
fn the_memory_of_the_dead_serves_again() {
    let memory = Memory::new(2 << 20, 1, 100);
    let table = memory.format();
    let first = fill_until_full(&table, Expiry::At(10));
    let mut writer = table.writer(0);
    drain(&mut writer, 10);
    assert_eq!((table.stats().items, table.stats().overflow_lines), (0, 0));
    drop(writer);
    table.check_invariants().expect("invariants");
    let again = fill_until_full(&table, Expiry::Never);
    assert!(again >= first, "{again} items after {first} that expired");
}
