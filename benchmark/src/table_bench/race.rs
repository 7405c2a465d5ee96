//! A round of one map: all its keys inserted, updated, read and deleted by several threads, each answer checked.
//!
//! Each thread owns its keys and goes through them in another random order per operation, so that neither buckets nor items are
//! met in the order of their addresses. What counts is the time an operation takes as its thread sees it: the threads'
//! times added up, over all operations. Whether an operation waits for the one before is the link's to say ([`crate::chain`]).

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::chain::Link;
use crate::keys::{Key, KeyRange};
use crate::mix::Random;
use crate::peers::{BATCH, Handle};
use crate::{Error, cpus};

/// What is measured, in the order of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Insert,
    Update,
    Get,
    Delete,
}

/// All of them.
pub(crate) const OPS: [Op; 4] = [Op::Insert, Op::Update, Op::Get, Op::Delete];

impl Op {
    /// Name, as in the figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Get => "get",
            Op::Delete => "delete",
        }
    }
}

/// What a thread does with a batch of operations.
pub(crate) trait Worker {
    /// Makes one operation per key and checks its answer; how many were wrong. `words` are the values to write or expected.
    fn apply(&mut self, op: Op, keys: &[Key], words: &[u64]) -> u64;
}

/// One operation after the other, with what lies between them.
pub(crate) struct OneByOne<H, L>(pub(crate) H, pub(crate) L);

impl<H: Handle, L: Link> OneByOne<H, L> {
    /// Passes each key through the link; `deviates` makes the operation and tells how far its answer is from the right one.
    #[inline]
    fn each(&mut self, keys: &[Key], words: &[u64], deviates: impl Fn(&mut H, &Key, u64) -> u64) -> u64 {
        let mut wrong = 0;
        for (key, word) in keys.iter().zip(words) {
            let deviation = deviates(&mut self.0, &self.1.key(*key), *word);
            self.1.follow(deviation);
            wrong += u64::from(deviation != 0);
        }
        wrong
    }
}

impl<H: Handle, L: Link> Worker for OneByOne<H, L> {
    #[inline]
    fn apply(&mut self, op: Op, keys: &[Key], words: &[u64]) -> u64 {
        let wrong = match op {
            Op::Insert => self.each(keys, words, |map, key, word| u64::from(!map.insert(key, word))),
            Op::Update => self.each(keys, words, |map, key, word| u64::from(!map.update(key, word))),
            Op::Get => self.each(keys, words, |map, key, word| map.get(key).map_or(!0, |found| found ^ word)),
            Op::Delete => self.each(keys, words, |map, key, _| u64::from(!map.delete(key))),
        };
        self.0.rest();
        wrong
    }
}

/// The keys of one thread, with an order for each operation.
pub(crate) struct Share {
    range: KeyRange,
    orders: [Vec<u32>; OPS.len()],
}

impl Share {
    /// Shares for so many threads of `keys` in all.
    pub(crate) fn deal(keys: u32, threads: u32) -> Vec<Share> {
        (0..threads).map(|thread| Share::new(thread, (keys / threads).max(1))).collect()
    }

    fn new(owner: u32, keys: u32) -> Self {
        let mut random = Random::new(0x5eed + u64::from(owner));
        let orders = OPS.map(|_| {
            let mut order: Vec<u32> = (0..keys).collect();
            // Fisher and Yates, as Durstenfeld gave it.
            for last in (1..order.len()).rev() {
                order.swap(last, ((u128::from(random.bits()) * (last as u128 + 1)) >> 64) as usize);
            }
            order
        });
        Self { range: KeyRange::new(owner), orders }
    }

    /// Operations of each kind in a round.
    fn len(&self) -> usize {
        self.orders[0].len()
    }

    /// Makes one operation with each key; how long it took, and how many answers were wrong.
    fn run(&self, op: Op, stamp: u32, worker: &mut impl Worker) -> (Duration, u64) {
        // What is inserted and what it is changed to differ, so that a lost update shows.
        let stamp = 2 * stamp + u32::from(op != Op::Insert);
        let (mut keys, mut words, mut wrong) = ([[0; 16]; BATCH], [0; BATCH], 0);
        let begin = Instant::now();
        for indices in self.orders[op as usize].chunks(BATCH) {
            for ((index, key), word) in indices.iter().zip(&mut keys).zip(&mut words) {
                (*key, *word) = (self.range.key(*index), self.range.word(*index, stamp));
            }
            wrong += worker.apply(op, &keys[..indices.len()], &words[..indices.len()]);
        }
        (begin.elapsed(), wrong)
    }
}

/// What a round found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Round {
    /// Nanoseconds per operation, in the order of [`OPS`]; 0 for what was not asked for.
    pub(crate) ns: [f64; OPS.len()],
    /// Wrong answers.
    pub(crate) errors: u64,
}

/// Runs one round of these operations: a thread per share, all of them in the same operation at a time.
pub(crate) fn round<W: Worker>(worker: impl Fn() -> W + Sync, ops: &[Op], shares: &[Share], stamp: u32) -> Result<Round, Error> {
    let cpus = cpus::allowed()?;
    let barrier = Barrier::new(shares.len());
    let times: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .enumerate()
            .map(|(number, share)| {
                let (worker, barrier, cpu) = (&worker, &barrier, cpus[number % cpus.len()]);
                scope.spawn(move || {
                    let pinned = cpus::pin(cpu);
                    let mut worker = worker();
                    let timed = |&op: &Op| {
                        barrier.wait();
                        (op, share.run(op, stamp, &mut worker))
                    };
                    let times: Vec<_> = ops.iter().map(timed).collect();
                    pinned.map(|()| times)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let operations: usize = shares.iter().map(Share::len).sum();
    let mut round = Round { ns: [0.0; OPS.len()], errors: 0 };
    for times in times {
        let times = times.map_err(|_| Error::Failed("measuring a map: a thread panicked; see its message above".into()))??;
        for (op, (time, wrong)) in times {
            round.ns[op as usize] += time.as_nanos() as f64 / operations as f64;
            round.errors += wrong;
        }
    }
    Ok(round)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Chained, Overlapped};
    use crate::ours::{Grouped, Ours};
    use crate::peers::{Map, Peer, RwLocked};

    #[test]
    fn every_order_has_every_key_and_orders_differ() {
        let share = Share::new(3, 1000);
        for order in &share.orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.iter().copied().eq(0..1000));
            assert_ne!(*order, sorted);
        }
        assert_ne!(share.orders[0], share.orders[1]);
    }

    #[test]
    fn rounds_of_the_table_and_of_a_peer_answer_rightly_and_leave_nothing() {
        let shares = Share::deal(1001, 2);
        let ours = Ours::new(64, 1001).unwrap();
        let peer = RwLocked::with_capacity(0);
        for stamp in 0..2 {
            assert_eq!(round(|| OneByOne(ours.handle(), Chained::new()), &OPS, &shares, stamp).unwrap().errors, 0);
            assert_eq!(round(|| OneByOne(ours.handle(), Overlapped), &OPS, &shares, stamp).unwrap().errors, 0);
            assert_eq!(round(|| Grouped(ours.handle()), &OPS, &shares, stamp).unwrap().errors, 0);
            let found = round(|| OneByOne(peer.handle(), Chained::new()), &OPS, &shares, stamp).unwrap();
            assert!(found.errors == 0 && found.ns.iter().all(|ns| *ns > 0.0), "{found:?}");
        }
        assert_eq!(ours.private().table().stats().items, 0);
    }

    /// Forgets every tenth update and answers as if it had not.
    struct Forgetful<H>(H, u64);

    impl<H: Handle> Handle for Forgetful<H> {
        fn get(&mut self, key: &Key) -> Option<u64> {
            self.0.get(key)
        }

        fn insert(&mut self, key: &Key, value: u64) -> bool {
            self.0.insert(key, value)
        }

        fn update(&mut self, key: &Key, value: u64) -> bool {
            self.1 += 1;
            self.1.is_multiple_of(10) || self.0.update(key, value)
        }

        fn delete(&mut self, key: &Key) -> bool {
            self.0.delete(key)
        }
    }

    #[test]
    fn a_lost_update_is_a_wrong_answer() {
        let peer = RwLocked::with_capacity(0);
        let shares = Share::deal(1000, 1);
        let overlapped = round(|| OneByOne(Forgetful(peer.handle(), 0), Overlapped), &OPS, &shares, 0).unwrap();
        let chained = round(|| OneByOne(Forgetful(peer.handle(), 0), Chained::new()), &OPS, &shares, 0).unwrap();
        assert_eq!((overlapped.errors, chained.errors), (100, 100));
    }
}
