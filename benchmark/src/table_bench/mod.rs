//! `bench-table`: what operations cost in the table itself, beside the maps that other crates offer to threads.
//!
//! Everything is in this process; the table rests in a file of shared memory as the daemon keeps it, memory committed ahead by a
//! thread of its own. Rounds of all maps are interleaved: each map is filled, updated, read and emptied by its workers, a fresh map
//! that grows by operations which wait for one another, and a used one made for its keys also by loops that overlap. Then one worker
//! fills a table made for few keys, and each peer likewise.

mod contest;
mod growth;
pub(crate) mod race;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use crate::cli::{Common, Report};
use crate::clock::Clock;
use crate::peers::{DashMap, Papaya, RwLocked, Scc};
use crate::spread::{self, Spread};
use crate::{Error, peers, pingpong};
use contest::Contest;
use growth::Filling;

/// Measures insert, update, get and delete in the table beside dashmap, papaya, scc and a RwLock around a HashMap.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-table --keys 1000000 --workers 2 --json")]
pub struct Arguments {
    /// Keys in all; each worker owns its part.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    keys: u32,
    /// Threads that work at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Rounds of all maps, after one of the maps that are kept, which does not count.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Keys that a table made for 10,000 grows to; 0 leaves growth out.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    growth_keys: u32,
    /// Buckets of the table that is made for its keys; a quarter of the keys where not given.
    #[arg(long)]
    buckets: Option<u64>,
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
}

impl Common for Arguments {
    fn json(&self) -> bool {
        self.json
    }
}

/// What was found: `insert_ns` (into a fresh map, each waiting for the one before), `presized_insert_ns` (into a used one),
/// `insert_overlapped_ns` (nobody waiting), `batch_insert_ns` (as the server's workers do it), `dashmap_insert_ns` and so on with
/// their spreads, `ratio_insert` (over the fastest peer of each round), and what growing took.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are described in METHODOLOGY.md")]
pub struct TableReport {
    pub benchmark: &'static str,
    pub keys: u32,
    pub workers: u32,
    pub rounds: u32,
    pub growth_keys: u32,
    pub clock: &'static str,
    pub clock_ns: f64,
    pub pingpong_rtt_ns: Option<f64>,
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
    #[serde(flatten)]
    pub spreads: BTreeMap<String, Spread>,
    pub errors: u64,
}

impl Report for TableReport {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for TableReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |name: &str| self.figures.get(name).copied().unwrap_or(f64::NAN);
        writeln!(out, "{} keys, {} worker(s), ns per operation:", self.keys, self.workers)?;
        for (row, times, ratio) in contest::rows() {
            write!(out, "{row:>17}:")?;
            for (map, time) in ["table"].into_iter().chain(peers::NAMES).zip(times) {
                write!(out, " {map} {:.0},", figure(&time))?;
            }
            writeln!(out, " over the fastest peer {:.2}", figure(&ratio))?;
        }
        writeln!(out, "overhead {:.1} bytes per item", figure("bytes_overhead_per_item"))?;
        if self.growth_keys > 0 {
            write!(out, "growing to {} keys: p99.9 {:.0} ns, ", self.growth_keys, figure("growth_p999_ns"))?;
            write!(out, "max {:.0} ns (idle loop {:.0} ns), ", figure("growth_max_ns"), figure("hiccup_max_ns"))?;
            writeln!(out, "mean {:.0} ns (right-sized {:.0} ns)", figure("growth_mean_ns"), figure("presized_mean_ns"))?;
        }
        Ok(())
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<TableReport, Error> {
    let clock = Clock::calibrate();
    let mut found = Found::default();
    found.race(arguments)?;
    let (overhead, errors) = growth::overhead_of(arguments.keys, &clock)?;
    found.figures.insert("bytes_overhead_per_item".into(), overhead);
    found.errors += errors;
    if arguments.growth_keys > 0 {
        found.grow(arguments, &clock)?;
    }
    let Arguments { keys, workers, rounds, growth_keys, .. } = *arguments;
    let clock_ns = growth::clock_ns(&clock);
    let pingpong_rtt_ns = (!found.pingpongs.is_empty()).then(|| spread::median(&mut found.pingpongs));
    let Found { figures, spreads, errors, .. } = found;
    let (benchmark, clock) = ("bench-table", clock.source());
    Ok(TableReport { benchmark, keys, workers, rounds, growth_keys, clock, clock_ns, pingpong_rtt_ns, figures, spreads, errors })
}

/// Buckets of a table that is made for so many keys.
fn buckets(arguments: &Arguments, keys: u32) -> u64 {
    arguments.buckets.unwrap_or(u64::from(keys) / 4).max(1)
}

#[derive(Default)]
struct Found {
    figures: BTreeMap<String, f64>,
    spreads: BTreeMap<String, Spread>,
    pingpongs: Vec<f64>,
    errors: u64,
}

impl Found {
    fn race(&mut self, arguments: &Arguments) -> Result<(), Error> {
        let Arguments { keys, workers, rounds, .. } = *arguments;
        let pingpongs = &mut self.pingpongs;
        let found = Contest::run(keys, workers, buckets(arguments, keys), rounds, || {
            pingpongs.extend(pingpong::round_trip_ns(Duration::from_millis(20))?);
            Ok(())
        })?;
        self.errors += found.errors;
        for (name, spread) in found.spreads {
            self.figures.insert(name.clone(), spread.median);
            self.spreads.insert(name + "_spread", spread);
        }
        Ok(())
    }

    fn grow(&mut self, arguments: &Arguments, clock: &Clock) -> Result<(), Error> {
        let keys = arguments.growth_keys;
        let growth = growth::ours(keys, buckets(arguments, keys), clock)?;
        self.filling("growth", &growth.grown);
        self.filling("presized", &growth.presized);
        self.figures.insert("hiccup_max_ns".into(), growth.hiccup_max_ns);
        let beyond_idle_ns = growth.grown.latencies.max() - growth.hiccup_max_ns;
        self.figures.insert("growth_beyond_idle_ms".into(), beyond_idle_ns.max(0.0) / 1e6);
        let means = growth.grown.latencies.mean() / growth.presized.latencies.mean();
        self.figures.insert("ratio_growth_mean".into(), means);
        self.figures.insert("growth_bytes_overhead_per_item".into(), growth.overhead_per_item);
        self.figures.insert("growth_buckets".into(), growth.buckets as f64);
        self.filling("dashmap_growth", &growth::peer::<DashMap>(keys, clock)?);
        self.filling("papaya_growth", &growth::peer::<Papaya>(keys, clock)?);
        self.filling("scc_growth", &growth::peer::<Scc>(keys, clock)?);
        self.filling("rwlock_growth", &growth::peer::<RwLocked>(keys, clock)?);
        self.pingpongs.extend(pingpong::round_trip_ns(Duration::from_millis(20))?);
        Ok(())
    }

    fn filling(&mut self, name: &str, filling: &Filling) {
        let latencies = &filling.latencies;
        self.figures.insert(format!("{name}_mean_ns"), latencies.mean());
        self.figures.insert(format!("{name}_p50_ns"), latencies.quantile(0.5));
        self.figures.insert(format!("{name}_p999_ns"), latencies.quantile(0.999));
        self.figures.insert(format!("{name}_max_ns"), latencies.max());
        self.figures.insert(format!("{name}_preemptions"), filling.preemptions as f64);
        self.errors += filling.errors;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_reports_every_figure_of_the_contract_and_no_error() {
        let arguments = ["bench-table", "--keys", "2000", "--rounds", "2", "--growth-keys", "20000"];
        let report = run(&Arguments::parse_from(arguments)).unwrap();
        assert_eq!(report.errors, 0);
        let json = serde_json::to_value(&report).unwrap();
        let has = |name: &str| assert!(json[name].as_f64().is_some_and(|figure| figure > 0.0), "{name}: {}", json[name]);
        for op in ["insert", "update", "get", "delete"] {
            for map in ["", "dashmap_", "papaya_", "scc_", "rwlock_"] {
                has(&format!("{map}{op}_ns"));
                has(&format!("{map}{op}_overlapped_ns"));
                has(&format!("{map}presized_insert_ns"));
            }
            has(&format!("batch_{op}_ns"));
            ["ratio_", "ratio_batch_"].into_iter().for_each(|ratio| has(&format!("{ratio}{op}")));
            has(&format!("ratio_{op}_overlapped"));
        }
        for name in ["bytes_overhead_per_item", "growth_p999_ns", "growth_max_ns", "hiccup_max_ns", "scc_growth_max_ns"] {
            has(name);
        }
        assert!(!report.to_string().contains("NaN"), "{report}");
    }
}
