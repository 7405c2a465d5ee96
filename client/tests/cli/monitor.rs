//! `stats`, `clients`, `ping`: what is seen of a running server.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

use nix::sys::signal::Signal;

use crate::daemon::Daemon;
use crate::watch::until;

const NAMES: [&str; 19] = [
    "items",
    "buckets",
    "memory_used_bytes",
    "memory_limit_bytes",
    "clients",
    "shards",
    "requests_total",
    "hits_total",
    "misses_total",
    "direct_hits_total",
    "direct_misses_total",
    "direct_retries_total",
    "expired_total",
    "evicted_total",
    "full_total",
    "refused_total",
    "expiry_lag_seconds",
    "uptime_seconds",
    "layout_version",
];

fn stats(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn stats_have_every_name_of_the_contract() {
    let server = Daemon::start(&["-s", "1024"]);
    let answer = server.client(&["stats"]);
    let found = stats(answer.text());
    for name in NAMES {
        let value = found.get(name).unwrap_or_else(|| panic!("no {name} in {answer:?}"));
        assert!(value.parse::<f64>().is_ok(), "{name} is {value}");
    }
    for shard in 0..2 {
        for name in ["clients", "requests_total", "backlog"] {
            assert!(found.contains_key(&format!("shard.{shard}.{name}")), "{answer:?}");
        }
    }
    assert_eq!(found["shards"], "2");
    // The server says the same of itself.
    assert!(server.ready.contains(&format!(" buckets={} ", found["buckets"])), "{} against {answer:?}", server.ready);
}

#[test]
fn stats_follow_what_is_done() {
    let server = Daemon::start(&[]);
    assert_eq!(server.fed(&["load", "-"], b"a\nb\nc\n").text(), "3\n");
    server.client(&["read", "a"]).text();
    server.client(&["read", "z"]).error(1);
    until("the counters to follow", || {
        let found = stats(server.client(&["stats"]).text());
        let at_least = |name: &str, least: u64| found[name].parse::<u64>().expect("a number") >= least;
        (found["items"] == "3" && at_least("requests_total", 5) && at_least("hits_total", 1) && at_least("misses_total", 1))
            .then_some(())
    });
}

#[test]
fn prometheus_reads_name_type_and_sample_of_every_counter() {
    let server = Daemon::start(&[]);
    let answer = server.client(&["stats", "--prometheus"]);
    let text = answer.text();
    for name in NAMES {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        assert!(text.contains(&format!("# TYPE shmtable_{name} {kind}\n")), "{name} in {text}");
        assert!(
            text.lines().any(|line| line.starts_with(&format!("shmtable_{name}{{region=\"shmtable\"}} "))),
            "{name} in {text}"
        );
    }
    assert!(text.contains("shmtable_shard_requests_total{region=\"shmtable\",shard=\"1\"} "), "{text}");
}

#[test]
fn watching_goes_on_until_interrupted() {
    let server = Daemon::start(&[]);
    let mut watch = server.background(&["stats", "--watch", "--interval", "1ms"]);
    let mut lines = BufReader::new(watch.child().stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("items ")));
    assert!(lines.any(|line| line.starts_with("requests_per_second ")), "the second print has a rate");
    let reader = std::thread::spawn(move || lines.last());
    let answer = watch.end(Signal::SIGINT);
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
    assert!(reader.join().expect("read").is_some_and(|line| line.starts_with("shard.1.backlog ")), "a print ends whole");
}

#[test]
fn clients_are_listed_while_they_are_attached() {
    let server = Daemon::start(&[]);
    assert_eq!(server.client(&["clients"]).text(), "");
    let client = server.background(&["0", "10"]);
    let line = until("the client to be listed", || server.client(&["clients"]).text().lines().next().map(str::to_owned));
    let columns: Vec<&str> = line.split('\t').collect();
    assert_eq!(columns.len(), 8, "{line}");
    assert_eq!(columns[1], nix::unistd::getuid().to_string(), "{line}");
    assert_eq!(columns[2], client.pid().to_string(), "{line}");
    assert_eq!(columns[3], "client", "{line}");
    let answer = server.client(&["clients", "--json"]);
    let object: serde_json::Value = serde_json::from_str(answer.text().trim_end()).expect("one JSON object");
    assert_eq!(object["pid"], client.pid());
    assert_eq!(client.end(Signal::SIGTERM).code, Some(0));
    until("the client to be gone", || server.client(&["clients"]).text().is_empty().then_some(()));
}

#[test]
fn ping_prints_a_time() {
    let server = Daemon::start(&[]);
    let answer = server.client(&["ping"]);
    let time = answer.text().strip_suffix("us\n").expect("microseconds");
    assert!(time.parse::<f64>().is_ok_and(|time| time > 0.0), "{time}");
}

#[test]
fn a_client_waits_for_a_server_that_is_to_come() {
    let folder = crate::daemon::private_folder();
    let dir = folder.path().to_path_buf();
    let early = std::thread::spawn(move || crate::commandline::client(&dir, &["ping", "--wait-for-server", "50s"]));
    let _server = Daemon::start_in(folder, &[]);
    early.join().expect("ran").text();
}
