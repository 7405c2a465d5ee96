//! Processes that play a role: this test binary, run again for one ignored test that reads from its environment what to do.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use shmtable::Options;

use crate::board::{Board, Word};
use crate::watch::{freeze, send, until, watched};
use crate::{churn, deaths, direct, expiry, forks, hostile, ranges, restarts, sealed, stops, transactions};

const VARIABLE: &str = "PROCESSES_ACTOR";
/// Longer than any watchdog: a call of an actor that nobody answers fails the test by the watchdog.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a role does.
type Play = fn(&Part);

const ROLES: &[(&str, Play)] = &[
    ("churn", churn::play),
    ("in order", deaths::play_in_order),
    ("unread", deaths::play_unread),
    ("direct reader", direct::play),
    ("scribbling", direct::play_scribbling),
    ("expiring", expiry::play),
    ("forks", forks::play),
    ("honest", hostile::play_honest),
    ("hostile", hostile::play_hostile),
    ("ranges", ranges::play),
    ("counting", restarts::play_counting),
    ("counting, failing fast", restarts::play_failing_fast),
    ("large values", restarts::play_large),
    ("sealing writer", sealed::play_writer),
    ("sealed, by ring", sealed::play_ring_reader),
    ("sealed, directly", sealed::play_direct_reader),
    ("sealed, alone", sealed::play_lone_reader),
    ("full lane", stops::play_full_lane),
    ("transfers", transactions::play_transfers),
    ("auditor", transactions::play_auditor),
];

/// What an actor knows of its test.
pub(crate) struct Part {
    pub(crate) dir: PathBuf,
    pub(crate) board: Board,
    pub(crate) line: usize,
    pub(crate) numbers: Vec<u64>,
}

impl Part {
    pub(crate) fn options(&self) -> Options {
        Options::new("shmtable").dir(&self.dir).timeout(PATIENCE)
    }

    pub(crate) fn set(&self, word: Word, value: u64) {
        self.board.set(self.line, word, value);
    }

    pub(crate) fn add(&self, word: Word) {
        self.set(word, self.board.get(self.line, word) + 1);
    }
}

#[test]
#[ignore = "the body of the processes that other tests start"]
fn body() {
    let Ok(text) = std::env::var(VARIABLE) else { return };
    let mut lines = text.lines();
    let mut next = || lines.next().expect("a line of the part");
    let (role, dir, board, line, numbers) = (next(), next(), next(), next(), next());
    let part = Part {
        dir: dir.into(),
        board: Board::open(Path::new(board)),
        line: line.parse().expect("a line"),
        numbers: numbers.split_whitespace().map(|number| number.parse().expect("a number")).collect(),
    };
    part.set(Word::Pid, std::process::id().into());
    let (_, play) = ROLES.iter().find(|(name, _)| *name == role).expect("a role");
    play(&part);
    part.set(Word::Done, 1);
}

/// A process that plays a role; dropping it kills it.
pub(crate) struct Actor {
    child: Option<Child>,
    line: usize,
}

impl Actor {
    /// Starts a process on the board's line `line`, which is cleared.
    pub(crate) fn start(role: &str, dir: &Path, board: &Board, line: usize, numbers: &[u64]) -> Self {
        for word in [Word::Slot, Word::Sent, Word::Acked, Word::Errors, Word::Done, Word::Pid, Word::Phase] {
            board.set(line, word, 0);
        }
        let numbers: Vec<_> = numbers.iter().map(u64::to_string).collect();
        let part = format!("{role}\n{}\n{}\n{line}\n{} \n", dir.display(), board.path().display(), numbers.join(" "));
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "actor::body", "--ignored", "--nocapture", "--test-threads=1", "--quiet"])
            .env(VARIABLE, part)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("this binary starts");
        Self { child: Some(child), line }
    }

    pub(crate) fn line(&self) -> usize {
        self.line
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running actor").id()
    }

    /// Kills it at whatever it is doing; returns once it is gone.
    pub(crate) fn kill(mut self) {
        self.end_by(Signal::SIGKILL);
    }

    fn end_by(&mut self, signal: Signal) -> ExitStatus {
        send(self.pid(), signal);
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running actor");
        watched(child.id(), move || child.wait().expect("it ends"))
    }

    /// Stops it at whatever it is doing; returns once it stands still.
    pub(crate) fn freeze(&self) {
        freeze(self.pid());
    }

    pub(crate) fn thaw(&self) {
        send(self.pid(), Signal::SIGCONT);
    }

    /// Waits until it ends, however it does.
    pub(crate) fn ends(mut self) -> ExitStatus {
        self.wait()
    }

    /// Waits until it has played its role, which must have gone well.
    pub(crate) fn finish(mut self) {
        let status = self.wait();
        assert!(status.success(), "the actor on line {} ended with {status}", self.line);
    }

    /// Waits until a counter of it is at least `least`, unless it ends first.
    pub(crate) fn reaches(&mut self, board: &Board, word: Word, least: u64) {
        let line = self.line;
        let child = self.child.as_mut().expect("a running actor");
        until(&format!("the actor on line {line} to go on to {least}"), || {
            let reached = board.get(line, word) >= least;
            let ended = child.try_wait().expect("a child");
            assert!(reached || ended.is_none(), "the actor on line {line} ended with {ended:?}");
            reached.then_some(())
        });
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.end_by(Signal::SIGKILL);
        }
    }
}
