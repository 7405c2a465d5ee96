//! `bench-throughput`: see [`benchmark::throughput`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::throughput::run)
}
