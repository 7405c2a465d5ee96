//! What each command prints.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::commandline::{client_bare, client_command, run};
use crate::daemon::Daemon;

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim_end()).unwrap_or_else(|error| panic!("{text:?} is no JSON: {error}"))
}

#[test]
fn insert_read_and_delete_print_what_was_done() {
    let server = Daemon::start(&[]);
    assert_eq!(server.client(&["insert", "greeting", "hello"]).text(), "inserted\n");
    assert_eq!(server.client(&["insert", "greeting", "good day"]).text(), "replaced\n");
    assert_eq!(server.client(&["read", "greeting"]).text(), "good day\n");
    assert_eq!(server.client(&["read", "greeting", "--raw"]).text(), "good day");
    assert_eq!(server.client(&["delete", "greeting"]).text(), "deleted\n");
    server.client(&["read", "greeting"]).error(1);
    server.client(&["delete", "greeting"]).error(1);
}

#[test]
fn conditions_are_met_or_answered_with_unchanged() {
    let server = Daemon::start(&[]);
    assert_eq!(server.client(&["insert", "k", "1", "--if-present"]).gave(1), "unchanged\n");
    assert_eq!(server.client(&["insert", "k", "2", "--if-absent"]).text(), "inserted\n");
    assert_eq!(server.client(&["insert", "k", "3", "--if-absent"]).gave(1), "unchanged\n");
    assert_eq!(server.client(&["insert", "k", "4", "--if-present"]).text(), "replaced\n");
    let answer = server.client(&["read", "k", "--with-version"]);
    let (version, value) = answer.text().split_once('\t').expect("a tab");
    assert_eq!(value, "4\n");
    assert_eq!(server.client(&["insert", "k", "5", "--if-version", version]).text(), "replaced\n");
    assert_eq!(server.client(&["insert", "k", "6", "--if-version", version]).gave(1), "unchanged\n");
    assert_eq!(server.client(&["insert", "absent", "7", "--if-version", version]).gave(1), "unchanged\n");
    assert_eq!(server.client(&["read", "k"]).text(), "5\n");
}

#[test]
fn numbers_and_lengths_are_printed() {
    let server = Daemon::start(&[]);
    assert_eq!(server.client(&["incr", "n"]).text(), "1\n");
    assert_eq!(server.client(&["incr", "n", "41"]).text(), "42\n");
    assert_eq!(server.client(&["incr", "n", "-50"]).text(), "-8\n");
    assert_eq!(server.client(&["append", "log", "one"]).text(), "3\n");
    assert_eq!(server.client(&["append", "log", " two"]).text(), "7\n");
    assert_eq!(server.client(&["read", "log"]).text(), "one two\n");
    server.client(&["incr", "log"]).error(1);
    server.client(&["insert", "n", "9223372036854775807"]).text();
    server.client(&["incr", "n"]).error(1);
    assert_eq!(server.client(&["read", "n"]).text(), "9223372036854775807\n");
}

#[test]
fn values_come_from_stdin_and_dashes_are_bytes_after_a_double_dash() {
    let server = Daemon::start(&[]);
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    assert_eq!(server.fed(&["insert", "big", "-"], &bytes).text(), "inserted\n");
    assert!(server.client(&["read", "big", "--raw"]).stdout == bytes, "300,000 bytes of every kind come back");
    assert_eq!(server.fed(&["append", "big", "-"], b"xyz").text(), "300003\n");
    assert_eq!(server.fed(&["insert", "empty", "-"], b"").text(), "inserted\n");
    assert_eq!(server.client(&["read", "empty"]).text(), "\n");
    assert_eq!(server.client(&["insert", "--", "--key", "--raw"]).text(), "inserted\n");
    assert_eq!(server.client(&["read", "--", "--key"]).text(), "--raw\n");
    let odd = OsStr::from_bytes(b"k\xff\n");
    assert_eq!(server.client(&[OsStr::new("insert"), odd, odd]).text(), "inserted\n");
    assert_eq!(server.client(&[OsStr::new("read"), odd]).stdout, b"k\xff\n\n");
}

#[test]
fn prefixes_and_everything_are_removed_with_their_number() {
    let server = Daemon::start(&[]);
    let lines: String = (0..300).map(|index| format!("{}:{index}\tv\n", if index % 3 == 0 { "a" } else { "b" })).collect();
    assert_eq!(server.fed(&["load", "-"], lines.as_bytes()).text(), "300\n");
    assert_eq!(server.client(&["delete", "--prefix", "a:"]).text(), "100\n");
    assert_eq!(server.client(&["delete", "--prefix", "a:"]).text(), "0\n");
    assert_eq!(server.client(&["clear"]).text(), "200\n");
    assert_eq!(server.client(&["dump"]).text(), "");
}

#[test]
fn buckets_list_their_items_as_dump_does() {
    let server = Daemon::start(&["-s", "64"]);
    let lines: String = (0..100).map(|index| format!("key{index}\tvalue {index}\n")).collect();
    server.fed(&["load", "-"], lines.as_bytes()).text();
    let answer = server.client(&["bucket", "key7"]);
    assert!(answer.text().lines().any(|line| line == "key7\tvalue 7"), "{answer:?}");
    let all: usize = (0..64).map(|index| server.client(&["bucket", "--index", &index.to_string()]).text().lines().count()).sum();
    assert_eq!(all, 100, "every item is in one bucket");
    server.client(&["bucket", "--index", "4000000"]).error(2);
    let answer = server.client(&["bucket", "key7", "--json"]);
    let item = answer.text().lines().map(json).find(|item| item["key"] == "key7").expect("the key is in its bucket");
    assert_eq!(item["value"], "value 7");
    assert!(item["version"].is_u64() && item["bucket"].is_u64(), "{item}");
}

#[test]
fn json_is_one_object_per_line_for_every_command() {
    let server = Daemon::start(&[]);
    let object = |args: &[&str], code| json(server.client(args).gave(code));
    assert_eq!(object(&["insert", "k", "v", "--json"], 0)["result"], "inserted");
    assert_eq!(object(&["--json", "insert", "k", "v", "--if-absent"], 1)["result"], "unchanged");
    let item = object(&["read", "k", "--json"], 0);
    assert_eq!((&item["key"], &item["value"], &item["found"]), (&"k".into(), &"v".into(), &true.into()));
    assert_eq!(object(&["read", "none", "--json"], 1)["found"], false);
    assert_eq!(object(&["incr", "n", "--json"], 0)["number"], 1);
    assert_eq!(object(&["append", "k", "w", "--json"], 0)["length"], 2);
    assert_eq!(object(&["delete", "k", "--json"], 0)["result"], "deleted");
    assert_eq!(object(&["delete", "k", "--json"], 1)["result"], "not found");
    assert!(object(&["ping", "--json"], 0)["round_trip_ns"].is_u64());
    assert!(object(&["stats", "--json"], 0)["buckets"].is_u64());
    assert_eq!(object(&["2", "5", "--json"], 0)["ops"], 30);
    assert_eq!(json(server.fed(&["load", "-", "--json"], b"word\n").text())["loaded"], 1);
    assert_eq!(object(&["delete", "--prefix", "wor", "--json"], 0)["deleted"], 1);
    assert_eq!(object(&["clear", "--json"], 0)["cleared"], 1);
    let odd = OsStr::from_bytes(b"\xff");
    server.client(&[OsStr::new("insert"), odd, OsStr::new("v")]).text();
    assert_eq!(object(&["dump", "--json"], 0)["key_base64"], "/w==");
    assert!(server.client(&["doctor", "--json"]).text().lines().map(json).all(|finding| finding["status"] == "ok"));
}

#[test]
fn the_environment_stands_in_for_flags_and_yields_to_them() {
    let server = Daemon::start(&["--name", "other"]);
    let set = |args: &[&str]| {
        let mut command = client_command(server.dir(), args);
        // A variable that says no is no flag, and in no flag's way.
        command.env("SHMTABLE_NAME", "other").env("SHMTABLE_JSON", "1").env("SHMTABLE_IF_ABSENT", "0");
        run(command)
    };
    assert_eq!(json(set(&["insert", "k", "v"]).text())["result"], "inserted");
    assert_eq!(json(set(&["insert", "k", "v", "--if-present"]).text())["result"], "replaced");
    set(&["read", "k", "--name", "absent"]).error(3);
    server.client(&["read", "k"]).error(3);
    assert_eq!(server.client(&["read", "k", "--name", "other"]).text(), "v\n");
}

#[test]
fn the_default_folder_is_that_of_shared_memory() {
    let name = format!("cli-test-{}", std::process::id());
    let server = Daemon::start_by_default(&name);
    let command = |args: &[&str]| {
        let mut command = client_bare(&["--name".as_ref(), name.as_ref()]);
        command.args(args);
        run(command)
    };
    assert_eq!(command(&["insert", "k", "v"]).text(), "inserted\n");
    assert_eq!(command(&["read", "k"]).text(), "v\n");
    drop(server);
    command(&["read", "k"]).error(3);
    for ending in ["rings", "table"] {
        assert!(!std::path::Path::new(&format!("/dev/shm/{name}.{ending}")).exists(), "the server left its {ending}");
    }
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let server = Daemon::start(&[]);
    server.client(&["insert", "a", "1"]).text();
    let version = || {
        let answer = server.client(&["read", "a", "--with-version"]);
        answer.text().split('\t').next().expect("a version").to_owned()
    };
    let first = version();
    let steps = format!(
        "{{\"op\":\"compare\",\"key\":\"a\",\"version\":{first}}}\n\n{{\"op\":\"read\",\"key\":\"a\"}}\n\
         {{\"op\":\"read\",\"key\":\"none\"}}\n{{\"op\":\"insert\",\"key\":\"a\",\"value\":\"2\\n\"}}\n\
         {{\"op\":\"insert\",\"key_base64\":\"/w==\",\"value\":\"3\",\"ttl_ms\":600000}}\n{{\"op\":\"delete\",\"key\":\"b\"}}\n"
    );
    let answer = server.fed(&["transact", "-"], steps.as_bytes());
    assert_eq!(answer.text(), format!("committed\n{first}\ta\t1\n0\tnone\t\n"));
    assert_eq!(server.client(&["read", "a", "--raw"]).text(), "2\n");
    // Again: the version has changed, and nothing else does.
    assert_eq!(server.fed(&["transact", "-"], steps.as_bytes()).gave(1), "mismatch\n");
    let answer = server.fed(&["transact", "-", "--json"], steps.as_bytes());
    let (now, mismatch) = (version(), json(answer.gave(1)));
    assert_eq!((&mismatch["result"], &mismatch["line"]), (&"mismatch".into(), &1.into()));
    assert_eq!(mismatch["version"].to_string(), now);
    let steps = "{\"op\":\"delete\",\"key\":\"a\"}\n{\"op\":\"read\",\"key_base64\":\"/w==\"}\n";
    let answer = server.fed(&["transact", "-", "--json"], steps.as_bytes());
    let lines: Vec<_> = answer.text().lines().map(json).collect();
    assert_eq!(lines[0]["result"], "committed");
    assert_eq!((&lines[1]["op"], lines[1]["version"].to_string()), (&"delete".into(), now));
    assert_eq!((&lines[2]["key_base64"], &lines[2]["value"]), (&"/w==".into(), &"3".into()));
    server.client(&["read", "a"]).error(1);
    server.fed(&["transact", "-"], b"{\"op\":\"read\"}\n").error(6);
    let twice = b"{\"op\":\"delete\",\"key\":\"a\"}\n{\"op\":\"delete\",\"key\":\"a\"}\n";
    server.fed(&["transact", "-"], twice).error(6);
    server.client(&["transact", "/no/such/file"]).error(2);
    assert_eq!(server.fed(&["transact", "-"], b"").text(), "committed\n");
}
