//! Modes and owners of the two files, memory behind them.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

use crate::harness::{Place, Server, error_line};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("metadata").mode() & 0o7777
}

#[test]
fn only_the_owner_may_use_a_region_unless_told_otherwise() {
    let place = Place::new();
    let _server = place.start(&[]);
    assert_eq!((mode(&place.rings()), mode(&place.table())), (0o600, 0o600));
}

#[test]
fn modes_are_set_whatever_the_umask() {
    let place = Place::new();
    let mut command = place.command(&["--mode", "0660", "--table-mode", "0644"]);
    // SAFETY: between fork and exec the child calls umask only, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            umask(Mode::from_bits_truncate(0o777));
            Ok(())
        })
    };
    let _server = Server::start(command);
    assert_eq!((mode(&place.rings()), mode(&place.table())), (0o660, 0o644));
}

#[test]
fn the_group_gets_both_files() {
    let place = Place::new();
    let gid = nix::unistd::getegid().as_raw();
    let _server = place.start(&["--group", &gid.to_string()]);
    for path in [place.rings(), place.table()] {
        assert_eq!(std::fs::metadata(path).expect("metadata").gid(), gid);
    }
    if nix::unistd::geteuid().is_root() {
        let other = Place::new();
        let _server = other.start(&["--group", "4711"]);
        for path in [other.rings(), other.table()] {
            assert_eq!(std::fs::metadata(path).expect("metadata").gid(), 4711);
        }
    }
}

#[test]
fn a_table_is_sparse_beyond_what_it_uses() {
    let place = Place::new();
    let _server = place.start(&[]);
    let table = std::fs::metadata(place.table()).expect("metadata");
    assert!(table.len() >= 64 << 20, "as long as it may become");
    assert!(table.blocks() * 512 < 16 << 20, "{} bytes are used by an empty table", table.blocks() * 512);
}

#[test]
fn memory_is_locked_or_the_limit_is_named() {
    let place = Place::new();
    if nix::unistd::geteuid().is_root() {
        let server = place.start(&["--lock-memory"]);
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("status");
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a field").trim().trim_end_matches(" kB");
        assert_ne!(locked, "0");
        assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
    } else {
        let ended = place.refusal(&["--lock-memory"]);
        assert_eq!(ended.code, Some(70), "{}", ended.stderr);
        assert!(error_line(&ended.stderr).contains("--lock-memory"), "{}", ended.stderr);
        assert_eq!(place.files(), [""; 0]);
    }
}
