//! What a server finds under its name: live, dead, kept, half, damaged, foreign.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

use memmap2::MmapOptions;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::Signal;
use table::{Commit, CommitError, Condition, Table, Ticket};

use crate::harness::{Place, error_line};

/// Offset of the uuid in the rings' header.
const RINGS_UUID: u64 = 16;
/// Offset of the uuid in the table's header.
const TABLE_UUID: u64 = 32;
/// Offset of the layout's version in both headers.
const VERSION: u64 = 8;

fn uuid(path: &Path, offset: u64) -> [u8; 16] {
    let mut uuid = [0; 16];
    File::open(path).expect("opened").read_exact_at(&mut uuid, offset).expect("read");
    uuid
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).expect("opened").write_all_at(bytes, offset).expect("written");
}

/// Backs the table's file as a server does.
struct Backing(File);

impl Commit for Backing {
    fn commit(&self, offset: u64, len: u64) -> Result<(), CommitError> {
        fallocate(&self.0, FallocateFlags::empty(), offset as i64, len as i64).map_err(|errno| CommitError {
            offset,
            len,
            reason: errno.to_string(),
        })
    }
}

/// Joins the table that a stopped server kept, and lets `work` have it.
fn with_table(place: &Place, work: impl FnOnce(&Table)) {
    let file = OpenOptions::new().read(true).write(true).open(place.table()).expect("opened");
    let map = MmapOptions::new().map_raw(&file).expect("mapped");
    let base = NonNull::new(map.as_mut_ptr()).expect("an address");
    // SAFETY: the mapping is page-aligned and outlives the table; no server runs.
    let (table, _) = unsafe { Table::join(base, map.len() as u64, Box::new(Backing(file))) }.expect("a table");
    work(&table);
}

/// Puts items into the table that a stopped server kept.
fn insert(place: &Place, items: u32) {
    with_table(place, |table| {
        let mut writer = table.writer(0);
        for item in 0..items {
            let key = item.to_le_bytes();
            let reservation = writer
                .reserve(&key, 0, 0, table::Expiry::Never)
                .unwrap_or_else(|refused| panic!("room for an item: {refused:?}"));
            let _ = writer.commit(reservation, table.hash(&key), Condition::None, &Ticket::default(), |outcome| *outcome);
        }
        assert_eq!(table.stats().items, u64::from(items));
    });
}

/// A region that a server kept, with so many items.
fn kept(items: u32) -> Place {
    let place = Place::new();
    assert_eq!(place.start(&["--on-exit", "keep"]).stop(Signal::SIGTERM).code, Some(0));
    insert(&place, items);
    place
}

#[test]
fn a_live_region_is_refused_and_its_pid_named() {
    let place = Place::new();
    let server = place.start(&[]);
    for flags in [&[][..], &["--fresh"]] {
        let ended = place.refusal(flags);
        assert_eq!(ended.code, Some(3), "{}", ended.stderr);
        assert!(error_line(&ended.stderr).contains(&format!("pid {}", server.pid())), "{}", ended.stderr);
    }
    assert_eq!(place.files(), ["t.rings", "t.table"]);
    assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
}

#[test]
fn of_many_servers_at_once_one_serves() {
    let place = Place::new();
    let mut children: Vec<_> = (0..8)
        .map(|_| {
            let mut command = place.command(&[]);
            let piped = std::process::Stdio::piped;
            command.stdin(std::process::Stdio::null()).stdout(piped()).stderr(std::process::Stdio::null());
            command.spawn().expect("the server")
        })
        .collect();
    // The losers end by themselves; the one that does not is the winner.
    let winner = crate::harness::until(|| {
        let running: Vec<_> = (0..8).filter(|&index| children[index].try_wait().expect("a child").is_none()).collect();
        (running.len() == 1).then(|| running[0])
    });
    let pid = children[winner].id();
    let ended = place.refusal(&[]);
    assert!(error_line(&ended.stderr).contains(&format!("pid {pid}")), "{}", ended.stderr);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGTERM).expect("a running server");
    for (index, child) in children.iter_mut().enumerate() {
        let code = child.wait().expect("a child").code();
        assert_eq!(code, Some(if index == winner { 0 } else { 3 }), "server {index}");
    }
}

#[test]
fn a_kept_region_is_joined_with_its_items_and_shards() {
    let place = kept(100);
    let before = uuid(&place.table(), TABLE_UUID);
    // The command asks for two threads; -n may stand once, so the environment cannot help either: shards stay two.
    let server = place.start(&["--on-exit", "keep", "--prefault"]);
    assert_eq!((server.field("items"), server.field("shards"), server.field("buckets")), ("100", "2", "1024"));
    let ended = server.stop(Signal::SIGTERM);
    assert!(ended.stderr.contains("100 items"), "{}", ended.stderr);
    assert_eq!((uuid(&place.rings(), RINGS_UUID), uuid(&place.table(), TABLE_UUID)), (before, before));
    let ended = place.start(&[]).stop(Signal::SIGTERM);
    assert!(ended.stderr.contains("removed 100 items"), "{}", ended.stderr);
    assert_eq!(place.files(), [""; 0]);
}

#[test]
fn threads_are_free_and_shards_are_the_region_s() {
    for threads in ["1", "5"] {
        let place = kept(3);
        let mut command = crate::harness::bare();
        command.args(["--name", "t", "-n", threads, "--dir"]).arg(place.path());
        let server = crate::harness::Server::start(command);
        assert_eq!((server.field("items"), server.field("shards")), ("3", "2"));
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("tasks").filter_map(|task| {
            let name = std::fs::read_to_string(task.expect("a task").path().join("comm")).ok()?;
            name.starts_with("worker-").then_some(name)
        });
        assert_eq!(tasks.count().to_string(), threads);
        assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
    }
}

#[test]
fn a_killed_server_s_region_is_joined() {
    let place = kept(7);
    let ended = place.start(&[]).stop(Signal::SIGKILL);
    assert_eq!(ended.signal, Some(Signal::SIGKILL as i32));
    let server = place.start(&[]);
    assert_eq!(server.field("items"), "7");
}

#[test]
fn fresh_discards_what_nobody_serves() {
    let place = kept(5);
    let before = uuid(&place.table(), TABLE_UUID);
    let server = place.start(&["--fresh"]);
    assert_eq!(server.field("items"), "0");
    assert_ne!(uuid(&place.table(), TABLE_UUID), before);
    let ended = server.stop(Signal::SIGTERM);
    assert!(ended.stderr.contains("discarded the table with 5 items"), "{}", ended.stderr);
}

#[test]
fn memory_may_rise_at_the_next_start() {
    let place = kept(1);
    let mut command = crate::harness::bare();
    command.args(["--name", "t", "--memory", "128MiB", "--on-exit", "keep", "--dir"]).arg(place.path());
    assert_eq!(crate::harness::Server::start(command).stop(Signal::SIGTERM).code, Some(0));
    with_table(&place, |table| assert_eq!(table.stats().memory_limit_bytes, 128 << 20));
}

#[test]
fn rings_that_cannot_be_used_are_made_anew_over_the_table() {
    type Harm = fn(&Place);
    let harms: [(&str, Harm); 6] = [
        ("removed", |place| std::fs::remove_file(place.rings()).expect("removed")),
        ("cut", |place| OpenOptions::new().write(true).open(place.rings()).expect("opened").set_len(8192).expect("cut")),
        ("empty", |place| OpenOptions::new().write(true).open(place.rings()).expect("opened").set_len(0).expect("cut")),
        ("half formatted", |place| write(&place.rings(), 0, &[0; 8])),
        ("damaged", |place| write(&place.rings(), 40, &[0xFF; 4])),
        ("another region's", |place| write(&place.rings(), RINGS_UUID, &[7; 16])),
    ];
    for (what, harm) in harms {
        let place = kept(9);
        let before = uuid(&place.table(), TABLE_UUID);
        harm(&place);
        let server = place.start(&[]);
        assert_eq!(server.field("items"), "9", "{what}");
        assert_eq!((uuid(&place.rings(), RINGS_UUID), uuid(&place.table(), TABLE_UUID)), (before, before), "{what}");
        assert_eq!(server.stop(Signal::SIGTERM).code, Some(0), "{what}");
    }
}

#[test]
fn half_a_pair_is_discarded_with_a_warning() {
    type Harm = fn(&Place);
    let harms: [(&str, Harm); 3] = [
        ("no table", |place| std::fs::remove_file(place.table()).expect("removed")),
        ("an empty table", |place| OpenOptions::new().write(true).open(place.table()).expect("opened").set_len(0).expect("cut")),
        ("a table without magic", |place| write(&place.table(), 0, &[0; 8])),
    ];
    for (what, harm) in harms {
        let place = kept(0);
        let before = uuid(&place.rings(), RINGS_UUID);
        harm(&place);
        let server = place.start(&[]);
        assert_eq!(server.field("items"), "0", "{what}");
        assert_ne!(uuid(&place.rings(), RINGS_UUID), before, "{what}");
        let ended = server.stop(Signal::SIGTERM);
        assert_eq!(ended.code, Some(0), "{what}");
        assert!(ended.stderr.contains("WARN") && ended.stderr.contains("discarded rings"), "{what}: {}", ended.stderr);
    }
}

#[test]
fn what_may_hold_items_is_never_discarded_without_fresh() {
    type Harm = fn(&Place);
    let harms: [(&str, Harm); 4] = [
        ("rings of another major version", |place| write(&place.rings(), VERSION, &99u16.to_le_bytes())),
        ("a table of another major version", |place| write(&place.table(), VERSION + 4, &99u32.to_le_bytes())),
        ("a damaged table", |place| write(&place.table(), 24, &[0xFF; 7])),
        ("a table that was cut", |place| {
            OpenOptions::new().write(true).open(place.table()).expect("opened").set_len(1 << 20).expect("cut")
        }),
    ];
    for (what, harm) in harms {
        let place = kept(4);
        harm(&place);
        let ended = place.refusal(&[]);
        assert_eq!(ended.code, Some(70), "{what}: {}", ended.stderr);
        let error = error_line(&ended.stderr);
        assert!(error.contains("--fresh"), "{what}: {error}");
        assert_eq!(place.files(), ["t.rings", "t.table"], "{what}");
        let server = place.start(&["--fresh"]);
        assert_eq!(server.field("items"), "0", "{what}");
    }
}

#[test]
fn what_is_no_region_is_never_touched() {
    for flags in [&[][..], &["--fresh"]] {
        let place = Place::new();
        std::fs::write(place.rings(), "a letter to a friend, longer than a magic").expect("written");
        let ended = place.refusal(flags);
        assert_eq!(ended.code, Some(70), "{}", ended.stderr);
        assert!(error_line(&ended.stderr).contains("t.rings"), "{}", ended.stderr);
        assert_eq!(place.files(), ["t.rings"]);
    }
    let place = Place::new();
    std::fs::create_dir(place.table()).expect("a directory");
    let ended = place.refusal(&[]);
    assert_eq!(ended.code, Some(70), "{}", ended.stderr);
    assert_eq!(place.files(), ["t.table"]);
    assert_eq!(File::open(place.rings()).expect_err("no rings").kind(), ErrorKind::NotFound);
}
