//! `bench-suite`: the hyperfine scenarios and all benchmark binaries, into a folder of raw data with a generated report.

mod environment;
mod hyperfine;
mod report;
mod scenario;
mod tables;
mod wanted;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use serde_json::Value;

use crate::exclusive::Exclusive;
use crate::{Error, cleanup, cli, server_process};
use environment::Environment;
use scenario::{Measured, SCENARIOS};

/// Runs the hyperfine scenarios and all benchmarks, and writes raw data and a report into a folder of their own.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-suite --results benchmark/results --rounds 3")]
pub struct Arguments {
    /// Where the folder of this run is made.
    #[arg(long, default_value = "benchmark/results")]
    results: PathBuf,
    /// Rounds of all hyperfine scenarios, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Least runs of hyperfine per scenario and round.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..))]
    runs: u32,
    /// Seconds of each benchmark binary.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Leave the hyperfine scenarios out.
    #[arg(long)]
    no_hyperfine: bool,
    /// Leave the benchmark binaries out.
    #[arg(long, conflicts_with = "no_hyperfine")]
    no_binaries: bool,
}

/// A run of a benchmark binary.
pub(crate) struct Run {
    /// Name in the report, and of the file of its raw data.
    pub(crate) title: String,
    /// The command, without its folder.
    pub(crate) command: String,
    /// What it printed, or why there is nothing.
    pub(crate) outcome: Result<Value, String>,
}

/// Title and arguments of every run; `S` stands for the seconds.
const RUNS: [(&str, &str); 24] = [
    ("roundtrip-spin", "bench-roundtrip --seconds S --wait spin"),
    ("roundtrip-adaptive", "bench-roundtrip --seconds S --wait adaptive"),
    ("roundtrip-block", "bench-roundtrip --seconds S --wait block"),
    ("throughput-1x10", "bench-throughput --clients 1 --window 10 --seconds S --redis"),
    ("throughput-1x100", "bench-throughput --clients 1 --window 100 --seconds S --redis"),
    ("throughput-1x1000", "bench-throughput --clients 1 --window 1000 --seconds S --redis"),
    ("throughput-17x1", "bench-throughput --clients 17 --window 1 --seconds S --redis"),
    ("throughput-17x10-n1", "bench-throughput --clients 17 --window 10 --threads 1 --seconds S --redis"),
    ("throughput-17x10-n16", "bench-throughput --clients 17 --window 10 --threads 16 --seconds S --redis"),
    ("throughput-17x100", "bench-throughput --clients 17 --window 100 --seconds S --redis"),
    ("throughput-64x10", "bench-throughput --clients 64 --window 10 --seconds S --redis"),
    ("stall-stop", "bench-stall --clients 17 --event stop --count 8"),
    ("stall-kill", "bench-stall --clients 17 --event kill --count 8"),
    ("stall-both", "bench-stall --clients 17 --event both --count 8"),
    ("values", "bench-values --seconds S"),
    ("idle", "bench-idle --threads 16 --clients 16 --seconds 10"),
    ("direct-1m", "bench-direct --keys 1000000 --seconds S"),
    ("direct-10m", "bench-direct --keys 10000000 --seconds S"),
    ("direct-1m-writer", "bench-direct --keys 1000000 --writer --seconds S"),
    ("direct-10m-writer", "bench-direct --keys 10000000 --writer --seconds S"),
    ("table", "bench-table --keys 1000000 --workers 2"),
    ("expiry", "bench-expiry --keys 10000000 --storms 1"),
    ("evict", "bench-evict --ops 2000000"),
    ("churn", "bench-churn --ops 5000000 --memory 512MiB"),
];

/// Runs the suite from its arguments to its exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match cleanup::install().and_then(|()| run(&arguments)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => cli::fail(format!("running the suite: {failed} of its parts failed; see the report")),
        Err(error) => cli::fail(error),
    }
}

/// Runs everything; returns how many parts failed.
fn run(arguments: &Arguments) -> Result<usize, Error> {
    if !arguments.no_hyperfine {
        hyperfine::find()?;
    }
    let environment = Environment::examine();
    let folder = arguments.results.join(environment.folder_name());
    let raw = folder.join("raw");
    std::fs::create_dir_all(&raw).map_err(Error::io(format!("making the results folder {}", raw.display())))?;
    write_json(&raw.join("environment.json"), &environment)?;
    let mut measured = Vec::new();
    if !arguments.no_hyperfine {
        let _alone = Exclusive::take()?;
        measured = scenarios(arguments, &raw)?;
    }
    let mut runs = Vec::new();
    if !arguments.no_binaries {
        for (title, command) in RUNS {
            eprintln!("running {title}");
            let run = run_binary(title, &command.replace(" S", &format!(" {}", arguments.seconds)))?;
            if let Ok(value) = &run.outcome {
                write_json(&raw.join(format!("{title}.json")), value)?;
            }
            runs.push(run);
        }
    }
    // Written once more: the load at the end tells whether anything else ran.
    let environment = environment.at_the_end();
    write_json(&raw.join("environment.json"), &environment)?;
    let text = report::render(&environment, &measured, &runs);
    let path = folder.join("README.md");
    std::fs::write(&path, &text).map_err(Error::io(format!("writing {}", path.display())))?;
    print!("{text}");
    eprintln!("wrote {}", folder.display());
    Ok(runs.iter().filter(|run| run.outcome.is_err()).count() + measured.iter().filter(|one| one.failure.is_some()).count())
}

/// All scenarios, round by round, so that each round of one has a neighbour of every other.
fn scenarios(arguments: &Arguments, raw: &Path) -> Result<Vec<Measured>, Error> {
    let mut measured: Vec<Measured> = SCENARIOS.iter().map(Measured::new).collect();
    for round in 1..=arguments.rounds {
        for one in &mut measured {
            eprintln!("round {round} of {}: {}", arguments.rounds, one.scenario.name);
            let export = raw.join(format!("hyperfine-{}-{round}.json", one.scenario.name));
            match scenario::run(one.scenario, arguments.runs, &export) {
                Ok(times) => one.rounds.push(times),
                Err(error) => {
                    eprintln!("error: {}: {error}", one.scenario.name);
                    one.failure.get_or_insert(error.to_string());
                }
            }
        }
    }
    Ok(measured)
}

fn run_binary(title: &str, command: &str) -> Result<Run, Error> {
    let mut words = command.split(' ');
    let found = server_process::beside_us(words.next().unwrap_or_default(), "benchmark");
    let (title, command) = (title.to_owned(), command.to_owned());
    let binary = match found {
        Ok(binary) => binary,
        Err(error) => return Ok(Run { title, command, outcome: Err(error.to_string()) }),
    };
    let mut child = Command::new(binary);
    server_process::forget_environment(&mut child);
    child.args(words).arg("--json").stdin(Stdio::null()).stderr(Stdio::inherit());
    cleanup::die_with_parent(&mut child, nix::sys::signal::Signal::SIGTERM);
    let output = child.output().map_err(Error::io(format!("running {title}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let outcome = match (output.status.success(), serde_json::from_str(last)) {
        (true, Ok(value)) => Ok(value),
        (true, Err(_)) => Err(format!("found {last:?} against a JSON object on the last line")),
        (false, _) => Err(format!("{}; {last}", output.status)),
    };
    Ok(Run { title, command, outcome })
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let what = || format!("writing {}", path.display());
    let text = serde_json::to_string_pretty(value).map_err(Error::io(what()))?;
    std::fs::write(path, text + "\n").map_err(Error::io(what()))
}
