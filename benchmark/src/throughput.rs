//! `bench-throughput`: requests per second of some client processes, beside Redis where asked.
//!
//! Every client runs freely from a common go to a common end and counts checked replies on the board; a round is what the
//! counters grew by between two snapshots, taken well after the go and before the end. With `--redis` as many clients of Redis
//! take turns with ours, round by round.

use std::fmt;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;

use crate::cli::{Common, Report, Wait, seconds, short};
use crate::client_process::{Clients, Peer, Task};
use crate::mix::Mix;
use crate::redis_peer::RedisProcess;
use crate::server_process::{ServerProcess, ServerShape};
use crate::spread::Spread;
use crate::{Error, cpus, pingpong};

/// Share of a round that passes before its first snapshot.
const WARM_UP: f64 = 0.15;

/// Measures requests per second of some client processes; all replies are checked.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-throughput --clients 17 --window 10 --threads 1 --seconds 5 --redis --json")]
pub struct Arguments {
    /// Client processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Most requests under way per client; 1: synchronous calls.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: u32,
    /// Worker threads of the server.
    #[arg(long, short = 'n', default_value_t = 1)]
    threads: u32,
    /// Seconds to measure in all.
    #[arg(long, default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// Bytes of each value.
    #[arg(long, default_value_t = 8)]
    value_size: usize,
    /// Keys in all, shared out among the clients.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// Parts of inserts, reads and deletes.
    #[arg(long, default_value = "1:1:1", value_name = "I:R:D")]
    mix: Mix,
    /// Exponent of Zipf's law by which each client chooses among its keys; 0: uniformly.
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Rounds that the seconds are divided into.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How clients and server wait.
    #[arg(long, default_value = "adaptive")]
    wait: Wait,
    /// Initial buckets (default: the server's own, or a quarter of the keys where that is more).
    #[arg(long)]
    buckets: Option<u64>,
    /// Seed of the sequence of requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measure Redis, with as many clients of the same work, in turn with ours.
    #[arg(long)]
    redis: bool,
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
pub struct Throughput {
    pub benchmark: &'static str,
    pub clients: u32,
    pub window: u32,
    pub threads: u32,
    pub shards: u32,
    pub wait: Wait,
    pub value_size: usize,
    pub keys: u32,
    pub keys_per_client: u32,
    pub mix: Mix,
    pub zipf: f64,
    pub rounds: u32,
    pub ops: u64,
    pub ops_per_second: f64,
    pub ops_per_second_spread: Spread,
    pub cpu_ns_per_op: f64,
    pub server_cpu_ns_per_op: f64,
    pub slowest_to_fastest: f64,
    pub slowest_to_fastest_spread: Spread,
    pub pingpong_rtt_ns: Option<f64>,
    pub redis_ops_per_second: Option<f64>,
    pub redis_ops_per_second_spread: Option<Spread>,
    pub redis_cpu_ns_per_op: Option<f64>,
    pub redis_slowest_to_fastest: Option<f64>,
    pub ratio_redis: Option<f64>,
    pub ratio_redis_spread: Option<Spread>,
    pub errors: u64,
}

impl Report for Throughput {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { min, max, .. } = self.ops_per_second_spread;
        write!(out, "{} client(s), window {}, {} worker(s): ", self.clients, self.window, self.threads)?;
        writeln!(out, "{} ops/s ({} to {} in {} rounds)", short(self.ops_per_second), short(min), short(max), self.rounds)?;
        write!(out, "CPU {:.0} ns per op (server {:.0}); ", self.cpu_ns_per_op, self.server_cpu_ns_per_op)?;
        writeln!(out, "slowest client over fastest {:.2}; {} wrong replies", self.slowest_to_fastest, self.errors)?;
        if let (Some(redis), Some(ratio)) = (self.redis_ops_per_second, self.ratio_redis_spread) {
            writeln!(out, "Redis {} ops/s; ratio {:.1} ({:.1} to {:.1})", short(redis), ratio.median, ratio.min, ratio.max)?;
        }
        Ok(())
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Throughput, Error> {
    if arguments.redis && arguments.wait == Wait::Spin {
        return Error::failed(
            "measuring beside Redis: a spinning server would take a core from it; leave out --wait spin or --redis",
        );
    }
    let server = ServerProcess::start(&server_shape(arguments))?;
    let peer = Peer::Table { name: server.name().to_owned(), wait: arguments.wait };
    let mut ours = Side::new(Clients::start(&tasks(arguments, &peer))?, server.pid());
    let redis = if arguments.redis { RedisProcess::start()? } else { None };
    if arguments.redis && redis.is_none() {
        eprintln!("warning: redis-server is not installed (Debian package redis-server); measuring without it");
    }
    let mut theirs = match &redis {
        None => None,
        Some(redis) => {
            let peer = Peer::Redis { socket: redis.socket().to_owned() };
            Some(Side::new(Clients::start(&tasks(arguments, &peer))?, redis.pid()))
        }
    };
    let part = arguments.seconds / arguments.rounds;
    let mut pingpongs = Vec::new();
    for _ in 0..arguments.rounds {
        ours.round(part)?;
        if let Some(theirs) = &mut theirs {
            theirs.round(part)?;
        }
        if arguments.wait != Wait::Spin {
            pingpongs.extend(pingpong::round_trip_ns(Duration::from_millis(20))?);
        }
    }
    let (ours, theirs) = (ours.finish()?, theirs.map(Side::finish).transpose()?);
    let report = report(arguments, server.shards(), &ours, theirs.as_ref(), &mut pingpongs);
    drop(redis);
    server.stop()?;
    Ok(report)
}

fn report(arguments: &Arguments, shards: u32, ours: &Finished, theirs: Option<&Finished>, pingpongs: &mut [f64]) -> Throughput {
    let ratio = theirs.map(|theirs| Spread::of_ratios(&ours.rates, &theirs.rates));
    Throughput {
        benchmark: "bench-throughput",
        clients: arguments.clients,
        window: arguments.window,
        threads: arguments.threads,
        shards,
        wait: arguments.wait,
        value_size: arguments.value_size,
        keys: arguments.keys,
        keys_per_client: keys_per_client(arguments),
        mix: arguments.mix,
        zipf: arguments.zipf,
        rounds: arguments.rounds,
        ops: ours.ops,
        ops_per_second: Spread::of(&ours.rates).median,
        ops_per_second_spread: Spread::of(&ours.rates),
        cpu_ns_per_op: ours.cpu_ns_per_op,
        server_cpu_ns_per_op: ours.server_cpu_ns_per_op,
        slowest_to_fastest: ours.fairness,
        slowest_to_fastest_spread: Spread::of(&ours.fairness_rounds),
        pingpong_rtt_ns: (!pingpongs.is_empty()).then(|| crate::spread::median(pingpongs)),
        redis_ops_per_second: theirs.map(|theirs| Spread::of(&theirs.rates).median),
        redis_ops_per_second_spread: theirs.map(|theirs| Spread::of(&theirs.rates)),
        redis_cpu_ns_per_op: theirs.map(|theirs| theirs.cpu_ns_per_op),
        redis_slowest_to_fastest: theirs.map(|theirs| theirs.fairness),
        ratio_redis: ratio.map(|ratio| ratio.median),
        ratio_redis_spread: ratio,
        errors: ours.errors + theirs.map_or(0, |theirs| theirs.errors),
    }
}

fn keys_per_client(arguments: &Arguments) -> u32 {
    (arguments.keys / arguments.clients).max(1)
}

fn server_shape(arguments: &Arguments) -> ServerShape {
    let wanted = u64::from(arguments.keys) / 4;
    ServerShape {
        threads: Some(arguments.threads),
        buckets: arguments.buckets.or((wanted > 65_536).then_some(wanted)),
        wait: Some(arguments.wait),
        clients: (arguments.clients > 250).then_some(arguments.clients + 8),
        ..ServerShape::default()
    }
}

fn tasks(arguments: &Arguments, peer: &Peer) -> Vec<Task> {
    let task = |index| Task {
        index,
        clients: arguments.clients,
        peer: peer.clone(),
        window: arguments.window as usize,
        keys: keys_per_client(arguments),
        value_len: arguments.value_size,
        mix: arguments.mix,
        zipf: arguments.zipf,
        seed: arguments.seed,
        gaps: false,
    };
    (0..arguments.clients).map(task).collect()
}

/// One peer: its clients, its server and the rounds so far.
struct Side {
    clients: Clients,
    server: u32,
    rates: Vec<f64>,
    fairness_rounds: Vec<f64>,
    per_client: Vec<u64>,
    clients_cpu: Duration,
    server_cpu: Duration,
}

struct Finished {
    ops: u64,
    rates: Vec<f64>,
    fairness: f64,
    fairness_rounds: Vec<f64>,
    cpu_ns_per_op: f64,
    server_cpu_ns_per_op: f64,
    errors: u64,
}

impl Side {
    fn new(clients: Clients, server: u32) -> Self {
        let per_client = vec![0; clients.ops().len()];
        Self {
            clients,
            server,
            rates: Vec::new(),
            fairness_rounds: Vec::new(),
            per_client,
            clients_cpu: Duration::ZERO,
            server_cpu: Duration::ZERO,
        }
    }

    fn round(&mut self, duration: Duration) -> Result<(), Error> {
        self.clients.go();
        self.clients.board().let_pass(duration.mul_f64(WARM_UP));
        let clients_cpu = self.clients.cpu_time()?;
        let server_cpu = cpus::cpu_time(self.server)?;
        let (begin, before) = (Instant::now(), self.clients.ops());
        self.clients.board().let_pass(duration.mul_f64(1.0 - WARM_UP));
        let (elapsed, after) = (begin.elapsed(), self.clients.ops());
        self.server_cpu += cpus::cpu_time(self.server)?.saturating_sub(server_cpu);
        self.clients_cpu += self.clients.cpu_time()?.saturating_sub(clients_cpu);
        self.clients.find_dead()?;
        self.clients.pause()?;
        let done: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        self.rates.push(done.iter().sum::<u64>() as f64 / elapsed.as_secs_f64());
        self.fairness_rounds.push(slowest_to_fastest(&done));
        self.per_client.iter_mut().zip(&done).for_each(|(sum, done)| *sum += done);
        Ok(())
    }

    fn finish(self) -> Result<Finished, Error> {
        let ops = self.per_client.iter().sum::<u64>();
        let per_op = |time: Duration| time.as_nanos() as f64 / ops.max(1) as f64;
        Ok(Finished {
            ops,
            rates: self.rates,
            fairness: slowest_to_fastest(&self.per_client),
            fairness_rounds: self.fairness_rounds,
            cpu_ns_per_op: per_op(self.clients_cpu + self.server_cpu),
            server_cpu_ns_per_op: per_op(self.server_cpu),
            errors: self.clients.finish()?,
        })
    }
}

fn slowest_to_fastest(ops: &[u64]) -> f64 {
    match (ops.iter().min(), ops.iter().max()) {
        (Some(&slowest), Some(&fastest)) if fastest > 0 => slowest as f64 / fastest as f64,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Arguments {
        Arguments::parse_from([&["bench-throughput"], words].concat())
    }

    #[test]
    fn keys_are_shared_out_and_nobody_goes_without() {
        assert_eq!(keys_per_client(&arguments(&["--clients", "17"])), 588);
        assert_eq!(keys_per_client(&arguments(&["--clients", "17", "--keys", "3"])), 1);
    }

    #[test]
    fn many_keys_or_clients_change_the_server() {
        let usual = server_shape(&arguments(&[]));
        assert_eq!((usual.buckets, usual.clients), (None, None));
        let large = server_shape(&arguments(&["--keys", "4000000", "--clients", "300"]));
        assert_eq!((large.buckets, large.clients), (Some(1_000_000), Some(308)));
    }

    #[test]
    fn the_slowest_over_the_fastest() {
        assert_eq!(slowest_to_fastest(&[5, 10, 8]), 0.5);
        assert_eq!(slowest_to_fastest(&[0, 0]), 0.0);
        assert_eq!(slowest_to_fastest(&[]), 0.0);
    }
}
