//! `bench-table`: see [`benchmark::table_bench`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::table_bench::run)
}
