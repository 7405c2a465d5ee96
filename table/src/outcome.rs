//! What operations ask and answer.

use crate::intent::{Effect, EffectKind};
use thiserror::Error;

/// When a mutation may take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    None,
    /// Only if the key is absent.
    IfAbsent,
    /// Only if the key is present.
    IfPresent,
    /// Only if the key's item has this version.
    IfVersion(u64),
}

impl Condition {
    /// Whether it is met by a key whose item has this version (none: absent).
    #[inline]
    pub(crate) fn met(self, version: Option<u64>) -> bool {
        match self {
            Condition::None => true,
            Condition::IfAbsent => version.is_none(),
            Condition::IfPresent => version.is_some(),
            Condition::IfVersion(wanted) => version == Some(wanted),
        }
    }
}

/// What a mutation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key was added.
    Inserted {
        /// Version of its item.
        version: u64,
    },
    /// The key's item was replaced.
    Replaced {
        /// Version of the new item.
        version: u64,
    },
    /// The key was removed.
    Deleted {
        /// Version of the item that was removed.
        version: u64,
    },
    /// The key is absent.
    NotFound,
    /// The condition was not met.
    ConditionNotMet {
        /// Version of the key's item, 0 if it is absent.
        version: u64,
    },
    /// The key's number was changed.
    Number {
        /// The new number.
        value: i64,
        /// Version of the new item.
        version: u64,
    },
    /// Bytes were appended.
    Length {
        /// Length of the new value.
        len: u32,
        /// Version of the new item.
        version: u64,
    },
    /// The key's expiry was set or removed.
    Expires {
        /// Version of the item, which stays.
        version: u64,
    },
    /// The table was cleared.
    Cleared {
        /// Items that were there.
        count: u64,
    },
    /// A transaction took effect.
    Committed {
        /// Highest version among the items it stored, 0 if it stored none.
        version: u64,
        /// What the writer of its answer made of it, see [`Writer::transact`](crate::Writer::transact).
        value: u64,
    },
    /// A comparison of a transaction failed; nothing was done.
    Mismatch {
        /// The first step whose version differs.
        step: u32,
        /// The version there, 0 if the key is absent.
        version: u64,
    },
    /// The key's value is not the decimal text of an i64.
    NotANumber,
    /// The sum does not fit an i64.
    Overflow,
    /// No memory within the limit.
    Full,
    /// The key's bucket has as many overflow lines as it may.
    ChainFull,
    /// Key or value would exceed their limits.
    TooLong,
}

impl Outcome {
    /// What an effect left by a dead worker answers.
    pub fn of(effect: &Effect) -> Outcome {
        let version = effect.version;
        match effect.kind {
            EffectKind::Inserted => Outcome::Inserted { version },
            EffectKind::Replaced => Outcome::Replaced { version },
            EffectKind::Deleted => Outcome::Deleted { version },
            EffectKind::Number => Outcome::Number { value: effect.value as i64, version },
            EffectKind::Length => Outcome::Length { len: effect.value as u32, version },
            EffectKind::Expires => Outcome::Expires { version },
            EffectKind::Cleared => Outcome::Cleared { count: effect.value },
            EffectKind::Committed => Outcome::Committed { version, value: effect.value },
        }
    }
}

/// Why no memory was reserved.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// No memory within the limit.
    #[error("reserving an item failed: found no free memory against the limit; delete items or raise --memory")]
    Full,
    /// The key is empty or too long.
    #[error("reserving an item failed: found a key of {found} bytes against 1 to 1024; shorten the key")]
    KeyLength {
        /// Its length.
        found: usize,
    },
    /// The value is too long.
    #[error("reserving an item failed: found a value of {found} bytes against at most {most}; raise --max-value or split it")]
    ValueLength {
        /// Its length.
        found: u32,
        /// The table's limit.
        most: u32,
    },
}

/// The item changed or went away while its bytes were copied.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("reading an item failed: found it changed against the version referred to; look the key up again")]
pub struct Changed;

/// The bucket was being written through all retries.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("reading a bucket failed: found it being written against a quiet moment wanted; ask the server instead")]
pub struct Busy;

/// Names an item of the section as it was when looked up; still the same item as long as its version holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemRef {
    /// Offset of the item in the section.
    pub offset: u64,
    /// Version of the item.
    pub version: u64,
    /// Milliseconds since the region's epoch; 0: never.
    pub expiry: u64,
    /// Length of the value.
    pub value_len: u32,
    /// Length of the key.
    pub key_len: u16,
    /// Type in the low five bits, flags in the high three.
    pub type_and_flags: u8,
}

impl ItemRef {
    /// Offset of the value in the section.
    #[inline]
    pub fn value_offset(&self) -> u64 {
        self.offset.saturating_add(crate::words::ITEM_HEADER + u64::from(self.key_len))
    }
}
