//! `bench-direct`: see [`benchmark::direct`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::direct::run)
}
