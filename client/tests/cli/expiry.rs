//! Times to live on the command line, and atomic updates beside them.

use serde_json::Value;

use crate::commandline::{client_command, run};
use crate::daemon::Daemon;
use crate::watch::until;

const HOUR_MS: u64 = 3_600_000;

/// Milliseconds that a key has left; it must have an expiry.
fn left(server: &Daemon, key: &str) -> u64 {
    server.client(&["ttl", key]).text().trim_end().parse().expect("milliseconds")
}

/// Whether a number of milliseconds is at most so long, and no more than a minute shorter: no test takes that long.
fn about(left: u64, ms: u64) -> bool {
    left <= ms && left + 60_000 > ms
}

#[test]
fn an_item_tells_what_it_has_left_and_keeps_or_loses_it() {
    let server = Daemon::start(&[]);
    let ttl = |key: &str| server.client(&["ttl", key]).text().to_owned();
    assert_eq!(server.client(&["insert", "k", "1", "--ttl", "1h"]).text(), "inserted\n");
    assert!(about(left(&server, "k"), HOUR_MS));
    assert_eq!(server.client(&["insert", "k", "2", "--keep-ttl"]).text(), "replaced\n");
    assert!(about(left(&server, "k"), HOUR_MS), "kept");
    assert_eq!(server.client(&["append", "k", "3"]).text(), "2\n");
    assert_eq!(server.client(&["incr", "k", "--ttl", "9h"]).text(), "24\n");
    assert!(about(left(&server, "k"), HOUR_MS), "updates keep it");
    assert_eq!(server.client(&["expire", "k", "2h"]).text(), "ok\n");
    assert!(about(left(&server, "k"), 2 * HOUR_MS));
    assert_eq!(server.client(&["persist", "k"]).text(), "ok\n");
    assert_eq!(ttl("k"), "none\n");
    assert_eq!(server.client(&["persist", "k"]).text(), "ok\n", "again does no harm");
    assert_eq!(server.client(&["expire", "k", "1h"]).text(), "ok\n");
    assert_eq!(server.client(&["insert", "k", "4"]).text(), "replaced\n");
    assert_eq!(ttl("k"), "none\n", "a plain insert drops it");
    assert_eq!(server.client(&["insert", "old", "v", "--ttl", "100000d"]).text(), "inserted\n");
    assert!(left(&server, "old") < 1 << 40, "cut to 34 years");
    assert!(left(&server, "old") > 30 * 365 * 24 * HOUR_MS);
}

#[test]
fn what_has_expired_is_gone_for_every_command() {
    let server = Daemon::start(&[]);
    let expired = |key: &str| {
        assert_eq!(server.client(&["insert", key, "7"]).text(), "inserted\n", "{key} was gone");
        let answer = server.client(&["read", key, "--with-version"]);
        let version = answer.text().split_once('\t').expect("a tab").0.to_owned();
        assert_eq!(server.client(&["expire", key, "0"]).text(), "ok\n");
        version
    };
    let version = expired("k");
    for args in [&["read", "k"][..], &["ttl", "k"], &["expire", "k", "1h"], &["persist", "k"], &["delete", "k"]] {
        let answer = server.client(args);
        assert!(answer.error(1).contains("no item has the key k"), "{answer:?}");
    }
    for args in [&["dump"][..], &["bucket", "k"], &["dump", "--format", "jsonl"]] {
        assert_eq!(server.client(args).text(), "", "{args:?}");
    }
    assert_eq!(server.client(&["delete", "--prefix", "k"]).text(), "0\n");
    assert_eq!(server.client(&["insert", "k", "v", "--if-present"]).gave(1), "unchanged\n");
    assert_eq!(server.client(&["insert", "k", "v", "--if-version", &version]).gave(1), "unchanged\n");
    assert_eq!(server.client(&["insert", "k", "v", "--keep-ttl", "--if-absent"]).text(), "inserted\n");
    assert_eq!(server.client(&["ttl", "k"]).text(), "none\n", "what is gone has no expiry to keep");
    expired("n");
    assert_eq!(server.client(&["incr", "n", "2"]).text(), "2\n");
    assert_eq!(server.client(&["ttl", "n"]).text(), "none\n");
    expired("log");
    assert_eq!(server.client(&["append", "log", "ab"]).text(), "2\n");
    assert_eq!(server.client(&["read", "log"]).text(), "ab\n");
    assert_eq!(server.client(&["insert", "at once", "v", "--ttl", "0"]).text(), "inserted\n");
    server.client(&["read", "at once"]).error(1);
}

#[test]
fn an_expiry_to_keep_needs_an_item_that_has_one() {
    let server = Daemon::start(&[]);
    assert_eq!(server.client(&["insert", "absent", "v", "--keep-ttl"]).text(), "inserted\n");
    assert_eq!(server.client(&["ttl", "absent"]).text(), "none\n");
    assert_eq!(server.client(&["insert", "absent", "w", "--keep-ttl"]).text(), "replaced\n");
    assert_eq!(server.client(&["ttl", "absent"]).text(), "none\n");
    for args in [&["insert", "k", "v", "--ttl", "1h", "--if-absent"][..], &["insert", "k", "w", "--keep-ttl", "--if-present"]] {
        server.client(args).text();
        assert!(about(left(&server, "k"), HOUR_MS), "{args:?}");
    }
    // A condition that is not met changes no expiry either.
    assert_eq!(server.client(&["insert", "k", "x", "--ttl", "9h", "--if-absent"]).gave(1), "unchanged\n");
    assert!(about(left(&server, "k"), HOUR_MS));
    // A value in parts keeps it, too.
    let long = vec![b'v'; 100_000];
    assert_eq!(server.fed(&["insert", "k", "-", "--keep-ttl"], &long).text(), "replaced\n");
    assert!(about(left(&server, "k"), HOUR_MS));
    assert_eq!(server.fed(&["insert", "k", "-", "--ttl", "2h"], &long).text(), "replaced\n");
    assert!(about(left(&server, "k"), 2 * HOUR_MS));
    assert_eq!(server.fed(&["append", "k", "-"], &long).text(), "200000\n");
    assert!(about(left(&server, "k"), 2 * HOUR_MS));
}

#[test]
fn items_go_by_themselves_and_are_counted() {
    let server = Daemon::start(&[]);
    let lines: String = (0..1000).map(|index| format!("{{\"key\":\"k{index}\",\"value\":\"v\",\"ttl_ms\":40}}\n")).collect();
    assert_eq!(server.fed(&["load", "-"], lines.as_bytes()).text(), "1000\n");
    assert_eq!(server.client(&["insert", "stays", "v"]).text(), "inserted\n");
    until("the items to expire", || (server.client(&["dump"]).text() == "stays\tv\n").then_some(()));
    until("their memory to come back", || {
        let answer = server.client(&["stats"]);
        let has = |line: &str| answer.text().lines().any(|found| found == line);
        (has("items 1") && has("expired_total 1000") && has("expiry_lag_seconds 0.000")).then_some(())
    });
}

#[test]
fn a_rate_is_limited_by_one_command_per_event() {
    let server = Daemon::start(&[]);
    let hit = |key: &str, window: &str| server.client(&["incr", key, "--ttl", window]).text().to_owned();
    assert_eq!([hit("calm", "1h"), hit("calm", "1h"), hit("calm", "1h")], ["1\n", "2\n", "3\n"]);
    assert!(about(left(&server, "calm"), HOUR_MS), "the first one opened the window");
    assert_eq!(hit("fast", "50ms"), "1\n");
    until("the window to end and the next to begin", || (hit("fast", "50ms") == "1\n").then_some(()));
}

#[test]
fn a_dump_as_json_brings_values_expiry_and_bytes_of_every_kind_back() {
    let (one, two) = (Daemon::start(&[]), Daemon::start(&[]));
    let records = concat!(
        "{\"key_base64\":\"AP8KCQ==\",\"value_base64\":\"/wA=\",\"ttl_ms\":3600000,\"type\":\"bytes\"}\n",
        "{\"key\":\"plain\",\"value\":\"ä\\n\\\"\",\"ttl_ms\":null}\n",
        "{\"key\":\"empty\",\"ttl_ms\":7200000}\n",
        "{\"key\":\"over\",\"ttl_ms\":0}\n",
    );
    assert_eq!(one.fed(&["load", "-"], records.as_bytes()).text(), "4\n");
    let big = "v".repeat(50_000);
    assert_eq!(one.fed(&["insert", "big", "-", "--ttl", "3h"], big.as_bytes()).text(), "inserted\n");
    let dump = |server: &Daemon| {
        let answer = server.client(&["dump", "--format", "jsonl"]);
        let mut items: Vec<Value> = answer.text().lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        items.sort_by_key(|item| item["key"].as_str().unwrap_or_default().to_owned());
        (answer, items)
    };
    let (text, first) = dump(&one);
    assert_eq!(first.len(), 4, "what is over is not dumped");
    assert_eq!(two.fed(&["load", "-"], &text.stdout).text(), "4\n");
    let (_, second) = dump(&two);
    let hours = [Some(1), Some(3), Some(2), None];
    for ((was, is), hours) in first.iter().zip(&second).zip(hours) {
        for field in ["key", "key_base64", "value", "value_base64", "type"] {
            assert_eq!(was[field], is[field]);
        }
        assert_eq!(is["type"], "bytes");
        match hours {
            None => assert!(is.get("ttl_ms").is_none() && was.get("ttl_ms").is_none(), "{is}"),
            Some(hours) => {
                let (was, is) = (was["ttl_ms"].as_u64().expect("a number"), is["ttl_ms"].as_u64().expect("a number"));
                assert!(is <= was && about(was, hours * HOUR_MS) && about(is, hours * HOUR_MS), "{was} became {is}");
            }
        }
    }
    assert_eq!(second[1]["value"], big);
    // Lines of TSV say nothing of expiry: what they bring stays.
    assert_eq!(two.fed(&["load", "-"], &one.client(&["dump"]).stdout).text(), "4\n");
    assert_eq!(two.client(&["ttl", "empty"]).text(), "none\n");
    assert_eq!(two.client(&["dump", "--format", "jsonl", "--prefix", "emp"]).text().lines().count(), 1);
}

#[test]
fn json_tells_expiry_in_fields() {
    let server = Daemon::start(&[]);
    let object = |args: &[&str], code| -> Value {
        let answer = server.client(args);
        serde_json::from_str(answer.gave(code).trim_end()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    };
    assert_eq!(object(&["insert", "k", "v", "--ttl", "1h", "--json"], 0)["result"], "inserted");
    let ttl = object(&["ttl", "k", "--json"], 0);
    assert!(ttl["key"] == "k" && ttl["found"] == true && about(ttl["ttl_ms"].as_u64().expect("a number"), HOUR_MS), "{ttl}");
    let bucket = object(&["bucket", "k", "--json"], 0);
    assert!(about(bucket["ttl_ms"].as_u64().expect("a number"), HOUR_MS) && bucket["type"] == "bytes", "{bucket}");
    assert_eq!(object(&["persist", "k", "--json"], 0)["result"], "ok");
    assert!(object(&["ttl", "k", "--json"], 0).as_object().expect("an object")["ttl_ms"].is_null());
    assert_eq!(object(&["expire", "k", "0", "--json"], 0)["result"], "ok");
    assert_eq!(object(&["ttl", "k", "--json"], 1)["found"], false);
    assert_eq!(object(&["expire", "k", "1s", "--json"], 1)["result"], "not found");
    assert_eq!(object(&["persist", "k", "--json"], 1)["result"], "not found");
    assert_eq!(object(&["clear", "--json"], 0)["cleared"].as_u64().map(|count| count <= 1), Some(true));
}

#[test]
fn what_is_typed_goes_before_what_the_environment_says() {
    let server = Daemon::start(&["-s", "64"]);
    let with = |name: &str, value: &str, args: &[&str]| {
        let mut command = client_command(server.dir(), args);
        command.env(name, value);
        run(command)
    };
    assert_eq!(with("SHMTABLE_TTL", "1h", &["insert", "k", "v"]).text(), "inserted\n");
    assert!(about(left(&server, "k"), HOUR_MS));
    assert_eq!(with("SHMTABLE_TTL", "1h", &["insert", "k", "v", "--ttl", "2h"]).text(), "replaced\n");
    assert_eq!(with("SHMTABLE_TTL", "1h", &["insert", "k", "v", "--keep-ttl"]).text(), "replaced\n");
    assert!(about(left(&server, "k"), 2 * HOUR_MS));
    assert_eq!(with("SHMTABLE_KEEP_TTL", "1", &["insert", "k", "v", "--ttl", "3h"]).text(), "replaced\n");
    assert!(about(left(&server, "k"), 3 * HOUR_MS));
    assert_eq!(with("SHMTABLE_IF_ABSENT", "1", &["insert", "k", "v", "--if-present"]).text(), "replaced\n");
    assert_eq!(with("SHMTABLE_IF_ABSENT", "1", &["insert", "k", "v"]).gave(1), "unchanged\n");
    assert_eq!(with("SHMTABLE_INDEX", "4000000", &["bucket", "k"]).text(), "k\tv\n");
    with("SHMTABLE_INDEX", "4000000", &["bucket"]).error(2);
    assert_eq!(with("SHMTABLE_PREFIX", "x", &["delete", "k"]).text(), "deleted\n");
    assert_eq!(with("SHMTABLE_PREFIX", "x", &["delete"]).text(), "0\n");
    assert!(with("SHMTABLE_WATCH", "1", &["stats", "--prometheus"]).text().starts_with("# HELP "));
    let both = |args: &[&str]| {
        let mut command = client_command(server.dir(), args);
        command
            .env("SHMTABLE_TTL", "1h")
            .env("SHMTABLE_KEEP_TTL", "1")
            .env("SHMTABLE_WATCH", "1")
            .env("SHMTABLE_PROMETHEUS", "1");
        run(command)
    };
    both(&["insert", "k", "v"]).error(2);
    both(&["stats"]).error(2);
}

#[test]
fn keys_of_every_size_go_through_every_command() {
    let server = Daemon::start(&[]);
    for (len, fits) in [(0, false), (1, true), (1024, true), (1025, false)] {
        let key = "k".repeat(len);
        let key = key.as_str();
        let check = |args: &[&str], printed: &str| {
            let answer = server.client(args);
            if fits {
                assert_eq!(answer.text(), printed, "{:?} with a key of {len} bytes", args[0]);
            } else {
                assert!(answer.error(6).contains(&format!("{len} bytes against 1 to 1024")), "{answer:?}");
            }
        };
        check(&["insert", key, "4", "--ttl", "1h"], "inserted\n");
        check(&["insert", key, "5", "--keep-ttl", "--if-present"], "replaced\n");
        check(&["incr", key, "2", "--ttl", "1h"], "7\n");
        check(&["append", key, "7"], "2\n");
        check(&["read", key], "77\n");
        check(&["expire", key, "2h"], "ok\n");
        check(&["persist", key], "ok\n");
        check(&["ttl", key], "none\n");
        check(&["bucket", key], &format!("{key}\t77\n"));
        check(&["delete", key], "deleted\n");
    }
}

#[test]
fn values_of_every_size_go_through_every_command_that_takes_one() {
    const MAX: usize = 40_000;
    let server = Daemon::start(&["--max-value", &MAX.to_string()]);
    let bytes = |len: usize| (0..len).map(|at| (at * 31) as u8).collect::<Vec<u8>>();
    for len in [0, 1, 15, 16, 17, 127, 128, 129, 16 << 10, (16 << 10) + 1, MAX, MAX + 1] {
        let value = bytes(len);
        let stored = |key: &str, printed: &str, args: &[&str]| {
            let answer = server.fed(args, &value);
            if len > MAX {
                assert!(answer.error(6).contains(&MAX.to_string()), "{answer:?}");
                server.client(&["read", key]).error(1);
            } else {
                assert_eq!(answer.text(), printed, "{args:?} with {len} bytes");
                assert!(server.client(&["read", key, "--raw"]).stdout == value, "{args:?} with {len} bytes");
            }
        };
        stored("i", "inserted\n", &["insert", "i", "-", "--ttl", "1h"]);
        stored("i", "replaced\n", &["insert", "i", "-", "--keep-ttl", "--if-present"]);
        stored("a", &format!("{len}\n"), &["append", "a", "-"]);
        if len <= MAX {
            assert!(about(left(&server, "i"), HOUR_MS));
            assert_eq!(server.client(&["append", "a", "x"]).code, Some(if len == MAX { 6 } else { 0 }));
        }
        let dump = server.client(&["dump", "--format", "jsonl"]);
        assert_eq!(server.client(&["clear"]).text(), if len > MAX { "0\n" } else { "2\n" });
        assert_eq!(server.fed(&["load", "-"], &dump.stdout).text(), if len > MAX { "0\n" } else { "2\n" });
        assert_eq!(server.client(&["dump"]).text().lines().count(), if len > MAX { 0 } else { 2 });
        server.client(&["clear"]).text();
    }
}
