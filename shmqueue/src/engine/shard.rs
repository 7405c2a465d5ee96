//! One pass over a shard: take words, drain lanes, answer, announce.
//!
//! The holder of the shard's serving word is the only one that touches a shard's [`Core`] and the lanes that the shard owns.
//! The steps of a pass, each of which the code below names:
//!
//! 1. words are taken from the request ring into the run queue; the head is published, then (after a fence) lanes are read:
//!    a client that saw its word still ahead of the head when it published a request needs no new word (E1);
//! 2. hot lanes are looked at directly;
//! 3. each lane of the run queue is drained up to a quota; what is left goes to the queue's end (round robin);
//! 4. the handler answers the batch, each reply published in its lane;
//! 5. per lane served, `complete` and one broadcast descriptor; one tail store; after a fence one wake for those who sleep.
//!
//! A *hot* lane's client puts no words: the worker tests the lane in every pass. Lanes become hot while passes take few words, and
//! cool down (clear the flag, fence, look once more) when more come or the worker is about to sleep (E2).
//!
//! Invariants:
//! - E1: `publish slots; fence; read head` (client) against `publish head; fence; read lanes` (worker): one of them sees the other.
//! - E2: `publish slot; fence; read hot` (client) against `clear hot; fence; read lane` (worker): likewise.
//! - E3: `publish reply and tail; fence; read waiting` (worker) against `set waiting; fence; read lane` (client): likewise.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32 as PrivateU32, AtomicU64 as PrivateU64};

use crate::lane::{RESIZE, ReplyLane, RequestLane};
use crate::region::ServerRegion;
use crate::reply_ring::ReplyRing;
use crate::ring::{NOBODY as NO_CLIENT, RequestRing, Taken, Word};
use crate::serving::Serving;
use crate::sync::{Ordering, fence};
use crate::wait;

use super::heat::HOT_LANES;
use super::job::{Handler, Job};
use super::lanes::{Lane, Lanes, NOBODY};
use crate::port::{AWAKE, LEFT};

/// Words taken from the ring in one pass.
const WORDS_PER_PASS: usize = 32;
/// Requests of one lane served in one visit.
const QUOTA: usize = 64;
/// Requests handed to the handler at once.
pub(super) const BATCH: usize = 64;
/// Requests of a burst that are brought near ahead of the one being taken. A line takes as long to cross between two cores as ten
/// requests take to serve; one at a time it would be all that the worker waits for.
const AHEAD: u64 = 12;
/// Slots of a long body that are brought near before it is copied.
const PREFETCHED: u64 = 32;
/// Drains of a lone hot lane in one pass.
const LONE_DRAINS: usize = 8;

/// What the holder of the serving word keeps of a shard.
#[derive(Debug)]
pub(super) struct Core {
    /// Next position of the request ring.
    head: u64,
    /// Next position of the reply ring.
    tail: u64,
    queue: VecDeque<u32>,
    pub(super) hot: Vec<u32>,
    /// Lanes that were answered in this pass.
    pub(super) served: Vec<u32>,
    requests: u64,
    /// Distinct clients served in the current tick.
    active: u32,
    tick: u32,
    /// Passes that took words since hot lanes were last cooled down.
    pub(super) since_cool: u32,
}

/// A shard as the server sees it.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) serving: Serving,
    /// The run queue, the hot list or the reaper wants a pass although the ring is empty.
    pub(super) attention: AtomicBool,
    /// The reaper found clients of this shard dead.
    pub(super) reap: AtomicBool,
    /// The first hot lane's client, or [`NOBODY`] when none is hot.
    pub(super) hottest: PrivateU32,
    /// `tick << 32 | active clients` of the last full tick.
    pub(super) activity: PrivateU64,
    core: UnsafeCell<Core>,
}

// SAFETY: `core` is only reached through `Shard::core`, whose caller holds `serving`.
unsafe impl Sync for Shard {}

impl Shard {
    pub(super) fn new(head: u64, tail: u64, requests: u64, clients: u32) -> Self {
        let core = Core {
            head,
            tail,
            queue: VecDeque::with_capacity(clients as usize + 1),
            hot: Vec::with_capacity(HOT_LANES),
            served: Vec::with_capacity(clients as usize + 1),
            requests,
            active: 0,
            tick: 0,
            since_cool: 0,
        };
        Self {
            serving: Serving::default(),
            attention: AtomicBool::new(true),
            reap: AtomicBool::new(false),
            hottest: PrivateU32::new(NOBODY),
            activity: PrivateU64::new(0),
            core: UnsafeCell::new(core),
        }
    }

    /// # Safety
    /// The caller holds `serving` and has no other reference to the core.
    #[allow(clippy::mut_from_ref, reason = "the serving word stands for the exclusive borrow")]
    unsafe fn core(&self) -> &mut Core {
        // SAFETY: the caller's promise makes the access exclusive.
        unsafe { &mut *self.core.get() }
    }
}

/// A shard under the hands of the worker that holds its serving word.
pub(super) struct Pass<'a> {
    pub(super) region: &'a ServerRegion,
    pub(super) lanes: &'a Lanes,
    pub(super) shard: &'a Shard,
    pub(super) index: u32,
    pub(super) core: &'a mut Core,
}

impl<'a> Pass<'a> {
    /// # Safety
    /// The caller holds the shard's serving word for as long as the pass lives, and makes no second pass beside it.
    pub(super) unsafe fn new(region: &'a ServerRegion, lanes: &'a Lanes, shard: &'a Shard, index: u32) -> Self {
        // SAFETY: the caller's promise.
        let core = unsafe { shard.core() };
        Self { region, lanes, shard, index, core }
    }

    fn ring(&self) -> RequestRing<'a> {
        let (ring, cells) = self.region.request_ring(self.index);
        RequestRing::new(&self.region.shard_status(self.index).head, &ring.tail, cells)
    }

    pub(super) fn request_lane(&self, client: u32) -> RequestLane<'a> {
        // SAFETY: as in `lane`; the copy ends the borrow at once.
        let slots = unsafe { self.lanes.lane(client) }.slots;
        RequestLane::in_use(self.region.request_lane(client).1, slots)
    }

    pub(super) fn lane(&mut self, client: u32) -> &mut Lane {
        // SAFETY: clients get into the core's lists only through `enqueue`, which checks that this shard owns them; the pass holds
        // the serving word, and the borrow of `self` keeps a second reference away.
        unsafe { self.lanes.lane(client) }
    }

    /// Serves the shard once; returns the number of requests answered.
    pub(super) fn serve(&mut self, batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler, tick: u32) -> usize {
        if self.shard.reap.load(Ordering::Relaxed) {
            self.shard.reap.store(false, Ordering::Relaxed);
            self.enqueue_leaving();
        }
        let taken = self.take_words();
        self.look_at_hot_lanes();
        let lone = self.core.queue.len() == 1 && self.core.hot.len() == 1;
        let mut answered = self.drain_queue(batch, handler, tick);
        if lone && answered > 0 && taken == 0 {
            answered += self.drain_on(batch, handler);
        }
        self.settle_heat(taken);
        if !self.core.served.is_empty() {
            self.announce(handler);
        }
        if self.core.tick != tick {
            // ORDER(activity): Relaxed, a hint for waiting.
            self.shard.activity.store(u64::from(tick) << 32 | u64::from(self.core.active), Ordering::Relaxed);
            (self.core.tick, self.core.active) = (tick, 0);
        }
        let waiting = self.core.queue.len() as u32;
        let backlog = &self.region.shard_status(self.index).backlog;
        if backlog.load(Ordering::Relaxed) != waiting {
            backlog.store(waiting, Ordering::Relaxed);
        }
        let busy = waiting > 0;
        if self.shard.attention.load(Ordering::Relaxed) != busy {
            self.shard.attention.store(busy, Ordering::Relaxed);
        }
        if answered == 0 && taken == 0 && self.ring().repair(self.core.head) {
            self.shard.attention.store(true, Ordering::Relaxed);
        }
        answered
    }

    /// Step 1.
    fn take_words(&mut self) -> usize {
        let ring = self.ring();
        let mut taken = 0;
        while taken < WORDS_PER_PASS {
            match ring.take(self.core.head) {
                Taken::Word(word) => {
                    self.core.head += 1;
                    taken += 1;
                    self.heed(word);
                }
                Taken::Empty => break,
                Taken::Senseless => {
                    // Whether we repair the cell or a producer fills it, the next look finds a word.
                    if !ring.repair(self.core.head) {
                        break;
                    }
                }
            }
        }
        if taken > 0 {
            ring.publish_head(self.core.head);
            // ORDER(head): E1, the worker's side.
            fence(Ordering::SeqCst);
        }
        taken
    }

    /// Puts the lane that a word names into the run queue, if the word makes sense.
    fn heed(&mut self, word: Word) {
        if word.client == NO_CLIENT {
            return;
        }
        let client = u32::from(word.client);
        if client >= self.region.layout().shape.clients {
            return;
        }
        if self.lanes.owner(client) != self.index && !self.adopt(client) {
            return;
        }
        if self.lane(client).generation as u16 == word.generation {
            self.enqueue(client);
        }
    }

    pub(super) fn enqueue(&mut self, client: u32) {
        let lane = self.lane(client);
        if !lane.queued {
            lane.queued = true;
            self.core.queue.push_back(client);
        }
    }

    /// Steps 3 and 4.
    fn drain_queue(&mut self, batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler, tick: u32) -> usize {
        let mut answered = 0;
        for _ in 0..self.core.queue.len() {
            let Some(client) = self.core.queue.pop_front() else { break };
            self.lane(client).queued = false;
            let drained = self.drain(client, batch, handler, &mut answered);
            if drained == 0 {
                self.release_if_leaving(client, handler);
                continue;
            }
            let lane = self.lane(client);
            if lane.tick != tick {
                lane.tick = tick;
                self.core.active += 1;
            }
            let position = self.lane(client).position;
            if self.request_lane(client).is_published(position) || self.is_leaving(client) {
                self.enqueue(client);
            }
        }
        answered + Self::answer(batch, handler)
    }

    /// Goes on with the only lane there is while it keeps sending.
    fn drain_on(&mut self, batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler) -> usize {
        let Some(client) = self.core.hot.first().copied() else { return 0 };
        let mut answered = 0;
        for _ in 0..LONE_DRAINS {
            if self.lane(client).queued || self.drain(client, batch, handler, &mut answered) == 0 {
                break;
            }
            answered += Self::answer(batch, handler);
        }
        answered
    }

    /// Takes the published requests of a lane, at most a quota, into the batch; a full batch is answered on the way.
    fn drain(&mut self, client: u32, batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler, answered: &mut usize) -> usize {
        let request = self.request_lane(client);
        let reply = ReplyLane::in_use(self.region.reply_lane(client).1, request.slots());
        let shard = self.index;
        let lane = self.lane(client);
        let (generation, mut position, mut drained) = (lane.generation, lane.position, 0);
        let burst = u64::from(lane.burst);
        while drained < QUOTA {
            let Some(envelope) = request.read(position) else { break };
            let span = u64::from(envelope.span);
            if envelope.kind == RESIZE {
                // What was sent before is answered before; what comes after rests elsewhere and is looked at in the next pass.
                *answered += Self::answer(batch, handler);
                self.resize(client, position, &envelope);
                position += span;
                drained += 1;
                *answered += 1;
                break;
            }
            for slot in 1..span.min(PREFETCHED) {
                request.prefetch(position + slot);
            }
            if drained == 0 {
                for ahead in 1..burst.min(AHEAD) {
                    request.prefetch(position + ahead);
                }
            }
            if drained as u64 + AHEAD < burst {
                request.prefetch(position + AHEAD);
            }
            reply.prefetch_for_write(position);
            batch.push(Job { shard, client, generation, position, envelope, request, reply });
            position += span;
            drained += 1;
            if batch.len() == BATCH {
                *answered += Self::answer(batch, handler);
            }
        }
        if drained > 0 {
            let lane = self.lane(client);
            lane.position = position;
            lane.burst = drained as u32;
            lane.requests += drained as u64;
            if !lane.served {
                lane.served = true;
                self.core.served.push(client);
            }
            self.core.requests += drained as u64;
        }
        drained
    }

    /// Step 4: the handler answers; afterwards every job of the batch has its reply in its lane.
    fn answer(batch: &mut Vec<Job<'a>>, handler: &mut dyn Handler) -> usize {
        let count = batch.len();
        if count > 0 {
            handler.process(batch);
            batch.clear();
        }
        count
    }

    /// Step 5.
    fn announce(&mut self, handler: &mut dyn Handler) {
        let (ring, cells) = self.region.reply_ring(self.index);
        let ring = ReplyRing::new(&ring.tail, cells);
        for at in 0..self.core.served.len() {
            let client = self.core.served[at];
            let lane = self.lane(client);
            lane.served = false;
            let (position, requests) = (lane.position, lane.requests);
            // ORDER(complete): Release: a successor that reads it finds every reply before it.
            self.region.reply_lane(client).0.complete.store(position, Ordering::Release);
            let status = self.region.client_status(client);
            status.position.store(position, Ordering::Relaxed);
            status.requests_total.store(requests, Ordering::Relaxed);
            ring.write(self.core.tail, client as u16, position);
            self.core.tail += 1;
        }
        ring.publish(self.core.tail);
        let status = self.region.shard_status(self.index);
        status.requests_total.store(self.core.requests, Ordering::Relaxed);
        for (total, more) in status.tallies.iter().zip(handler.take_tallies()) {
            if more > 0 {
                total.store(total.load(Ordering::Relaxed) + more, Ordering::Relaxed);
            }
        }
        let cpu = wait::current_cpu();
        if status.cpu.load(Ordering::Relaxed) != cpu {
            status.cpu.store(cpu, Ordering::Relaxed);
        }
        // ORDER(tail): E3, the worker's side.
        fence(Ordering::SeqCst);
        let mut bits = 0;
        for at in 0..self.core.served.len() {
            let client = self.core.served[at];
            match self.region.request_lane(client).0.waiting.load(Ordering::Relaxed) {
                AWAKE => {}
                LEFT => self.enqueue(client),
                _ => bits |= wait::bit_of(client).get(),
            }
        }
        if let Some(bits) = std::num::NonZeroU32::new(bits) {
            wait::wake(wait::low_half(&self.region.reply_ring(self.index).0.tail), bits);
        }
        while let Some(client) = self.core.served.pop() {
            self.take_hints(client, handler);
        }
    }

    /// Lanes that still wait in the run queue.
    pub(super) fn backlog(&self) -> usize {
        self.core.queue.len()
    }

    /// Drops nothing, but makes every lane that the shard owns be looked at: before a stop, and after a restart.
    pub(super) fn enqueue_all(&mut self) {
        for client in 0..self.region.layout().shape.clients {
            if self.lanes.owner(client) == self.index {
                self.enqueue(client);
            }
        }
    }
}
