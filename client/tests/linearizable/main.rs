//! Histories of concurrent clients of a real server, recorded and judged by a checker of linearizability: for every key there must be one
//! order of the calls that explains every answer and keeps to real time.
//!
//! `spec` is what a table does when calls come one at a time, `check` asks the checker, `refused` shows that it can say no.
//! `PROCESSES_SEED` repeats a run's calls. Needs the server's binary beside the client's: `cargo build -p server` first.

mod check;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../support/daemon.rs"]
mod daemon;
mod histories;
mod player;
mod record;
mod refused;
mod rounds;
mod script;
mod spec;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../processes/values.rs"]
mod values;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../support/watch.rs"]
mod watch;
