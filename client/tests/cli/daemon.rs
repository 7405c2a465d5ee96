//! A real server on a private region, and clients of it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before the test calls it hung: a watchdog, not an expectation.
const WATCHDOG: Duration = Duration::from_secs(60);

/// A folder of shared memory of its own.
pub(crate) fn private_folder() -> TempDir {
    tempfile::Builder::new().prefix("shmtable-cli-").tempdir_in("/dev/shm").expect("a folder in /dev/shm")
}

/// The server's binary, which cargo builds beside the client's.
pub(crate) fn server_binary() -> PathBuf {
    let client = Path::new(env!("CARGO_BIN_EXE_client"));
    let server = client.with_file_name("server");
    assert!(server.exists(), "the server is not built: found no {}; run `cargo build -p server` first", server.display());
    server
}

/// A command without what the environment of the test says of regions.
fn clean(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SHMTABLE_")) {
        command.env_remove(name);
    }
    command
}

/// The server's command line on a folder, for a small machine.
pub(crate) fn server_command(dir: &Path, args: &[&str]) -> Command {
    let mut command = server_bare(args);
    command.arg("--dir").arg(dir);
    command
}

/// The server's command line without a folder.
fn server_bare(args: &[&str]) -> Command {
    let mut command = clean(&server_binary());
    command.args(["-n", "2", "--log-level", "warn"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A client's command line on a folder.
pub(crate) fn client_command<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Command {
    let mut command = client_bare(&["--dir".as_ref(), dir.as_os_str()]);
    command.args(args);
    command
}

/// A client's command line without a folder.
pub(crate) fn client_bare(args: &[&OsStr]) -> Command {
    let mut command = clean(Path::new(env!("CARGO_BIN_EXE_client")));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Answer {
    let child = command.spawn().expect("it starts");
    Answer::of(watched(child.id(), move || child.wait_with_output().expect("it ends")))
}

/// Runs a client to its end.
pub(crate) fn client<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Answer {
    client_fed(dir, args, b"")
}

/// Runs a client to its end with bytes on its stdin.
pub(crate) fn client_fed<S: AsRef<OsStr>>(dir: &Path, args: &[S], input: &[u8]) -> Answer {
    let mut child = client_command(dir, args).stdin(Stdio::piped()).spawn().expect("the client starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A client that does not read its stdin closes it.
    let feeder = thread::spawn(move || drop(stdin.write_all(&input)));
    let pid = child.id();
    let output = watched(pid, move || child.wait_with_output().expect("the client ends"));
    feeder.join().expect("fed");
    Answer::of(output)
}

/// Runs `wait` under the watchdog, which kills `pid` and fails the test.
pub(crate) fn watched<T: Send + 'static>(pid: u32, wait: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || done.send(wait()));
    finished.recv_timeout(WATCHDOG).unwrap_or_else(|_| {
        send(pid, Signal::SIGKILL);
        panic!("process {pid} hangs")
    })
}

/// Repeats `look` until it finds something, under the watchdog.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < WATCHDOG, "waited in vain for {what}");
        thread::yield_now();
    }
}

/// Sends a signal to a process of this test.
pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    // The process may have ended meanwhile; who waits for it sees how.
    let _ = kill(pid, signal);
}

/// What a process said and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn of(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        Self { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }

    /// Its output, which must be text, after a success without complaints.
    pub(crate) fn text(&self) -> &str {
        self.gave(0)
    }

    /// Its output after it ended with `code`.
    pub(crate) fn gave(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(code != 0 || self.stderr.is_empty(), "{self:?}");
        std::str::from_utf8(&self.stdout).unwrap_or_else(|_| panic!("no text: {self:?}"))
    }

    /// The one line on stderr after it failed with `code` and said nothing on stdout.
    pub(crate) fn error(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(line.starts_with("error: ") && !line.contains('\n'), "{self:?}");
        line
    }
}

/// A running server; dropping it ends it and leaves nothing behind.
pub(crate) struct Daemon {
    child: Option<Child>,
    folder: TempDir,
    /// The line with which it said that it is ready.
    pub(crate) ready: String,
}

impl Daemon {
    /// Starts a server in a folder of its own.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(private_folder(), args)
    }

    /// Starts a server in a folder and waits for its line.
    pub(crate) fn start_in(folder: TempDir, args: &[&str]) -> Self {
        let command = server_command(folder.path(), args);
        Self::spawn(command, folder)
    }

    /// Starts a server of this name where servers are by default.
    pub(crate) fn start_by_default(name: &str) -> Self {
        Self::spawn(server_bare(&["--name", name]), private_folder())
    }

    fn spawn(mut command: Command, folder: TempDir) -> Self {
        let mut child = command.spawn().expect("the server starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let ready = watched(child.id(), move || {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("read");
            line
        });
        if !ready.starts_with("ready ") {
            let output = child.wait_with_output().expect("the server ends");
            panic!("the server did not start: found {ready:?}, {:?}", Answer::of(output));
        }
        Self { child: Some(child), folder, ready }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Stops the server by SIGSTOP and waits until all its threads stand still.
    pub(crate) fn freeze(&self) {
        send(self.pid(), Signal::SIGSTOP);
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id"));
        let stopped = watched(self.pid(), move || waitpid(pid, Some(WaitPidFlag::WUNTRACED)));
        assert_eq!(stopped, Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)));
    }

    /// Runs a client of this server.
    pub(crate) fn client<S: AsRef<OsStr>>(&self, args: &[S]) -> Answer {
        client(self.dir(), args)
    }

    /// Runs a client of this server with bytes on its stdin.
    pub(crate) fn fed<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Answer {
        client_fed(self.dir(), args, input)
    }

    /// Starts a client in the background.
    pub(crate) fn background(&self, args: &[&str]) -> Background {
        Background { child: Some(client_command(self.dir(), args).spawn().expect("the client starts")) }
    }

    /// Ends the server by a signal and keeps its folder.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, TempDir) {
        let status = self.stop(signal);
        (status, std::mem::replace(&mut self.folder, private_folder()))
    }

    fn stop(&mut self, signal: Signal) -> ExitStatus {
        let mut child = self.child.take().expect("a running server");
        let pid = child.id();
        send(pid, signal);
        watched(pid, move || child.wait().expect("the server ends"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        // Ends it also when a test failed while it was stopped.
        send(self.pid(), Signal::SIGCONT);
        let status = self.stop(Signal::SIGTERM);
        if !thread::panicking() {
            assert!(status.success(), "the server ended with {status}");
            let left: Vec<_> = fs::read_dir(self.dir()).expect("read").flatten().map(|entry| entry.file_name()).collect();
            assert!(left.is_empty(), "the server left {left:?}");
        }
    }
}

/// A client in the background; dropping it kills it.
pub(crate) struct Background {
    child: Option<Child>,
}

impl Background {
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running client").id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("a running client")
    }

    /// Waits until it ends.
    pub(crate) fn answer(mut self) -> Answer {
        let child = self.child.take().expect("a running client");
        let pid = child.id();
        Answer::of(watched(pid, move || child.wait_with_output().expect("the client ends")))
    }

    /// Sends a signal and waits until it ends.
    pub(crate) fn end(self, signal: Signal) -> Answer {
        send(self.pid(), signal);
        self.answer()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
