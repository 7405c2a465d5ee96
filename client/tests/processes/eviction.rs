//! A server that evicts: a cache that is never full and keeps what its clients read, whichever way they read it.

use shmtable::{Client, Completion, Monitor, Operation, Options, Outcome, StatValue};

use crate::daemon::Daemon;
use crate::watch::until;

const HOT: u32 = 100;

fn stat(monitor: &Monitor, wanted: &str) -> u64 {
    match monitor.stats().values.iter().find(|(name, _)| *name == wanted) {
        Some((_, StatValue::Whole(value))) => *value,
        other => panic!("{wanted}: {other:?}"),
    }
}

fn key(number: u32) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

fn options(server: &Daemon) -> Options {
    Options::new("shmtable").dir(server.dir())
}

#[test]
fn ten_times_the_memory_goes_through_without_a_refusal() {
    let server = Daemon::start(&["--memory", "16MiB", "--evict", "-s", "1000"]);
    let mut client = Client::attach(&options(&server)).expect("attached");
    let value = vec![7; 1000];
    let mut refused = 0;
    let mut pipeline = client.pipeline(100);
    let mut on_reply = |completion: Completion<'_>| {
        refused += u64::from(!matches!(completion.outcome, Outcome::Stored { replaced: false, .. }));
    };
    for number in 0..160_000 {
        let key = key(number);
        pipeline.submit(&Operation::insert(&key, &value), &mut on_reply).expect("sent");
    }
    pipeline.finish(&mut on_reply).expect("answered");
    assert_eq!(refused, 0);
    let monitor = Monitor::open(&options(&server)).expect("opened");
    assert_eq!(stat(&monitor, "full_total"), 0);
    assert_eq!(stat(&monitor, "items") + stat(&monitor, "evicted_total"), 160_000);
    assert!(stat(&monitor, "items") > 8_000 && stat(&monitor, "memory_used_bytes") <= 16 << 20);
}

#[test]
fn without_the_flag_a_full_table_says_so() {
    let server = Daemon::start(&["--memory", "4MiB", "-s", "1000"]);
    let mut client = Client::attach(&options(&server)).expect("attached");
    let refusal = (0..).find_map(|number| client.insert(&key(number), &[7; 1000]).err()).expect("the limit ends it");
    assert!(matches!(refusal, shmtable::Error::Full), "{refusal}");
    let monitor = Monitor::open(&options(&server)).expect("opened");
    assert_eq!(stat(&monitor, "evicted_total"), 0);
}

/// How many of the hot keys outlive four times the memory of keys that nobody reads, with `use_hot` called now and then.
fn survivors(server: &Daemon, mut use_hot: impl FnMut(&mut Client)) -> usize {
    let mut client = Client::attach(&options(server)).expect("attached");
    for number in 0..HOT {
        client.insert(&key(number), &[1; 200]).expect("stored");
    }
    for number in HOT..HOT + 100_000 {
        client.insert(&key(number), &[2; 200]).expect("stored");
        if number.is_multiple_of(500) {
            use_hot(&mut client);
        }
    }
    (0..HOT).filter(|number| client.read(&key(*number)).expect("answered").is_some()).count()
}

fn cache() -> Daemon {
    Daemon::start(&["--memory", "8MiB", "--evict", "-s", "4096", "-n", "1"])
}

#[test]
fn keys_read_over_the_ring_stay() {
    let kept = survivors(&cache(), |client| {
        for number in 0..HOT {
            client.read(&key(number)).expect("answered");
        }
    });
    assert!(kept >= 95, "{kept} of {HOT}");
}

#[test]
fn keys_read_directly_stay_though_their_reader_asks_nothing() {
    let server = cache();
    let mut watcher = Client::attach(&options(&server)).expect("attached");
    let monitor = Monitor::open(&options(&server)).expect("opened");
    // It sends no request; the server finds it by itself.
    let served = || monitor.stats().shards.iter().map(|shard| shard.clients).sum::<u64>();
    until("the server to find the watcher", || (served() == 1).then_some(()));
    let kept = survivors(&server, |_| {
        for number in 0..HOT {
            watcher.get_direct(&key(number)).expect("read");
        }
    });
    assert!(kept >= 95, "{kept} of {HOT}");
    assert_eq!(survivors(&cache(), |_| ()), 0, "without a sign of use they go like the others");
}

#[test]
fn every_way_of_reading_directly_counts() {
    let kept = survivors(&cache(), |client| {
        let mut out = Vec::new();
        for number in 0..HOT / 3 {
            client.get_direct_into(&key(number), &mut [0; 8]).expect("read");
        }
        let many: Vec<_> = (HOT / 3..2 * HOT / 3).map(key).collect();
        client.get_many_direct(&many).expect("read");
        for number in 2 * HOT / 3..HOT {
            let mut handle = client.handle(&key(number)).expect("a handle");
            let _ = client.reread(&mut handle, &mut out).expect("read");
        }
    });
    assert!(kept >= 95, "{kept} of {HOT}");
}
