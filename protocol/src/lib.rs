//! The messages that rest in the lanes: what a client asks, what the server answers.
//!
//! `shmqueue` moves opaque bytes; `table` knows nothing of messages; this crate is the agreement between the two ends.
//! Everything here is safe code over bytes that the caller has already copied out of shared memory. Bytes from the other
//! side are untrusted: decoding returns [`Malformed`] for whatever no honest peer writes, and never panics.
//!
//! A request has a kind, flags and a body; a reply has a status, flags, three words (`a`, `b`, `c`) and, where the request
//! reserved room for it, further bytes.

#![forbid(unsafe_code)]

mod counter;
mod encode;
mod entry;
mod reply;
mod request;
mod transaction;
mod ttl;
mod units;

pub use counter::{COUNTERS, ClientTally, Counter, TALLIES, Tally};
pub use encode::{
    Head, encode_append, encode_bucket, encode_chunk, encode_clear, encode_copy, encode_delete, encode_delete_step,
    encode_expire, encode_incr, encode_insert, encode_persist, encode_ping, encode_read, encode_scan, encode_transaction,
    encode_ttl,
};
pub use entry::{Entries, Entry, EntryValue, TYPE_BYTES, encode_entry, encoded_entry_len};
pub use reply::{INLINE_MAX, Reply, Status, VERSION_MASK, inline_bytes, inline_words};
pub use request::{Condition, HEAD_MAX, Kind, Request, decode};
pub use transaction::{
    Answers, MAX_STEPS, MAX_TRANSACTION, Step, Steps, WRITE_ANSWER, Write, encode_read_answer, encode_step, encode_write_answer,
    encoded_step_len, read_answer_len,
};
pub use ttl::{MAX_TTL_MS, Ttl, ttl_ms};
pub use units::{UnitError, format_size, parse_duration, parse_size};

/// Longest key in bytes.
pub const MAX_KEY: usize = 1024;
/// Longest value any server can be asked to hold, in bytes (2 MiB − 1).
pub const MAX_VALUE: usize = (2 << 20) - 1;

/// A message that no honest peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub struct Malformed {
    /// The part that does not fit.
    pub what: &'static str,
}

pub(crate) fn malformed<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what })
}

/// Takes `N` bytes from the front of `bytes` at `at`, moving `at` past them.
pub(crate) fn take<const N: usize>(bytes: &[u8], at: &mut usize, what: &'static str) -> Result<[u8; N], Malformed> {
    let end = at.checked_add(N).ok_or(Malformed { what })?;
    match bytes.get(*at..end).and_then(|part| part.first_chunk::<N>()) {
        Some(part) => {
            *at = end;
            Ok(*part)
        }
        None => malformed(what),
    }
}
