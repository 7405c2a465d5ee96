//! What can go wrong, and with which exit code a program says so.

use std::path::PathBuf;
use std::time::Duration;

use protocol::{MAX_KEY, Reply, Status};
use shmqueue::error::RegionError;
use shmqueue::layout::RegionState;

use crate::exit::ExitCode;

/// Why a call failed. Not found and a condition not met are no errors but values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server serves the region.
    #[error("no server: {0}")]
    NoServer(String),
    /// Every client slot is taken.
    #[error("attaching failed: all {0} client slots are taken; detach a client or start the server with more --clients")]
    NoSlot(u32),
    /// The reply did not come in time.
    #[error("timed out: no reply within {after:?}{}", if *.write { "; outcome unknown, the write may still take effect" } else { "" })]
    TimedOut {
        /// How long the call waited.
        after: Duration,
        /// Whether the request may change the table.
        write: bool,
    },
    /// The server died or was stopped while the request was under way.
    #[error("server gone: the region's server ended before it answered{}", if *.write { "; outcome unknown, the write may have taken effect" } else { "" })]
    ServerGone {
        /// Whether the request may change the table.
        write: bool,
    },
    /// The wait was ended by the caller's flag.
    #[error("interrupted while waiting for the server{}", if *.write { "; outcome unknown, the write may still take effect" } else { "" })]
    Interrupted {
        /// Whether the request may change the table.
        write: bool,
    },
    /// No memory left under the table's limit.
    #[error("table full: no memory left under its limit; delete items or start the server with more --memory")]
    Full,
    /// The bucket's chain is at its cap.
    #[error("table full: the key's bucket is at its chain cap; start the server with a larger -s")]
    ChainFull,
    /// The key is empty or too long.
    #[error("key refused: {found} bytes against 1 to {MAX_KEY}; use a key of that size")]
    KeySize {
        /// Its length in bytes.
        found: usize,
    },
    /// The value is too long.
    #[error("value refused: {found} bytes against at most {most}; raise the server's --max-value (up to 2 MiB - 1) or split it")]
    ValueSize {
        /// Its length in bytes.
        found: usize,
        /// The server's limit.
        most: usize,
    },
    /// The value is not a decimal number.
    #[error("incr failed: the value is not a decimal i64; delete or replace it first")]
    NotANumber,
    /// The sum is not an i64.
    #[error("incr failed: the sum does not fit an i64; store a smaller number first")]
    Overflow,
    /// A transaction, or what it reads, is more than one message carries.
    #[error("transaction refused: {found} {what} against at most {most}; split it")]
    TransactionSize {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A transaction wants two things of one key.
    #[error("transaction refused: one of its keys is {what}; name it once")]
    TransactionTwice {
        /// Which.
        what: &'static str,
    },
    /// The value was replaced before it could be copied out of a pipelined reply; or this handle does not map the table, and the value is
    /// longer than a reply (16 bytes). Sync calls and [`crate::Client::get_many`] read it all the same.
    #[error("read overtaken: the value was replaced before it could be copied; read it again")]
    Overtaken,
    /// Writers came between all tries of a direct read, or the server died while it wrote there; and there is no server to ask instead.
    #[error("direct read busy: the key's bucket was being written at every try; read it again, or start the server if it died")]
    Busy,
    /// The table that is mapped is no region's any more: its server left and removed it.
    #[error("table closed: {} was removed by its server; open it again when a server of that name is ready", .0.display())]
    Closed(PathBuf),
    /// The table that is mapped was given up for a new one of the same name.
    #[error("table superseded: another table took the place of {}; open it again", .0.display())]
    Superseded(PathBuf),
    /// The handle was inherited over a fork.
    #[error("handle of another process: it was attached before a fork; attach anew in the child")]
    Forked,
    /// The window is out of range, or a value does not fit a non-waiting call.
    #[error("submit refused: {0}")]
    Unfit(&'static str),
    /// The other side wrote what no honest peer writes.
    #[error("protocol broken: {0}; restart the server, and look for a process that writes into the region")]
    Protocol(&'static str),
    /// The region could not be joined.
    #[error(transparent)]
    Region(RegionError),
    /// The table could not be mapped.
    #[error("{0}")]
    Table(String),
}

/// Why [`crate::Client::try_submit`] took nothing.
#[derive(Debug, thiserror::Error)]
pub enum Submit {
    /// The lane is full: poll first.
    #[error("the lane is full; poll replies first")]
    WouldBlock,
    /// The request will never be taken.
    #[error(transparent)]
    Refused(Error),
}

impl Error {
    /// The contract's exit code.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoServer(_) | Self::NoSlot(_) | Self::ServerGone { .. } | Self::Closed(_) | Self::Superseded(_) => {
                ExitCode::NoServer
            }
            Self::TimedOut { .. } | Self::Busy => ExitCode::TimedOut,
            Self::Full | Self::ChainFull => ExitCode::Full,
            Self::KeySize { .. } | Self::ValueSize { .. } | Self::TransactionSize { .. } | Self::TransactionTwice { .. } => {
                ExitCode::Refused
            }
            Self::NotANumber | Self::Overflow => ExitCode::NotMet,
            _ => ExitCode::Internal,
        }
    }
}

impl From<RegionError> for Error {
    fn from(error: RegionError) -> Self {
        match error {
            RegionError::NotFound { .. } | RegionError::Unfinished { .. } => Self::NoServer(error.to_string()),
            RegionError::State(state) if state != RegionState::Ready => Self::NoServer(error.to_string()),
            RegionError::NoSlot { clients } => Self::NoSlot(clients),
            RegionError::Forked => Self::Forked,
            error => Self::Region(error),
        }
    }
}

/// The error that a reply's status stands for, where it stands for one.
pub(crate) fn refusal(reply: &Reply, key_len: usize, value_len: usize) -> Option<Error> {
    Some(match reply.status {
        Status::Full => Error::Full,
        Status::ChainFull => Error::ChainFull,
        Status::KeySize => Error::KeySize { found: key_len },
        Status::ValueSize => Error::ValueSize { found: value_len, most: reply.b as usize },
        Status::NotANumber => Error::NotANumber,
        Status::Overflow => Error::Overflow,
        Status::Malformed => Error::Protocol("the server did not understand a request"),
        Status::StreamLost => Error::ServerGone { write: true },
        _ => return None,
    })
}
