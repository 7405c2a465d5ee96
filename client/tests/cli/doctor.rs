//! `client doctor`: what it finds, and what `--clean` removes and leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::commandline::{Answer, client};
use crate::daemon::{Daemon, private_folder};

/// The status of every line that is about the region `subject`.
fn statuses(answer: &Answer, code: i32, subject: &str) -> Vec<String> {
    let lines = answer.gave(code).lines().filter_map(|line| line.split_once(": ")?.0.split_once(' '));
    lines.filter(|(_, about)| *about == subject).map(|(status, _)| status.to_owned()).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("read").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_healthy_folder_is_0_and_a_live_region_is_never_cleaned() {
    let server = Daemon::start(&[]);
    for args in [&["doctor"][..], &["doctor", "--clean"]] {
        assert_eq!(statuses(&server.client(args), 0, "shmtable"), ["ok"]);
    }
    assert_eq!(server.client(&["insert", "k", "v"]).text(), "inserted\n");
    assert_eq!(files(server.dir()), ["shmtable.rings", "shmtable.table"]);
}

#[test]
fn what_a_killed_server_left_is_found_and_cleaned() {
    let server = Daemon::start(&[]);
    server.client(&["insert", "k", "v"]).text();
    let (_, folder) = server.end(Signal::SIGKILL);
    let answer = client(folder.path(), &["doctor"]);
    assert_eq!(statuses(&answer, 1, "shmtable"), ["stale"]);
    assert!(answer.gave(1).contains("; start the server"), "the line has a remedy: {answer:?}");
    assert_eq!(files(folder.path()).len(), 2, "looking changes nothing");
    assert_eq!(statuses(&client(folder.path(), &["doctor", "--clean"]), 0, "shmtable"), ["removed"]);
    assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
    client(folder.path(), &["doctor"]).text();
}

#[test]
fn a_region_that_was_kept_is_no_problem_and_left_alone() {
    let server = Daemon::start(&["--on-exit", "keep"]);
    server.client(&["insert", "k", "v"]).text();
    let (status, folder) = server.end(Signal::SIGTERM);
    assert!(status.success(), "{status}");
    assert_eq!(statuses(&client(folder.path(), &["doctor", "--clean"]), 0, "shmtable"), ["kept"]);
    let server = Daemon::start_in(folder, &[]);
    assert_eq!(server.client(&["read", "k"]).text(), "v\n");
}

#[test]
fn halves_of_a_pair_are_found_and_cleaned() {
    for (half, other) in [("rings", "table"), ("table", "rings")] {
        let (_, folder) = Daemon::start(&[]).end(Signal::SIGKILL);
        fs::remove_file(folder.path().join(format!("shmtable.{other}"))).expect("removed");
        assert_eq!(statuses(&client(folder.path(), &["doctor"]), 1, "shmtable"), ["half"], "{half} alone");
        assert_eq!(statuses(&client(folder.path(), &["doctor", "--clean"]), 0, "shmtable"), ["removed"], "{half} alone");
        assert!(files(folder.path()).is_empty(), "{half} alone: {:?}", files(folder.path()));
    }
}

#[test]
fn rings_that_are_cut_short_or_empty_are_found_and_cleaned() {
    for (len, status) in [(0, "unfinished"), (5000, "damaged")] {
        let (_, folder) = Daemon::start(&[]).end(Signal::SIGKILL);
        let rings = fs::File::options().write(true).open(folder.path().join("shmtable.rings")).expect("opens");
        rings.set_len(len).expect("cut");
        assert_eq!(statuses(&client(folder.path(), &["doctor"]), 1, "shmtable"), [status]);
        assert_eq!(statuses(&client(folder.path(), &["doctor", "--clean"]), 0, "shmtable"), ["removed"]);
        assert!(files(folder.path()).is_empty(), "{:?}", files(folder.path()));
    }
}

#[test]
fn foreign_files_are_reported_and_never_removed() {
    let folder = private_folder();
    fs::write(folder.path().join("a.rings"), "not ours at all").expect("written");
    fs::write(folder.path().join("b.table"), "not ours either").expect("written");
    fs::write(folder.path().join("not a region.table"), "nobody's name").expect("written");
    fs::write(folder.path().join("c.other"), "nobody's ending").expect("written");
    fs::create_dir(folder.path().join("d.rings")).expect("made");
    let answer = client(folder.path(), &["doctor", "--clean"]);
    for name in ["a.rings", "b.table", "d.rings"] {
        let path = folder.path().join(name).display().to_string();
        assert_eq!(statuses(&answer, 1, &path), ["foreign"], "{answer:?}");
    }
    assert_eq!(files(folder.path()).len(), 5);
    assert_eq!(answer.gave(1).lines().count(), 4, "three findings and the room: {answer:?}");
}

#[test]
fn modes_that_let_others_write_are_reported() {
    let server = Daemon::start(&[]);
    let table = server.dir().join("shmtable.table");
    fs::set_permissions(&table, fs::Permissions::from_mode(0o666)).expect("changed");
    assert_eq!(statuses(&server.client(&["doctor"]), 1, &table.display().to_string()), ["mode"]);
    fs::set_permissions(&table, fs::Permissions::from_mode(0o600)).expect("changed");
    server.client(&["doctor"]).text();
}
