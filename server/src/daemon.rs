//! The life of the daemon: start, ready, ticks, drain, exit.
//!
//! ```text
//!   take the name ──▶ recover ──▶ start workers ──▶ Ready, ready line ──▶ tick … tick ──signal──▶ Draining ──▶ join workers
//!        │                                                                  │                                      │
//!        └─ error: exit 2, 3 or 70                    truncated file: Closed, exit 70        `keep`: Closed ◀──────┤
//!                                                                                   `remove`: Closed, unlink ◀────┘
//! ```
//!
//! - D1: the state Ready is published and the ready line printed after every worker runs.
//! - D2: the table's name goes before that of the rings, whose lock keeps other servers out until the process is gone; the
//!   state Closed stands before either goes.
//! - D3: between ticks the main thread sleeps in one system call; an idle server wakes once in [`PACE_IDLE`].
//!
//! CRASH: a death before Ready leaves what [`crate::joining`] repairs; a death after it leaves a region for the next server.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use protocol::Reply;
use rustix::mm::{Advice, MlockAllFlags};
use rustix::time::ClockId;
use shmqueue::engine::{Engine, EngineConfig};
use shmqueue::layout::{MAX_SHARDS, RegionState};
use shmqueue::region::ServerRegion;
use table::Effect;

use crate::cgroup::Cgroup;
use crate::committing;
use crate::cpus::{Cpus, format_list};
use crate::exit::ServerError;
use crate::joining::{self, Joined};
use crate::notify::{self, Ready};
use crate::options::Options;
use crate::service::{self, Service, Streams};
use crate::sigbus;
use crate::signals::{Signals, block_in_worker};

/// Time between ticks while requests come in.
const PACE_BUSY: Duration = Duration::from_secs(1);
/// Time between ticks otherwise: how long a dead client that was silent may keep its slot.
const PACE_IDLE: Duration = Duration::from_secs(2);
/// Time between looks at the files.
const PACE_FILES: Duration = Duration::from_secs(10);

/// Runs the daemon until it is told to stop.
pub(crate) fn run(options: &Options) -> Result<(), ServerError> {
    let signals = Signals::block()?;
    let cgroup = Cgroup::of_self(Path::new("/"));
    let cpus = Cpus::settle(options.cpus.as_deref(), &cgroup)?;
    let threads = options.threads.unwrap_or((cpus.usable as u32).min(MAX_SHARDS));
    let joined = joining::take(options, threads, &cgroup)?;
    let shards = joined.region.layout().shape.shards;
    if joined.recovery.is_some() && options.threads.is_some_and(|asked| asked != shards) {
        tracing::info!(threads, shards, "the shards are those of the kept region: found {shards} for {threads} threads");
    }
    let config = EngineConfig { threads, wait: options.wait, cpus: cpus.for_engine() };
    let engine = Engine::new(Arc::clone(&joined.region), config);
    recover(&engine, &joined);
    if options.evict {
        joined.table.turn_eviction_on();
        engine.want_hints();
    }
    joined.region.status().max_value.store(options.max_value.min(joined.table.max_value()), Ordering::Relaxed);
    populate_rings(&joined.region);
    tracing::debug!(cpus = format_list(&cpus.allowed), usable = cpus.usable, "bound");
    let streams = Streams::new(joined.region.layout().shape.clients);
    let daemon = Daemon {
        options,
        signals,
        joined,
        streams,
        engine,
        stop_committing: AtomicBool::new(false),
        ready_since: OnceLock::new(),
    };
    let before = daemon.requests();
    let served = thread::scope(|scope| daemon.serve(scope, threads)).inspect_err(|_| daemon.undo())?;
    daemon.leave(daemon.requests() - before, served);
    Ok(())
}

struct Daemon<'a> {
    options: &'a Options,
    signals: Signals,
    joined: Joined,
    streams: Streams,
    engine: Engine,
    stop_committing: AtomicBool,
    ready_since: OnceLock<Instant>,
}

impl Daemon<'_> {
    /// From the first worker to the last; returns how long the region was ready.
    fn serve<'s>(&'s self, scope: &'s Scope<'s, '_>, threads: u32) -> Result<Duration, ServerError> {
        self.start_workers(scope, threads).inspect_err(|_| self.abandon())?;
        let committing = self.start_committing(scope).inspect_err(|_| self.abandon())?;
        let ended = self.become_ready().and_then(|()| self.tick_until_signal(&committing));
        if let Err(error @ ServerError::Truncated { .. }) = ended {
            // Workers may touch what is gone at any moment; nothing of the region can be saved by going on.
            self.joined.region.set_state(RegionState::Closed);
            fail_at_once(&error);
        }
        notify::systemd("STOPPING=1");
        self.set_state(RegionState::Draining);
        self.abandon();
        committing.unpark();
        ended.map(|()| self.ready_since.get().map(Instant::elapsed).unwrap_or_default())
    }

    /// Lets every thread end that runs or is about to.
    fn abandon(&self) {
        // ORDER(stop_committing): Release pairs with the Acquire in `committing`; only the flag itself is passed.
        self.stop_committing.store(true, Ordering::Release);
        self.engine.request_stop();
    }

    /// Starts the workers and waits until all of them run.
    fn start_workers<'s>(&'s self, scope: &'s Scope<'s, '_>, threads: u32) -> Result<(), ServerError> {
        let (running, runs) = mpsc::channel();
        let max_value = self.options.max_value.min(self.joined.table.max_value());
        for index in 0..threads {
            let running = running.clone();
            let work = move || {
                block_in_worker();
                let mut service = Service::new(&self.joined.table, &self.streams, index, max_value);
                // The main thread waits for as many messages as there are workers; it is gone only if a start failed.
                let _ = running.send(index);
                self.engine.run_worker(index, &mut service);
            };
            let name = format!("worker-{index}");
            thread::Builder::new().name(name).spawn_scoped(scope, work).map_err(|source| ServerError::Io {
                what: format!("cannot start worker {} of {threads}", index + 1),
                source,
                remedy: "; raise the limit of processes (ulimit -u, pids.max) or lower --threads",
            })?;
        }
        drop(running);
        for _ in 0..threads {
            // A worker that dies before it says so has panicked, and that ends the process.
            let _ = runs.recv();
        }
        Ok(())
    }

    /// Starts the thread that keeps memory committed ahead of the workers.
    fn start_committing<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Result<thread::Thread, ServerError> {
        let Joined { table, backing, .. } = &self.joined;
        let work = move || {
            block_in_worker();
            committing::commit_until(table, backing, &self.stop_committing);
        };
        let spawned = thread::Builder::new().name("commit".to_owned()).spawn_scoped(scope, work);
        spawned
            .map(|handle| handle.thread().clone())
            .map_err(|source| ServerError::io("cannot start the committing thread", source))
    }

    /// Publishes that the region is served (D1).
    fn become_ready(&self) -> Result<(), ServerError> {
        if self.options.lock_memory {
            lock_memory()?;
        }
        let status = self.joined.region.status();
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        status.started_ms.store(now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000, Ordering::Relaxed);
        service::publish_counters(status, &self.joined.table);
        self.set_state(RegionState::Ready);
        let _ = self.ready_since.set(Instant::now());
        let stats = self.joined.table.stats();
        let shards = self.joined.region.layout().shape.shards;
        notify::ready(Ready { name: self.options.name.name(), shards, buckets: stats.buckets, items: stats.items });
        Ok(())
    }

    /// Ticks until a signal asks to stop.
    fn tick_until_signal(&self, committing: &thread::Thread) -> Result<(), ServerError> {
        let mut served = self.requests();
        let (mut named, mut looked, mut was_awake) = (true, Instant::now(), false);
        loop {
            self.engine.tick();
            let requests = self.requests();
            let busy = requests != served;
            let awake = self.joined.region.status().awake.workers.load(Ordering::Relaxed) > 0;
            // Once more after the last worker lay down: what is published then is how things stay.
            if busy || awake || was_awake {
                served = requests;
                service::publish_counters(self.joined.region.status(), &self.joined.table);
                committing.unpark();
            }
            was_awake = awake;
            if looked.elapsed() >= PACE_FILES {
                looked = Instant::now();
                self.joined.file.check_len()?;
                named = self.check_rings(named)?;
            }
            let pace = if busy || awake { PACE_BUSY } else { PACE_IDLE };
            if let Some(signal) = self.signals.wait(pace)? {
                tracing::info!("stopping: received {signal}");
                return Ok(());
            }
        }
    }

    /// Finds out whether somebody cut or removed the rings; removal is only worth a warning, once.
    fn check_rings(&self, named: bool) -> Result<bool, ServerError> {
        let region = &self.joined.region;
        if !named || !region.exists_at_path() {
            if named {
                tracing::warn!(path = %region.path().display(), "somebody removed the rings: no new client can attach; restart the server");
            }
            return Ok(false);
        }
        let found = fs::metadata(region.path()).map_or(u64::MAX, |meta| meta.len());
        let expected = region.layout().file_len;
        if found < expected {
            return Err(ServerError::Truncated { path: region.path().to_owned(), found, expected });
        }
        Ok(true)
    }

    /// Says on stderr what was done, and leaves the region as `--on-exit` asks (D2).
    fn leave(&self, requests: u64, served: Duration) {
        let Joined { region, table, file, .. } = &self.joined;
        let items = table.stats().items;
        let seconds = served.as_secs_f64();
        let ops = (requests as f64 / seconds.max(f64::EPSILON)) as u64;
        let text = format!("served {requests} requests in {seconds:.3} s ({ops} per second), {items} items");
        tracing::info!(requests, items, seconds, ops_per_second = ops, "{text}");
        service::publish_counters(region.status(), table);
        self.set_state(RegionState::Closed);
        if self.options.keep {
            tracing::info!(items, "kept {items} items");
            return;
        }
        file.unlink();
        if let Err(error) = region.unlink() {
            tracing::warn!(%error, "cannot remove the rings; remove them by hand");
        }
        tracing::info!(items, "removed {items} items");
    }

    /// Takes a failed start back: a region that was never ready and was made by this process goes, any other stays.
    fn undo(&self) {
        let Joined { region, file, recovery, .. } = &self.joined;
        self.set_state(RegionState::Closed);
        if self.ready_since.get().is_none() && recovery.is_none() {
            file.unlink();
            if let Err(error) = region.unlink() {
                tracing::warn!(%error, "cannot remove the rings of the failed start; remove them by hand");
            }
        }
    }

    /// Publishes the region's state in both files.
    fn set_state(&self, state: RegionState) {
        self.joined.table.set_state(match state {
            RegionState::Forming => table::RegionState::Forming,
            RegionState::Ready => table::RegionState::Ready,
            RegionState::Draining => table::RegionState::Draining,
            RegionState::Closed => table::RegionState::Closed,
            RegionState::Superseded => table::RegionState::Superseded,
        });
        self.joined.region.set_state(state);
    }

    /// Requests served since the region was made.
    fn requests(&self) -> u64 {
        let region = &self.joined.region;
        (0..region.layout().shape.shards).map(|shard| region.shard_status(shard).requests_total.load(Ordering::Relaxed)).sum()
    }
}

/// Answers what a dead predecessor applied and did not answer any more, before any worker runs.
fn recover(engine: &Engine, joined: &Joined) {
    let Some(recovery) = &joined.recovery else { return };
    let mut answered = 0;
    for intent in recovery.intents.iter().filter(|intent| intent.applied) {
        let reply = reply_of(&intent.effect);
        let ticket = &intent.ticket;
        let words = [reply.a, reply.b, reply.c];
        answered +=
            u64::from(engine.answer_recovered(ticket.client, ticket.generation, ticket.position, reply.status as u8, words));
    }
    let (items, repaired, dropped) = (recovery.items, recovery.repaired_buckets, recovery.dropped_slots);
    if dropped > 0 {
        tracing::warn!(dropped, "dropped {dropped} damaged slots of the kept table; their items are lost");
    }
    let text = format!("joined a kept region with {items} items, {repaired} buckets repaired, {answered} replies completed");
    tracing::info!(items, repaired, dropped, answered, "{text}");
}

/// The reply that the dead worker would have given.
fn reply_of(effect: &Effect) -> Reply {
    // An effect has no outcome that a limit is told with. The further bytes of a transaction's stand in the lane since before its commit.
    service::reply_of(&table::Outcome::of(effect), 0)
}

/// Touches the rings' fixed part, so that the first requests do not. Lanes are backed as clients attach.
fn populate_rings(region: &ServerRegion) {
    let start = sigbus::range_of(region).start as *mut std::ffi::c_void;
    let len = region.layout().fixed_len() as usize;
    // SAFETY: the range is the start of the region's own mapping, committed when it was created; populating it changes no byte.
    if let Err(error) = unsafe { rustix::mm::madvise(start, len, Advice::LinuxPopulateWrite) } {
        tracing::debug!(%error, "cannot touch the rings ahead of their use");
    }
}

/// Keeps what is mapped from being swapped out once it is touched.
fn lock_memory() -> Result<(), ServerError> {
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).map_err(|source| ServerError::Io {
        what: "cannot lock memory as --lock-memory asks: found the limit of locked memory below the region's address range"
            .to_owned(),
        source: source.into(),
        remedy: "; raise it (ulimit -l unlimited, or the capability CAP_IPC_LOCK) or start without the flag",
    })
}

/// Ends the process without waiting for threads that may be about to touch what is gone.
fn fail_at_once(error: &ServerError) -> ! {
    crate::print_error(error);
    std::process::exit(error.exit() as i32)
}
