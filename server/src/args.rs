//! The command line: raw flags with their environment variables. [`crate::options`] makes validated options of them.

use std::path::PathBuf;

use clap::builder::{BoolishValueParser, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Parser, ValueEnum};
use shmqueue::wait::WaitMode;

use crate::logging::{LogFormat, LogLevel};

/// Serves a hash table in shared memory to the clients of this machine.
///
/// Stays in the foreground. When it is ready it prints one line on stdout:
/// `ready name=NAME shards=N buckets=N items=N pid=PID`. SIGINT and SIGTERM stop it.
#[derive(Clone, Debug, Parser)]
#[command(name = "server", version, after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Initial number of buckets of a new table, rounded up to a power of two; seven items fit a bucket
    #[arg(short, long, env = "SHMTABLE_SIZE", value_name = "BUCKETS", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(crate) size: u64,

    /// Worker threads, and shards of a new region [default: the processors this process may use]
    #[arg(short = 'n', long, env = "SHMTABLE_THREADS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: Option<u32>,

    /// Name of the region: 1 to 64 of A-Z a-z 0-9 _ -
    #[arg(long, env = "SHMTABLE_NAME", default_value = "shmtable")]
    pub(crate) name: String,

    /// Directory of the region's two files, in shared memory
    #[arg(long, env = "SHMTABLE_DIR", default_value = "/dev/shm")]
    pub(crate) dir: PathBuf,

    /// Most memory that the table takes, such as 512MiB; may rise when a region is joined again
    /// [default: the smaller of half the free shared memory and half of what the control group leaves]
    #[arg(long, env = "SHMTABLE_MEMORY", value_name = "SIZE", value_parser = protocol::parse_size)]
    pub(crate) memory: Option<u64>,

    /// When memory is full, let items go that nobody reads, instead of refusing new ones
    #[arg(long, env = "SHMTABLE_EVICT", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub(crate) evict: bool,

    /// Longest value accepted, at most 2 MiB - 1
    #[arg(long, env = "SHMTABLE_MAX_VALUE", value_name = "SIZE", default_value = "1MiB", value_parser = protocol::parse_size)]
    pub(crate) max_value: u64,

    /// Most clients attached at once to a new region
    #[arg(long, env = "SHMTABLE_CLIENTS", value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) clients: u32,

    /// How workers wait for requests: `spin` for the lowest latency, `block` for the least processor time, `adaptive` spins while
    /// processors are free
    #[arg(long, env = "SHMTABLE_WAIT", value_name = "HOW", default_value = "adaptive", value_parser = ways_to_wait())]
    pub(crate) wait: WaitMode,

    /// Processors to run on, such as 0-3,8 [default: those the process was given]
    #[arg(long, env = "SHMTABLE_CPUS", value_name = "LIST")]
    pub(crate) cpus: Option<String>,

    /// Keep all memory of the server from being swapped out
    #[arg(long, env = "SHMTABLE_LOCK_MEMORY", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub(crate) lock_memory: bool,

    /// Touch all memory of the table as it is committed, so that no request meets a page for the first time
    #[arg(long, env = "SHMTABLE_PREFAULT", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub(crate) prefault: bool,

    /// Whether to ask the kernel for huge pages, which make reads of a large table quicker; a table under 64MiB does without
    #[arg(long, env = "SHMTABLE_HUGE_PAGES", value_name = "SWITCH", default_value = "on")]
    pub(crate) huge_pages: Switch,

    /// Mode of a new region's rings, octal: whoever may read and write them may be a client
    #[arg(long, env = "SHMTABLE_MODE", value_name = "OCTAL", default_value = "0600")]
    pub(crate) mode: String,

    /// Mode of a new region's table, octal: clients need to read it, nobody but the server may write it
    #[arg(long, env = "SHMTABLE_TABLE_MODE", value_name = "OCTAL", default_value = "0600")]
    pub(crate) table_mode: String,

    /// Group that owns a new region's files, by name or number
    #[arg(long, env = "SHMTABLE_GROUP")]
    pub(crate) group: Option<String>,

    /// What is worth a log line
    #[arg(long, env = "SHMTABLE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LogLevel,

    /// How log lines on stderr look
    #[arg(long, env = "SHMTABLE_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Discard a region of this name that no server serves, and its items
    #[arg(long, env = "SHMTABLE_FRESH", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub(crate) fresh: bool,

    /// What becomes of the region when the server is stopped
    #[arg(long, env = "SHMTABLE_ON_EXIT", value_name = "ACTION", default_value = "remove")]
    pub(crate) on_exit: OnExit,
}

/// An option that is on unless turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// Where it can be had
    On,
    /// Not at all
    Off,
}

/// What becomes of the region at exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnExit {
    /// Gone with its items, as any process's memory
    Remove,
    /// Stays in shared memory for the next server
    Keep,
    /// Not available yet
    Snapshot,
}

fn ways_to_wait() -> impl TypedValueParser<Value = WaitMode> {
    PossibleValuesParser::new(["spin", "adaptive", "block"]).try_map(|way| way.parse::<WaitMode>())
}

const EXAMPLES: &str = "\
Every flag has an environment variable SHMTABLE_...: --name is SHMTABLE_NAME.

Examples:
  server                                        a region `shmtable` with defaults
  server -s 1000000 -n 4 --memory 2GiB          sized for millions of items
  server --memory 1GiB --evict                  a cache: what is not read makes room for what is new
  server --name sessions --on-exit keep         items outlive a restart of the server
  server --mode 0660 --table-mode 0640 --group www-data
                                                clients of another user, by group

Exit codes: 0 stopped as asked, 2 usage, 3 a server of that name runs, 70 anything else.";
