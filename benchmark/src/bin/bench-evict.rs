//! `bench-evict`: see [`benchmark::evict`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::evict::run)
}
