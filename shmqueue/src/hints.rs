//! Hints: what a client reads without asking the server, so that the server knows what is in use.
//!
//! ```text
//! client   word[tail % N] = hash; tail + 1 (Release)   ──▶   server, once per pass   tail (Acquire); the newest words since its cursor
//! ```
//!
//! The ring rests in the head of the client's own request lane. Nobody waits for it and nothing depends on it:
//! - T1: a hint is a number. Words that were overwritten, scribbled or read too early are other numbers; the server bounds how
//!   many it takes by the ring's length and trusts none.
//! - T2: the client overwrites what the server has not taken; a server that was asleep finds the latest.
//! - T3: the client makes no system call and no read-modify-write, and writes a hash seldom again: it remembers which it left
//!   lately.
//!
//! Progress: wait-free on both sides. CRASH: a client that dies between word and tail has left one hint less.

use crate::layout::{HINTS, HintRing, RequestLaneHead};
use crate::sync::Ordering;

/// Hashes that a client remembers to have left. A power of two.
const REMEMBERED: usize = 512;
/// After so many reads it forgets them, so that what stays in use is said again.
const FORGET_AFTER: u32 = 2048;

/// The client's end.
#[derive(Debug, Default)]
pub(crate) struct HintWriter {
    tail: u64,
    /// Upper halves of hashes, by lower bits; empty until the first hint.
    remembered: Vec<u32>,
    until_forgotten: u32,
}

impl HintWriter {
    /// Goes on where the slot's last client stopped, whose hints the server may not have taken.
    pub(crate) fn new(head: &RequestLaneHead) -> Self {
        Self { tail: head.hints.tail.load(Ordering::Relaxed), remembered: Vec::new(), until_forgotten: 0 }
    }

    /// Leaves a hash, unless it was left lately.
    #[inline]
    pub(crate) fn write(&mut self, ring: &HintRing, hash: u64) {
        if self.until_forgotten == 0 {
            self.forget();
        }
        self.until_forgotten -= 1;
        let (place, upper) = (hash as usize % REMEMBERED, (hash >> 32) as u32);
        if self.remembered[place] == upper {
            return;
        }
        self.remembered[place] = upper;
        ring.words[self.tail as usize % HINTS].store(hash, Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
        // ORDER(tail): Release pairs with the Acquire in `take`: the word is there before it counts.
        ring.tail.store(self.tail, Ordering::Release);
    }

    #[cold]
    fn forget(&mut self) {
        self.remembered.clear();
        self.remembered.resize(REMEMBERED, 0);
        self.until_forgotten = FORGET_AFTER;
    }
}

/// Takes what a client left since `cursor`, at most a ring full of the newest; how many.
pub(crate) fn take(ring: &HintRing, cursor: &mut u64, out: &mut [u64; HINTS]) -> usize {
    // ORDER(tail): Acquire pairs with the Release in `HintWriter::write`.
    let tail = ring.tail.load(Ordering::Acquire);
    // Whatever the client writes there, no more than the ring is taken (T1).
    let fresh = tail.wrapping_sub(*cursor).min(HINTS as u64);
    *cursor = tail;
    let first = tail.wrapping_sub(fresh);
    for (at, hash) in out.iter_mut().take(fresh as usize).enumerate() {
        *hash = ring.words[first.wrapping_add(at as u64) as usize % HINTS].load(Ordering::Relaxed);
    }
    fresh as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;

    fn ring() -> HintRing {
        HintRing { tail: AtomicU64::new(0), _pad: [0; 15], words: [const { AtomicU64::new(0) }; HINTS] }
    }

    fn hash(n: u64) -> u64 {
        n << 32 | n
    }

    #[test]
    fn hints_arrive_in_order_and_once() {
        let (ring, mut writer, mut cursor, mut out) = (ring(), HintWriter::default(), 0, [0; HINTS]);
        assert_eq!(take(&ring, &mut cursor, &mut out), 0);
        (1..=10).for_each(|n| writer.write(&ring, hash(n)));
        assert_eq!(take(&ring, &mut cursor, &mut out), 10);
        assert_eq!(out[..10], std::array::from_fn::<u64, 10, _>(|n| hash(n as u64 + 1)));
        assert_eq!(take(&ring, &mut cursor, &mut out), 0);
    }

    #[test]
    fn a_server_that_slept_finds_the_latest() {
        let (ring, mut writer, mut cursor, mut out) = (ring(), HintWriter::default(), 0, [0; HINTS]);
        (1..=400).for_each(|n| writer.write(&ring, hash(n)));
        assert_eq!(take(&ring, &mut cursor, &mut out), HINTS);
        assert_eq!((out[0], out[HINTS - 1]), (hash(401 - HINTS as u64), hash(400)));
    }

    #[test]
    fn what_was_left_lately_is_left_again_only_after_a_while() {
        let (ring, mut writer, mut cursor, mut out) = (ring(), HintWriter::default(), 0, [0; HINTS]);
        (0..FORGET_AFTER).for_each(|_| writer.write(&ring, hash(7)));
        assert_eq!(take(&ring, &mut cursor, &mut out), 1);
        writer.write(&ring, hash(7));
        assert_eq!((take(&ring, &mut cursor, &mut out), out[0]), (1, hash(7)));
    }

    #[test]
    fn no_tail_makes_the_server_take_more_than_the_ring() {
        let (ring, mut out) = (ring(), [0; HINTS]);
        for (tail, mut cursor) in [(u64::MAX, 0), (0, u64::MAX), (5, 6), (1 << 63, 0), (u64::MAX, u64::MAX - 3)] {
            ring.tail.store(tail, Ordering::Relaxed);
            let taken = take(&ring, &mut cursor, &mut out);
            assert!(taken <= HINTS && cursor == tail, "{taken}");
            assert_eq!(take(&ring, &mut cursor, &mut out), 0);
        }
    }

    #[test]
    fn a_new_client_goes_on_where_the_last_one_stopped() {
        let (ring, mut cursor, mut out) = (ring(), 0, [0; HINTS]);
        let mut writer = HintWriter { tail: u64::MAX, ..HintWriter::default() };
        ring.tail.store(u64::MAX, Ordering::Relaxed);
        take(&ring, &mut cursor, &mut out);
        (1..=3).for_each(|n| writer.write(&ring, hash(n)));
        assert_eq!((take(&ring, &mut cursor, &mut out), &out[..3]), (3, &[hash(1), hash(2), hash(3)][..]));
    }
}
