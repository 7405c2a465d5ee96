//! The command line against a real server: every command's output and every exit code of the contract.
//!
//! Needs the server's binary beside the client's: `cargo build -p server` first.

mod codes;
mod commands;
mod daemon;
mod doctor;
mod monitor;
mod streams;
mod workload;
