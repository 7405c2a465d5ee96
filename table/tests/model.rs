//! All operations against a plain map, over keys and values of every boundary length.

mod memory;

use memory::Memory;
use proptest::prelude::*;
use std::collections::HashMap;
use table::{Condition, Expiry, Outcome, Refused, Table, Ticket, Writer};

const KEY_LENGTHS: [usize; 9] = [1, 2, 7, 8, 9, 16, 255, 1023, 1024];
const VALUE_LENGTHS: [usize; 18] = [0, 1, 7, 8, 9, 47, 48, 49, 63, 64, 65, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20];
const MAX_VALUE: usize = 1 << 20;

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, usize, u8),
    Delete(usize, u8),
    Incr(usize, i64),
    Append(usize, usize),
    Get(usize),
    DeletePrefix(usize),
    Discard(usize, usize),
    Rejoin,
}

fn key(which: usize) -> Vec<u8> {
    let len = KEY_LENGTHS[which % KEY_LENGTHS.len()];
    let seed = (which / KEY_LENGTHS.len()) as u8;
    (0..len).map(|at| b'a' + ((at as u8).wrapping_mul(3) ^ seed) % 26).collect()
}

fn value(len: usize, salt: u64) -> Vec<u8> {
    (0..len).map(|at| (at as u64).wrapping_mul(salt | 1).rotate_left(11) as u8).collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0..54usize;
    let len = prop_oneof![6 => 0..11usize, 3 => 11..14usize, 1 => 14..18usize].prop_map(|at| VALUE_LENGTHS[at]);
    let step = prop_oneof![
        8 => (which.clone(), len.clone(), 0..4u8).prop_map(|(k, l, c)| Step::Insert(k, l, c)),
        4 => (which.clone(), 0..4u8).prop_map(|(k, c)| Step::Delete(k, c)),
        3 => (which.clone(), prop_oneof![-9i64..9, Just(i64::MAX), Just(i64::MIN)]).prop_map(|(k, by)| Step::Incr(k, by)),
        3 => (which.clone(), len.clone()).prop_map(|(k, l)| Step::Append(k, l)),
        4 => which.clone().prop_map(Step::Get),
        1 => which.clone().prop_map(Step::DeletePrefix),
        1 => (which, len).prop_map(|(k, l)| Step::Discard(k, l)),
        1 => Just(Step::Rejoin),
    ];
    prop::collection::vec(step, 1..150)
}

type Model = HashMap<Vec<u8>, (Vec<u8>, u64)>;

fn condition(which: u8, model: &Model, key: &[u8]) -> (Condition, bool) {
    let version = model.get(key).map(|(_, version)| *version);
    match which {
        0 => (Condition::None, true),
        1 => (Condition::IfAbsent, version.is_none()),
        2 => (Condition::IfPresent, version.is_some()),
        _ => (Condition::IfVersion(version.unwrap_or(1)), version.is_some()),
    }
}

fn read(writer: &Writer<'_>, key: &[u8]) -> Option<(Vec<u8>, u64)> {
    let item = writer.get(key, writer.hash(key))?;
    let mut out = vec![0xaa; 3];
    writer.value_into(&item, &mut out).expect("nobody else writes");
    Some((out, item.version))
}

fn apply(writer: &mut Writer<'_>, model: &mut Model, step: &Step, salt: u64) -> Result<(), TestCaseError> {
    let ticket = Ticket { position: salt, ..Ticket::default() };
    match *step {
        Step::Insert(which, len, c) => {
            let (key, value) = (key(which), value(len, salt));
            let (condition, met) = condition(c, model, &key);
            let hash = writer.hash(&key);
            match writer.insert(&key, &value, hash, condition, Expiry::Never, &ticket, |outcome| *outcome) {
                Outcome::Inserted { version } => {
                    prop_assert!(met && model.insert(key, (value, version)).is_none());
                }
                Outcome::Replaced { version } => {
                    let old = model.insert(key, (value, version));
                    prop_assert!(met && old.is_some_and(|(_, old)| old != version));
                }
                Outcome::ConditionNotMet { version } => {
                    prop_assert!(!met);
                    prop_assert_eq!(version, model.get(&key).map_or(0, |(_, version)| *version));
                }
                other => prop_assert!(false, "insert answered {other:?}"),
            }
        }
        Step::Delete(which, c) => {
            let key = key(which);
            let (condition, met) = condition(c, model, &key);
            let hash = writer.hash(&key);
            match writer.delete(&key, hash, condition, &ticket, |outcome| *outcome) {
                Outcome::Deleted { version } => {
                    prop_assert!(met && model.remove(&key).is_some_and(|(_, old)| old == version));
                }
                Outcome::NotFound => prop_assert!(!model.contains_key(&key)),
                Outcome::ConditionNotMet { version } => {
                    prop_assert!(c == 1 || !met);
                    prop_assert_eq!(version, model.get(&key).map_or(0, |(_, version)| *version));
                }
                other => prop_assert!(false, "delete answered {other:?}"),
            }
        }
        Step::Incr(which, by) => {
            let key = key(which);
            let hash = writer.hash(&key);
            let text = model.get(&key).map_or(b"0".to_vec(), |(value, _)| value.clone());
            let old = std::str::from_utf8(&text).ok().filter(|text| !text.starts_with('+')).and_then(|t| t.parse::<i64>().ok());
            match writer.incr(&key, hash, by, Expiry::Never, &ticket, |outcome| *outcome) {
                Outcome::Number { value, version } => {
                    prop_assert_eq!(old.and_then(|old| old.checked_add(by)), Some(value));
                    model.insert(key, (value.to_string().into_bytes(), version));
                }
                Outcome::NotANumber => prop_assert!(old.is_none()),
                Outcome::Overflow => prop_assert!(old.is_some_and(|old| old.checked_add(by).is_none())),
                other => prop_assert!(false, "incr answered {other:?}"),
            }
        }
        Step::Append(which, len) => {
            let (key, more) = (key(which), value(len, salt));
            let hash = writer.hash(&key);
            let mut expected = model.get(&key).map_or(Vec::new(), |(value, _)| value.clone());
            expected.extend_from_slice(&more);
            match writer.append(&key, hash, &more, &ticket, |outcome| *outcome) {
                Outcome::Length { len, version } => {
                    prop_assert_eq!(len as usize, expected.len());
                    model.insert(key, (expected, version));
                }
                Outcome::TooLong => prop_assert!(expected.len() > MAX_VALUE),
                other => prop_assert!(false, "append answered {other:?}"),
            }
        }
        Step::Get(which) => {
            let key = key(which);
            prop_assert_eq!(read(writer, &key), model.get(&key).cloned());
        }
        Step::DeletePrefix(which) => {
            let prefix = &key(which)[..1];
            let (mut cursor, mut deleted) = (Some(0), 0);
            while let Some(at) = cursor {
                let (n, next) = writer.delete_step(at, 1, prefix);
                deleted += n;
                cursor = next;
            }
            let before = model.len();
            model.retain(|key, _| !key.starts_with(prefix));
            prop_assert_eq!(deleted as usize, before - model.len());
        }
        Step::Discard(which, len) => {
            let reservation = writer.reserve(&key(which), len as u32, 0, Expiry::Never).expect("room");
            writer.discard(reservation);
        }
        Step::Rejoin => unreachable!("done by the caller"),
    }
    Ok(())
}

fn verify(table: &Table, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(table.check_invariants(), Ok(()));
    prop_assert_eq!(table.stats().items, model.len() as u64);
    let writer = table.writer(0);
    for (key, expected) in model {
        let found = read(&writer, key);
        prop_assert_eq!(found.as_ref(), Some(expected));
    }
    let mut seen = HashMap::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = writer.scan(at, 1, &mut |view| {
            let mut out = Vec::new();
            let item = view.value_into(&mut out).expect("present");
            seen.insert(view.key().to_vec(), (out, item.version));
            true
        });
    }
    prop_assert_eq!(&seen, model);
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn behaves_like_a_map(steps in steps()) {
        let memory = Memory::new(128 << 20, 2, MAX_VALUE as u32);
        let mut table = memory.format();
        let mut model = Model::new();
        let mut salt = 0;
        let mut rest = steps.as_slice();
        while !rest.is_empty() {
            let until = rest.iter().position(|step| matches!(step, Step::Rejoin)).unwrap_or(rest.len());
            let mut writer = table.writer(2);
            for step in &rest[..until] {
                salt += 1;
                apply(&mut writer, &mut model, step, salt)?;
            }
            // Half of the successors find a writer that never cleaned up.
            if salt % 2 == 0 { std::mem::forget(writer) } else { drop(writer) }
            rest = rest.get(until + 1..).unwrap_or(&[]);
            drop(table);
            let (joined, recovery) = memory.join().expect("join");
            prop_assert_eq!((recovery.items, recovery.dropped_slots, recovery.repaired_buckets), (model.len() as u64, 0, 0));
            prop_assert!(recovery.intents.is_empty());
            table = joined;
            verify(&table, &model)?;
        }
    }
}

#[test]
fn lengths_at_every_boundary_round_trip() {
    let memory = Memory::new(64 << 20, 16, MAX_VALUE as u32);
    let table = memory.format();
    let mut writer = table.writer(0);
    let mut model = Model::new();
    for (k, &key_len) in KEY_LENGTHS.iter().enumerate() {
        for &len in &VALUE_LENGTHS {
            let key: Vec<u8> = vec![k as u8; key_len];
            let value = value(len, (len + key_len) as u64);
            let hash = writer.hash(&key);
            match writer.insert(&key, &value, hash, Condition::None, Expiry::Never, &Ticket::default(), |outcome| *outcome) {
                Outcome::Inserted { version } | Outcome::Replaced { version } => model.insert(key.clone(), (value, version)),
                other => panic!("{key_len}/{len}: {other:?}"),
            };
            assert_eq!(read(&writer, &key), model.get(&key).cloned(), "{key_len}/{len}");
        }
    }
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn impossible_lengths_are_refused_and_cost_nothing() {
    let memory = Memory::new(4 << 20, 16, 100);
    let table = memory.format();
    let mut writer = table.writer(0);
    assert_eq!(writer.reserve(b"", 1, 0, Expiry::Never).err(), Some(Refused::KeyLength { found: 0 }));
    assert_eq!(writer.reserve(&[1; 1025], 1, 0, Expiry::Never).err(), Some(Refused::KeyLength { found: 1025 }));
    assert_eq!(writer.reserve(b"k", 101, 0, Expiry::Never).err(), Some(Refused::ValueLength { found: 101, most: 100 }));
    let long = [1; 1025];
    for key in [&b""[..], &long] {
        let hash = writer.hash(key);
        let ticket = Ticket::default();
        assert_eq!(writer.insert(key, b"v", hash, Condition::None, Expiry::Never, &ticket, |o| *o), Outcome::TooLong);
        assert_eq!(writer.incr(key, hash, 1, Expiry::Never, &ticket, |o| *o), Outcome::TooLong);
        assert_eq!(writer.append(key, hash, b"v", &ticket, |o| *o), Outcome::TooLong);
        assert_eq!(writer.delete(key, hash, Condition::None, &ticket, |o| *o), Outcome::NotFound);
        assert_eq!(writer.get(key, hash), None);
    }
    drop(writer);
    assert_eq!(table.stats().items, 0);
    table.check_invariants().expect("invariants");
}
