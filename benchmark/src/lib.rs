//! Benchmarks of shmtable.
//!
//! Each binary in `bin/` measures one thing, verifies every answer, compares with a floor or a peer measured in the same run,
//! and stops by itself. What they share is here; `METHODOLOGY.md` says how to read the figures and what they do not say.
//!
//! ```text
//! bin/bench-*  ─▶ cli ─▶ roundtrip | throughput | stall | values | idle | direct | table_bench | expiry | evict | churn   (one each)
//!                          │                │
//!                          │                └─▶ client_process ─▶ load, redis_peer   (in processes of their own)
//!                          │                      board (shared page), ledger (what replies must say), keys, mix
//!                          ├─▶ server_process, pingpong, hiccup, clock, latency, spread
//!                          └─▶ ours (the table in this process), peers (maps of other crates), chain
//! bin/bench-suite ─▶ suite: hyperfine scenarios, the binaries above, environment, generated report
//! ```

pub mod board;
pub mod chain;
pub mod churn;
pub mod cleanup;
pub mod cli;
pub mod client_process;
pub mod clock;
pub mod cpus;
pub mod direct;
pub mod direct_load;
pub mod direct_peers;
mod error;
pub mod evict;
pub mod exclusive;
pub mod expiry;
pub mod hiccup;
pub mod idle;
pub mod keys;
pub mod latency;
pub mod ledger;
pub mod load;
pub mod mix;
mod ours;
pub mod peers;
pub mod pingpong;
pub mod redis_peer;
pub mod resp;
pub mod roundtrip;
pub mod server_process;
pub mod spread;
pub mod stall;
pub mod suite;
pub mod table_bench;
pub mod throughput;
pub mod values;

pub use cli::Wait;
pub use error::Error;
