//! Keys and values of every length at which something changes: size classes, runs of units, the limits.

mod memory;

use memory::Memory;
use table::{Condition, Expiry, ITEM_HEADER, MAX_KEY, MAX_VALUE, Outcome, Reader, Refused, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };
/// The allocator's unit.
const UNIT: usize = 16 * 1024;

fn insert(writer: &mut Writer<'_>, key: &[u8], value: &[u8]) -> Outcome {
    let hash = writer.hash(key);
    writer.insert(key, value, hash, Condition::None, Expiry::Never, &NONE, |outcome| *outcome)
}

fn value(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) ^ len) as u8).collect()
}

/// Lengths of whole items around every edge: header and key included.
fn item_lengths() -> Vec<usize> {
    let mut edges: Vec<usize> = (24..=128).step_by(8).collect();
    edges.extend((7..17).flat_map(|log| (1..=8usize).map(move |step| (1 << log) + (1 << log) / 8 * step)));
    // Beyond the largest class items are runs of units.
    edges.extend((8..=12).map(|units| units * UNIT));
    edges.extend([64 * UNIT, 127 * UNIT, 128 * UNIT]);
    edges.iter().flat_map(|&edge| [edge - 1, edge, edge + 1]).collect()
}

#[test]
fn items_of_every_class_edge_round_trip_grow_and_shrink() {
    let memory = Memory::new(96 << 20, 1, MAX_VALUE);
    let table = memory.format();
    let mut writer = table.writer(0);
    // SAFETY: the memory outlives the reader.
    let reader = unsafe { Reader::join(memory.base(), memory.len()) }.expect("join");
    let lengths = item_lengths();
    let mut out = Vec::new();
    for key_len in [1, 7, 8, 9, 16, MAX_KEY] {
        let key = vec![b'k'; key_len];
        let values: Vec<Vec<u8>> = lengths
            .iter()
            .filter_map(|len| len.checked_sub(ITEM_HEADER as usize + key_len))
            .filter(|&len| len <= MAX_VALUE as usize)
            .map(value)
            .collect();
        assert!(values.len() > 100);
        // Upwards, downwards, and each beside the largest.
        let largest = values.last().expect("some");
        for value in values.iter().chain(values.iter().rev()).chain(values.iter().flat_map(|value| [value, largest])) {
            let outcome = insert(&mut writer, &key, value);
            assert!(
                matches!(outcome, Outcome::Inserted { .. } | Outcome::Replaced { .. }),
                "{key_len}/{}: {outcome:?}",
                value.len()
            );
            let hash = writer.hash(&key);
            let item = writer.get(&key, hash).expect("present");
            writer.value_into(&item, &mut out).expect("quiet");
            assert!(out == *value, "{key_len}/{}", value.len());
            let seen = reader.get_into(&key, hash, &mut out).expect("quiet").expect("present");
            assert_eq!(seen.version(), item.version);
            assert!(out == *value, "{key_len}/{}: direct", value.len());
        }
    }
    assert_eq!(table.stats().items, 6);
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn the_longest_key_with_the_longest_value_is_kept_across_a_join() {
    let memory = Memory::new(64 << 20, 1, MAX_VALUE);
    let table = memory.format();
    let mut writer = table.writer(0);
    let longest = value(MAX_VALUE as usize);
    for n in 0..5u8 {
        assert!(matches!(insert(&mut writer, &[n; MAX_KEY], &longest), Outcome::Inserted { .. }));
        // One byte more does not go, by whatever way.
        let hash = writer.hash(&[n; MAX_KEY]);
        assert_eq!(writer.append(&[n; MAX_KEY], hash, b"x", &NONE, |outcome| *outcome), Outcome::TooLong);
        assert_eq!(insert(&mut writer, &[n; MAX_KEY], &value(MAX_VALUE as usize + 1)), Outcome::TooLong);
        assert!(matches!(insert(&mut writer, &[n], b""), Outcome::Inserted { .. }));
    }
    std::mem::forget(writer);
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (10, 0));
    let writer = table.writer(0);
    let mut out = Vec::new();
    for n in 0..5u8 {
        let item = writer.get(&[n; MAX_KEY], table.hash(&[n; MAX_KEY])).expect("present");
        writer.value_into(&item, &mut out).expect("quiet");
        assert!(out == longest, "{n}");
        assert_eq!(writer.get(&[n], table.hash(&[n])).map(|item| item.value_len), Some(0));
    }
    drop(writer);
    table.check_invariants().expect("invariants");
}

#[test]
fn appends_cross_every_class_on_the_way_up() {
    let memory = Memory::new(32 << 20, 1, MAX_VALUE);
    let table = memory.format();
    let mut writer = table.writer(0);
    let (hash, whole) = (writer.hash(b"log"), value(300_000));
    let (mut len, mut out) = (0, Vec::new());
    while len < whole.len() {
        let more = (1 + len / 9).min(whole.len() - len);
        let outcome = writer.append(b"log", hash, &whole[len..len + more], &NONE, |outcome| *outcome);
        len += more;
        assert!(matches!(outcome, Outcome::Length { len: now, .. } if now as usize == len), "{outcome:?}");
        let item = writer.get(b"log", hash).expect("present");
        writer.value_into(&item, &mut out).expect("quiet");
        assert!(out == whole[..len], "{len}");
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
