//! Model of the request ring (Q1–Q3): `RUSTFLAGS="--cfg loom" cargo test --release -p shmqueue --test loom_ring`.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use shmqueue::ring::{Congested, RequestRing, Taken, Word};
use shmqueue::sync::AtomicU64;

/// Most words that a model puts.
const WORDS: usize = 6;

struct Memory {
    head: AtomicU64,
    tail: AtomicU64,
    cells: Vec<AtomicU64>,
    /// Stands for the lanes: what the word of this index announces, without any ordering of its own.
    requests: [UnsafeCell<u32>; WORDS],
}

impl Memory {
    fn new(cells: usize) -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            cells: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            requests: std::array::from_fn(|_| UnsafeCell::new(0)),
        })
    }

    fn ring(&self) -> RequestRing<'_> {
        RequestRing::new(&self.head, &self.tail, &self.cells)
    }

    /// Publishes request `index` and its word.
    fn put(&self, index: u16) -> Result<u64, Congested> {
        // SAFETY: only the producer of this index writes it, and the consumer reads it after its word; loom checks just that.
        self.requests[usize::from(index)].with_mut(|request| unsafe { *request = 100 + u32::from(index) });
        self.ring().put(Word { client: index, generation: 1 })
    }
}

/// The consumer's side: what it has taken so far.
struct Consumer {
    memory: Arc<Memory>,
    head: u64,
    taken: Vec<u16>,
}

impl Consumer {
    fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: memory.clone(), head: 0, taken: Vec::new() }
    }

    /// One pass: takes what is there, at most `most` words, then publishes the head.
    fn pass(&mut self, most: usize) {
        let ring = self.memory.ring();
        for _ in 0..most {
            match ring.take(self.head) {
                Taken::Word(word) => {
                    assert_eq!(word.generation, 1, "a word that nobody put");
                    self.memory.requests[usize::from(word.client)].with(|request| {
                        // SAFETY: see `Memory::put`.
                        assert_eq!(unsafe { *request }, 100 + u32::from(word.client), "a word before its request");
                    });
                    self.taken.push(word.client);
                    self.head += 1;
                }
                Taken::Empty => break,
                Taken::Senseless => panic!("a senseless word at {}", self.head),
            }
        }
        ring.publish_head(self.head);
    }

    /// After all producers have ended: everything is taken, and the ring has no hole.
    fn finish(mut self) -> Vec<u16> {
        self.pass(usize::MAX);
        assert!(!self.memory.ring().repair(self.head), "among honest clients there is nothing to repair");
        self.taken
    }
}

fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Two producers of two words each, on two cells, against a consumer that passes twice.
#[test]
fn words_of_two_producers_come_out_once_each_and_in_their_order_over_laps() {
    check(2, || {
        let memory = Memory::new(2);
        let producers = [0u16, 2].map(|first| {
            let memory = memory.clone();
            thread::spawn(move || [first, first + 1].map(|index| memory.put(index)))
        });
        let mut consumer = Consumer::new(&memory);
        consumer.pass(1);
        consumer.pass(2);
        let accepted = producers.map(|producer| producer.join().unwrap());
        let taken = consumer.finish();
        let mut positions = Vec::new();
        for (results, first) in accepted.into_iter().zip([0, 2]) {
            let expected = results.iter().zip(first..).filter(|(result, _)| result.is_ok()).map(|(_, index)| index);
            let found = taken.iter().copied().filter(|index| index / 2 * 2 == first);
            assert!(found.eq(expected), "taken {taken:?} against {results:?} of the producer of {first}");
            positions.extend(results.into_iter().flatten());
        }
        positions.sort_unstable();
        assert!(positions.iter().copied().eq(0..taken.len() as u64), "positions without hole or double: {positions:?}");
    });
}

/// A ring that is full when the producers come: a word gets in only where the consumer has been.
#[test]
fn a_full_ring_refuses_until_the_head_has_moved() {
    check(3, || {
        let memory = Memory::new(2);
        assert_eq!((memory.put(0), memory.put(1)), (Ok(0), Ok(1)));
        let producers = [2u16, 3].map(|index| {
            let memory = memory.clone();
            thread::spawn(move || memory.put(index))
        });
        let mut consumer = Consumer::new(&memory);
        consumer.pass(1);
        let mut accepted: Vec<_> = producers.map(|producer| producer.join().unwrap()).into_iter().flatten().collect();
        accepted.sort_unstable();
        assert!(accepted.is_empty() || accepted == [2], "one cell was freed, the words got {accepted:?}");
        let taken = consumer.finish();
        assert_eq!(taken.len(), 2 + accepted.len(), "a word was overwritten");
        assert_eq!(taken[..2], [0, 1]);
    });
}

/// A producer died between its word and the tail; the others find the free cells, and a slow helper does no harm.
#[test]
fn a_tail_left_behind_is_helped_along_by_several() {
    check(3, || {
        let memory = Memory::new(4);
        assert_eq!((memory.put(0), memory.put(1)), (Ok(0), Ok(1)));
        memory.tail.store(0, shmqueue::sync::Ordering::Relaxed);
        let producers = [2u16, 3].map(|index| {
            let memory = memory.clone();
            thread::spawn(move || memory.put(index))
        });
        let mut consumer = Consumer::new(&memory);
        consumer.pass(4);
        let mut accepted = producers.map(|producer| producer.join().unwrap().expect("two cells are free"));
        accepted.sort_unstable();
        assert_eq!(accepted, [2, 3]);
        assert_eq!(consumer.finish().len(), 4);
    });
}

/// A worker that finds nothing to do looks for a blocked ring while honest producers are at work.
#[test]
fn repair_never_steps_over_an_honest_producer() {
    check(3, || {
        let memory = Memory::new(2);
        let producers = [0u16, 1].map(|index| {
            let memory = memory.clone();
            thread::spawn(move || memory.put(index).expect("both cells are free"))
        });
        assert!(!memory.ring().repair(0), "repaired an honest ring");
        for producer in producers {
            producer.join().unwrap();
        }
        assert_eq!(Consumer::new(&memory).finish().len(), 2);
    });
}

/// A producer and the consumer's repair race for the cell that a scribble blocked.
#[test]
fn repair_of_a_scribbled_cell_loses_no_word_of_a_producer() {
    check(3, || {
        let memory = Memory::new(2);
        memory.cells[0].store(77 << 32, shmqueue::sync::Ordering::Relaxed);
        let producer = {
            let memory = memory.clone();
            thread::spawn(move || memory.put(0))
        };
        let ring = memory.ring();
        let mut head = 0;
        let mut seen = 0;
        // At most: the repaired cell, the producer's word, and what lies behind.
        let mut look = |seen: &mut u32| match ring.take(head) {
            Taken::Word(word) => {
                *seen += u32::from(word.client == 0);
                head += 1;
                ring.publish_head(head);
            }
            _ => {
                let _ = ring.repair(head);
            }
        };
        for _ in 0..3 {
            look(&mut seen);
        }
        let accepted = producer.join().unwrap();
        for _ in 0..4 {
            look(&mut seen);
        }
        assert_eq!(seen, u32::from(accepted.is_ok()), "put said {accepted:?}");
    });
}
