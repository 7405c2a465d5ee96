//! The hyperfine scenarios: a fresh server, some background clients, and one command timed as a whole process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shmtable::Monitor;

use super::hyperfine::{self, Times};
use crate::cleanup::{self, Leftover, Watched};
use crate::server_process::{ServerProcess, ServerShape, beside_us, forget_environment};
use crate::{Error, Wait, load};

/// Buckets of every scenario's server.
const BUCKETS: u64 = 10_000;
/// How long background clients may take until they are served.
const PATIENCE: Duration = Duration::from_secs(30);

/// A scenario.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// Its name.
    pub(crate) name: &'static str,
    /// Worker threads.
    pub(crate) threads: u32,
    /// Background clients, each running `client 0 10`.
    pub(crate) background: usize,
}

/// All of them.
pub(crate) const SCENARIOS: [Scenario; 7] = [
    Scenario { name: "AloneSingleThread", threads: 1, background: 0 },
    Scenario { name: "TwoSingleThread", threads: 1, background: 1 },
    Scenario { name: "AloneMultiThread", threads: 16, background: 0 },
    Scenario { name: "TwoMultiThread", threads: 16, background: 1 },
    Scenario { name: "ManyClientsST", threads: 1, background: 16 },
    Scenario { name: "ManyClientsMT", threads: 16, background: 16 },
    Scenario { name: "SCManyThreads", threads: 32, background: 0 },
];

/// Which scenario of many threads is compared with which of one.
pub(crate) const PAIRS: [(&str, &str); 4] = [
    ("AloneMultiThread", "AloneSingleThread"),
    ("TwoMultiThread", "TwoSingleThread"),
    ("ManyClientsMT", "ManyClientsST"),
    ("SCManyThreads", "AloneSingleThread"),
];

/// A scenario with what its rounds took.
pub(crate) struct Measured {
    /// The scenario.
    pub(crate) scenario: &'static Scenario,
    /// One entry per round that succeeded.
    pub(crate) rounds: Vec<Times>,
    /// Why the first one failed that did.
    pub(crate) failure: Option<String>,
}

impl Measured {
    /// Without any round yet.
    pub(crate) fn new(scenario: &'static Scenario) -> Self {
        Self { scenario, rounds: Vec::new(), failure: None }
    }
}

/// Runs one round of a scenario.
pub(crate) fn run(scenario: &Scenario, runs: u32, export: &Path) -> Result<Times, Error> {
    let shape = ServerShape { threads: Some(scenario.threads), buckets: Some(BUCKETS), ..ServerShape::default() };
    let server = ServerProcess::start(&shape)?;
    let client = beside_us("client", "shmtable")?;
    let mut background = Vec::with_capacity(scenario.background);
    for _ in 0..scenario.background {
        background.push(Background::start(&client, server.name())?);
    }
    wait_until_served(server.name(), scenario.background)?;
    let times = hyperfine::time(scenario.name, &client, server.name(), runs, export)?;
    for client in background {
        client.stop()?;
    }
    server.stop()?;
    Ok(times)
}

/// A client that works in the background until it is stopped.
struct Background {
    child: Child,
    watched: Option<Watched>,
}

impl Background {
    fn start(client: &Path, name: &str) -> Result<Self, Error> {
        let mut command = Command::new(client);
        forget_environment(&mut command);
        command.env("SHMTABLE_NAME", name).args(["0", "10"]).stdin(Stdio::null()).stdout(Stdio::null());
        cleanup::die_with_parent(&mut command, Signal::SIGKILL);
        let child = command.spawn().map_err(Error::io("starting a background client"))?;
        let watched = Some(cleanup::watch(Leftover::Process(Pid::from_raw(child.id() as i32))));
        Ok(Self { child, watched })
    }

    fn stop(mut self) -> Result<(), Error> {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, Signal::SIGINT).map_err(Error::io("stopping a background client"))?;
        if !cleanup::ended_within(pid, PATIENCE) {
            return Error::failed(format!("stopping a background client: still there {PATIENCE:?} after SIGINT; it was killed"));
        }
        self.watched = None;
        let status = self.child.wait().map_err(Error::io("waiting for a background client"))?;
        if status.success() {
            Ok(())
        } else {
            Error::failed(format!("stopping a background client: found {status} against exit 0"))
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.watched = None;
        let _ = self.child.wait();
    }
}

/// Waits until all background clients are attached and requests are being served.
fn wait_until_served(name: &str, clients: usize) -> Result<(), Error> {
    if clients == 0 {
        return Ok(());
    }
    let monitor = Monitor::open(&load::options(name, Wait::Adaptive)).map_err(Error::table("watching the server"))?;
    let served = || monitor.stats().shards.iter().map(|shard| shard.requests_total).sum::<u64>();
    let deadline = Instant::now() + PATIENCE;
    let mut first = None;
    loop {
        if monitor.clients().len() >= clients {
            let now = served();
            if now > *first.get_or_insert(now) {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            return Error::failed(format!(
                "starting background clients: found {} attached against {clients}, and no requests served for {PATIENCE:?}",
                monitor.clients().len()
            ));
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_compares_known_scenarios_of_as_many_clients() {
        let find = |name| SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
        for (many, one) in PAIRS {
            let (many, one) = (find(many), find(one));
            assert!(many.threads > one.threads && one.threads == 1);
            assert_eq!(many.background, one.background);
        }
    }
}
