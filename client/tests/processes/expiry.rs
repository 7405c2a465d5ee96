//! Expiry, clearing and listing over a real server whose table grows: nobody sleeps, everything is waited for.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use shmtable::{Client, Condition, InsertOptions, Monitor, Operation, Options, Outcome, Remaining, StatValue};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::mirror::Mirror;
use crate::requests::{Level, Life, Request, When};
use crate::values::{LENGTHS, Random, seed, value};
use crate::watch::until;

const SHORT: Duration = Duration::from_millis(30);
const HOUR: Duration = Duration::from_secs(3600);

fn attach(server: &Daemon) -> Client {
    let options = Options::new("shmtable").dir(server.dir()).timeout(Duration::from_secs(50));
    Client::attach(&options).expect("attached")
}

fn number(monitor: &Monitor, name: &str) -> u64 {
    match monitor.stats().values.into_iter().find(|(found, _)| *found == name) {
        Some((_, StatValue::Whole(value))) => value,
        Some((_, StatValue::Seconds(value))) => (value * 1e3) as u64,
        found => panic!("no number {name}: found {found:?}"),
    }
}

/// Waits until a key expires; its value must be whole until then.
fn see_off(client: &mut Client, key: &[u8], value: &[u8]) {
    until("a key to expire", || match client.read(key).expect("an answer") {
        Some(found) => {
            assert!(found == value, "a value of {} bytes became one of {}", value.len(), found.len());
            None
        }
        None => Some(()),
    });
}

#[test]
fn items_of_every_size_go_when_their_time_is_over_and_not_before() {
    let server = Daemon::start(&["-s", "64", "--memory", "256MiB"]);
    let mut client = attach(&server);
    for (tag, len) in LENGTHS.into_iter().enumerate() {
        let (short, long, bytes) = (format!("short-{len}"), format!("long-{len}"), value(tag as u64, len));
        let stored = client.insert_with(long.as_bytes(), &bytes, InsertOptions::new().ttl(HOUR)).expect("stored");
        assert!(stored.is_some_and(|stored| !stored.replaced));
        client.insert_with(short.as_bytes(), &bytes, InsertOptions::new().ttl(SHORT)).expect("stored");
        see_off(&mut client, short.as_bytes(), &bytes);
        assert_eq!(client.ttl(short.as_bytes()).expect("an answer"), None);
        // What is stored under the key of one that is over is new, also before the sweep has been there.
        let stored = client.insert_with(short.as_bytes(), &bytes, InsertOptions::new().condition(Condition::IfAbsent));
        assert!(stored.expect("stored").is_some_and(|stored| !stored.replaced));
        assert_eq!(client.ttl(short.as_bytes()).expect("an answer"), Some(Remaining::Forever));
        assert!(client.read(long.as_bytes()).expect("an answer").as_deref() == Some(&bytes));
        let kept = client.insert_with(long.as_bytes(), &bytes, InsertOptions::new().keep_ttl()).expect("stored");
        assert!(kept.is_some_and(|stored| stored.replaced));
        match client.ttl(long.as_bytes()).expect("an answer") {
            Some(Remaining::For(left)) => assert!(left <= HOUR && left > HOUR / 2, "{left:?} left of {len} bytes"),
            found => panic!("{found:?} for {len} bytes"),
        }
    }
}

#[test]
fn an_expiry_that_is_set_shortened_or_taken_counts() {
    let server = Daemon::start(&[]);
    let mut client = attach(&server);
    client.insert(b"k", b"v").expect("stored");
    let version = client.read_versioned(b"k").expect("an answer").expect("there").0;
    assert!(client.expire(b"k", HOUR).expect("an answer"));
    assert!(client.expire(b"k", SHORT).expect("an answer"), "earlier than before");
    see_off(&mut client, b"k", b"v");
    assert!(!client.expire(b"k", HOUR).expect("an answer") && !client.persist(b"k").expect("an answer"), "what is gone stays so");
    client.insert_with(b"k", b"w", InsertOptions::new().ttl(SHORT)).expect("stored");
    // In time or too late: one of the two, and then it stays that way.
    if client.persist(b"k").expect("an answer") {
        client.insert_with(b"other", b"v", InsertOptions::new().ttl(SHORT * 2)).expect("stored");
        see_off(&mut client, b"other", b"v");
        assert_eq!(client.read(b"k").expect("an answer").as_deref(), Some(&b"w"[..]), "outlived what was given it first");
    } else {
        assert_eq!(client.read(b"k").expect("an answer"), None);
    }
    let stale = client.insert_if(b"k", b"x", Condition::IfVersion(version)).expect("an answer");
    assert_eq!(stale, None, "a version is never used again");
}

#[test]
fn a_pipeline_asks_sets_and_takes_expiry_in_order() {
    let server = Daemon::start(&[]);
    let mut client = attach(&server);
    let key = b"k";
    let mut seen = Vec::new();
    let mut pipeline = client.pipeline(64);
    let operations = [
        Operation::Ttl { key },
        Operation::Incr { key, by: 1, ttl: Some(HOUR) },
        Operation::Ttl { key },
        Operation::Persist { key },
        Operation::Ttl { key },
        Operation::Expire { key, ttl: HOUR },
        Operation::Incr { key, by: 1, ttl: None },
        Operation::Ttl { key },
        Operation::Expire { key, ttl: Duration::ZERO },
        Operation::Ttl { key },
        Operation::Persist { key },
    ];
    let mut on_reply = |completion: shmtable::Completion<'_>| {
        seen.push(match completion.outcome {
            Outcome::Expiry { remaining: Remaining::Forever, .. } => "stays",
            Outcome::Expiry { .. } => "expires",
            Outcome::ExpirySet { .. } => "set",
            Outcome::NotFound => "gone",
            Outcome::Number { .. } => "number",
            other => panic!("{other:?}"),
        });
    };
    for operation in &operations {
        pipeline.submit(operation, &mut on_reply).expect("submitted");
    }
    pipeline.finish(&mut on_reply).expect("replies");
    drop(pipeline);
    assert_eq!(seen, ["gone", "number", "expires", "set", "stays", "set", "number", "expires", "set", "gone", "gone"]);
}

#[test]
fn one_of_many_gets_a_lock_each_time_it_frees_itself() {
    let server = Daemon::start(&["-n", "2"]);
    let mut takers: Vec<Client> = (0..4).map(|_| attach(&server)).collect();
    let once = InsertOptions::new().condition(Condition::IfAbsent).ttl(HOUR);
    for round in 0..50 {
        let winners: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = takers
                .iter_mut()
                .map(|taker| scope.spawn(move || taker.insert_with(b"lock", b"mine", once).expect("an answer").is_some()))
                .collect();
            threads.into_iter().map(|thread| usize::from(thread.join().expect("ran"))).sum()
        });
        assert_eq!(winners, 1, "round {round}");
        assert!(takers[round % 4].expire(b"lock", Duration::from_nanos(1)).expect("an answer"));
        // Gone for one is gone for all.
        see_off(&mut takers[0], b"lock", b"mine");
        assert!(takers.iter_mut().all(|taker| taker.read(b"lock").expect("an answer").is_none()), "round {round}");
    }
}

#[test]
fn the_memory_of_expired_items_comes_back_while_nobody_asks() {
    let server = Daemon::start(&["-s", "64", "--memory", "128MiB"]);
    let mut client = attach(&server);
    let items = 50_000u64;
    let mut failed = 0;
    let mut pipeline = client.pipeline(512);
    let mut on_reply =
        |completion: shmtable::Completion<'_>| failed += u64::from(!matches!(completion.outcome, Outcome::Stored { .. }));
    for item in 0..items {
        let (key, condition) = (item.to_le_bytes(), Condition::Always);
        let ttl = if item % 5 == 0 { shmtable::Ttl::None } else { shmtable::Ttl::For(SHORT) };
        pipeline.submit(&Operation::Insert { key: &key, value: &key, condition, ttl }, &mut on_reply).expect("submitted");
    }
    pipeline.finish(&mut on_reply).expect("replies");
    drop(pipeline);
    assert_eq!(failed, 0);
    let monitor = Monitor::open(&Options::new("shmtable").dir(server.dir())).expect("a look");
    until("the sweep", || {
        (number(&monitor, "items") == items / 5 && number(&monitor, "expired_total") == items / 5 * 4).then_some(())
    });
    until("the lag to be none", || (number(&monitor, "expiry_lag_seconds") == 0).then_some(()));
    let left: HashSet<Vec<u8>> = client.scan().map(|item| item.expect("an item").key).collect();
    assert_eq!(left.len() as u64, items / 5);
}

#[test]
fn a_clear_takes_what_was_there_and_leaves_what_comes() {
    let server = Daemon::start(&["-n", "2", "-s", "64"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2u64 {
            let (mut client, stop) = (attach(&server), &stop);
            scope.spawn(move || {
                let mut round = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let key = format!("busy-{worker}-{}", round % 500);
                    client.insert(key.as_bytes(), &round.to_le_bytes()).expect("stored");
                    // Nobody else writes it: there as written, or cleared since.
                    let found = client.read(key.as_bytes()).expect("an answer");
                    assert!(found.is_none_or(|found| found == round.to_le_bytes()), "an older value came back");
                }
            });
        }
        let mut client = attach(&server);
        for round in 0..200u32 {
            client.insert(b"before", &round.to_le_bytes()).expect("stored");
            client.insert_with(b"before, too", &[1; 5000], InsertOptions::new().ttl(HOUR)).expect("stored");
            let cleared = client.clear().expect("an answer");
            assert!(cleared >= 2, "cleared {cleared}");
            assert_eq!(client.read(b"before").expect("an answer"), None);
            assert_eq!(client.ttl(b"before, too").expect("an answer"), None);
            client.insert(b"after", &round.to_le_bytes()).expect("stored");
            assert_eq!(client.read(b"after").expect("an answer").as_deref(), Some(&round.to_le_bytes()[..]));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mut client = attach(&server);
    client.clear().expect("an answer");
    assert_eq!(client.scan().count(), 0);
}

#[test]
fn listings_miss_nothing_that_is_there_while_the_table_grows() {
    let server = Daemon::start(&["-n", "2", "-s", "2", "--memory", "256MiB"]);
    let mut random = Random::new(seed("listings"));
    let mut client = attach(&server);
    let anchors: HashMap<Vec<u8>, Vec<u8>> = (0..300u64)
        .map(|anchor| (format!("anchor-{anchor}").into_bytes(), value(random.next(), random.below(400) as usize)))
        .collect();
    client.insert_many(&anchors).expect("stored");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (mut grower, stop) = (attach(&server), &stop);
        let growing = scope.spawn(move || {
            let mut pipeline = grower.pipeline(256);
            for item in 0..150_000u64 {
                pipeline.submit(&Operation::insert(&item.to_le_bytes(), b"filler"), &mut |_| {}).expect("submitted");
            }
            pipeline.finish(&mut |_| {}).expect("replies");
            stop.store(true, Ordering::Relaxed);
        });
        let (mut lister, all) = (attach(&server), &anchors);
        scope.spawn(move || {
            let mut scans = 0;
            while !stop.load(Ordering::Relaxed) || scans == 0 {
                let mut missing: HashSet<&Vec<u8>> = all.keys().collect();
                for item in lister.scan() {
                    let item = item.expect("an item");
                    if let Some(value) = all.get(&item.key) {
                        assert!(*value == item.value, "an anchor's value");
                        missing.remove(&item.key);
                    }
                }
                assert!(missing.is_empty(), "a scan missed {missing:?}");
                scans += 1;
            }
        });
        while !stop.load(Ordering::Relaxed) {
            for (key, value) in anchors.iter().take(40) {
                let bucket = client.bucket(key).expect("an answer");
                let found = bucket.items.iter().find(|item| item.key == *key);
                assert!(found.is_some_and(|item| item.value == *value), "bucket {} misses its key", bucket.index);
            }
        }
        growing.join().expect("grown");
    });
    let buckets = client.buckets();
    assert!(buckets > 1000, "{buckets} buckets");
    let last = client.buckets() - 1;
    assert_eq!(client.bucket_at(last).expect("an answer").map(|bucket| bucket.index), Some(last));
    for beyond in [last + 1, 1 << 35, (1 << 36) - 1, 1 << 36, u64::MAX] {
        assert_eq!(client.bucket_at(beyond).expect("an answer"), None, "bucket {beyond}");
    }
}

fn some_request(random: &mut Random) -> Request {
    let bytes = value(random.next(), random.below(200) as usize);
    let life = [Life::None, Life::Long, Life::Kept][random.below(3) as usize];
    match random.below(10) {
        0 => Request::Insert(bytes, When::Always),
        1 | 2 => Request::InsertFor(bytes, When::Always, life),
        3 => Request::InsertFor(bytes, When::Absent, life),
        4 | 5 => Request::Expire(life),
        6 => Request::Persist,
        7 => Request::Ttl,
        8 => Request::IncrFor(1, life),
        _ => Request::Read,
    }
}

/// Number: a seed. Requests on keys of its own, every reply checked, until the test says so.
pub(crate) fn play(part: &Part) {
    let mut random = Random::new(part.numbers[0]);
    let mut client = Client::attach(&part.options().client_name("expiring")).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    let mut mirror = Mirror::default();
    while !part.board.stopped() {
        let key = |random: &mut Random| format!("{}-{}", part.line, random.below(10)).into_bytes();
        let series: Vec<_> = (0..60).map(|_| (key(&mut random), some_request(&mut random))).collect();
        match random.below(3) {
            0 => mirror.run(&mut client, 1 + random.below(100) as usize, &series),
            sync => {
                let level = if sync == 1 { Level::Sync } else { Level::Poll };
                series.iter().for_each(|(key, request)| mirror.send(&mut client, level, key, request));
            }
        }
        mirror.settle(&mut client);
        part.set(Word::Acked, mirror.checked);
    }
}

#[test]
fn killed_servers_forget_no_expiry_and_bring_nothing_back() {
    let mut random = Random::new(seed("expiring"));
    let args = ["-s", "64", "--memory", "128MiB"];
    let mut server = Daemon::start(&args);
    let (board, dir) = (Board::new(), server.dir().to_path_buf());
    let mut client = attach(&server);
    client.insert(b"cleared", b"v").expect("stored");
    assert_eq!(client.clear().expect("an answer"), 1);
    client.insert_with(b"expires", b"v", InsertOptions::new().ttl(HOUR)).expect("stored");
    client.insert_with(b"over", b"v", InsertOptions::new().ttl(Duration::ZERO)).expect("stored");
    let mut actors: Vec<_> = (1..=4).map(|line| Actor::start("expiring", &dir, &board, line, &[random.next()])).collect();
    for _ in 0..8 {
        let at = random.below(actors.len() as u64) as usize;
        let line = actors[at].line();
        let more = board.get(line, Word::Acked) + 1 + random.below(3000);
        actors[at].reaches(&board, Word::Acked, more);
        let (_, folder) = server.end(Signal::SIGKILL);
        server = Daemon::start_in(folder, &args);
        match client.ttl(b"expires").expect("an answer") {
            Some(Remaining::For(left)) => assert!(left <= HOUR && left > HOUR / 2, "{left:?}"),
            found => panic!("{found:?}"),
        }
        for key in [&b"cleared"[..], b"over"] {
            assert_eq!(client.read(key).expect("an answer"), None);
        }
    }
    board.stop();
    actors.into_iter().for_each(Actor::finish);
}
