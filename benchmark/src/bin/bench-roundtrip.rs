//! `bench-roundtrip`: see [`benchmark::roundtrip`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::roundtrip::run)
}
