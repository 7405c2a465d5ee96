//! Exit codes 0 to 6, each by what the contract says leads to it.

use nix::sys::signal::Signal;

use crate::commandline::{client, run};
use crate::daemon::{Daemon, private_folder, server_command};
use crate::watch::{send, until};

#[test]
fn usage_is_2() {
    let folder = private_folder();
    for args in [
        &["frobnicate"][..],
        &["insert", "k"],
        &["insert", "k", "v", "--if-absent", "--if-present"],
        &["insert", "k", "v", "--if-absent", "--if-version", "3"],
        &["read", "k", "--timeout", "soon"],
        &["read", "k", "--wait", "patiently"],
        &["read", "k", "--no-such-flag"],
        &["ping", "--name", "not/a name"],
        &["3"],
        &["0", "0"],
        &["delete", "--prefix", ""],
    ] {
        client(folder.path(), args).error(2);
    }
    client(&folder.path().join("absent"), &["doctor"]).error(2);
    let no_command: [&str; 0] = [];
    assert_eq!(client(folder.path(), &no_command).code, Some(2));
    let help = client(folder.path(), &["--help"]);
    assert!(help.text().contains("Exit codes:"), "{help:?}");
    assert!(client(folder.path(), &["help", "load"]).text().contains("Examples:"));
}

#[test]
fn no_server_is_3_at_once() {
    let folder = private_folder();
    for args in [&["read", "k"][..], &["insert", "k", "v"], &["ping"], &["stats"], &["clients"], &["dump"], &["3", "4"]] {
        client(folder.path(), args).error(3);
    }
}

#[test]
fn a_dead_server_is_3() {
    let server = Daemon::start(&[]);
    let (_, folder) = server.end(Signal::SIGKILL);
    client(folder.path(), &["read", "k"]).error(3);
    assert_eq!(client(folder.path(), &["doctor", "--clean"]).code, Some(0));
}

#[test]
fn no_client_slot_is_3_and_monitors_need_none() {
    let server = Daemon::start(&["--clients", "1"]);
    let run = server.background(&["0", "10"]);
    until("the run to begin", || (!server.client(&["clients"]).text().is_empty()).then_some(()));
    server.client(&["read", "k"]).error(3);
    server.client(&["stats"]).text();
    assert_eq!(run.end(Signal::SIGINT).code, Some(0));
    until("the slot to be free", || (server.client(&["read", "k"]).code == Some(1)).then_some(()));
}

#[test]
fn a_name_that_is_taken_is_3_and_names_the_server() {
    let server = Daemon::start(&[]);
    let answer = run(server_command(server.dir(), &[]));
    assert!(answer.error(3).contains(&server.pid().to_string()), "{answer:?}");
    assert_eq!(server.client(&["insert", "k", "v"]).text(), "inserted\n", "the first one serves on");
}

#[test]
fn no_answer_in_time_is_4_and_of_a_write_the_outcome_is_unknown() {
    let server = Daemon::start(&[]);
    assert_eq!(server.client(&["insert", "k", "v"]).text(), "inserted\n");
    server.freeze();
    let read = server.client(&["read", "k", "--timeout", "50ms"]);
    assert!(!read.error(4).contains("unknown"), "{read:?}");
    let write = server.client(&["insert", "k", "w", "--timeout", "50ms"]);
    assert!(write.error(4).contains("outcome unknown"), "{write:?}");
    send(server.pid(), Signal::SIGCONT);
    until("the write that timed out", || (server.client(&["read", "k"]).text() == "w\n").then_some(()));
}

#[test]
fn a_full_table_is_5_and_stays_usable() {
    let server = Daemon::start(&["-s", "1024", "--memory", "16MiB"]);
    let value = "v".repeat(60_000);
    let items: String = (0..1000).map(|index| format!("key-{index:04}\t{value}\n")).collect();
    let answer = server.fed(&["load", "-"], items.as_bytes());
    assert!(answer.error(5).starts_with("error: load failed at line "), "{answer:?}");
    let insert = server.fed(&["insert", "one more", "-"], value.as_bytes());
    insert.error(5);
    assert_eq!(server.client(&["read", "key-0000"]).text().len(), 60_001);
    assert_eq!(server.client(&["delete", "key-0000"]).text(), "deleted\n");
    let run = server.client(&["1", "1000", "--value-size", "60KiB"]);
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    assert!(run.stdout.starts_with(b"ops="), "the last line comes all the same");
}

#[test]
fn what_is_deleted_from_a_full_table_makes_room_for_other_clients() {
    let server = Daemon::start(&["-s", "64", "-n", "4", "--memory", "4MiB"]);
    let value = "v".repeat(4000);
    let items: String = (0..3000).map(|index| format!("key-{index:04}\t{value}\n")).collect();
    server.fed(&["load", "-"], items.as_bytes()).error(5);
    // Each command is a client of its own, on the next shard: another worker frees than the one that takes.
    for key in (0..40).map(|index| format!("key-{index:04}")) {
        assert_eq!(server.client(&["delete", &key]).text(), "deleted\n");
        assert_eq!(server.fed(&["insert", &key, "-"], value.as_bytes()).text(), "inserted\n", "{key}");
    }
}

#[test]
fn refused_input_is_6() {
    let server = Daemon::start(&["--max-value", "1KiB"]);
    let (long_key, longest_key) = ("k".repeat(1025), "k".repeat(1024));
    for args in [
        &["insert", "", "v"][..],
        &["insert", &long_key, "v"],
        &["read", ""],
        &["delete", &long_key],
        &["incr", ""],
        &["append", "", "v"],
        &["bucket", ""],
    ] {
        server.client(args).error(6);
    }
    server.client(&["insert", "k", &"v".repeat(1025)]).error(6);
    server.fed(&["insert", "k", "-"], &vec![b'v'; 3 << 20]).error(6);
    assert_eq!(server.client(&["insert", &longest_key, &"v".repeat(1024)]).text(), "inserted\n");
    assert_eq!(server.client(&["read", &longest_key]).text().len(), 1025);
}
