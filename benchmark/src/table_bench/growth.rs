//! A map made for few keys that receives many from one thread: how long each insert takes while it grows.
//!
//! Every insert is timed by itself; the clock is read before and after, so that its cost is inside and adding to the histogram is
//! not. What the machine adds shows in an idle loop on the same CPU for as long as the inserts took, half before and half after.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::clock::Clock;
use crate::keys::KeyRange;
use crate::latency::Latencies;
use crate::ours::Ours;
use crate::peers::{BATCH, Handle, Map, Peer};
use crate::{Error, cpus, hiccup, spread};

/// What a map is made for.
pub(crate) const SMALL: u64 = 10_000;
/// Bytes of a key with its value.
const ITEM: u64 = 24;
/// A growing map's keys belong to this owner.
const OWNER: u32 = 1_000_000;

/// How long inserts took.
pub(crate) struct Filling {
    /// Each one.
    pub(crate) latencies: Latencies,
    /// All of them, with the clock and the histogram.
    elapsed: Duration,
    /// How often the system took the CPU away.
    pub(crate) preemptions: i64,
    /// Wrong answers, of the inserts and of reading everything back.
    pub(crate) errors: u64,
}

/// What growing found.
pub(crate) struct Growth {
    /// The table made for few keys.
    pub(crate) grown: Filling,
    /// The table made for as many as it gets.
    pub(crate) presized: Filling,
    /// Longest pause of the idle loop in nanoseconds.
    pub(crate) hiccup_max_ns: f64,
    /// Bytes per item beyond keys and values.
    pub(crate) overhead_per_item: f64,
    /// Buckets at the end.
    pub(crate) buckets: u64,
}

/// Grows our table to `keys`, beside one that is made for them.
pub(crate) fn ours(keys: u32, buckets: u64, clock: &Clock) -> Result<Growth, Error> {
    let table = Ours::new(buckets, keys.into())?;
    let presized = alone(|| table.private().while_committing(|| fill(table.handle(), keys, clock)))?;
    drop(table);
    let half = presized.elapsed / 2;
    let before = alone(|| Ok(hiccup::longest_pause_ns(clock, half)))?;
    let table = Ours::new(SMALL, keys.into())?;
    let grown = alone(|| table.private().while_committing(|| fill(table.handle(), keys, clock)))?;
    let half = grown.elapsed / 2;
    let after = alone(|| Ok(hiccup::longest_pause_ns(clock, half)))?;
    let (overhead_per_item, buckets) = (table.overhead_per_item(ITEM), table.private().table().buckets());
    Ok(Growth { grown, presized, hiccup_max_ns: before.max(after), overhead_per_item, buckets })
}

/// Bytes beyond keys and values per item, in a table that grew to so many.
pub(crate) fn overhead_of(keys: u32, clock: &Clock) -> Result<(f64, u64), Error> {
    let table = Ours::new(SMALL, keys.into())?;
    let filling = alone(|| table.private().while_committing(|| fill(table.handle(), keys, clock)))?;
    Ok((table.overhead_per_item(ITEM), filling.errors))
}

/// Grows a peer likewise.
pub(crate) fn peer<P: Peer>(keys: u32, clock: &Clock) -> Result<Filling, Error> {
    let map = P::with_capacity(SMALL as usize);
    alone(|| fill(map.handle(), keys, clock))
}

/// What reading the clock twice costs in nanoseconds.
pub(crate) fn clock_ns(clock: &Clock) -> f64 {
    let mut differences: Vec<f64> = (0..10_001).map(|_| -(clock.now() as f64) + clock.now() as f64).collect();
    clock.ns(1) * spread::median(&mut differences)
}

/// Runs `work` in a thread bound to the last CPU, away from where most systems take their interrupts.
fn alone<R: Send>(work: impl FnOnce() -> Result<R, Error> + Send) -> Result<R, Error> {
    let cpu = cpus::allowed()?.last().copied().unwrap_or(0);
    let pinned = || cpus::pin(cpu).and_then(|()| work());
    let ended = std::thread::scope(|scope| scope.spawn(pinned).join());
    ended.unwrap_or_else(|_| Error::failed("growing a map: its thread panicked; see its message above"))
}

fn preemptions() -> Result<i64, Error> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).map_err(Error::io("reading how often the thread was preempted"))?;
    Ok(usage.involuntary_context_switches())
}

fn fill(mut map: impl Handle, keys: u32, clock: &Clock) -> Result<Filling, Error> {
    let (range, mut latencies, mut errors) = (KeyRange::new(OWNER), Latencies::new()?, 0);
    let (preempted, begin) = (preemptions()?, Instant::now());
    for index in 0..keys {
        let (key, word) = (range.key(index), range.word(index, 0));
        let before = clock.now();
        errors += u64::from(!map.insert(&key, word));
        if index as usize % BATCH == BATCH - 1 {
            map.rest();
        }
        let after = clock.now();
        latencies.record(clock.ns(after.saturating_sub(before)));
    }
    let (elapsed, preemptions) = (begin.elapsed(), preemptions()? - preempted);
    errors += (0..keys).filter(|&index| map.get(&range.key(index)) != Some(range.word(index, 0))).count() as u64;
    Ok(Filling { latencies, elapsed, preemptions, errors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::RwLocked;

    #[test]
    fn growing_times_every_insert_and_finds_all_keys() {
        let clock = Clock::calibrate();
        let growth = ours(30_000, 16_384, &clock).unwrap();
        for filling in [&growth.grown, &growth.presized] {
            assert_eq!((filling.latencies.count(), filling.errors), (30_000, 0));
        }
        // A header of 16 bytes, and not a second table's worth.
        assert!((16.0..1000.0).contains(&growth.overhead_per_item), "{}", growth.overhead_per_item);
        assert!(growth.hiccup_max_ns > 0.0 && growth.buckets >= SMALL);
    }

    #[test]
    fn a_peer_is_timed_likewise() {
        let clock = Clock::calibrate();
        let filling = peer::<RwLocked>(30_000, &clock).unwrap();
        assert_eq!((filling.latencies.count(), filling.errors), (30_000, 0));
        assert!(filling.latencies.max() >= filling.latencies.quantile(0.999));
        assert!(clock_ns(&clock) > 0.0);
    }
}
