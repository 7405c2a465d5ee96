//! Starts the real server on a region of the test's own, and never leaves it behind.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before the test counts as hung. No test asserts that something is faster.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

/// A directory in shared memory that goes with the test.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir_in("/dev/shm").expect("a directory in shared memory") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn rings(&self) -> PathBuf {
        self.path().join("t.rings")
    }

    pub(crate) fn table(&self) -> PathBuf {
        self.path().join("t.table")
    }

    /// Names of all files there.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("the directory");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A command for a server of the region `t` in this place, small enough to run many at once.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let mut command = bare();
        command.args(["--name", "t", "-s", "1000", "-n", "2", "--memory", "64MiB", "--dir"]).arg(self.path()).args(flags);
        command
    }

    /// A server that is ready.
    pub(crate) fn start(&self, flags: &[&str]) -> Server {
        Server::start(self.command(flags))
    }

    /// What a server says that cannot start.
    pub(crate) fn refusal(&self, flags: &[&str]) -> Ended {
        let ended = run(self.command(flags));
        assert_eq!(ended.stdout, "", "a failed start prints nothing on stdout");
        ended
    }
}

/// The server without any flag and without the environment's.
pub(crate) fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SHMTABLE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NOTIFY_SOCKET");
    command
}

/// A server that printed its ready line.
pub(crate) struct Server {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// The ready line.
    pub(crate) ready: String,
}

/// A process that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit code, if it was not ended by a signal.
    pub(crate) code: Option<i32>,
    /// Number of the signal that ended it.
    pub(crate) signal: Option<i32>,
    /// All of stdout but the ready line.
    pub(crate) stdout: String,
    /// All of stderr.
    pub(crate) stderr: String,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server binary");
        let stdout = lines(child.stdout.take().expect("piped"));
        let stderr = lines(child.stderr.take().expect("piped"));
        match stdout.recv_timeout(WATCHDOG) {
            Ok(ready) => Self { child, stdout, stderr, ready },
            Err(_) => {
                let _ = child.kill();
                let stderr: Vec<_> = stderr.iter().collect();
                panic!("the server did not get ready: {:?}\n{}", child.wait(), stderr.concat());
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A field of the ready line.
    pub(crate) fn field(&self, name: &str) -> &str {
        let found = self.ready.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("the ready line has {name}: {}", self.ready))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a running server");
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn stop(self, signal: Signal) -> Ended {
        self.signal(signal);
        self.end()
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        let stdout = drain(&self.stdout);
        let stderr = drain(&self.stderr);
        let status = self.child.wait().expect("a child");
        Ended { code: status.code(), signal: std::os::unix::process::ExitStatusExt::signal(&status), stdout, stderr }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed half-way must not leave a daemon behind; one that ended is waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that is expected to end by itself.
pub(crate) fn run(mut command: Command) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command");
    let stdout = lines(child.stdout.take().expect("piped"));
    let stderr = lines(child.stderr.take().expect("piped"));
    Server { child, stdout, stderr, ready: String::new() }.end()
}

/// Whether a text stands on one line that starts as all errors do.
pub(crate) fn error_line(stderr: &str) -> &str {
    let mut errors = stderr.lines().filter(|line| line.starts_with("error: "));
    let error = errors.next().unwrap_or_else(|| panic!("an error line on stderr: {stderr}"));
    assert_eq!(errors.next(), None, "one error line");
    error
}

/// Finds a program, for tests that need one.
pub(crate) fn has_program(name: impl AsRef<OsStr>) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name.as_ref()).is_file())
}

/// Reads lines, newline included, in a thread of its own, until the other side closes.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = String::new();
            match pipe.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if sender.send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    receiver
}

/// Everything up to the end of a stream.
fn drain(stream: &Receiver<String>) -> String {
    let mut all = String::new();
    loop {
        match stream.recv_timeout(WATCHDOG) {
            Ok(line) => all.push_str(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => return all,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the process did not end; so far: {all}"),
        }
    }
}

/// Tries until there is an answer.
pub(crate) fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(start.elapsed() < WATCHDOG, "nothing came of it within {WATCHDOG:?}");
        thread::yield_now();
    }
}
