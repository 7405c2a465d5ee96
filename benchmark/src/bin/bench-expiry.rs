//! `bench-expiry`: see [`benchmark::expiry`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::expiry::run)
}
