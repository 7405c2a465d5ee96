//! Items as bucket listings and scans carry them.
//!
//! ```text
//! u16 key length, u8 flags (bit 0: by reference, bit 1: with a time to live), u8 type and flags of the item, u32 value length,
//! u64 version, [u64 ms still to live], [u64 item offset if by reference], key, [value unless by reference], zeros to a multiple of 8
//! ```

use crate::{MAX_KEY, MAX_VALUE, Malformed, malformed, take};

const BY_REFERENCE: u8 = 1;
const WITH_TTL: u8 = 2;

/// The type of plain bytes, the only one that clients store so far.
pub const TYPE_BYTES: u8 = 0;

/// A value in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryValue<'a> {
    /// The bytes themselves.
    Inline(&'a [u8]),
    /// Where the item rests in the table.
    Reference {
        /// Offset of the item in the table's section, in bytes.
        offset: u64,
        /// Length of the value in bytes.
        len: usize,
    },
}

/// One item of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The item's version.
    pub version: u64,
    /// Milliseconds that it still had to live when it was listed; `None`: until it is removed.
    pub ttl_ms: Option<u64>,
    /// Its type in the low five bits, flags in the high three.
    pub type_and_flags: u8,
    /// Its value.
    pub value: EntryValue<'a>,
}

/// Bytes that an entry takes.
pub fn encoded_entry_len(entry: &Entry<'_>) -> usize {
    let tail = match entry.value {
        EntryValue::Inline(value) => value.len(),
        EntryValue::Reference { .. } => 8,
    };
    let ttl = if entry.ttl_ms.is_some() { 8 } else { 0 };
    (16 + ttl + entry.key.len() + tail).next_multiple_of(8)
}

/// Appends an entry to `out`.
pub fn encode_entry(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let (flags, len) = match entry.value {
        EntryValue::Inline(value) => (0, value.len()),
        EntryValue::Reference { len, .. } => (BY_REFERENCE, len),
    };
    out.extend_from_slice(&(entry.key.len() as u16).to_le_bytes());
    out.extend_from_slice(&[flags | if entry.ttl_ms.is_some() { WITH_TTL } else { 0 }, entry.type_and_flags]);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&entry.version.to_le_bytes());
    if let Some(ttl_ms) = entry.ttl_ms {
        out.extend_from_slice(&ttl_ms.to_le_bytes());
    }
    if let EntryValue::Reference { offset, .. } = entry.value {
        out.extend_from_slice(&offset.to_le_bytes());
    }
    out.extend_from_slice(entry.key);
    if let EntryValue::Inline(value) = entry.value {
        out.extend_from_slice(value);
    }
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Walks the entries of a listing; an `Err` ends the walk.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Entries<'a> {
    /// A walk over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn decode(&mut self) -> Result<Entry<'a>, Malformed> {
        let bytes = self.bytes;
        let at = &mut self.at;
        let key_len = usize::from(u16::from_le_bytes(take(bytes, at, "entry")?));
        let [flags, type_and_flags] = take(bytes, at, "entry")?;
        let len = u32::from_le_bytes(take(bytes, at, "entry")?) as usize;
        let version = u64::from_le_bytes(take(bytes, at, "entry")?);
        if key_len > MAX_KEY || len > MAX_VALUE || flags & !(BY_REFERENCE | WITH_TTL) != 0 {
            return malformed("entry");
        }
        let mut word = |flag: u8| match flags & flag {
            0 => Ok(None),
            _ => take(bytes, at, "entry").map(|word| Some(u64::from_le_bytes(word))),
        };
        let (ttl_ms, reference) = (word(WITH_TTL)?, word(BY_REFERENCE)?);
        let mut part = |len: usize| match bytes.get(*at..*at + len) {
            Some(part) => {
                *at += len;
                Ok(part)
            }
            None => malformed("entry"),
        };
        let key = part(key_len)?;
        let value = match reference {
            Some(offset) => EntryValue::Reference { offset, len },
            None => EntryValue::Inline(part(len)?),
        };
        self.at = self.at.next_multiple_of(8);
        Ok(Entry { key, version, ttl_ms, type_and_flags, value })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let entry = self.decode();
        if entry.is_err() {
            self.at = self.bytes.len();
        }
        Some(entry)
    }
}
