//! Facts about the files of a directory that have a region's names.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use shmqueue::error::RegionError;
use shmqueue::layout::RegionState;
use shmqueue::lock::{self, LockFile};
use shmqueue::region::{ClientRegion, RegionName};

use crate::failure::Failure;

/// What the first bytes of a table say, in the order of the file.
pub(super) const TABLE_MAGIC: [u8; 8] = *b"shmtable";

/// Both files of one name.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) name: RegionName,
    pub(super) rings: Rings,
    /// Permission bits of the rings file, where there is one.
    pub(super) rings_mode: Option<u32>,
    pub(super) table: Table,
    /// Permission bits of the table file, where there is one.
    pub(super) table_mode: Option<u32>,
}

/// What stands at `NAME.rings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rings {
    /// Nothing.
    Missing,
    /// A region whose server lives, with what a client that joins it is told.
    Live {
        /// The server's process id.
        pid: u32,
        /// Why a client cannot join, if it cannot.
        trouble: Option<String>,
    },
    /// A region whose server died.
    Dead,
    /// A region that its server left on purpose.
    Kept,
    /// A region whose server died while it made or removed it.
    Unfinished,
    /// A region whose bytes contradict each other, without a server.
    Damaged(String),
    /// Something that this user may not open.
    Closed(String),
    /// Anything else: no region, or one of another version.
    Other(String),
}

/// What stands at `NAME.table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// Nothing.
    Missing,
    /// A table.
    Formatted,
    /// A file without content: a server died while it made it, or is making it.
    Blank,
    /// Something that this user may not open.
    Closed(String),
    /// Something that is no table.
    Other(String),
}

/// The pairs in `dir`, in the order of their names.
pub(super) fn pairs(dir: &Path) -> Result<Vec<Pair>, Failure> {
    let unreadable = |error: io::Error| {
        Failure::Usage(format!("doctor failed: reading {} failed: {error}; name a folder with --dir", dir.display()))
    };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.file_name();
        let stem = file.to_str().and_then(|file| file.strip_suffix(".rings").or_else(|| file.strip_suffix(".table")));
        names.extend(stem.map(str::to_owned));
    }
    // A file whose name no region can have is nobody's trouble.
    let names = names.iter().filter_map(|name| RegionName::new(dir, name).ok());
    Ok(names.map(pair).collect())
}

fn pair(name: RegionName) -> Pair {
    let mode = |path: &Path| fs::symlink_metadata(path).ok().map(|meta| meta.mode() & 0o777);
    // The rings last: a server makes them first and removes them last, so that a table never seems to stand alone.
    let (table_mode, table) = (mode(&name.table_path()), table(&name.table_path()));
    let (rings_mode, rings) = (mode(&name.rings_path()), rings(&name));
    Pair { name, rings, rings_mode, table, table_mode }
}

fn rings(name: &RegionName) -> Rings {
    let path = name.rings_path();
    let live = LockFile::open(&path).and_then(|file| {
        let held = lock::server_pid(file.fd()?);
        held.map_err(|errno| RegionError::Io { what: "asking for the lock of", path: path.clone(), source: errno.into() })
    });
    let joined = ClientRegion::join(name);
    match (live, joined) {
        (Err(RegionError::NotFound { .. }), _) | (_, Err(RegionError::NotFound { .. } | RegionError::Stale { .. })) => {
            Rings::Missing
        }
        (Err(error @ RegionError::Permission { .. }), _) => Rings::Closed(error.to_string()),
        (Err(error), _) => Rings::Other(error.to_string()),
        (Ok(Some(pid)), Ok(_) | Err(RegionError::State(_))) => Rings::Live { pid, trouble: None },
        (Ok(Some(pid)), Err(error)) => Rings::Live { pid, trouble: Some(error.to_string()) },
        (Ok(None), Err(RegionError::State(RegionState::Closed))) => Rings::Kept,
        (Ok(None), Err(RegionError::State(RegionState::Superseded) | RegionError::Unfinished { .. })) => Rings::Unfinished,
        (Ok(None), Ok(_) | Err(RegionError::State(_))) => Rings::Dead,
        (Ok(None), Err(error @ (RegionError::Damaged { .. } | RegionError::Truncated { .. }))) => {
            Rings::Damaged(error.to_string())
        }
        (Ok(None), Err(error)) => Rings::Other(error.to_string()),
    }
}

fn table(path: &Path) -> Table {
    let other = |what: &str| Table::Other(format!("found {what} against a table file"));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Table::Missing,
        Err(error) => return Table::Closed(error.to_string()),
        Ok(meta) if !Metadata::is_file(&meta) => return other("something that is no regular file"),
        Ok(_) => {}
    }
    let mut first = Vec::new();
    // Whatever comes to stand at the path meanwhile, opening it waits for nobody.
    let opened = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path);
    match opened.and_then(|file| file.take(8).read_to_end(&mut first)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Table::Missing,
        Err(error) => Table::Closed(error.to_string()),
        Ok(_) if first == TABLE_MAGIC => Table::Formatted,
        Ok(_) if first.iter().all(|&byte| byte == 0) => Table::Blank,
        Ok(_) => other("another magic"),
    }
}
