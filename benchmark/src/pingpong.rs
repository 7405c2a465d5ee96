//! The floor that every latency is judged by: a cache line's round trip between two cores.
//!
//! Two threads pinned to two CPUs pass a number to and fro through two lines; nothing else happens. The line's round trip
//! drifts with the machine's phase, so whoever compares with it measures it in the same run, rounds interleaved.
//!
//! P1: `ping` is stored by the asking thread alone, `pong` by the answering thread alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, cpus, spread};

/// Round trips between two readings of the clock.
const BATCH: u64 = 64;
/// Tells the answering thread to return.
const END: u64 = u64::MAX;
/// Round trips outside of these bounds, in nanoseconds, mean that the machine is in no state to be measured.
pub const VALID_NS: std::ops::RangeInclusive<f64> = 200.0..=600.0;

/// A counter alone in its lines (two, because of adjacent-line prefetching).
#[repr(align(128))]
struct Line(AtomicU64);

/// Median round trip in nanoseconds, measured for about `duration`. None where only one CPU may be used.
pub fn round_trip_ns(duration: Duration) -> Result<Option<f64>, Error> {
    let cpus = cpus::allowed()?;
    let (Some(&first), Some(&last)) = (cpus.first(), cpus.last()) else {
        return Ok(None);
    };
    if first == last {
        return Ok(None);
    }
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&ping.0, &pong.0, first));
        let asking = scope.spawn(|| ask(&ping.0, &pong.0, last, duration));
        let asked = asking.join().map_err(|_| Error::Failed("ping-pong: the asking thread panicked".into()))?;
        answering.join().map_err(|_| Error::Failed("ping-pong: the answering thread panicked".into()))??;
        let mut batches = asked?;
        Ok(Some(spread::median(&mut batches)))
    })
}

/// Whether a run with this round trip says anything.
pub fn is_void(round_trip_ns: Option<f64>) -> bool {
    round_trip_ns.is_none_or(|ns| !VALID_NS.contains(&ns))
}

fn answer(ping: &AtomicU64, pong: &AtomicU64, cpu: usize) -> Result<(), Error> {
    let pinned = cpus::pin(cpu);
    let mut seen = 0;
    loop {
        // ORDER(ping): Acquire pairs with the asking thread's Release store, as a real request would.
        let asked = ping.load(Ordering::Acquire);
        if asked == END {
            return pinned;
        }
        if asked != seen {
            seen = asked;
            // ORDER(pong): Release pairs with the asking thread's Acquire load.
            pong.store(asked, Ordering::Release);
        }
    }
}

fn ask(ping: &AtomicU64, pong: &AtomicU64, cpu: usize, duration: Duration) -> Result<Vec<f64>, Error> {
    let pinned = cpus::pin(cpu);
    let mut number = 0;
    let mut batches = Vec::with_capacity(1 << 16);
    let begin = Instant::now();
    let mut last = begin;
    // The first batches warm up both cores and are dropped.
    while pinned.is_ok() && (last - begin < duration || batches.len() < 8) {
        for _ in 0..BATCH {
            number += 1;
            // ORDER(ping): Release pairs with the answering thread's Acquire load.
            ping.store(number, Ordering::Release);
            // ORDER(pong): Acquire pairs with the answering thread's Release store.
            while pong.load(Ordering::Acquire) != number {}
        }
        let now = Instant::now();
        batches.push((now - last).as_nanos() as f64 / BATCH as f64);
        last = now;
    }
    // ORDER(ping): Release as above; the answering thread leaves.
    ping.store(END, Ordering::Release);
    pinned?;
    batches.drain(..4);
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_time_where_there_are_two_cpus() {
        let ns = round_trip_ns(Duration::from_millis(5)).unwrap();
        assert_eq!(ns.is_some(), cpus::allowed().unwrap().len() > 1);
        assert!(ns.is_none_or(|ns| ns > 1.0), "{ns:?}");
    }

    #[test]
    fn runs_outside_the_bounds_are_void() {
        assert!(is_void(None));
        assert!(is_void(Some(42.0)));
        assert!(is_void(Some(1700.0)));
        assert!(!is_void(Some(300.0)));
    }
}
