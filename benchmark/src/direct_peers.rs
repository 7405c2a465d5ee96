//! The peers of `bench-direct`: maps of this process, read by this thread, written by another one where a writer is asked for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::chain::{Chained, Link, Overlapped};
use crate::direct_load::{Order, range};
use crate::peers::{BATCH, DashMap, Handle, Papaya, Peer, RwLocked, Scc};
use crate::{Error, cpus};

/// A peer that holds the benchmark's keys.
pub trait Filled {
    /// Name, as its figures begin.
    fn name(&self) -> &'static str;

    /// Reads, with a writer on the given CPU meanwhile, for `part` one by one and for as long in a loop that overlaps.
    fn measure(&self, order: &mut Order, part: Duration, writer: Option<usize>) -> Result<Measured, Error>;
}

/// What a peer took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Nanoseconds per get that waits for the one before.
    pub ns: f64,
    /// Nanoseconds per get of a loop of independent ones.
    pub overlapped_ns: f64,
    /// Writes per second meanwhile.
    pub writes_per_second: f64,
}

/// All peers, filled and read back.
pub fn all(keys: u32) -> Result<Vec<Box<dyn Filled>>, Error> {
    Ok(vec![filled::<DashMap>(keys)?, filled::<Papaya>(keys)?, filled::<Scc>(keys)?, filled::<RwLocked>(keys)?])
}

struct PeerMap<P> {
    map: P,
    keys: u32,
}

fn filled<P: Peer + 'static>(keys: u32) -> Result<Box<dyn Filled>, Error> {
    let (map, range) = (P::with_capacity(keys as usize), range());
    let mut handle = map.handle();
    for index in 0..keys {
        if !handle.insert(&range.key(index), range.word(index, 0)) {
            return Error::failed(format!("filling {}: key {index} was there already", P::NAME));
        }
        if (index as usize).is_multiple_of(BATCH) {
            handle.rest();
        }
    }
    if let Some(wrong) = (0..keys).find(|&index| handle.get(&range.key(index)) != Some(range.word(index, 0))) {
        return Error::failed(format!("filling {}: key {wrong} has another value than was written", P::NAME));
    }
    drop(handle);
    Ok(Box::new(PeerMap { map, keys }))
}

impl<P: Peer> Filled for PeerMap<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn measure(&self, order: &mut Order, part: Duration, writer: Option<usize>) -> Result<Measured, Error> {
        let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (stop, writes) = (&stop, &writes);
            if let Some(cpu) = writer {
                scope.spawn(move || self.write(cpu, stop, writes));
            }
            // The writer is at work before the reader's time begins.
            while writer.is_some() && writes.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let (begin, before) = (Instant::now(), writes.load(Ordering::Relaxed));
            let chained = self.read(order, Chained::new(), part);
            let overlapped = self.read(order, Overlapped, part);
            let done = writes.load(Ordering::Relaxed) - before;
            let writes_per_second = done as f64 / begin.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            Ok(Measured { ns: chained?, overlapped_ns: overlapped?, writes_per_second })
        })
    }
}

impl<P: Peer> PeerMap<P> {
    fn read(&self, order: &mut Order, link: impl Link, part: Duration) -> Result<f64, Error> {
        let (range, mut handle, mut since) = (range(), self.map.handle(), 0);
        order.time(part, link, |order, link, index| {
            let deviation = order.check(index, handle.get(&link.key(range.key(index))));
            since += 1;
            if since == BATCH {
                since = 0;
                handle.rest();
            }
            Ok(deviation)
        })
    }

    fn write(&self, cpu: usize, stop: &AtomicBool, writes: &AtomicU64) {
        // Where it cannot be bound, the scheduler finds it the other CPU.
        let _ = cpus::pin(cpu);
        let (range, mut handle) = (range(), self.map.handle());
        let (mut order, mut stamp) = (Order::new(self.keys, 8, true, 77), 0);
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BATCH {
                let index = order.next_index();
                stamp += 1;
                handle.update(&range.key(index), range.word(index, stamp));
            }
            writes.fetch_add(BATCH as u64, Ordering::Relaxed);
            handle.rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_is_read_rightly_with_and_without_a_writer() {
        for peer in all(1000).unwrap() {
            let mut order = Order::new(1000, 8, false, 5);
            let found = peer.measure(&mut order, Duration::from_millis(2), None).unwrap();
            assert!(found.ns > 0.0 && found.overlapped_ns > 0.0 && order.errors == 0, "{}: {found:?}", peer.name());
            assert_eq!(found.writes_per_second, 0.0, "{}", peer.name());
            let mut order = Order::new(1000, 8, true, 5);
            // The writer has written before the reading begins; whether it gets a CPU meanwhile is the machine's affair.
            peer.measure(&mut order, Duration::from_millis(2), Some(0)).unwrap();
            assert_eq!(order.errors, 0, "{}", peer.name());
        }
    }
}
