//! A real server on a private region.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::watch::{freeze, send, watched};

/// A folder of shared memory of its own.
pub(crate) fn private_folder() -> TempDir {
    tempfile::Builder::new().prefix("shmtable-cli-").tempdir_in("/dev/shm").expect("a folder in /dev/shm")
}

/// The server's binary, which cargo builds beside the client's.
fn server_binary() -> PathBuf {
    let client = Path::new(env!("CARGO_BIN_EXE_client"));
    let server = client.with_file_name("server");
    assert!(server.exists(), "the server is not built: found no {}; run `cargo build -p server` first", server.display());
    server
}

/// A command without what the environment of the test says of regions.
pub(crate) fn clean(binary: &Path) -> Command {
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
pub(crate) fn server_bare(args: &[&str]) -> Command {
    let mut command = clean(&server_binary());
    if !args.contains(&"-n") {
        command.args(["-n", "2"]);
    }
    if !args.contains(&"--log-level") {
        command.args(["--log-level", "warn"]);
    }
    command.args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
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

    /// Starts a server by a command of [`server_bare`]'s and waits for its line.
    pub(crate) fn spawn(mut command: Command, folder: TempDir) -> Self {
        let mut child = command.spawn().expect("the server starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let ready = watched(child.id(), move || {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("read");
            line
        });
        if !ready.starts_with("ready ") {
            let output = child.wait_with_output().expect("the server ends");
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("the server did not start: found {ready:?}, {}, {said}", output.status);
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
        freeze(self.pid());
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
