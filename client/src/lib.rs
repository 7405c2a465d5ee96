//! shmtable: the hash table that every process on a host shares, at the speed of memory.
//!
//! ```no_run
//! use shmtable::{Client, Options};
//!
//! let mut client = Client::attach(&Options::new("shmtable"))?;
//! client.insert(b"answer", b"42")?;
//! assert_eq!(client.read(b"answer")?, Some(b"42".to_vec()));
//! assert!(client.delete(b"answer")?);
//! # Ok::<(), shmtable::Error>(())
//! ```
//!
//! # Three ways to ask
//! - **Sync calls** ([`Client::insert`], [`Client::read`], …): one request, one reply.
//! - **A pipeline** ([`Client::pipeline`]): many requests in flight, replies in the order sent.
//! - **Poll level** ([`Client::try_submit`], [`Client::poll`]): no system call, no allocation, the caller's own way to idle.
//!
//! Several keys at one moment are a [`Client::transaction`].
//!
//! # Threads, forks, cost
//! A [`Client`] is `Send` and not `Sync`: one thread at a time. A program with several threads attaches once per thread. Each
//! handle takes one client slot of the region, about 200 KiB of shared memory for its lanes, three mappings of its own and one
//! file descriptor. Attaching costs some tens of microseconds, so keep handles. A handle that a fork's child inherited answers
//! [`Error::Forked`]; the child attaches its own.
//!
//! # What is certain
//! A write whose call returned `Ok` has taken effect and survives the death of this process and of the server. One that
//! timed out has an unknown outcome: it may still take effect. Requests of one handle take effect in the order sent.

#![deny(unsafe_code)]

mod calls;
mod client;
mod direct;
mod error;
pub mod exit;
mod expiry;
pub mod guard;
mod listing;
mod many;
mod monitor;
mod operation;
mod options;
mod pipeline;
mod polled;
mod table_map;
mod table_reader;
mod transaction;

pub use client::{Client, Stored};
pub use direct::{Found, Handle, Reread};
pub use error::{Error, Submit};
pub use exit::ExitCode;
pub use expiry::{InsertOptions, Remaining};
pub use listing::{Bucket, Item, Scan};
pub use monitor::{ClientInfo, Monitor, ShardStats, StatValue, Stats};
pub use operation::{Completion, Items, Operation, Outcome};
pub use options::{Options, ServerGone};
pub use pipeline::Pipeline;
pub use protocol::{Condition, MAX_KEY, MAX_TTL_MS, MAX_VALUE, Ttl};
pub use shmqueue::wait::WaitMode;
pub use table_reader::TableReader;
pub use transaction::{Transacted, Transaction, Versioned};
