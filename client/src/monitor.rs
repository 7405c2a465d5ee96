//! A look at a region without taking a client slot.

use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::{COUNTERS, ClientTally, Counter, Tally};
use shmqueue::claim::{self, ClaimState};
use shmqueue::layout::{LAYOUT_MAJOR, LAYOUT_MINOR};
use shmqueue::region::{ClientRegion, RegionName};

use crate::client::{Client, join};
use crate::error::Error;
use crate::options::Options;
use crate::table_map::TableMap;

/// A value of [`Stats`].
#[derive(Clone, Debug, PartialEq)]
pub enum StatValue {
    /// A count or a size.
    Whole(u64),
    /// A time in seconds.
    Seconds(f64),
    /// A version.
    Text(String),
}

impl std::fmt::Display for StatValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Seconds(value) => write!(f, "{value:.3}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// What a shard reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardStats {
    /// Clients attached.
    pub clients: u64,
    /// Requests served since the region was made.
    pub requests_total: u64,
    /// Lanes that waited after the last pass.
    pub backlog: u64,
}

/// What a region reports.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Name and value, in the contract's order.
    pub values: Vec<(&'static str, StatValue)>,
    /// Per shard.
    pub shards: Vec<ShardStats>,
}

/// An attached client as others see it. Name, pid and uid are what the client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Index of its slot.
    pub id: u32,
    /// Its user.
    pub uid: u32,
    /// Its process.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its shard.
    pub shard: u32,
    /// Requests served.
    pub requests_total: u64,
    /// Lane slots published and not yet served, as far as the server has seen them.
    pub in_flight: u64,
    /// Milliseconds since it was last served; `None` if it never was.
    pub lag_ms: Option<u64>,
    /// `attached`, `detached` (being reclaimed) or `dead` (found without its lock).
    pub state: &'static str,
}

/// A read-only look at a region.
#[derive(Debug)]
pub struct Monitor {
    region: ClientRegion,
    /// `None` without the right to read the table: its numbers are then those of the server's last tick.
    table: Option<TableMap>,
}

impl Monitor {
    /// Opens a region whose server lives.
    ///
    /// # Errors
    /// As [`Client::attach`], but for the client slot.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let name = RegionName::new(&options.dir, &options.name)?;
        let region = join(&name, options)?;
        let table = TableMap::open(&name, region.header().uuid())?;
        Ok(Self { region, table })
    }

    /// Whether a server holds the region now.
    pub fn server_alive(&self) -> bool {
        self.region.server_alive()
    }

    /// The numbers of the region: those of the table and of the shards as they are now, those of clients as of the server's last tick (of one that left: at once).
    pub fn stats(&self) -> Stats {
        let status = self.region.status();
        let counter = |counter: Counter| status.counters[counter as usize].load(Ordering::Relaxed);
        let table = self.table.as_ref().map(TableMap::stats);
        let shards: Vec<_> = (0..self.region.layout().shape.shards)
            .map(|index| {
                let shard = self.region.shard_status(index);
                ShardStats {
                    clients: shard.clients.load(Ordering::Relaxed).into(),
                    requests_total: shard.requests_total.load(Ordering::Relaxed),
                    backlog: shard.backlog.load(Ordering::Relaxed).into(),
                }
            })
            .collect();
        let mut values: Vec<_> = Vec::with_capacity(18);
        for (which, name) in COUNTERS {
            let tally = |tally: Tally| {
                let shards = 0..self.region.layout().shape.shards;
                shards.map(|index| self.region.shard_status(index).tallies[tally as usize].load(Ordering::Relaxed)).sum()
            };
            let own = |tally: ClientTally| status.client_tallies[tally as usize].load(Ordering::Relaxed);
            let value = match which {
                Counter::DirectHitsTotal => own(ClientTally::DirectHits),
                Counter::DirectMissesTotal => own(ClientTally::DirectMisses),
                Counter::DirectRetriesTotal => own(ClientTally::DirectRetries),
                Counter::HitsTotal => tally(Tally::Hits),
                Counter::MissesTotal => tally(Tally::Misses),
                Counter::RefusedTotal => tally(Tally::Refused),
                Counter::Items if table.is_some() => table.map_or(0, |table| table.items),
                Counter::Buckets if table.is_some() => table.map_or(0, |table| table.buckets),
                Counter::MemoryUsedBytes if table.is_some() => table.map_or(0, |table| table.memory_used_bytes),
                Counter::EvictedTotal if table.is_some() => table.map_or(0, |table| table.evicted_total),
                Counter::FullTotal if table.is_some() => table.map_or(0, |table| table.full_total + table.chain_full_total),
                Counter::ExpiredTotal if table.is_some() => table.map_or(0, |table| table.expired_total),
                Counter::EvictedTotal if table.is_some() => table.map_or(0, |table| table.evicted_total),
                Counter::Clients => self.clients().iter().filter(|client| client.state == "attached").count() as u64,
                Counter::RequestsTotal => shards.iter().map(|shard| shard.requests_total).sum(),
                which => counter(which),
            };
            values.push((name, StatValue::Whole(value)));
            if which == Counter::Clients {
                values.push(("shards", StatValue::Whole(shards.len() as u64)));
            }
        }
        let up = now_ms().saturating_sub(status.started_ms.load(Ordering::Relaxed));
        values.push(("expiry_lag_seconds", StatValue::Seconds(counter(Counter::ExpiryLagMs) as f64 / 1e3)));
        values.push(("uptime_seconds", StatValue::Seconds(Duration::from_millis(up).as_secs_f64())));
        values.push(("layout_version", StatValue::Text(format!("{LAYOUT_MAJOR}.{LAYOUT_MINOR}"))));
        Stats { values, shards }
    }

    /// The clients that hold a slot.
    pub fn clients(&self) -> Vec<ClientInfo> {
        let now = now_ms();
        (0..self.region.layout().shape.clients)
            .filter_map(|id| {
                let slot = self.region.claim(id);
                let claim = claim::load(&slot.word)?;
                let state = match claim.state {
                    ClaimState::Free => return None,
                    ClaimState::Detached => "detached",
                    ClaimState::Attached if self.region.client_alive(id) => "attached",
                    ClaimState::Attached => "dead",
                };
                let name: Vec<u8> = slot.name.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
                let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                let status = self.region.client_status(id);
                let served =
                    status.attached.load(Ordering::Relaxed) == 1 && status.generation.load(Ordering::Relaxed) == claim.generation;
                let last = status.served_ms.load(Ordering::Relaxed);
                Some(ClientInfo {
                    id,
                    uid: slot.uid.load(Ordering::Relaxed),
                    pid: slot.pid.load(Ordering::Relaxed),
                    name: String::from_utf8_lossy(&name[..len]).into_owned(),
                    shard: claim.shard.into(),
                    requests_total: if served { status.requests_total.load(Ordering::Relaxed) } else { 0 },
                    in_flight: if served { status.in_flight.load(Ordering::Relaxed).into() } else { 0 },
                    lag_ms: (served && last > 0).then(|| now.saturating_sub(last)),
                    state,
                })
            })
            .collect()
    }
}

fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

impl Client {
    /// A counter as the server last published it.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.status().counters[counter as usize].load(Ordering::Relaxed)
    }
}
