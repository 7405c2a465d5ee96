//! Operations and outcomes of pipelined and polled requests.

use std::time::Duration;

use protocol::{Condition, Entries, EntryValue, Ttl};

use crate::error::Error;
use crate::expiry::Remaining;
use crate::table_map::TableMap;

/// A request to submit.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the fields are what they are called")]
pub enum Operation<'a> {
    /// Nothing but an answer.
    Ping,
    /// Read a key.
    Read { key: &'a [u8] },
    /// Store a value, to live as long as `ttl` says.
    Insert { key: &'a [u8], value: &'a [u8], condition: Condition, ttl: Ttl },
    /// Remove a key.
    Delete { key: &'a [u8], condition: Condition },
    /// Add to a number; one that this creates lives for `ttl`.
    Incr { key: &'a [u8], by: i64, ttl: Option<Duration> },
    /// Append to a value.
    Append { key: &'a [u8], bytes: &'a [u8] },
    /// List the bucket of a key.
    Bucket { key: &'a [u8] },
    /// Ask how long a key's item still has to live.
    Ttl { key: &'a [u8] },
    /// Give a key's item a time to live.
    Expire { key: &'a [u8], ttl: Duration },
    /// Let a key's item live until it is removed.
    Persist { key: &'a [u8] },
}

impl<'a> Operation<'a> {
    /// Store a value in any case, to live until it is removed.
    pub fn insert(key: &'a [u8], value: &'a [u8]) -> Self {
        Self::Insert { key, value, condition: Condition::Always, ttl: Ttl::None }
    }
}

impl Operation<'_> {
    /// Whether it may change the table.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Ping | Self::Read { .. } | Self::Bucket { .. } | Self::Ttl { .. })
    }

    pub(crate) fn value_len(&self) -> usize {
        match self {
            Self::Insert { value, .. } => value.len(),
            Self::Append { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// A reply, delivered in the order in which the requests were submitted.
#[derive(Debug)]
pub struct Completion<'a> {
    /// The ticket that submitting returned.
    pub ticket: u64,
    /// What became of the request.
    pub outcome: Outcome<'a>,
}

/// What became of a request.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are what they are called")]
pub enum Outcome<'a> {
    /// Answer to a ping.
    Pong,
    /// Stored, anew or in another value's place.
    Stored { replaced: bool, version: u64 },
    /// The value.
    Value { version: u64, bytes: &'a [u8] },
    /// No such key.
    NotFound,
    /// The condition did not hold; `version` is what is there, 0 for nothing.
    ConditionNotMet { version: u64 },
    /// Removed.
    Deleted { version: u64 },
    /// The number after the addition.
    Number { value: i64, version: u64 },
    /// The length after the append.
    Length { len: u64, version: u64 },
    /// How long the item still has to live.
    Expiry { version: u64, remaining: Remaining },
    /// The item's expiry was set or taken.
    ExpirySet { version: u64 },
    /// The items of a bucket. `whole` is false when the reply had no room for all of them: list the bucket with [`crate::Client::bucket`].
    Items { bucket: u64, items: Items<'a>, whole: bool },
    /// The request failed; others are not affected.
    Failed(Error),
}

/// The items of a listing as `(key, value)`; an item whose value was replaced before it could be copied is an error.
#[derive(Debug)]
pub struct Items<'a> {
    pub(crate) entries: Entries<'a>,
    pub(crate) table: Option<&'a TableMap>,
    pub(crate) room: Vec<u8>,
}

impl Items<'_> {
    /// Calls `visit` with every key and value until it returns false.
    ///
    /// # Errors
    /// [`Error::Overtaken`] when a large value was replaced while it was copied, [`Error::Protocol`] for a listing that makes no sense.
    pub fn for_each(&mut self, mut visit: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), Error> {
        for entry in self.entries.by_ref() {
            let entry = entry.map_err(|error| Error::Protocol(error.what))?;
            let value = match entry.value {
                EntryValue::Inline(value) => value,
                EntryValue::Reference { offset, len } => {
                    self.room.clear();
                    let table = self.table.ok_or(Error::Overtaken)?;
                    if !table.copy(offset, entry.version, entry.key.len(), len, &mut self.room) {
                        return Err(Error::Overtaken);
                    }
                    &self.room
                }
            };
            if !visit(entry.key, value) {
                break;
            }
        }
        Ok(())
    }
}
