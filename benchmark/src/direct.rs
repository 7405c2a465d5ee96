//! `bench-direct`: what a get costs that a client reads from the table itself, beside the maps that threads of one process share.
//!
//! A server of one worker on one CPU, this process on another: it reads directly, one key at a time and in batches, through
//! handles and through the ring, and the peers, which rest in its own memory. With `--writer` somebody updates random keys at
//! full speed meanwhile: for the table a client process over the ring, for a peer a thread; all that writes is on the
//! server's CPU. Each round measures everything once; every answer is checked. A single read is timed in two ways: waiting for the
//! answer of the one before, which is what one read takes, and in a loop of independent ones, which overlap ([`crate::chain`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use shmtable::{Client, Handle};

use crate::chain::{Chained, Overlapped};
use crate::cli::{Common, Report, Wait, seconds, short};
use crate::client_process::{Clients, Peer, Task};
use crate::direct_load::{Order, fill, range};
use crate::direct_peers::{self, Filled};
use crate::mix::Mix;
use crate::peers::NAMES;
use crate::server_process::{ServerProcess, ServerShape};
use crate::spread::Spread;
use crate::{Error, cpus, load, pingpong};

/// Handles that are read again and again.
const HANDLES: u32 = 1 << 16;
/// What is measured of the table, in this order in each round.
const OURS: [&str; 8] = [
    "direct",
    "direct_overlapped",
    "direct_batch",
    "handle",
    "handle_overlapped",
    "handle_direct",
    "handle_direct_overlapped",
    "ring",
];
/// A ping-pong under this, in nanoseconds, means that two CPUs are one core: rows with two processes are void.
const LEAST_PINGPONG: f64 = 100.0;

/// Measures direct gets against dashmap, papaya, scc and a RwLock around a HashMap.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-direct --keys 1000000 --writer --json")]
pub struct Arguments {
    /// Keys.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    keys: u32,
    /// Bytes of each value, at least 8; the peers hold words and are left out for any other size than 8.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    value_size: u32,
    /// Have random keys updated at full speed meanwhile.
    #[arg(long)]
    writer: bool,
    /// Reading processes that are compared with one.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=64))]
    readers: u32,
    /// Seconds to measure in all.
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
}

impl Common for Arguments {
    fn json(&self) -> bool {
        self.json
    }
}

/// What was found: `direct_ns`, `direct_batch_ns`, `handle_ns`, `ring_ns`, the peers' figures, the same `…_overlapped_ns`, and
/// their spreads.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are described in METHODOLOGY.md")]
pub struct Direct {
    pub benchmark: &'static str,
    pub keys: u32,
    pub value_size: u32,
    pub writer: bool,
    pub readers: u32,
    pub rounds: u32,
    #[serde(flatten)]
    pub figures: BTreeMap<String, Option<f64>>,
    #[serde(flatten)]
    pub spreads: BTreeMap<String, Spread>,
    pub best_peer: Option<&'static str>,
    pub best_peer_overlapped: Option<&'static str>,
    pub readers_scaling: Option<f64>,
    pub readers_scaling_spread: Spread,
    pub reader_cpus: usize,
    pub pingpong_rtt_ns: Option<f64>,
    pub void: bool,
    pub errors: u64,
}

impl Report for Direct {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Direct {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writing = if self.writer { "one writer" } else { "nobody writing" };
        writeln!(out, "{} keys, {} bytes, {writing}, {} wrong answers", short(self.keys.into()), self.value_size, self.errors)?;
        for (name, figure) in self.figures.iter().filter(|(name, _)| name.ends_with("_ns")) {
            let Some(Spread { median, min, max }) = figure.and_then(|_| self.spreads.get(&format!("{name}_spread"))) else {
                continue;
            };
            writeln!(out, "{:>24} {median:6.1} ns ({min:.1} to {max:.1})", name.trim_end_matches("_ns"))?;
        }
        let ratio = |name: &str| self.figures.get(name).copied().flatten().unwrap_or(0.0);
        if let Some(peer) = self.best_peer {
            writeln!(out, "direct over {peer}, one at a time: {:.2}", ratio("direct_ratio_best_peer"))?;
        }
        if let Some(peer) = self.best_peer_overlapped {
            writeln!(out, "direct over {peer}, loops that overlap: {:.2}", ratio("direct_overlapped_ratio_best_peer"))?;
        }
        let (single, overlapped) = (ratio("direct_batch_ratio_single"), ratio("direct_batch_ratio_overlapped"));
        writeln!(out, "batch over single: {single:.2}, over the loop that overlaps: {overlapped:.2}")?;
        if let Some(scaling) = self.readers_scaling {
            writeln!(out, "{} readers over one: {scaling:.2}", self.readers)?;
        }
        let void = if self.void { "; VOID for rows with two processes" } else { "" };
        writeln!(out, "ping-pong {:.0} ns{void}", self.pingpong_rtt_ns.unwrap_or(0.0))
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Direct, Error> {
    let cpus = cpus::allowed()?;
    let (&server_cpu, &own_cpu) = (cpus.first().unwrap_or(&0), cpus.last().unwrap_or(&0));
    let pingpong_rtt_ns = pingpong::round_trip_ns(Duration::from_millis(200))?;
    let shape = ServerShape { threads: Some(1), cpus: Some(server_cpu.to_string()), ..ServerShape::default() };
    let server = ServerProcess::start(&shape)?;
    cpus::pin(own_cpu)?;
    let mut bench = Bench::new(arguments, &server, server_cpu)?;
    let mut scaling = Scaling::new(arguments, &server, &cpus)?;
    let part = arguments.seconds / (arguments.rounds * (OURS.len() + 2 * bench.peers.len() + 2) as u32);
    let (mut rounds, mut scalings) = (BTreeMap::new(), Vec::new());
    // The first round warms up and is not counted.
    for round in 0..=arguments.rounds {
        let measured = bench.round(part)?;
        let scaled = scaling.round(part)?;
        if round > 0 {
            measured.into_iter().for_each(|(name, ns)| rounds.entry(name).or_insert_with(Vec::new).push(ns));
            scalings.push(scaled);
        }
    }
    let errors = bench.finish()? + scaling.finish()?;
    server.stop()?;
    let mut report = report(arguments, &rounds);
    // With fewer CPUs than readers the ratio would say how they share one.
    report.readers_scaling = (cpus.len() >= arguments.readers as usize).then_some(Spread::of(&scalings).median);
    report.readers_scaling_spread = Spread::of(&scalings);
    report.reader_cpus = cpus.len();
    report.pingpong_rtt_ns = pingpong_rtt_ns;
    report.void = pingpong_rtt_ns.is_none_or(|ns| ns < LEAST_PINGPONG);
    report.errors = errors;
    Ok(report)
}

struct Bench {
    client: Client,
    order: Order,
    handles: Vec<Handle>,
    peers: Vec<Box<dyn Filled>>,
    /// The table's writer, and the CPU of all writers.
    writer: Option<(Clients, usize)>,
}

impl Bench {
    fn new(arguments: &Arguments, server: &ServerProcess, writer_cpu: usize) -> Result<Self, Error> {
        let Arguments { keys, value_size, .. } = *arguments;
        let options = load::options(server.name(), Wait::Adaptive);
        let mut client = Client::attach(&options).map_err(Error::table("attaching the client"))?;
        fill(&mut client, keys, value_size as usize)?;
        let handles = (0..keys.min(HANDLES)).map(|index| client.handle(&range().key(index)));
        let handles = handles.collect::<Result<_, _>>().map_err(Error::table("making handles"))?;
        let peers = if value_size == 8 { direct_peers::all(keys)? } else { Vec::new() };
        let writer = match arguments.writer {
            true => Some((Clients::start(&[task(arguments, server.name(), 0, 1, writer_cpu, true)])?, writer_cpu)),
            false => None,
        };
        Ok(Self { client, order: Order::new(keys, value_size as usize, arguments.writer, 1), handles, peers, writer })
    }

    /// Nanoseconds per operation of everything, and writes per second.
    fn round(&mut self, part: Duration) -> Result<Vec<(String, f64)>, Error> {
        let mut figures = Vec::new();
        let (mut begin, mut before) = (Instant::now(), 0);
        if let Some((writer, _)) = &self.writer {
            writer.go();
            (begin, before) = (Instant::now(), writer.ops()[0]);
        }
        for name in OURS {
            let (order, client) = (&mut self.order, &mut self.client);
            let (first, handles) = (self.handles.len(), &mut self.handles);
            let ns = match name {
                "direct" => order.direct(client, Chained::new(), part)?,
                "direct_overlapped" => order.direct(client, Overlapped, part)?,
                "direct_batch" => order.batches(client, part)?,
                "handle" => order.handles(client, handles, Chained::new(), part)?,
                "handle_overlapped" => order.handles(client, handles, Overlapped, part)?,
                "handle_direct" => order.direct_of_first(client, first, Chained::new(), part)?,
                "handle_direct_overlapped" => order.direct_of_first(client, first, Overlapped, part)?,
                _ => order.ring(client, part)?,
            };
            figures.push((format!("{name}_ns"), ns));
        }
        if let Some((writer, _)) = &mut self.writer {
            let rate = (writer.ops()[0] - before) as f64 / begin.elapsed().as_secs_f64();
            writer.pause()?;
            figures.push(("writer_ops_per_second".into(), rate));
        }
        let cpu = self.writer.as_ref().map(|(_, cpu)| *cpu);
        for peer in &self.peers {
            let found = peer.measure(&mut self.order, part, cpu)?;
            figures.push((format!("{}_ns", peer.name()), found.ns));
            figures.push((format!("{}_overlapped_ns", peer.name()), found.overlapped_ns));
            if cpu.is_some() {
                figures.push((format!("{}_writer_ops_per_second", peer.name()), found.writes_per_second));
            }
        }
        Ok(figures)
    }

    /// Wrong answers.
    fn finish(self) -> Result<u64, Error> {
        let written = self.writer.map_or(Ok(0), |(writer, _)| writer.finish())?;
        Ok(self.order.errors + written)
    }
}

/// One reading process, and several.
struct Scaling {
    sets: [Clients; 2],
}

impl Scaling {
    fn new(arguments: &Arguments, server: &ServerProcess, cpus: &[usize]) -> Result<Self, Error> {
        let set = |readers: u32| {
            let cpu = |index: u32| cpus[cpus.len() - 1 - index as usize % cpus.len()];
            let tasks: Vec<_> =
                (0..readers).map(|index| task(arguments, server.name(), index, readers, cpu(index), false)).collect();
            Clients::start(&tasks)
        };
        Ok(Self { sets: [set(1)?, set(arguments.readers)?] })
    }

    /// Gets per second of several processes over those of one.
    fn round(&mut self, part: Duration) -> Result<f64, Error> {
        let mut rates = [0.0; 2];
        for (clients, rate) in self.sets.iter_mut().zip(&mut rates) {
            let (begin, before) = (Instant::now(), clients.ops().iter().sum::<u64>());
            clients.go();
            clients.board().let_pass(part);
            let (after, elapsed) = (clients.ops().iter().sum::<u64>(), begin.elapsed());
            clients.pause()?;
            *rate = (after - before) as f64 / elapsed.as_secs_f64();
        }
        Ok(rates[1] / rates[0])
    }

    fn finish(self) -> Result<u64, Error> {
        self.sets.into_iter().map(Clients::finish).sum()
    }
}

fn task(arguments: &Arguments, name: &str, index: u32, clients: u32, cpu: usize, writes: bool) -> Task {
    Task {
        index,
        clients,
        peer: Peer::Direct { name: name.to_owned(), cpu, writes },
        window: 1,
        keys: arguments.keys,
        value_len: arguments.value_size as usize,
        mix: Mix { inserts: u16::from(writes), reads: u16::from(!writes), deletes: 0 },
        zipf: 0.0,
        seed: u64::from(index) * 1000 + 17,
        gaps: false,
    }
}

fn report(arguments: &Arguments, rounds: &BTreeMap<String, Vec<f64>>) -> Direct {
    let (mut figures, mut spreads) = (BTreeMap::new(), BTreeMap::new());
    for (name, values) in rounds {
        let spread = Spread::of(values);
        figures.insert(name.clone(), Some(spread.median));
        spreads.insert(format!("{name}_spread"), spread);
    }
    let best = |suffix: &str| {
        let of = |peer: &'static str| Some((peer, (*figures.get(&format!("{peer}{suffix}"))?)?));
        let best = NAMES.into_iter().filter_map(of).min_by(|one, other| one.1.total_cmp(&other.1));
        best.map(|(peer, _)| peer)
    };
    let (best, best_overlapped) = (best("_ns"), best("_overlapped_ns"));
    let mut ratio = |name: &str, over: &str, under: Option<String>| {
        let spread = under.map(|under| Spread::of_ratios(&rounds[over], &rounds[&under]));
        figures.insert(name.into(), spread.map(|spread| spread.median));
        if let Some(spread) = spread {
            spreads.insert(format!("{name}_spread"), spread);
        }
    };
    ratio("direct_ratio_best_peer", "direct_ns", best.map(|peer| format!("{peer}_ns")));
    let under = best_overlapped.map(|peer| format!("{peer}_overlapped_ns"));
    ratio("direct_overlapped_ratio_best_peer", "direct_overlapped_ns", under);
    ratio("direct_batch_ratio_single", "direct_batch_ns", Some("direct_ns".into()));
    ratio("direct_batch_ratio_overlapped", "direct_batch_ns", Some("direct_overlapped_ns".into()));
    ratio("handle_ratio_direct", "handle_ns", Some("handle_direct_ns".into()));
    ratio("handle_overlapped_ratio_direct", "handle_overlapped_ns", Some("handle_direct_overlapped_ns".into()));
    for peer in NAMES {
        figures.entry(format!("{peer}_ns")).or_insert(None);
        figures.entry(format!("{peer}_overlapped_ns")).or_insert(None);
    }
    Direct {
        benchmark: "bench-direct",
        keys: arguments.keys,
        value_size: arguments.value_size,
        writer: arguments.writer,
        readers: arguments.readers,
        rounds: arguments.rounds,
        figures,
        spreads,
        best_peer: best,
        best_peer_overlapped: best_overlapped,
        readers_scaling: None,
        readers_scaling_spread: Spread::of(&[]),
        reader_cpus: 0,
        pingpong_rtt_ns: None,
        void: false,
        errors: 0,
    }
}
