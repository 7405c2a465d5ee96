//! The verified workload: insert, read back by bucket, delete, with every reply checked.
//!
//! Keys and values are functions of a counter (SplitMix64 by Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014), so a round of any size keeps nothing in memory: whoever checks a reply computes what was sent. The mixer
//! is a bijection and no counter is used twice, so no two keys of a run are equal.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use shmtable::{Client, Completion, Condition, Error, Item, Operation, Outcome};

use crate::interrupt::Stop;

const KEY_LEN: usize = 16;
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
/// Requests between two looks at the clock for the progress line.
const PROGRESS_STEP: u64 = 1 << 14;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds; 0 for no end.
    pub(crate) outer: u64,
    /// Keys per round.
    pub(crate) inner: u64,
    /// Most requests in flight.
    pub(crate) window: u64,
    /// Bytes of each value.
    pub(crate) value_size: usize,
    /// Where the keys come from.
    pub(crate) seed: u64,
}

impl Plan {
    /// A seed that no other run has, from the system's random source as the standard library keeps it for its maps.
    pub(crate) fn fresh_seed() -> u64 {
        std::hash::RandomState::new().build_hasher().finish()
    }
}

/// What was done; its text is the command's last line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Requests whose reply was checked.
    pub(crate) ops: u64,
    /// Replies that were wrong, failed or did not come.
    pub(crate) errors: u64,
    /// From the first request to the last reply.
    pub(crate) seconds: f64,
}

impl Summary {
    /// Checked requests per second.
    pub(crate) fn ops_per_second(&self) -> u64 {
        if self.seconds > 0.0 { (self.ops as f64 / self.seconds) as u64 } else { 0 }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ops, errors, seconds } = self;
        write!(f, "ops={ops} errors={errors} seconds={seconds:.6} ops_per_second={}", self.ops_per_second())
    }
}

/// What went wrong first.
#[derive(Debug)]
pub(crate) enum Problem {
    /// A reply is not what it must be.
    Wrong(String),
    /// A request failed.
    Failed {
        /// Which one.
        place: String,
        /// How.
        error: Error,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Insert,
    Bucket,
    Delete,
}

/// A run of the workload.
pub(crate) struct Workload {
    plan: Plan,
    stop: Stop,
    round: u64,
    ops: u64,
    errors: u64,
    problem: Option<Problem>,
    /// Keys of the round whose bucket must be read again.
    unseen: Vec<u64>,
    progress: Option<Progress>,
}

impl Workload {
    /// A run that has not begun.
    pub(crate) fn new(plan: Plan, stop: Stop) -> Self {
        let progress = io::stderr().is_terminal().then(Progress::new);
        Self { plan, stop, round: 0, ops: 0, errors: 0, problem: None, unseen: Vec::new(), progress }
    }

    /// Does all rounds, or those until the wish to stop; ends early when the server can no longer be reached.
    pub(crate) fn run(mut self, client: &mut Client) -> (Summary, Option<Problem>) {
        let begin = Instant::now();
        while (self.plan.outer == 0 || self.round < self.plan.outer) && !self.stop.asked() {
            if let Err(problem) = self.one_round(client) {
                self.problem.get_or_insert(problem);
                break;
            }
            self.round += 1;
        }
        let seconds = begin.elapsed().as_secs_f64();
        if let Some(progress) = &mut self.progress {
            progress.erase();
        }
        (Summary { ops: self.ops, errors: self.errors, seconds }, self.problem)
    }

    fn one_round(&mut self, client: &mut Client) -> Result<(), Problem> {
        // A wish to stop shortens the insertion; what was inserted is read back and deleted all the same.
        let inserted = self.phase(client, Phase::Insert, self.plan.inner)?;
        self.phase(client, Phase::Bucket, inserted)?;
        self.ask_again(client)?;
        self.phase(client, Phase::Delete, inserted)?;
        Ok(())
    }

    /// Sends one request for each of the first `count` keys of the round and checks all replies; returns how many were sent.
    fn phase(&mut self, client: &mut Client, phase: Phase, count: u64) -> Result<u64, Problem> {
        let window = self.plan.window.min(self.plan.inner).max(1);
        let mut pipeline = client.pipeline(window as usize);
        let source = Source::of_round(&self.plan, self.round);
        let mut value = vec![0; if phase == Phase::Insert { self.plan.value_size } else { 0 }];
        let mut sent = 0;
        let mut replies = 0;
        let outcome = loop {
            if sent == count || (phase == Phase::Insert && self.stop.asked()) {
                break pipeline.finish(&mut |completion| self.check(&source, phase, &mut replies, completion));
            }
            let key = source.key(sent);
            let operation = match phase {
                Phase::Insert => {
                    source.fill_value(sent, &mut value);
                    Operation::insert(&key, &value)
                }
                Phase::Bucket => Operation::Bucket { key: &key },
                Phase::Delete => Operation::Delete { key: &key, condition: Condition::Always },
            };
            sent += 1;
            if let Err(error) =
                pipeline.submit(&operation, &mut |completion| self.check(&source, phase, &mut replies, completion))
            {
                break Err(error);
            }
            if sent.is_multiple_of(PROGRESS_STEP)
                && let Some(progress) = &mut self.progress
            {
                progress.show(self.round, self.ops, self.errors);
            }
        };
        match outcome {
            Ok(()) => Ok(sent),
            Err(error) => {
                self.errors += sent - replies;
                Err(Problem::Failed { place: self.place(phase, replies), error })
            }
        }
    }

    /// Checks the next reply of a phase: they come in the order of the requests.
    fn check(&mut self, source: &Source, phase: Phase, replies: &mut u64, completion: Completion<'_>) {
        let index = *replies;
        *replies += 1;
        self.ops += 1;
        let right = match (phase, completion.outcome) {
            (Phase::Bucket, Outcome::Failed(Error::Overtaken)) => return self.unseen.push(index),
            (_, Outcome::Failed(error)) => return self.failed(phase, index, error),
            (Phase::Insert, Outcome::Stored { replaced: false, .. }) | (Phase::Delete, Outcome::Deleted { .. }) => true,
            (Phase::Bucket, Outcome::Items { mut items, whole, .. }) => {
                let key = source.key(index);
                let mut found = false;
                let walked = items.for_each(|there, value| {
                    found = there == key && source.value_is(index, self.plan.value_size, value);
                    // A key is in its bucket once: what follows cannot change the verdict.
                    there != key
                });
                match walked {
                    _ if found => true,
                    Ok(()) if whole => false,
                    Ok(()) | Err(Error::Overtaken) => return self.unseen.push(index),
                    Err(error) => return self.failed(phase, index, error),
                }
            }
            _ => false,
        };
        if !right {
            self.wrong(phase, index);
        }
    }

    /// Reads the buckets again whose listing had no room for all items, or whose other items changed under it.
    fn ask_again(&mut self, client: &mut Client) -> Result<(), Problem> {
        let source = Source::of_round(&self.plan, self.round);
        for index in std::mem::take(&mut self.unseen) {
            let key = source.key(index);
            let bucket = client.bucket(&key).map_err(|error| {
                self.errors += 1;
                Problem::Failed { place: self.place(Phase::Bucket, index), error }
            })?;
            let is_it = |item: &Item| item.key == key && source.value_is(index, self.plan.value_size, &item.value);
            if !bucket.items.iter().any(is_it) {
                self.wrong(Phase::Bucket, index);
            }
        }
        Ok(())
    }

    #[cold]
    fn failed(&mut self, phase: Phase, index: u64, error: Error) {
        self.errors += 1;
        if self.problem.is_none() {
            self.problem = Some(Problem::Failed { place: self.place(phase, index), error });
        }
    }

    #[cold]
    fn wrong(&mut self, phase: Phase, index: u64) {
        self.errors += 1;
        if self.problem.is_none() {
            let expected = match phase {
                Phase::Insert => "the reply is not that of a new key against expected `inserted`",
                Phase::Bucket => "key and value are not in the bucket of the key",
                Phase::Delete => "the reply is not that of a key that was there against expected `deleted`",
            };
            self.problem = Some(Problem::Wrong(format!("{}: {expected}", self.place(phase, index))));
        }
    }

    fn place(&self, phase: Phase, index: u64) -> String {
        let phase = match phase {
            Phase::Insert => "insert",
            Phase::Bucket => "bucket",
            Phase::Delete => "delete",
        };
        format!("{phase} of key {} in round {}", index + 1, self.round + 1)
    }
}

/// The keys and values of a round.
#[derive(Clone, Copy, Debug)]
struct Source {
    base: u64,
}

impl Source {
    fn of_round(plan: &Plan, round: u64) -> Self {
        // Seeds are mixed so that runs with seeds 1 and 2 do not walk over the same counters.
        Self { base: mix(plan.seed).wrapping_add(plan.inner.wrapping_mul(round).wrapping_mul(2)) }
    }

    /// The key of an index.
    #[inline]
    fn key(&self, index: u64) -> [u8; KEY_LEN] {
        let counter = self.base.wrapping_add(index.wrapping_mul(2));
        let mut key = [0; KEY_LEN];
        key[..8].copy_from_slice(&mix(counter).to_le_bytes());
        key[8..].copy_from_slice(&mix(counter.wrapping_add(1)).to_le_bytes());
        key
    }

    /// The words of an index's value, without end.
    #[inline]
    fn words(&self, index: u64) -> impl Iterator<Item = [u8; 8]> + use<> {
        let start = mix(!self.base.wrapping_add(index.wrapping_mul(2)));
        (0_u64..).map(move |word| mix(start.wrapping_add(word)).to_le_bytes())
    }

    /// Writes the value of an index over all of `value`.
    #[inline]
    fn fill_value(&self, index: u64, value: &mut [u8]) {
        for (part, word) in value.chunks_mut(8).zip(self.words(index)) {
            part.copy_from_slice(&word[..part.len()]);
        }
    }

    /// Whether `value` is the value of an index.
    #[inline]
    fn value_is(&self, index: u64, size: usize, value: &[u8]) -> bool {
        value.len() == size && value.chunks(8).zip(self.words(index)).all(|(part, word)| part == &word[..part.len()])
    }
}

/// SplitMix64's step and output function on a counter: a bijection of 64 bits.
#[inline]
fn mix(counter: u64) -> u64 {
    let z = counter.wrapping_mul(GAMMA);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A line on a terminal's stderr, redrawn once a second from the second second on.
struct Progress {
    last: Instant,
    shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self { last: Instant::now(), shown: false }
    }

    fn show(&mut self, round: u64, ops: u64, errors: u64) {
        if self.last.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        // Progress that cannot be shown is no failure.
        let _ = write!(io::stderr(), "\r\x1b[Kround {} ops={ops} errors={errors}", round + 1);
    }

    fn erase(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan { outer: 3, inner: 1000, window: 10, value_size: 8, seed }
    }

    #[test]
    fn keys_are_fresh_within_a_run_and_the_same_for_the_same_seed() {
        let mut seen = HashSet::new();
        for seed in [0, 1, 2] {
            for round in 0..3 {
                let source = Source::of_round(&plan(seed), round);
                assert!((0..1000).all(|index| seen.insert(source.key(index))), "seed {seed} round {round}");
            }
        }
        assert_eq!(Source::of_round(&plan(7), 2).key(5), Source::of_round(&plan(7), 2).key(5));
    }

    #[test]
    fn a_value_is_recognised_and_any_other_is_not() {
        let source = Source::of_round(&plan(1), 0);
        for size in [0, 1, 8, 13, 1024] {
            let mut value = vec![0; size];
            source.fill_value(3, &mut value);
            assert!(source.value_is(3, size, &value));
            assert!(!source.value_is(3, size + 1, &value), "a value that is too short");
            if size > 0 {
                assert!(!source.value_is(4, size, &value), "the value of another key");
                value[size - 1] ^= 1;
                assert!(!source.value_is(3, size, &value), "a flipped bit");
            }
        }
    }

    #[test]
    fn the_mixer_is_the_published_one() {
        // The first outputs of SplitMix64 from state 0, which the generator advances before it mixes.
        assert_eq!(mix(1), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(2), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn the_last_line_has_the_documented_form() {
        let summary = Summary { ops: 3000, errors: 0, seconds: 0.0012 };
        assert_eq!(summary.to_string(), "ops=3000 errors=0 seconds=0.001200 ops_per_second=2500000");
        assert_eq!(Summary { ops: 0, errors: 0, seconds: 0.0 }.ops_per_second(), 0);
    }
}
