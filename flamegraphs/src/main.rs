//! `flamegraphs`: records server and clients under load and draws where their time goes.
//!
//! ```text
//! scenario (which load, whose view) ─▶ record (perf record, perf script) ─▶ fold (stacks of one side, counted)
//!                                              ├─▶ draw    SCENARIO.svg
//!                                              └─▶ shares ─▶ readme   the table of README.md
//! ```
//!
//! The loads are the benchmark binaries: they verify every reply, take turns with other benchmarks and leave nothing behind.

#![forbid(unsafe_code)]

mod draw;
mod error;
mod fold;
mod names;
mod origin;
mod readme;
mod record;
mod scenario;
mod shares;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use benchmark::cleanup;
use benchmark::cli::{fail, say, seconds};
use clap::Parser;

use crate::error::Error;
use crate::fold::Stacks;
use crate::origin::Origin;
use crate::record::Recording;
use crate::scenario::LOADS;

/// Records server and clients under load and redraws the flame graphs.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: flamegraphs --seconds 4")]
struct Arguments {
    /// Seconds to record each load.
    #[arg(long, default_value = "4", value_parser = seconds)]
    seconds: Duration,
    /// Folder of the graphs and of the README.md whose table is redrawn.
    #[arg(long, default_value = "flamegraphs")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match cleanup::install().map_err(Error::from).and_then(|()| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::NoPerf) => {
            say(format_args!("error: {}", Error::NoPerf));
            ExitCode::from(2)
        }
        Err(error) => fail(error),
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    record::find_perf()?;
    let origin = Origin::find()?;
    let mut rows = Vec::new();
    for load in LOADS {
        let command = load.command(arguments.seconds);
        say(format_args!("recording {}", command.join(" ")));
        let recording = Recording::make(&command)?;
        for view in &load.views {
            let stacks = Stacks::of(&recording.samples()?, view.side)?;
            let file = arguments.out.join(format!("{}.svg", view.name));
            let title = origin.title(view.name, &command);
            draw::write(&stacks, &title, &file)?;
            rows.push(readme::Row { name: view.name, samples: stacks.total(), shares: shares::of(&stacks) });
        }
    }
    readme::rewrite(&arguments.out.join("README.md"), &origin, &rows)
}
