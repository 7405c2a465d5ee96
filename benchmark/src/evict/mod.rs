//! `bench-evict`: how often a server that evicts still has what is asked for, against the exact policy "least recently used".
//!
//! Cache-aside: a key is looked up; if it is absent, its value is written. The keys come from a seeded stream like those of caches in
//! production (see `trace`). The same stream runs against a fresh server three times: looked up directly, which the server
//! learns of by hints only; over the ring, where it sees every read; and directly without hints, to show what these are worth. The
//! exact LRU is simulated on the same stream. It gets as many items as the server ever held at once, which favours it.

mod lru;
mod trace;

use std::fmt;
use std::fs::File;
use std::ptr::NonNull;
use std::time::Instant;

use clap::Parser;
use memmap2::{Mmap, MmapOptions};
use serde::Serialize;
use shmtable::Client;
use table::Reader;

use crate::cli::{Common, Report, Wait, short};
use crate::keys::{self, KeyRange};
use crate::server_process::{ServerProcess, ServerShape};
use crate::{Error, load};
use lru::Lru;
use trace::{Shape, Trace};

/// Of all requests so many, the first, fill the cache and do not count.
const WARM_UP: u64 = 5;
/// Requests between two looks at the number of items.
const LOOK_EVERY: u64 = 1000;
/// What a table needs besides its items, and per item besides its block.
const FIXED: u64 = 1 << 20;
const PER_ITEM: f64 = 64.0 / 5.5;

/// Measures the hit ratio of a server that evicts, against the exact policy "least recently used".
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-evict --keys 1000000 --capacity-ratio 0.1 --zipf 1.0 --ops 5000000 --json")]
pub struct Arguments {
    /// Popular keys; as many others are scanned now and then.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(100..=500_000_000))]
    keys: u32,
    /// Items that the server's memory holds, about, over the number of keys.
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    capacity_ratio: f64,
    /// Exponent of Zipf's law.
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// Requests.
    #[arg(long, default_value_t = 3_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    ops: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=32_768))]
    value_size: u32,
    /// Clients, which take turns.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    readers: u64,
    /// Seed of the stream.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object on the last line.
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err(format!("found {text:?} against a share above 0 and up to 1; try 0.1")),
    }
}

impl Common for Arguments {
    fn json(&self) -> bool {
        self.json
    }
}

/// What was found.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are described in METHODOLOGY.md")]
pub struct Evict {
    pub benchmark: &'static str,
    pub keys: u32,
    pub zipf: f64,
    pub ops: u64,
    pub value_size: u32,
    pub readers: u64,
    pub seed: u64,
    pub memory_limit_bytes: u64,
    pub capacity_items: u64,
    pub capacity_ratio: f64,
    pub hit_ratio: f64,
    pub lru_hit_ratio: f64,
    pub hit_ratio_ring: f64,
    pub hit_ratio_unhinted: f64,
    pub hit_ratio_over_lru: f64,
    pub evicted_total: u64,
    pub full_total: u64,
    pub ops_per_second: f64,
    pub ops_per_second_ring: f64,
    pub errors: u64,
}

impl Report for Evict {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Evict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ops, keys, zipf, capacity_items, capacity_ratio, errors, .. } = self;
        writeln!(
            out,
            "{ops} requests for {keys} keys, exponent {zipf}; {capacity_items} items fit ({:.1} %)",
            capacity_ratio * 100.0
        )?;
        writeln!(
            out,
            "hit ratio {:.4} direct, {:.4} over the ring, {:.4} direct without hints; LRU {:.4}",
            self.hit_ratio, self.hit_ratio_ring, self.hit_ratio_unhinted, self.lru_hit_ratio
        )?;
        let (direct, ring) = (short(self.ops_per_second), short(self.ops_per_second_ring));
        writeln!(
            out,
            "{direct} requests per second direct, {ring} over the ring; {} evicted, {errors} errors",
            self.evicted_total
        )
    }
}

/// How a key is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Ring,
    Unhinted,
}

/// What one run of the stream found.
#[derive(Debug, Default)]
struct Found {
    counted: u64,
    hits: u64,
    most_items: u64,
    evicted: u64,
    full: u64,
    errors: u64,
    per_second: f64,
}

impl Found {
    fn hit_ratio(&self) -> f64 {
        self.hits as f64 / self.counted.max(1) as f64
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Evict, Error> {
    let Arguments { keys, zipf, ops, value_size, readers, seed, .. } = *arguments;
    let memory = memory_for(arguments);
    let play = |way| Player::start(arguments, memory, way)?.play();
    let (direct, ring, unhinted) = (play(Way::Direct)?, play(Way::Ring)?, play(Way::Unhinted)?);
    let all = [&direct, &ring, &unhinted];
    let capacity_items = all.iter().map(|found| found.most_items).max().unwrap_or(0);
    let lru_hit_ratio = simulate(arguments, capacity_items).hit_ratio();
    Ok(Evict {
        benchmark: "bench-evict",
        keys,
        zipf,
        ops,
        value_size,
        readers,
        seed,
        memory_limit_bytes: memory,
        capacity_items,
        capacity_ratio: capacity_items as f64 / f64::from(keys),
        hit_ratio: direct.hit_ratio(),
        lru_hit_ratio,
        hit_ratio_ring: ring.hit_ratio(),
        hit_ratio_unhinted: unhinted.hit_ratio(),
        hit_ratio_over_lru: direct.hit_ratio() / lru_hit_ratio.max(f64::EPSILON),
        evicted_total: direct.evicted,
        full_total: all.iter().map(|found| found.full).sum(),
        ops_per_second: direct.per_second,
        ops_per_second_ring: ring.per_second,
        errors: all.iter().map(|found| found.errors).sum(),
    })
}

fn memory_for(arguments: &Arguments) -> u64 {
    let item = 16 + keys::KEY_LEN as u64 + u64::from(arguments.value_size);
    // Classes of blocks are an eighth apart at most.
    let block = (item as f64 * 1.06 / 8.0).ceil() * 8.0 + PER_ITEM;
    FIXED + (f64::from(arguments.keys) * arguments.capacity_ratio * block) as u64
}

fn shape(arguments: &Arguments) -> Shape {
    Shape { keys: arguments.keys, zipf: arguments.zipf, seed: arguments.seed }
}

fn simulate(arguments: &Arguments, capacity: u64) -> Found {
    let mut lru = Lru::new(Trace::key_numbers(arguments.keys), capacity);
    let (mut trace, mut found) = (Trace::new(&shape(arguments)), Found::default());
    for request in 0..arguments.ops {
        let hit = lru.request(trace.next_key());
        if request >= arguments.ops / WARM_UP {
            found.counted += 1;
            found.hits += u64::from(hit);
        }
    }
    found
}

/// The table of a server, mapped for reading.
struct TableView {
    reader: Reader<'static>,
    /// Dropped after the reader that reads it.
    _map: Mmap,
}

impl TableView {
    fn open(server: &ServerProcess) -> Result<Self, Error> {
        let file = File::open(server.table_path()).map_err(Error::io("opening the table"))?;
        // SAFETY: the server never truncates a live table; the reader treats the bytes as racing and untrusted.
        let map = unsafe { MmapOptions::new().map(&file) }.map_err(Error::io("mapping the table"))?;
        // SAFETY: the mapping is as long as said, and outlives the reader: both are fields of one struct.
        let reader = unsafe { Reader::join(NonNull::from(map.as_ref()).cast(), map.len() as u64) };
        match reader {
            Ok(reader) => Ok(Self { reader, _map: map }),
            Err(error) => Error::failed(format!("joining the table: {error}")),
        }
    }
}

/// Plays the stream against a server of its own.
struct Player<'a> {
    arguments: &'a Arguments,
    way: Way,
    clients: Vec<Client>,
    view: TableView,
    server: ServerProcess,
    value: Vec<u8>,
    out: Vec<u8>,
}

impl<'a> Player<'a> {
    fn start(arguments: &'a Arguments, memory: u64, way: Way) -> Result<Self, Error> {
        let flags = ["--evict", "--memory", &memory.to_string(), "--max-value", "64KiB"].map(str::to_owned).to_vec();
        let shape = ServerShape { threads: Some(1), buckets: Some(1024), flags, ..ServerShape::default() };
        let server = ServerProcess::start(&shape)?;
        let attach =
            |_| Client::attach(&load::options(server.name(), Wait::Adaptive)).map_err(Error::table("attaching a client"));
        let clients = (0..arguments.readers).map(attach).collect::<Result<_, _>>()?;
        let view = TableView::open(&server)?;
        Ok(Self { arguments, way, clients, view, server, value: vec![0; arguments.value_size as usize], out: Vec::new() })
    }

    fn play(mut self) -> Result<Found, Error> {
        let (mut trace, mut found) = (Trace::new(&shape(self.arguments)), Found::default());
        let (range, warm) = (KeyRange::new(0), self.arguments.ops / WARM_UP);
        let begin = Instant::now();
        for request in 0..self.arguments.ops {
            let number = trace.next_key();
            let hit = self.request(request, &range.key(number), range.word(number, 0), &mut found)?;
            if request >= warm {
                found.counted += 1;
                found.hits += u64::from(hit);
            }
            if request % LOOK_EVERY == 0 {
                found.most_items = found.most_items.max(self.view.reader.stats().items);
            }
        }
        found.per_second = self.arguments.ops as f64 / begin.elapsed().as_secs_f64();
        let stats = self.view.reader.stats();
        (found.evicted, found.full) = (stats.evicted_total, stats.full_total + stats.chain_full_total);
        self.clients.clear();
        self.server.stop()?;
        Ok(found)
    }

    /// Looks a key up, and writes it where it is absent; whether it was there.
    fn request(&mut self, request: u64, key: &keys::Key, word: u64, found: &mut Found) -> Result<bool, Error> {
        let client = &mut self.clients[(request % self.arguments.readers) as usize];
        let hit = match self.way {
            Way::Ring => client.read_into(key, &mut self.out).map_err(Error::table("reading"))?.is_some(),
            Way::Direct => client.get_direct_vec(key, &mut self.out).map_err(Error::table("reading directly"))?.is_some(),
            Way::Unhinted => match self.view.reader.get_into(key, self.view.reader.hash(key), &mut self.out) {
                Ok(item) => item.is_some(),
                Err(_busy) => client.read_into(key, &mut self.out).map_err(Error::table("reading"))?.is_some(),
            },
        };
        if hit {
            found.errors += u64::from(!keys::holds(&self.out, word, self.value.len()));
        } else {
            keys::fill(&mut self.value, word);
            let stored = client.insert(key, &self.value).map_err(Error::table("writing"))?;
            found.errors += u64::from(stored.replaced);
        }
        Ok(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_the_share_of_the_keys() {
        let memory = |text: &[&str]| memory_for(&Arguments::parse_from([&["bench-evict"], text].concat()));
        let (tenth, fifth) = (memory(&["--capacity-ratio", "0.1"]), memory(&["--capacity-ratio", "0.2"]));
        assert_eq!((fifth - FIXED) / 2, tenth - FIXED);
        assert!(memory(&["--value-size", "1000"]) > 6 * tenth);
        assert!(["0", "1.5", "x", "-1", "NaN"].iter().all(|text| share(text).is_err()));
    }

    #[test]
    fn a_simulation_that_holds_everything_misses_each_key_once() {
        let arguments = Arguments::parse_from(["bench-evict", "--keys", "100", "--ops", "50000"]);
        assert_eq!(simulate(&arguments, 200).hit_ratio(), 1.0);
        assert!(simulate(&arguments, 10).hit_ratio() < 0.9);
    }
}
