//! The command line `client`: parse, run, exit code.
//!
//! What a command prints on stdout and the code it exits with are the product's outward face; everything it does goes through
//! the library `shmtable`. An error is one line on stderr. A reader of stdout that goes away ends a command quietly.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod doctor;
mod escape;
mod failure;
mod interrupt;
mod lines;
mod output;
mod parse;
mod prometheus;
mod record;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = parse::parse();
    // Without the guard a region that is truncated under the command ends it all the same, but without a word.
    let _ = shmtable::guard::exit_on_truncation();
    match commands::run(&cli) {
        Ok(status) => ExitCode::from(status as u8),
        Err(failure) => {
            if let Some(line) = failure.line() {
                // A closed stderr leaves nowhere to complain to; the exit code still tells.
                let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {line}\n").as_bytes());
            }
            ExitCode::from(failure.status() as u8)
        }
    }
}
