//! How the server ends: the exit codes and the errors that lead to them.
//!
//! A failed start never exits 0, and says in one line on stderr what failed, what was found against what was expected, and
//! what to do.

use std::path::PathBuf;
use std::process::ExitCode;

use protocol::format_size;
use shmqueue::error::RegionError;
use table::{JoinError, PlanError, TableError};

/// The exit codes that the server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Drained and gone as asked.
    Done = 0,
    /// The command line cannot be used.
    Usage = 2,
    /// Another server serves this name.
    NameTaken = 3,
    /// Anything else that keeps the server from serving.
    Internal = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// A flag's value cannot be used, alone or beside the others.
    #[error("{0}")]
    Usage(String),
    /// The rings cannot be created or joined.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Shared memory does not hold what must be there before the first item.
    #[error(
        "not enough shared memory for {path}: found {} free, expected {}; free some, enlarge it (docker: --shm-size; mount -o remount,size=) or lower {flag}",
        roughly(*.available),
        format_size(*.asked)
    )]
    NoMemory {
        /// What was to be backed.
        path: PathBuf,
        /// Bytes asked for.
        asked: u64,
        /// Bytes there.
        available: u64,
        /// The flag that asks for less.
        flag: &'static str,
    },
    /// The process may not write files of the size of a table.
    #[error("cannot size {path}: found a file-size limit below the {} of its address range; raise it (ulimit -f) or lower --memory", format_size(*.expected))]
    FileLimit {
        /// The table.
        path: PathBuf,
        /// Length asked for.
        expected: u64,
    },
    /// The directory takes no files.
    #[error(
        "cannot create {path}: found a directory that is missing or takes no files, expected shared memory; mount it or choose another --dir"
    )]
    NoPlace {
        /// The rings.
        path: PathBuf,
    },
    /// The rings are of another major version than this program.
    #[error("{0}; or start with --fresh to discard the region and its items")]
    OldRings(#[source] RegionError),
    /// The table cannot be joined.
    #[error("table {path} cannot be used: {source}")]
    Join {
        /// The table.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        #[source]
        source: JoinError,
    },
    /// The table cannot be formatted.
    #[error("table {path} cannot be made: {source}")]
    Format {
        /// The table.
        path: PathBuf,
        /// Why.
        #[source]
        source: TableError,
    },
    /// The flags ask for a table that cannot be.
    #[error("cannot plan the table: {0}")]
    Plan(#[from] PlanError),
    /// Other processes kept changing the region while this one tried to take it.
    #[error(
        "region {path} changes hands: found another server at each of {attempts} attempts, expected none; see who else starts servers of this name"
    )]
    Contended {
        /// The rings.
        path: PathBuf,
        /// How often it was tried.
        attempts: u32,
    },
    /// The table's path names something that is no file.
    #[error("{path} is not a table: found something that is no regular file; remove it by hand or choose another --name")]
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// A call of the system failed.
    #[error("{what}: {source}{remedy}")]
    Io {
        /// What failed.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
        /// `; ` and what to do, or empty.
        remedy: &'static str,
    },
    /// A file of the region was cut or removed while it was served.
    #[error("region file {path} was truncated: found {} bytes, expected {}; its items are lost, start the server again with --fresh", .found, .expected)]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it was given.
        expected: u64,
    },
}

/// A size rounded down to what a person needs to know of it.
fn roughly(bytes: u64) -> String {
    let grain = [30, 20, 10].into_iter().find(|shift| bytes >> shift >= 16).unwrap_or(0);
    format_size(bytes >> grain << grain)
}

impl ServerError {
    /// The exit code for this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Region(RegionError::InvalidName { .. }) => Exit::Usage,
            Self::Plan(PlanError::Buckets { .. } | PlanError::MaxValue { .. } | PlanError::TooLarge { .. }) => Exit::Usage,
            Self::Region(RegionError::Live { .. }) => Exit::NameTaken,
            _ => Exit::Internal,
        }
    }

    /// A failed call of the system.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into(), remedy: "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_named_in_round_numbers() {
        for (bytes, text) in [(0, "0B"), (17, "17B"), (20_000, "19KiB"), (70 << 20, "70MiB"), ((24 << 30) + 5, "24GiB")] {
            assert_eq!(roughly(bytes), text);
        }
    }

    #[test]
    fn a_taken_name_a_wrong_flag_and_the_rest_end_differently() {
        let path = PathBuf::from("/dev/shm/t.rings");
        let live = ServerError::from(RegionError::Live { path: path.clone(), pid: 1 });
        let plan = ServerError::from(PlanError::TooSmall { found: 1, needed: 2, buckets: 3 });
        let cases = [
            (live, Exit::NameTaken),
            (ServerError::Usage(String::new()), Exit::Usage),
            (RegionError::InvalidName { name: String::new() }.into(), Exit::Usage),
            (RegionError::Unfinished { path: path.clone() }.into(), Exit::Internal),
            (plan, Exit::Internal),
            (ServerError::Truncated { path, found: 1, expected: 2 }, Exit::Internal),
        ];
        for (error, exit) in cases {
            assert_eq!(error.exit(), exit, "{error}");
        }
    }
}
