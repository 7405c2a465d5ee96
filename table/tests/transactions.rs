//! Transactions against a plain map, at their limits, without memory, and many at once.

mod memory;

use memory::Memory;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use table::{Change, Condition, Declined, Expiry, MAX_LOCKED, Outcome, Step, Table, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };

fn key(n: u64) -> Vec<u8> {
    let mut key = n.to_le_bytes().to_vec();
    key.resize(8 + (n as usize * 5) % 40, b'k');
    key
}

fn insert(value: &[u8]) -> Change<'_> {
    Change::Insert { value, expiry: Expiry::Never }
}

/// What a transaction answered: old versions and values, and new versions.
type Told = Vec<(Option<(u64, Vec<u8>)>, u64)>;

fn transact(writer: &mut Writer<'_>, steps: &[Step<'_>]) -> Result<(Outcome, Told), Declined> {
    let mut told = Vec::new();
    let outcome = writer.transact(
        steps,
        &NONE,
        |answer| {
            for at in 0..steps.len() {
                let mut value = vec![];
                let item = answer.append_value(at, &mut value).map(|item| item.version);
                assert_eq!(item, answer.item(at).map(|item| item.version));
                told.push((item.map(|version| (version, value)), answer.version(at)));
            }
            Some(steps.len() as u64)
        },
        |outcome| *outcome,
    )?;
    Ok((outcome, told))
}

fn read(writer: &Writer<'_>, n: u64) -> Option<(u64, Vec<u8>)> {
    let item = writer.get(&key(n), writer.hash(&key(n)))?;
    let mut out = Vec::new();
    writer.value_into(&item, &mut out).expect("nobody writes");
    Some((item.version, out))
}

#[derive(Clone, Debug)]
struct Part {
    key: u64,
    /// 0: none, 1: what is there, 2: something else.
    compare: u8,
    change: u8,
    len: usize,
    expiry: Expiry,
}

fn transactions() -> impl Strategy<Value = Vec<Vec<Part>>> {
    let expiry = prop_oneof![3 => Just(Expiry::Never), 2 => (2..60u64).prop_map(Expiry::At), 2 => Just(Expiry::Keep)];
    let len = prop_oneof![8 => 0..60usize, 1 => 3000..4000usize];
    let compare = prop_oneof![6 => Just(0u8), 6 => Just(1), 1 => Just(2)];
    let part = (0..24u64, compare, 0..4u8, len, expiry).prop_map(|(key, compare, change, len, expiry)| Part {
        key,
        compare,
        change,
        len,
        expiry,
    });
    prop::collection::vec(prop::collection::vec(part, 0..12), 1..50)
}

/// Value, version and expiry (0: never) of each key, dead ones included.
type Model = HashMap<u64, (Vec<u8>, u64, u64)>;

fn check(writer: &mut Writer<'_>, model: &mut Model, parts: &[Part], now: u64) -> Result<(), TestCaseError> {
    let mut seen = std::collections::HashSet::new();
    let parts: Vec<_> = parts.iter().filter(|part| seen.insert(part.key)).collect();
    let live = |model: &Model, n| model.get(&n).filter(|(_, _, expiry)| *expiry == 0 || *expiry > now).cloned();
    let there: Vec<_> = parts.iter().map(|part| live(model, part.key)).collect();
    let keys: Vec<_> = parts.iter().map(|part| key(part.key)).collect();
    let values: Vec<_> = parts.iter().map(|part| vec![b'a' + part.key as u8; part.len]).collect();
    let version = |at: usize| there[at].as_ref().map_or(0, |(_, version, _)| *version);
    let steps: Vec<_> = (0..parts.len())
        .map(|at| Step {
            key: &keys[at],
            compare: [None, Some(version(at)), Some(version(at) ^ 1 << 40)][usize::from(parts[at].compare)],
            change: match parts[at].change {
                0 => Change::None,
                1 => Change::Delete,
                _ => Change::Insert { value: &values[at], expiry: parts[at].expiry },
            },
        })
        .collect();
    let (outcome, told) = transact(writer, &steps).expect("different keys");
    if let Some(at) = parts.iter().position(|part| part.compare == 2) {
        prop_assert_eq!(outcome, Outcome::Mismatch { step: at as u32, version: version(at) });
        prop_assert!(told.is_empty());
        return Ok(());
    }
    let highest = (0..parts.len()).filter(|&at| parts[at].change > 1).map(|at| told[at].1).max().unwrap_or(0);
    prop_assert_eq!(outcome, Outcome::Committed { version: highest, value: parts.len() as u64 });
    for at in 0..parts.len() {
        let old = there[at].clone().map(|(value, version, _)| (version, value));
        prop_assert_eq!(&told[at].0, &old);
        match (parts[at].change, parts[at].expiry) {
            (0, _) => {}
            (1, _) => drop(model.remove(&parts[at].key)),
            (_, expiry) => {
                let kept = there[at].as_ref().map_or(0, |(_, _, expiry)| *expiry);
                let expiry = match expiry {
                    Expiry::Never => 0,
                    Expiry::At(ms) => ms,
                    Expiry::Keep => kept,
                };
                prop_assert!(told[at].1 != version(at) && told[at].1 > 0);
                model.insert(parts[at].key, (values[at].clone(), told[at].1, expiry));
            }
        }
    }
    for n in 0..24 {
        let expected = live(model, n).map(|(value, version, _)| (version, value));
        prop_assert_eq!(read(writer, n), expected, "key {}", n);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]
    #[test]
    fn transactions_do_what_a_map_does(all in transactions(), buckets in 0..3u32) {
        let memory = Memory::new(8 << 20, 1 << buckets, 4096);
        let mut table = memory.format();
        let mut model = Model::new();
        for (at, parts) in all.iter().enumerate() {
            let now = at as u64 + 1;
            let mut writer = table.writer(at as u32 % 3);
            writer.set_now(now);
            check(&mut writer, &mut model, parts, now)?;
            drop(writer);
            table.check_invariants().expect("invariants");
            if at % 8 == 7 {
                drop(table);
                let (joined, recovery) = memory.join().expect("join");
                prop_assert!(recovery.intents.is_empty() && recovery.dropped_slots == 0);
                table = joined;
            }
        }
    }
}

#[test]
fn sixty_four_keys_go_and_one_more_does_not() {
    let memory = Memory::new(4 << 20, 4, 4096);
    let table = memory.format();
    let mut writer = table.writer(255);
    let keys: Vec<_> = (0..65).map(key).collect();
    let steps: Vec<_> = keys.iter().map(|key| Step { key, compare: Some(0), change: insert(b"v") }).collect();
    assert_eq!(transact(&mut writer, &steps).expect_err("65 keys"), Declined::TooManySteps { found: 65 });
    assert_eq!(table.stats().items, 0);
    let (outcome, told) = transact(&mut writer, &steps[..MAX_LOCKED]).expect("64 keys");
    assert!(matches!(outcome, Outcome::Committed { value: 64, .. }) && told.iter().all(|(old, new)| old.is_none() && *new > 0));
    assert_eq!(table.stats().items, 64);
    let deletes: Vec<_> = keys[..64].iter().map(|key| Step { key, compare: None, change: Change::Delete }).collect();
    let (outcome, old) = transact(&mut writer, &deletes).expect("64 keys");
    assert_eq!(outcome, Outcome::Committed { version: 0, value: 64 });
    assert!(old.iter().zip(&told).all(|(old, new)| old.1 == new.1));
    drop(writer);
    assert_eq!((table.stats().items, table.stats().overflow_lines), (0, 0));
    table.check_invariants().expect("invariants");
}

#[test]
fn empty_and_doubled_and_oversized_ones_do_nothing() {
    let memory = Memory::new(4 << 20, 4, 4096);
    let table = memory.format();
    let mut writer = table.writer(0);
    assert_eq!(transact(&mut writer, &[]), Ok((Outcome::Committed { version: 0, value: 0 }, vec![])));
    let step = |key, change| Step { key, compare: None, change };
    let twice = [step(b"a", insert(b"1")), step(b"b", Change::None), step(b"a", Change::Delete)];
    assert_eq!(transact(&mut writer, &twice).expect_err("a is there twice"), Declined::KeyTwice { first: 0, second: 2 });
    let (long_key, long_value) = (vec![b'k'; 1025], vec![0; 4097]);
    for (what, last) in [
        ("an empty key", step(b"", insert(b"1"))),
        ("an empty key that is read", step(b"", Change::None)),
        ("a long key", step(&long_key, Change::Delete)),
        ("a long value", step(b"z", insert(&long_value))),
    ] {
        let steps = [step(b"a", insert(b"1")), step(b"b", insert(b"2")), last];
        assert_eq!(transact(&mut writer, &steps), Ok((Outcome::TooLong, vec![])), "{what}");
    }
    let declined = writer.transact(&[step(b"a", insert(b"1"))], &NONE, |_| None, |_| panic!("published"));
    assert!(matches!(declined, Err(Declined::NoRoom)));
    drop(writer);
    assert_eq!(table.stats().items, 0);
    table.check_invariants().expect("what was prepared is free again");
}

fn fill(table: &Table, writer: &mut Writer<'_>, value: &[u8]) -> u64 {
    for n in 0.. {
        let key = key(n);
        if writer.insert(&key, value, table.hash(&key), Condition::None, Expiry::Never, &NONE, |outcome| *outcome)
            == Outcome::Full
        {
            return n;
        }
    }
    unreachable!("memory ends")
}

#[test]
fn a_full_table_takes_nothing_of_what_does_not_fit_whole() {
    let memory = Memory::new(1 << 20, 16, 4096);
    let table = memory.format();
    let mut writer = table.writer(0);
    let items = fill(&table, &mut writer, &[7; 1000]);
    assert!(items > 100, "{items}");
    let keys: Vec<_> = (0..20).map(|n| key(1_000_000 + n)).collect();
    let mut steps: Vec<_> = keys.iter().map(|key| Step { key, compare: None, change: insert(&[8; 1000]) }).collect();
    let (first, second) = (key(0), key(1));
    steps.push(Step { key: &first, compare: None, change: insert(b"changed") });
    steps.push(Step { key: &second, compare: None, change: Change::Delete });
    let before = table.stats().items;
    assert_eq!(transact(&mut writer, &steps), Ok((Outcome::Full, vec![])));
    assert_eq!(table.stats().items, before);
    assert_eq!(read(&writer, 0).map(|(_, value)| value), Some(vec![7; 1000]));
    assert!(read(&writer, 1).is_some());
    // What gives memory back still works, and so does what stays as large as it is.
    let same: Vec<_> = [&first, &second].map(|key| Step { key, compare: None, change: insert(&[9; 1000]) }).into();
    assert!(matches!(transact(&mut writer, &same[..1]), Ok((Outcome::Committed { .. }, _))));
    let fewer: Vec<_> = (0..30).map(key).collect();
    let fewer: Vec<_> = fewer.iter().map(|key| Step { key, compare: None, change: Change::Delete }).collect();
    assert!(matches!(transact(&mut writer, &fewer), Ok((Outcome::Committed { .. }, _))));
    assert!(matches!(transact(&mut writer, &steps[..20]), Ok((Outcome::Committed { .. }, _))));
    drop(writer);
    assert_eq!(table.stats().items, before - 30 + 20);
    let stats = table.stats();
    assert!(stats.memory_used_bytes <= stats.memory_limit_bytes, "{stats:?}");
    table.check_invariants().expect("invariants");
}

/// Whatever number of pages is left over when the heap can grow no more.
#[test]
fn a_table_full_before_the_first_transaction_takes_deletes() {
    for pages in 0..4 {
        let memory = Memory::new((1 << 20) + pages * 4096, 16, 4096);
        let table = memory.format();
        let (mut first, mut writer) = (table.writer(0), table.writer(5));
        fill(&table, &mut first, &[7; 1000]);
        let keys: Vec<_> = (0..10).map(key).collect();
        let deletes: Vec<_> = keys.iter().map(|key| Step { key, compare: None, change: Change::Delete }).collect();
        let done = transact(&mut writer, &deletes).map(|(outcome, _)| outcome);
        assert_eq!(done, Ok(Outcome::Committed { version: 0, value: 10 }), "{pages} pages more");
        let stats = table.stats();
        assert!(stats.memory_used_bytes <= stats.memory_limit_bytes, "{stats:?}");
    }
}

#[test]
fn without_memory_for_its_list_a_worker_answers_full() {
    let memory = Memory::new(1 << 20, 16, 4096);
    let table = memory.format();
    memory.refuse.store(true, Relaxed);
    let used = table.stats().memory_used_bytes;
    let steps = [Step { key: b"k", compare: None, change: insert(b"v") }];
    let mut writer = table.writer(3);
    assert_eq!(transact(&mut writer, &steps), Ok((Outcome::Full, vec![])));
    let reads = [Step { key: b"k", compare: Some(0), change: Change::None }];
    assert!(matches!(transact(&mut writer, &reads), Ok((Outcome::Committed { .. }, _))), "a read needs no list");
    memory.refuse.store(false, Relaxed);
    assert!(matches!(transact(&mut writer, &steps), Ok((Outcome::Committed { .. }, _))));
    assert!(matches!(transact(&mut table.writer(1), &steps), Ok((Outcome::Committed { .. }, _))));
    drop(writer);
    // The lists of workers 0 to 3, once.
    assert_eq!(table.stats().memory_used_bytes, used + 4 * 4096);
    drop(table);
    let (table, _) = memory.join().expect("join");
    assert_eq!(table.stats().memory_used_bytes, used + 4 * 4096);
}

#[test]
fn a_chain_at_its_cap_refuses_the_whole() {
    let memory = Memory::new(4 << 20, 1, 64);
    let table = memory.format();
    let mut writer = table.writer(0);
    let room = 7 + 16 * 6;
    // Keys that no split in the life of this table tells apart.
    let keys: Vec<_> = (0..).map(key).filter(|key| table.hash(key).is_multiple_of(256)).take(room as usize + 5).collect();
    let steps: Vec<_> = keys.iter().map(|key| Step { key, compare: None, change: insert(b"v") }).collect();
    for chunk in steps[..room as usize - 3].chunks(50) {
        assert!(matches!(transact(&mut writer, chunk), Ok((Outcome::Committed { .. }, _))));
    }
    let (before, rest) = (table.stats().items, &steps[room as usize - 3..]);
    assert_eq!(transact(&mut writer, &rest[..4]).map(|(outcome, _)| outcome), Ok(Outcome::ChainFull));
    assert_eq!(table.stats().items, before);
    assert!(matches!(transact(&mut writer, &rest[..3]), Ok((Outcome::Committed { .. }, _))));
    drop(writer);
    assert_eq!(table.stats().items, room);
    table.check_invariants().expect("invariants");
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

const ACCOUNTS: u64 = 40;
const EACH: u64 = 1000;
const STRANGERS: u64 = 20_000;

fn balance(told: &(Option<(u64, Vec<u8>)>, u64)) -> (u64, u64) {
    let (version, text) = told.0.as_ref().expect("accounts are never closed");
    (*version, u64::from_le_bytes(text[..8].try_into().expect("eight bytes")))
}

/// Moves money between two to five accounts; false when somebody came between.
fn transfer(writer: &mut Writer<'_>, random: &mut Random) -> bool {
    let mut accounts: Vec<_> = (0..2 + random.below(4)).map(|_| random.below(ACCOUNTS)).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let keys: Vec<_> = accounts.iter().map(|&n| key(n)).collect();
    let reads: Vec<_> = keys.iter().map(|key| Step { key, compare: None, change: Change::None }).collect();
    let (_, told) = transact(writer, &reads).expect("different accounts");
    let mut balances: Vec<_> = told.iter().map(balance).collect();
    for at in 1..balances.len() {
        let amount = random.below(balances[at].1 + 1);
        balances[at].1 -= amount;
        balances[0].1 += amount;
    }
    // Sometimes longer, so that memory of several classes is reused.
    let long = random.below(9) as usize * 8;
    let values: Vec<_> = balances.iter().map(|(_, balance)| [&balance.to_le_bytes()[..], &vec![0; long]].concat()).collect();
    let writes: Vec<_> =
        (0..keys.len()).map(|at| Step { key: &keys[at], compare: Some(balances[at].0), change: insert(&values[at]) }).collect();
    match transact(writer, &writes).expect("different accounts").0 {
        Outcome::Committed { .. } => true,
        Outcome::Mismatch { .. } => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn transfers_keep_the_sum_at_any_time() {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_121);
    println!("SEED={seed}");
    let memory = Memory::new(16 << 20, 4, 4096);
    let table = memory.format();
    let keys: Vec<_> = (0..ACCOUNTS).map(key).collect();
    let first = EACH.to_le_bytes();
    let open: Vec<_> = keys.iter().map(|key| Step { key, compare: Some(0), change: insert(&first) }).collect();
    assert!(transact(&mut table.writer(0), &open).is_ok());
    let done = AtomicBool::new(false);
    let (moved, sums) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let movers: Vec<_> = (0..3)
            .map(|worker| {
                let (table, moved) = (&table, &moved);
                scope.spawn(move || {
                    let (mut writer, mut random) = (table.writer(worker), Random(seed ^ u64::from(worker) << 40 | 1));
                    for _ in 0..15_000 {
                        moved.fetch_add(u64::from(transfer(&mut writer, &mut random)), Relaxed);
                    }
                })
            })
            .collect();
        // Makes the table grow under the transfers, by splits of the accounts' buckets.
        scope.spawn(|| {
            let mut writer = table.writer(8);
            for n in 0..STRANGERS {
                let key = key(ACCOUNTS + n);
                let done = writer.insert(&key, b"", table.hash(&key), Condition::None, Expiry::Never, &NONE, |outcome| *outcome);
                assert!(matches!(done, Outcome::Inserted { .. }), "{done:?}");
            }
        });
        scope.spawn(|| {
            let mut writer = table.writer(9);
            let all: Vec<_> = keys.iter().map(|key| Step { key, compare: None, change: Change::None }).collect();
            while !done.load(Relaxed) || sums.load(Relaxed) == 0 {
                let (_, told) = transact(&mut writer, &all).expect("different accounts");
                assert_eq!(told.iter().map(|told| balance(told).1).sum::<u64>(), ACCOUNTS * EACH);
                sums.fetch_add(1, Relaxed);
            }
        });
        let ended: Vec<_> = movers.into_iter().map(|mover| mover.join()).collect();
        done.store(true, Relaxed);
        assert!(ended.iter().all(|ended| ended.is_ok()));
    });
    println!("{} moved, {} sums", moved.load(Relaxed), sums.load(Relaxed));
    assert!(moved.load(Relaxed) > 1000, "transfers come about: {}", moved.load(Relaxed));
    table.check_invariants().expect("invariants");
    assert_eq!(table.stats().items, ACCOUNTS + STRANGERS);
    assert!(table.buckets() > 1000, "the table grew meanwhile");
}

/// A clear falls between two transactions, never into one: all accounts are there, or none.
#[test]
fn a_clear_takes_all_of_a_transaction_or_nothing() {
    let memory = Memory::new(16 << 20, 4, 4096);
    let table = memory.format();
    let keys: Vec<_> = (0..ACCOUNTS).map(key).collect();
    let first = EACH.to_le_bytes();
    let open: Vec<_> = keys.iter().map(|key| Step { key, compare: Some(0), change: insert(&first) }).collect();
    let again: Vec<_> = keys.iter().map(|key| Step { key, compare: None, change: insert(&first) }).collect();
    let all: Vec<_> = keys.iter().map(|key| Step { key, compare: None, change: Change::None }).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (worker, steps) in [(1, &open), (2, &again)] {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                let mut writer = table.writer(worker);
                while !done.load(Relaxed) {
                    match transact(&mut writer, steps).expect("different accounts").0 {
                        Outcome::Committed { .. } => {}
                        // All absent or all there: the first comparison tells of all.
                        Outcome::Mismatch { step, .. } => assert_eq!(step, 0),
                        other => panic!("{other:?}"),
                    }
                    writer.work_ahead(4);
                }
            });
        }
        let clearer = scope.spawn(|| {
            let mut writer = table.writer(3);
            let (mut there, mut gone) = (0, 0);
            while there < 300 || gone < 300 {
                let (_, told) = transact(&mut writer, &all).expect("different accounts");
                let open = told.iter().filter(|told| told.0.is_some()).count() as u64;
                assert!(open == 0 || open == ACCOUNTS, "{open} of {ACCOUNTS}");
                *(if open == 0 { &mut gone } else { &mut there }) += 1;
                if there % 2 == 0 {
                    assert!(matches!(writer.clear(&NONE, |outcome| *outcome), Outcome::Cleared { .. }));
                }
            }
        });
        let ended = clearer.join();
        done.store(true, Relaxed);
        assert!(ended.is_ok());
    });
    table.check_invariants().expect("invariants");
}
