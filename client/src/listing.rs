//! Buckets, scans, and removals that walk the table in bounded steps.

use protocol::{Entries, EntryValue, Head, Status, encode_bucket, encode_clear, encode_delete_step, encode_scan};

use crate::client::{Client, unexpected};
use crate::error::Error;
use crate::expiry::Remaining;

/// Bytes that a listing makes room for at first.
const ROOM: usize = 4 << 10;
/// Bytes that any single item of a listing fits into: the longest key and a reference.
const MOST_ROOM: usize = 16 << 10;
/// Buckets looked at in one step.
const STEP: u32 = 256;
/// Highest index of a bucket that a cursor can hold.
const MOST_INDEX: u64 = (1 << 36) - 1;
/// The cursor that means the end.
const END: u64 = u64::MAX;
/// Reads of a value that was replaced while it was listed, before its expiry may be an older one's.
const PAIR_TRIES: u32 = 8;
/// The type's part of an entry's byte.
const TYPE_MASK: u8 = 31;

/// An item of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The item's version.
    pub version: u64,
    /// How long it still had to live when it was listed.
    pub remaining: Remaining,
    /// The type of the value: 0 for plain bytes, the only one so far.
    pub kind: u8,
}

/// A bucket with its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Index of the bucket.
    pub index: u64,
    /// Its items, in no particular order.
    pub items: Vec<Item>,
}

struct Page {
    bucket: u64,
    /// Cursor to go on from.
    next: u64,
    /// The reply had no room for the rest: go on, leaving out so many items.
    rest: Option<u32>,
}

impl Client {
    /// The bucket that a key belongs to, with its items.
    ///
    /// # Errors
    /// [`Error::KeySize`] and those of [`Client::wait`].
    pub fn bucket(&mut self, key: &[u8]) -> Result<Bucket, Error> {
        if key.is_empty() || key.len() > protocol::MAX_KEY {
            return Err(Error::KeySize { found: key.len() });
        }
        loop {
            let mut items = Vec::new();
            let page = self.page(encode_bucket(0), key, &mut items)?;
            let (index, paged) = (page.bucket, page.rest.is_some());
            self.rest_of_bucket(page, &mut items)?;
            // Between two pages a growing table may have moved the key to another bucket. That happens once per doubling.
            if !paged || self.page(encode_bucket(0), key, &mut Vec::new())?.bucket == index {
                return Ok(Bucket { index, items });
            }
        }
    }

    /// Collects what the first page of a bucket had no room for. Items that two pages share are kept once.
    fn rest_of_bucket(&mut self, mut page: Page, items: &mut Vec<Item>) -> Result<(), Error> {
        let paged = page.rest.is_some();
        while let Some(skip) = page.rest {
            page = self.page(encode_scan(page.next, 1, skip), &[], items)?;
        }
        if paged {
            items.sort_by(|one, other| one.key.cmp(&other.key));
            items.dedup_by(|one, other| one.key == other.key);
        }
        Ok(())
    }

    /// A bucket by its index; `None` when there is no such bucket.
    ///
    /// # Errors
    /// Those of [`Client::wait`].
    pub fn bucket_at(&mut self, index: u64) -> Result<Option<Bucket>, Error> {
        if index > MOST_INDEX {
            return Ok(None);
        }
        let mut items = Vec::new();
        let page = self.page(encode_scan(index, 1, 0), &[], &mut items)?;
        if page.bucket != index {
            // The server knows how many there are at this moment; what it published is older.
            return Ok(None);
        }
        self.rest_of_bucket(page, &mut items)?;
        Ok(Some(Bucket { index, items }))
    }

    /// Number of buckets, which grows with the table: as it is now, or, for a process without the right to read the table, as the server
    /// published it last.
    pub fn buckets(&self) -> u64 {
        self.table().map_or_else(|| self.counter(protocol::Counter::Buckets), |table| table.stats().buckets)
    }

    /// Walks the whole table. Every item that is there throughout is seen at least once; one that is written meanwhile may be seen
    /// or not, or twice.
    pub fn scan(&mut self) -> Scan<'_> {
        Scan { client: self, page: Vec::new().into_iter(), cursor: 0, skip: 0, failed: false }
    }

    /// Removes every key that begins with `prefix`; returns how many. Each key goes at once, but not all of them together: it walks the
    /// table in steps, and keys that are stored meanwhile may go or stay.
    ///
    /// # Errors
    /// [`Error::KeySize`] for a prefix longer than any key, and those of [`Client::wait`].
    pub fn delete_prefix(&mut self, prefix: &[u8]) -> Result<u64, Error> {
        if prefix.len() > protocol::MAX_KEY {
            return Err(Error::KeySize { found: prefix.len() });
        }
        let (mut removed, mut cursor) = (0, 0);
        while cursor != END {
            let reply = self.call(&encode_delete_step(cursor, STEP), prefix, true, 0)?;
            if reply.status != Status::Stepped {
                return Err(unexpected(&reply, prefix.len(), 0));
            }
            if reply.b <= cursor {
                return Err(Error::Protocol("a cursor that stands still"));
            }
            removed += reply.a;
            cursor = reply.b;
        }
        Ok(removed)
    }

    /// Removes everything at one moment: what was stored before is gone for everybody, what is stored after stays. Returns how many items
    /// there were, those that were over but not yet swept up included.
    ///
    /// # Errors
    /// Those of [`Client::wait`].
    pub fn clear(&mut self) -> Result<u64, Error> {
        let reply = self.call(&encode_clear(), &[], true, 0)?;
        match reply.status {
            Status::Cleared => Ok(reply.a),
            _ => Err(unexpected(&reply, 0, 0)),
        }
    }

    /// One listing reply, its items appended to `items`.
    fn page(&mut self, head: Head, key: &[u8], items: &mut Vec<Item>) -> Result<Page, Error> {
        let mut room = ROOM;
        loop {
            let reply = self.call(&head, key, false, room)?;
            match reply.status {
                Status::RoomTooSmall if room < MOST_ROOM => room = MOST_ROOM,
                Status::Items => {
                    let mut bytes = Vec::new();
                    self.reply_bytes(reply.c as u32 as usize, &mut bytes);
                    self.collect(&bytes, items)?;
                    let rest = ((reply.c >> 32) as u32).checked_sub(1);
                    return Ok(Page { bucket: reply.a, next: reply.b, rest });
                }
                _ => return Err(unexpected(&reply, key.len(), 0)),
            }
        }
    }

    fn collect(&mut self, bytes: &[u8], items: &mut Vec<Item>) -> Result<(), Error> {
        for entry in Entries::new(bytes) {
            let entry = entry.map_err(|error| Error::Protocol(error.what))?;
            let (mut version, mut remaining) = (entry.version, Remaining::of_ms(entry.ttl_ms));
            let value = match entry.value {
                EntryValue::Inline(value) => value.to_vec(),
                EntryValue::Reference { offset, len } => {
                    let mut value = Vec::new();
                    let copied = self.table().is_some_and(|table| table.copy(offset, version, entry.key.len(), len, &mut value));
                    if !copied {
                        // Replaced meanwhile, or not ours to read: ask for the item as it is now.
                        match self.read_with_expiry(entry.key, &mut value)? {
                            Some(newer) => (version, remaining) = newer,
                            None => continue,
                        }
                    }
                    value
                }
            };
            items.push(Item { key: entry.key.to_vec(), value, version, remaining, kind: entry.type_and_flags & TYPE_MASK });
        }
        Ok(())
    }

    /// A value with the version and the expiry that belong to it.
    fn read_with_expiry(&mut self, key: &[u8], value: &mut Vec<u8>) -> Result<Option<(u64, Remaining)>, Error> {
        let mut pair = None;
        for _ in 0..PAIR_TRIES {
            let Some(version) = self.read_into(key, value)? else { return Ok(None) };
            let Some((newest, remaining)) = self.ttl_versioned(key)? else { return Ok(None) };
            pair = Some((version, remaining));
            if newest == version {
                break;
            }
        }
        Ok(pair)
    }
}

/// A walk over the whole table; see [`Client::scan`].
#[derive(Debug)]
pub struct Scan<'a> {
    client: &'a mut Client,
    page: std::vec::IntoIter<Item>,
    cursor: u64,
    skip: u32,
    failed: bool,
}

impl Iterator for Scan<'_> {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.page.next() {
                return Some(Ok(item));
            }
            if self.failed || self.cursor == END {
                return None;
            }
            let mut items = Vec::new();
            let (cursor, skip) = (self.cursor, self.skip);
            match self.client.page(encode_scan(cursor, STEP, skip), &[], &mut items) {
                Ok(page) if page.next == cursor && page.rest.is_none_or(|rest| rest <= skip) => {
                    self.failed = true;
                    return Some(Err(Error::Protocol("a cursor that stands still")));
                }
                Ok(page) => {
                    (self.cursor, self.skip) = (page.next, page.rest.unwrap_or(0));
                    self.page = items.into_iter();
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
