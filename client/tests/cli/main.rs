//! The command line against a real server: every command's output and every exit code of the contract.
//!
//! Needs the server's binary beside the client's: `cargo build -p server` first.

mod codes;
mod commandline;
mod commands;
#[path = "../support/daemon.rs"]
mod daemon;
mod doctor;
mod expiry;
mod monitor;
mod streams;
#[path = "../support/watch.rs"]
mod watch;
mod workload;
