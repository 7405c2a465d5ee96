//! `bench-suite`: see [`benchmark::suite`].

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmark::suite::main()
}
