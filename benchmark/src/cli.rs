//! What all benchmark binaries do around their measurement: options, one at a time, report, exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::exclusive::Exclusive;
use crate::{Error, cleanup, client_process};

/// How a client or a server waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Never sleep.
    Spin,
    /// Spin while a core is free for it, then yield, then sleep.
    Adaptive,
    /// Sleep at once.
    Block,
}

impl Wait {
    /// The library's word for it.
    pub fn mode(self) -> shmtable::WaitMode {
        match self {
            Self::Spin => shmtable::WaitMode::Spin,
            Self::Adaptive => shmtable::WaitMode::Adaptive,
            Self::Block => shmtable::WaitMode::Block,
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Block => "block",
        })
    }
}

/// What a benchmark found: shown as text, printed as JSON on the last line with `--json`.
pub trait Report: fmt::Display + Serialize {
    /// Wrong replies; any makes the binary fail.
    fn errors(&self) -> u64;
}

/// Options of every benchmark.
pub trait Common {
    /// Whether the last line is to be JSON.
    fn json(&self) -> bool;
}

/// Runs a benchmark binary from its arguments to its exit code.
pub fn main<A: Parser + Common, R: Report>(run: fn(&A) -> Result<R, Error>) -> ExitCode {
    if let Some(code) = client_process::run_if_asked() {
        return code;
    }
    let arguments = A::parse();
    match measured(run, &arguments) {
        Ok(report) => {
            print!("{report}");
            if arguments.json() {
                match serde_json::to_string(&report) {
                    Ok(line) => println!("{line}"),
                    Err(error) => return fail(format!("writing the report: {error}")),
                }
            }
            match report.errors() {
                0 => ExitCode::SUCCESS,
                errors => fail(format!("verifying replies: found {errors} wrong against none; the figures above are void")),
            }
        }
        Err(error) => fail(error),
    }
}

fn measured<A, R>(run: fn(&A) -> Result<R, Error>, arguments: &A) -> Result<R, Error> {
    cleanup::install()?;
    let _alone = Exclusive::take()?;
    run(arguments)
}

/// Prints a line on stderr in one write, so that the lines of several processes do not mix.
pub fn say(line: fmt::Arguments<'_>) {
    // Nobody is left to tell when stderr is gone.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints an error as all binaries do.
pub fn fail(error: impl fmt::Display) -> ExitCode {
    say(format_args!("error: {error}"));
    ExitCode::FAILURE
}

/// Parses a positive number of seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("found {text:?} against a number of seconds above 0; try 5")),
    }
}

/// A number in few characters: `8.35 M`, `12.1 k`, `350`.
pub fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 1e9 => format!("{:.2} G", number / 1e9),
        n if n >= 1e6 => format!("{:.2} M", number / 1e6),
        n if n >= 1e3 => format!("{:.1} k", number / 1e3),
        n if n >= 10.0 => format!("{number:.0}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [8.351e6, 12_100.0, 350.0, 1.256, 0.0, 2.5e9].map(short).into();
        assert_eq!(shown, ["8.35 M", "12.1 k", "350", "1.26", "0.00", "2.50 G"]);
    }

    #[test]
    fn seconds_are_positive() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(["0", "-1", "x", "", "inf", "NaN", "1e9"].iter().all(|text| seconds(text).is_err()));
    }
}
