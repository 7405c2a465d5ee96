//! Random requests through every level of the library against a plain map.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shmtable::{Client, Options};

use crate::daemon::Daemon;
use crate::mirror::Mirror;
use crate::requests::{Level, Life, Request, When};
use crate::values::{LENGTHS, value};

/// Lengths of the keys; their first byte is the key's number, so that a prefix of one byte removes one.
const KEYS: [usize; 14] = [1, 2, 8, 15, 16, 17, 31, 32, 40, 41, 48, 255, 1023, 1024];

#[derive(Clone, Debug)]
enum Step {
    One(usize, Request),
    Scan,
    DeletePrefix(usize),
    Clear,
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![4 => Just(When::Always), 1 => Just(When::Absent), 1 => Just(When::Present), 1 => Just(When::Current), 1 => Just(When::Stale)]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![12 => 0..13usize, 4 => 13..17usize, 1 => 17..LENGTHS.len()];
    (length, any::<u64>()).prop_map(|(at, tag)| value(tag, LENGTHS[at]))
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        6 => (bytes(), when()).prop_map(|(value, when)| Request::Insert(value, when)),
        1 => any::<i64>().prop_map(|number| Request::Insert(number.to_string().into_bytes(), When::Always)),
        6 => Just(Request::Read),
        3 => when().prop_map(Request::Delete),
        2 => prop_oneof![-3..4i64, any::<i64>()].prop_map(Request::Incr),
        2 => bytes().prop_map(Request::Append),
        1 => Just(Request::Bucket),
        4 => (bytes(), when(), life()).prop_map(|(value, when, life)| Request::InsertFor(value, when, life)),
        1 => (-3..4i64, life()).prop_map(|(by, life)| Request::IncrFor(by, life)),
        2 => life().prop_map(Request::Expire),
        1 => Just(Request::Persist),
        2 => Just(Request::Ttl),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![Just(Life::None), Just(Life::Long), Just(Life::Kept)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => (0..KEYS.len(), request()).prop_map(|(key, request)| Step::One(key, request)),
        2 => Just(Step::Scan),
        2 => (0..KEYS.len()).prop_map(Step::DeletePrefix),
        1 => Just(Step::Clear),
    ]
}

fn level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Sync), (1..200usize).prop_map(Level::Pipeline), Just(Level::Poll)]
}

fn key(number: usize) -> Vec<u8> {
    let mut key = value(number as u64, KEYS[number]);
    key[0] = number as u8 + 1;
    key
}

fn play(client: &mut Client, unmapped: bool, level: Level, steps: &[Step]) {
    client.clear().expect("cleared");
    let mut mirror = Mirror::default();
    mirror.unmapped = unmapped;
    let mut series = Vec::new();
    for step in steps {
        if let (Level::Pipeline(_), Step::One(number, request)) = (level, step) {
            series.push((key(*number), request.clone()));
            continue;
        }
        if let Level::Pipeline(window) = level {
            mirror.run(client, window, &std::mem::take(&mut series));
        }
        match step {
            Step::One(number, request) => mirror.send(client, level, &key(*number), request),
            whole => {
                mirror.settle(client);
                match whole {
                    Step::DeletePrefix(number) => mirror.remove(client, &key(*number)[..1]),
                    Step::Clear => mirror.remove(client, b""),
                    _ => mirror.compare(client),
                }
            }
        }
    }
    if let Level::Pipeline(window) = level {
        mirror.run(client, window, &series);
    }
    mirror.settle(client);
    mirror.compare(client);
}

fn against_a_map(unmapped: bool, buckets: &str) {
    let server = Daemon::start(&["-s", buckets, "--memory", "256MiB"]);
    let options = Options::new("shmtable").dir(server.dir()).map_table(!unmapped);
    let client = std::cell::RefCell::new(Client::attach(&options).expect("attached"));
    let mut runner = TestRunner::new(Config { cases: 96, failure_persistence: None, max_shrink_iters: 400, ..Config::default() });
    let steps = proptest::collection::vec(step(), 1..150);
    runner
        .run(&(level(), steps), |(level, steps)| {
            play(&mut client.borrow_mut(), unmapped, level, &steps);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn requests_do_what_they_would_do_to_a_map() {
    against_a_map(false, "64");
}

#[test]
fn requests_do_the_same_without_a_view_of_the_table() {
    against_a_map(true, "2");
}
