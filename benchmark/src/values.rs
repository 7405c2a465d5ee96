//! `bench-values`: bytes per second of larger values, over a memcpy of the same size.
//!
//! One client (this process) and a server of one worker. Per size and round: memcpy, writes and reads, pipelined and one at a
//! time, each for the same stretch. The memcpy goes through as many buffers as there are keys, so that it finds its bytes in
//! the same level of the cache; the one between two fixed buffers is reported as `hot`. While time runs, each reply's length
//! and its first and last word are checked; after each stretch every byte, untimed.

use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use shmtable::{Client, Completion, Operation, Outcome};

use crate::cli::{Common, Report, Wait, seconds, short};
use crate::keys::{self, Key, KeyRange};
use crate::server_process::{ServerProcess, ServerShape};
use crate::spread::Spread;
use crate::{Error, load, pingpong};

const SIZES: [(&str, usize); 3] = [("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20)];
/// What is measured, in this order in each round.
const MEASURES: [&str; 6] = ["memcpy", "memcpy_hot", "write", "read", "sync_write", "sync_read"];

/// Measures bytes per second of values of 1 KiB, 64 KiB and 1 MiB against a memcpy.
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = "Example: bench-values --seconds 6 --json")]
pub struct Arguments {
    /// Seconds to measure in all.
    #[arg(long, default_value = "6", value_parser = seconds)]
    seconds: Duration,
    /// Rounds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Keys per size, and buffers of the memcpy.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    keys: u32,
    /// Most requests under way of the pipelined measures.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    window: u32,
    /// How client and server wait.
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

/// What was found: for each size `memcpy_bytes_per_second_1k` and so on, `write_ratio_1k`, `read_ratio_1k`, their spreads, and
/// the ratios of the other measures.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are described in METHODOLOGY.md")]
pub struct Values {
    pub benchmark: &'static str,
    pub keys: u32,
    pub window: u32,
    pub wait: Wait,
    pub rounds: u32,
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
    #[serde(flatten)]
    pub spreads: BTreeMap<String, Spread>,
    pub pingpong_rtt_ns: Option<f64>,
    pub errors: u64,
}

impl Report for Values {
    fn errors(&self) -> u64 {
        self.errors
    }
}

impl fmt::Display for Values {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |name: String| self.figures.get(&name).copied().unwrap_or(0.0);
        for (size, _) in SIZES {
            write!(out, "{size:>4}: memcpy {}B/s", short(figure(format!("memcpy_bytes_per_second_{size}"))))?;
            for measure in &MEASURES[2..] {
                let rate = short(figure(format!("{measure}_bytes_per_second_{size}")));
                write!(out, ", {measure} {rate}B/s ({:.2})", figure(format!("{measure}_ratio_{size}")))?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// Runs the benchmark.
pub fn run(arguments: &Arguments) -> Result<Values, Error> {
    let pingpong_rtt_ns = pingpong::round_trip_ns(Duration::from_millis(100))?;
    let shape = ServerShape { threads: Some(1), wait: Some(arguments.wait), ..ServerShape::default() };
    let server = ServerProcess::start(&shape)?;
    let mut client =
        Client::attach(&load::options(server.name(), arguments.wait)).map_err(Error::table("attaching the client"))?;
    let part = arguments.seconds / (arguments.rounds * (SIZES.len() * MEASURES.len()) as u32);
    let (mut figures, mut spreads, mut errors) = (BTreeMap::new(), BTreeMap::new(), 0);
    for (number, (size, len)) in SIZES.into_iter().enumerate() {
        let mut bench = SizeBench::new(number as u32, len, arguments, part);
        let mut rates = [const { Vec::new() }; MEASURES.len()];
        for _ in 0..arguments.rounds {
            for (measure, rates) in rates.iter_mut().enumerate() {
                rates.push(bench.measure(measure, &mut client)?);
            }
        }
        for (measure, name) in MEASURES.into_iter().enumerate() {
            let rate = Spread::of(&rates[measure]);
            figures.insert(format!("{name}_bytes_per_second_{size}"), rate.median);
            spreads.insert(format!("{name}_bytes_per_second_spread_{size}"), rate);
            if measure >= 2 {
                let ratio = Spread::of_ratios(&rates[measure], &rates[0]);
                figures.insert(format!("{name}_ratio_{size}"), ratio.median);
                spreads.insert(format!("{name}_ratio_spread_{size}"), ratio);
                figures.insert(format!("{name}_ratio_hot_{size}"), Spread::of_ratios(&rates[measure], &rates[1]).median);
            }
        }
        bench.remove(&mut client)?;
        errors += bench.errors;
    }
    drop(client);
    server.stop()?;
    let Arguments { keys, window, wait, rounds, .. } = *arguments;
    Ok(Values { benchmark: "bench-values", keys, window, wait, rounds, figures, spreads, pingpong_rtt_ns, errors })
}

/// The keys and values of one size.
struct SizeBench {
    range: KeyRange,
    keys: Vec<Key>,
    values: Vec<Vec<u8>>,
    words: Vec<u64>,
    targets: Vec<Vec<u8>>,
    stamp: u32,
    len: usize,
    window: usize,
    part: Duration,
    errors: u64,
}

impl SizeBench {
    fn new(number: u32, len: usize, arguments: &Arguments, part: Duration) -> Self {
        let (range, count) = (KeyRange::new(number), arguments.keys as usize);
        let keys = (0..arguments.keys).map(|index| range.key(index)).collect();
        let (values, targets) = (vec![vec![1; len]; count], vec![vec![2; len]; count]);
        let window = arguments.window as usize;
        Self { range, keys, values, words: vec![0; count], targets, stamp: 0, len, window, part, errors: 0 }
    }

    /// Bytes per second of one measure.
    fn measure(&mut self, measure: usize, client: &mut Client) -> Result<f64, Error> {
        match measure {
            0 | 1 => Ok(self.copy(measure == 1)),
            2 | 4 => {
                self.renew();
                let rate = if measure == 2 { self.write(client) } else { self.write_sync(client) }?;
                self.verify(client)?;
                Ok(rate)
            }
            3 => self.read(client),
            _ => self.read_sync(client),
        }
    }

    /// Gives every value a word that no earlier one had.
    fn renew(&mut self) {
        self.stamp += 1;
        for (index, (value, word)) in self.values.iter_mut().zip(&mut self.words).enumerate() {
            *word = self.range.word(index as u32, self.stamp);
            keys::fill(value, *word);
        }
    }

    /// Calls `step` with number after number for the measured stretch, but for all keys at least; bytes per second.
    fn timed(&self, mut step: impl FnMut(usize) -> Result<(), Error>) -> Result<f64, Error> {
        let begin = Instant::now();
        let mut count = 0;
        // The clock is read once per pass through the keys, so that its cost does not weigh on small values.
        while begin.elapsed() < self.part || count == 0 {
            for key in 0..self.keys.len() {
                step(key)?;
            }
            count += self.keys.len();
        }
        Ok((count * self.len) as f64 / begin.elapsed().as_secs_f64())
    }

    fn copy(&mut self, hot: bool) -> f64 {
        let mut targets = std::mem::take(&mut self.targets);
        let rate = self.timed(|key| {
            let at = if hot { 0 } else { key };
            black_box(&mut targets[at]).copy_from_slice(black_box(&self.values[at]));
            Ok(())
        });
        self.targets = targets;
        rate.unwrap_or(0.0)
    }

    fn write(&mut self, client: &mut Client) -> Result<f64, Error> {
        let (mut wrong, mut pipeline) = (0, client.pipeline(self.window));
        let mut on_reply = |completion: Completion<'_>| wrong += u64::from(!matches!(completion.outcome, Outcome::Stored { .. }));
        let begin = Instant::now();
        let rate = self.timed(|key| {
            let operation = Operation::insert(&self.keys[key], &self.values[key]);
            pipeline.submit(&operation, &mut on_reply).map(|_| ()).map_err(Error::table("writing"))
        })?;
        let submitted = begin.elapsed();
        pipeline.finish(&mut on_reply).map_err(Error::table("collecting replies"))?;
        // Bytes count as written when the last reply is there.
        let rate = rate * submitted.as_secs_f64() / begin.elapsed().as_secs_f64();
        self.errors += wrong;
        Ok(rate)
    }

    fn read(&mut self, client: &mut Client) -> Result<f64, Error> {
        let (mut wrong, mut next, mut pipeline) = (0, 0, client.pipeline(self.window));
        let (words, len) = (&self.words, self.len);
        let mut on_reply = |completion: Completion<'_>| {
            let right =
                matches!(completion.outcome, Outcome::Value { bytes, .. } if looks_right(black_box(bytes), words[next], len));
            wrong += u64::from(!right);
            next = (next + 1) % words.len();
        };
        let begin = Instant::now();
        let rate = self.timed(|key| {
            pipeline.submit(&Operation::Read { key: &self.keys[key] }, &mut on_reply).map(|_| ()).map_err(Error::table("reading"))
        })?;
        let submitted = begin.elapsed();
        pipeline.finish(&mut on_reply).map_err(Error::table("collecting replies"))?;
        let rate = rate * submitted.as_secs_f64() / begin.elapsed().as_secs_f64();
        self.errors += wrong;
        Ok(rate)
    }

    fn write_sync(&mut self, client: &mut Client) -> Result<f64, Error> {
        self.timed(|key| client.insert(&self.keys[key], &self.values[key]).map(|_| ()).map_err(Error::table("writing")))
    }

    fn read_sync(&mut self, client: &mut Client) -> Result<f64, Error> {
        let (mut wrong, mut out) = (0, Vec::with_capacity(self.len));
        let rate = self.timed(|key| {
            let found = client.read_into(&self.keys[key], &mut out).map_err(Error::table("reading"))?;
            wrong += u64::from(found.is_none() || !looks_right(&out, self.words[key], self.len));
            Ok(())
        })?;
        self.errors += wrong;
        Ok(rate)
    }

    /// Reads all values back and checks every byte, by both ways of reading.
    fn verify(&mut self, client: &mut Client) -> Result<(), Error> {
        let mut out = Vec::with_capacity(self.len);
        for (key, word) in self.keys.iter().zip(&self.words) {
            let found = client.read_into(key, &mut out).map_err(Error::table("reading"))?;
            self.errors += u64::from(found.is_none() || !keys::holds(&out, *word, self.len));
        }
        let (mut wrong, mut next, mut pipeline) = (0, 0, client.pipeline(self.window));
        let mut on_reply = |completion: Completion<'_>| {
            let word = self.words[next];
            wrong += u64::from(!matches!(completion.outcome, Outcome::Value { bytes, .. } if keys::holds(bytes, word, self.len)));
            next += 1;
        };
        for key in &self.keys {
            pipeline.submit(&Operation::Read { key }, &mut on_reply).map_err(Error::table("reading"))?;
        }
        pipeline.finish(&mut on_reply).map_err(Error::table("collecting replies"))?;
        self.errors += wrong;
        Ok(())
    }

    fn remove(&mut self, client: &mut Client) -> Result<(), Error> {
        for key in &self.keys {
            self.errors += u64::from(!client.delete(key).map_err(Error::table("deleting"))?);
        }
        Ok(())
    }
}

/// Length, first and last word.
fn looks_right(value: &[u8], word: u64, len: usize) -> bool {
    let word = word.to_le_bytes();
    value.len() == len && value.first_chunk() == Some(&word) && value.last_chunk() == Some(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_short_value_does_not_look_right() {
        let mut value = vec![0; 64];
        keys::fill(&mut value, 7);
        assert!(looks_right(&value, 7, 64));
        assert!(!looks_right(&value[8..], 7, 64));
        assert!(!looks_right(&value, 8, 64));
        value[60] ^= 1;
        assert!(!looks_right(&value, 7, 64));
    }

    #[test]
    fn each_round_writes_words_of_its_own() {
        let arguments = Arguments::parse_from(["bench-values", "--keys", "3"]);
        let mut bench = SizeBench::new(0, 16, &arguments, Duration::ZERO);
        bench.renew();
        let first = bench.words.clone();
        bench.renew();
        assert!(bench.words.iter().all(|word| !first.contains(word)));
        assert!(bench.copy(false) > 0.0);
        assert_eq!(bench.targets, bench.values);
    }
}
