//! The page of memory through which a benchmark steers its client processes and reads what they count.
//!
//! A memfd (so that nothing can be left in `/dev/shm`), handed to each client as its standard input. The benchmark alone
//! stores *phase* and *epoch*; a client stores into its own slot alone, and bumps `changes` when its state changes.
//!
//! ```text
//! client:  Starting ──▶ AtRest ◀──▶ Running ──▶ Done
//!              └───────────┴────────────┴─────▶ (process gone; the benchmark sees it by waitid)
//! phase:   Pause (clients drain and rest) ◀──▶ Run, Quit
//! ```
//!
//! B1: counters only grow, and only by requests whose replies were checked, so that the difference of two snapshots is the
//! work done between them, whatever the clients are doing at either moment.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::thread::futex;

use crate::Error;

/// Most clients of one board.
pub const MAX_CLIENTS: u32 = 1024;
/// Stretches of time for which longest gaps are kept apart.
pub const EPOCHS: usize = 5;

/// What all clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Collect what is outstanding and rest.
    Pause = 0,
    /// Work.
    Run = 1,
    /// Collect what is outstanding and exit.
    Quit = 2,
}

impl Phase {
    fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Pause,
            1 => Self::Run,
            _ => Self::Quit,
        }
    }
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Attaching and writing its first keys.
    Starting = 0,
    /// Waiting for the phase to change.
    AtRest = 1,
    /// Working.
    Running = 2,
    /// All replies collected, about to exit.
    Done = 3,
}

#[repr(C, align(128))]
struct Head {
    phase: AtomicU32,
    epoch: AtomicU32,
    /// Bumped at each change of a client's state; the benchmark waits on it.
    changes: AtomicU32,
    /// Never changes: what the benchmark waits on while it only lets time pass.
    never: AtomicU32,
}

/// One client's counters, in lines of their own.
#[repr(C, align(128))]
pub struct Slot {
    ops: AtomicU64,
    errors: AtomicU64,
    state: AtomicU32,
    _pad: u32,
    gap_ns: [AtomicU64; EPOCHS],
    /// When each of them ended, on the system's monotonic clock.
    gap_end_ns: [AtomicU64; EPOCHS],
}

const _: () = assert!(size_of::<Head>() == 128 && size_of::<Slot>() == 128);

impl Slot {
    /// Publishes how many replies were checked so far and how many were wrong.
    #[inline]
    pub fn count(&self, ops: u64, errors: u64) {
        // Relaxed: the counters carry no other data (B1).
        self.ops.store(ops, Ordering::Relaxed);
        self.errors.store(errors, Ordering::Relaxed);
    }

    /// Adds a failure outside of any reply.
    pub fn fail(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a gap between two replies that ended in (or reached into) an epoch.
    #[inline]
    pub fn note_gap(&self, epoch: usize, ns: u64) {
        let epoch = epoch % EPOCHS;
        if ns > self.gap_ns[epoch].load(Ordering::Relaxed) {
            self.gap_ns[epoch].store(ns, Ordering::Relaxed);
            self.gap_end_ns[epoch].store(monotonic_ns(), Ordering::Relaxed);
        }
    }

    /// Replies checked so far.
    pub fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// Wrong replies and failures so far.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Longest gap noted in an epoch, and when it ended on the clock of [`monotonic_ns`], in nanoseconds.
    pub fn gap(&self, epoch: usize) -> (u64, u64) {
        let epoch = epoch % EPOCHS;
        (self.gap_ns[epoch].load(Ordering::Relaxed), self.gap_end_ns[epoch].load(Ordering::Relaxed))
    }

    /// What the client is doing.
    pub fn state(&self) -> State {
        // ORDER(state): Acquire pairs with the Release store in `Board::announce`.
        match self.state.load(Ordering::Acquire) {
            0 => State::Starting,
            1 => State::AtRest,
            2 => State::Running,
            _ => State::Done,
        }
    }
}

/// The moment on the clock that all processes share.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The page, mapped.
pub struct Board {
    map: MmapRaw,
    clients: u32,
}

fn byte_len(clients: u32) -> usize {
    size_of::<Head>() + clients as usize * size_of::<Slot>()
}

impl Board {
    /// A new board for some clients, and the descriptor that clients join it by.
    pub fn create(clients: u32) -> Result<(Self, OwnedFd), Error> {
        if !(1..=MAX_CLIENTS).contains(&clients) {
            return Error::failed(format!(
                "starting clients: found {clients} against 1 to {MAX_CLIENTS}; choose fewer with --clients"
            ));
        }
        const WHAT: &str = "making the benchmark's own shared page";
        let fd = memfd_create("shmtable-bench", MemfdFlags::CLOEXEC).map_err(Error::io(WHAT))?;
        ftruncate(&fd, byte_len(clients) as u64).map_err(Error::io(WHAT))?;
        Ok((Self::map(&fd, clients).map_err(Error::io(WHAT))?, fd))
    }

    /// Joins the board that was handed over as standard input.
    pub fn join_stdin(clients: u32) -> Result<Self, Error> {
        let what = || Error::io("joining the benchmark's own shared page");
        let file = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(what())?);
        if file.metadata().map_err(what())?.len() != byte_len(clients) as u64 {
            return Error::failed(
                "joining the benchmark's own shared page: found another input; client processes are started by benchmarks only",
            );
        }
        Self::map(&file, clients).map_err(what())
    }

    fn map(fd: impl AsFd, clients: u32) -> io::Result<Self> {
        let file = File::from(fd.as_fd().try_clone_to_owned()?);
        Ok(Self { map: MmapOptions::new().len(byte_len(clients)).map_raw(&file)?, clients })
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping is at least `byte_len` long, page-aligned, lives as long as `self`, was zeroed by the kernel, and
        // all accessible fields are atomics.
        unsafe { &*self.map.as_ptr().cast::<Head>() }
    }

    /// The slots of all clients.
    pub fn slots(&self) -> &[Slot] {
        // SAFETY: as in `head`; the slots follow the head and `byte_len` counts them.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(size_of::<Head>()).cast::<Slot>(), self.clients as usize) }
    }

    /// What clients are to do.
    #[inline]
    pub fn phase(&self) -> Phase {
        // ORDER(phase): Acquire pairs with the Release store in `set_phase`.
        Phase::from_raw(self.head().phase.load(Ordering::Acquire))
    }

    /// Tells all clients what to do.
    pub fn set_phase(&self, phase: Phase) {
        // ORDER(phase): Release pairs with the Acquire load in `phase`.
        self.head().phase.store(phase as u32, Ordering::Release);
        wake_all(&self.head().phase);
    }

    /// The stretch of time that gaps belong to.
    #[inline]
    pub fn epoch(&self) -> usize {
        self.head().epoch.load(Ordering::Relaxed) as usize
    }

    /// Begins a stretch of time.
    pub fn set_epoch(&self, epoch: usize) {
        self.head().epoch.store(epoch as u32, Ordering::Relaxed);
    }

    /// Announces what a client is doing.
    pub fn announce(&self, client: u32, state: State) {
        // ORDER(state): Release pairs with the Acquire load in `Slot::state`: who sees the state sees the counters.
        self.slots()[client as usize].state.store(state as u32, Ordering::Release);
        // ORDER(changes): Release pairs with the Acquire load in `changes`: who sees the bump sees the state.
        self.head().changes.fetch_add(1, Ordering::Release);
        wake_all(&self.head().changes);
    }

    /// Rests a client until it is told to run (true) or to quit (false).
    pub fn rest(&self, client: u32) -> bool {
        self.announce(client, State::AtRest);
        loop {
            match self.phase() {
                Phase::Pause => wait(&self.head().phase, Phase::Pause as u32, None),
                Phase::Run => {
                    self.announce(client, State::Running);
                    return true;
                }
                Phase::Quit => return false,
            }
        }
    }

    /// A number that changes with every change of a client's state; read it before looking at the states.
    pub fn changes(&self) -> u32 {
        // ORDER(changes): Acquire pairs with the Release increment in `announce`.
        self.head().changes.load(Ordering::Acquire)
    }

    /// Waits for a change after `seen`, at most for `timeout`.
    pub fn wait_for_change(&self, seen: u32, timeout: Duration) {
        wait(&self.head().changes, seen, Some(timeout));
    }

    /// Lets time pass while clients work. This is the measured interval, not a synchronisation.
    pub fn let_pass(&self, duration: Duration) {
        let end = std::time::Instant::now() + duration;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return;
            }
            wait(&self.head().never, 0, Some(left));
        }
    }
}

fn wait(word: &AtomicU32, seen: u32, timeout: Option<Duration>) {
    let timeout =
        timeout.map(|timeout| futex::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() });
    // Every caller rechecks in a loop, so that a value changed meanwhile, a signal and the timeout are all the same to it. The
    // flags are empty, not PRIVATE: the waker is another process.
    let _ = futex::wait(word, futex::Flags::empty(), seen, timeout.as_ref());
}

fn wake_all(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_rests_until_told_and_counts_for_the_benchmark() {
        let (board, fd) = Board::create(3).unwrap();
        let client = std::thread::spawn(move || {
            let board = Board::map(&fd, 3).unwrap();
            assert!(board.rest(2));
            board.slots()[2].count(7, 1);
            board.slots()[2].note_gap(1, 500);
            assert!(board.slots()[2].gap(1).1 <= monotonic_ns());
            board.slots()[2].note_gap(1, 400);
            while board.phase() == Phase::Run {
                std::thread::yield_now();
            }
            assert!(!board.rest(2));
            board.announce(2, State::Done);
        });
        let until = |state: State| loop {
            let seen = board.changes();
            if board.slots()[2].state() == state {
                break;
            }
            board.wait_for_change(seen, Duration::from_secs(1));
        };
        until(State::AtRest);
        board.set_phase(Phase::Run);
        until(State::Running);
        board.set_phase(Phase::Quit);
        until(State::Done);
        client.join().unwrap();
        let slot = &board.slots()[2];
        assert_eq!((slot.ops(), slot.errors(), slot.gap(1).0, slot.gap(0)), (7, 1, 500, (0, 0)));
        assert!(slot.gap(1).1 > 0);
        assert_eq!(board.slots()[1].state(), State::Starting);
    }

    #[test]
    fn too_many_clients_are_refused() {
        assert!(Board::create(0).is_err());
        assert!(Board::create(MAX_CLIENTS + 1).is_err());
    }
}
