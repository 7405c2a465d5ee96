//! Models of sleeping and waking (D1 with the serving word, E3): `RUSTFLAGS="--cfg loom" cargo test --release -p shmqueue --test loom_wait`.
//!
//! A futex is a mutex and a condition variable: as in the kernel the word is looked at under the lock that a wake takes. A lost
//! wake leaves everybody asleep, which the models notice; the deadlines that would heal it are left out.
#![cfg(loom)]

use std::sync::atomic::{AtomicBool, AtomicU32 as Count, Ordering::Relaxed as Unseen};

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use shmqueue::doorbell::{Awake, Token};
use shmqueue::lane::{RawReply, ReplyLane};
use shmqueue::reply_ring::{Heard, ReplyRing};
use shmqueue::ring::{RequestRing, Taken, Word};
use shmqueue::serving::Serving;
use shmqueue::sync::{AtomicU32, AtomicU64, Ordering, fence};

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Threads that have ended or sleep. When all do, nothing will happen any more.
///
/// Loom does not know of these counts, so that they order nothing in the model.
struct Rest {
    threads: u32,
    resting: Count,
}

impl Rest {
    fn new(threads: u32) -> Self {
        Self { threads, resting: Count::new(0) }
    }

    fn one_more(&self) {
        assert!(self.resting.fetch_add(1, Unseen) + 1 < self.threads, "all sleep, and what they wait for has happened");
    }

    fn fewer(&self, threads: u32) {
        self.resting.fetch_sub(threads, Unseen);
    }
}

struct Futex {
    bucket: Mutex<()>,
    sleepers: Condvar,
    asleep: Count,
}

impl Futex {
    fn new() -> Self {
        Self { bucket: Mutex::new(()), sleepers: Condvar::new(), asleep: Count::new(0) }
    }

    /// Sleeps unless `word_changed`, as the kernel finds out under the lock of the bucket.
    fn wait(&self, rest: &Rest, word_changed: impl FnOnce() -> bool) {
        let bucket = self.bucket.lock().unwrap();
        if !word_changed() {
            self.asleep.fetch_add(1, Unseen);
            rest.one_more();
            drop(self.sleepers.wait(bucket).unwrap());
        }
    }

    fn wake(&self, rest: &Rest) {
        let _bucket = self.bucket.lock().unwrap();
        rest.fewer(self.asleep.swap(0, Unseen));
        self.sleepers.notify_all();
    }
}

const US: u16 = 3;
const REPLY: RawReply = RawReply { status: 1, span: 1, a: 7, b: 8, c: 9 };

/// What E3 is about: a client's reply lane and waiting mark, and the shard's reply ring.
struct Delivery {
    waiting: AtomicU32,
    replies: [AtomicU64; 8],
    tail: AtomicU64,
    descriptors: [AtomicU64; 4],
    futex: Futex,
    rest: Rest,
}

impl Delivery {
    fn ring(&self) -> ReplyRing<'_> {
        ReplyRing::new(&self.tail, &self.descriptors)
    }

    /// `engine::shard`, step 5, for a pass that served one client.
    fn announce(&self, position: u64, client: u16, worker_fences: bool) {
        self.ring().write(position, client, 1);
        self.ring().publish(position + 1);
        if worker_fences {
            fence(Ordering::SeqCst);
        }
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.futex.wake(&self.rest);
        }
    }

    /// `Port::sleep`.
    fn sleep(&self, client_fences: bool) {
        let mut cursor = 0;
        let lane = ReplyLane::new(&self.replies);
        self.waiting.store(1, Ordering::Relaxed);
        if client_fences {
            fence(Ordering::SeqCst);
        }
        loop {
            let tail = self.ring().tail();
            match self.ring().follow(&mut cursor, US) {
                Heard::Nothing if tail == cursor => {}
                _ => continue,
            }
            if lane.is_answered(0) {
                break;
            }
            self.futex.wait(&self.rest, || self.tail.load(Ordering::Relaxed) as u32 != tail as u32);
        }
        self.waiting.store(0, Ordering::Relaxed);
        assert_eq!(lane.read(0), Some(REPLY), "a torn reply");
    }
}

/// A worker answers somebody else in one pass and us in the next, while we go to sleep.
fn reply(client_fences: bool, worker_fences: bool) {
    check(4, move || {
        let delivery = Arc::new(Delivery {
            waiting: AtomicU32::new(0),
            replies: std::array::from_fn(|_| AtomicU64::new(0)),
            tail: AtomicU64::new(0),
            descriptors: std::array::from_fn(|_| AtomicU64::new(0)),
            futex: Futex::new(),
            rest: Rest::new(2),
        });
        let worker = {
            let delivery = delivery.clone();
            thread::spawn(move || {
                delivery.announce(0, US + 1, worker_fences);
                ReplyLane::new(&delivery.replies).write(0, REPLY);
                delivery.announce(1, US, worker_fences);
                delivery.rest.one_more();
            })
        };
        delivery.sleep(client_fences);
        worker.join().unwrap();
    });
}

#[test]
fn a_client_that_falls_asleep_beside_its_reply_is_woken() {
    reply(true, true);
}

#[test]
#[should_panic(expected = "all sleep")]
fn it_is_not_without_the_clients_fence() {
    reply(false, true);
}

#[test]
#[should_panic(expected = "all sleep")]
fn it_is_not_without_the_workers_fence() {
    reply(true, false);
}

const WORD: Word = Word { client: 0, generation: 1 };

/// Looks of a worker for work. One that is awake after them will find it in time.
const ROUNDS: u32 = 3;

/// A shard, two workers that can sleep, and a count of the awake.
struct Shard {
    head: AtomicU64,
    tail: AtomicU64,
    cells: [AtomicU64; 2],
    awake: AtomicU32,
    tokens: [AtomicU32; 2],
    futexes: [Futex; 2],
    rest: Rest,
    serving: Serving,
    /// Next position of the ring, guarded by the serving word.
    core: UnsafeCell<u64>,
    hot: AtomicU32,
    /// Stands for the lane: a published request.
    published: AtomicU32,
    /// The request was served, or a worker is still awake after [`ROUNDS`]: nothing can get lost any more. Loom does not know
    /// of it, so that it orders nothing.
    over: AtomicBool,
}

/// Parts of D1 and of the rules around it that the model can do without, to fail.
#[derive(Clone, Copy, PartialEq)]
enum Lacks {
    Nothing,
    ClientsFence,
    WorkersLastLook,
    CoolDown,
}

impl Shard {
    fn new(hot: bool) -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            cells: std::array::from_fn(|_| AtomicU64::new(0)),
            awake: AtomicU32::new(2),
            tokens: std::array::from_fn(|_| AtomicU32::new(0)),
            futexes: std::array::from_fn(|_| Futex::new()),
            rest: Rest::new(3),
            serving: Serving::default(),
            core: UnsafeCell::new(0),
            hot: AtomicU32::new(u32::from(hot)),
            published: AtomicU32::new(0),
            over: AtomicBool::new(false),
        })
    }

    fn ring(&self) -> RequestRing<'_> {
        RequestRing::new(&self.head, &self.tail, &self.cells)
    }

    /// `Port::announce`: a hot lane needs no word; a word needs somebody awake, or the home worker (0) is rung.
    fn announce(&self, lacks: Lacks) {
        self.published.store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.hot.load(Ordering::Relaxed) != 0 {
            return;
        }
        self.ring().put(WORD).expect("the ring is empty");
        if lacks != Lacks::ClientsFence {
            fence(Ordering::SeqCst);
        }
        if Awake::new(&self.awake).nobody() {
            Token::new(&self.tokens[0]).raise();
            self.futexes[0].wake(&self.rest);
        }
    }

    /// `Engine::is_pending`, but for the shard's warmth: it keeps a worker up, and so would hide what is missing.
    fn is_pending(&self) -> bool {
        let ring = self.ring();
        ring.take(ring.published_head()) != Taken::Empty
    }

    /// A pass over the shard, unless the other worker is at it.
    fn sweep(&self, worker: u32) {
        if !self.is_pending() {
            return;
        }
        let Some(_held) = self.serving.claim(worker) else { return };
        self.core.with_mut(|core| {
            // SAFETY: the serving word is held; loom checks just that.
            let head = unsafe { &mut *core };
            if self.ring().take(*head) == Taken::Word(WORD) {
                *head += 1;
                self.ring().publish_head(*head);
                fence(Ordering::SeqCst);
                assert_eq!(self.published.load(Ordering::Acquire), 1, "a word before its request");
                self.end();
            }
        });
    }

    fn end(&self) {
        self.over.store(true, Unseen);
        for futex in &self.futexes {
            futex.wake(&self.rest);
        }
    }

    /// `Engine::cool_down`: true when something turned up, or the shard is in other hands.
    fn cool_down(&self, worker: u32) -> bool {
        let Some(_held) = self.serving.claim(worker) else { return true };
        if self.hot.load(Ordering::Relaxed) == 0 {
            return false;
        }
        self.hot.store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let found = self.published.load(Ordering::Acquire) == 1;
        if found {
            self.end();
        }
        found
    }

    /// `Engine::run_worker` of a worker that finds nothing to spin for.
    fn run(&self, worker: u32, lacks: Lacks) {
        for _ in 0..ROUNDS {
            self.sweep(worker);
            if self.over.load(Unseen) {
                return;
            }
            let word = &self.tokens[worker as usize];
            let seen = Token::new(word).seen();
            let last = Awake::new(&self.awake).lie_down();
            let stay = (lacks != Lacks::CoolDown && last && self.cool_down(worker))
                || (lacks != Lacks::WorkersLastLook && self.is_pending());
            if !stay {
                self.futexes[worker as usize].wait(&self.rest, || self.over.load(Unseen) || word.load(Ordering::Relaxed) != seen);
            }
            Awake::new(&self.awake).rise();
            // Lets the model checker look at newer values, as time does.
            thread::yield_now();
        }
        self.end();
    }
}

/// Two workers lie down while a client publishes.
fn doorbell(hot: bool, lacks: Lacks) {
    check(3, move || {
        let shard = Shard::new(hot);
        let workers = [0, 1].map(|worker| {
            let shard = shard.clone();
            thread::spawn(move || shard.run(worker, lacks))
        });
        shard.announce(lacks);
        if !shard.over.load(Unseen) {
            shard.rest.one_more();
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn the_last_worker_to_lie_down_is_rung_or_sees_the_word() {
    doorbell(false, Lacks::Nothing);
}

#[test]
#[should_panic(expected = "all sleep")]
fn neither_happens_without_the_clients_fence() {
    doorbell(false, Lacks::ClientsFence);
}

#[test]
#[should_panic(expected = "all sleep")]
fn neither_happens_without_the_workers_last_look() {
    doorbell(false, Lacks::WorkersLastLook);
}

#[test]
fn the_last_worker_to_lie_down_leaves_no_hot_lane() {
    doorbell(true, Lacks::Nothing);
}

#[test]
#[should_panic(expected = "all sleep")]
fn a_hot_lane_without_a_worker_awake_is_forgotten() {
    doorbell(true, Lacks::CoolDown);
}
