//! The serving engine: worker threads that move requests from lanes to a handler and replies back.
//!
//! ```text
//!            ┌────────────────────────────── awake ──────────────────────────────┐
//!   start ──▶│ sweep over shards: claim serving word, pass (see `shard`), release │──▶ stop requested, all served: end
//!            └──▲───────────────────────┬─────────────────────────────────────────┘
//!               │ work, rung, deadline  │ nothing found for a while
//!            ┌──┴───────────────────────▼──┐
//!            │ parked on the worker's token │
//!            └──────────────────────────────┘
//! ```
//!
//! One awake worker serves all shards while it keeps up. When lanes still wait after a sweep and a core is free for it, it rings
//! the home worker of the shard with a backlog. With more workers than cores the surplus sleeps and costs nothing.
//!
//! Invariants of absence: no lock is held while a request is served but the serving word, which nobody waits for; no
//! allocation, no system call and no timer per request on the busy path.

mod heat;
mod hinted;
mod job;
mod lanes;
mod leaving;
mod pace;
mod shard;
mod takeover;
mod tallies;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_utils::CachePadded;

pub use job::{Ahead, Handler, Job};

use crate::claim::{self, Claim, ClaimState};
use crate::doorbell::{Awake, Token};
use crate::region::ServerRegion;
use crate::ring::{RequestRing, Taken};
use crate::sync::Ordering;
use crate::wait::{self, WaitMode};

use lanes::{Lanes, NOBODY};
use pace::Pace;
use shard::{BATCH, Pass, Shard};

/// How the engine runs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Worker threads, at least 1.
    pub threads: u32,
    /// How workers wait.
    pub wait: WaitMode,
    /// CPUs that the process may use.
    pub cpus: Vec<usize>,
}

/// Looks for requests, one after the other in vain, until a worker with nothing to do ahead asks again whether there is: asking takes
/// longer than looking, and what a client sends in between waits for it.
const LOOKS_PER_STEP: u32 = 64;

/// Longest sleep of the first worker before it looks for itself, and of the others: whoever wants something served rings, so this is
/// only for the ringer that was stopped between its two steps.
const DEADLINES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// The engine. Shared by its worker threads and whoever ticks and stops it.
#[derive(Debug)]
pub struct Engine {
    region: Arc<ServerRegion>,
    config: EngineConfig,
    lanes: Lanes,
    shards: Vec<CachePadded<Shard>>,
    asleep: Vec<CachePadded<AtomicBool>>,
    stop: AtomicBool,
    /// What the last tick saw: requests per shard, requests per client. Only ticks look at it.
    seen: std::sync::Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    at: std::time::Instant,
    shards: Vec<u64>,
    clients: Vec<u64>,
}

impl Engine {
    /// An engine over a region that this process serves. Lanes that a predecessor left are taken over where it left them.
    pub fn new(region: Arc<ServerRegion>, config: EngineConfig) -> Self {
        let shape = region.layout().shape;
        let shards = (0..shape.shards)
            .map(|index| {
                let status = region.shard_status(index);
                status.clients.store(0, Ordering::Relaxed);
                let head = status.head.load(Ordering::Relaxed);
                // ORDER(tail): pairs with the predecessor's last publish, across processes.
                let tail = region.reply_ring(index).0.tail.load(Ordering::Acquire);
                CachePadded::new(Shard::new(head, tail, status.requests_total.load(Ordering::Relaxed), shape.clients))
            })
            .collect::<Vec<_>>();
        let threads = config.threads.max(1);
        let engine = Self {
            lanes: Lanes::new(shape.clients),
            seen: std::sync::Mutex::new(Seen {
                at: std::time::Instant::now(),
                shards: vec![0; shards.len()],
                clients: vec![0; shape.clients as usize],
            }),
            shards,
            asleep: (0..threads).map(|_| CachePadded::new(AtomicBool::new(false))).collect(),
            stop: AtomicBool::new(false),
            config: EngineConfig { threads, ..config },
            region,
        };
        let status = engine.region.status();
        Awake::new(&status.awake.workers).reset();
        status.threads.store(threads, Ordering::Relaxed);
        status.server_cpus.store(engine.config.cpus.len().max(1) as u32, Ordering::Relaxed);
        status.runnable.store(0, Ordering::Relaxed);
        status.wants_hints.store(0, Ordering::Relaxed);
        takeover::adopt_clients(&engine.region, &engine.lanes, &engine.shards);
        engine.adopt_tallies();
        engine
    }

    /// The worker that parks for a shard.
    fn home(&self, shard: u32) -> u32 {
        shard % self.config.threads
    }

    fn token(&self, worker: u32) -> Token<'_> {
        // Clients ring the doorbell whose index is the worker's; with more threads than shards the surplus parks on the last ones
        // and is rung by its fellows.
        Token::new(&self.region.doorbell(worker % self.region.layout().shape.shards).token)
    }

    fn awake(&self) -> Awake<'_> {
        Awake::new(&self.region.status().awake.workers)
    }

    /// Serves until a stop is requested and everything published has been answered.
    pub fn run_worker(&self, worker: u32, handler: &mut dyn Handler) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut pace = Pace::new(&self.config);
        self.awake().rise();
        let (mut hinted, mut looks, mut ahead) = (0, 0u32, Ahead::Nothing);
        loop {
            let tick = pace.tick(self);
            if tick != hinted {
                hinted = tick;
                self.take_hints(worker, handler);
            }
            let answered = self.sweep(worker, &mut batch, handler, tick, false);
            if answered > 0 && !self.is_surplus() {
                pace.worked();
                ahead = handler.work_ahead(true);
                continue;
            }
            if self.stop.load(Ordering::Relaxed) && self.finish(worker, &mut batch, handler, tick) == 0 {
                break;
            }
            let looking = answered == 0 && pace.keep_looking(self);
            looks = looks.wrapping_add(1);
            if looking && ahead != Ahead::More && !looks.is_multiple_of(LOOKS_PER_STEP) {
                continue;
            }
            ahead = handler.work_ahead(false);
            if looking || ahead == Ahead::More {
                continue;
            }
            pace.rest();
            handler.rest();
            self.park(worker, &mut batch, handler, tick, ahead);
        }
        self.awake().lie_down();
    }

    /// Whether this worker is one too many: others are awake, and there are not cores enough for all who have something to do. It was
    /// rung by a client that saw nothing move for a while; having served whatever was there it leaves the core to the clients.
    fn is_surplus(&self) -> bool {
        let status = self.region.status();
        self.awake().count() > 1 && status.runnable.load(Ordering::Relaxed) > self.config.cpus.len() as u32
    }

    /// Whether a client whose lane is hot last ran on this worker's CPU: it cannot send while we look for what it sends.
    fn shares_cpu(&self) -> bool {
        let cpu = wait::current_cpu();
        self.shards.iter().any(|shard| {
            let client = shard.hottest.load(Ordering::Relaxed);
            client != NOBODY && self.region.request_lane(client).0.cpu.load(Ordering::Relaxed) == cpu
        })
    }

    /// One look at every shard, home first; returns the number of requests answered.
    fn sweep<'a>(&'a self, worker: u32, batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler, tick: u32, thorough: bool) -> usize {
        let shards = self.shards.len() as u32;
        let mut answered = 0;
        let mut backlog = None;
        for step in 0..shards {
            let index = (worker + step) % shards;
            if !thorough && !self.is_pending(index) {
                continue;
            }
            let shard = &self.shards[index as usize];
            let Some(held) = shard.serving.claim(worker) else { continue };
            // SAFETY: `held` is the shard's serving word, and the pass ends before it.
            let mut pass = unsafe { Pass::new(&self.region, &self.lanes, shard, index) };
            answered += pass.serve(batch, handler, tick);
            let waiting = pass.backlog();
            drop(held);
            if waiting > 0 {
                backlog = Some(index);
            }
        }
        if let Some(index) = backlog {
            self.call_for_help(worker, index);
        }
        answered
    }

    /// Whether a shard seems to have something to serve.
    #[inline]
    fn is_pending(&self, index: u32) -> bool {
        let shard = &self.shards[index as usize];
        let wanted = shard.attention.load(Ordering::Relaxed) || shard.reap.load(Ordering::Relaxed);
        if wanted || shard.hottest.load(Ordering::Relaxed) != NOBODY {
            return true;
        }
        let ring = self.ring(index);
        ring.take(ring.published_head()) != Taken::Empty
    }

    fn ring(&self, index: u32) -> RequestRing<'_> {
        let (ring, cells) = self.region.request_ring(index);
        RequestRing::new(&self.region.shard_status(index).head, &ring.tail, cells)
    }

    /// Rings another worker for a shard that does not get empty, if a core is free for it.
    fn call_for_help(&self, worker: u32, index: u32) {
        let free = self.region.status().runnable.load(Ordering::Relaxed) < self.config.cpus.len() as u32;
        if self.config.threads == 1 || !free {
            return;
        }
        let home = self.home(index);
        let helper = (0..self.config.threads)
            .map(|step| (home + step) % self.config.threads)
            .find(|other| *other != worker && self.asleep[*other as usize].load(Ordering::Relaxed));
        if let Some(helper) = helper {
            self.token(helper).ring();
        }
    }

    /// Sleeps until rung, unless there is something to serve.
    fn park<'a>(&'a self, worker: u32, batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler, tick: u32, ahead: Ahead) {
        let token = self.token(worker);
        let seen = token.seen();
        self.asleep[worker as usize].store(true, Ordering::Relaxed);
        // Only the last one to lie down has to look once more: whoever is still awake will.
        let last = self.awake().lie_down();
        if last {
            // Nobody is left to correct it; who comes next has the cores to itself until somebody counts again.
            self.region.status().runnable.store(0, Ordering::Relaxed);
        }
        let stay = (last && (self.cool_down(worker) || self.anything_pending())) || self.stop.load(Ordering::Relaxed);
        let woken = if stay {
            wait::Woken::Rung
        } else {
            let deadline = if worker == 0 { DEADLINES.0 } else { DEADLINES.1 };
            // Whoever sleeps last gets up for what is due; the others would find it done.
            let deadline = if let (Ahead::In(due), true) = (ahead, last) { deadline.min(due) } else { deadline };
            wait::sleep(token.word(), seen, NonZeroU32::MAX, deadline)
        };
        self.awake().rise();
        self.asleep[worker as usize].store(false, Ordering::Relaxed);
        if woken != wait::Woken::Rung || !stay {
            // Somebody rang, or the deadline passed: look even where nothing seems to be (a ring may be blocked by a scribble).
            self.sweep(worker, batch, handler, tick, true);
        }
    }

    /// Cools the lanes of all shards down before everybody sleeps. True when something turned up, or a shard is in other hands.
    fn cool_down(&self, worker: u32) -> bool {
        let mut stay = false;
        for (index, shard) in self.shards.iter().enumerate() {
            if shard.hottest.load(Ordering::Relaxed) == NOBODY {
                continue;
            }
            match shard.serving.claim(worker) {
                Some(_held) => {
                    // SAFETY: the serving word is held until the end of this arm.
                    let mut pass = unsafe { Pass::new(&self.region, &self.lanes, shard, index as u32) };
                    stay |= pass.cool_down();
                }
                None => stay = true,
            }
        }
        stay
    }

    fn anything_pending(&self) -> bool {
        (0..self.shards.len() as u32).any(|index| self.is_pending(index))
    }

    /// After a stop was requested: answers whatever is published in any lane.
    fn finish<'a>(&'a self, worker: u32, batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler, tick: u32) -> usize {
        for (index, shard) in self.shards.iter().enumerate() {
            if let Some(_held) = shard.serving.claim(worker) {
                // SAFETY: the serving word is held until the end of this block.
                let mut pass = unsafe { Pass::new(&self.region, &self.lanes, shard, index as u32) };
                pass.cool_down();
                pass.enqueue_all();
            }
        }
        self.sweep(worker, batch, handler, tick, true)
    }

    /// Asks the workers to answer what is published and to return.
    pub fn request_stop(&self) {
        // ORDER(stop): Release is enough: the token's futex call orders the rest, and a worker looks again before it sleeps.
        self.stop.store(true, Ordering::Release);
        for worker in 0..self.config.threads {
            self.token(worker).ring();
        }
    }

    /// Finds dead clients, publishes rates. Called about once a second; true while clients are attached.
    pub fn tick(&self) -> bool {
        let mut attached = false;
        let mut reap = vec![false; self.shards.len()];
        for client in 0..self.region.layout().shape.clients {
            let owner = self.lanes.owner(client);
            let word = &self.region.claim(client).word;
            // ORDER(word): pairs with the Release in `claim::attach`, as in `claim::load`.
            let raw = word.load(Ordering::Acquire);
            let claim = Claim::unpack(raw);
            let free = claim.is_some_and(|claim| claim.state == ClaimState::Free);
            if owner == NOBODY && free {
                continue;
            }
            attached = true;
            if self.region.client_alive(client) {
                self.publish_client(client);
                if claim.is_some_and(|claim| claim.state == ClaimState::Attached) {
                    self.take_tallies(client, owner);
                }
                match claim.map(|claim| usize::from(claim.shard)) {
                    Some(shard) if owner == NOBODY && shard < reap.len() && self.wants_hints() => reap[shard] = true,
                    _ => {}
                }
                continue;
            }
            if owner != NOBODY {
                if let Some(entry) = self.lanes.entry(client) {
                    entry.leaving.store(true, Ordering::Relaxed);
                }
                reap[owner as usize] = true;
                continue;
            }
            match claim.map(|claim| usize::from(claim.shard)) {
                Some(shard) if shard < reap.len() => reap[shard] = true,
                // Somebody scribbled over the claim of a slot that nobody serves: it comes back under the next generation.
                _ => {
                    let generation = self.region.client_status(client).generation.load(Ordering::Relaxed);
                    claim::release_scribbled(word, raw, generation);
                }
            }
        }
        for (index, _) in reap.iter().enumerate().filter(|(_, reap)| **reap) {
            self.shards[index].reap.store(true, Ordering::Relaxed);
            self.shards[index].attention.store(true, Ordering::Relaxed);
            self.token(self.home(index as u32)).ring();
        }
        self.publish_rates();
        attached
    }

    /// What `client clients` shows of a client besides what each pass publishes.
    fn publish_client(&self, client: u32) {
        let status = self.region.client_status(client);
        let total = status.requests_total.load(Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if seen.clients[client as usize] != total {
            seen.clients[client as usize] = total;
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            status.served_ms.store(now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000, Ordering::Relaxed);
        }
        let mut waiting = 0;
        if status.attached.load(Ordering::Relaxed) == 1 {
            let mut position = status.position.load(Ordering::Relaxed);
            let slots = leaving::slots_at(&self.region, client, position);
            let lane = crate::lane::RequestLane::in_use(self.region.request_lane(client).1, slots);
            while let Some(envelope) = lane.read(position).filter(|_| waiting < lane.slots()) {
                position += u64::from(envelope.span);
                waiting += 1;
            }
        }
        status.in_flight.store(waiting, Ordering::Relaxed);
    }

    fn publish_rates(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ms = seen.at.elapsed().as_millis().max(1) as u64;
        seen.at = std::time::Instant::now();
        for (index, last) in seen.shards.iter_mut().enumerate() {
            let status = self.region.shard_status(index as u32);
            let total = status.requests_total.load(Ordering::Relaxed);
            status
                .recent_requests
                .store((total.saturating_sub(*last) * 1000 / ms).min(u64::from(u32::MAX)) as u32, Ordering::Relaxed);
            *last = total;
        }
    }

    /// Publishes the reply of a request that a dead predecessor applied but may not have answered. Before workers start.
    /// Returns whether the reply was missing.
    pub fn answer_recovered(&self, client: u32, generation: u32, position: u64, status: u8, words: [u64; 3]) -> bool {
        takeover::answer(&self.region, &self.lanes, client, generation, position, status, words)
    }

    /// Publishes how many compete for the cores: active clients of the last tick and awake workers.
    fn publish_runnable(&self, tick: u32) {
        let active: u32 = self
            .shards
            .iter()
            .map(|shard| {
                let activity = shard.activity.load(Ordering::Relaxed);
                if tick.wrapping_sub((activity >> 32) as u32) <= 1 { activity as u32 } else { 0 }
            })
            .sum();
        let runnable = active + self.awake().count();
        let word = &self.region.status().runnable;
        if word.load(Ordering::Relaxed) != runnable {
            word.store(runnable, Ordering::Relaxed);
        }
    }
}
