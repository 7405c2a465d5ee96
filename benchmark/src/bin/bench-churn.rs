//! `bench-churn`: see [`benchmark::churn`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::cli::main(benchmark::churn::run)
}
