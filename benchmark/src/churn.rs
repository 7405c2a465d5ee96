//! `bench-churn`: a table that is nearly full while values of very different sizes come and go.
//!
//! One worker of a table in this process keeps the bytes of live items, rounded up to the blocks they take, at a share of the limit:
//! it replaces at random, inserts, and deletes what it must to make room. Sizes are log-uniform from 16 bytes to 64 KiB. Every
//! value is checked before its key is deleted or replaced. A loop of copies without a table runs between the slices, so that a
//! machine that slows down is not taken for a table that does.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use clap::Parser;
use serde::Serialize;
use server::PrivateTable;
use table::{Condition, Expiry, Outcome, Ticket, Writer, stored_bytes};

use crate::Error;
use crate::cli::{Common, Report, short};

/// Slices between which the calibration runs; first and last are what the ratio compares.
const SLICES: u64 = 20;
const LEAST: u32 = 16;
const MOST: u32 = 64 << 10;
/// Bytes that the calibration copies about in.
const CALIBRATION: usize = 64 << 20;
/// Copies in one calibration.
const COPIES: u64 = 100_000;
/// Requests between two looks ahead, as in a worker's pass.
const PASS: u64 = 32;

/// Replaces, inserts and deletes values of all sizes in a table that is nearly full.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-churn --ops 100000000 --memory 1GiB --json")]
pub struct Arguments {
    /// Operations after the table was filled.
    #[arg(long, default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    ops: u64,
    /// Limit of the table.
    #[arg(long, default_value = "1GiB", value_parser = protocol::parse_size)]
    memory: u64,
    /// Share of the limit that live items take, in per cent.
    #[arg(long, default_value_t = 95, value_parser = clap::value_parser!(u64).range(1..=100))]
    share: u64,
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
pub struct Churned {
    pub benchmark: &'static str,
    pub ops: u64,
    pub errors: u64,
    pub ops_per_second_first: f64,
    pub ops_per_second_last: f64,
    pub calibration_first: f64,
    pub calibration_last: f64,
    pub ratio: f64,
    pub live_class_bytes: u64,
    pub live_items: u64,
    pub memory_limit_bytes: u64,
    pub memory_used_bytes: u64,
    pub slowest_slice_ops_per_second: f64,
}

impl Report for Churned {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Churned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (short(self.ops_per_second_first), short(self.ops_per_second_last));
        writeln!(
            out,
            "{} operations: {first} per second at first, {last} at last, {:.3} of it calibrated",
            self.ops, self.ratio
        )?;
        let share = self.live_class_bytes as f64 * 100.0 / self.memory_limit_bytes as f64;
        writeln!(out, "{} live items in {:.2} % of the limit, {} errors", self.live_items, share, self.errors)
    }
}

struct Random(u64);

impl Random {
    /// Xorshift after G. Marsaglia, 2003, with a final multiplication.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn size(&mut self) -> u32 {
        let share = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (f64::from(LEAST) * f64::from(MOST / LEAST).powf(share)) as u32
    }
}

#[derive(Clone, Copy)]
struct Live {
    number: u64,
    len: u32,
    /// Where in the pattern its value begins.
    from: u32,
}

type Key = [u8; 16];

fn key(number: u64) -> Key {
    let mut key = [b'k'; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key
}

/// The books of what is live.
struct Churn<'a> {
    writer: Writer<'a>,
    random: Random,
    live: Vec<Live>,
    bytes: u64,
    target: u64,
    next: u64,
    pattern: Vec<u8>,
    buffer: Vec<u8>,
    errors: u64,
}

impl Churn<'_> {
    fn bytes_of(len: u32) -> u64 {
        stored_bytes(size_of::<Key>(), len)
    }

    /// Whether a key has the value that the books say.
    fn holds(&mut self, live: Live, hash: u64) -> bool {
        let Some(item) = self.writer.get(&key(live.number), hash) else { return false };
        let read = self.writer.value_into(&item, &mut self.buffer).is_ok();
        read && self.buffer == self.pattern[live.from as usize..live.from as usize + live.len as usize]
    }

    fn delete(&mut self) {
        let at = self.random.below(self.live.len());
        let live = self.live.swap_remove(at);
        self.bytes -= Self::bytes_of(live.len);
        let hash = self.writer.hash(&key(live.number));
        let held = self.holds(live, hash);
        let outcome = self.writer.delete(&key(live.number), hash, Condition::None, &Ticket::default(), |outcome| *outcome);
        self.errors += u64::from(!held || !matches!(outcome, Outcome::Deleted { .. }));
    }

    /// One insert or replacement with the deletes that make room for it; how many operations.
    fn step(&mut self) -> u64 {
        let (len, mut ops) = (self.random.size(), 1);
        while self.bytes + Self::bytes_of(len) > self.target && !self.live.is_empty() {
            self.delete();
            ops += 1;
        }
        let replaced =
            (!self.live.is_empty() && self.random.next().is_multiple_of(4)).then(|| self.random.below(self.live.len()));
        let from = self.random.below(MOST as usize) as u32;
        let (number, expected) = match replaced {
            Some(at) => {
                let old = self.live[at];
                let held = self.holds(old, self.writer.hash(&key(old.number)));
                self.errors += u64::from(!held);
                self.bytes -= Self::bytes_of(old.len);
                self.live[at] = Live { number: old.number, len, from };
                (old.number, true)
            }
            None => {
                self.next += 1;
                self.live.push(Live { number: self.next, len, from });
                (self.next, false)
            }
        };
        self.bytes += Self::bytes_of(len);
        let value = &self.pattern[from as usize..from as usize + len as usize];
        let (key, ticket) = (key(number), Ticket::default());
        let hash = self.writer.hash(&key);
        let outcome = self.writer.insert(&key, value, hash, Condition::None, Expiry::Never, &ticket, |outcome| *outcome);
        let done = match outcome {
            Outcome::Inserted { .. } => !expected,
            Outcome::Replaced { .. } => expected,
            _ => false,
        };
        if !done {
            self.errors += 1;
            // What the table does not hold the books do not either.
            let at = replaced.unwrap_or(self.live.len() - 1);
            self.live.swap_remove(at);
            self.bytes -= Self::bytes_of(len);
            self.writer.delete(&key, hash, Condition::None, &ticket, |_| ());
        }
        ops
    }

    /// Runs so many operations; their number per second.
    fn slice(&mut self, ops: u64) -> f64 {
        let begin = Instant::now();
        let (mut done, mut since) = (0, 0);
        while done < ops {
            let now = self.step();
            done += now;
            since += now;
            if since >= PASS {
                since = 0;
                self.writer.work_ahead(PrivateTable::STEP);
            }
        }
        done as f64 / begin.elapsed().as_secs_f64()
    }
}

/// Copies like those of a slice, without a table; their number per second.
fn calibrate(memory: &mut [u8], pattern: &[u8], random: &mut Random) -> f64 {
    let begin = Instant::now();
    for _ in 0..COPIES {
        let (len, from) = (random.size() as usize, random.below(MOST as usize));
        let at = random.below(memory.len() - len);
        memory[at..at + len].copy_from_slice(&pattern[from..from + len]);
    }
    std::hint::black_box(&memory);
    COPIES as f64 / begin.elapsed().as_secs_f64()
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Churned, Error> {
    let path = Path::new("/dev/shm").join(format!("bench-{}-churn.table", std::process::id()));
    // Values of that distribution are some 8 KiB on average; a bucket for six.
    let private = PrivateTable::create(&path, arguments.memory, (arguments.memory >> 16).max(64), MOST)
        .map_err(Error::io("making a table in shared memory"))?;
    private.while_committing(|| churn(arguments, &private))
}

fn churn(arguments: &Arguments, private: &PrivateTable) -> Result<Churned, Error> {
    let mut random = Random(20_261_121);
    let pattern: Vec<u8> = std::iter::repeat_with(|| random.next() as u8).take(2 * MOST as usize).collect();
    let mut memory = vec![1; CALIBRATION];
    let mut churn = Churn {
        writer: private.table().writer(0),
        random,
        live: Vec::new(),
        bytes: 0,
        target: arguments.memory / 100 * arguments.share,
        next: 0,
        pattern: pattern.clone(),
        buffer: Vec::with_capacity(MOST as usize),
        errors: 0,
    };
    while churn.bytes + Churn::bytes_of(MOST) <= churn.target {
        churn.step();
    }
    let (mut slices, mut calibrations) = (Vec::new(), Vec::new());
    let mut copies = Random(77);
    for _ in 0..SLICES {
        let before = calibrate(&mut memory, &pattern, &mut copies);
        slices.push(churn.slice(arguments.ops / SLICES));
        calibrations.push((before + calibrate(&mut memory, &pattern, &mut copies)) / 2.0);
    }
    private.table().check_invariants().map_err(|what| Error::Failed(format!("checking the table: {what}")))?;
    let (first, last) = (0, slices.len() - 1);
    let stats = private.table().stats();
    Ok(Churned {
        benchmark: "bench-churn",
        ops: arguments.ops,
        errors: churn.errors + u64::from(stats.items != churn.live.len() as u64),
        ops_per_second_first: slices[first],
        ops_per_second_last: slices[last],
        calibration_first: calibrations[first],
        calibration_last: calibrations[last],
        ratio: (slices[last] / calibrations[last]) / (slices[first] / calibrations[first]),
        live_class_bytes: churn.bytes,
        live_items: churn.live.len() as u64,
        memory_limit_bytes: stats.memory_limit_bytes,
        memory_used_bytes: stats.memory_used_bytes,
        slowest_slice_ops_per_second: slices.iter().copied().fold(f64::INFINITY, f64::min),
    })
}
