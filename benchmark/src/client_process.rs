//! Client processes: the benchmark runs itself once more for each, with a task in place of arguments.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::board::{Board, Phase, State};
use crate::ledger::Shape;
use crate::mix::Mix;
use crate::{Error, Wait, cleanup, cli, direct_load, load, redis_peer};

/// The hidden first argument of a client process.
const MARK: &str = "client-process";
/// How long clients may take to reach a state.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a dead client is looked for while waiting.
const LOOK: Duration = Duration::from_millis(50);

/// Whom a client talks to, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Peer {
    /// shmtable.
    Table {
        /// The region's name.
        name: String,
        /// How the client waits.
        wait: Wait,
    },
    /// Redis.
    Redis {
        /// Its socket.
        socket: PathBuf,
    },
    /// shmtable, read directly, or written by updates as fast as they go, on one CPU.
    Direct {
        /// The region's name.
        name: String,
        /// The CPU.
        cpu: usize,
        /// Whether it writes.
        writes: bool,
    },
    /// shmtable, but after one request per turn nothing more is asked.
    Idle {
        /// The region's name.
        name: String,
    },
}

/// What a client process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Its number.
    pub index: u32,
    /// How many there are.
    pub clients: u32,
    /// Whom it talks to.
    pub peer: Peer,
    /// Most requests under way at once.
    pub window: usize,
    /// Keys that it owns.
    pub keys: u32,
    /// Bytes of each value.
    pub value_len: usize,
    /// Operations in which parts.
    pub mix: Mix,
    /// Exponent of Zipf's law, 0 for uniform.
    pub zipf: f64,
    /// Seed of its sequence.
    pub seed: u64,
    /// Whether gaps between replies are measured (which costs a reading of the clock per reply).
    pub gaps: bool,
}

impl Task {
    /// What its ledger is made for.
    pub fn shape(&self) -> Shape {
        let Self { index: owner, keys, value_len, window, mix, zipf, seed, .. } = *self;
        Shape { owner, keys, value_len, window, mix, zipf, seed }
    }
}

/// Runs the task that the arguments hold, if this process was started as a client.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(MARK) {
        return None;
    }
    let task: Result<Task, _> = serde_json::from_str(&arguments.next().unwrap_or_default());
    let done = task.map_err(|error| Error::Failed(format!("reading a client's task: {error}"))).and_then(|task| run(&task));
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(format!("client process: {error}")),
    })
}

fn run(task: &Task) -> Result<(), Error> {
    let board = Board::join_stdin(task.clients)?;
    let done = match &task.peer {
        Peer::Table { name, wait } => load::work(task, name, *wait, &board),
        Peer::Redis { socket } => redis_peer::work(task, socket, &board),
        Peer::Direct { name, cpu, writes: false } => direct_load::read(task, name, *cpu, &board),
        Peer::Direct { name, cpu, writes: true } => direct_load::write(task, name, *cpu, &board),
        Peer::Idle { name } => load::idle(task, name, &board),
    };
    if done.is_err() {
        board.slots()[task.index as usize].fail();
    }
    board.announce(task.index, State::Done);
    done
}

/// A number of client processes and their board.
pub struct Clients {
    board: Board,
    children: Vec<Child>,
    killed: Vec<bool>,
}

impl Clients {
    /// Starts the clients of some tasks and waits until all are at rest: attached, first keys written and verified.
    pub fn start(tasks: &[Task]) -> Result<Self, Error> {
        let (board, fd) = Board::create(tasks.len() as u32)?;
        let mut clients = Self { board, children: Vec::with_capacity(tasks.len()), killed: vec![false; tasks.len()] };
        for task in tasks {
            clients.children.push(spawn(task, &fd)?);
        }
        clients.wait_for(State::AtRest)?;
        Ok(clients)
    }

    /// Their board.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Process id of a client.
    pub fn pid(&self, client: usize) -> u32 {
        self.children[client].id()
    }

    /// Tells all to work and returns at once.
    pub fn go(&self) {
        self.board.set_phase(Phase::Run);
    }

    /// Tells all to rest, and returns when all do.
    pub fn pause(&mut self) -> Result<(), Error> {
        self.board.set_phase(Phase::Pause);
        self.wait_for(State::AtRest)
    }

    /// Replies that each has checked so far.
    pub fn ops(&self) -> Vec<u64> {
        self.board.slots().iter().map(|slot| slot.ops()).collect()
    }

    /// CPU time that all living clients have used so far.
    pub fn cpu_time(&self) -> Result<Duration, Error> {
        let alive = self.children.iter().zip(&self.killed).filter(|(_, killed)| !**killed);
        alive.map(|(child, _)| crate::cpus::cpu_time(child.id())).sum()
    }

    /// Sends a signal to one client. SIGKILL: it is not waited for any more.
    pub fn signal(&mut self, client: usize, signal: Signal) -> Result<(), Error> {
        self.killed[client] |= signal == Signal::SIGKILL;
        let pid = Pid::from_raw(self.children[client].id() as i32);
        kill(pid, signal).map_err(Error::io(format!("sending {signal} to a client")))
    }

    /// Waits until no client that was not killed is in another state.
    pub fn wait_for(&mut self, state: State) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.board.changes();
            let slots = self.board.slots().iter().zip(&self.killed).filter(|(_, killed)| !**killed);
            let missing = slots.filter(|(slot, _)| slot.state() != state).count();
            if missing == 0 {
                return Ok(());
            }
            self.find_dead()?;
            if Instant::now() > deadline {
                return Error::failed(format!(
                    "waiting for clients: {missing} of {} not {state:?} after {PATIENCE:?}; is the server still answering?",
                    self.children.len()
                ));
            }
            self.board.wait_for_change(seen, LOOK);
        }
    }

    /// Fails if a client ended that was not told to.
    pub fn find_dead(&self) -> Result<(), Error> {
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        for (child, _) in self.children.iter().zip(&self.killed).filter(|(_, killed)| !**killed) {
            if let Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) =
                waitid(Id::Pid(Pid::from_raw(child.id() as i32)), ended)
            {
                return Error::failed(format!("running clients: found {status:?} before the end; see the message above"));
            }
        }
        Ok(())
    }

    /// Lets all collect what is outstanding and exit; returns how many replies were wrong in all.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.board.set_phase(Phase::Quit);
        let deadline = Instant::now() + PATIENCE;
        for (child, killed) in self.children.iter_mut().zip(&self.killed) {
            let pid = Pid::from_raw(child.id() as i32);
            if !cleanup::ended_within(pid, deadline.saturating_duration_since(Instant::now())) {
                return Error::failed(format!(
                    "ending clients: one is still there after {PATIENCE:?}; is the server still answering?"
                ));
            }
            let status = child.wait().map_err(Error::io("waiting for a client"))?;
            if !killed && !status.success() {
                return Error::failed(format!("ending clients: found {status} against exit 0; see the message above"));
            }
        }
        Ok(self.board.slots().iter().map(|slot| slot.errors()).sum())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn spawn(task: &Task, board: &OwnedFd) -> Result<Child, Error> {
    let what = || Error::io("starting a client process");
    let own = std::env::current_exe().map_err(what())?;
    let text = serde_json::to_string(task).map_err(Error::io("writing a client's task"))?;
    let mut command = Command::new(own);
    command.arg(MARK).arg(text).stdin(Stdio::from(board.try_clone().map_err(what())?)).stdout(Stdio::null());
    cleanup::die_with_parent(&mut command, Signal::SIGKILL);
    command.spawn().map_err(what())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_survives_its_way_through_an_argument() {
        let task = Task {
            index: 3,
            clients: 9,
            peer: Peer::Table { name: "a".into(), wait: Wait::Block },
            window: 10,
            keys: 5,
            value_len: 8,
            mix: "1:2:3".parse().unwrap(),
            zipf: 0.5,
            seed: u64::MAX,
            gaps: true,
        };
        let text = serde_json::to_string(&task).unwrap();
        let back: Task = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!((back.shape().owner, back.shape().seed), (3, u64::MAX));
    }
}
