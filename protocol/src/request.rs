//! Requests: kinds, bodies, and their decoding by the server; `encode` is the other side.
//!
//! Bodies, all little-endian, parts in this order:
//!
//! ```text
//! PING         -
//! READ         key
//! COPY         u64 version (0: start anew), u32 offset, u32 length wanted, key
//! INSERT       u32 key length, u32 value length, [u64 version if IF_VERSION], [u64 ttl ms if EXPIRY], key, value or its start
//! CHUNK        u32 offset, u32 zero, bytes: the next part of the INSERT or APPEND that was begun
//! DELETE       [u64 version if IF_VERSION], key
//! INCR         i64 by, [u64 ttl ms if EXPIRY: of an item that it creates], key
//! APPEND       u32 key length, u32 length of the bytes, key, bytes or their start
//! SCAN         u64 cursor, u32 most buckets, u32 skip
//! BUCKET       u32 skip, key
//! DELETE_STEP  u64 cursor, u32 most buckets, u32 zero, prefix
//! TRANSACTION  steps, see `transaction`
//! TTL          key
//! EXPIRE       u64 ttl ms, key
//! PERSIST      key
//! CLEAR        -
//! ```
//!
//! Flags: the low two bits are the condition of INSERT and DELETE (1 IF_ABSENT, 2 IF_PRESENT, 3 IF_VERSION); bit 2 (EXPIRY, of INSERT
//! and INCR) says that the body carries a time to live, bit 3 (KEEP_TTL, of INSERT, not with EXPIRY) that the replaced item's expiry
//! stays. Times to live are relative and the server's clock decides; it takes those beyond [`crate::MAX_TTL_MS`] as that.
//!
//! Kind 255 is the lanes' own (`RESIZE`).

use std::time::Duration;

use crate::{MAX_KEY, MAX_VALUE, Malformed, Ttl, malformed, take};

/// What a request asks for.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but an answer.
    Ping = 1,
    /// A key's value, inline or by reference.
    Read = 2,
    /// A part of a key's value, copied through the lane: the way out for readers that keep losing the race for a reference.
    Copy = 3,
    /// Store a value, or begin to.
    Insert = 4,
    /// The next part of a value that was begun.
    Chunk = 5,
    /// Remove a key.
    Delete = 6,
    /// Add to a decimal number.
    Incr = 7,
    /// Append bytes to a value, or begin to.
    Append = 8,
    /// Items of some buckets from a cursor on.
    Scan = 9,
    /// Items of the bucket that a key belongs to.
    Bucket = 10,
    /// Remove the items of some buckets that have a prefix.
    DeleteStep = 11,
    /// Compare, read and write several keys as one.
    Transaction = 12,
    /// How long a key's item still has to live.
    Ttl = 13,
    /// Give a key's item a time to live.
    Expire = 14,
    /// Take a key's item its expiry.
    Persist = 15,
    /// Remove everything at once.
    Clear = 16,
}

impl Kind {
    /// The kind a raw byte stands for.
    #[inline]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Ping,
            2 => Self::Read,
            3 => Self::Copy,
            4 => Self::Insert,
            5 => Self::Chunk,
            6 => Self::Delete,
            7 => Self::Incr,
            8 => Self::Append,
            9 => Self::Scan,
            10 => Self::Bucket,
            11 => Self::DeleteStep,
            12 => Self::Transaction,
            13 => Self::Ttl,
            14 => Self::Expire,
            15 => Self::Persist,
            16 => Self::Clear,
            _ => return None,
        })
    }

    /// The flags that a request of this kind may carry.
    #[inline]
    fn flags(self) -> u8 {
        match self {
            Self::Insert => CONDITION_MASK | EXPIRY | KEEP_TTL,
            Self::Delete => CONDITION_MASK,
            Self::Incr => EXPIRY,
            _ => 0,
        }
    }
}

const CONDITION_MASK: u8 = 0b11;
const IF_ABSENT: u8 = 1;
const IF_PRESENT: u8 = 2;
const IF_VERSION: u8 = 3;
/// The body carries a time to live.
pub(crate) const EXPIRY: u8 = 0b100;
/// The expiry of the item that is replaced stays.
pub(crate) const KEEP_TTL: u8 = 0b1000;

/// When a write may take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// Only if the key is not there.
    IfAbsent,
    /// Only if the key is there.
    IfPresent,
    /// Only if the item has this version.
    IfVersion(u64),
}

impl Condition {
    pub(crate) fn flags(self) -> u8 {
        match self {
            Self::Always => 0,
            Self::IfAbsent => IF_ABSENT,
            Self::IfPresent => IF_PRESENT,
            Self::IfVersion(_) => IF_VERSION,
        }
    }
}

/// Most bytes of a body that come before the value: fixed parts and the longest key.
pub const HEAD_MAX: usize = 24 + MAX_KEY;

/// A decoded request. Values are not part of it: `value_at` and `here` say where in the body their bytes rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's table describes the parts")]
pub enum Request<'a> {
    Ping,
    Read {
        key: &'a [u8],
    },
    Copy {
        key: &'a [u8],
        version: u64,
        offset: u32,
        len: u32,
    },
    Insert {
        key: &'a [u8],
        condition: Condition,
        ttl: Ttl,
        value_len: usize,
        value_at: usize,
        here: usize,
    },
    Chunk {
        offset: usize,
        value_at: usize,
        here: usize,
    },
    Delete {
        key: &'a [u8],
        condition: Condition,
    },
    Incr {
        key: &'a [u8],
        by: i64,
        ttl: Option<Duration>,
    },
    Append {
        key: &'a [u8],
        len: usize,
        value_at: usize,
        here: usize,
    },
    Scan {
        cursor: u64,
        buckets: u32,
        skip: u32,
    },
    Bucket {
        key: &'a [u8],
        skip: u32,
    },
    DeleteStep {
        cursor: u64,
        buckets: u32,
        prefix: &'a [u8],
    },
    Ttl {
        key: &'a [u8],
    },
    Expire {
        key: &'a [u8],
        ttl: Duration,
    },
    Persist {
        key: &'a [u8],
    },
    Clear,
    /// Its steps are decoded from the whole body, see [`crate::Steps`].
    Transaction,
}

/// Decodes a request from the first bytes of its body: `front` holds at least `min(body_len, HEAD_MAX)` bytes.
///
/// Key and value sizes beyond the limits decode (the server answers them with their own status) as long as the lengths are
/// consistent with the body.
#[inline(always)]
pub fn decode(kind: u8, flags: u8, front: &[u8], body_len: usize) -> Result<Request<'_>, Malformed> {
    let Some(kind) = Kind::from_raw(kind) else {
        return malformed("kind");
    };
    if flags & !kind.flags() != 0 {
        return malformed("flags");
    }
    let mut at = 0;
    match kind {
        Kind::Insert => {
            let key_len = u32::from_le_bytes(take(front, &mut at, "insert")?) as usize;
            let value_len = u32::from_le_bytes(take(front, &mut at, "insert")?) as usize;
            let condition = condition(flags, front, &mut at)?;
            let ttl = ttl(flags, front, &mut at)?;
            let (key, value_at, here) = key_and_value(front, at, key_len, value_len, body_len)?;
            Ok(Request::Insert { key, condition, ttl, value_len, value_at, here })
        }
        Kind::Read => Ok(Request::Read { key: rest(front, at, body_len)? }),
        Kind::Delete => {
            let condition = condition(flags, front, &mut at)?;
            Ok(Request::Delete { key: rest(front, at, body_len)?, condition })
        }
        Kind::Bucket => {
            let skip = u32::from_le_bytes(take(front, &mut at, "bucket")?);
            Ok(Request::Bucket { key: rest(front, at, body_len)?, skip })
        }
        Kind::Ping => Ok(Request::Ping),
        Kind::Copy => {
            let version = u64::from_le_bytes(take(front, &mut at, "copy")?);
            let offset = u32::from_le_bytes(take(front, &mut at, "copy")?);
            let len = u32::from_le_bytes(take(front, &mut at, "copy")?);
            Ok(Request::Copy { key: rest(front, at, body_len)?, version, offset, len })
        }
        Kind::Chunk => {
            let offset = u32::from_le_bytes(take(front, &mut at, "chunk")?) as usize;
            let _: [u8; 4] = take(front, &mut at, "chunk")?;
            if body_len < at || body_len - at > MAX_VALUE || offset > MAX_VALUE {
                return malformed("chunk length");
            }
            Ok(Request::Chunk { offset, value_at: at, here: body_len - at })
        }
        Kind::Incr => {
            let by = i64::from_le_bytes(take(front, &mut at, "incr")?);
            let ttl = if flags & EXPIRY == 0 { None } else { Some(duration(front, &mut at)?) };
            Ok(Request::Incr { key: rest(front, at, body_len)?, by, ttl })
        }
        Kind::Append => {
            let key_len = u32::from_le_bytes(take(front, &mut at, "append")?) as usize;
            let len = u32::from_le_bytes(take(front, &mut at, "append")?) as usize;
            let (key, value_at, here) = key_and_value(front, at, key_len, len, body_len)?;
            Ok(Request::Append { key, len, value_at, here })
        }
        Kind::Scan => {
            let cursor = u64::from_le_bytes(take(front, &mut at, "scan")?);
            let buckets = u32::from_le_bytes(take(front, &mut at, "scan")?);
            let skip = u32::from_le_bytes(take(front, &mut at, "scan")?);
            Ok(Request::Scan { cursor, buckets, skip })
        }
        Kind::DeleteStep => {
            let cursor = u64::from_le_bytes(take(front, &mut at, "delete step")?);
            let buckets = u32::from_le_bytes(take(front, &mut at, "delete step")?);
            let _: [u8; 4] = take(front, &mut at, "delete step")?;
            Ok(Request::DeleteStep { cursor, buckets, prefix: rest(front, at, body_len)? })
        }
        Kind::Transaction => Ok(Request::Transaction),
        Kind::Ttl => Ok(Request::Ttl { key: rest(front, at, body_len)? }),
        Kind::Expire => {
            let ttl = duration(front, &mut at)?;
            Ok(Request::Expire { key: rest(front, at, body_len)?, ttl })
        }
        Kind::Persist => Ok(Request::Persist { key: rest(front, at, body_len)? }),
        Kind::Clear => Ok(Request::Clear),
    }
}

#[inline]
fn condition(flags: u8, front: &[u8], at: &mut usize) -> Result<Condition, Malformed> {
    Ok(match flags & CONDITION_MASK {
        0 => Condition::Always,
        IF_ABSENT => Condition::IfAbsent,
        IF_PRESENT => Condition::IfPresent,
        _ => Condition::IfVersion(u64::from_le_bytes(take(front, at, "version")?)),
    })
}

#[inline]
fn ttl(flags: u8, front: &[u8], at: &mut usize) -> Result<Ttl, Malformed> {
    match flags & (EXPIRY | KEEP_TTL) {
        0 => Ok(Ttl::None),
        EXPIRY => Ok(Ttl::For(duration(front, at)?)),
        KEEP_TTL => Ok(Ttl::Keep),
        _ => malformed("ttl flags"),
    }
}

#[inline]
fn duration(front: &[u8], at: &mut usize) -> Result<Duration, Malformed> {
    Ok(Duration::from_millis(u64::from_le_bytes(take(front, at, "ttl")?)))
}

/// The rest of the body, which must be whole in `front`: a key or a prefix. One that is too long to be whole is cut at what is
/// there, which is beyond [`MAX_KEY`] and refused by its length.
#[inline]
fn rest(front: &[u8], at: usize, body_len: usize) -> Result<&[u8], Malformed> {
    match front.get(at..body_len.min(front.len())) {
        Some(key) => Ok(key),
        None => malformed("key"),
    }
}

#[inline]
fn key_and_value(
    front: &[u8],
    at: usize,
    key_len: usize,
    value_len: usize,
    body_len: usize,
) -> Result<(&[u8], usize, usize), Malformed> {
    // A key longer than any that is accepted is cut to what was copied; it is refused by its length, never looked up.
    let end = at.saturating_add(key_len);
    if end > body_len {
        return malformed("key length");
    }
    let Some(key) = front.get(at..end.min(front.len())) else {
        return malformed("key");
    };
    let here = body_len - end;
    if here > value_len {
        return malformed("value length");
    }
    Ok((key, end, here))
}
