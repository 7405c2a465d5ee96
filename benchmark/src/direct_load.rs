//! What the processes of `bench-direct` do: reading keys in random order, directly, and writing them over the ring.
//!
//! All keys belong to owner 0 of [`crate::keys`]. Every value tells its key, and without a writer also the one write that made
//! it, so that each answer is checked while time runs.

use std::time::{Duration, Instant};

use shmtable::{Client, Completion, Condition, Handle, Operation, Outcome, Reread, Ttl};

use crate::board::{Board, Phase};
use crate::chain::{Chained, Link};
use crate::client_process::Task;
use crate::keys::{self, KeyRange};
use crate::{Error, Wait, cpus, load};

/// Keys that are read side by side.
pub const BATCH: usize = 16;
/// Operations between two looks at the clock.
const STRETCH: usize = 2048;
/// Requests of the writer under way.
const WINDOW: usize = 128;

/// All keys of the benchmark.
pub fn range() -> KeyRange {
    KeyRange::new(0)
}

/// Keys in random order, and what their values must be.
#[derive(Clone, Debug)]
pub struct Order {
    range: KeyRange,
    keys: u32,
    state: u64,
    /// Values change while they are read.
    written: bool,
    value_len: usize,
    /// Answers that were wrong.
    pub errors: u64,
}

impl Order {
    /// An order of `keys` keys whose values have so many bytes.
    pub fn new(keys: u32, value_len: usize, written: bool, seed: u64) -> Self {
        Self { range: range(), keys, state: seed.wrapping_mul(2).wrapping_add(1), written, value_len, errors: 0 }
    }

    /// The next key's number: equally likely, each for itself.
    #[inline]
    pub fn next_index(&mut self) -> u32 {
        // A multiplicative generator modulo 2^64 with the multiplier of P. L'Ecuyer, 1999; its high bits are good enough to choose keys.
        self.state = self.state.wrapping_mul(3_935_559_000_370_003_845);
        (((self.state >> 32) * u64::from(self.keys)) >> 32) as u32
    }

    /// Checks the word that a key's value was found to hold; how far it is from what it must be.
    #[inline]
    pub fn check(&mut self, index: u32, word: Option<u64>) -> u64 {
        let deviation = match word {
            Some(word) if self.written => self.range.number_of(word) ^ u64::from(index),
            Some(word) => word ^ self.range.word(index, 0),
            None => !0,
        };
        self.errors += u64::from(deviation != 0);
        deviation
    }

    /// The same for a value's bytes, of which the first and the last word are looked at.
    #[inline]
    fn check_bytes(&mut self, index: u32, bytes: &[u8]) -> u64 {
        let first = bytes.first_chunk().map(|word| u64::from_le_bytes(*word));
        self.check(index, first.filter(|_| bytes.len() == self.value_len && bytes.first_chunk::<8>() == bytes.last_chunk()))
    }

    /// Makes operations on random keys until `part` has passed; nanoseconds per operation. Each passes its key through the link
    /// and tells how far its answer was from the right one.
    pub fn time<L: Link>(
        &mut self,
        part: Duration,
        mut link: L,
        mut each: impl FnMut(&mut Self, &L, u32) -> Result<u64, Error>,
    ) -> Result<f64, Error> {
        let (begin, mut done) = (Instant::now(), 0);
        loop {
            for _ in 0..STRETCH {
                let index = self.next_index();
                let deviation = each(self, &link, index)?;
                link.follow(deviation);
            }
            done += STRETCH;
            let elapsed = begin.elapsed();
            if elapsed >= part {
                return Ok(elapsed.as_nanos() as f64 / done as f64);
            }
        }
    }

    /// Single direct reads.
    pub fn direct(&mut self, client: &mut Client, link: impl Link, part: Duration) -> Result<f64, Error> {
        let mut value = vec![0; self.value_len];
        self.time(part, link, |order, link, index| {
            let key = link.key(order.range.key(index));
            let found = client.get_direct_into(&key, &mut value).map_err(Error::table("reading directly"))?;
            let len = found.map_or(0, |found| found.len.min(value.len()));
            Ok(order.check_bytes(index, &value[..len]))
        })
    }

    /// Direct reads in batches; nanoseconds per key.
    pub fn batches(&mut self, client: &mut Client, part: Duration) -> Result<f64, Error> {
        let (mut indexes, mut batch) = ([0; BATCH], [[0; keys::KEY_LEN]; BATCH]);
        let (begin, mut done) = (Instant::now(), 0);
        loop {
            for _ in 0..STRETCH / BATCH {
                for (index, key) in indexes.iter_mut().zip(&mut batch) {
                    *index = self.next_index();
                    *key = self.range.key(*index);
                }
                let visit = |number: usize, value: Option<(u64, &[u8])>| {
                    self.check_bytes(indexes[number], value.map_or(&[], |(_, bytes)| bytes));
                };
                client.get_many_direct_with(&batch, visit).map_err(Error::table("reading many directly"))?;
            }
            done += STRETCH;
            let elapsed = begin.elapsed();
            if elapsed >= part {
                return Ok(elapsed.as_nanos() as f64 / done as f64);
            }
        }
    }

    /// Reads through the server, one at a time: a call ends when its answer is there.
    pub fn ring(&mut self, client: &mut Client, part: Duration) -> Result<f64, Error> {
        let mut value = Vec::with_capacity(self.value_len);
        self.time(part, Chained::new(), |order, link, index| {
            client.read_into(&link.key(order.range.key(index)), &mut value).map_err(Error::table("reading"))?;
            Ok(order.check_bytes(index, &value))
        })
    }

    /// Rereads through handles, made for the first keys; what changed is checked.
    pub fn handles(
        &mut self,
        client: &mut Client,
        handles: &mut [Handle],
        link: impl Link,
        part: Duration,
    ) -> Result<f64, Error> {
        let mut value = Vec::with_capacity(self.value_len);
        let many = handles.len();
        self.of_first(many, |few| {
            few.time(part, link, |order, link, index| {
                // A handle holds its key, so that the choice of the handle has to wait for the answer before.
                let handle = &mut handles[link.pass(index.into()) as usize];
                Ok(match client.reread(handle, &mut value).map_err(Error::table("reading again"))? {
                    Reread::Unchanged => 0,
                    Reread::Changed { .. } => order.check_bytes(index, &value),
                    Reread::Gone => order.check(index, None),
                })
            })
        })
    }

    /// The same keys as [`Order::handles`] reads, by single direct reads.
    pub fn direct_of_first(&mut self, client: &mut Client, keys: usize, link: impl Link, part: Duration) -> Result<f64, Error> {
        self.of_first(keys, |few| few.direct(client, link, part))
    }

    /// Does `work` with an order of the first keys only.
    fn of_first<R>(&mut self, keys: usize, work: impl FnOnce(&mut Self) -> R) -> R {
        let mut few = Self { keys: keys as u32, ..self.clone() };
        let done = work(&mut few);
        (self.state, self.errors) = (few.state, few.errors);
        done
    }
}

/// Writes every key once, and reads each back.
pub fn fill(client: &mut Client, keys: u32, value_len: usize) -> Result<(), Error> {
    let (range, mut value) = (range(), vec![0; value_len]);
    let mut stored = 0u64;
    let mut pipeline = client.pipeline(WINDOW);
    for index in 0..keys {
        keys::fill(&mut value, range.word(index, 0));
        let operation = Operation::Insert { key: &range.key(index), value: &value, condition: Condition::Always, ttl: Ttl::None };
        let mut count = |completion: Completion<'_>| {
            stored += u64::from(matches!(completion.outcome, Outcome::Stored { replaced: false, .. }));
        };
        pipeline.submit(&operation, &mut count).map_err(Error::table("writing the first keys"))?;
    }
    let mut count = |completion: Completion<'_>| {
        stored += u64::from(matches!(completion.outcome, Outcome::Stored { replaced: false, .. }));
    };
    pipeline.finish(&mut count).map_err(Error::table("writing the first keys"))?;
    drop(pipeline);
    if stored != u64::from(keys) {
        return Error::failed(format!(
            "writing the first keys: found {stored} stored against {keys}; give the server more --memory"
        ));
    }
    let mut found = Vec::with_capacity(value_len);
    for index in 0..keys {
        let item = client.get_direct_vec(&range.key(index), &mut found).map_err(Error::table("reading the first keys back"))?;
        if item.is_none() || !keys::holds(&found, range.word(index, 0), value_len) {
            return Error::failed(format!(
                "reading the first keys back: key {index} has {} bytes that are not its own",
                found.len()
            ));
        }
    }
    Ok(())
}

/// A process that reads directly.
pub(crate) fn read(task: &Task, name: &str, cpu: usize, board: &Board) -> Result<(), Error> {
    cpus::pin(cpu)?;
    let mut client = Client::attach(&load::options(name, Wait::Adaptive)).map_err(Error::table("attaching a reader"))?;
    let slot = &board.slots()[task.index as usize];
    // A writer may be at work, or have been.
    let mut order = Order::new(task.keys, task.value_len, true, task.seed);
    let mut value = vec![0; task.value_len];
    while board.rest(task.index) {
        while board.phase() == Phase::Run {
            for _ in 0..STRETCH {
                let index = order.next_index();
                let found =
                    client.get_direct_into(&order.range.key(index), &mut value).map_err(Error::table("reading directly"))?;
                let len = found.map_or(0, |found| found.len.min(value.len()));
                order.check_bytes(index, &value[..len]);
            }
            slot.count(slot.ops() + STRETCH as u64, order.errors);
        }
    }
    Ok(())
}

/// A process that updates random keys over the ring, as many at a time as its window holds.
pub(crate) fn write(task: &Task, name: &str, cpu: usize, board: &Board) -> Result<(), Error> {
    cpus::pin(cpu)?;
    let mut client = Client::attach(&load::options(name, Wait::Adaptive)).map_err(Error::table("attaching the writer"))?;
    let slot = &board.slots()[task.index as usize];
    let mut order = Order::new(task.keys, task.value_len, true, task.seed);
    let (mut value, mut stamp, mut wrong) = (vec![0; task.value_len], 0, 0);
    while board.rest(task.index) {
        let mut pipeline = client.pipeline(WINDOW);
        let mut check = |completion: Completion<'_>| {
            wrong += u64::from(!matches!(completion.outcome, Outcome::Stored { replaced: true, .. }));
        };
        while board.phase() == Phase::Run {
            for _ in 0..STRETCH {
                let index = order.next_index();
                stamp += 1;
                keys::fill(&mut value, order.range.word(index, stamp));
                let operation = Operation::Insert {
                    key: &order.range.key(index),
                    value: &value,
                    condition: Condition::Always,
                    ttl: Ttl::None,
                };
                pipeline.submit(&operation, &mut check).map_err(Error::table("writing"))?;
            }
            slot.count(slot.ops() + STRETCH as u64, 0);
        }
        pipeline.finish(&mut check).map_err(Error::table("writing"))?;
        drop(pipeline);
        slot.count(slot.ops(), wrong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_words_are_counted() {
        let (range, mut order) = (range(), Order::new(100, 8, false, 1));
        order.check(5, Some(range.word(5, 0)));
        assert_eq!(order.errors, 0);
        for (index, word) in [(5, Some(range.word(6, 0))), (5, Some(range.word(5, 1))), (5, None)] {
            order.check(index, word);
        }
        order.check_bytes(5, &range.word(5, 0).to_le_bytes()[..7]);
        assert_eq!(order.errors, 4);
        let mut written = Order::new(100, 8, true, 1);
        written.check(5, Some(range.word(5, 77)));
        assert_eq!(written.errors, 0);
        written.check(5, Some(range.word(6, 77)));
        assert_eq!(written.errors, 1);
    }

    #[test]
    fn every_key_comes_up() {
        let mut order = Order::new(64, 8, false, 3);
        let mut seen = [0; 64];
        for _ in 0..6400 {
            seen[order.next_index() as usize] += 1;
        }
        assert!(seen.iter().all(|times| (40..200).contains(times)), "{seen:?}");
    }
}
