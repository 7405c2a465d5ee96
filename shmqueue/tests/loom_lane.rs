//! Models of lanes and of who tells whom that there is a request in one (L1, E1, E2):
//! `RUSTFLAGS="--cfg loom" cargo test --release -p shmqueue --test loom_lane`.
//!
//! Rings and lanes are the crate's. The few lines around them that `port` (client) and `engine::shard` (worker) consist of are
//! restated here over them, each with a switch for the fence it relies on: without it the model must fail.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use shmqueue::lane::{RawReply, ReplyLane, RequestLane};
use shmqueue::ring::{RequestRing, Taken, Word};
use shmqueue::sync::{AtomicU32, AtomicU64, Ordering, fence};

const WORD: Word = Word { client: 0, generation: 1 };

/// One client's lane of two slots on a shard whose ring has two cells.
struct Memory {
    head: AtomicU64,
    tail: AtomicU64,
    cells: [AtomicU64; 2],
    requests: [AtomicU64; 16],
    replies: [AtomicU64; 8],
    hot: AtomicU32,
}

/// Which of the two sides has its fence.
#[derive(Clone, Copy)]
struct Fences {
    client: bool,
    worker: bool,
}

const BOTH: Fences = Fences { client: true, worker: true };

impl Memory {
    fn new(hot: bool) -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            cells: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: std::array::from_fn(|_| AtomicU64::new(0)),
            replies: std::array::from_fn(|_| AtomicU64::new(0)),
            hot: AtomicU32::new(u32::from(hot)),
        })
    }

    fn ring(&self) -> RequestRing<'_> {
        RequestRing::new(&self.head, &self.tail, &self.cells)
    }

    fn requests(&self) -> RequestLane<'_> {
        RequestLane::new(&self.requests)
    }

    fn replies(&self) -> ReplyLane<'_> {
        ReplyLane::new(&self.replies)
    }
}

fn body(position: u64) -> [u8; 9] {
    [position as u8 + 65; 9]
}

/// `Port::send` and `Port::announce`.
struct Client {
    memory: Arc<Memory>,
    fences: Fences,
    last_word: Option<u64>,
}

impl Client {
    fn new(memory: &Arc<Memory>, fences: Fences) -> Self {
        Self { memory: memory.clone(), fences, last_word: None }
    }

    fn send(&self, position: u64) {
        self.memory.requests().write(position, 1, 2, 1, [&body(position), b"", b""]);
    }

    fn announce(&mut self) {
        if self.fences.client {
            fence(Ordering::SeqCst);
        }
        if self.memory.hot.load(Ordering::Relaxed) != 0 {
            return;
        }
        if let Some(last) = self.last_word
            && last.wrapping_sub(self.memory.head.load(Ordering::Relaxed)) as i64 >= 0
        {
            return;
        }
        self.last_word = Some(self.memory.ring().put(WORD).expect("two words of one client fit"));
    }
}

/// The steps of `engine::shard::Pass`.
struct Worker {
    memory: Arc<Memory>,
    fences: Fences,
    head: u64,
    position: u64,
}

impl Worker {
    fn new(memory: &Arc<Memory>, fences: Fences) -> Self {
        Self { memory: memory.clone(), fences, head: 0, position: 0 }
    }

    /// A pass over the ring; the lane is read only when a word names it.
    fn pass(&mut self) {
        let ring = self.memory.ring();
        let mut taken = 0;
        while let Taken::Word(word) = ring.take(self.head) {
            assert_eq!(word, WORD);
            self.head += 1;
            taken += 1;
        }
        if taken > 0 {
            ring.publish_head(self.head);
            if self.fences.worker {
                fence(Ordering::SeqCst);
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(envelope) = self.memory.requests().read(self.position) {
            assert_eq!((envelope.kind, envelope.flags, envelope.span, envelope.body_len), (1, 2, 1, 9), "a torn envelope");
            assert_eq!(self.memory.requests().first(self.position)[..9], body(self.position), "a torn body");
            let [a, b, c] = [1, 2, 3].map(|word| self.position * 10 + word);
            self.memory.replies().write(self.position, RawReply { status: 5, span: 1, a, b, c });
            self.position += 1;
        }
    }

    fn cool_down(&mut self) {
        self.memory.hot.store(0, Ordering::Relaxed);
        if self.fences.worker {
            fence(Ordering::SeqCst);
        }
        if self.memory.requests().is_published(self.position) {
            self.drain();
        }
    }

    /// Both sides have come to rest and nothing is hot: a word that is still in the ring will be taken, nothing else will happen.
    fn rest(mut self, sent: u64) {
        self.pass();
        assert_eq!(self.position, sent, "a request is left unserved, and nobody was told");
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A client that announces twice, the second time perhaps relying on its first word, against two passes.
fn words(fences: Fences) {
    check(3, move || {
        let memory = Memory::new(false);
        let mut client = Client::new(&memory, fences);
        client.send(0);
        client.announce();
        let client = thread::spawn(move || {
            client.send(1);
            client.announce();
        });
        let mut worker = Worker::new(&memory, fences);
        worker.pass();
        client.join().unwrap();
        worker.rest(2);
    });
}

#[test]
fn a_word_still_ahead_of_the_head_covers_later_requests() {
    words(BOTH);
}

#[test]
#[should_panic(expected = "a request is left unserved, and nobody was told")]
fn it_does_not_without_the_clients_fence() {
    words(Fences { client: false, ..BOTH });
}

#[test]
#[should_panic(expected = "a request is left unserved, and nobody was told")]
fn it_does_not_without_the_workers_fence() {
    words(Fences { worker: false, ..BOTH });
}

/// A hot lane whose client sends without words while the worker polls it once and then cools it down to lie down itself.
fn heat(fences: Fences) {
    check(3, move || {
        let memory = Memory::new(true);
        let mut client = Client::new(&memory, fences);
        let client = thread::spawn(move || {
            for position in 0..2 {
                client.send(position);
                client.announce();
            }
        });
        let mut worker = Worker::new(&memory, fences);
        if memory.requests().is_published(worker.position) {
            worker.drain();
        }
        worker.cool_down();
        client.join().unwrap();
        worker.rest(2);
    });
}

#[test]
fn a_lane_that_cools_down_leaves_no_request_behind() {
    heat(BOTH);
}

#[test]
#[should_panic(expected = "a request is left unserved, and nobody was told")]
fn it_would_without_the_clients_fence() {
    heat(Fences { client: false, ..BOTH });
}

#[test]
#[should_panic(expected = "a request is left unserved, and nobody was told")]
fn it_would_without_the_workers_fence() {
    heat(Fences { worker: false, ..BOTH });
}

/// A lane that becomes hot and cold again while its client sends: words and polling take turns.
#[test]
fn heating_up_and_cooling_down_again_leaves_no_request_behind() {
    check(3, || {
        let memory = Memory::new(false);
        let mut client = Client::new(&memory, BOTH);
        let client = thread::spawn(move || {
            for position in 0..2 {
                client.send(position);
                client.announce();
            }
        });
        let mut worker = Worker::new(&memory, BOTH);
        worker.pass();
        memory.hot.store(1, Ordering::Relaxed);
        if memory.requests().is_published(worker.position) {
            worker.drain();
        }
        worker.cool_down();
        client.join().unwrap();
        worker.rest(2);
    });
}

/// L1 over two laps: the client reuses a slot once it has read the reply, and neither side sees the other's half-written slot.
#[test]
fn requests_and_replies_are_whole_when_slots_are_used_again() {
    check(3, || {
        let memory = Memory::new(true);
        let worker = {
            let memory = memory.clone();
            thread::spawn(move || {
                let mut worker = Worker::new(&memory, BOTH);
                while worker.position < 3 {
                    worker.drain();
                    thread::yield_now();
                }
            })
        };
        let client = Client::new(&memory, BOTH);
        client.send(0);
        client.send(1);
        for position in 0..3u64 {
            let reply = loop {
                if let Some(reply) = memory.replies().read(position) {
                    break reply;
                }
                thread::yield_now();
            };
            let [a, b, c] = [1, 2, 3].map(|word| position * 10 + word);
            assert_eq!(reply, RawReply { status: 5, span: 1, a, b, c }, "a torn reply");
            if position == 0 {
                // Slot 0 is free again: its reply has been read.
                client.send(2);
            }
        }
        worker.join().unwrap();
    });
}
