//! The lock-free parts over heap memory with real threads: millions of words, requests and descriptors, all accounted for.
#![cfg(not(loom))]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use shmqueue::lane::{RawReply, ReplyLane, RequestLane, span_of_body};
use shmqueue::reply_ring::{Heard, ReplyRing};
use shmqueue::ring::{RequestRing, Taken, Word};
use shmqueue::serving::Serving;

/// Ends a test that stands still, with a word on where, instead of leaving it to hang.
struct Watchdog {
    started: Instant,
    what: &'static str,
}

impl Watchdog {
    fn new(what: &'static str) -> Self {
        Self { started: Instant::now(), what }
    }

    /// A turn of a waiting loop.
    fn turn(&self) {
        assert!(self.started.elapsed() < Duration::from_secs(300), "{} stands still", self.what);
        thread::yield_now();
    }
}

struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
    cells: Vec<AtomicU64>,
}

impl Ring {
    fn new(cells: usize) -> Self {
        Self { head: AtomicU64::new(0), tail: AtomicU64::new(0), cells: words(cells) }
    }

    fn view(&self) -> RequestRing<'_> {
        RequestRing::new(&self.head, &self.tail, &self.cells)
    }
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// What a serving word guards.
struct Guarded<T> {
    serving: Serving,
    core: UnsafeCell<T>,
}

// SAFETY: `core` is only reached through `with`, which holds the serving word.
unsafe impl<T: Send> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    fn new(core: T) -> Self {
        Self { serving: Serving::default(), core: UnsafeCell::new(core) }
    }

    /// Runs `pass` over the core unless another worker does.
    fn with<R>(&self, worker: u32, pass: impl FnOnce(&mut T) -> R) -> Option<R> {
        let _held = self.serving.claim(worker)?;
        // SAFETY: the serving word is held until the end of this function.
        Some(pass(unsafe { &mut *self.core.get() }))
    }
}

/// Producers, consumers and cells: every word comes out once, and those of one producer in their order.
fn all_words_are_accounted_for(producers: u16, consumers: u32, cells: usize, each: u64) {
    struct Core {
        head: u64,
        next: Vec<u64>,
    }
    let ring = Ring::new(cells);
    let core = Guarded::new(Core { head: 0, next: vec![0; usize::from(producers)] });
    let (taken, all) = (AtomicU64::new(0), each * u64::from(producers));
    let dog = Watchdog::new("the request ring");
    thread::scope(|scope| {
        for client in 0..producers {
            let (ring, dog) = (&ring, &dog);
            scope.spawn(move || {
                let mut last = None;
                for sequence in 0..each {
                    let word = Word { client, generation: sequence as u16 };
                    let position = loop {
                        match ring.view().put(word) {
                            Ok(position) => break position,
                            Err(_) => dog.turn(),
                        }
                    };
                    assert!(last < Some(position), "positions of one producer rise");
                    last = Some(position);
                }
            });
        }
        for worker in 0..consumers {
            let (ring, core, dog, taken) = (&ring, &core, &dog, &taken);
            scope.spawn(move || {
                while taken.load(Ordering::Relaxed) < all {
                    let passed = core.with(worker, |core| {
                        let before = core.head;
                        for _ in 0..32 {
                            match ring.view().take(core.head) {
                                Taken::Word(word) => {
                                    let next = &mut core.next[usize::from(word.client)];
                                    assert_eq!(word.generation, *next as u16, "word of client {}", word.client);
                                    *next += 1;
                                    core.head += 1;
                                }
                                Taken::Empty => break,
                                Taken::Senseless => panic!("a senseless word at {}", core.head),
                            }
                        }
                        ring.view().publish_head(core.head);
                        taken.store(core.head, Ordering::Relaxed);
                        if core.head == before {
                            assert!(!ring.view().repair(core.head), "repaired an honest ring at {}", core.head);
                        }
                        core.head - before
                    });
                    if passed.unwrap_or(0) == 0 {
                        dog.turn();
                    }
                }
            });
        }
    });
    let core = core.core.into_inner();
    assert_eq!(core.head, all);
    assert!(core.next.iter().all(|next| *next == each), "{:?} of {each} words each", core.next);
}

#[test]
fn two_million_words_of_four_producers_over_a_short_ring() {
    all_words_are_accounted_for(4, 1, 8, 500_000);
}

#[test]
fn two_million_words_of_eight_producers_between_two_consumers() {
    all_words_are_accounted_for(8, 2, 64, 250_000);
}

#[test]
fn a_ring_of_two_cells_loses_nothing() {
    all_words_are_accounted_for(3, 2, 2, 100_000);
}

/// Three workers at one word: each pass is one step of a sum that only exclusive access keeps right.
#[test]
fn a_serving_word_has_one_holder() {
    let core = Guarded::new((0u64, 0u64));
    let passes: u64 = thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let core = &core;
                scope.spawn(move || {
                    let pass = || {
                        core.with(worker, |(count, double)| {
                            assert_eq!(*double, *count * 2, "two holders at once");
                            *count += 1;
                            *double += 2;
                        })
                    };
                    (0..1_000_000).filter(|_| pass().is_some()).count() as u64
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker failed")).sum()
    });
    assert_eq!(core.core.into_inner(), (passes, passes * 2));
}

const SLOTS: u64 = 64;

/// One client's lanes.
struct Lanes {
    requests: Vec<AtomicU64>,
    replies: Vec<AtomicU64>,
}

/// The body of a request: of any length up to a few slots, and told from every other.
fn body(client: u16, number: u64, bytes: &mut Vec<u8>) {
    bytes.clear();
    let len = 8 + (number * 7 + u64::from(client)) % 180;
    bytes.extend_from_slice(&(number ^ u64::from(client) << 48).to_le_bytes());
    bytes.extend((8..len).map(|at| (number + at) as u8));
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum: u64, byte| sum.rotate_left(7) ^ u64::from(*byte))
}

/// A client that fills its lane in bursts and announces each by E1; nobody nudges, so a request that nobody was told of stands still.
fn send_and_check(client: u16, each: u64, lanes: &Lanes, ring: &RequestRing<'_>, dog: &Watchdog) {
    let (request, reply) = (RequestLane::new(&lanes.requests), ReplyLane::new(&lanes.replies));
    let (mut next, mut oldest, mut last_word) = (0u64, 0u64, None::<u64>);
    let (mut sent, mut answered) = (0, 0);
    let mut unanswered = std::collections::VecDeque::new();
    let (mut bytes, mut copied) = (Vec::new(), Vec::new());
    while answered < each {
        let burst = 1 + sent % 5;
        for _ in 0..burst {
            body(client, sent, &mut bytes);
            let span = span_of_body(bytes.len()) as u64;
            if sent == each || next + span - oldest > SLOTS {
                break;
            }
            let (key, value) = bytes.split_at(bytes.len() / 2);
            request.write(next, 3, 0, span as u16, [b"", key, value]);
            unanswered.push_back((next, span, sent, sum(&bytes), bytes.len()));
            next += span;
            sent += 1;
        }
        fence(Ordering::SeqCst);
        if last_word.is_none_or(|last| last < ring.published_head()) {
            last_word = Some(ring.put(Word { client, generation: 1 }).expect("two words of each client fit"));
        }
        while let Some((position, span, number, sum, len)) = unanswered.front().copied() {
            let Some(found) = reply.read(position) else { break };
            assert_eq!((found.status, u64::from(found.span), found.a, found.b), (4, span, number, sum), "client {client}");
            copied.clear();
            reply.read_bytes(position, found.c as usize, &mut copied);
            assert!(copied.iter().all(|byte| *byte == number as u8) && copied.len() == len.min((span as usize - 1) * 32));
            unanswered.pop_front();
            oldest += span;
            answered += 1;
        }
        if !unanswered.is_empty() {
            dog.turn();
        }
    }
}

/// What the serving worker keeps.
struct Core {
    head: u64,
    positions: Vec<u64>,
    numbers: Vec<u64>,
    body: Vec<u8>,
}

impl Core {
    /// A pass: takes words, publishes the head, then drains the lanes that they name.
    fn pass(&mut self, ring: &RequestRing<'_>, lanes: &[Lanes]) -> u64 {
        let mut named = Vec::new();
        while let Taken::Word(word) = ring.take(self.head) {
            named.push(word.client);
            self.head += 1;
        }
        if named.is_empty() {
            return 0;
        }
        ring.publish_head(self.head);
        fence(Ordering::SeqCst);
        named.into_iter().map(|client| self.drain(client, &lanes[usize::from(client)])).sum()
    }

    fn drain(&mut self, client: u16, lanes: &Lanes) -> u64 {
        let (request, reply) = (RequestLane::new(&lanes.requests), ReplyLane::new(&lanes.replies));
        let at = usize::from(client);
        let mut served = 0;
        while let Some(envelope) = request.read(self.positions[at]) {
            let (position, number) = (self.positions[at], self.numbers[at]);
            let mut expected = Vec::new();
            body(client, number, &mut expected);
            self.body.clear();
            self.body.resize(envelope.body_len as usize, 0);
            // SAFETY: the vector has room for the whole body, outside the lane.
            unsafe { request.copy_body(position, 0, self.body.as_mut_ptr(), self.body.len()) };
            assert_eq!(self.body, expected, "request {number} of client {client} is torn");
            let further = vec![number as u8; expected.len().min((usize::from(envelope.span) - 1) * 32)];
            reply.write_bytes(position, &further);
            let answer = RawReply { status: 4, span: envelope.span, a: number, b: sum(&expected), c: further.len() as u64 };
            reply.write(position, answer);
            self.positions[at] += u64::from(envelope.span);
            self.numbers[at] += 1;
            served += 1;
        }
        served
    }
}

/// Requests of mixed sizes through lanes and ring, served by two workers in turns, announced by words only.
#[test]
fn a_million_requests_come_back_answered_and_nobody_is_forgotten() {
    const CLIENTS: u16 = 4;
    const EACH: u64 = 250_000;
    let ring = Ring::new(8);
    let lanes: Vec<_> =
        (0..CLIENTS).map(|_| Lanes { requests: words(SLOTS as usize * 8), replies: words(SLOTS as usize * 4) }).collect();
    let clients = usize::from(CLIENTS);
    let core = Guarded::new(Core { head: 0, positions: vec![0; clients], numbers: vec![0; clients], body: Vec::new() });
    let served = AtomicU64::new(0);
    let dog = Watchdog::new("the word protocol");
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (ring, lanes, dog) = (&ring, &lanes[usize::from(client)], &dog);
            scope.spawn(move || send_and_check(client, EACH, lanes, &ring.view(), dog));
        }
        for worker in 0..2 {
            let (ring, lanes, core, served, dog) = (&ring, &lanes, &core, &served, &dog);
            scope.spawn(move || {
                while served.load(Ordering::Relaxed) < EACH * u64::from(CLIENTS) {
                    let done = core.with(worker, |core| core.pass(&ring.view(), lanes)).unwrap_or(0);
                    served.fetch_add(done, Ordering::Relaxed);
                    if done == 0 {
                        dog.turn();
                    }
                }
            });
        }
    });
    assert_eq!(core.core.into_inner().numbers, [EACH; CLIENTS as usize]);
}

/// A writer that waits for nobody over a ring of four descriptors, and followers that are lapped all the time.
#[test]
fn followers_of_two_million_descriptors_hear_the_truth_or_that_they_were_lapped() {
    const DESCRIPTORS: u64 = 2_000_000;
    let (tail, cells) = (AtomicU64::new(0), words(8));
    let ring = ReplyRing::new(&tail, &cells);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..2u16 {
            let (ring, ended) = (&ring, &ended);
            scope.spawn(move || {
                let mut cursor = 0;
                let mut told = 0;
                while !ended.load(Ordering::Relaxed) {
                    let from = cursor;
                    match ring.follow(&mut cursor, client) {
                        Heard::Complete(complete) => {
                            // Descriptor p speaks of client p mod 2 and says p + 1.
                            let last = if (cursor - 1) % 2 == u64::from(client) { cursor } else { cursor - 1 };
                            assert_eq!(complete, last, "a descriptor of another position, between {from} and {cursor}");
                            assert!(complete > told, "told again");
                            told = complete;
                        }
                        Heard::Nothing => assert!(cursor - from <= 1, "passed over descriptors of ours from {from} to {cursor}"),
                        Heard::Lapped => assert!(cursor > from),
                    }
                }
            });
        }
        for position in 0..DESCRIPTORS {
            ring.write(position, (position % 2) as u16, position + 1);
            ring.publish(position + 1);
            if position % 4096 == 0 {
                thread::yield_now();
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(ring.tail(), DESCRIPTORS);
}
