//! `bench-idle`: the CPU that a server uses while its clients are attached and want nothing.

use std::fmt;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use crate::cli::{Common, Report, seconds};
use crate::client_process::{Clients, Peer, Task};
use crate::mix::Mix;
use crate::server_process::{ServerProcess, ServerShape};
use crate::{Error, cpus, pingpong};

/// How long the server may take to become idle after its last request.
const SETTLING: Duration = Duration::from_secs(1);

/// Measures the CPU time of an idle server with idle clients attached.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-idle --threads 16 --clients 16 --seconds 10 --json")]
pub struct Arguments {
    /// Worker threads of the server.
    #[arg(long, short = 'n', default_value_t = 16)]
    threads: u32,
    /// Attached client processes, each of which has made one request.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    clients: u32,
    /// Seconds to measure.
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
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
pub struct Idle {
    pub benchmark: &'static str,
    pub threads: u32,
    pub clients: u32,
    pub seconds: f64,
    pub server_cpu_ms: f64,
    pub clients_cpu_ms: f64,
    pub server_context_switches: u64,
    pub pingpong_rtt_ns: Option<f64>,
    pub errors: u64,
}

impl Report for Idle {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "idle server, {} workers, {} idle clients, {} s: ", self.threads, self.clients, self.seconds)?;
        writeln!(out, "{:.3} ms CPU, {} context switches", self.server_cpu_ms, self.server_context_switches)?;
        writeln!(out, "all clients together: {:.3} ms CPU", self.clients_cpu_ms)
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Idle, Error> {
    let pingpong_rtt_ns = pingpong::round_trip_ns(Duration::from_millis(100))?;
    let many = (arguments.clients > 250).then_some(arguments.clients + 8);
    let server =
        ServerProcess::start(&ServerShape { threads: Some(arguments.threads), clients: many, ..ServerShape::default() })?;
    let clients = Clients::start(&tasks(arguments, server.name()))?;
    clients.board().let_pass(SETTLING);
    let (clients_cpu, switches) = (clients.cpu_time()?, cpus::context_switches(server.pid()));
    let server_cpu = cpus::cpu_time(server.pid())?;
    clients.board().let_pass(arguments.seconds);
    let server_cpu = cpus::cpu_time(server.pid())?.saturating_sub(server_cpu);
    let switches = cpus::context_switches(server.pid()).saturating_sub(switches);
    let clients_cpu = clients.cpu_time()?.saturating_sub(clients_cpu);
    clients.find_dead()?;
    let errors = clients.finish()?;
    server.stop()?;
    Ok(Idle {
        benchmark: "bench-idle",
        threads: arguments.threads,
        clients: arguments.clients,
        seconds: arguments.seconds.as_secs_f64(),
        server_cpu_ms: server_cpu.as_secs_f64() * 1e3,
        clients_cpu_ms: clients_cpu.as_secs_f64() * 1e3,
        server_context_switches: switches,
        pingpong_rtt_ns,
        errors,
    })
}

fn tasks(arguments: &Arguments, name: &str) -> Vec<Task> {
    let task = |index| Task {
        index,
        clients: arguments.clients,
        peer: Peer::Idle { name: name.to_owned() },
        window: 1,
        keys: 1,
        value_len: 8,
        mix: Mix { inserts: 1, reads: 1, deletes: 1 },
        zipf: 0.0,
        seed: 1,
        gaps: false,
    };
    (0..arguments.clients).map(task).collect()
}
