//! `bench-idle`: see [`benchmark::idle`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::idle::run)
}
