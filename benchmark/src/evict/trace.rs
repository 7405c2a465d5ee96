//! A stream of keys like those of caches in production, from a seed.
//!
//! Published traces (Y. Yang, Y. Yue, K. V. Rashmi: "A large scale analysis of hundreds of in-memory cache clusters at Twitter", 2020,
//! and the block traces of MSR Cambridge) share three traits, each of which the stream has:
//! - popularity follows Zipf's law with an exponent of about 0.9 to 1;
//! - what is popular changes: every so many requests a key that was asked for just now trades places with one chosen at random;
//! - stretches of keys are read once, in their order, between the others: scans, by jobs that walk over everything.

use crate::mix::{KeyChoice, Random};

/// Requests between two changes of what is popular.
const DRIFT: u64 = 50;
/// Of so many requests one belongs to a scan.
const SCANNED: u64 = 10;
/// A scan's length is the number of keys over this.
const SCANS: u32 = 50;

/// What a stream is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Popular keys; as many others are only scanned.
    pub(super) keys: u32,
    pub(super) zipf: f64,
    pub(super) seed: u64,
}

/// An endless stream of key numbers, below twice the number of keys.
#[derive(Debug)]
pub(super) struct Trace {
    choice: KeyChoice,
    random: Random,
    /// Key by rank.
    ranks: Vec<u32>,
    requests: u64,
    keys: u32,
    /// Next key of the scan, and how many are left of it.
    scan: (u32, u32),
}

impl Trace {
    pub(super) fn new(shape: &Shape) -> Self {
        let mut random = Random::new(shape.seed);
        let mut ranks: Vec<u32> = (0..shape.keys).collect();
        // Fisher and Yates: which key is popular says nothing of its number.
        for last in (1..ranks.len()).rev() {
            ranks.swap(last, (random.bits() >> 32) as usize % (last + 1));
        }
        let choice = KeyChoice::new(shape.keys, shape.zipf);
        Self { choice, random, ranks, requests: 0, keys: shape.keys, scan: (0, 0) }
    }

    /// Key numbers are below this.
    pub(super) fn key_numbers(keys: u32) -> u32 {
        2 * keys
    }

    /// The next key.
    pub(super) fn next_key(&mut self) -> u32 {
        self.requests += 1;
        if self.random.bits().is_multiple_of(SCANNED) {
            return self.scanned();
        }
        let rank = self.choice.pick(self.random.bits()) as usize;
        if self.requests.is_multiple_of(DRIFT) {
            let other = (self.random.bits() >> 32) as usize % self.ranks.len();
            self.ranks.swap(rank, other);
        }
        self.ranks[rank]
    }

    fn scanned(&mut self) -> u32 {
        let (next, left) = self.scan;
        self.scan = match left {
            0 => ((self.random.bits() >> 32) as u32 % self.keys, (self.keys / SCANS).max(1)),
            left => ((next + 1) % self.keys, left - 1),
        };
        self.keys + self.scan.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const SHAPE: Shape = Shape { keys: 1000, zipf: 1.0, seed: 3 };

    #[test]
    fn a_seed_names_its_stream() {
        let stream = |seed| {
            let mut trace = Trace::new(&Shape { seed, ..SHAPE });
            (0..1000).map(|_| trace.next_key()).collect::<Vec<_>>()
        };
        assert_eq!(stream(1), stream(1));
        assert_ne!(stream(1), stream(2));
        assert!(stream(1).iter().all(|key| *key < Trace::key_numbers(SHAPE.keys)));
    }

    #[test]
    fn some_keys_are_popular_for_a_while_and_a_tenth_is_scanned() {
        let mut trace = Trace::new(&SHAPE);
        let mut count = || {
            let mut counts = HashMap::new();
            (0..50_000).for_each(|_| *counts.entry(trace.next_key()).or_insert(0u32) += 1);
            counts
        };
        let (early, _, late) = (count(), (0..20).for_each(|_| drop(count())), count());
        let popular =
            |counts: &HashMap<u32, u32>| counts.iter().max_by_key(|(_, count)| **count).map(|(key, count)| (*key, *count));
        let ((first, count), (last, _)) = (popular(&early).expect("keys"), popular(&late).expect("keys"));
        // Not for long: it trades places some hundred times meanwhile. An even choice would ask 45 times for each.
        assert!(count > 5 * 45, "{count} requests for the most popular key");
        assert_ne!(first, last, "what was popular is no more");
        let scanned: u32 = early.iter().filter(|(key, _)| **key >= SHAPE.keys).map(|(_, count)| count).sum();
        assert!((4500..5500).contains(&scanned), "{scanned} of 50000");
    }
}
