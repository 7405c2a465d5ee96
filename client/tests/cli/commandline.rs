//! The client's command line, run on a server.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, clean, private_folder, server_bare};
use crate::watch::{send, watched};

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

impl Daemon {
    /// Starts a server of this name where servers are by default.
    pub(crate) fn start_by_default(name: &str) -> Self {
        Self::spawn(server_bare(&["--name", name]), private_folder())
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
