//! `bench-stall`: see [`benchmark::stall`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::stall::run)
}
