//! Size classes: which block size serves an item, and how many units a span of such blocks takes.
//!
//! Up to 128 bytes classes are 8 apart, beyond that eight to a doubling, so at most an eighth of a block is
//! waste. The table is part of the layout: the class map in the section holds class numbers.

use crate::words::ITEM_HEADER;

/// The allocator's unit: spans and large runs are whole units.
pub(crate) const UNIT: u64 = 16 * 1024;
/// Class of blocks from 24 bytes; sixteen steps of 8 less the two below 24.
const SMALL_CLASSES: usize = 14;
const DOUBLINGS: usize = 10;
/// Number of classes; the largest block is 128 KiB.
pub(crate) const CLASSES: usize = SMALL_CLASSES + DOUBLINGS * 8;
/// Largest block of a class; bigger items are runs of units of their own.
pub(crate) const MAX_CLASS_SIZE: u64 = size_of_class(CLASSES - 1);
/// The number that stands in the class map for a run of units holding one item.
pub(crate) const LARGE: u8 = 255;
/// The class of overflow lines: 64 bytes, and so 64-aligned.
pub(crate) const LINE_CLASS: u8 = 5;

const _: () = assert!(MAX_CLASS_SIZE == 128 * 1024);
const _: () = assert!(size_of_class(LINE_CLASS as usize) == 64);
const _: () = assert!(CLASSES < LARGE as usize);

/// Block size of a class.
pub(crate) const fn size_of_class(class: usize) -> u64 {
    if class < SMALL_CLASSES {
        24 + 8 * class as u64
    } else {
        let step = class - SMALL_CLASSES;
        let base = 128u64 << (step / 8);
        base + base / 8 * (step % 8 + 1) as u64
    }
}

/// The class for a number of bytes, or [`LARGE`].
#[inline]
pub(crate) fn class_for(len: u64) -> u8 {
    if len <= 128 {
        (len.max(24).div_ceil(8) - 3) as u8
    } else if len <= MAX_CLASS_SIZE {
        // The doubling below len - 1: base = 2^log < len <= 2^(log + 1).
        let log = (len - 1).ilog2();
        let step = (len - 1 - (1 << log)) >> (log - 3);
        (SMALL_CLASSES as u32 + (log - 7) * 8 + step as u32) as u8
    } else {
        LARGE
    }
}

/// Bytes that an item takes of the table's memory: header, key and value, rounded up to its class's block or to whole
/// units. Slots, and what its span wastes, come on top.
pub fn stored_bytes(key_len: usize, value_len: u32) -> u64 {
    let len = ITEM_HEADER + key_len as u64 + u64::from(value_len);
    match class_for(len) {
        LARGE => len.next_multiple_of(UNIT),
        class => size_of_class(usize::from(class)),
    }
}

/// Units of a span of this class: the least of four or more that wastes under a 128th of it, or the best.
#[inline]
pub(crate) fn span_units(class: usize) -> u64 {
    u64::from(SPANS[class].usual)
}

/// What is known of a class's spans, worked out once.
#[derive(Clone, Copy)]
struct SpanOf {
    usual: u8,
    least: u8,
    /// Bit n: a span of n units wastes little.
    thrifty: u32,
}

const SPANS: [SpanOf; CLASSES] = {
    let mut spans = [SpanOf { usual: 0, least: 0, thrifty: 0 }; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        let usual = usual_units(class);
        let (mut units, mut thrifty) = (1, 0u32);
        while units < 32 {
            if units * UNIT >= size_of_class(class) && waste_of(class, units) <= 4096 {
                thrifty |= 1 << units;
            }
            units += 1;
        }
        let least = thrifty.trailing_zeros() as u64;
        let least = if least < usual { least } else { usual };
        spans[class] = SpanOf { usual: usual as u8, least: least as u8, thrifty };
        class += 1;
    }
    spans
};

const fn usual_units(class: usize) -> u64 {
    let (mut best, mut best_waste, mut units) = (0, u64::MAX, 4);
    while units <= 18 {
        if units * UNIT >= size_of_class(class) {
            let waste = waste_of(class, units);
            if waste < best_waste {
                best = units;
                best_waste = waste;
            }
            if waste < 512 {
                break;
            }
        }
        units += 1;
    }
    best
}

/// Whether a span of so many units, of less than 32, wastes at most a 16th of them.
#[inline]
pub(crate) fn is_thrifty(class: usize, units: u64) -> bool {
    SPANS[class].thrifty.checked_shr(units as u32).is_some_and(|bits| bits & 1 != 0)
}

/// The least units in a row that make a thrifty span.
#[inline]
pub(crate) fn least_units(class: usize) -> u64 {
    u64::from(SPANS[class].least)
}

/// Waste of a span per 65536 bytes of it.
const fn waste_of(class: usize, units: u64) -> u64 {
    (units * UNIT % size_of_class(class)) * 65536 / (units * UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_gets_the_smallest_class_that_holds_it() {
        let mut expected = 0;
        for len in 17..=MAX_CLASS_SIZE {
            while size_of_class(expected) < len {
                expected += 1;
            }
            assert_eq!(usize::from(class_for(len)), expected, "length {len}");
        }
        assert_eq!(class_for(MAX_CLASS_SIZE + 1), LARGE);
    }

    #[test]
    fn waste_is_bounded() {
        for class in 1..CLASSES {
            let (below, size) = (size_of_class(class - 1), size_of_class(class));
            assert_eq!(size % 8, 0);
            // An item one byte (or, aligned, eight) longer than the class below wastes the most.
            assert!(size < 128 || (size - below - 8) * 8 <= size, "class of {size}");
            let span = span_units(class) * UNIT;
            assert!((span % size) * 100 <= span, "span of {size}");
            let least = least_units(class);
            assert!(least <= span_units(class) && is_thrifty(class, least) && (1..least).all(|units| !is_thrifty(class, units)));
        }
        assert_eq!(size_of_class(usize::from(class_for(16 + 16 + 8))), 40);
    }
}
