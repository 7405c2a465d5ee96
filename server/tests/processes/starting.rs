//! The ready line, flags and environment.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Place, Server, bare, error_line, run, until};

#[test]
fn the_ready_line_says_what_the_contract_says() {
    let place = Place::new();
    let server = place.start(&[]);
    let pid = server.pid();
    assert_eq!(server.ready, format!("ready name=t shards=2 buckets=1024 items=0 pid={pid}\n"));
    assert_eq!(place.files(), ["t.rings", "t.table"]);
    let ended = server.stop(Signal::SIGTERM);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
}

#[test]
fn a_default_region_is_named_shmtable_and_has_65536_buckets() {
    let place = Place::new();
    let mut command = bare();
    command.arg("--dir").arg(place.path());
    let server = Server::start(command);
    assert_eq!((server.field("name"), server.field("buckets")), ("shmtable", "65536"));
    assert_eq!(place.files(), ["shmtable.rings", "shmtable.table"]);
    assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
}

#[test]
fn without_a_directory_the_region_is_in_shared_memory() {
    let name = format!("server-test-{}", std::process::id());
    let mut command = bare();
    command.args(["--name", &name, "-s", "64", "-n", "1", "--memory", "16MiB"]);
    let server = Server::start(command);
    let paths = ["rings", "table"].map(|ending| std::path::PathBuf::from(format!("/dev/shm/{name}.{ending}")));
    assert!(paths.iter().all(|path| path.exists()));
    assert_eq!(server.stop(Signal::SIGINT).code, Some(0));
    assert!(!paths.iter().any(|path| path.exists()), "nothing is left behind");
}

#[test]
fn every_flag_can_stand_in_the_environment() {
    let place = Place::new();
    let mut command = bare();
    command.env("SHMTABLE_NAME", "env").env("SHMTABLE_DIR", place.path()).env("SHMTABLE_SIZE", "100");
    command.env("SHMTABLE_THREADS", "3").env("SHMTABLE_MEMORY", "32MiB").env("SHMTABLE_ON_EXIT", "keep");
    command.env("SHMTABLE_PREFAULT", "true").env("SHMTABLE_LOG_FORMAT", "json");
    let server = Server::start(command);
    assert_eq!((server.field("name"), server.field("shards"), server.field("buckets")), ("env", "3", "128"));
    assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
    assert_eq!(place.files(), ["env.rings", "env.table"]);
}

#[test]
fn arguments_that_cannot_be_used_end_with_2() {
    let place = Place::new();
    for flags in [
        &["--no-such-flag"][..],
        &["stray"],
        &["-s", "0"],
        &["-s", "many"],
        &["-n", "0"],
        &["-n", "257"],
        &["--name", "a/b"],
        &["--name", ""],
        &["--memory", "64MB"],
        &["--max-value", "2MiB"],
        &["--clients", "0"],
        &["--wait", "never"],
        &["--cpus", "a"],
        &["--mode", "rw"],
        &["--table-mode", "0666"],
        &["--group", "no such group"],
        &["--log-format", "xml"],
        &["--on-exit", "snapshot"],
        &["--on-exit", "explode"],
    ] {
        // Flags that the command has already may stand once only; here the bare server gets them.
        let mut command = bare();
        command.arg("--dir").arg(place.path()).args(flags);
        let ended = run(command);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{flags:?}: {}", ended.stderr);
        assert!(ended.stderr.starts_with("error: "), "{flags:?}: {}", ended.stderr);
    }
    assert_eq!(place.files(), [""; 0], "no refusal leaves a file");
}

#[test]
fn a_snapshot_at_exit_is_refused_and_says_why() {
    let ended = Place::new().refusal(&["--on-exit", "snapshot"]);
    assert_eq!(ended.code, Some(2));
    assert!(error_line(&ended.stderr).contains("snapshots come with a later version"));
}

#[test]
fn a_directory_that_takes_no_files_is_an_error() {
    for dir in ["/nonexistent/place", "/proc"] {
        let mut command = bare();
        command.args(["--dir", dir]);
        let ended = run(command);
        assert_eq!(ended.code, Some(70), "{}", ended.stderr);
        let error = error_line(&ended.stderr);
        assert!(error.contains(dir) && error.contains("--dir"), "{error}");
    }
}

#[test]
fn the_service_manager_is_told() {
    let place = Place::new();
    let sockets = tempfile::tempdir().expect("temporary directory");
    let path = sockets.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(crate::harness::WATCHDOG)).expect("a timeout");
    let mut command = place.command(&[]);
    command.env("NOTIFY_SOCKET", &path);
    let server = Server::start(command);
    let told = |expected: &str| {
        let mut room = [0; 64];
        let len = socket.recv(&mut room).expect("a datagram");
        assert_eq!(std::str::from_utf8(&room[..len]), Ok(expected));
    };
    told("READY=1");
    assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
    told("STOPPING=1");
}

#[test]
fn json_logs_are_one_object_a_line() {
    let place = Place::new();
    let ended = place.start(&["--log-format", "json", "--log-level", "debug"]).stop(Signal::SIGTERM);
    assert!(ended.stderr.lines().count() >= 2, "{}", ended.stderr);
    for line in ended.stderr.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
    }
    assert!(ended.stderr.contains(r#""items":0"#), "{}", ended.stderr);
}

#[test]
fn a_log_level_silences_what_is_below() {
    let place = Place::new();
    let ended = place.start(&["--log-level", "error"]).stop(Signal::SIGTERM);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn processors_are_those_of_the_list() {
    let place = Place::new();
    let mine = std::fs::read_to_string("/proc/self/status").expect("status");
    let list = |status: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("the list");
        line.trim().to_owned()
    };
    let first: String = list(&mine).chars().take_while(char::is_ascii_digit).collect();
    let server = place.start(&["--cpus", &first]);
    let theirs = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("status");
    assert_eq!(list(&theirs), first);
    assert_eq!(server.stop(Signal::SIGTERM).code, Some(0));
}

#[test]
fn help_and_version_are_no_errors() {
    for flag in ["--help", "--version"] {
        let mut command = bare();
        command.arg(flag);
        let ended = run(command);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{flag}");
        assert!(!ended.stdout.is_empty(), "{flag}");
    }
}

#[test]
fn nobody_has_to_read_the_ready_line() {
    let place = Place::new();
    let mut child =
        place.command(&[]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the server");
    drop(child.stdout.take());
    until(|| place.rings().exists().then_some(()));
    let ended = place.refusal(&[]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(error_line(&ended.stderr).contains(&format!("pid {}", child.id())), "{}", ended.stderr);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("a running server");
    assert_eq!(child.wait().expect("a child").code(), Some(0));
    assert_eq!(place.files(), [""; 0]);
}
