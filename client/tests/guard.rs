//! Files truncated under a process that has them mapped: with the guard it ends with a word, without it by SIGBUS.
//!
//! Needs the server's binary beside the client's: `cargo build -p server` first.

#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "support/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "support/watch.rs"]
mod watch;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use shmtable::{Client, Monitor, Options};

use crate::daemon::{Daemon, clean};
use crate::watch::{freeze, send, watched};

const VARIABLE: &str = "GUARD_ACTOR";
const ATTACHED: &str = "attached\n";

/// Attaches, says so, and touches what its part names as soon as it is told to go on.
#[test]
#[ignore = "the body of the processes that other tests start"]
fn body() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let [guard, touched, dir] = text.lines().collect::<Vec<_>>()[..] else { panic!("a part of three lines") };
    if guard == "guarded" {
        shmtable::guard::exit_on_truncation().expect("a handler");
    }
    let options = Options::new("shmtable").dir(dir);
    let mut client = Client::attach(&options).expect("attached");
    let monitor = Monitor::open(&options).expect("a monitor");
    if guard == "guarded late" {
        shmtable::guard::exit_on_truncation().expect("a handler");
    }
    std::io::stderr().write_all(ATTACHED.as_bytes()).expect("said");
    let mut word = [0; 1];
    std::io::stdin().read_exact(&mut word).expect("told to go on");
    match touched {
        "rings" => drop(client.read(b"key")),
        _ => drop(monitor.stats()),
    }
    panic!("the touched page was there");
}

/// Starts [`body`] on a stopped server, cuts one of its files and lets the body go on; returns how it ended and its last words.
fn end_of(guard: &str, touched: &str) -> (Output, String) {
    let server = Daemon::start(&[]);
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "body", "--ignored", "--nocapture", "--test-threads=1", "--quiet"])
        .env(VARIABLE, format!("{guard}\n{touched}\n{}", server.dir().display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this binary starts");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
    let (line, said) = watched(child.id(), move || {
        let mut line = String::new();
        said.read_line(&mut line).expect("read");
        (line, said)
    });
    assert_eq!(line, ATTACHED);
    server.freeze();
    cut(&server.dir().join(format!("shmtable.{touched}")));
    child.stdin.take().expect("a pipe").write_all(b".").expect("told to go on");
    let ended = finish(child, said);
    give_up(server);
    ended
}

fn finish(child: Child, mut said: impl Read + Send + 'static) -> (Output, String) {
    watched(child.id(), move || {
        let output = child.wait_with_output().expect("it ends");
        let mut words = String::new();
        said.read_to_string(&mut words).expect("read");
        (output, words)
    })
}

fn cut(path: &Path) {
    OpenOptions::new().write(true).open(path).expect("opened").set_len(0).expect("cut");
}

/// Ends a server whose files are gone.
fn give_up(server: Daemon) {
    drop(server.end(Signal::SIGKILL));
}

fn assert_said(ended: &(Output, String), file: &str) {
    let (Output { status, .. }, words) = ended;
    assert_eq!(status.code(), Some(70), "{status} {words}");
    let line = words.strip_suffix('\n').expect("a line");
    assert!(!line.contains('\n'), "more than a line: {words}");
    assert!(line.starts_with(&format!("error: {file} file was truncated under the client: ")), "{line}");
    assert!(line.contains("start the server again"), "{line}");
}

#[test]
fn a_guarded_client_of_truncated_rings_ends_with_a_word() {
    assert_said(&end_of("guarded", "rings"), "rings");
}

#[test]
fn a_guarded_reader_of_a_truncated_table_ends_with_a_word() {
    assert_said(&end_of("guarded", "table"), "table");
}

#[test]
fn the_guard_covers_handles_from_before_it() {
    assert_said(&end_of("guarded late", "rings"), "rings");
}

#[test]
fn without_the_guard_sigbus_is_the_end() {
    for touched in ["rings", "table"] {
        let (Output { status, .. }, words) = end_of("plain", touched);
        assert_eq!(status.signal(), Some(Signal::SIGBUS as i32), "{touched}: {status} {words}");
        assert!(!words.contains("truncated"), "{words}");
    }
}

#[test]
fn the_command_line_is_guarded() {
    let server = Daemon::start(&[]);
    let mut command = clean(Path::new(env!("CARGO_BIN_EXE_client")));
    command.arg("--dir").arg(server.dir()).args(["stats", "--watch"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut shown = BufReader::new(child.stdout.take().expect("a pipe"));
    let shown = watched(child.id(), move || {
        let mut line = String::new();
        shown.read_line(&mut line).expect("read");
        assert!(!line.is_empty(), "the command shows something");
        shown
    });
    freeze(child.id());
    server.freeze();
    cut(&server.dir().join("shmtable.table"));
    cut(&server.dir().join("shmtable.rings"));
    send(child.id(), Signal::SIGCONT);
    let said = child.stderr.take().expect("a pipe");
    let (output, words) = finish(child, said);
    drop(shown);
    give_up(server);
    assert_eq!(output.status.code(), Some(70), "{} {words}", output.status);
    assert!(words.starts_with("error: ") && words.ends_with('\n') && words.lines().count() == 1, "{words}");
    assert!(words.contains("truncated under the client"), "{words}");
}
