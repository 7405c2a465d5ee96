//! All operations against a plain map, over keys and values of every boundary length, while the table grows, items expire and clears
//! take all there is. The time is the test's.

mod memory;

use memory::Memory;
use proptest::prelude::*;
use std::collections::HashMap;
use table::{Ahead, Condition, Expiry, Outcome, Table, Ticket, Writer};

const KEY_LENGTHS: [usize; 9] = [1, 2, 7, 8, 9, 16, 255, 1023, 1024];
const VALUE_LENGTHS: [usize; 18] = [0, 1, 7, 8, 9, 47, 48, 49, 63, 64, 65, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20];
const MAX_VALUE: usize = 1 << 20;

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, usize, u8, Expiry),
    /// Many small keys at once, so that the table grows.
    Crowd(u8, Expiry),
    Delete(usize, u8),
    Incr(usize, i64, Expiry),
    Expire(usize, Expiry),
    Tick(u64),
    WorkAhead(u32),
    Clear,
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

/// Times are relative to now; the model makes them absolute.
fn expiries() -> impl Strategy<Value = Expiry> {
    prop_oneof![4 => Just(Expiry::Never), 3 => (0..60u64).prop_map(Expiry::At), 1 => Just(Expiry::Keep)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0..54usize;
    let len = prop_oneof![6 => 0..11usize, 3 => 11..14usize, 1 => 14..18usize].prop_map(|at| VALUE_LENGTHS[at]);
    let step = prop_oneof![
        8 => (which.clone(), len.clone(), 0..4u8, expiries()).prop_map(|(k, l, c, e)| Step::Insert(k, l, c, e)),
        2 => (0..12u8, expiries()).prop_map(|(n, e)| Step::Crowd(n, e)),
        4 => (which.clone(), 0..4u8).prop_map(|(k, c)| Step::Delete(k, c)),
        3 => (which.clone(), prop_oneof![-9i64..9, Just(i64::MAX), Just(i64::MIN)], expiries())
            .prop_map(|(k, by, e)| Step::Incr(k, by, e)),
        3 => (which.clone(), expiries()).prop_map(|(k, e)| Step::Expire(k, e)),
        3 => (1..25u64).prop_map(Step::Tick),
        3 => (1..40u32).prop_map(Step::WorkAhead),
        1 => Just(Step::Clear),
        3 => (which.clone(), len.clone()).prop_map(|(k, l)| Step::Append(k, l)),
        4 => which.clone().prop_map(Step::Get),
        1 => which.clone().prop_map(Step::DeletePrefix),
        1 => (which, len).prop_map(|(k, l)| Step::Discard(k, l)),
        1 => Just(Step::Rejoin),
    ];
    prop::collection::vec(step, 1..150)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    version: u64,
    /// 0: never.
    expiry: u64,
}

struct Model {
    entries: HashMap<Vec<u8>, Entry>,
    now: u64,
    /// Items whose slots the table may hold still: dead ones that nothing has come across.
    gone: u64,
}

impl Model {
    fn expiry(&self, wanted: Expiry, key: &[u8]) -> Expiry {
        match wanted {
            Expiry::At(ms) => Expiry::At(self.now + ms),
            Expiry::Keep if !self.entries.contains_key(key) => Expiry::Keep,
            other => other,
        }
    }

    /// What a stored expiry is to read as.
    fn word(&self, expiry: Expiry, key: &[u8]) -> u64 {
        match expiry {
            Expiry::Never => 0,
            Expiry::At(ms) => ms,
            Expiry::Keep => self.entries.get(key).map_or(0, |entry| entry.expiry),
        }
    }

    /// Stores an entry; what was there. One that is dead from the start is not there.
    fn store(&mut self, key: Vec<u8>, value: Vec<u8>, version: u64, expiry: u64) -> Option<Entry> {
        let old = self.entries.remove(&key);
        self.entries.insert(key, Entry { value, version, expiry });
        self.bury();
        old
    }

    fn bury(&mut self) {
        let (before, now) = (self.entries.len(), self.now);
        self.entries.retain(|_, entry| entry.expiry == 0 || entry.expiry > now);
        self.gone += (before - self.entries.len()) as u64;
    }
}

fn condition(which: u8, model: &Model, key: &[u8]) -> (Condition, bool) {
    let version = model.entries.get(key).map(|entry| entry.version);
    match which {
        0 => (Condition::None, true),
        1 => (Condition::IfAbsent, version.is_none()),
        2 => (Condition::IfPresent, version.is_some()),
        _ => (Condition::IfVersion(version.unwrap_or(1)), version.is_some()),
    }
}

fn read(writer: &Writer<'_>, key: &[u8]) -> Option<Entry> {
    let item = writer.get(key, writer.hash(key))?;
    let mut out = vec![0xaa; 3];
    writer.value_into(&item, &mut out).expect("nobody else writes");
    Some(Entry { value: out, version: item.version, expiry: item.expiry })
}

fn insert(
    writer: &mut Writer<'_>,
    model: &mut Model,
    key: Vec<u8>,
    value: Vec<u8>,
    which: u8,
    expiry: Expiry,
) -> Result<(), TestCaseError> {
    let (condition, met) = condition(which, model, &key);
    let (hash, expiry) = (writer.hash(&key), model.expiry(expiry, &key));
    let word = model.word(expiry, &key);
    match writer.insert(&key, &value, hash, condition, expiry, &Ticket::default(), |outcome| *outcome) {
        Outcome::Inserted { version } => prop_assert!(met && model.store(key, value, version, word).is_none()),
        Outcome::Replaced { version } => {
            let old = model.store(key, value, version, word);
            prop_assert!(met && old.is_some_and(|old| old.version != version));
        }
        Outcome::ConditionNotMet { version } => {
            prop_assert!(!met);
            prop_assert_eq!(version, model.entries.get(&key).map_or(0, |entry| entry.version));
        }
        other => prop_assert!(false, "insert answered {other:?}"),
    }
    Ok(())
}

fn apply(writer: &mut Writer<'_>, model: &mut Model, step: &Step, salt: u64) -> Result<(), TestCaseError> {
    let ticket = Ticket { position: salt, ..Ticket::default() };
    match *step {
        Step::Insert(which, len, c, expiry) => insert(writer, model, key(which), value(len, salt), c, expiry)?,
        Step::Crowd(which, expiry) => {
            for n in 0..48u8 {
                insert(writer, model, vec![b'C', which, n, n ^ which, 7], value(usize::from(n % 20), salt), 0, expiry)?;
            }
        }
        Step::Delete(which, c) => {
            let key = key(which);
            let (condition, met) = condition(c, model, &key);
            let hash = writer.hash(&key);
            match writer.delete(&key, hash, condition, &ticket, |outcome| *outcome) {
                Outcome::Deleted { version } => {
                    prop_assert!(met && model.entries.remove(&key).is_some_and(|old| old.version == version));
                }
                Outcome::NotFound => prop_assert!(!model.entries.contains_key(&key)),
                Outcome::ConditionNotMet { version } => {
                    prop_assert!(c == 1 || !met);
                    prop_assert_eq!(version, model.entries.get(&key).map_or(0, |entry| entry.version));
                }
                other => prop_assert!(false, "delete answered {other:?}"),
            }
        }
        Step::Incr(..) | Step::Append(..) => change(writer, model, step, &ticket)?,
        Step::Get(which) => {
            let key = key(which);
            prop_assert_eq!(read(writer, &key), model.entries.get(&key).cloned());
        }
        Step::Expire(which, expiry) => {
            let key = key(which);
            let (hash, expiry) = (writer.hash(&key), model.expiry(expiry, &key));
            let word = model.word(expiry, &key);
            match writer.expire(&key, hash, expiry, &ticket, |outcome| *outcome) {
                Outcome::Expires { version } => {
                    let entry = model.entries.get_mut(&key).expect("present");
                    prop_assert_eq!(entry.version, version);
                    entry.expiry = word;
                    model.bury();
                }
                Outcome::NotFound => prop_assert!(!model.entries.contains_key(&key)),
                other => prop_assert!(false, "expire answered {other:?}"),
            }
        }
        Step::Tick(ms) => {
            model.now += ms;
            writer.set_now(model.now);
            model.bury();
        }
        Step::WorkAhead(buckets) => drop(writer.work_ahead(buckets)),
        Step::Clear => {
            let Outcome::Cleared { count } = writer.clear(&ticket, |outcome| *outcome) else {
                return Err(TestCaseError::fail("clear answers otherwise"));
            };
            let there = model.entries.len() as u64;
            prop_assert!((there..=there + model.gone).contains(&count), "{count} cleared, {there} were there");
            model.entries.clear();
        }
        Step::DeletePrefix(which) => {
            let prefix = &key(which)[..1];
            let (mut cursor, mut deleted) = (Some(0), 0);
            while let Some(at) = cursor {
                let (n, next) = writer.delete_step(at, 1, prefix);
                deleted += n;
                cursor = next;
            }
            let before = model.entries.len();
            model.entries.retain(|key, _| !key.starts_with(prefix));
            prop_assert_eq!(deleted as usize, before - model.entries.len());
        }
        Step::Discard(which, len) => {
            let reservation = writer.reserve(&key(which), len as u32, 0, Expiry::Never).expect("room");
            writer.discard(reservation);
        }
        Step::Rejoin => unreachable!("done by the caller"),
    }
    Ok(())
}

/// The steps that depend on the old value.
fn change(writer: &mut Writer<'_>, model: &mut Model, step: &Step, ticket: &Ticket) -> Result<(), TestCaseError> {
    match *step {
        Step::Incr(which, by, expiry) => {
            let key = key(which);
            let (hash, expiry) = (writer.hash(&key), model.expiry(expiry, &key));
            let entry = model.entries.get(&key);
            let text = entry.map_or(b"0".to_vec(), |entry| entry.value.clone());
            let word = entry.map_or_else(|| model.word(expiry, &key), |entry| entry.expiry);
            let old = std::str::from_utf8(&text).ok().filter(|text| !text.starts_with('+')).and_then(|t| t.parse::<i64>().ok());
            match writer.incr(&key, hash, by, expiry, ticket, |outcome| *outcome) {
                Outcome::Number { value, version } => {
                    prop_assert_eq!(old.and_then(|old| old.checked_add(by)), Some(value));
                    model.store(key, value.to_string().into_bytes(), version, word);
                }
                Outcome::NotANumber => prop_assert!(old.is_none()),
                Outcome::Overflow => prop_assert!(old.is_some_and(|old| old.checked_add(by).is_none())),
                other => prop_assert!(false, "incr answered {other:?}"),
            }
        }
        Step::Append(which, len) => {
            let (key, more) = (key(which), value(len, ticket.position));
            let hash = writer.hash(&key);
            let entry = model.entries.get(&key);
            let word = entry.map_or(0, |entry| entry.expiry);
            let mut expected = entry.map_or(Vec::new(), |entry| entry.value.clone());
            expected.extend_from_slice(&more);
            match writer.append(&key, hash, &more, ticket, |outcome| *outcome) {
                Outcome::Length { len, version } => {
                    prop_assert_eq!(len as usize, expected.len());
                    model.store(key, expected, version, word);
                }
                Outcome::TooLong => prop_assert!(expected.len() > MAX_VALUE),
                other => prop_assert!(false, "append answered {other:?}"),
            }
        }
        _ => unreachable!("the others do not depend on it"),
    }
    Ok(())
}

/// Compares everything, once the sweep has taken what it left.
fn verify(table: &Table, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(table.check_invariants(), Ok(()));
    let mut writer = table.writer(0);
    writer.set_now(model.now);
    for (key, expected) in &model.entries {
        let found = read(&writer, key);
        prop_assert_eq!(found.as_ref(), Some(expected));
    }
    let mut seen = HashMap::new();
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = writer.scan(at, 1, &mut |view| {
            let mut out = Vec::new();
            let item = view.value_into(&mut out).expect("present");
            seen.insert(view.key().to_vec(), Entry { value: out, version: item.version, expiry: item.expiry });
            true
        });
    }
    prop_assert_eq!(&seen, &model.entries);
    while writer.work_ahead(64) == Ahead::More {}
    prop_assert_eq!(table.stats().items, model.entries.len() as u64);
    drop(writer);
    prop_assert_eq!(table.check_invariants(), Ok(()));
    Ok(())
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn behaves_like_a_map(steps in steps()) {
        let memory = Memory::new(128 << 20, 2, MAX_VALUE as u32);
        let mut table = memory.format();
        let mut model = Model { entries: HashMap::new(), now: 1, gone: 0 };
        let mut salt = 0;
        let mut rest = steps.as_slice();
        while !rest.is_empty() {
            let until = rest.iter().position(|step| matches!(step, Step::Rejoin)).unwrap_or(rest.len());
            let mut writer = table.writer(2);
            writer.set_now(model.now);
            for step in &rest[..until] {
                salt += 1;
                apply(&mut writer, &mut model, step, salt)?;
            }
            // Half of the successors find a writer that never cleaned up.
            if salt % 2 == 0 { std::mem::forget(writer) } else { drop(writer) }
            rest = rest.get(until + 1..).unwrap_or(&[]);
            drop(table);
            let (joined, recovery) = memory.join().expect("join");
            let there = model.entries.len() as u64;
            prop_assert!((there..=there + model.gone).contains(&recovery.items), "{} joined, {there} are alive", recovery.items);
            prop_assert!(recovery.dropped_slots == 0 && recovery.intents.is_empty());
            table = joined;
            verify(&table, &model)?;
            model.gone = 0;
        }
    }
}
