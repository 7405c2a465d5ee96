//! Marks of use, by which eviction tells what is read from what is not: counters of two bits, in memory of the server's own.
//!
//! ```text
//! u16 of a bucket   [overflow, odd slots 2 | slot 6, or overflow, even slots 2 | slot 5 2 | .. | slot 0 2]
//! counter           0 ──hit──▶ 1 ──hit──▶ 2 ──hit──▶ 3 (stays)        each visit of the hand: one less; found at 0: evicted
//! ```
//!
//! M1: a mark is advice and nothing else: it may be lost, stale or of a neighbour, and no reader of it may rely on more. So
//! workers store into a shared word without an atomic step over it, and hints of hostile clients may set any of them.
//! M2: a counter at its end is not stored again, so that a hot key's word is only read, by all workers from their own caches.
//! The memory is reserved for the most buckets there can be and touched where buckets are: a word per line of 64 bytes.
//! CRASH: marks die with the server; its successor begins with none, and the hand's first turn knows no better than chance.

use crate::layout::{LINE, SLOTS};
use crate::prefetch;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering::Relaxed;

/// The highest count: so many visits of the hand does an item outlive without another hit.
pub(crate) const MOST_HITS: u16 = 3;
/// What an item begins with.
const NEW: u16 = 0;

/// The marks of all buckets.
pub(crate) struct Hits {
    marks: Box<[AtomicU16]>,
}

/// Which counter of its bucket an item has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    /// The counter of the slot at this offset, which is in the bucket's line or in one of its overflow lines.
    #[inline]
    pub(crate) fn of(bucket: u64, slot: u64) -> Place {
        let at = slot.wrapping_sub(bucket);
        let counter = if at < LINE { at / 8 - 1 } else { SLOTS - 1 + (slot / 8) % 2 };
        Place(2 * counter as u32)
    }
}

impl Hits {
    /// Marks for so many buckets, all at 0.
    pub(crate) fn new(buckets: u64) -> Hits {
        let zeroed = Box::<[AtomicU16]>::new_zeroed_slice(buckets.next_power_of_two() as usize);
        // SAFETY: a zeroed word is a valid atomic.
        Hits { marks: unsafe { zeroed.assume_init() } }
    }

    #[inline]
    fn word(&self, index: u64) -> &AtomicU16 {
        // A bucket is always among those that the section was planned for, so the mask changes nothing.
        &self.marks[index as usize & (self.marks.len() - 1)]
    }

    /// Fetches a bucket's marks.
    #[inline]
    pub(crate) fn prefetch(&self, index: u64) {
        prefetch::for_write(std::ptr::from_ref(self.word(index)).cast());
    }

    /// The count at a place.
    #[inline]
    pub(crate) fn count(&self, index: u64, place: Place) -> u16 {
        self.word(index).load(Relaxed) >> place.0 & MOST_HITS
    }

    /// An item was read or overwritten.
    #[inline]
    pub(crate) fn hit(&self, index: u64, place: Place) {
        let word = self.word(index);
        let marks = word.load(Relaxed);
        if marks >> place.0 & MOST_HITS < MOST_HITS {
            word.store(marks + (1 << place.0), Relaxed);
        }
    }

    /// A new item stands at a place. One that shares its counter with others leaves it as it is.
    #[inline]
    pub(crate) fn begin(&self, index: u64, place: Place, shared: bool) {
        let word = self.word(index);
        let marks = word.load(Relaxed);
        let count = marks >> place.0 & MOST_HITS;
        if count != NEW && !(shared && count > NEW) {
            word.store(marks & !(MOST_HITS << place.0) | NEW << place.0, Relaxed);
        }
    }

    /// The hand passes: every counter of the bucket that is in `places` (a bit per counter, at its lower bit) goes down by one.
    #[inline]
    pub(crate) fn age(&self, index: u64, places: u16) {
        let word = self.word(index);
        let marks = word.load(Relaxed);
        // A counter is above 0 if either of its bits is set.
        let above = (marks | marks >> 1) & places & LOWER;
        if above != 0 {
            word.store(marks - above, Relaxed);
        }
    }

    /// Sets all counters of a bucket.
    pub(crate) fn set(&self, index: u64, marks: u16) {
        self.word(index).store(marks, Relaxed);
    }
}

/// The lower bits of all counters.
const LOWER: u16 = 0x5555;

impl Place {
    /// The counter's bit in the set that [`Hits::age`] takes.
    #[inline]
    pub(crate) fn bit(self) -> u16 {
        1 << self.0
    }

    /// Raises the counter in a bucket's marks.
    pub(crate) fn raise(self, marks: &mut u16, count: u16) {
        if *marks >> self.0 & MOST_HITS < count {
            *marks = *marks & !(MOST_HITS << self.0) | count << self.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_of_a_line_has_its_counter_and_overflow_shares_two() {
        let bucket = 640;
        let own: Vec<Place> = (0..SLOTS).map(|slot| Place::of(bucket, bucket + 8 + 8 * slot)).collect();
        assert_eq!(own, [0, 2, 4, 6, 8, 10, 12].map(Place));
        for line in [64u64, 6400] {
            for slot in 0..SLOTS {
                let place = Place::of(bucket, line + 8 + 8 * slot);
                assert_eq!(place, if slot % 2 == 0 { Place(14) } else { Place(12) });
            }
        }
    }

    #[test]
    fn counters_end_at_three_and_at_zero_and_leave_their_neighbours_alone() {
        let hits = Hits::new(4);
        let places: Vec<Place> = (0..8).map(|counter| Place(2 * counter)).collect();
        for (times, &place) in places.iter().enumerate() {
            for _ in 0..times {
                hits.hit(2, place);
            }
        }
        let counts = |hits: &Hits| places.iter().map(|&place| hits.count(2, place)).collect::<Vec<_>>();
        assert_eq!(counts(&hits), [0, 1, 2, 3, 3, 3, 3, 3]);
        hits.age(2, places[1].bit() | places[3].bit() | places[0].bit());
        assert_eq!(counts(&hits), [0, 0, 2, 2, 3, 3, 3, 3]);
        hits.begin(2, places[4], false);
        hits.begin(2, places[5], true);
        assert_eq!(counts(&hits), [0, 0, 2, 2, NEW, 3, 3, 3]);
        for _ in 0..5 {
            hits.age(2, u16::MAX);
        }
        assert_eq!(counts(&hits), [0; 8]);
        assert_eq!(hits.count(1, places[0]) + hits.count(3, places[7]), 0);
    }
}
