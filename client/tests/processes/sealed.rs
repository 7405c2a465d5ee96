//! Values that prove themselves, read by other processes in every way there is while the table is written, grows, expires, is cleared and
//! its memory is used again.
//!
//! A value names its key and its number among the writes of that key, and the rest follows from both and from its length: one that is
//! torn, or of another key, or of a length that was never written, does not add up. Each key has one writer, which counts on, so whoever
//! saw a number never sees a smaller one again.

use shmtable::{Client, Error, Handle, InsertOptions, Monitor, Operation, Options, Outcome, Reread, StatValue, TableReader, Ttl};
use std::time::Duration;

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::values::{Random, seed};

const WRITERS: u64 = 2;
/// Keys with values of all sizes, and after them those with short ones.
const HOT: u64 = 40;
const KEYS: u64 = 20_000;
/// Calls between two looks at the board.
const BURST: usize = 64;
const TAG: usize = 8;
const LONGEST: usize = 70_000;
/// Values that each reader must have found whole, and clears that must have gone on meanwhile.
const FOUND: u64 = 24_000;
const CLEARS: u64 = 40;

fn key(number: u64) -> [u8; 12] {
    let mut key = *b"key ________";
    key[4..].copy_from_slice(&number.to_le_bytes());
    key
}

/// The bytes after the tag, from all that there is to know; cheap, since every read makes them again.
fn body(tag: u64, len: usize) -> impl Iterator<Item = [u8; 8]> {
    let start = tag ^ (len as u64) << 20;
    (1..).map(move |at: u64| start.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
}

fn sealed(number: u64, count: u64, len: usize) -> Vec<u8> {
    let tag = number << 40 | count;
    let mut bytes = tag.to_le_bytes().to_vec();
    bytes.extend(body(tag, len).take(len.div_ceil(8) - 1).flatten());
    bytes.truncate(len);
    bytes
}

/// The count of a value of this key, if it adds up.
fn unseal(number: u64, bytes: &[u8]) -> Option<u64> {
    let tag = u64::from_le_bytes(*bytes.first_chunk::<TAG>()?);
    let whole = bytes[TAG..].chunks(8).zip(body(tag, bytes.len())).all(|(found, body)| *found == body[..found.len()]);
    (whole && tag >> 40 == number).then_some(tag & ((1 << 40) - 1))
}

/// Checks what readers find.
struct Inspector {
    counts: Vec<u64>,
    found: u64,
}

impl Inspector {
    fn new() -> Self {
        Self { counts: vec![0; KEYS as usize], found: 0 }
    }

    fn inspect(&mut self, number: u64, bytes: &[u8]) {
        let count = unseal(number, bytes);
        let count = count.unwrap_or_else(|| panic!("key {number} has {} bytes that do not add up", bytes.len()));
        let before = std::mem::replace(&mut self.counts[number as usize], count);
        assert!(count >= before, "key {number} went back from {before} to {count}");
        self.found += 1;
    }
}

/// A key to read: mostly one of the hot ones.
fn pick(random: &mut Random) -> u64 {
    if random.below(4) > 0 { random.below(HOT) } else { random.below(KEYS) }
}

/// Numbers: seed, the writer's own number. Writes its keys in every way, mostly with a short time to live.
pub(crate) fn play_writer(part: &Part) {
    let [seed, me] = part.numbers[..] else { panic!("a seed and a number") };
    let mut random = Random::new(seed);
    let mut client = Client::attach(&part.options()).expect("attached");
    let mut count = 0;
    let ttl = |random: &mut Random| match random.below(3) {
        0 => Ttl::None,
        1 => Ttl::Keep,
        _ => Ttl::For(Duration::from_millis(random.below(30))),
    };
    let own = |random: &mut Random| pick(random) / WRITERS * WRITERS + me;
    let length = |random: &mut Random, number| {
        let most = if number < HOT { LONGEST } else { 100 };
        (TAG + if random.below(200) == 0 { LONGEST } else { random.length() }).min(most)
    };
    while !part.board.stopped() {
        let mut pipeline = client.pipeline(1 + random.below(16) as usize);
        let mut replied = |completion: shmtable::Completion<'_>| match completion.outcome {
            Outcome::Failed(Error::Full) => part.add(Word::Errors),
            Outcome::Failed(error) => panic!("a write failed: {error}"),
            _ => part.add(Word::Acked),
        };
        for _ in 0..BURST {
            count += 1;
            let number = own(&mut random);
            let (key, bytes) = (key(number), sealed(number, count, length(&mut random, number)));
            let operation = match random.below(12) {
                0 => Operation::Delete { key: &key, condition: shmtable::Condition::Always },
                1 => Operation::Expire { key: &key, ttl: Duration::from_millis(random.below(20)) },
                2 => Operation::Persist { key: &key },
                _ => {
                    Operation::Insert { key: &key, value: &bytes, condition: shmtable::Condition::Always, ttl: ttl(&mut random) }
                }
            };
            pipeline.submit(&operation, &mut replied).expect("submitted");
        }
        pipeline.finish(&mut replied).expect("written");
        drop(pipeline);
        let number = own(&mut random);
        count += 1;
        let bytes = sealed(number, count, LONGEST.min(TAG + random.length()));
        match client.insert_with(&key(number), &bytes, InsertOptions::new().ttl(Duration::from_millis(5))) {
            Ok(_) => part.add(Word::Acked),
            Err(Error::Full) => part.add(Word::Errors),
            Err(error) => panic!("a write failed: {error}"),
        }
    }
}

/// Numbers: seed. Reads through the rings.
pub(crate) fn play_ring_reader(part: &Part) {
    let mut client = Client::attach(&part.options()).expect("attached");
    let mut bytes = Vec::new();
    read(part, |random, inspector| {
        if random.below(8) > 0 {
            let number = pick(random);
            if client.read_into(&key(number), &mut bytes).expect("an answer").is_some() {
                inspector.inspect(number, &bytes);
            }
            return;
        }
        let numbers: Vec<_> = (0..20).map(|_| pick(random)).collect();
        let found = client.get_many(numbers.iter().map(|number| key(*number))).expect("answers");
        for (number, bytes) in numbers.into_iter().zip(found) {
            bytes.iter().for_each(|bytes| inspector.inspect(number, bytes));
        }
    });
}

/// Numbers: seed. Reads the table from a client.
pub(crate) fn play_direct_reader(part: &Part) {
    let mut client = Client::attach(&part.options()).expect("attached");
    let handle = |client: &Client, number| client.handle(&key(number)).expect("a handle");
    let mut handles: Vec<(Handle, Vec<u8>)> = (0..HOT).map(|number| (handle(&client, number), Vec::new())).collect();
    let (mut bytes, mut room) = (Vec::new(), vec![0; LONGEST]);
    read(part, |random, inspector| {
        let number = pick(random);
        match random.below(4) {
            0 => {
                if client.get_direct_vec(&key(number), &mut bytes).expect("an answer").is_some() {
                    inspector.inspect(number, &bytes);
                }
            }
            1 => {
                if let Some(found) = client.get_direct_into(&key(number), &mut room).expect("an answer") {
                    inspector.inspect(number, &room[..found.len]);
                }
            }
            2 => {
                let number = random.below(HOT);
                let (handle, bytes) = &mut handles[number as usize];
                if client.reread(handle, bytes).expect("an answer") != Reread::Gone {
                    inspector.inspect(number, bytes);
                }
            }
            _ => {
                let numbers: Vec<_> = (0..20).map(|_| pick(random)).collect();
                let keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
                let visit = |at: usize, found: Option<(u64, &[u8])>| {
                    found.iter().for_each(|(_, bytes)| inspector.inspect(numbers[at], bytes));
                };
                client.get_many_direct_with(&keys, visit).expect("answers");
            }
        }
    });
}

/// Numbers: seed. Reads the table alone, as nobody's client; being overtaken at every try is an answer, too.
pub(crate) fn play_lone_reader(part: &Part) {
    let reader = TableReader::open(&part.options()).expect("the table");
    let handle = |number| reader.handle(&key(number)).expect("a handle");
    let mut handles: Vec<(Handle, Vec<u8>)> = (0..HOT).map(|number| (handle(number), Vec::new())).collect();
    let mut bytes = Vec::new();
    read(part, |random, inspector| {
        let number = pick(random);
        let found = match random.below(2) {
            0 => reader.get_vec(&key(number), &mut bytes).map(|found| found.map(|_| (number, &bytes))),
            _ => {
                let number = random.below(HOT);
                let (handle, bytes) = &mut handles[number as usize];
                reader.reread(handle, bytes).map(|reread| (reread != Reread::Gone).then_some((number, &*bytes)))
            }
        };
        match found {
            Ok(found) => found.into_iter().for_each(|(number, bytes)| inspector.inspect(number, bytes)),
            Err(Error::Busy) => part.add(Word::Errors),
            Err(error) => panic!("reading alone: {error}"),
        }
    });
}

/// Reads until the test says stop, and tells it what was found whole.
fn read(part: &Part, mut once: impl FnMut(&mut Random, &mut Inspector)) {
    let mut random = Random::new(part.numbers[0]);
    let mut inspector = Inspector::new();
    while !part.board.stopped() {
        for _ in 0..BURST {
            once(&mut random, &mut inspector);
        }
        part.set(Word::Acked, inspector.found);
    }
}

#[test]
fn whatever_readers_of_other_processes_find_is_whole() {
    let seed = seed("sealed values");
    let server = Daemon::start(&["-s", "1", "--memory", "128MiB"]);
    let board = Board::new();
    let start = |role, line, numbers: &[u64]| Actor::start(role, server.dir(), &board, line, numbers);
    let mut writers: Vec<_> = (0..WRITERS).map(|me| start("sealing writer", 1 + me as usize, &[seed ^ me, me])).collect();
    let roles = ["sealed, by ring", "sealed, directly", "sealed, directly", "sealed, alone"];
    let mut readers: Vec<_> = (10..).zip(roles).map(|(line, role)| start(role, line, &[seed ^ line as u64])).collect();
    let options = Options::new("shmtable").dir(server.dir());
    let mut client = Client::attach(&options).expect("attached");
    for clear in 1..=CLEARS {
        for writer in &mut writers {
            writer.reaches(&board, Word::Acked, clear * 200);
        }
        client.clear().expect("cleared");
        for reader in &mut readers {
            reader.reaches(&board, Word::Acked, FOUND / CLEARS * clear);
        }
    }
    let stats = Monitor::open(&options).expect("a look").stats().values;
    let whole = |name| match stats.iter().find(|(found, _)| *found == name) {
        Some((_, StatValue::Whole(value))) => *value,
        found => panic!("no number {name}: found {found:?}"),
    };
    assert!(whole("expired_total") > 0 && whole("buckets") > 64, "{stats:?}");
    board.stop();
    writers.into_iter().chain(readers).for_each(Actor::finish);
}

#[test]
fn what_does_not_add_up_is_noticed() {
    for len in [40, 41, 1000, LONGEST] {
        let bytes = sealed(7, 9, len);
        assert_eq!((bytes.len(), unseal(7, &bytes)), (len, Some(9)));
        let older = sealed(7, 8, len);
        let torn: Vec<_> = bytes[..len / 2].iter().chain(&older[len / 2..]).copied().collect();
        assert!(unseal(6, &bytes).is_none() && unseal(7, &torn).is_none());
        assert!(unseal(7, &bytes[..len - 1]).is_none() && unseal(7, &[&bytes[..], &[0]].concat()).is_none());
    }
}
