//! Direct reads by processes of their own: whole values while everything changes, own writes first, counted, and without a server.

use std::time::Duration;

use nix::sys::signal::Signal;
use shmtable::{Client, Error, InsertOptions, Monitor, Operation, Options, Reread, StatValue, TableReader};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::values::{Random, seed, value};
use crate::watch::until;

const KEYS: u64 = 150;
const LONGEST: u64 = 70_000;
/// Keys after these are only there to make the table grow.
const GROWTH: u64 = 40_000;

fn options(server: &Daemon) -> Options {
    Options::new("shmtable").dir(server.dir()).timeout(Duration::from_secs(50))
}

fn key(n: u64) -> Vec<u8> {
    let mut key = format!("key-{n}-").into_bytes();
    key.resize(key.len() + n as usize * 7 % 50, b'k');
    key
}

/// A value that proves itself: tag, length and key's number in front, and bytes that follow from the tag. Those too short
/// for that say the number in every byte.
fn proof(n: u64, tag: u64, len: usize) -> Vec<u8> {
    if len < 24 {
        return vec![n as u8; len];
    }
    let mut bytes: Vec<u8> = [tag, len as u64, n].iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(value(tag, len - 24));
    bytes
}

fn assert_whole(n: u64, bytes: &[u8]) {
    if bytes.len() < 24 {
        assert!(bytes.iter().all(|byte| *byte == n as u8), "key {n}: {bytes:?}");
        return;
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!((word(8), word(16)), (bytes.len() as u64, n), "a foreign or torn value");
    assert!(bytes == proof(n, word(0), bytes.len()), "key {n}: a torn value of {} bytes", bytes.len());
}

/// Numbers: whether it reads as a client, the seed. Reads in every way until the board says stop; what it finds must prove itself.
pub(crate) fn play(part: &Part) {
    let mut random = Random::new(part.numbers[1]);
    let mut client = (part.numbers[0] == 1).then(|| Client::attach(&part.options()).expect("attached"));
    let reader = TableReader::open(&part.options()).expect("the table");
    let mut handles: Vec<_> = (0..KEYS).map(|n| (reader.handle(&key(n)).expect("a handle"), Vec::new())).collect();
    let (mut out, mut short) = (Vec::new(), [0; 64]);
    // A server that is busy writing a bucket, or preempted there, is none of the reader's errors.
    let calm = |read: Result<_, Error>| match read {
        Err(Error::Busy) => None,
        read => read.expect("a direct read"),
    };
    while !part.board.stopped() {
        let n = random.below(KEYS);
        let found = match &mut client {
            Some(client) => client.get_direct_vec(&key(n), &mut out).expect("a direct read"),
            None => calm(reader.get_vec(&key(n), &mut out)),
        };
        if let Some(found) = found {
            assert_eq!(found.len, out.len());
            assert_whole(n, &out);
            part.add(Word::Acked);
        }
        if let Some(found) = calm(reader.get_into(&key(n), &mut short))
            && found.len <= short.len()
        {
            assert_whole(n, &short[..found.len]);
        }
        let first = random.below(KEYS - 20);
        let keys: Vec<_> = (first..first + 20).map(key).collect();
        let check = |number: usize, value: Option<(u64, &[u8])>| {
            if let Some((_, bytes)) = value {
                assert_whole(first + number as u64, bytes);
            }
        };
        match &mut client {
            Some(client) => client.get_many_direct_with(&keys, check).expect("direct reads"),
            None => drop(reader.get_many_with(&keys, &mut out, check)),
        }
        let (handle, last) = &mut handles[n as usize];
        match reader.reread(handle, last) {
            Ok(Reread::Unchanged | Reread::Changed { .. }) => assert_whole(n, last),
            Ok(Reread::Gone) | Err(Error::Busy) => last.clear(),
            Err(error) => panic!("rereading failed: {error}"),
        }
    }
}

#[test]
fn readers_of_other_processes_see_whole_values_while_everything_changes() {
    let seed = seed("direct");
    let mut random = Random::new(seed);
    let server = Daemon::start(&["-s", "16", "--memory", "48MiB", "--max-value", "128KiB"]);
    let board = Board::new();
    let mut readers: Vec<_> = (0..2)
        .map(|line| Actor::start("direct reader", server.dir(), &board, line, &[line as u64, seed + line as u64]))
        .collect();
    let mut client = Client::attach(&options(&server)).expect("attached");
    let mut grown = 0;
    for step in 0..6000u64 {
        let n = random.below(KEYS);
        let stored = match random.below(16) {
            0..8 => {
                let len = if random.below(8) == 0 { random.below(LONGEST) } else { random.below(300) };
                client.insert(&key(n), &proof(n, random.next(), len as usize)).map(drop)
            }
            8..10 => {
                let soon = InsertOptions::new().ttl(Duration::from_millis(1 + random.below(20)));
                client.insert_with(&key(n), &proof(n, random.next(), random.below(3000) as usize), soon).map(drop)
            }
            10..13 => client.delete(&key(n)).map(drop),
            _ => {
                // New keys beside the ones that are read: the buckets split under the readers.
                let more: Vec<_> = (grown..grown + 20).map(|n| (format!("more-{n}"), [0u8; 24])).collect();
                grown = (grown + 20) % GROWTH;
                client.insert_many(more).map(drop)
            }
        };
        match stored {
            // Now and then everything goes at once; and where it is too much, too.
            Err(Error::Full) => drop(client.clear().expect("cleared")),
            other => other.expect("an answer"),
        }
        if step % 1500 == 1499 {
            client.clear().expect("cleared");
        }
    }
    for reader in &mut readers {
        let seen = board.get(reader.line(), Word::Acked);
        // They go on reading for a while, and have not ended by a signal.
        client.insert(&key(0), &proof(0, 1, 100)).expect("stored");
        reader.reaches(&board, Word::Acked, seen + 1);
    }
    board.stop();
    readers.into_iter().for_each(Actor::finish);
}

#[test]
fn a_direct_read_sees_the_own_writes_before_it() {
    let server = Daemon::start(&["-s", "64"]);
    let mut client = Client::attach(&options(&server)).expect("attached");
    let mut out = [0; 8];
    for round in 0..2000u64 {
        // Several writes of one key are under way: the last one must be seen, and all replies stay to be polled.
        for step in 0..4 {
            let bytes = (round * 4 + step).to_le_bytes();
            client.try_submit(&Operation::insert(b"own", &bytes)).expect("room");
        }
        let found = client.get_direct_into(b"own", &mut out).expect("a direct read").expect("the key");
        assert_eq!((found.len, u64::from_le_bytes(out)), (8, round * 4 + 3));
        let mut replies = 0;
        while client.in_flight() > 0 {
            client.wait().expect("answered");
            client.poll(&mut |_| replies += 1).expect("replies");
        }
        assert_eq!(replies, 4);
    }
    client.delete(b"own").expect("deleted");
    assert_eq!(client.get_direct(b"own").expect("a direct read"), None);
    client.insert(b"own", b"again").expect("stored");
    assert_eq!(client.get_many_direct(&[b"own".as_slice(), b"not"]).expect("direct reads"), [Some(b"again".to_vec()), None]);
}

#[test]
fn a_direct_read_waits_for_an_unanswered_write_and_says_when_it_gives_up() {
    let server = Daemon::start(&[]);
    let patient = options(&server);
    let mut client = Client::attach(&patient.clone().timeout(Duration::from_millis(50))).expect("attached");
    let mut other = Client::attach(&patient).expect("attached");
    client.insert(b"key", b"old").expect("stored");
    server.freeze();
    client.try_submit(&Operation::insert(b"key", b"new")).expect("room");
    assert!(matches!(client.get_direct(b"key"), Err(Error::TimedOut { write: true, .. })));
    // Whoever did not write it reads on.
    assert_eq!(other.get_direct(b"key").expect("a direct read").as_deref(), Some(&b"old"[..]));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server.pid() as i32), Signal::SIGCONT).expect("thawed");
    until("the write to be answered", || match client.get_direct(b"key") {
        Ok(found) => (found.as_deref() == Some(&b"new"[..])).then_some(()),
        Err(Error::TimedOut { .. }) => None,
        Err(error) => panic!("{error}"),
    });
    let mut replies = 0;
    client.poll(&mut |_| replies += 1).expect("replies");
    assert_eq!(replies, 1);
}

#[test]
fn hits_misses_and_rereads_are_counted_where_stats_sees_them() {
    let server = Daemon::start(&[]);
    let options = options(&server);
    let monitor = Monitor::open(&options).expect("a look");
    let number = |name: &str| match monitor.stats().values.into_iter().find(|(found, _)| *found == name) {
        Some((_, StatValue::Whole(value))) => value,
        found => panic!("no number {name}: found {found:?}"),
    };
    let counts = || (number("direct_hits_total"), number("direct_misses_total"));
    let mut client = Client::attach(&options).expect("attached");
    client.insert(b"key", b"value").expect("stored");
    let read = |client: &mut Client| {
        assert!(client.get_direct(b"key").expect("a direct read").is_some());
        assert!(client.get_direct_into(b"not", &mut []).expect("a direct read").is_none());
        client.get_many_direct(&[b"key".as_slice(), b"not", b"key"]).expect("direct reads");
        let mut handle = client.handle(b"key").expect("a handle");
        for _ in 0..2 {
            assert_ne!(client.reread(&mut handle, &mut Vec::new()).expect("a direct read"), Reread::Gone);
        }
    };
    read(&mut client);
    // By the next tick while the client is here, one that never sent anything included.
    let mut silent = Client::attach(&options).expect("attached");
    read(&mut silent);
    until("the tick to count", || (counts() == (10, 4)).then_some(()));
    read(&mut client);
    drop(client);
    until("a client that left to be counted", || (counts() == (15, 6)).then_some(()));
    drop(silent);
    let next = Client::attach(&options).expect("attached");
    drop(next);
    until("the slots to be free", || monitor.clients().is_empty().then_some(()));
    assert_eq!(counts(), (15, 6));
}

#[test]
fn reading_goes_on_when_the_server_is_dead_and_ends_when_the_region_is_gone() {
    let server = Daemon::start(&[]);
    let options = options(&server).wait_for_server(Duration::ZERO);
    let mut client = Client::attach(&options).expect("attached");
    client.insert(b"key", b"value").expect("stored");
    let reader = TableReader::open(&options).expect("the table");
    let mut handle = reader.handle(b"key").expect("a handle");
    let (_, folder) = server.end(Signal::SIGKILL);
    let options = Options::new("shmtable").dir(folder.path());
    assert_eq!(client.get_direct(b"key").expect("a direct read").as_deref(), Some(&b"value"[..]));
    assert_eq!(reader.get(b"key").expect("a read").as_deref(), Some(&b"value"[..]));
    let late = TableReader::open(&options).expect("the table of a dead server");
    assert_eq!(late.get_many(&[b"key".as_slice(), b"not"]).expect("reads"), [Some(b"value".to_vec()), None]);
    assert!(matches!(late.get(b""), Err(Error::KeySize { found: 0 })));
    // A successor serves the same region, and stops: what it kept can be read.
    let server = Daemon::start_in(folder, &["--on-exit", "keep"]);
    client.insert(b"key", b"newer").expect("stored");
    assert!(matches!(reader.reread(&mut handle, &mut Vec::new()), Ok(Reread::Changed { .. })));
    let (_, folder) = server.end(Signal::SIGTERM);
    for reader in [&reader, &late, &TableReader::open(&options).expect("a kept table")] {
        assert_eq!(reader.get(b"key").expect("a read").as_deref(), Some(&b"newer"[..]));
    }
    // Another region takes the name: readers of the old one are told, and the client follows.
    let server = Daemon::start_in(folder, &["--fresh"]);
    assert!(matches!(reader.get(b"key"), Err(Error::Superseded(_))), "{:?}", reader.get(b"key"));
    assert_eq!(client.get_direct(b"key").expect("a direct read"), None);
    let reader = TableReader::open(&options).expect("the new table");
    assert_eq!(reader.get(b"key").expect("a read"), None);
    let (_, folder) = server.end(Signal::SIGTERM);
    assert!(matches!(reader.get(b"key"), Err(Error::Closed(_))), "{:?}", reader.get(b"key"));
    assert!(matches!(client.get_direct(b"key"), Err(Error::NoServer(_))));
    assert!(matches!(TableReader::open(&options), Err(Error::NoServer(_))));
    drop(folder);
}

/// Numbers: none. Writes one byte into its own mapping of the table, which must kill it.
pub(crate) fn play_scribbling(part: &Part) {
    let reader = TableReader::open(&part.options()).expect("the table");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let line = maps.lines().find(|line| line.ends_with("shmtable.table")).expect("the table's mapping");
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next().expect("a range"), words.next().expect("rights"));
    assert_eq!(rights, "r--s", "{line}");
    let start = usize::from_str_radix(range.split('-').next().expect("a start"), 16).expect("an address");
    part.set(Word::Phase, 1);
    // SAFETY: none: this process is to die of it, and the test is that it does.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(start + 640).write_volatile(0) };
    part.set(Word::Phase, 2);
    drop(reader);
}

#[test]
fn a_write_through_the_mapping_of_the_table_faults() {
    let server = Daemon::start(&[]);
    let board = Board::new();
    let actor = Actor::start("scribbling", server.dir(), &board, 0, &[]);
    let status = actor.ends();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::SIGSEGV as i32), "{status}");
    assert_eq!(board.get(0, Word::Phase), 1);
}
