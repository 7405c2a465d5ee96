//! What a client did: its call, the answer, and when the one began and the other was there.

use std::fmt;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use shmtable::Condition;

/// Nanoseconds of the clock that nobody steps or slews, the same for every thread and process.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Bytes that many records share.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bytes(pub(crate) Arc<[u8]>);

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.0[..self.0.len().min(20)];
        write!(out, "\"{}\"", start.escape_ascii())?;
        if start.len() < self.0.len() { write!(out, "…{} bytes", self.0.len()) } else { Ok(()) }
    }
}

/// How long what is stored is to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Endless,
    /// As long as what it replaces.
    Kept,
    Ms(u64),
}

/// What a client asked for. Keys are numbers of the history's own.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Read {
        key: usize,
    },
    Insert {
        key: usize,
        value: Bytes,
        when: Condition,
        life: Life,
    },
    Delete {
        key: usize,
        when: Condition,
    },
    Incr {
        key: usize,
        by: i64,
        life: Life,
    },
    Append {
        key: usize,
        bytes: Bytes,
    },
    /// How long has it to live?
    Left {
        key: usize,
    },
    Expire {
        key: usize,
        ms: u64,
    },
    Persist {
        key: usize,
    },
    Clear,
    Transact(Steps),
}

/// A transaction: versions to compare (0: absent), keys to read, keys to write (nothing: to delete).
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    pub(crate) compares: Vec<(usize, u64)>,
    pub(crate) reads: Vec<usize>,
    pub(crate) writes: Vec<(usize, Option<(Bytes, Life)>)>,
}

/// What became of a call. A version of 0 was not told, but where it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Absent,
    Value {
        version: u64,
        bytes: Bytes,
    },
    Stored {
        replaced: bool,
        version: u64,
    },
    Deleted {
        version: u64,
    },
    /// The condition did not hold. The version that is there, if it was told; 0 for none.
    NotMet {
        version: Option<u64>,
    },
    Number {
        value: i64,
        version: u64,
    },
    /// There is no number there, or none that the sum of would fit.
    NoNumber,
    Length {
        len: u64,
        version: u64,
    },
    /// It has so many milliseconds to live, or nobody set an end.
    Left {
        version: u64,
        ms: Option<u64>,
    },
    /// Its end was set or taken.
    Set {
        version: u64,
    },
    Done,
    /// What was read, and the versions written; of a delete the version that was there, 0 for none.
    Committed {
        reads: Vec<Option<(u64, Bytes)>>,
        versions: Vec<u64>,
    },
    /// Which comparison failed, and the version that is there, 0 for none.
    Mismatch {
        compare: usize,
        version: u64,
    },
}

/// A call's place among those of its client, which take effect in the order sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A request, by its number.
    Request(u32),
    /// A direct read: after the client's newest write of that key, which has this number (0: it wrote none).
    Direct { after: u32 },
}

/// A call with its answer.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) client: usize,
    pub(crate) place: Place,
    /// Before anything was sent.
    pub(crate) start: u64,
    /// After the answer was taken.
    pub(crate) end: u64,
    pub(crate) call: Call,
    pub(crate) answer: Answer,
}

impl Call {
    /// Whether it reads or writes the key.
    pub(crate) fn touches(&self, number: usize) -> bool {
        match self {
            Self::Read { key }
            | Self::Insert { key, .. }
            | Self::Delete { key, .. }
            | Self::Incr { key, .. }
            | Self::Left { key }
            | Self::Expire { key, .. }
            | Self::Persist { key }
            | Self::Append { key, .. } => *key == number,
            Self::Clear => true,
            Self::Transact(steps) => {
                let compared = steps.compares.iter().any(|(key, _)| *key == number);
                compared || steps.reads.contains(&number) || steps.writes.iter().any(|(key, _)| *key == number)
            }
        }
    }

    /// Whether it may write.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Left { .. })
    }
}
