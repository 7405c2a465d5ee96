//! The broadcast response ring of a shard: which lanes have been answered, and up to where.
//!
//! One writer (the worker that holds the shard's serving word), any number of readers, none of which the writer ever waits
//! for. A descriptor is two words: its own position plus one, and `{client tag 16, lane complete up to 48}`. After a pass the
//! writer stores one descriptor per client served, then the tail once; the low half of the tail is the futex word on which the
//! shard's clients sleep.
//!
//! A reader that falls behind by more than the ring has cells is *lapped*. It loses nothing: descriptors only announce, the
//! replies rest in its lane, so it jumps to the tail and looks there. (The fragment-metadata cache of Firedancer's tango and the
//! broadcast buffer of Aeron work alike.)
//!
//! Invariants:
//! - B1: `tail` only rises, and every descriptor before it was complete when it was stored.
//! - B2: a descriptor whose first word is not its position + 1 before and after the copy is not used.

use crate::sync::{AtomicU64, Ordering, fence};

/// Lane positions travel in 48 bits.
const POSITION_MASK: u64 = (1 << 48) - 1;

/// What a reader finds when it follows the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Heard {
    /// The reader's lane is answered up to this position (the low 48 bits of it).
    Complete(u64),
    /// Nothing about this reader.
    Nothing,
    /// The reader was lapped, or read beside a writer: look at the lane.
    Lapped,
}

/// A view of one shard's reply ring.
#[derive(Clone, Copy, Debug)]
pub struct ReplyRing<'a> {
    tail: &'a AtomicU64,
    cells: &'a [AtomicU64],
}

impl<'a> ReplyRing<'a> {
    /// A view over the tail and the cells, two words per descriptor, a power of two of descriptors.
    pub fn new(tail: &'a AtomicU64, cells: &'a [AtomicU64]) -> Self {
        debug_assert!(cells.len().is_power_of_two() && cells.len() >= 2);
        Self { tail, cells }
    }

    fn descriptor(&self, position: u64) -> (&'a AtomicU64, &'a AtomicU64) {
        let index = (position & (self.cells.len() as u64 / 2 - 1)) as usize * 2;
        (&self.cells[index], &self.cells[index + 1])
    }

    /// Writes the descriptor of `position`; it is announced by [`ReplyRing::publish`].
    #[inline]
    pub fn write(&self, position: u64, client: u16, complete: u64) {
        let (sequence, payload) = self.descriptor(position);
        sequence.store(0, Ordering::Relaxed);
        // ORDER(sequence): Release fence between the invalidation and the payload, for readers that pair it with their Acquire
        // fence: who saw any of the new payload sees the old sequence gone.
        fence(Ordering::Release);
        payload.store(u64::from(client) << 48 | (complete & POSITION_MASK), Ordering::Relaxed);
        // ORDER(sequence): Release, pairs with the fence in `follow`.
        sequence.store(position + 1, Ordering::Release);
    }

    /// Makes all descriptors before `tail` known.
    #[inline]
    pub fn publish(&self, tail: u64) {
        // ORDER(tail): Release, pairs with the fence in `tail`.
        self.tail.store(tail, Ordering::Release);
    }

    /// Position after the last descriptor.
    #[inline]
    pub fn tail(&self) -> u64 {
        let tail = self.tail.load(Ordering::Relaxed);
        // ORDER(tail): pairs with `publish`; a fence, because clients map this read-only, where an acquiring load is not defined.
        fence(Ordering::Acquire);
        tail
    }

    /// The futex word's memory.
    pub fn tail_word(&self) -> &'a AtomicU64 {
        self.tail
    }

    /// Follows the ring from `cursor` up to the tail, which becomes the new cursor, and tells the last thing said about `client`.
    pub fn follow(&self, cursor: &mut u64, client: u16) -> Heard {
        let tail = self.tail();
        let behind = tail.wrapping_sub(*cursor) as i64;
        let from = *cursor;
        *cursor = tail;
        if behind == 0 {
            return Heard::Nothing;
        }
        if behind < 0 || behind > self.cells.len() as i64 / 2 {
            return Heard::Lapped;
        }
        let mut heard = Heard::Nothing;
        for position in from..tail {
            let (sequence, payload) = self.descriptor(position);
            if sequence.load(Ordering::Relaxed) != position + 1 {
                return Heard::Lapped;
            }
            // ORDER(sequence): pairs with the Release in `write`; a fence as in `tail`.
            fence(Ordering::Acquire);
            let raw = payload.load(Ordering::Relaxed);
            // ORDER(sequence): Acquire fence, pairs with the Release fence in `write`.
            fence(Ordering::Acquire);
            if sequence.load(Ordering::Relaxed) != position + 1 {
                return Heard::Lapped;
            }
            if (raw >> 48) as u16 == client {
                heard = Heard::Complete(raw & POSITION_MASK);
            }
        }
        heard
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn memory(descriptors: usize) -> (AtomicU64, Vec<AtomicU64>) {
        (AtomicU64::new(0), (0..descriptors * 2).map(|_| AtomicU64::new(0)).collect())
    }

    #[test]
    fn a_reader_hears_the_last_word_about_itself() {
        let (tail, cells) = memory(8);
        let ring = ReplyRing::new(&tail, &cells);
        let mut cursor = ring.tail();
        assert_eq!(ring.follow(&mut cursor, 3), Heard::Nothing);
        ring.write(0, 3, 10);
        ring.write(1, 4, 99);
        ring.write(2, 3, 12);
        assert_eq!(ring.follow(&mut cursor, 3), Heard::Nothing, "nothing is said before the tail");
        ring.publish(3);
        assert_eq!(ring.follow(&mut cursor, 3), Heard::Complete(12));
        assert_eq!(ring.follow(&mut cursor, 3), Heard::Nothing);
    }

    #[test]
    fn a_slow_reader_learns_that_it_was_lapped() {
        let (tail, cells) = memory(4);
        let ring = ReplyRing::new(&tail, &cells);
        let mut cursor = 0;
        for position in 0..5 {
            ring.write(position, 1, position);
            ring.publish(position + 1);
        }
        assert_eq!(ring.follow(&mut cursor, 1), Heard::Lapped);
        assert_eq!(cursor, 5);
        ring.write(5, 1, 6);
        ring.publish(6);
        assert_eq!(ring.follow(&mut cursor, 1), Heard::Complete(6));
    }

    #[test]
    fn a_descriptor_under_the_pen_is_not_used() {
        let (tail, cells) = memory(4);
        let ring = ReplyRing::new(&tail, &cells);
        ring.write(0, 1, 1);
        ring.publish(1);
        cells[0].store(0, Ordering::Relaxed);
        let mut cursor = 0;
        assert_eq!(ring.follow(&mut cursor, 1), Heard::Lapped);
    }

    #[test]
    fn a_tail_that_went_back_is_a_lap() {
        let (tail, cells) = memory(4);
        let ring = ReplyRing::new(&tail, &cells);
        let mut cursor = 9;
        assert_eq!(ring.follow(&mut cursor, 1), Heard::Lapped);
        assert_eq!(cursor, 0);
    }
}
