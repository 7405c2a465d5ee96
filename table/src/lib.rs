//! A bucketed concurrent hash table in a section of memory it is given.
//!
//! The writer half ([`Table`], [`Writer`]) belongs to one server process, whose workers write any bucket at once; the
//! reader half ([`Reader`]) works on a mapping without write permission. The table knows nothing of files, processes
//! or rings: whoever gives it memory backs it through [`Commit`].
//!
//! Bird's eye: [`layout`](crate::Geometry) is one range of header, worker records, buckets and heap. A bucket is a line of a
//! version word (a seqlock) and seven slots; a slot is one word naming an item; an item is immutable once linked. A
//! mutation is one slot store, announced in the worker's intent record, so that a successor can tell what a dead server did.

#![cfg_attr(loom, allow(dead_code, unused_imports))]

#[cfg(all(test, not(loom)))]
extern crate self as table;

mod arena;
#[cfg(not(loom))]
mod bucket_memory;
#[cfg(not(loom))]
mod cache;
mod chain;
#[cfg(not(loom))]
mod check;
mod classes;
#[cfg(not(loom))]
mod clear;
mod clock;
#[cfg(not(loom))]
mod committing;
mod deadlines;
#[cfg(not(loom))]
mod evacuate;
#[cfg(not(loom))]
mod evict;
#[cfg(not(loom))]
mod expiry;
mod geometry;
#[cfg(not(loom))]
mod grow_step;
#[cfg(not(loom))]
mod growth;
#[cfg(not(loom))]
mod handle;
mod hashing;
#[cfg(not(loom))]
mod header;
#[cfg(not(loom))]
mod hits;
mod intent;
mod layout;
#[cfg(not(loom))]
mod locked_read;
#[cfg(not(loom))]
mod locks;
#[cfg(not(loom))]
mod lookup;
#[cfg(loom)]
#[doc(hidden)]
pub mod model;
#[cfg(loom)]
#[doc(hidden)]
pub mod model_deadlines;
#[cfg(loom)]
#[doc(hidden)]
pub mod model_split;
mod outcome;
mod prefetch;
#[cfg(not(loom))]
mod reader;
#[cfg(not(loom))]
mod reader_batch;
#[cfg(not(loom))]
mod recovery;
#[cfg(not(loom))]
mod redo;
#[cfg(not(loom))]
mod redo_memory;
#[cfg(not(loom))]
mod reference;
#[cfg(not(loom))]
mod reservation;
mod runs;
#[cfg(not(loom))]
mod scan;
mod section;
#[cfg(not(loom))]
mod seen;
mod seqlock;
#[cfg(not(loom))]
mod server_half;
#[cfg(not(loom))]
mod spans;
#[cfg(not(loom))]
mod spans_check;
#[cfg(not(loom))]
mod spans_choice;
#[cfg(not(loom))]
mod spans_leaving;
#[cfg(not(loom))]
mod spans_lists;
#[cfg(not(loom))]
mod spans_rebuild;
mod split;
#[cfg(not(loom))]
mod store;
#[cfg(not(loom))]
mod sweep;
mod sync;
#[cfg(not(loom))]
mod target;
#[cfg(all(test, not(loom)))]
mod torn;
#[cfg(all(test, not(loom)))]
mod torn_growth;
#[cfg(all(test, not(loom)))]
mod torn_transaction;
#[cfg(not(loom))]
mod transaction;
#[cfg(not(loom))]
mod update;
mod words;
#[cfg(not(loom))]
mod writer;

pub use classes::stored_bytes;
pub use clock::{Expiry, RegionClock};
pub use geometry::{Geometry, PlanError};
pub use hashing::{HASH_VERSION, Hasher, hash};
pub use intent::{Effect, EffectKind, PendingIntent, Ticket};
pub use layout::{LAYOUT_MAJOR, LAYOUT_MINOR, MAX_WORKERS};
pub use outcome::{Busy, Changed, Condition, ItemRef, Outcome, Refused};
pub use words::{ITEM_HEADER, MAX_EXPIRY, MAX_KEY, MAX_VALUE, MAX_VERSION};

#[cfg(not(loom))]
pub use handle::{Handle, Reread};
#[cfg(not(loom))]
pub use header::JoinError;
#[cfg(not(loom))]
pub use locks::{LockedBuckets, MAX_LOCKED, TooManyKeys};
#[cfg(not(loom))]
pub use reader::Reader;
#[cfg(not(loom))]
pub use reader_batch::BATCH;
#[cfg(not(loom))]
pub use recovery::Recovery;
#[cfg(not(loom))]
pub use reservation::Reservation;
#[cfg(not(loom))]
pub use scan::ItemView;
#[cfg(not(loom))]
pub use seen::Seen;
#[cfg(not(loom))]
pub use server_half::{RegionState, Table, TableError, TableStats};
#[cfg(not(loom))]
pub use store::{Commit, CommitError};
#[cfg(not(loom))]
pub use sweep::Ahead;
#[cfg(not(loom))]
pub use transaction::{Answer, Change, Declined, Step};
#[cfg(not(loom))]
pub use writer::Writer;
