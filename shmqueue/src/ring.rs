//! The MPMC request ring of a shard: which lanes have something to serve.
//!
//! A word is `{lap 32, client 16, generation 16}`. Any number of producers (client processes) claim *and* publish a word by one
//! compare-and-swap on its cell, so there is no moment at which a producer that dies or stops leaves a claim behind; the
//! advisory `tail` is helped along by whoever finds it behind. The consumer is whichever worker holds the shard's serving
//! word. The cell is the bounded queue of Dmitry Vyukov with the sequence number and the payload in one word, which removes
//! its one blocking state (claimed, not yet published).
//!
//! ```text
//! cell of position p:   {lap(p)−1, …}  ──producer CAS──▶  {lap(p), client, generation}  ──(head passes p)──▶  free for p + cells
//! ```
//!
//! Invariants:
//! - Q1: a cell's lap only ever rises, by one per use, by the CAS of a producer or of [`RequestRing::repair`].
//! - Q2: a producer overwrites the word of position `p − cells` only after it saw `head > p − cells`.
//! - Q3: `head` is the consumer's private number; the region holds a published copy that producers only read.
//!
//! Everything that producers can write is untrusted: the consumer copies a word once, and a ring whose words or tail make no
//! sense is repaired by stepping over the bad cells. An honest client whose word is lost that way puts it again when it sees
//! the head beyond it (see `port`).
//!
//! Progress: `put` is lock-free; `take` is wait-free.

use crate::sync::{AtomicU64, Ordering, fence};

/// Client index of a word that stands for nobody, written by `repair`.
pub const NOBODY: u16 = u16::MAX;

/// What a ring word says: this client, of this generation (its low 16 bits), has requests in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Index of the client's slot.
    pub client: u16,
    /// Low half of the slot's generation.
    pub generation: u16,
}

impl Word {
    fn pack(self, lap: u32) -> u64 {
        u64::from(lap) << 32 | u64::from(self.client) << 16 | u64::from(self.generation)
    }

    fn unpack(raw: u64) -> Self {
        Self { client: (raw >> 16) as u16, generation: raw as u16 }
    }
}

/// The ring is full or its words make no sense; the sender waits and tries again, and the consumer repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congested;

/// What the consumer finds at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// A published word.
    Word(Word),
    /// Nothing yet.
    Empty,
    /// A word of a lap that no producer could have written here.
    Senseless,
}

/// A view of one shard's request ring. Cheap to make; holds no state.
#[derive(Clone, Copy, Debug)]
pub struct RequestRing<'a> {
    head: &'a AtomicU64,
    tail: &'a AtomicU64,
    cells: &'a [AtomicU64],
}

impl<'a> RequestRing<'a> {
    /// A view over the published head, the advisory tail and the cells, whose number is a power of two.
    pub fn new(head: &'a AtomicU64, tail: &'a AtomicU64, cells: &'a [AtomicU64]) -> Self {
        debug_assert!(cells.len().is_power_of_two());
        Self { head, tail, cells }
    }

    fn cell(&self, position: u64) -> &'a AtomicU64 {
        &self.cells[(position & (self.cells.len() as u64 - 1)) as usize]
    }

    /// Laps start at 1: a zeroed cell is free for its first use.
    fn lap(&self, position: u64) -> u32 {
        ((position >> self.cells.len().trailing_zeros()) as u32).wrapping_add(1)
    }

    /// Puts a word; returns its position.
    ///
    /// # Errors
    /// [`Congested`] when the ring is full or senseless after as many steps as it has cells.
    pub fn put(&self, word: Word) -> Result<u64, Congested> {
        let mut position = self.tail.load(Ordering::Relaxed);
        let mut head = self.published_head();
        for _ in 0..=self.cells.len() {
            let ahead = position.wrapping_sub(head) as i64;
            if ahead < 0 || ahead > self.cells.len() as i64 {
                // A tail that is behind the head, or that somebody scribbled: the head tells the truth.
                position = head;
            } else if ahead == self.cells.len() as i64 {
                let newer = self.published_head();
                if newer == head {
                    return Err(Congested);
                }
                head = newer;
                continue;
            }
            let cell = self.cell(position);
            let lap = self.lap(position);
            // ORDER(cell): Acquire so that a helped tail is never published before the word it follows.
            let raw = cell.load(Ordering::Acquire);
            let found = (raw >> 32) as u32;
            if found == lap.wrapping_sub(1) {
                // ORDER(cell): Release publishes the requests in the lane to the consumer's Acquire in `take`.
                if cell.compare_exchange(raw, word.pack(lap), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    // CRASH: a producer that dies here leaves the tail behind; the next producer helps it along.
                    self.help_tail(position);
                    return Ok(position);
                }
            } else if found == lap {
                self.help_tail(position);
                position += 1;
            } else {
                // We are behind by a lap or more, or the cell is senseless: look again from the newest numbers.
                head = self.published_head();
                let tail = self.tail.load(Ordering::Relaxed);
                position = if tail == position { position + 1 } else { tail };
            }
        }
        Err(Congested)
    }

    /// Moves the tail past `position` unless it is already there.
    fn help_tail(&self, position: u64) {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail.wrapping_sub(position + 1) as i64 >= 0 && tail.wrapping_sub(position) as i64 <= self.cells.len() as i64 {
            return;
        }
        // ORDER(tail): Relaxed suffices, it is only a hint where to start looking.
        let _ = self.tail.compare_exchange(tail, position + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Looks at the word of position `head`. Only the holder of the shard's serving word calls this, with its private head.
    #[inline]
    pub fn take(&self, head: u64) -> Taken {
        let lap = self.lap(head);
        // ORDER(cell): pairs with the Release of the producer's CAS in `put`.
        let raw = self.cell(head).load(Ordering::Acquire);
        let found = (raw >> 32) as u32;
        if found == lap {
            Taken::Word(Word::unpack(raw))
        } else if found == lap.wrapping_sub(1) {
            Taken::Empty
        } else {
            Taken::Senseless
        }
    }

    /// Publishes the consumer's head: words before it have been copied and their cells may be used again.
    #[inline]
    pub fn publish_head(&self, head: u64) {
        // ORDER(head): Release, so that a producer that reuses a cell comes after the consumer's copy of it.
        self.head.store(head, Ordering::Release);
    }

    /// The published head.
    #[inline]
    pub fn published_head(&self) -> u64 {
        let head = self.head.load(Ordering::Relaxed);
        // ORDER(head): pairs with the Release in `publish_head`: a head seen beyond p − cells means that its word was copied. A
        // fence, because clients map the head read-only, where an acquiring load is not defined.
        fence(Ordering::Acquire);
        head
    }

    /// Steps over a cell that blocks the ring: one with a senseless word, or an empty one while the tail says that there is
    /// more behind it. Returns whether the consumer shall move its head by one.
    ///
    /// The consumer calls this when it found nothing to do for a while. Among honest clients it never finds anything: a tail
    /// is only moved past a cell after the cell was filled.
    pub fn repair(&self, head: u64) -> bool {
        let cell = self.cell(head);
        let lap = self.lap(head);
        // ORDER(tail, cell): the tail is read before the cell, so that a tail beyond the head was moved there after the cell was
        // filled, and the fill is seen.
        let tail = self.tail.load(Ordering::Acquire);
        let raw = cell.load(Ordering::Acquire);
        let found = (raw >> 32) as u32;
        if found == lap {
            return false;
        }
        let ahead = tail.wrapping_sub(head) as i64;
        if found == lap.wrapping_sub(1) {
            if ahead <= 0 {
                return false;
            }
            if ahead > self.cells.len() as i64 {
                // No honest tail is further ahead than the ring is long.
                let _ = self.tail.compare_exchange(tail, head, Ordering::Relaxed, Ordering::Relaxed);
                return false;
            }
        }
        let nobody = Word { client: NOBODY, generation: 0 };
        // ORDER(cell): as in `put`; losing the race to a producer is as good.
        cell.compare_exchange(raw, nobody.pack(lap), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Memory {
        head: AtomicU64,
        tail: AtomicU64,
        cells: Vec<AtomicU64>,
    }

    impl Memory {
        fn new(cells: usize) -> Self {
            Self { head: AtomicU64::new(0), tail: AtomicU64::new(0), cells: (0..cells).map(|_| AtomicU64::new(0)).collect() }
        }

        fn ring(&self) -> RequestRing<'_> {
            RequestRing::new(&self.head, &self.tail, &self.cells)
        }
    }

    fn word(client: u16) -> Word {
        Word { client, generation: 7 }
    }

    #[test]
    fn words_come_out_in_order_over_many_laps() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        let mut head = 0;
        for round in 0..100u16 {
            for i in 0..3 {
                assert_eq!(ring.put(word(round * 3 + i)), Ok(u64::from(round * 3 + i)));
            }
            for i in 0..3 {
                assert_eq!(ring.take(head), Taken::Word(word(round * 3 + i)));
                head += 1;
            }
            assert_eq!(ring.take(head), Taken::Empty);
            ring.publish_head(head);
        }
    }

    #[test]
    fn a_full_ring_refuses_and_recovers() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        for i in 0..4 {
            ring.put(word(i)).expect("room");
        }
        assert_eq!(ring.put(word(9)), Err(Congested));
        assert_eq!(ring.take(0), Taken::Word(word(0)));
        ring.publish_head(1);
        assert_eq!(ring.put(word(9)), Ok(4));
    }

    #[test]
    fn a_tail_left_behind_by_a_dead_producer_is_helped_along() {
        let memory = Memory::new(8);
        let ring = memory.ring();
        ring.put(word(1)).expect("room");
        ring.put(word(2)).expect("room");
        memory.tail.store(0, Ordering::Relaxed);
        assert_eq!(ring.put(word(3)), Ok(2));
        assert_eq!(memory.tail.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_producer_with_a_tail_of_laps_ago_finds_the_present() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        for position in 0..40 {
            assert_eq!(ring.put(word(1)), Ok(position));
            ring.publish_head(position + 1);
        }
        memory.tail.store(3, Ordering::Relaxed);
        assert_eq!(ring.put(word(2)), Ok(40));
        assert_eq!(ring.take(40), Taken::Word(word(2)));
    }

    #[test]
    fn a_scribbled_tail_stops_nobody() {
        for bad in [u64::MAX, 1 << 40, 5] {
            let memory = Memory::new(4);
            let ring = memory.ring();
            memory.tail.store(bad, Ordering::Relaxed);
            let mut head = 0;
            assert!(ring.put(word(1)).is_ok());
            for _ in 0..8 {
                match ring.take(head) {
                    Taken::Word(found) if found.client == 1 => break,
                    Taken::Word(_) => head += 1,
                    _ if ring.repair(head) => head += 1,
                    _ => panic!("the ring stands still behind a tail of {bad}"),
                }
            }
            assert_eq!(ring.take(head), Taken::Word(word(1)));
        }
    }

    #[test]
    fn a_scribbled_cell_is_stepped_over() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        memory.cells[0].store(77 << 32, Ordering::Relaxed);
        assert_eq!(ring.take(0), Taken::Senseless);
        assert!(ring.repair(0));
        assert_eq!(ring.take(0), Taken::Word(Word { client: NOBODY, generation: 0 }));
        ring.publish_head(1);
        assert_eq!(ring.put(word(3)), Ok(1));
    }

    #[test]
    fn repair_leaves_an_honest_ring_alone() {
        let memory = Memory::new(4);
        let ring = memory.ring();
        assert!(!ring.repair(0));
        ring.put(word(1)).expect("room");
        assert!(!ring.repair(0));
        assert!(!ring.repair(1));
    }
}
