//! The whole service as real processes: a server, and clients that work, die, stop, fork and lie.
//!
//! Client processes are this binary run again with a role; see `actor`. What they did is read from a board in shared memory, which
//! outlives them. Needs the server's binary beside the client's: `cargo build -p server` first.

mod actor;
mod board;
mod churn;
#[path = "../support/daemon.rs"]
mod daemon;
mod deaths;
mod direct;
mod eviction;
mod expiry;
mod forks;
mod hostile;
mod mirror;
mod model;
mod modes;
mod ranges;
mod reclaimed;
mod requests;
mod restarts;
mod sealed;
mod stops;
mod timeouts;
mod transactions;
mod values;
#[path = "../support/watch.rs"]
mod watch;
