//! Replies: a status, three words, and bytes where the request reserved room for them.

/// What became of a request. The comments say what the reply's words hold; `version` rests in the low 48 bits of `a`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Answer to PING.
    Pong = 1,
    /// A new item; `a` version.
    Inserted = 2,
    /// An item was replaced; `a` version.
    Replaced = 3,
    /// An item was removed; `a` its version.
    Deleted = 4,
    /// No such key.
    NotFound = 5,
    /// The condition did not hold; `a` the version that is there, 0 for none.
    ConditionNotMet = 6,
    /// A value of up to [`INLINE_MAX`] bytes; `a` version and, in its high 16 bits, the length; `b`, `c` the bytes.
    Value = 7,
    /// A value where it rests; `a` version, `b` offset of the item in the table, `c` length.
    ValueRef = 8,
    /// A part of a value; `a` version, `b` length of the whole, `c` bytes that follow.
    ValueCopy = 9,
    /// `a` version, `b` the number as i64.
    Number = 10,
    /// `a` version, `b` the new length.
    Length = 11,
    /// The value is not a decimal i64.
    NotANumber = 12,
    /// The sum does not fit an i64.
    Overflow = 13,
    /// No memory left under the limit.
    Full = 14,
    /// The bucket's chain is at its cap: the table has too few buckets.
    ChainFull = 15,
    /// The key is empty or too long.
    KeySize = 16,
    /// The value is too long; `b` the limit.
    ValueSize = 17,
    /// The request could not be understood.
    Malformed = 18,
    /// A part was taken; the last one's reply is the request's.
    Partial = 19,
    /// Items; `a` index of the (first) bucket, `u64::MAX` for a SCAN that begins beyond the last, `b` next cursor (`u64::MAX`: the end), `c` bytes that follow in the low half and, in the
    /// high half, 0, or (where there was no room for more) one more than the items to leave out next time.
    Items = 20,
    /// `a` removed, `b` next cursor (`u64::MAX`: the end).
    Stepped = 21,
    /// A part came for a value that the server knows nothing of: send the whole again.
    StreamLost = 22,
    /// Not even one item (of a listing), or not the whole answer (of a transaction, of which nothing was done) fits the room that
    /// the request reserved; `b` the bytes that would do, where they are known.
    RoomTooSmall = 23,
    /// When the item is over; `a` version, `b` the milliseconds it still has to live (`u64::MAX`: until it is removed).
    Expiry = 24,
    /// The item's expiry was set or taken; `a` version.
    ExpirySet = 25,
    /// Everything was removed; `a` how many items.
    Cleared = 26,
    /// A transaction took effect; `a` highest version that it stored (0: none), `c` bytes that follow.
    Committed = 27,
    /// A transaction did nothing; `a` index of the first step whose comparison failed, `b` the version there, 0 for none.
    Mismatch = 28,
}

impl Status {
    /// The status a raw byte stands for.
    #[inline]
    pub fn from_raw(raw: u8) -> Option<Self> {
        use Status::*;
        const ALL: [Status; 28] = [
            Pong,
            Inserted,
            Replaced,
            Deleted,
            NotFound,
            ConditionNotMet,
            Value,
            ValueRef,
            ValueCopy,
            Number,
            Length,
            NotANumber,
            Overflow,
            Full,
            ChainFull,
            KeySize,
            ValueSize,
            Malformed,
            Partial,
            Items,
            Stepped,
            StreamLost,
            RoomTooSmall,
            Expiry,
            ExpirySet,
            Cleared,
            Committed,
            Mismatch,
        ];
        ALL.get(usize::from(raw).wrapping_sub(1)).copied()
    }
}

/// Longest value that rests in the reply itself, in bytes.
pub const INLINE_MAX: usize = 16;
/// Versions have 48 bits.
pub const VERSION_MASK: u64 = (1 << 48) - 1;

/// A reply as it rests in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What became of the request.
    pub status: Status,
    /// First word.
    pub a: u64,
    /// Second word.
    pub b: u64,
    /// Third word.
    pub c: u64,
}

impl Reply {
    /// A reply of a bare status.
    #[inline]
    pub fn bare(status: Status) -> Self {
        Self { status, a: 0, b: 0, c: 0 }
    }

    /// A reply of a status and one version.
    #[inline]
    pub fn versioned(status: Status, version: u64) -> Self {
        Self { status, a: version & VERSION_MASK, b: 0, c: 0 }
    }

    /// The version in `a`.
    #[inline]
    pub fn version(&self) -> u64 {
        self.a & VERSION_MASK
    }

    /// Length of an inline value as the reply claims it, cut to what a reply can hold.
    #[inline]
    pub fn inline_len(&self) -> usize {
        ((self.a >> 48) as usize).min(INLINE_MAX)
    }

    /// A small value with its bytes.
    #[inline]
    pub fn inline(version: u64, len: usize, b: u64, c: u64) -> Self {
        Self { status: Status::Value, a: (version & VERSION_MASK) | ((len as u64) << 48), b, c }
    }
}

/// The words that hold up to [`INLINE_MAX`] bytes.
#[inline]
pub fn inline_words(bytes: &[u8]) -> (u64, u64) {
    let mut room = [0; INLINE_MAX];
    let len = bytes.len().min(INLINE_MAX);
    room[..len].copy_from_slice(&bytes[..len]);
    let (b, c) = room.split_at(8);
    (u64::from_le_bytes(b.try_into().unwrap_or_default()), u64::from_le_bytes(c.try_into().unwrap_or_default()))
}

/// The bytes that two words hold.
#[inline]
pub fn inline_bytes(b: u64, c: u64) -> [u8; INLINE_MAX] {
    let mut room = [0; INLINE_MAX];
    room[..8].copy_from_slice(&b.to_le_bytes());
    room[8..].copy_from_slice(&c.to_le_bytes());
    room
}
