//! Where the parts of a section lie, planned from the limits or read back from a header.

use crate::arena::Arena;
use crate::classes::UNIT;
use crate::layout::{GROUP, HUGE_PAGE, LINE, MAX_WORKERS, PAGE, PARTS, Part, RedoList, WorkerRecord};
use crate::section::Section;
use crate::words::{ITEM_HEADER, MAX_KEY, MAX_VALUE};
use std::mem::size_of;
use thiserror::Error;

/// Highest end of the heap: a slot's 36 bits of offset / 8.
const ADDRESSABLE: u64 = 1 << 39;
const MAX_RESERVE: u64 = 256 << 30;

/// Why no section can be planned.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// The limit does not cover what must be there before the first item.
    #[error(
        "memory limit too small: found {found} bytes against at least {needed} needed for {buckets} buckets; raise --memory or lower --size"
    )]
    TooSmall {
        /// The limit asked for.
        found: u64,
        /// The least limit for these buckets.
        needed: u64,
        /// Buckets after rounding.
        buckets: u64,
    },
    /// The limit, or the reserve for it, is beyond what offsets can name.
    #[error("memory limit too large: found {found} bytes against at most {most}; lower --memory")]
    TooLarge {
        /// The limit asked for.
        found: u64,
        /// The most a section can hold.
        most: u64,
    },
    /// The number of buckets is 0 or cannot be addressed.
    #[error("number of buckets out of range: found {found} against 1 to {most}; change --size")]
    Buckets {
        /// The number asked for.
        found: u64,
        /// The most there can be.
        most: u64,
    },
    /// Values longer than the item header can say.
    #[error("value limit too large: found {found} bytes against at most {most}; lower --max-value")]
    MaxValue {
        /// The limit asked for.
        found: u32,
        /// The most a length field carries.
        most: u32,
    },
}

/// Offset and length of every part of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Offset and reserved length per part, in file order.
    pub(crate) parts: [(u64, u64); PARTS],
    pub(crate) memory_limit: u64,
    pub(crate) level: u32,
    pub(crate) max_value: u32,
}

impl Geometry {
    /// Plans a section: `memory_limit` caps the committed bytes, `buckets` is rounded up to a power of two. Address
    /// space is reserved for a limit sixteen times as high, and never for less than 16 GiB.
    pub fn plan(memory_limit: u64, buckets: u64, max_value: u32) -> Result<Geometry, PlanError> {
        let reserve = memory_limit.saturating_mul(16).clamp(16 << 30, MAX_RESERVE).max(memory_limit);
        Geometry::plan_reserved(memory_limit, buckets, max_value, reserve)
    }

    /// The same with the highest limit that a later server may set.
    pub fn plan_reserved(memory_limit: u64, buckets: u64, max_value: u32, reserve: u64) -> Result<Geometry, PlanError> {
        if max_value > MAX_VALUE {
            return Err(PlanError::MaxValue { found: max_value, most: MAX_VALUE });
        }
        let most = MAX_RESERVE / LINE;
        if buckets == 0 || buckets > most {
            return Err(PlanError::Buckets { found: buckets, most });
        }
        let reserve = reserve.max(memory_limit);
        if reserve > MAX_RESERVE {
            return Err(PlanError::TooLarge { found: reserve, most: MAX_RESERVE });
        }
        let buckets = buckets.next_power_of_two();
        let heap = reserve.next_multiple_of(HUGE_PAGE);
        // Growth doubles at most until buckets take half of what the limit allows.
        let max_buckets = ((reserve / 2 / LINE).next_power_of_two()).max(buckets);
        let lengths = [
            u64::from(MAX_WORKERS) * size_of::<WorkerRecord>() as u64,
            u64::from(MAX_WORKERS) * size_of::<RedoList>() as u64,
            (max_buckets.div_ceil(GROUP) * 8).next_multiple_of(PAGE),
            (heap / UNIT * 8).next_multiple_of(PAGE),
            max_buckets * LINE,
            heap,
        ];
        let mut parts = [(0, 0); PARTS];
        let mut at = PAGE;
        for (place, len) in lengths.into_iter().enumerate() {
            let large = place >= Part::Buckets as usize && len >= HUGE_PAGE;
            at = u64::next_multiple_of(at, if large { HUGE_PAGE } else { UNIT });
            parts[place] = (at, len);
            at += len;
        }
        if at > ADDRESSABLE {
            return Err(PlanError::TooLarge { found: reserve, most: MAX_RESERVE });
        }
        let geometry = Geometry { parts, memory_limit, level: buckets.trailing_zeros(), max_value };
        let needed = geometry.initial_bytes();
        if needed > memory_limit {
            return Err(PlanError::TooSmall { found: memory_limit, needed, buckets });
        }
        Ok(geometry)
    }

    /// Length of the sparse file, or of the mapping.
    pub fn file_len(&self) -> u64 {
        let (offset, len) = self.parts[Part::Heap as usize];
        offset + len
    }

    /// Initial number of buckets.
    pub fn buckets(&self) -> u64 {
        1 << self.level
    }

    /// The cap on committed bytes.
    pub fn memory_limit(&self) -> u64 {
        self.memory_limit
    }

    /// Longest value.
    pub fn max_value(&self) -> u32 {
        self.max_value
    }

    /// Ranges (offset, length) that `Table::format` has backed before it writes anything, in file order.
    pub fn initial_commit(&self) -> [(u64, u64); 5] {
        let part = |part: Part| self.parts[part as usize];
        [
            (0, part(Part::Workers).0 + part(Part::Workers).1),
            (part(Part::Deadlines).0, self.initial_deadlines()),
            (part(Part::ClassMap).0, PAGE),
            (part(Part::Buckets).0, self.initial_buckets()),
            (part(Part::Heap).0, self.initial_heap()),
        ]
    }

    /// Bytes of the ranges of [`Geometry::initial_commit`].
    pub fn initial_bytes(&self) -> u64 {
        self.initial_commit().iter().map(|&(_, len)| len).sum()
    }

    pub(crate) fn initial_deadlines(&self) -> u64 {
        (self.buckets().div_ceil(GROUP) * 8).next_multiple_of(PAGE)
    }

    pub(crate) fn initial_buckets(&self) -> u64 {
        (self.buckets() * LINE).next_multiple_of(PAGE)
    }

    /// The least heap: room for the largest item and some spans.
    pub(crate) fn initial_heap(&self) -> u64 {
        16 * UNIT
    }

    /// Units that the largest item takes.
    pub(crate) fn largest_item_units(&self) -> u64 {
        (ITEM_HEADER + MAX_KEY as u64 + u64::from(self.max_value)).div_ceil(UNIT)
    }

    pub(crate) fn arena(&self, section: Section) -> Arena {
        let part = |part: Part| self.parts[part as usize];
        Arena {
            section,
            workers: part(Part::Workers).0,
            deadlines: part(Part::Deadlines).0,
            class_map: part(Part::ClassMap).0,
            buckets: part(Part::Buckets).0,
            max_buckets: part(Part::Buckets).1 / LINE,
            heap_start: part(Part::Heap).0,
            heap_end: part(Part::Heap).0 + part(Part::Heap).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_hold_the_limits() {
        for (limit, buckets) in [(8 << 20, 65_536), (1 << 20, 100), (64 << 30, 1 << 28), (4 << 30, 10_000_000)] {
            let geometry = Geometry::plan(limit, buckets, 1 << 20).expect("a plan");
            let mut end = PAGE;
            for (offset, len) in geometry.parts {
                assert!(offset >= end && offset % PAGE == 0);
                end = offset + len;
            }
            assert_eq!(geometry.file_len(), end);
            assert!(end <= ADDRESSABLE && geometry.buckets() >= buckets && geometry.buckets() < 2 * buckets);
            assert_eq!(geometry.parts[Part::Heap as usize].0 % UNIT, 0);
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(matches!(Geometry::plan(1 << 20, 65_536, 1), Err(PlanError::TooSmall { .. })));
        assert!(matches!(Geometry::plan(1 << 50, 16, 1), Err(PlanError::TooLarge { .. })));
        assert!(matches!(Geometry::plan(1 << 30, 0, 1), Err(PlanError::Buckets { .. })));
        assert!(matches!(Geometry::plan(1 << 30, u64::MAX, 1), Err(PlanError::Buckets { .. })));
        assert!(matches!(Geometry::plan(1 << 30, 1, MAX_VALUE + 1), Err(PlanError::MaxValue { .. })));
    }
}
