//! Expiry as clients meet it: a server, keys that a pipeline inserts with what is left until one common deadline for their time to
//! live, and somebody who looks on when they go.
//!
//! ```text
//!   server, company at rest ─▶ rate found ─▶ all keys in ─▶ calm: company works ─deadline─▶ storm ─all expired─▶ end
//! ```
//!
//! The server starts each time to live when it serves the request, a little after we worked it out: how much at most is known from how
//! long the chunks of requests took. Seconds to empty count from the deadline that we wanted, so that this errs against us.

use std::time::{Duration, Instant};

use shmtable::{Client, Completion, Condition, Monitor, Operation, Outcome, StatValue, Ttl};

use crate::client_process::{Clients, Peer, Task};
use crate::clock::Clock;
use crate::keys::KeyRange;
use crate::latency::Latencies;
use crate::ledger::{Ledger, Shape};
use crate::mix::Mix;
use crate::server_process::{ServerProcess, ServerShape};
use crate::{Error, Wait, load};

/// Owner of the keys that expire.
const OWNER: u32 = 3_000_000;
/// Requests under way while keys are inserted.
const WINDOW: usize = 512;
/// Requests with the same time to live.
const CHUNK: u32 = 4096;
/// The part of the keys by which the rate is found.
const PROBE: u32 = 50;
/// How much longer than expected filling may take, attempt by attempt.
const SPARE: [f64; 3] = [1.4, 3.0, 8.0];
/// Least time between the last key and the deadline.
const CALM: Duration = Duration::from_millis(1500);
/// How long the server may take to be rid of everything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks at the server's numbers.
const LOOK: Duration = Duration::from_millis(1);
/// Keys that the company works on.
const OTHER_KEYS: u32 = 1000;
/// Keys that are looked for before and after the deadline.
const SAMPLE: u32 = 200;

/// Who else is at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Company {
    /// Nobody.
    Nobody,
    /// One client that times single calls on keys of its own.
    Calls,
    /// Two client processes with a hundred requests under way each.
    Load,
}

/// What was seen.
pub(crate) struct Storm {
    /// From the deadline until every key was counted as expired.
    pub(crate) seconds_to_empty: f64,
    /// Highest lag that the server published.
    pub(crate) lag_seconds_max: f64,
    /// Calls before the deadline.
    pub(crate) calm: Latencies,
    /// Calls from the deadline until everything was gone.
    pub(crate) storm: Latencies,
    /// Wrong replies.
    pub(crate) errors: u64,
}

/// Fills a server with keys that expire together, and watches them go in some company. Where filling takes so long that no calm while
/// is left, it begins anew with a later deadline.
pub(crate) fn watch(keys: u32, company: Company, clock: &Clock) -> Result<Storm, Error> {
    for spare in SPARE {
        if let Some(storm) = attempt(keys, company, clock, spare)? {
            return Ok(storm);
        }
    }
    Error::failed(format!(
        "filling the server: found less than {:?} left until the deadline, {} times; the machine is too busy, try again later",
        CALM / 2,
        SPARE.len()
    ))
}

fn attempt(keys: u32, company: Company, clock: &Clock, spare: f64) -> Result<Option<Storm>, Error> {
    let buckets = Some((u64::from(keys) / 4).max(1));
    let server = ServerProcess::start(&ServerShape { buckets, ..ServerShape::default() })?;
    let options = load::options(server.name(), Wait::Adaptive);
    let mut client = Client::attach(&options).map_err(Error::table("attaching a client"))?;
    let monitor = Monitor::open(&options).map_err(Error::table("watching the server"))?;
    let loaded = if company == Company::Load { Some(Clients::start(&tasks(server.name()))?) } else { None };
    let mut filling = Filling { range: KeyRange::new(OWNER), keys, errors: 0, latest: Duration::ZERO };
    let deadline = filling.fill(&mut client, spare)?;
    let mut storm = None;
    if let Some(deadline) = deadline {
        let mut watching = Watching::new(monitor, keys, deadline)?;
        loaded.as_ref().inspect(|clients| clients.go());
        match company {
            Company::Calls => watching.calls(&mut client, &mut filling, clock)?,
            Company::Nobody | Company::Load => while !watching.is_over()? {},
        }
        storm = Some(watching.end(filling.errors));
    }
    let errors = loaded.map_or(Ok(0), Clients::finish)?;
    drop(client);
    server.stop()?;
    Ok(storm.map(|storm| Storm { errors: storm.errors + errors, ..storm }))
}

/// The keys that are to expire.
struct Filling {
    range: KeyRange,
    keys: u32,
    errors: u64,
    /// Most that a key's deadline can lie behind the one wanted.
    latest: Duration,
}

impl Filling {
    /// Inserts all keys with one deadline, which it returns: so late that all are in by then, and a calm while is left. None where it
    /// took longer.
    fn fill(&mut self, client: &mut Client, spare: f64) -> Result<Option<Instant>, Error> {
        let probe = (self.keys / PROBE).clamp(1, self.keys);
        let begin = Instant::now();
        self.insert(client, 0..probe, 0, begin + PATIENCE)?;
        self.latest = Duration::ZERO;
        let expected = begin.elapsed() * self.keys / probe;
        let deadline = Instant::now() + expected.mul_f64(spare) + CALM;
        if !self.insert(client, 0..self.keys, probe, deadline)? {
            return Ok(None);
        }
        self.errors += u64::from(self.sample()) - self.there(client)?;
        Ok(Some(deadline))
    }

    /// Inserts keys that are gone after `deadline`; of those, the ones below `present` are there already. False when it took so long
    /// that not enough time is left.
    fn insert(
        &mut self,
        client: &mut Client,
        keys: std::ops::Range<u32>,
        present: u32,
        deadline: Instant,
    ) -> Result<bool, Error> {
        let mut pipeline = client.pipeline(WINDOW);
        for first in keys.clone().step_by(CHUNK as usize) {
            let begin = Instant::now();
            let ttl = Ttl::For(deadline.saturating_duration_since(begin));
            let (mut next, mut wrong) = (first, 0);
            let mut on_reply = |completion: Completion<'_>| {
                let right = matches!(completion.outcome, Outcome::Stored { replaced, .. } if replaced == (next < present));
                wrong += u64::from(!right);
                next += 1;
            };
            for index in first..(first + CHUNK).min(keys.end) {
                let (key, value) = (self.range.key(index), self.range.word(index, 0).to_le_bytes());
                let operation = Operation::Insert { key: &key, value: &value, condition: Condition::Always, ttl };
                pipeline.submit(&operation, &mut on_reply).map_err(Error::table("inserting keys that expire"))?;
            }
            pipeline.finish(&mut on_reply).map_err(Error::table("inserting keys that expire"))?;
            self.errors += wrong;
            // Times to live are whole milliseconds, rounded up.
            self.latest = self.latest.max(begin.elapsed() + Duration::from_millis(2));
            if deadline.saturating_duration_since(Instant::now()) < CALM / 2 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn sample(&self) -> u32 {
        self.keys.min(SAMPLE)
    }

    /// How many of some keys are there, with their values.
    fn there(&self, client: &mut Client) -> Result<u64, Error> {
        let mut found = 0;
        for number in 0..self.sample() {
            let index = (u64::from(number) * u64::from(self.keys) / u64::from(self.sample())) as u32;
            let value = client.read(&self.range.key(index)).map_err(Error::table("looking for a key that expires"))?;
            found += u64::from(value.is_some_and(|value| value == self.range.word(index, 0).to_le_bytes()));
        }
        Ok(found)
    }
}

/// Looks at the server's numbers until all keys are counted as expired.
struct Watching {
    monitor: Monitor,
    keys: u32,
    deadline: Instant,
    looked: Instant,
    over: Option<Instant>,
    lag_seconds_max: f64,
    calm: Latencies,
    storm: Latencies,
}

impl Watching {
    fn new(monitor: Monitor, keys: u32, deadline: Instant) -> Result<Self, Error> {
        let (looked, calm, storm) = (Instant::now(), Latencies::new()?, Latencies::new()?);
        Ok(Self { monitor, keys, deadline, looked, over: None, lag_seconds_max: 0.0, calm, storm })
    }

    /// What was seen, with the wrong replies of others.
    fn end(self, errors: u64) -> Storm {
        let Self { deadline, over, lag_seconds_max, calm, storm, .. } = self;
        let seconds_to_empty = over.unwrap_or(deadline).saturating_duration_since(deadline).as_secs_f64();
        Storm { seconds_to_empty, lag_seconds_max, calm, storm, errors }
    }

    /// Waits for the next look; whether everything is gone.
    fn is_over(&mut self) -> Result<bool, Error> {
        std::thread::park_timeout(LOOK);
        self.look()
    }

    fn look(&mut self) -> Result<bool, Error> {
        let (stats, now) = (self.monitor.stats(), Instant::now());
        self.looked = now;
        for (name, value) in &stats.values {
            match (*name, value) {
                ("expired_total", StatValue::Whole(count)) if *count >= self.keys.into() => self.over = Some(now),
                ("expiry_lag_seconds", StatValue::Seconds(lag)) => self.lag_seconds_max = self.lag_seconds_max.max(*lag),
                _ => {}
            }
        }
        if self.over.is_none() && now > self.deadline + PATIENCE {
            return Error::failed(format!(
                "waiting for {} keys to be swept: not done {PATIENCE:?} after their deadline; see the server's messages above",
                self.keys
            ));
        }
        Ok(self.over.is_some())
    }

    /// Times calls on other keys until everything is gone.
    fn calls(&mut self, client: &mut Client, filling: &mut Filling, clock: &Clock) -> Result<(), Error> {
        let shape = Shape {
            owner: 0,
            keys: OTHER_KEYS,
            value_len: 8,
            window: 1,
            mix: Mix { inserts: 1, reads: 1, deletes: 0 },
            zipf: 0.0,
            seed: 1,
        };
        let (mut ledger, mut value, mut out) = (Ledger::new(&shape), [0; 8], Vec::with_capacity(8));
        for key in ledger.first_keys() {
            let step = ledger.make(crate::mix::Kind::Insert, key);
            load::sync_call(client, &step, &mut value, &mut out, &mut ledger)?;
        }
        let mut looked_for = false;
        loop {
            let step = ledger.step();
            let before = clock.now();
            load::sync_call(client, &step, &mut value, &mut out, &mut ledger)?;
            let ns = clock.ns(clock.now().saturating_sub(before));
            let now = Instant::now();
            if now < self.deadline {
                self.calm.record(ns)
            } else {
                self.storm.record(ns)
            }
            if !looked_for && now > self.deadline + filling.latest {
                looked_for = true;
                filling.errors += filling.there(client)?;
            }
            if now > self.looked + LOOK && self.look()? {
                break;
            }
        }
        filling.errors += ledger.errors();
        Ok(())
    }
}

fn tasks(name: &str) -> [Task; 2] {
    std::array::from_fn(|index| Task {
        index: index as u32,
        clients: 2,
        peer: Peer::Table { name: name.to_owned(), wait: Wait::Adaptive },
        window: 100,
        keys: OTHER_KEYS / 2,
        value_len: 8,
        mix: Mix { inserts: 1, reads: 1, deletes: 1 },
        zipf: 0.0,
        seed: 1,
        gaps: false,
    })
}
