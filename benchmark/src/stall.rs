//! `bench-stall`: what the others notice when clients are stopped or killed in the midst of their work.
//!
//! All clients work. First a calm stretch, then at one moment some get SIGSTOP, SIGKILL, or first one and then the other. Each
//! of the others measures the longest gap between two of its own replies in each stretch; the benchmark counts what they get
//! done. A gap that reaches from one stretch into the next counts in both. Stopped clients go on at the end and are verified too.

use std::fmt;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::board::{self, Phase};
use crate::cli::{Common, Report, Wait, seconds, short};
use crate::client_process::{Clients, Peer, Task};
use crate::mix::Mix;
use crate::server_process::{ServerProcess, ServerShape};
use crate::{Error, pingpong};

const SETTLING: usize = 0;
const CALM: usize = 1;
const STOPPED: usize = 2;
const KILLED: usize = 3;
const ENDING: usize = 4;

/// What happens to the victims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// SIGSTOP, SIGCONT at the end.
    Stop,
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGKILL some time later.
    Both,
}

/// Measures what other clients notice when some are stopped or killed.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-stall --clients 17 --event both --count 8 --json")]
pub struct Arguments {
    /// Client processes.
    #[arg(long, default_value_t = 17, value_parser = clap::value_parser!(u32).range(2..=1024))]
    clients: u32,
    /// What happens.
    #[arg(long, default_value = "stop")]
    event: Event,
    /// How many clients it happens to.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Most requests under way per client.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: u32,
    /// Worker threads of the server.
    #[arg(long, short = 'n', default_value_t = 1)]
    threads: u32,
    /// Seconds of each stretch.
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// How clients and server wait.
    #[arg(long, default_value = "adaptive")]
    wait: Wait,
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
pub struct Stall {
    pub benchmark: &'static str,
    pub clients: u32,
    pub event: Event,
    pub count: u32,
    pub window: u32,
    pub threads: u32,
    pub longest_gap_ms_calm: f64,
    pub longest_gap_ms_event: f64,
    pub longest_gap_ms_stop: Option<f64>,
    pub longest_gap_ms_kill: Option<f64>,
    /// When after the signals that gap ended.
    pub longest_gap_end_ms_stop: Option<f64>,
    /// When after the signals that gap ended.
    pub longest_gap_end_ms_kill: Option<f64>,
    /// Of those who are not hit.
    pub ops_per_second_before: f64,
    /// Of those who are not hit; the lower of the two stretches with `both`.
    pub ops_per_second_after: f64,
    /// Of all clients, those who will be hit included.
    pub ops_per_second_before_all: f64,
    pub pingpong_rtt_ns: Option<f64>,
    pub errors: u64,
}

impl Report for Stall {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} of {} clients, event {:?}, {} wrong replies", self.count, self.clients, self.event, self.errors)?;
        writeln!(
            out,
            "longest gap of the others: {:.3} ms calm, {:.3} ms event",
            self.longest_gap_ms_calm, self.longest_gap_ms_event
        )?;
        write!(out, "the others: {} ops/s before, ", short(self.ops_per_second_before))?;
        writeln!(
            out,
            "{} after (all clients before: {})",
            short(self.ops_per_second_after),
            short(self.ops_per_second_before_all)
        )
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Stall, Error> {
    let Arguments { clients: all, count, .. } = *arguments;
    if count >= all {
        return Error::failed(format!(
            "choosing victims: found {count} of {all} clients against at least one survivor; lower --count"
        ));
    }
    let pingpong_rtt_ns = pingpong::round_trip_ns(Duration::from_millis(100))?;
    let many = (all > 250).then_some(all + 8);
    let shape =
        ServerShape { threads: Some(arguments.threads), wait: Some(arguments.wait), clients: many, ..ServerShape::default() };
    let server = ServerProcess::start(&shape)?;
    let mut clients = Clients::start(&tasks(arguments, server.name()))?;
    clients.board().set_epoch(SETTLING);
    clients.go();
    clients.board().let_pass(arguments.seconds / 4);
    let calm = stretch(&mut clients, arguments, CALM, None)?;
    let stop = match arguments.event {
        Event::Kill => None,
        _ => Some(stretch(&mut clients, arguments, STOPPED, Some(Signal::SIGSTOP))?),
    };
    let kill = match arguments.event {
        Event::Stop => None,
        _ => Some(stretch(&mut clients, arguments, KILLED, Some(Signal::SIGKILL))?),
    };
    clients.board().set_epoch(ENDING);
    if arguments.event == Event::Stop {
        for victim in victims(arguments) {
            clients.signal(victim, Signal::SIGCONT)?;
        }
    }
    clients.pause()?;
    // Only now are the gaps final: one that began in a stretch and ended after it was noted when it ended.
    let gap = |epoch| {
        let survivors = &clients.board().slots()[count as usize..];
        survivors.iter().map(|slot| slot.gap(epoch)).max().unwrap_or_default()
    };
    let found = [CALM, STOPPED, KILLED].map(gap);
    let gaps = found.map(|(ns, _)| ns as f64 / 1e6);
    // How long after the signals the longest gap ended: a gap that the event made ends soon after it, one of the scheduler anywhere.
    let end =
        |epoch: usize, rates: Option<Rates>| rates.map(|rates| found[epoch - 1].1.saturating_sub(rates.begin_ns) as f64 / 1e6);
    let errors = clients.finish()?;
    server.stop()?;
    let (longest_gap_ms_stop, longest_gap_ms_kill) = (stop.map(|_| gaps[1]), kill.map(|_| gaps[2]));
    let after = stop.into_iter().chain(kill).map(|rates| rates.survivors).fold(f64::INFINITY, f64::min);
    Ok(Stall {
        benchmark: "bench-stall",
        clients: all,
        event: arguments.event,
        count,
        window: arguments.window,
        threads: arguments.threads,
        longest_gap_ms_calm: gaps[0],
        longest_gap_ms_event: longest_gap_ms_stop.unwrap_or(0.0).max(longest_gap_ms_kill.unwrap_or(0.0)),
        longest_gap_ms_stop,
        longest_gap_ms_kill,
        longest_gap_end_ms_stop: end(STOPPED, stop),
        longest_gap_end_ms_kill: end(KILLED, kill),
        ops_per_second_before: calm.survivors,
        ops_per_second_after: after,
        ops_per_second_before_all: calm.all,
        pingpong_rtt_ns,
        errors,
    })
}

/// The clients that are hit: those of the lowest numbers.
fn victims(arguments: &Arguments) -> std::ops::Range<usize> {
    0..arguments.count as usize
}

#[derive(Clone, Copy)]
struct Rates {
    begin_ns: u64,
    survivors: f64,
    all: f64,
}

/// One stretch of time, at whose beginning the victims get a signal.
fn stretch(clients: &mut Clients, arguments: &Arguments, epoch: usize, signal: Option<Signal>) -> Result<Rates, Error> {
    let begin_ns = board::monotonic_ns();
    clients.board().set_epoch(epoch);
    for victim in victims(arguments) {
        if let Some(signal) = signal {
            clients.signal(victim, signal)?;
        }
    }
    let (begin, before) = (Instant::now(), clients.ops());
    clients.board().let_pass(arguments.seconds);
    let (elapsed, after) = (begin.elapsed().as_secs_f64(), clients.ops());
    clients.find_dead()?;
    debug_assert_eq!(clients.board().phase(), Phase::Run);
    let rate = |from: usize| {
        after[from..].iter().zip(&before[from..]).map(|(after, before)| after - before).sum::<u64>() as f64 / elapsed
    };
    Ok(Rates { begin_ns, survivors: rate(arguments.count as usize), all: rate(0) })
}

fn tasks(arguments: &Arguments, name: &str) -> Vec<Task> {
    let task = |index| Task {
        index,
        clients: arguments.clients,
        peer: Peer::Table { name: name.to_owned(), wait: arguments.wait },
        window: arguments.window as usize,
        keys: (10_000 / arguments.clients).max(1),
        value_len: 8,
        mix: Mix { inserts: 1, reads: 1, deletes: 1 },
        zipf: 0.0,
        seed: 1,
        gaps: true,
    };
    (0..arguments.clients).map(task).collect()
}
