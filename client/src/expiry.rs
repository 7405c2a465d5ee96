//! Times to live: inserts and increments that set one, and the calls that ask, set and take it.
//!
//! The server's clock decides when an item is over (the boot clock of the host: a stepped wall clock changes nothing, and
//! the time of a suspended machine counts). From then on no read finds it and conditions take it for absent; its memory comes back
//! a little later.

use std::time::Duration;

use protocol::{Condition, Reply, Status, Ttl, encode_expire, encode_incr, encode_persist, encode_ttl};

use crate::client::{Client, Stored, unexpected};
use crate::error::Error;
use crate::operation::Operation;

/// How long an item still has to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// Until it is removed.
    Forever,
    /// So long, in whole milliseconds, unless it is removed or its expiry is changed before.
    For(Duration),
}

impl Remaining {
    pub(crate) fn of_ms(ms: Option<u64>) -> Self {
        ms.map_or(Self::Forever, |ms| Self::For(Duration::from_millis(ms)))
    }

    /// What an EXPIRY reply says.
    pub(crate) fn of(reply: &Reply) -> Self {
        Self::of_ms((reply.b != u64::MAX).then_some(reply.b))
    }

    /// The time to live that gives another item as long as this one has left.
    pub fn as_ttl(self) -> Ttl {
        match self {
            Self::Forever => Ttl::None,
            Self::For(left) => Ttl::For(left),
        }
    }
}

/// What [`Client::insert_with`] heeds: a condition and a time to live.
///
/// ```
/// use std::time::Duration;
/// use shmtable::{Condition, InsertOptions, Ttl};
///
/// let options = InsertOptions::new().condition(Condition::IfAbsent).ttl(Duration::from_secs(30));
/// assert_eq!(options.ttl, Ttl::For(Duration::from_secs(30)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InsertOptions {
    /// When to store at all.
    pub condition: Condition,
    /// How long what is stored is to live.
    pub ttl: Ttl,
}

impl InsertOptions {
    /// Store in any case, to live until it is removed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Store only if this holds.
    pub fn condition(self, condition: Condition) -> Self {
        Self { condition, ..self }
    }

    /// Let it live so long; see [`Ttl::For`].
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl: Ttl::For(ttl), ..self }
    }

    /// Let it live as long as the item that it replaces would have; see [`Ttl::Keep`].
    pub fn keep_ttl(self) -> Self {
        Self { ttl: Ttl::Keep, ..self }
    }
}

impl Client {
    /// Stores a value under a condition and with a time to live; `None` when the condition does not hold.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use shmtable::{Client, Condition, InsertOptions, Options};
    /// # let mut client = Client::attach(&Options::new("shmtable"))?;
    /// // A lock that frees itself after ten seconds.
    /// let options = InsertOptions::new().condition(Condition::IfAbsent).ttl(Duration::from_secs(10));
    /// let mine = client.insert_with(b"lock:report", b"me", options)?.is_some();
    /// # Ok::<(), shmtable::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Client::insert`].
    #[inline]
    pub fn insert_with(&mut self, key: &[u8], value: &[u8], options: InsertOptions) -> Result<Option<Stored>, Error> {
        let InsertOptions { condition, ttl } = options;
        let reply = self.send_value(&Operation::Insert { key, value, condition, ttl })?;
        let version = reply.version();
        match reply.status {
            Status::Inserted => Ok(Some(Stored { replaced: false, version })),
            Status::Replaced => Ok(Some(Stored { replaced: true, version })),
            Status::ConditionNotMet | Status::NotFound => Ok(None),
            _ => Err(unexpected(&reply, key.len(), value.len())),
        }
    }

    /// Adds to a decimal number; a missing key counts as 0 and is created with the time to live `ttl`, while one that is there keeps
    /// what it has: a counter per window of time, as rate limits need it, in one request. Returns the sum.
    ///
    /// # Errors
    /// As [`Client::incr`].
    pub fn incr_with(&mut self, key: &[u8], by: i64, ttl: Option<Duration>) -> Result<i64, Error> {
        Self::check_key(key)?;
        let reply = self.call(&encode_incr(by, ttl), key, true, 0)?;
        match reply.status {
            Status::Number => Ok(reply.b as i64),
            _ => Err(unexpected(&reply, key.len(), 0)),
        }
    }

    /// How long a key's item still has to live; `None` when there is no such key.
    ///
    /// # Errors
    /// [`Error::KeySize`] and those of [`Client::wait`].
    pub fn ttl(&mut self, key: &[u8]) -> Result<Option<Remaining>, Error> {
        Ok(self.ttl_versioned(key)?.map(|(_, remaining)| remaining))
    }

    /// The version of a key's item and how long it still has to live.
    pub(crate) fn ttl_versioned(&mut self, key: &[u8]) -> Result<Option<(u64, Remaining)>, Error> {
        Self::check_key(key)?;
        let reply = self.call(&encode_ttl(), key, false, 0)?;
        match reply.status {
            Status::Expiry => Ok(Some((reply.version(), Remaining::of(&reply)))),
            Status::NotFound => Ok(None),
            _ => Err(unexpected(&reply, key.len(), 0)),
        }
    }

    /// Gives a key's item a time to live, counted from now; false when there is no such key. Value and version stay. The rules for short
    /// and long times are those of [`Ttl::For`].
    ///
    /// # Errors
    /// [`Error::KeySize`] and those of [`Client::wait`].
    pub fn expire(&mut self, key: &[u8], ttl: Duration) -> Result<bool, Error> {
        self.set_expiry(&encode_expire(ttl), key)
    }

    /// Lets a key's item live until it is removed; false when there is no such key. Value and version stay.
    ///
    /// # Errors
    /// As [`Client::expire`].
    pub fn persist(&mut self, key: &[u8]) -> Result<bool, Error> {
        self.set_expiry(&encode_persist(), key)
    }

    fn set_expiry(&mut self, head: &protocol::Head, key: &[u8]) -> Result<bool, Error> {
        Self::check_key(key)?;
        let reply = self.call(head, key, true, 0)?;
        match reply.status {
            Status::ExpirySet => Ok(true),
            Status::NotFound => Ok(false),
            _ => Err(unexpected(&reply, key.len(), 0)),
        }
    }
}
