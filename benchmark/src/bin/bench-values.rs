//! `bench-values`: see [`benchmark::values`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::values::run)
}
