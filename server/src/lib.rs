//! The shmtable daemon: serves one region of shared memory to the clients of this machine.
//!
//! Parse, run, exit code; everything else is in the modules. The binary `server` is [`main`]; beside it stands [`PrivateTable`], for
//! whoever measures a table as the daemon keeps it.

mod args;
mod cgroup;
mod committing;
mod cpus;
mod daemon;
mod exit;
mod joining;
mod logging;
mod memory;
mod notify;
mod options;
mod private_table;
mod service;
mod sigbus;
mod signals;
mod table_file;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::exit::{Exit, ServerError};
use crate::options::Options;

pub use private_table::PrivateTable;

/// The daemon, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(args.log_level, args.log_format);
    match Options::new(&args).and_then(|options| daemon::run(&options)) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            print_error(&error);
            error.exit().into()
        }
    }
}

/// Writes the one line that says why the server cannot go on. There is nobody to tell if stderr is gone.
fn print_error(error: &ServerError) {
    let _ = writeln!(std::io::stderr(), "error: {error}");
}
