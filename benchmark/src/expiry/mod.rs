//! `bench-expiry`: what it costs when many keys expire in the same moment, and whom it disturbs.
//!
//! First in a table of this process, with a clock that we set: nanoseconds per key, and how long one step of the sweep holds its
//! worker. Then with a server: single calls of a client on other keys before and during the storm, and the seconds until everything is
//! gone, with an idle server, with that client, and under load.

mod in_process;
mod storm;

use std::fmt;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use crate::cli::{Common, Report};
use crate::clock::Clock;
use crate::latency::Latencies;
use crate::spread::{self, Spread};
use crate::{Error, pingpong};
use in_process::Sweeps;
use storm::Company;

/// Measures many keys that expire at once: the sweep, other operations meanwhile, and the seconds until all are gone.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-expiry --keys 10000000 --json")]
pub struct Arguments {
    /// Keys that expire at once.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    keys: u32,
    /// Rounds in the table alone.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Rounds with a server, each of three storms: with nobody else there, with a client that times its calls, and under load.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    storms: u32,
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
}

impl Common for Arguments {
    fn json(&self) -> bool {
        self.json
    }
}

/// What was found.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are described in METHODOLOGY.md")]
pub struct Expiry {
    pub benchmark: &'static str,
    pub keys: u32,
    pub rounds: u32,
    pub storms: u32,
    pub clock: &'static str,
    pub pingpong_rtt_ns: Option<f64>,
    pub ns_per_key: f64,
    pub ns_per_key_spread: Spread,
    pub step_p50_ns: f64,
    pub step_p999_ns: f64,
    pub step_max_ns: f64,
    pub memory_growth_bytes: u64,
    pub op_p50_calm_ns: f64,
    pub op_p50_storm_ns: f64,
    pub op_p999_calm_ns: f64,
    pub op_p999_calm_ns_spread: Spread,
    pub op_p999_storm_ns: f64,
    pub op_p999_storm_ns_spread: Spread,
    pub op_max_calm_ns: f64,
    pub op_max_storm_ns: f64,
    pub ratio_op_p999: f64,
    pub ratio_op_p999_spread: Spread,
    pub ops_calm: u64,
    pub ops_storm: u64,
    pub seconds_to_empty: f64,
    pub seconds_to_empty_spread: Spread,
    pub seconds_to_empty_calls: f64,
    pub seconds_to_empty_calls_spread: Spread,
    pub seconds_to_empty_loaded: f64,
    pub seconds_to_empty_loaded_spread: Spread,
    pub lag_seconds_max: f64,
    pub errors: u64,
}

impl Report for Expiry {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} keys at once: {:.1} ns per key, ", self.keys, self.ns_per_key)?;
        writeln!(
            out,
            "a step of the sweep {:.0} ns (p99.9 {:.0}, max {:.0})",
            self.step_p50_ns, self.step_p999_ns, self.step_max_ns
        )?;
        write!(out, "other calls, p99.9: calm {:.0} ns, storm {:.0} ns, ", self.op_p999_calm_ns, self.op_p999_storm_ns)?;
        writeln!(out, "ratio {:.2}", self.ratio_op_p999)?;
        write!(out, "seconds until all were gone: idle {:.2}, ", self.seconds_to_empty)?;
        write!(out, "with that client {:.2}, loaded {:.2}; ", self.seconds_to_empty_calls, self.seconds_to_empty_loaded)?;
        writeln!(out, "highest lag {:.2} s", self.lag_seconds_max)
    }
}

/// What the rounds found.
#[derive(Default)]
struct Rounds {
    ns_per_key: Vec<f64>,
    calm: Vec<f64>,
    storm: Vec<f64>,
    /// Seconds to empty in each company.
    idle: Vec<f64>,
    calls: Vec<f64>,
    loaded: Vec<f64>,
    lag_seconds_max: f64,
    pingpongs: Vec<f64>,
    errors: u64,
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Expiry, Error> {
    let clock = Clock::calibrate();
    let (mut found, mut steps) = (Rounds::default(), Latencies::new()?);
    let (mut calm, mut storm) = (Latencies::new()?, Latencies::new()?);
    let mut sweeps = Sweeps::new(arguments.keys)?;
    for round in 0..arguments.rounds {
        let swept = sweeps.round(round, &clock, &mut steps)?;
        found.ns_per_key.push(swept.ns_per_key);
        found.errors += swept.errors;
        found.pingpongs.extend(pingpong::round_trip_ns(Duration::from_millis(50))?);
    }
    let memory_growth_bytes = sweeps.memory_growth();
    drop(sweeps);
    for _ in 0..arguments.storms {
        for company in [Company::Nobody, Company::Calls, Company::Load] {
            found.watch(arguments.keys, company, &clock, &mut calm, &mut storm)?;
        }
        found.pingpongs.extend(pingpong::round_trip_ns(Duration::from_millis(50))?);
    }
    Ok(report(arguments, &clock, found, memory_growth_bytes, &steps, &calm, &storm))
}

impl Rounds {
    fn watch(
        &mut self,
        keys: u32,
        company: Company,
        clock: &Clock,
        calm: &mut Latencies,
        storm: &mut Latencies,
    ) -> Result<(), Error> {
        let seen = storm::watch(keys, company, clock)?;
        self.errors += seen.errors;
        self.lag_seconds_max = self.lag_seconds_max.max(seen.lag_seconds_max);
        match company {
            Company::Nobody => self.idle.push(seen.seconds_to_empty),
            Company::Load => self.loaded.push(seen.seconds_to_empty),
            Company::Calls => {
                self.calls.push(seen.seconds_to_empty);
                self.calm.push(seen.calm.quantile(0.999));
                self.storm.push(seen.storm.quantile(0.999));
                calm.add(&seen.calm);
                storm.add(&seen.storm);
            }
        }
        Ok(())
    }
}

fn report(
    arguments: &Arguments,
    clock: &Clock,
    mut found: Rounds,
    memory_growth_bytes: u64,
    steps: &Latencies,
    calm: &Latencies,
    storm: &Latencies,
) -> Expiry {
    let (p999_calm, p999_storm) = (Spread::of(&found.calm), Spread::of(&found.storm));
    let ratio = Spread::of_ratios(&found.storm, &found.calm);
    let ns_per_key = Spread::of(&found.ns_per_key);
    let [idle, calls, loaded] = [&found.idle, &found.calls, &found.loaded].map(|rounds| Spread::of(rounds));
    Expiry {
        benchmark: "bench-expiry",
        keys: arguments.keys,
        rounds: arguments.rounds,
        storms: arguments.storms,
        clock: clock.source(),
        pingpong_rtt_ns: (!found.pingpongs.is_empty()).then(|| spread::median(&mut found.pingpongs)),
        ns_per_key: ns_per_key.median,
        ns_per_key_spread: ns_per_key,
        step_p50_ns: steps.quantile(0.5),
        step_p999_ns: steps.quantile(0.999),
        step_max_ns: steps.max(),
        memory_growth_bytes,
        op_p50_calm_ns: calm.quantile(0.5),
        op_p50_storm_ns: storm.quantile(0.5),
        op_p999_calm_ns: p999_calm.median,
        op_p999_calm_ns_spread: p999_calm,
        op_p999_storm_ns: p999_storm.median,
        op_p999_storm_ns_spread: p999_storm,
        op_max_calm_ns: calm.max(),
        op_max_storm_ns: storm.max(),
        ratio_op_p999: ratio.median,
        ratio_op_p999_spread: ratio,
        ops_calm: calm.count(),
        ops_storm: storm.count(),
        seconds_to_empty: idle.median,
        seconds_to_empty_spread: idle,
        seconds_to_empty_calls: calls.median,
        seconds_to_empty_calls_spread: calls,
        seconds_to_empty_loaded: loaded.median,
        seconds_to_empty_loaded_spread: loaded,
        lag_seconds_max: found.lag_seconds_max,
        errors: found.errors,
    }
}
