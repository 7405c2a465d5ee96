//! What lookups answer: the header of the item, and that in two registers.

use crate::outcome::Busy;
use crate::reader::Hit;
use crate::words::MAX_VALUE;

/// The item that a lookup has found, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub(crate) word0: u64,
    pub(crate) word1: u64,
}

impl Seen {
    /// Version of the item.
    #[inline]
    pub fn version(&self) -> u64 {
        self.word0 >> 16
    }

    /// Length of the value in bytes.
    #[inline]
    pub fn value_len(&self) -> usize {
        (self.word1 >> 3) as usize & MAX_VALUE as usize
    }

    /// When it expires, in milliseconds since the region's epoch; 0: never.
    #[inline]
    pub fn expiry(&self) -> u64 {
        self.word1 >> 24
    }

    /// Type in the low five bits, flags in the high three.
    #[inline]
    pub fn type_and_flags(&self) -> u8 {
        (self.word0 & 31) as u8 | ((self.word1 & 7) << 5) as u8
    }
}

/// A lookup's answer in two words: an item's header, or, where the first says no version, 0 for absent and 1 for busy in the second.
#[derive(Clone, Copy)]
pub(crate) struct Answer(pub(crate) u64, pub(crate) u64);

impl Answer {
    #[inline(always)]
    pub(crate) fn of(hit: Option<Hit>) -> Answer {
        match hit {
            Some(hit) if hit.word0 >> 16 != 0 => Answer(hit.word0, hit.word1),
            // No honest writer links an item without a version.
            _ => Answer(0, 0),
        }
    }

    #[inline(always)]
    pub(crate) fn open(self) -> Result<Option<Seen>, Busy> {
        match self {
            Answer(0, 0) => Ok(None),
            Answer(0, _) => Err(Busy),
            Answer(word0, word1) => Ok(Some(Seen { word0, word1 })),
        }
    }
}
