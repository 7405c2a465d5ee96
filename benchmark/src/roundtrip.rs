//! `bench-roundtrip`: how long one call takes, over the round trip of one cache line.
//!
//! One client (this process) and a server of one worker: equal parts of inserts, reads and deletes, every reply checked.
//! Each round measures calls, then the ping-pong, then an idle loop; ratios are taken within a round.

use std::fmt;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use shmtable::Client;

use crate::cli::{Common, Report, Wait, seconds};
use crate::clock::Clock;
use crate::latency::Latencies;
use crate::ledger::{Ledger, Shape};
use crate::mix::Kind;
use crate::server_process::{ServerProcess, ServerShape};
use crate::spread::Spread;
use crate::{Error, hiccup, load, pingpong};

/// Calls made before each round's first measured one: the server may have slept.
const WARM_UP: usize = 20_000;

/// Measures the latency of single calls of one client against the ping-pong of a cache line.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-roundtrip --seconds 5 --wait spin --json")]
pub struct Arguments {
    /// Seconds to measure in all.
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// How client and server wait.
    #[arg(long, default_value = "spin")]
    wait: Wait,
    /// Rounds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Worker threads of the server.
    #[arg(short = 'n', long, default_value_t = 1)]
    threads: u32,
    /// Keys.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Bytes of each value.
    #[arg(long, default_value_t = 8)]
    value_size: usize,
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
pub struct Roundtrip {
    pub benchmark: &'static str,
    pub wait: Wait,
    pub threads: u32,
    pub keys: u32,
    pub value_size: usize,
    pub calls: u64,
    pub pingpong_rtt_ns: Option<f64>,
    pub pingpong_rtt_spread: Spread,
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub p999_ns: f64,
    pub p9999_ns: f64,
    pub max_ns: f64,
    pub hiccup_max_ns: f64,
    pub ratio_p50: f64,
    pub ratio_p99: f64,
    pub ratio_p50_spread: Spread,
    pub ratio_p99_spread: Spread,
    /// The ping-pong was outside of 200 to 600 ns: the run says nothing.
    pub void: bool,
    pub clock: &'static str,
    pub errors: u64,
}

impl Report for Roundtrip {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Roundtrip {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} calls, {} waiting, {} worker(s), {} wrong replies", self.calls, self.wait, self.threads, self.errors)?;
        let Spread { median, min, max } = self.pingpong_rtt_spread;
        writeln!(out, "ping-pong of a cache line: {median:.0} ns ({min:.0} to {max:.0})")?;
        writeln!(
            out,
            "p50 {:.0} ns, p99 {:.0}, p99.9 {:.0}, p99.99 {:.0}, max {:.0} (idle loop: {:.0})",
            self.p50_ns, self.p99_ns, self.p999_ns, self.p9999_ns, self.max_ns, self.hiccup_max_ns
        )?;
        let (p50, p99) = (self.ratio_p50_spread, self.ratio_p99_spread);
        write!(out, "over the ping-pong: p50 {:.2} ({:.2} to {:.2}), p99 {:.2} ", p50.median, p50.min, p50.max, p99.median)?;
        writeln!(
            out,
            "({:.2} to {:.2}){}",
            p99.min,
            p99.max,
            if self.void { "; VOID: ping-pong outside 200 to 600 ns" } else { "" }
        )
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Roundtrip, Error> {
    let clock = Clock::calibrate();
    let shape = ServerShape { threads: Some(arguments.threads), wait: Some(arguments.wait), ..ServerShape::default() };
    let server = ServerProcess::start(&shape)?;
    let client = Client::attach(&load::options(server.name(), arguments.wait)).map_err(Error::table("attaching the client"))?;
    let mut caller = Caller::new(arguments, client, clock)?;
    let part = arguments.seconds / arguments.rounds;
    let (mut all, mut round) = (Latencies::new()?, Latencies::new()?);
    let (mut pingpongs, mut ratios_p50, mut ratios_p99, mut hiccup_max) = (Vec::new(), Vec::new(), Vec::new(), 0.0f64);
    for _ in 0..arguments.rounds {
        // Parts of a round: 45 % calls, 45 % idle loop (as long as the calls, so that the maxima compare), 10 % ping-pong.
        round.clear();
        caller.calls(part.mul_f64(0.45), &mut round)?;
        hiccup_max = hiccup_max.max(hiccup::longest_pause_ns(&clock, part.mul_f64(0.45)));
        // A spinning server would take one of the two CPUs.
        server.freeze()?;
        let pingpong = pingpong::round_trip_ns(part.mul_f64(0.1));
        server.thaw()?;
        if let Some(ns) = pingpong? {
            pingpongs.push(ns);
            ratios_p50.push(round.quantile(0.5) / ns);
            ratios_p99.push(round.quantile(0.99) / ns);
        }
        all.add(&round);
    }
    let errors = caller.end();
    server.stop()?;
    let (ratio_p50_spread, ratio_p99_spread, pingpong_rtt_spread) =
        (Spread::of(&ratios_p50), Spread::of(&ratios_p99), Spread::of(&pingpongs));
    let pingpong_rtt_ns = (!pingpongs.is_empty()).then_some(pingpong_rtt_spread.median);
    Ok(Roundtrip {
        benchmark: "bench-roundtrip",
        wait: arguments.wait,
        threads: arguments.threads,
        keys: arguments.keys,
        value_size: arguments.value_size,
        calls: all.count(),
        pingpong_rtt_ns,
        pingpong_rtt_spread,
        p50_ns: all.quantile(0.5),
        p99_ns: all.quantile(0.99),
        p999_ns: all.quantile(0.999),
        p9999_ns: all.quantile(0.9999),
        max_ns: all.max(),
        hiccup_max_ns: hiccup_max,
        ratio_p50: ratio_p50_spread.median,
        ratio_p99: ratio_p99_spread.median,
        ratio_p50_spread,
        ratio_p99_spread,
        void: pingpong::is_void(pingpong_rtt_ns),
        clock: clock.source(),
        errors,
    })
}

struct Caller {
    client: Client,
    clock: Clock,
    ledger: Ledger,
    value: Vec<u8>,
    out: Vec<u8>,
}

impl Caller {
    fn new(arguments: &Arguments, client: Client, clock: Clock) -> Result<Self, Error> {
        let mix = crate::mix::Mix { inserts: 1, reads: 1, deletes: 1 };
        let Arguments { keys, value_size: value_len, .. } = *arguments;
        let ledger = Ledger::new(&Shape { owner: 0, keys, value_len, window: 1, mix, zipf: 0.0, seed: 1 });
        let mut caller = Self { client, clock, ledger, value: vec![0; value_len], out: Vec::with_capacity(value_len) };
        for key in caller.ledger.first_keys() {
            let step = caller.ledger.make(Kind::Insert, key);
            load::sync_call(&mut caller.client, &step, &mut caller.value, &mut caller.out, &mut caller.ledger)?;
        }
        match caller.ledger.first_error() {
            None => Ok(caller),
            Some(error) => Error::failed(format!("writing the first keys: {error}")),
        }
    }

    fn calls(&mut self, duration: Duration, latencies: &mut Latencies) -> Result<(), Error> {
        for _ in 0..WARM_UP {
            self.call()?;
        }
        let end = self.clock.now() + self.clock.ticks(duration);
        loop {
            let (begin, returned) = self.call()?;
            latencies.record(self.clock.ns(returned.saturating_sub(begin)));
            if returned >= end {
                return Ok(());
            }
        }
    }

    /// One call, with the moments before it and after its reply was checked.
    #[inline]
    fn call(&mut self) -> Result<(u64, u64), Error> {
        let step = self.ledger.step();
        let begin = self.clock.now();
        load::sync_call(&mut self.client, &step, &mut self.value, &mut self.out, &mut self.ledger)?;
        Ok((begin, self.clock.now()))
    }

    fn end(self) -> u64 {
        if let Some(error) = self.ledger.first_error() {
            eprintln!("{} wrong replies; the first: {error}", self.ledger.errors());
        }
        self.ledger.errors()
    }
}
