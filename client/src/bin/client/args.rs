//! The command line as defined: commands, flags, environment, help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};
use shmtable::WaitMode;

use crate::record::Format;

/// Talk to the hash table that every process on this host shares.
#[derive(Debug, Parser)]
#[command(name = "client", version, arg_required_else_help = true, after_help = AFTER, after_long_help = AFTER_LONG)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER: &str =
    "client OUTER INNER is short for client run OUTER INNER. `client help COMMAND` shows a command with its examples.";

const AFTER_LONG: &str = "\
`client OUTER INNER` is short for `client run OUTER INNER`.

Examples:
  client insert greeting hello           store a value
  client read greeting                   print it
  echo hello | client insert greeting -  take the value from stdin
  client insert -- -key -value           keys and values that begin with a dash
  client insert session:7 Ada --ttl 30m  let it expire
  client incr hits:ada --ttl 1s          count within a second
  client load /usr/share/dict/words      load a word list
  client dump > items.tsv                save every item
  client 100 10                          run the verified workload

Exit codes:
  0  done
  1  not found, condition not met, verification failed, problems found
  2  usage
  3  no server, or no client slot free
  4  timed out; of a write the outcome is unknown
  5  table full
  6  refused input: empty key, key over 1024 bytes, value over the limit
  70 internal error

Every flag can be given as an environment variable: --name as SHMTABLE_NAME, --wait-for-server as SHMTABLE_WAIT_FOR_SERVER.
What stands on the command line goes before what the environment says.";

/// Flags that stand before or after the command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Name of the region: 1 to 64 of A-Z a-z 0-9 _ -
    #[arg(long, global = true, env = "SHMTABLE_NAME", default_value = "shmtable", hide_env_values = true)]
    pub(crate) name: String,
    /// Folder of the region's two files
    #[arg(long, global = true, env = "SHMTABLE_DIR", default_value = "/dev/shm", value_name = "DIR", hide_env_values = true)]
    pub(crate) dir: PathBuf,
    /// Longest wait for an answer
    #[arg(long, global = true, env = "SHMTABLE_TIMEOUT", default_value = "5s", value_name = "DURATION",
        value_parser = protocol::parse_duration, hide_env_values = true)]
    pub(crate) timeout: Duration,
    /// Longest wait for a server to appear; 0: without one, exit 3 at once
    #[arg(long, global = true, env = "SHMTABLE_WAIT_FOR_SERVER", default_value = "0", value_name = "DURATION",
        value_parser = protocol::parse_duration, hide_env_values = true)]
    pub(crate) wait_for_server: Duration,
    /// How to wait for an answer: spin, adaptive or block
    #[arg(long, global = true, env = "SHMTABLE_WAIT", default_value = "adaptive", value_name = "MODE",
        value_parser = clap::value_parser!(WaitMode), hide_env_values = true)]
    pub(crate) wait: WaitMode,
    /// Print JSON, one object per line; bytes that are not UTF-8 as base64 in NAME_base64
    #[arg(long, global = true, env = "SHMTABLE_JSON", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store a value: prints `inserted`, `replaced` or `unchanged`
    Insert(Insert),
    /// Print a key's value
    Read(Read),
    /// Remove a key, or all keys with a prefix
    Delete(Delete),
    /// Remove every item at one moment: prints how many there were
    Clear,
    /// Print how many milliseconds a key has left, or `none`
    #[command(after_long_help = TTL_LONG)]
    Ttl(OfKey),
    /// Give a key a time to live: prints `ok`
    Expire(Expire),
    /// Take a key its expiry: prints `ok`
    #[command(after_long_help = PERSIST_LONG)]
    Persist(OfKey),
    /// Print the items of one bucket as `dump` writes them
    Bucket(Bucket),
    /// Add to a decimal number: prints the new one
    Incr(Incr),
    /// Append bytes to a value: prints the new length
    Append(Append),
    /// Print every item
    Dump(Dump),
    /// Store the items of a file: prints how many
    Load(Load),
    /// Compare, read and write several keys at one moment: prints `committed` or `mismatch`
    Transact(Transact),
    /// Print the server's counters as `name value` lines
    Stats(Stats),
    /// Print the time of one round trip
    Ping,
    /// Print the attached clients: id, uid, pid, name, shard, requests in flight, lag in ms, state
    #[command(after_long_help = CLIENTS_LONG)]
    Clients,
    /// Insert, read back by bucket and delete random keys, checking every reply
    Run(Run),
    /// Find what keeps a region from working, and say what to do
    Doctor(Doctor),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

const TTL_LONG: &str = "\
Exits 1 if the key is not there, as one that has expired is not.

Examples:
  client ttl session:7                   prints 1799431
  client ttl greeting                    prints none: it stays until it is removed";

const PERSIST_LONG: &str = "\
Value and version stay. Exits 1 if the key is not there.

Examples:
  client persist session:7               prints ok
  client ttl session:7                   prints none";

const CLIENTS_LONG: &str = "\
One line per attached client, columns separated by tabs: id, uid, pid, name, shard, requests in flight, lag, state. The lag is the
time since the client was last served, in milliseconds. A client without a name and one that was never served show `-` there.
The list needs no client slot of its own, so it also works when all slots are taken.

  client clients | sort -k 7 -n          the clients, most lagging last
  client clients --json                  the same with field names";

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  client insert greeting hello
  client insert greeting - < file        the value from stdin
  client insert session:7 Ada --ttl 30m  gone in half an hour
  client insert session:7 Eve --keep-ttl another value, the same end
  client insert lock $$ --if-absent      prints `unchanged` and exits 1 when the key is there
  client insert lock $$ --if-absent --ttl 10s
  client insert k new --if-version 17    only if nobody changed it since `read --with-version` said 17")]
pub(crate) struct Insert {
    /// The key, 1 to 1024 bytes
    pub(crate) key: OsString,
    /// The value; `-` takes it from stdin
    pub(crate) value: OsString,
    #[command(flatten)]
    pub(crate) lifetime: Lifetime,
    #[command(flatten)]
    pub(crate) condition: Condition,
}

/// At most one of them; without one the item stays until it is removed.
#[derive(Debug, Args)]
pub(crate) struct Lifetime {
    /// Let it expire after D; parts of a millisecond count whole, 0 is at once, more than 34 years count as 34
    #[arg(long, value_name = "D", env = "SHMTABLE_TTL", value_parser = protocol::parse_duration, hide_env_values = true)]
    pub(crate) ttl: Option<Duration>,
    /// Let it expire when what it replaces would have; without such an item it stays
    #[arg(long, env = "SHMTABLE_KEEP_TTL", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) keep_ttl: bool,
}

/// At most one of them; `insert` checks it, because a variable that says no is not a flag.
#[derive(Debug, Args)]
pub(crate) struct Condition {
    /// Only if the key is not there
    #[arg(long, env = "SHMTABLE_IF_ABSENT", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) if_absent: bool,
    /// Only if the key is there
    #[arg(long, env = "SHMTABLE_IF_PRESENT", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) if_present: bool,
    /// Only if the item has this version
    #[arg(long, value_name = "V", env = "SHMTABLE_IF_VERSION", hide_env_values = true)]
    pub(crate) if_version: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  client read greeting
  client read image --raw > image.png    the bytes alone, without a newline
  client read counter --with-version     VERSION<TAB>value
  client read greeting --direct          without the server, from the table's file

A direct read needs the right to read the table and nothing else: no server, no client slot, no right to the rings. Where it can
have a client slot it takes one, so that `client stats` counts it.")]
pub(crate) struct Read {
    /// The key
    pub(crate) key: OsString,
    /// Read from the table's file without asking the server, which need not be there
    #[arg(long, env = "SHMTABLE_DIRECT", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) direct: bool,
    /// Print the version and a tab before the value
    #[arg(long, env = "SHMTABLE_WITH_VERSION", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) with_version: bool,
    /// Print no newline after the value
    #[arg(long, env = "SHMTABLE_RAW", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) raw: bool,
}

/// A key and nothing else.
#[derive(Debug, Args)]
pub(crate) struct OfKey {
    /// The key
    pub(crate) key: OsString,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Counted from now, in place of what it had. Value and version stay. Exits 1 if the key is not there.

Examples:
  client expire session:7 30m            prints ok
  client expire session:7 0              gone at once")]
pub(crate) struct Expire {
    /// The key
    pub(crate) key: OsString,
    /// The time to live; parts of a millisecond count whole, 0 is at once, more than 34 years count as 34
    #[arg(value_name = "D", value_parser = protocol::parse_duration)]
    pub(crate) ttl: Duration,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
#[command(after_long_help = "\
Examples:
  client delete greeting                 prints `deleted`; exits 1 if it was not there
  client delete --prefix session:        prints how many were removed")]
pub(crate) struct Delete {
    /// The key
    pub(crate) key: Option<OsString>,
    /// Remove every key that begins with P: prints how many
    #[arg(long, value_name = "P", env = "SHMTABLE_PREFIX", hide_env_values = true)]
    pub(crate) prefix: Option<OsString>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
#[command(after_long_help = "\
Examples:
  client bucket greeting                 the bucket that `greeting` belongs to
  client bucket --index 7                the eighth bucket")]
pub(crate) struct Bucket {
    /// The bucket that this key belongs to, whether the key is there or not
    pub(crate) key: Option<OsString>,
    /// The bucket with this index, from 0; exits 2 if there is none
    #[arg(long, value_name = "N", env = "SHMTABLE_INDEX", hide_env_values = true)]
    pub(crate) index: Option<u64>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  client incr visits                     a missing key counts as 0: prints 1
  client incr hits:ada --ttl 1m          how many in the minute that began with the first
  client incr stock -5                   exits 1 if the value is no number or the sum does not fit 64 bits")]
pub(crate) struct Incr {
    /// The key
    pub(crate) key: OsString,
    /// What to add; may be negative
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) by: i64,
    /// Time to live of a number that this creates; one that is there keeps what it has
    #[arg(long, value_name = "D", env = "SHMTABLE_TTL", value_parser = protocol::parse_duration, hide_env_values = true)]
    pub(crate) ttl: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  client append log 'one more line'
  date | client append log -             the bytes from stdin")]
pub(crate) struct Append {
    /// The key
    pub(crate) key: OsString,
    /// The bytes to append; `-` takes them from stdin
    pub(crate) bytes: OsString,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
One line per item, in no particular order. An item that is there from the beginning to the end of the dump is in it at least once.

Formats:
  tsv    key<TAB>value; tab, newline and backslash as \\t \\n \\\\, other bytes outside printable ASCII as \\xNN
  jsonl  {\"key\":…,\"value\":…,\"type\":\"bytes\"}, as key_base64 and value_base64 where the bytes are not UTF-8, with
         \"ttl_ms\" where the item expires: so many milliseconds after it was dumped

Examples:
  client dump > items.tsv
  client dump --prefix user: --format jsonl | jq .value")]
pub(crate) struct Dump {
    /// How items are written; --json means jsonl
    #[arg(long, env = "SHMTABLE_FORMAT", hide_env_values = true)]
    pub(crate) format: Option<Format>,
    /// Only keys that begin with P
    #[arg(long, value_name = "P", env = "SHMTABLE_PREFIX", hide_env_values = true)]
    pub(crate) prefix: Option<OsString>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads what `dump` writes, in either format, and plain word lists. An item with ttl_ms lives so long from now on; the others stay.
Lines of tsv say nothing of expiry. Raw bytes are taken as they are, a line without a tab is a key
with an empty value, and only a backslash is special. Without --format the first line decides. A line that is refused ends the
load with exit 6 and its number; the lines before it are stored.

Examples:
  client load items.tsv
  client load /usr/share/dict/words
  client --name old dump | client --name new load -")]
pub(crate) struct Load {
    /// The file; `-` is stdin
    pub(crate) file: OsString,
    /// How items are written, instead of what the first line tells
    #[arg(long, env = "SHMTABLE_FORMAT", hide_env_values = true)]
    pub(crate) format: Option<Format>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
All steps take effect at one moment, or, if the version of a key is another than `compare` says, none: then it prints `mismatch` and
exits 1. Reads answer what was there before; each prints VERSION<TAB>key<TAB>value (version 0: no such key). At most 64 keys and 32 KiB.

Steps, one JSON object a line; key_base64 and value_base64 for bytes that are not UTF-8:
  {\"op\":\"compare\",\"key\":…,\"version\":N}   as `read --with-version` prints it; 0: only if the key is absent
  {\"op\":\"read\",\"key\":…}
  {\"op\":\"insert\",\"key\":…,\"value\":…}     also with \"ttl_ms\":N or \"keep_ttl\":true
  {\"op\":\"delete\",\"key\":…}

Examples:
  client transact steps.jsonl
  printf '%s\\n' '{\"op\":\"delete\",\"key\":\"a\"}' '{\"op\":\"insert\",\"key\":\"b\",\"value\":\"1\"}' | client transact -")]
pub(crate) struct Transact {
    /// The file with the steps; `-` is stdin
    pub(crate) file: OsString,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Needs no client slot, so it also works when all slots are taken.

Examples:
  client stats | grep ^items
  client stats --watch                   again every second until interrupted
  client stats --prometheus              for a scraper")]
pub(crate) struct Stats {
    /// Print again and again until interrupted, with the rate of requests
    #[arg(long, env = "SHMTABLE_WATCH", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) watch: bool,
    /// Time between two prints of --watch
    #[arg(long, default_value = "1s", value_name = "DURATION", env = "SHMTABLE_INTERVAL",
        value_parser = protocol::parse_duration, hide_env_values = true)]
    pub(crate) interval: Duration,
    /// Print the exposition text of Prometheus
    #[arg(long, env = "SHMTABLE_PROMETHEUS", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) prometheus: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Each of OUTER rounds makes INNER fresh random keys of 16 bytes, inserts them all pipelined and checks every reply, reads the bucket
of each and checks that key and value are in it, then deletes them and checks every reply. The last line tells what was done; the
time leaves out the start of the process and attaching.

Examples:
  client 100 10                          ops=3000 errors=0 seconds=0.001200 ops_per_second=2500000
  client run 0 1000                      until SIGINT, which prints the line and exits 0
  client run 10 100000 --value-size 1KiB --seed 7")]
pub(crate) struct Run {
    /// Rounds; 0: until SIGINT
    pub(crate) outer: u64,
    /// Keys per round
    pub(crate) inner: u64,
    /// Make the same keys and values again; two runs at once need different seeds
    #[arg(long, value_name = "N", env = "SHMTABLE_SEED", hide_env_values = true)]
    pub(crate) seed: Option<u64>,
    /// Bytes of each value
    #[arg(long, value_name = "SIZE", default_value = "8", env = "SHMTABLE_VALUE_SIZE",
        value_parser = value_size, hide_env_values = true)]
    pub(crate) value_size: usize,
    /// Most requests in flight, 1 to 1024
    #[arg(long, value_name = "W", default_value = "1024", env = "SHMTABLE_WINDOW",
        value_parser = clap::value_parser!(u64).range(1..=shmtable::Client::MAX_WINDOW as u64), hide_env_values = true)]
    pub(crate) window: u64,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Looks at every region in DIR: files without a live server, halves of a pair, files that are no region's, modes that keep the owner
out or let others write; and at the room left for shared memory. One line each, `STATUS SUBJECT: what is; what to do`; exits 1 if
anything is wrong.

--clean removes what a dead server left, items included. It never touches a region with a live server, nor one that a server
left on purpose (`--on-exit keep`), nor files that are no region's.

Examples:
  client doctor
  client --dir /mnt/shared doctor --clean")]
pub(crate) struct Doctor {
    /// Remove the files of dead servers, with their items
    #[arg(long, env = "SHMTABLE_CLEAN", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) clean: bool,
}

/// The size of a value, within what any server takes.
fn value_size(text: &str) -> Result<usize, String> {
    let size = protocol::parse_size(text).map_err(|error| error.to_string())?;
    match usize::try_from(size) {
        Ok(size) if size <= protocol::MAX_VALUE => Ok(size),
        _ => Err(format!("value size: found {size} against at most {}; take less", protocol::MAX_VALUE)),
    }
}
