//! The fixed first parts of requests, as clients write them; `request` has the table of bodies and reads them.

use std::time::Duration;

use crate::request::{EXPIRY, KEEP_TTL};
use crate::{Condition, Kind, Ttl, ttl_ms};

/// The fixed first part of a body, built on the stack; key and value follow it from where they are.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The request's kind.
    pub kind: Kind,
    /// The request's flags.
    pub flags: u8,
    bytes: [u8; 24],
    len: usize,
}

impl Head {
    #[inline]
    fn new(kind: Kind, flags: u8) -> Self {
        Self { kind, flags, bytes: [0; 24], len: 0 }
    }

    #[inline]
    fn push<const N: usize>(mut self, part: [u8; N]) -> Self {
        self.bytes[self.len..self.len + N].copy_from_slice(&part);
        self.len += N;
        self
    }

    /// The encoded bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// PING.
pub fn encode_ping() -> Head {
    Head::new(Kind::Ping, 0)
}

/// READ: the key follows.
#[inline]
pub fn encode_read() -> Head {
    Head::new(Kind::Read, 0)
}

/// COPY of `len` bytes from `offset` of the value that had `version` when the copy began (0: begin); the key follows.
pub fn encode_copy(version: u64, offset: u32, len: u32) -> Head {
    Head::new(Kind::Copy, 0).push(version.to_le_bytes()).push(offset.to_le_bytes()).push(len.to_le_bytes())
}

/// INSERT: key and value (or its start) follow. `key_len` is at most [`MAX_KEY`](crate::MAX_KEY).
#[inline]
pub fn encode_insert(key_len: usize, value_len: usize, condition: Condition, ttl: Ttl) -> Head {
    let flags = match ttl {
        Ttl::None => 0,
        Ttl::Keep => KEEP_TTL,
        Ttl::For(_) => EXPIRY,
    };
    let mut head = Head::new(Kind::Insert, condition.flags() | flags)
        .push((key_len as u32).to_le_bytes())
        .push((value_len as u32).to_le_bytes());
    if let Condition::IfVersion(version) = condition {
        head = head.push(version.to_le_bytes());
    }
    match ttl {
        Ttl::For(ttl) => head.push(ttl_ms(ttl).to_le_bytes()),
        _ => head,
    }
}

/// CHUNK at `offset`: the bytes follow.
pub fn encode_chunk(offset: usize) -> Head {
    Head::new(Kind::Chunk, 0).push((offset as u32).to_le_bytes()).push([0; 4])
}

/// DELETE: the key follows.
#[inline]
pub fn encode_delete(condition: Condition) -> Head {
    let head = Head::new(Kind::Delete, condition.flags());
    match condition {
        Condition::IfVersion(version) => head.push(version.to_le_bytes()),
        _ => head,
    }
}

/// INCR by `by`; the key follows. An item that it creates lives for `ttl`.
pub fn encode_incr(by: i64, ttl: Option<Duration>) -> Head {
    let head = Head::new(Kind::Incr, if ttl.is_some() { EXPIRY } else { 0 }).push(by.to_le_bytes());
    match ttl {
        Some(ttl) => head.push(ttl_ms(ttl).to_le_bytes()),
        None => head,
    }
}

/// APPEND: key and bytes (or their start) follow.
pub fn encode_append(key_len: usize, len: usize) -> Head {
    Head::new(Kind::Append, 0).push((key_len as u32).to_le_bytes()).push((len as u32).to_le_bytes())
}

/// SCAN from `cursor`, at most `buckets` buckets, leaving out the first `skip` items of the first bucket.
pub fn encode_scan(cursor: u64, buckets: u32, skip: u32) -> Head {
    Head::new(Kind::Scan, 0).push(cursor.to_le_bytes()).push(buckets.to_le_bytes()).push(skip.to_le_bytes())
}

/// BUCKET of the key that follows, leaving out its first `skip` items.
#[inline]
pub fn encode_bucket(skip: u32) -> Head {
    Head::new(Kind::Bucket, 0).push(skip.to_le_bytes())
}

/// DELETE_STEP from `cursor`, at most `buckets` buckets; the prefix follows.
pub fn encode_delete_step(cursor: u64, buckets: u32) -> Head {
    Head::new(Kind::DeleteStep, 0).push(cursor.to_le_bytes()).push(buckets.to_le_bytes()).push([0; 4])
}

/// TRANSACTION: the steps follow.
pub fn encode_transaction() -> Head {
    Head::new(Kind::Transaction, 0)
}

/// TTL: the key follows.
pub fn encode_ttl() -> Head {
    Head::new(Kind::Ttl, 0)
}

/// EXPIRE after `ttl`: the key follows.
pub fn encode_expire(ttl: Duration) -> Head {
    Head::new(Kind::Expire, 0).push(ttl_ms(ttl).to_le_bytes())
}

/// PERSIST: the key follows.
pub fn encode_persist() -> Head {
    Head::new(Kind::Persist, 0)
}

/// CLEAR.
pub fn encode_clear() -> Head {
    Head::new(Kind::Clear, 0)
}
