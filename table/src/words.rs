//! The three words that carry the table's meaning, as pure bit functions: slot, item header, bucket count.
//!
//! ```text
//! slot    63        62 ........ 36  35 .......... 0
//!         chain     hash bits 34-8  offset / 8            0: empty
//! item 0  63 ............ 16  15 ...... 5  4 .... 0
//!         version (48)        key length   type           version 0: freed or not yet linked
//! item 1  63 ........ 24  23 ........ 3  2 ..... 0
//!         expiry ms (40)  value length   flags            expiry 0: never
//! count   63 ......... 8  7 .... 0
//!         split           level                           buckets = 2^level + split
//! ```
//!
//! W1: both item words are written before the item is linked, word 0 is never written while linked, word 1 only to
//! change the expiry and under the bucket's lock, and no two items in the life of a region carry the same version. W2: a slot with the chain bit is the last of its line.

/// Longest key in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest value the layout can carry, in bytes.
pub const MAX_VALUE: u32 = (1 << 21) - 1;
/// Bytes of the item header.
pub const ITEM_HEADER: u64 = 16;
/// Highest version; the counter answers full beyond it.
pub const MAX_VERSION: u64 = (1 << 48) - 1;
/// Latest expiry, in milliseconds since the region's epoch.
pub const MAX_EXPIRY: u64 = (1 << 40) - 1;

const OFFSET_BITS: u32 = 36;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const CHAIN_BIT: u64 = 1 << 63;
const TAG_MASK: u64 = ((1 << 27) - 1) << OFFSET_BITS;
/// Word 0 of an overflow line. Its version bits are zero, so that no reference to an item ever matches it.
pub(crate) const OVERFLOW_MARK: u64 = 0xA0F1;

/// The lowest hash bit that a slot word carries. The bits of a bucket's index begin at 0, so a tag holds every bit by which a split of
/// level 8 or more decides, and tells the items of one bucket apart by those above.
pub(crate) const TAG_FROM: u32 = 8;

/// The hash bits of a slot word, in place; the chain bit is clear.
#[inline]
pub(crate) fn tag_of(hash: u64) -> u64 {
    (hash << (OFFSET_BITS - TAG_FROM)) & TAG_MASK
}

/// The hash bit of this number, if the slot word carries it.
#[inline]
pub(crate) fn hash_bit(word: u64, number: u32) -> Option<bool> {
    let place = OFFSET_BITS + number.checked_sub(TAG_FROM)?;
    (place < 63).then_some(word >> place & 1 != 0)
}

/// The slot word of an item.
#[inline]
pub(crate) fn slot_word(tag: u64, offset: u64) -> u64 {
    debug_assert!(offset.is_multiple_of(8) && offset >> 3 <= OFFSET_MASK);
    tag | (offset >> 3)
}

/// The slot word of a link to an overflow line.
#[inline]
pub(crate) fn link_word(line: u64) -> u64 {
    CHAIN_BIT | (line >> 3)
}

#[inline]
pub(crate) fn is_link(word: u64) -> bool {
    word & CHAIN_BIT != 0
}

/// Whether the word holds an item of this tag (an empty slot may pass for tag 0; its offset 0 is refused later).
#[inline]
pub(crate) fn matches(word: u64, tag: u64) -> bool {
    (word ^ tag) >> OFFSET_BITS == 0
}

/// The offset that a slot word names.
#[inline]
pub(crate) fn offset_of_slot(word: u64) -> u64 {
    (word & OFFSET_MASK) << 3
}

/// The hash bits that a slot word carries, in place.
#[inline]
pub(crate) fn slot_tag(word: u64) -> u64 {
    word & TAG_MASK
}

/// A decoded item header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ItemHeader {
    pub(crate) version: u64,
    pub(crate) key_len: u16,
    pub(crate) value_len: u32,
    pub(crate) type_and_flags: u8,
    pub(crate) expiry: u64,
}

impl ItemHeader {
    /// Word 0: version, key length, type.
    #[inline]
    pub(crate) fn word0(&self) -> u64 {
        (self.version << 16) | (u64::from(self.key_len) << 5) | u64::from(self.type_and_flags & 31)
    }

    /// Word 1: expiry, value length, flags.
    #[inline]
    pub(crate) fn word1(&self) -> u64 {
        (self.expiry << 24) | (u64::from(self.value_len) << 3) | u64::from(self.type_and_flags >> 5)
    }

    #[inline]
    pub(crate) fn decode(word0: u64, word1: u64) -> ItemHeader {
        ItemHeader {
            version: word0 >> 16,
            key_len: ((word0 >> 5) & 0x7ff) as u16,
            value_len: ((word1 >> 3) & u64::from(MAX_VALUE)) as u32,
            type_and_flags: (word0 & 31) as u8 | ((word1 & 7) << 5) as u8,
            expiry: word1 >> 24,
        }
    }

    /// Bytes of the item: header, key, value.
    #[inline]
    pub(crate) fn len(&self) -> u64 {
        ITEM_HEADER + u64::from(self.key_len) + u64::from(self.value_len)
    }
}

/// The bucket count word of linear hashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketCount(pub(crate) u64);

impl BucketCount {
    pub(crate) fn new(level: u32, split: u64) -> BucketCount {
        BucketCount((split << 8) | u64::from(level))
    }

    #[inline]
    pub(crate) fn level(self) -> u32 {
        (self.0 & 0x3f) as u32
    }

    #[inline]
    pub(crate) fn split(self) -> u64 {
        self.0 >> 8
    }

    /// Number of buckets; linear hashing after W. Litwin, 1980.
    #[inline]
    pub(crate) fn buckets(self) -> u64 {
        (1 << self.level()) + self.split()
    }

    /// The bucket whose split made the last one; none before the first split.
    pub(crate) fn parent_of_newest(self) -> Option<u64> {
        match self.split() {
            0 => (1u64 << self.level() >> 1).checked_sub(1),
            split => Some(split - 1),
        }
    }

    /// The bucket of a hash: below the split pointer one more bit counts.
    #[inline]
    pub(crate) fn index(self, hash: u64) -> u64 {
        let base = 1u64 << self.level();
        let low = hash & (base - 1);
        if low < self.split() { hash & (2 * base - 1) } else { low }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_at_the_edges() {
        for (version, key_len, value_len, type_and_flags, expiry) in [
            (1, 1, 0, 0, 0),
            (MAX_VERSION, 1024, MAX_VALUE, 255, MAX_EXPIRY),
            (MAX_VERSION, 0, MAX_VALUE, 0xe0, 0),
            (0, 1024, 0, 0x1f, MAX_EXPIRY),
        ] {
            let header = ItemHeader { version, key_len, value_len, type_and_flags, expiry };
            assert_eq!(ItemHeader::decode(header.word0(), header.word1()), header);
        }
    }

    #[test]
    fn slot_words_keep_tag_and_offset_apart() {
        let tag = tag_of(u64::MAX);
        let word = slot_word(tag, (OFFSET_MASK) << 3);
        assert!(matches(word, tag) && !is_link(word) && !matches(word, tag_of(0)));
        assert_eq!(offset_of_slot(word), OFFSET_MASK << 3);
        assert!(is_link(link_word(64)) && !matches(link_word(64), tag_of(0)));
        assert_eq!(offset_of_slot(link_word(640)), 640);
    }

    #[test]
    fn a_slot_word_tells_the_bits_that_splits_decide_by() {
        for hash in [0, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 8, 1 << 34] {
            let word = slot_word(tag_of(hash), 4096);
            assert_eq!(hash_bit(word, TAG_FROM - 1), None);
            assert_eq!(hash_bit(word, 35), None);
            for number in TAG_FROM..35 {
                assert_eq!(hash_bit(word, number), Some(hash >> number & 1 == 1));
            }
        }
    }

    #[test]
    fn split_pointer_adds_a_bit_below_it() {
        let count = BucketCount::new(3, 2);
        assert_eq!(count.buckets(), 10);
        assert_eq!([count.index(9), count.index(10), count.index(2), count.index(1)], [9, 2, 2, 1]);
    }
}
