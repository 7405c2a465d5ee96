//! From perf's samples to counted stacks of one side.

use std::collections::{BTreeMap, BTreeSet};

use inferno::collapse::Collapse;
use inferno::collapse::perf::{Folder, Options};

use crate::error::Error;
use crate::names::shown;
use crate::scenario::Side;

/// What every client process runs, and no other process of a benchmark.
const CLIENT_WORK: &str = "benchmark::load::work";
/// What every worker of the server runs.
const SERVER_WORK: &str = "shmqueue::engine::Engine::run_worker";

/// Stacks, frames from the outermost, with the number of samples of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stacks(BTreeMap<String, u64>);

impl Stacks {
    /// Folds the samples of one side.
    pub(crate) fn of(samples: &str, side: Side) -> Result<Self, Error> {
        let chosen = of_side(samples, side);
        let mut options = Options::default();
        options.annotate_kernel = true;
        options.nthreads = 1;
        let mut folded = Vec::new();
        Folder::from(options).collapse(chosen.as_bytes(), &mut folded).map_err(Error::io("folding the samples"))?;
        let stacks = Self::read(&String::from_utf8_lossy(&folded));
        if stacks.total() == 0 {
            return Err(Error::Failed(format!(
                "folding the samples: found none of the {side:?}; build with the profile `benchmark`, which has debug information"
            )));
        }
        Ok(stacks)
    }

    /// Reads folded lines, `frame;frame count`, and makes the names fit to show.
    pub(crate) fn read(folded: &str) -> Self {
        let mut stacks = BTreeMap::new();
        for (stack, count) in folded.lines().filter_map(|line| line.rsplit_once(' ')) {
            let Ok(count) = count.parse::<u64>() else { continue };
            *stacks.entry(tidy(stack)).or_default() += count;
        }
        Self(stacks)
    }

    /// Samples in all.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The stacks and their samples.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(stack, &count)| (stack.as_str(), count))
    }

    /// The folded lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.iter().map(|(stack, count)| format!("{stack} {count}")).collect()
    }
}

/// The first frame is the process's or thread's name. How a thread came to its work is the same for all and left out.
fn tidy(stack: &str) -> String {
    let mut frames = stack.split(';').map(shown);
    let first = frames.next().unwrap_or_default();
    // Workers differ by number only.
    let thread = first.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-').to_owned();
    let frames: Vec<String> = frames.collect();
    let work = frames.iter().position(|frame| frame == CLIENT_WORK || frame == SERVER_WORK).unwrap_or(0);
    let mut kept = vec![thread];
    kept.extend(frames.into_iter().skip(work));
    kept.join(";")
}

/// The samples of the processes of one side.
fn of_side(samples: &str, side: Side) -> String {
    let is_sign = |line: &str| match side {
        Side::Server => line.ends_with("/server)"),
        Side::Clients => line.contains(CLIENT_WORK),
    };
    let blocks = || samples.split("\n\n").filter_map(|block| Some((pid_of(block.trim_start_matches('\n'))?, block)));
    let processes: BTreeSet<u32> = blocks().filter(|(_, block)| block.lines().any(is_sign)).map(|(process, _)| process).collect();
    blocks()
        .filter(|(process, _)| processes.contains(process))
        .flat_map(|(_, block)| [block.trim_matches('\n'), "\n\n"])
        .collect()
}

/// The process of a sample, from its head `name pid/tid time: event:`. The name may contain blanks.
fn pid_of(block: &str) -> Option<u32> {
    let head = block.lines().next()?;
    head.split_whitespace().find_map(|word| {
        let (process, thread) = word.split_once('/')?;
        thread.parse::<u32>().ok()?;
        process.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: &str = "\
worker-0  10/11   1.000000: cpu-clock:ppp: 
\t            10 table::find::<u8> (inlined)
\t            10 shmqueue::engine::Engine::run_worker (/home/somebody/benchmark/server)
\t            20 start_thread (/usr/lib/libc.so.6)

worker-1  10/12   1.000000: cpu-clock:ppp: 
\t            10 table::find::<u8> (inlined)
\t            10 shmqueue::engine::Engine::run_worker (/home/somebody/benchmark/server)
\t            20 start_thread (/usr/lib/libc.so.6)

worker-0  10/11   1.100000: cpu-clock:ppp: 
\tffffffff813a4413 schedule ([kernel.kallsyms])
\t            30 sched_yield (/usr/lib/libc.so.6)

bench-throughpu  20/20   1.200000: cpu-clock:ppp: 
\t            40 [unknown] (/home/somebody/libfoo.so)
\t            41 benchmark::load::work (/home/somebody/benchmark/bench-throughput)
\t            42 main (/home/somebody/benchmark/bench-throughput)

bench-throughpu  30/30   1.300000: cpu-clock:ppp: 
\t            50 benchmark::pingpong::round_trip_ns (/home/somebody/benchmark/bench-throughput)
";

    #[test]
    fn a_side_is_its_processes_and_nothing_else() {
        let server = Stacks::of(SAMPLES, Side::Server).unwrap();
        assert_eq!(
            server.lines(),
            ["worker;sched_yield;schedule_[k] 1", "worker;shmqueue::engine::Engine::run_worker;table::find 2"]
        );
        let clients = Stacks::of(SAMPLES, Side::Clients).unwrap();
        assert_eq!(clients.lines(), ["bench-throughpu;benchmark::load::work;[libfoo.so] 1"]);
    }

    #[test]
    fn no_samples_are_an_error() {
        assert!(Stacks::of("", Side::Server).unwrap_err().to_string().contains("found none"));
    }

    #[test]
    fn a_name_with_blanks_does_not_hide_the_process() {
        assert_eq!(pid_of("a b c  7/8   1.0: cpu-clock:\n\t 1 f (x)"), Some(7));
        assert_eq!(pid_of("nothing"), None);
    }
}
