//! What can go wrong with a region's file, as one type.
//!
//! Every message says what failed, what was found against what was expected, and what to do. Full rings and full lanes are
//! not errors and are no variants here.

use std::io;
use std::path::PathBuf;

use crate::layout::RegionState;

/// Why a region could not be created, joined, attached to or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// The name is not one that a region can have.
    #[error("region name {name:?} is not usable: found a name outside 1 to 64 of A-Z a-z 0-9 _ -; choose another with --name")]
    InvalidName {
        /// The refused name.
        name: String,
    },
    /// The numbers asked for are outside the documented ranges.
    #[error(
        "region shape is not usable: found {shards} shards, {clients} clients, {lane_slots} lane slots, {ring_cells} ring cells; \
         ask for numbers within the documented ranges"
    )]
    InvalidShape {
        /// Shards asked for.
        shards: u32,
        /// Client slots asked for.
        clients: u32,
        /// Slots per lane asked for.
        lane_slots: u32,
        /// Cells per ring asked for.
        ring_cells: u32,
    },
    /// Nothing of that name exists.
    #[error("region {path} cannot be opened: found no such file; start a server of that name, or check --name and --dir")]
    NotFound {
        /// Path of the rings file.
        path: PathBuf,
    },
    /// Another server serves the region.
    #[error("region {path} is taken: found a live server, pid {pid}; stop that server or choose another --name")]
    Live {
        /// Path of the rings file.
        path: PathBuf,
        /// Process id of its server, in the server's pid namespace.
        pid: u32,
    },
    /// A finished region without a server stands where a new one was to be created.
    #[error("region {path} cannot be created: found an existing region without a server; join it or discard it")]
    Exists {
        /// Path of the rings file.
        path: PathBuf,
    },
    /// Something that is no region stands at the path.
    #[error("{path} is not a region: found {found} against a rings file; remove it by hand or choose another --name")]
    Foreign {
        /// Path of the rings file.
        path: PathBuf,
        /// What stands there.
        found: &'static str,
    },
    /// The server died while it formatted the region.
    #[error("region {path} is unfinished: found no magic and no live server; its server died while formatting, discard it")]
    Unfinished {
        /// Path of the rings file.
        path: PathBuf,
    },
    /// The layout is of another version.
    #[error(
        "region {path} has layout {}.{}, this program speaks {}.{}; restart the server or update this program",
        found.0, found.1, expected.0, expected.1
    )]
    Version {
        /// Path of the rings file.
        path: PathBuf,
        /// Major and minor version in the header.
        found: (u16, u16),
        /// Major and minor version of this program.
        expected: (u16, u16),
    },
    /// Byte order, pointer width, cache line or page size differ.
    #[error("region {path} has ABI {found:#x} against {expected:#x}; use programs built for one architecture and page size")]
    Abi {
        /// Path of the rings file.
        path: PathBuf,
        /// ABI word found, or the page size of this machine.
        found: u64,
        /// What this program needs.
        expected: u64,
    },
    /// The header asks for features that this program does not know.
    #[error("region {path} needs unknown features: found bits {found:#x} against none known; update this program")]
    Features {
        /// Path of the rings file.
        path: PathBuf,
        /// The unknown bits.
        found: u64,
    },
    /// The file is shorter than its header says.
    #[error("region {path} is truncated: found {found} bytes against {expected}; discard it and start the server anew")]
    Truncated {
        /// Path of the rings file.
        path: PathBuf,
        /// Length of the file.
        found: u64,
        /// Length it must have.
        expected: u64,
    },
    /// The header contradicts itself.
    #[error("region {path} is damaged: found {what}; discard it and start the server anew")]
    Damaged {
        /// Path of the rings file.
        path: PathBuf,
        /// The contradiction: what was found against what was expected.
        what: String,
    },
    /// The file system or a limit does not give the memory.
    #[error(
        "memory for region {path} cannot be had: found {available} bytes available against {asked} asked; \
         ask for less, or enlarge the shared memory or the file size limit"
    )]
    NoMemory {
        /// Bytes that were to be backed.
        asked: u64,
        /// Bytes that the file system or the limit leaves.
        available: u64,
        /// Path of the rings file.
        path: PathBuf,
    },
    /// Every client slot is taken.
    #[error("no client slot is free: found {clients} of {clients} taken; close a client or start the server with more --clients")]
    NoSlot {
        /// Client slots of the region.
        clients: u32,
    },
    /// The region is not in the state that the call needs.
    #[error("region is not usable now: found state {0:?}; wait for the server, or open the region again by its name")]
    State(RegionState),
    /// The path names another file now.
    #[error("region {path} was replaced: found another file or none at its path; open the region again by its name")]
    Stale {
        /// Path of the rings file.
        path: PathBuf,
    },
    /// The file modes do not let this process in.
    #[error(
        "{what} {path} is not permitted to uid {uid}; run as the region's user or group, or start the server with a wider --mode"
    )]
    Permission {
        /// Path of the rings file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Effective user of this process.
        uid: u32,
    },
    /// The process holds as many region handles as can be guarded against a fork.
    #[error("region handle cannot be opened: found {most} of {most} handles of this process in use; drop some first")]
    TooManyHandles {
        /// The limit.
        most: usize,
    },
    /// The handle was made before a fork and belongs to the parent process.
    #[error("region handle is not usable: found one inherited over a fork; attach anew in this process")]
    Forked,
    /// The operating system refused.
    #[error("{what} {path} failed: {source}; check the file system and the limits of this process")]
    Io {
        /// The call that failed.
        what: &'static str,
        /// Path of the rings file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
