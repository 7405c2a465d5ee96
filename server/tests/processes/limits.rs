//! Too little of everything: shared memory, file size.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;

use crate::harness::{Place, Server, error_line, has_program, run};

#[test]
fn more_memory_than_there_is_cannot_be_asked_for() {
    let place = Place::new();
    let mut command = crate::harness::bare();
    command.args(["--memory", "200TiB", "--dir"]).arg(place.path());
    let ended = run(command);
    assert_eq!(ended.code, Some(70), "{}", ended.stderr);
    let error = error_line(&ended.stderr);
    assert!(error.contains("expected 200TiB") && error.contains("found ") && error.contains("--memory"), "{error}");
    assert_eq!(place.files(), [""; 0]);
}

#[test]
fn a_table_that_does_not_hold_its_buckets_is_refused() {
    let place = Place::new();
    let mut command = crate::harness::bare();
    command.args(["-s", "1000000", "--memory", "1MiB", "--dir"]).arg(place.path());
    let ended = run(command);
    assert_eq!(ended.code, Some(70), "{}", ended.stderr);
    let error = error_line(&ended.stderr);
    assert!(error.contains("--memory") && error.contains("1048576"), "{error}");
    assert_eq!(place.files(), [""; 0]);
}

#[test]
fn a_file_size_limit_is_an_error_and_no_signal() {
    let place = Place::new();
    let mut command = place.command(&[]);
    // SAFETY: between fork and exec the child calls setrlimit only, which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_FSIZE, 64 << 20, 64 << 20)?)) };
    let ended = run(command);
    assert_eq!((ended.code, ended.signal), (Some(70), None), "{}", ended.stderr);
    assert!(error_line(&ended.stderr).contains("limit"), "{}", ended.stderr);
    assert_eq!(place.files(), [""; 0]);
}

/// A command that runs `server` with a tmpfs of `size` mounted over its directory, in a mount namespace of its own.
fn in_small_tmpfs(place: &Place, size: &str, flags: &[&str]) -> Command {
    let script = "mount -t tmpfs -o size=$0 tmpfs \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, size]).arg(place.path());
    let mut server = crate::harness::bare();
    server.args(["--dir"]).arg(place.path()).args(flags);
    command.arg(server.get_program()).args(server.get_args());
    command
}

/// Whether this process may mount; says so where it may not.
fn may_mount(place: &Place) -> bool {
    if !nix::unistd::geteuid().is_root() || !has_program("unshare") {
        println!("skipped: mounting a small tmpfs needs root and the program unshare (util-linux)");
        return false;
    }
    let script = ["-m", "mount", "-t", "tmpfs", "tmpfs"];
    let mounted = Command::new("unshare").args(script).arg(place.path()).status().is_ok_and(|status| status.success());
    if !mounted {
        println!("skipped: this root may not mount");
    }
    mounted
}

#[test]
fn the_default_fits_a_small_container() {
    let place = Place::new();
    if !may_mount(&place) {
        return;
    }
    let server = Server::start(in_small_tmpfs(&place, "64m", &["-n", "2"]));
    assert_eq!(server.field("buckets"), "65536");
    assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
}

#[test]
fn too_small_a_tmpfs_names_the_sizes_and_the_remedy() {
    let place = Place::new();
    if !may_mount(&place) {
        return;
    }
    // One page holds neither rings nor table, 2 MiB hold the rings only.
    for size in ["4k", "2m"] {
        let ended = run(in_small_tmpfs(&place, size, &["-n", "2"]));
        assert_eq!((ended.code, ended.signal, ended.stdout.as_str()), (Some(70), None, ""), "{size}: {}", ended.stderr);
        let error = error_line(&ended.stderr);
        assert!(error.contains("found ") && (error.contains("asked") || error.contains("expected ")), "{size}: {error}");
    }
}
