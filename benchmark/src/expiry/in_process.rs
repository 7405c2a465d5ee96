//! Expiry in the table alone: many keys with one deadline, a clock that is set past it, and the steps of the sweep timed.
//!
//! The clock of the writer is a number that we set, so that nothing waits for a deadline and all keys are due in the same moment.

use std::time::Instant;

use server::PrivateTable;
use table::Ahead;

use crate::Error;
use crate::clock::Clock;
use crate::keys::KeyRange;
use crate::latency::Latencies;
use crate::ours::Ours;
use crate::peers::{Handle, Map};

/// The deadline, in milliseconds of the table's clock: far beyond what it says by itself.
const DEADLINE: u64 = 1 << 39;
/// Owner of the keys.
const OWNER: u32 = 2_000_000;
/// Keys that are looked for before and after the deadline.
const SAMPLE: u32 = 1000;

/// What a round found.
pub(crate) struct Sweep {
    /// Nanoseconds per key, from the first step of the sweep to the last.
    pub(crate) ns_per_key: f64,
    /// Keys that were not there before the deadline, or there after it, or not counted as expired.
    pub(crate) errors: u64,
}

/// A table of our own, for round after round.
pub(crate) struct Sweeps {
    table: Ours,
    keys: u32,
    /// Memory that the table had when it was full for the first time.
    used: u64,
}

impl Sweeps {
    /// A table made for so many keys.
    pub(crate) fn new(keys: u32) -> Result<Self, Error> {
        Ok(Self { table: Ours::new((u64::from(keys) / 4).max(1), keys.into())?, keys, used: 0 })
    }

    /// Bytes that the table took beyond those of its first round: what expired did not come back so far.
    pub(crate) fn memory_growth(&self) -> u64 {
        self.memory().saturating_sub(self.used)
    }

    /// Committed bytes, once as much is committed ahead as there is to be.
    fn memory(&self) -> u64 {
        let table = self.table.private().table();
        while table.commit_ahead() {}
        table.stats().memory_used_bytes
    }

    /// Fills the table, lets everything expire and sweeps; adds the time of each step.
    pub(crate) fn round(&mut self, round: u32, clock: &Clock, steps: &mut Latencies) -> Result<Sweep, Error> {
        let (deadline, before) = (DEADLINE + u64::from(round) * 1_000_000, self.expired());
        let mut errors = self.table.private().while_committing(|| self.fill(deadline));
        if self.used == 0 {
            self.used = self.memory();
        }
        let mut map = self.table.handle();
        map.0.set_now(deadline - 1);
        while map.0.work_ahead(PrivateTable::STEP) == Ahead::More {}
        let there = |map: &mut crate::ours::OurHandle<'_>, range: &KeyRange| {
            (0..SAMPLE.min(self.keys)).filter(|&index| map.get(&range.key(index)).is_some()).count() as u64
        };
        let range = KeyRange::new(OWNER);
        errors += u64::from(SAMPLE.min(self.keys)) - there(&mut map, &range);
        errors += self.expired() - before;
        map.0.set_now(deadline);
        errors += there(&mut map, &range);
        let begin = Instant::now();
        loop {
            let before = clock.now();
            let ahead = map.0.work_ahead(PrivateTable::STEP);
            steps.record(clock.ns(clock.now().saturating_sub(before)));
            if ahead != Ahead::More {
                break;
            }
        }
        let ns_per_key = begin.elapsed().as_nanos() as f64 / f64::from(self.keys);
        drop(map);
        errors += (self.expired() - before).abs_diff(self.keys.into()) + self.table.private().table().stats().items;
        Ok(Sweep { ns_per_key, errors })
    }

    fn expired(&self) -> u64 {
        self.table.private().table().stats().expired_total
    }

    fn fill(&self, deadline: u64) -> u64 {
        let (mut map, range) = (self.table.handle(), KeyRange::new(OWNER));
        (0..self.keys).filter(|&index| !map.insert_until(&range.key(index), range.word(index, 0), deadline)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_sweeps_all_keys_and_their_memory_comes_back() {
        let (clock, mut steps) = (Clock::calibrate(), Latencies::new().unwrap());
        let mut sweeps = Sweeps::new(20_000).unwrap();
        for round in 0..3 {
            let swept = sweeps.round(round, &clock, &mut steps).unwrap();
            assert_eq!(swept.errors, 0, "round {round}");
            assert!(swept.ns_per_key > 0.0);
        }
        // Each step sweeps so many buckets at most, and there were three rounds of them.
        assert!(steps.count() >= 3 * 20_000 / 4 / u64::from(PrivateTable::STEP), "{}", steps.count());
        assert!(sweeps.memory_growth() < 1 << 20, "{}", sweeps.memory_growth());
    }

    #[test]
    fn keys_that_another_took_away_are_errors() {
        let (clock, mut steps) = (Clock::calibrate(), Latencies::new().unwrap());
        let mut sweeps = Sweeps::new(2000).unwrap();
        // One key is there already, so that the round cannot add it, and it is one too many at the end.
        let range = KeyRange::new(OWNER);
        assert!(sweeps.table.handle().insert(&range.key(7), 0));
        assert!(sweeps.round(0, &clock, &mut steps).unwrap().errors > 0);
    }
}
