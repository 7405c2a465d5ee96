//! Many client processes, each with keys of its own, checking every reply.

use shmtable::{Client, Monitor, StatValue};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::mirror::Mirror;
use crate::requests::{Level, Request, When};
use crate::values::{Random, seed, value};

const KEYS: u64 = 48;

fn some_request(random: &mut Random) -> Request {
    let bytes = |random: &mut Random| value(random.next(), random.length());
    match random.below(16) {
        0..6 => Request::Insert(bytes(random), When::Always),
        6 => Request::Insert(bytes(random), When::Absent),
        7 => Request::Insert(bytes(random), When::Current),
        8..12 => Request::Read,
        12 => Request::Delete(When::Always),
        13 => Request::Delete(When::Present),
        14 => Request::Append(value(random.next(), random.below(40) as usize)),
        _ => Request::Bucket,
    }
}

/// Numbers: seed, requests.
pub(crate) fn play(part: &Part) {
    let [seed, requests] = part.numbers[..] else { panic!("a seed and a number of requests") };
    let mut random = Random::new(seed);
    let mut client = Client::attach(&part.options().client_name("ranges")).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    let mut mirror = Mirror::default();
    while mirror.checked < requests {
        let level = match random.below(3) {
            0 => Level::Sync,
            1 => Level::Poll,
            _ => Level::Pipeline(1 + random.below(300) as usize),
        };
        let key = |random: &mut Random| format!("{}-{}", part.line, random.below(KEYS)).into_bytes();
        let series: Vec<_> = (0..200).map(|_| (key(&mut random), some_request(&mut random))).collect();
        match level {
            Level::Pipeline(window) => mirror.run(&mut client, window, &series),
            // The bucket holds other clients' keys, which a sync listing would have to know.
            level => {
                for (key, request) in series.iter().filter(|(_, request)| !matches!(request, Request::Bucket)) {
                    mirror.send(&mut client, level, key, request);
                }
            }
        }
        mirror.settle(&mut client);
        part.set(Word::Acked, mirror.checked);
    }
    for number in 0..KEYS {
        let key = format!("{}-{number}", part.line).into_bytes();
        mirror.send(&mut client, Level::Sync, &key, &Request::Read);
    }
    part.set(Word::Phase, mirror.items.len() as u64);
}

fn stat(monitor: &Monitor, name: &str) -> u64 {
    let stats = monitor.stats();
    match stats.values.iter().find(|(found, _)| *found == name) {
        Some((_, StatValue::Whole(value))) => *value,
        found => panic!("no number {name}: found {found:?}"),
    }
}

fn many(threads: &str, clients: usize, requests: u64) {
    let mut random = Random::new(seed("ranges"));
    let server = Daemon::start(&["-s", "4096", "-n", threads, "--memory", "2GiB"]);
    let board = Board::new();
    let actors: Vec<_> =
        (1..=clients).map(|line| Actor::start("ranges", server.dir(), &board, line, &[random.next(), requests])).collect();
    actors.into_iter().for_each(Actor::finish);
    let expected: u64 = (1..=clients).map(|line| board.get(line, Word::Phase)).sum();
    let monitor = Monitor::open(&shmtable::Options::new("shmtable").dir(server.dir())).expect("a look");
    assert_eq!(stat(&monitor, "items"), expected);
    assert!(stat(&monitor, "requests_total") >= clients as u64 * requests);
}

#[test]
fn clients_of_one_worker() {
    many("1", 8, 5000);
}

#[test]
fn clients_of_two_workers() {
    many("2", 12, 5000);
}

#[test]
fn clients_of_more_workers_than_cores() {
    many("16", 17, 4000);
}
