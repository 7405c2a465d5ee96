//! The reader's lookups against the writer's: alone, in batches, through handles, on dead items and on scribbled memory.

mod memory;

use memory::Memory;
use proptest::prelude::*;
use std::collections::HashMap;
use table::{BATCH, Condition, Expiry, Outcome, Reader, Reread, Seen, Table, Ticket, Writer};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };
/// Offsets of header words that tests write by hand.
const BUCKET_COUNT: u64 = 640;
const VERSION_FLOOR: u64 = 648;

fn reader(memory: &Memory) -> Reader<'_> {
    // SAFETY: the memory outlives the reader.
    unsafe { Reader::join(memory.base(), memory.len()) }.expect("join")
}

fn key(n: usize) -> Vec<u8> {
    let mut key = format!("{n}-").into_bytes();
    key.resize(key.len() + n * 5 % 40, b'k');
    key
}

fn value(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (n * 31 + at * 7) as u8).collect()
}

fn put(writer: &mut Writer<'_>, key: &[u8], value: &[u8]) -> u64 {
    put_until(writer, key, value, Expiry::Never)
}

fn put_until(writer: &mut Writer<'_>, key: &[u8], value: &[u8], expiry: Expiry) -> u64 {
    let hash = writer.hash(key);
    match writer.insert(key, value, hash, Condition::None, expiry, &NONE, |outcome| *outcome) {
        Outcome::Inserted { version } | Outcome::Replaced { version } => version,
        other => panic!("insert answered {other:?}"),
    }
}

fn remove(writer: &mut Writer<'_>, key: &[u8]) {
    let hash = writer.hash(key);
    let outcome = writer.delete(key, hash, Condition::None, &NONE, |outcome| *outcome);
    assert!(matches!(outcome, Outcome::Deleted { .. }), "{outcome:?}");
}

fn find(reader: &Reader<'_>, key: &[u8]) -> Option<(Seen, Vec<u8>)> {
    let mut out = vec![1, 2, 3];
    let found = reader.get_into(key, reader.hash(key), &mut out).expect("nobody writes");
    assert!(found.is_some() || out.is_empty());
    found.map(|item| (item, out))
}

/// Keys 0 to `count` with values of all sizes in a table of so many buckets; every third key is absent.
fn fill(table: &Table, count: usize) -> HashMap<Vec<u8>, Vec<u8>> {
    let mut writer = table.writer(0);
    let sizes = [0, 1, 7, 8, 9, 16, 31, 64, 100, 1000, 4096, 70_000];
    let pairs = (0..count).filter(|n| n % 3 != 0).map(|n| (key(n), value(n, sizes[n % sizes.len()])));
    let pairs: HashMap<_, _> = pairs.collect();
    for (key, value) in &pairs {
        put(&mut writer, key, value);
    }
    pairs
}

#[test]
fn every_way_to_look_up_agrees_with_what_was_written() {
    // With two buckets most keys rest in overflow lines, with many most rest alone.
    for buckets in [2, 4096] {
        let memory = Memory::new(32 << 20, buckets, 1 << 17);
        let table = memory.format();
        let all = fill(&table, 150);
        let reader = reader(&memory);
        let keys: Vec<_> = (0..150).map(key).collect();
        for key in &keys {
            assert_eq!(find(&reader, key).map(|(_, bytes)| bytes).as_ref(), all.get(key));
        }
        let (mut room, mut next) = (Vec::new(), 0);
        reader.get_batch(&keys, &mut room, |number, answer, bytes| {
            assert_eq!(number, next);
            next += 1;
            let item = answer.expect("nobody writes");
            assert_eq!(item.map(|_| bytes), all.get(&keys[number]).map(|value| &value[..]));
            assert_eq!(item, find(&reader, &keys[number]).map(|(item, _)| item));
        });
        assert_eq!(next, keys.len());
        assert_eq!(reader.retries(), 0);
    }
}

#[test]
fn batches_of_every_length_answer_each_key_once() {
    let memory = Memory::new(32 << 20, 64, 1 << 17);
    let table = memory.format();
    let all = fill(&table, 100);
    let reader = reader(&memory);
    for len in 0..=3 * BATCH {
        let keys: Vec<_> = (0..len).map(key).collect();
        let mut seen = Vec::new();
        reader.get_batch(&keys, &mut Vec::new(), |number, answer, bytes| {
            seen.push((number, answer.expect("nobody writes").map(|_| bytes.to_vec())));
        });
        let expected: Vec<_> = keys.iter().map(|key| all.get(key).cloned()).enumerate().collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_buffer_too_short_gets_the_beginning_and_the_whole_length() {
    let memory = Memory::new(4 << 20, 16, 4096);
    let table = memory.format();
    let whole = value(1, 1000);
    put(&mut table.writer(0), b"key", &whole);
    let reader = reader(&memory);
    for len in [0, 1, 8, 63, 999, 1000, 1001, 1100] {
        let mut out = vec![0xee; len];
        let item = reader.get_to(b"key", reader.hash(b"key"), &mut out).unwrap().expect("the key");
        assert_eq!(item.value_len(), 1000);
        let copied = len.min(1000);
        assert_eq!(out[..copied], whole[..copied]);
        assert!(out[copied..].iter().all(|byte| *byte == 0xee));
    }
    assert_eq!(reader.get_to(b"other", reader.hash(b"other"), &mut [0; 8]), Ok(None));
}

#[test]
fn dead_items_are_absent_for_every_way_to_look_up() {
    let memory = Memory::new(4 << 20, 16, 4096);
    let table = memory.format();
    let mut writer = table.writer(0);
    writer.set_now(1000);
    let first = put(&mut writer, b"first", b"1");
    let second = put_until(&mut writer, b"second", b"2", Expiry::At(5000));
    let mut reader = reader(&memory);
    let mut handles = [reader.handle(b"first"), reader.handle(b"second")];
    let see = |reader: &Reader<'_>, handles: &mut [table::Handle; 2]| {
        let keys = [b"first".as_slice(), b"second"];
        let single = keys.map(|key| find(reader, key).is_some());
        let mut batch = Vec::new();
        reader.get_batch(&keys, &mut Vec::new(), |_, answer, _| batch.push(answer.unwrap().is_some()));
        let handles = handles.each_mut().map(|handle| reader.reread(handle, &mut Vec::new()).unwrap() != Reread::Gone);
        assert_eq!((single.as_slice(), handles), (batch.as_slice(), single));
        single
    };
    assert_eq!(see(&reader, &mut handles), [true, true]);
    reader.set_now(4999);
    assert_eq!(see(&reader, &mut handles), [true, true]);
    reader.set_now(5000);
    assert_eq!(see(&reader, &mut handles), [true, false]);
    reader.set_now(4999);
    assert_eq!(see(&reader, &mut handles), [true, true]);
    assert!(first < second);
    memory.word(VERSION_FLOOR).store(second, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(see(&reader, &mut handles), [false, true]);
    memory.word(VERSION_FLOOR).store(second + 1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(see(&reader, &mut handles), [false, false]);
    assert_eq!(put(&mut writer, b"first", b"1") > second, see(&reader, &mut handles)[0]);
    writer.clear(&NONE, |_| ());
    assert_eq!(see(&reader, &mut handles), [false, false]);
    put(&mut writer, b"first", b"1");
    assert_eq!(see(&reader, &mut handles), [true, false]);
}

#[test]
fn a_region_tells_its_own_time() {
    let memory = Memory::new(4 << 20, 16, 4096);
    let _table = memory.format();
    let reader = reader(&memory);
    let (before, copy) = (reader.now_ms(), reader.clone());
    assert!(copy.now_ms() >= before);
}

#[test]
fn a_handle_tells_unchanged_changed_and_gone() {
    let memory = Memory::new(4 << 20, 2, 4096);
    let table = memory.format();
    let mut writer = table.writer(0);
    let reader = reader(&memory);
    let mut out = Vec::new();
    for n in 0..40 {
        // Some of these keys come to rest in overflow lines, whose slots no handle keeps.
        let key = key(n);
        let mut handle = reader.handle(&key);
        assert_eq!((handle.key(), handle.version()), (&key[..], 0));
        assert_eq!(reader.reread(&mut handle, &mut out), Ok(Reread::Gone));
        let version = put(&mut writer, &key, b"one");
        let changed = reader.reread(&mut handle, &mut out).unwrap();
        assert!(matches!(changed, Reread::Changed(item) if item.version() == version), "{changed:?}");
        assert_eq!((out.as_slice(), handle.version()), (b"one".as_slice(), version));
        out.clear();
        for _ in 0..3 {
            assert_eq!(reader.reread(&mut handle, &mut out), Ok(Reread::Unchanged));
            assert!(out.is_empty() || out == b"one");
        }
        put(&mut writer, &key, b"three");
        let mut room = [0; 8];
        let changed = reader.reread_to(&mut handle, &mut room).unwrap();
        assert!(matches!(changed, Reread::Changed(item) if item.value_len() == 5));
        assert_eq!(&room[..5], b"three");
        remove(&mut writer, &key);
        assert_eq!(reader.reread(&mut handle, &mut out), Ok(Reread::Gone));
        assert_eq!(handle.version(), 0);
        put(&mut writer, &key, b"again");
        assert!(matches!(reader.reread(&mut handle, &mut out), Ok(Reread::Changed(_))));
        assert_eq!(out, b"again");
    }
}

#[test]
fn an_item_that_moved_is_unchanged_and_one_that_came_back_is_not() {
    let memory = Memory::new(4 << 20, 1, 4096);
    let table = memory.format();
    let mut writer = table.writer(0);
    let reader = reader(&memory);
    let version = put(&mut writer, b"key", b"value");
    let mut handle = reader.handle(b"key");
    let mut out = Vec::new();
    assert!(matches!(reader.reread(&mut handle, &mut out), Ok(Reread::Changed(_))));
    // As growth does it: another slot, the same item.
    let bucket = reader_bucket(&memory);
    let (first, last) = (memory.word(bucket + 8), memory.word(bucket + 48));
    last.store(first.load(Relaxed), Relaxed);
    first.store(0, Relaxed);
    assert_eq!((reader.reread(&mut handle, &mut out), handle.version()), (Ok(Reread::Unchanged), version));
    assert_eq!(reader.reread(&mut handle, &mut out), Ok(Reread::Unchanged));
    // The same slot and the same offset, but another item: the block of the deleted one is used again.
    let place = |writer: &Writer<'_>| writer.get(b"key", writer.hash(b"key")).expect("the key").offset;
    let before = place(&writer);
    let slot = last.load(Relaxed);
    remove(&mut writer, b"key");
    let again = put(&mut writer, b"key", b"other");
    assert_eq!(before, place(&writer), "the allocator hands the warm block out again");
    first.store(0, Relaxed);
    last.store(slot, Relaxed);
    let changed = reader.reread(&mut handle, &mut out).unwrap();
    assert!(matches!(changed, Reread::Changed(item) if item.version() == again), "{changed:?}");
}

use std::sync::atomic::Ordering::Relaxed;

/// Offset of the first bucket: the fifth part of the directory.
fn reader_bucket(memory: &Memory) -> u64 {
    memory.word(128 + 4 * 32 + 8).load(Relaxed)
}

#[test]
fn a_handle_of_another_region_begins_anew() {
    let (one, two) = (Memory::new(4 << 20, 16, 4096), Memory::new(4 << 20, 16, 4096));
    let (first, second) = (one.format(), two.format());
    put(&mut first.writer(0), b"key", b"one");
    put(&mut second.writer(0), b"key", b"two");
    // Another id and another seed, as another server would have made it.
    two.word(32).store(99, Relaxed);
    let (one, two) = (reader(&one), reader(&two));
    let mut handle = one.handle(b"key");
    let mut out = Vec::new();
    assert!(matches!(one.reread(&mut handle, &mut out), Ok(Reread::Changed(_))));
    assert!(matches!(two.reread(&mut handle, &mut out), Ok(Reread::Changed(_))));
    assert_eq!(out, b"two");
    assert_eq!(two.reread(&mut handle, &mut out), Ok(Reread::Unchanged));
}

#[test]
fn a_bucket_that_stays_odd_is_busy_and_no_more() {
    let memory = Memory::new(4 << 20, 1, 4096);
    let table = memory.format();
    put(&mut table.writer(0), b"key", b"value");
    let reader = reader(&memory);
    let mut handle = reader.handle(b"key");
    assert!(matches!(reader.reread(&mut handle, &mut Vec::new()), Ok(Reread::Changed(_))));
    let version = memory.word(reader_bucket(&memory));
    version.fetch_add(1, Relaxed);
    assert_eq!(reader.get_to(b"key", reader.hash(b"key"), &mut [0; 8]), Err(table::Busy));
    let mut batch = Vec::new();
    reader.get_batch(&[b"key", b"not"], &mut Vec::new(), |_, answer, _| batch.push(answer));
    assert_eq!(batch, [Err(table::Busy), Err(table::Busy)]);
    // Nothing else than this item can have come to stand there: K1.
    assert_eq!(reader.reread(&mut handle, &mut Vec::new()), Ok(Reread::Unchanged));
    assert!(reader.retries() > 0);
    version.fetch_add(1, Relaxed);
    assert!(find(&reader, b"key").is_some());
}

#[test]
fn a_bucket_count_beyond_the_committed_buckets_is_not_followed() {
    let memory = Memory::new(4 << 20, 4, 4096);
    let table = memory.format();
    put(&mut table.writer(0), b"key", b"value");
    let reader = reader(&memory);
    let good = memory.word(BUCKET_COUNT).load(Relaxed);
    for scribbled in [u64::MAX, 0x3f, 0x28, u64::MAX << 8 | 30, 1 << 63 | 40] {
        memory.word(BUCKET_COUNT).store(scribbled, Relaxed);
        for n in 0..50 {
            let _ = reader.get_to(&key(n), reader.hash(&key(n)), &mut [0; 8]);
        }
    }
    memory.word(BUCKET_COUNT).store(good, Relaxed);
    assert!(find(&reader, b"key").is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever stands in the memory, a reader answers something and stays inside: the section refuses every access beyond.
    #[test]
    fn scribbled_memory_never_leads_a_reader_outside(
        scribbles in prop::collection::vec((0u8..5, any::<u64>(), any::<u64>()), 1..400),
        buckets in prop::sample::select(vec![1u64, 8, 256]),
    ) {
        let memory = Memory::new(4 << 20, buckets, 4096);
        let table = memory.format();
        let mut writer = table.writer(0);
        let keys: Vec<_> = (0..60).map(key).collect();
        for (n, key) in keys.iter().enumerate() {
            put(&mut writer, key, &value(n, n * 13 % 300));
        }
        let reader = reader(&memory);
        let mut handles: Vec<_> = keys.iter().map(|key| reader.handle(key)).collect();
        let mut out = Vec::new();
        for handle in &mut handles {
            let _ = reader.reread(handle, &mut out);
        }
        let items: Vec<_> = keys.iter().filter_map(|key| writer.get(key, writer.hash(key))).collect();
        let (first_bucket, words) = (reader_bucket(&memory), memory.len() / 8);
        for (target, place, word) in scribbles {
            let at = match target {
                // Header, but for what was copied when the reader joined: those words are not read again.
                0 => 640 + place % 3 * 8,
                1 => first_bucket + place % (buckets * 8) * 8,
                2 => items[place as usize % items.len()].offset + place / 64 % 8 * 8,
                3 => 128 + place % 64 * 8,
                _ => place % words * 8,
            };
            // Words near sensible ones lead further than noise.
            let near = memory.word(at).load(Relaxed) ^ 1 << (word % 64);
            memory.word(at).store(if word % 3 == 0 { word } else { near }, Relaxed);
        }
        for (key, handle) in keys.iter().zip(&mut handles) {
            let hash = reader.hash(key);
            let _ = reader.get_to(key, hash, &mut [0; 64]);
            let _ = reader.get_into(key, hash, &mut out);
            let _ = reader.reread(handle, &mut out);
        }
        reader.get_batch(&keys, &mut out, |_, _, _| ());
        for item in &items {
            let _ = reader.copy_value(item, &mut out);
        }
        let _ = (reader.stats(), reader.state());
        // SAFETY: the memory outlives the reader.
        drop(unsafe { Reader::join(memory.base(), memory.len()) });
    }
}
