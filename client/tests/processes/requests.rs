//! Random requests on one key, and how they are sent.

use std::time::Duration;

use shmtable::{Condition, Operation, Ttl};

/// A time to live that no test outlives.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// A request on one key.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Insert(Vec<u8>, When),
    InsertFor(Vec<u8>, When, Life),
    IncrFor(i64, Life),
    Expire(Life),
    Persist,
    Ttl,
    Read,
    Delete(When),
    Incr(i64),
    Append(Vec<u8>),
    Bucket,
}

/// A condition, with versions by what they mean.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Always,
    Absent,
    Present,
    /// The version that is there.
    Current,
    /// A version that never was.
    Stale,
}

/// A time to live after which nobody has to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    /// Over when it begins.
    None,
    /// Longer than any test.
    Long,
    /// What the replaced item has; of other requests than inserts: long.
    Kept,
}

impl Life {
    fn duration(self) -> Duration {
        if matches!(self, Self::None) { Duration::ZERO } else { LONG }
    }

    fn ttl(self) -> Ttl {
        if matches!(self, Self::Kept) { Ttl::Keep } else { Ttl::For(self.duration()) }
    }
}

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Sync,
    Pipeline(usize),
    Poll,
}

impl Request {
    /// Its condition.
    pub(crate) fn when(&self) -> When {
        match self {
            Self::Insert(_, when) | Self::InsertFor(_, when, _) | Self::Delete(when) => *when,
            _ => When::Always,
        }
    }

    /// The same for the library, with the condition in its terms.
    pub(crate) fn operation<'a>(&'a self, key: &'a [u8], condition: Condition) -> Operation<'a> {
        match self {
            Self::Insert(value, _) => Operation::Insert { key, value, condition, ttl: Ttl::None },
            Self::InsertFor(value, _, life) => Operation::Insert { key, value, condition, ttl: life.ttl() },
            Self::Read => Operation::Read { key },
            Self::Delete(_) => Operation::Delete { key, condition },
            Self::Incr(by) => Operation::Incr { key, by: *by, ttl: None },
            Self::IncrFor(by, life) => Operation::Incr { key, by: *by, ttl: Some(life.duration()) },
            Self::Append(bytes) => Operation::Append { key, bytes },
            Self::Bucket => Operation::Bucket { key },
            Self::Expire(life) => Operation::Expire { key, ttl: life.duration() },
            Self::Persist => Operation::Persist { key },
            Self::Ttl => Operation::Ttl { key },
        }
    }
}
