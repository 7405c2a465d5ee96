//! Items as bucket listings and scans carry them.
//!
//! ```text
//! u16 key length, u16 flags (bit 0: by reference), u32 value length, u64 version, [u64 item offset if by reference], key,
//! [value unless by reference], zeros to a multiple of 8
//! ```

use crate::{MAX_KEY, MAX_VALUE, Malformed, malformed, take};

const BY_REFERENCE: u16 = 1;

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
    /// Its value.
    pub value: EntryValue<'a>,
}

/// Bytes that an entry takes.
pub fn encoded_entry_len(entry: &Entry<'_>) -> usize {
    let tail = match entry.value {
        EntryValue::Inline(value) => value.len(),
        EntryValue::Reference { .. } => 8,
    };
    (16 + entry.key.len() + tail).next_multiple_of(8)
}

/// Appends an entry to `out`.
pub fn encode_entry(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let (flags, len) = match entry.value {
        EntryValue::Inline(value) => (0, value.len()),
        EntryValue::Reference { len, .. } => (BY_REFERENCE, len),
    };
    out.extend_from_slice(&(entry.key.len() as u16).to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&entry.version.to_le_bytes());
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
        let flags = u16::from_le_bytes(take(bytes, at, "entry")?);
        let len = u32::from_le_bytes(take(bytes, at, "entry")?) as usize;
        let version = u64::from_le_bytes(take(bytes, at, "entry")?);
        if key_len > MAX_KEY || len > MAX_VALUE || flags & !BY_REFERENCE != 0 {
            return malformed("entry");
        }
        let reference = if flags & BY_REFERENCE != 0 { Some(u64::from_le_bytes(take(bytes, at, "entry")?)) } else { None };
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
        Ok(Entry { key, version, value })
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
