//! From a name to a region that this process serves: rings and table, made anew or taken over.
//!
//! What is found, what is done (rings: the file with the lock, table: the file with the items):
//!
//! | rings                               | table                | action                                                |
//! |-------------------------------------|----------------------|-------------------------------------------------------|
//! | live server                         | any                  | refuse, naming the pid                                |
//! | joinable                            | joinable, same uuid  | serve both                                            |
//! | joinable                            | none, or unfinished  | half a pair: discard, make both                       |
//! | joinable                            | another uuid         | discard the rings, make new ones over the table       |
//! | none, damaged, unfinished, other minor | joinable          | make new rings over the table, with its uuid          |
//! | none, damaged, unfinished, other minor | none, or unfinished | make both                                           |
//! | other major, foreign                | any                  | refuse                                                |
//! | any without a server                | damaged, other major | refuse                                                |
//!
//! `--fresh` discards both before anything is looked at, so that their memory is free for the new ones.
//!
//! - J1: the table's file is made, joined or removed only while this process holds the lock on the rings of its name.
//! - J2: nothing is removed that could be joined, unless `--fresh` says so.
//!
//! CRASH: between making the rings and the table's magic a death leaves half a pair or an unfinished table; the rows above
//! repair both. An unfinished table never had an item.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use protocol::format_size;
use shmqueue::error::RegionError;
use shmqueue::layout::Shape;
use shmqueue::region::ServerRegion;
use table::{Geometry, JoinError, PlanError, Reader, Recovery, RegionState, Table};

use crate::cgroup::Cgroup;
use crate::exit::ServerError;
use crate::memory::{Available, HUGE_FROM};
use crate::options::Options;
use crate::sigbus;
use crate::table_file::{Backing, Found, Pages, TableFile};

/// How often to start over because other processes change the files meanwhile, or because a step asks for the next row.
const ATTEMPTS: u32 = 16;

/// A region that this process serves.
pub(crate) struct Joined {
    pub(crate) region: Arc<ServerRegion>,
    pub(crate) table: Table,
    pub(crate) backing: Backing,
    pub(crate) file: TableFile,
    /// What was repaired in a table that was taken over. Its intents name requests of the lanes that it was served through, so
    /// there are none of them where the rings are new.
    pub(crate) recovery: Option<Recovery>,
}

/// What stands at the table's path, as far as one can tell without the right to write.
enum Kept {
    Nothing,
    Unfinished,
    Usable([u8; 16]),
}

/// Takes the name: joins what is there or makes it. `shards` is the number for new rings.
pub(crate) fn take(options: &Options, shards: u32, cgroup: &Cgroup) -> Result<Joined, ServerError> {
    if options.fresh {
        discard_rings(options, "--fresh was given")?;
    }
    for attempt in 0..ATTEMPTS {
        let joined = match ServerRegion::join(&options.name) {
            Ok(region) => over_joined_rings(options, region, cgroup)?,
            Err(RegionError::NotFound { .. }) => over_new_rings(options, shards, cgroup, attempt == 0)?,
            Err(error) => {
                let error = replaceable(error)?;
                discard_rings(options, &error.to_string())?;
                None
            }
        };
        if let Some(joined) = joined {
            return Ok(joined);
        }
    }
    Err(ServerError::Contended { path: options.name.rings_path(), attempts: ATTEMPTS })
}

/// Lets errors pass that new rings over the kept table cure; the others end the start.
fn replaceable(error: RegionError) -> Result<RegionError, ServerError> {
    match error {
        RegionError::Version { found, expected, .. } if found.0 != expected.0 => Err(ServerError::OldRings(error)),
        RegionError::Unfinished { .. }
        | RegionError::Version { .. }
        | RegionError::Features { .. }
        | RegionError::Truncated { .. }
        | RegionError::Damaged { .. }
        | RegionError::State(_) => Ok(error),
        _ => Err(error.into()),
    }
}

/// Removes rings without a live server. None there, or others in their place by now, is as good.
fn discard_rings(options: &Options, why: &str) -> Result<(), ServerError> {
    match ServerRegion::discard(&options.name) {
        Ok(()) => {
            tracing::warn!(path = %options.name.rings_path().display(), "discarded rings: {why}");
            Ok(())
        }
        Err(RegionError::NotFound { .. } | RegionError::Stale { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The rows with joinable rings; `None` when they were discarded.
fn over_joined_rings(options: &Options, region: ServerRegion, cgroup: &Cgroup) -> Result<Option<Joined>, ServerError> {
    let path = options.name.table_path();
    let why = match look(&path)? {
        Kept::Usable(uuid) if uuid == region.header().uuid() => return join(options, region, cgroup).map(Some),
        Kept::Usable(_) => "they belong to another table",
        Kept::Unfinished => "their table was never finished",
        Kept::Nothing => "their table is missing",
    };
    // The lock goes with the handle, and `discard` takes it again; whoever comes between does the same as this process.
    drop(region);
    discard_rings(options, why)?;
    Ok(None)
}

/// The rows with no rings any more; `None` when somebody else made rings meanwhile.
fn over_new_rings(options: &Options, shards: u32, cgroup: &Cgroup, first: bool) -> Result<Option<Joined>, ServerError> {
    let path = options.name.table_path();
    let kept = match look(&path) {
        // What cannot be joined is discarded unread.
        Err(ServerError::Join { .. }) if options.fresh => Kept::Unfinished,
        Ok(Kept::Usable(_)) if options.fresh => Kept::Unfinished,
        looked => looked?,
    };
    let (uuid, keep) = match kept {
        Kept::Usable(uuid) => (uuid, true),
        Kept::Nothing | Kept::Unfinished => (random()?, false),
    };
    let shape = Shape::new(shards, options.clients);
    let region = match ServerRegion::create(&options.name, shape, options.mode, options.gid, uuid) {
        Ok(region) => region,
        Err(RegionError::Exists { .. } | RegionError::Unfinished { .. } | RegionError::Stale { .. }) => return Ok(None),
        // The same words would tell a client to start a server.
        Err(RegionError::NotFound { path }) => return Err(ServerError::NoPlace { path }),
        Err(error) => return Err(error.into()),
    };
    if keep {
        let why = if first { "found none of them" } else { "the old ones could not be used" };
        tracing::warn!("made new rings over the table: {why}; requests that were under way are lost, items are not");
        let mut joined = join(options, region, cgroup)?;
        if let Some(recovery) = &mut joined.recovery {
            recovery.intents.clear();
        }
        return Ok(Some(joined));
    }
    if !matches!(kept, Kept::Nothing) {
        discard_table(options, &path)?;
    }
    make(options, region, cgroup).map(Some)
}

/// Looks at the table without changing it. An error for one that must not be touched without `--fresh`.
fn look(path: &Path) -> Result<Kept, ServerError> {
    let file = match TableFile::open(path)? {
        None => return Ok(Kept::Nothing),
        Some(Found::Empty) => return Ok(Kept::Unfinished),
        Some(Found::Mapped(file)) => file,
    };
    // SAFETY: the mapping is as long as said and outlives the reader; nothing here writes through it.
    match unsafe { Reader::join(file.base(), file.len()) } {
        Ok(reader) => Ok(Kept::Usable(reader.uuid())),
        Err(JoinError::NotATable { found: 0, .. }) => Ok(Kept::Unfinished),
        Err(source) => Err(ServerError::Join { path: path.to_owned(), source }),
    }
}

/// Joins the table under rings that this process has locked.
fn join(options: &Options, region: ServerRegion, cgroup: &Cgroup) -> Result<Joined, ServerError> {
    let region = Arc::new(region);
    let path = options.name.table_path();
    let file = match TableFile::open(&path)? {
        Some(Found::Mapped(file)) => file,
        Some(Found::Empty) | None => {
            let what = format!("cannot join {}", path.display());
            return Err(ServerError::io(what, std::io::Error::other("it was removed meanwhile; start again")));
        }
    };
    sigbus::install(&region, range(&file))?;
    let backing = file.backing(cgroup.clone(), Pages { huge: options.huge_pages, prefault: options.prefault });
    // SAFETY: the mapping is page-aligned, as long as said, and kept by the handler's caller until the process ends (`Joined`
    // drops the table before the file); the lock on the rings makes this process the only writer (J1).
    let (table, recovery) = unsafe { Table::join(file.base(), file.len(), Box::new(backing.clone())) }
        .map_err(|source| ServerError::Join { path: path.clone(), source })?;
    table.set_state(RegionState::Forming);
    if options.prefault {
        file.populate_data();
    }
    if let Some(asked) = options.memory {
        raise_limit(&table, asked);
    }
    if table.max_value() != options.max_value {
        let (kept, asked) = (format_size(table.max_value().into()), format_size(options.max_value.into()));
        tracing::info!(kept, asked, "the longest value is that of the kept table or of --max-value, whichever is less");
    }
    Ok(Joined { region, table, backing, file, recovery: Some(recovery) })
}

/// Applies `--memory` to a kept table, which holds as much as its address range was made for.
fn raise_limit(table: &Table, asked: u64) {
    let set = table.set_memory_limit(asked);
    let used = table.stats().memory_used_bytes;
    if set < asked {
        let (set, asked) = (format_size(set), format_size(asked));
        tracing::warn!("the kept table can take {set}, not the {asked} of --memory; start with --fresh for a larger one");
    } else if set < used {
        let (set, used) = (format_size(set), format_size(used));
        tracing::warn!(
            "the kept table has {used} already, more than the {set} of --memory: it takes no more, and gives none back"
        );
    }
}

/// Makes the table under rings that this process has just made. What is half made when it fails is removed again.
fn make(options: &Options, region: ServerRegion, cgroup: &Cgroup) -> Result<Joined, ServerError> {
    let region = Arc::new(region);
    let made = plan(options, cgroup).and_then(|geometry| {
        let file = TableFile::create(&options.name.table_path(), geometry.file_len(), options.table_mode, options.gid)?;
        let huge = options.huge_pages && geometry.memory_limit() >= HUGE_FROM;
        let backing = file.backing(cgroup.clone(), Pages { huge, prefault: options.prefault });
        let formatted = format(options, &region, &file, &geometry, backing.clone()).inspect_err(|_| file.unlink());
        formatted.map(|table| (file, backing, table))
    });
    match made {
        Ok((file, backing, table)) => Ok(Joined { region, table, backing, file, recovery: None }),
        Err(error) => {
            if let Err(error) = region.unlink() {
                tracing::warn!(%error, "cannot remove the rings of the failed start");
            }
            Err(error)
        }
    }
}

/// Plans a new table and makes sure that there is memory for it: what was asked for in so many words must be there as a
/// whole, what is a default was computed from what is there.
fn plan(options: &Options, cgroup: &Cgroup) -> Result<Geometry, ServerError> {
    let available = Available::find(options.name.dir(), cgroup)?;
    let none = |asked, flag| ServerError::NoMemory {
        path: options.name.table_path(),
        asked,
        available: available.shared_or_group(),
        flag,
    };
    if let Some(asked) = options.memory.filter(|&asked| asked > available.shared_or_group()) {
        return Err(none(asked, "--memory"));
    }
    let limit = options.memory.unwrap_or_else(|| available.default_limit());
    Geometry::plan(limit, options.buckets, options.max_value).map_err(|error| match error {
        PlanError::TooSmall { needed, .. } if options.memory.is_none() => none(needed, "--size"),
        error => error.into(),
    })
}

fn format(
    options: &Options,
    region: &Arc<ServerRegion>,
    file: &TableFile,
    geometry: &Geometry,
    backing: Backing,
) -> Result<Table, ServerError> {
    for (offset, len) in geometry.initial_commit() {
        backing.back(offset, len)?;
    }
    sigbus::install(region, range(file))?;
    let seed = u64::from_le_bytes(random()?);
    let uuid = region.header().uuid();
    // SAFETY: the mapping is page-aligned, as long as the geometry says and kept until the process ends (`Joined` drops the table
    // before the file); its first ranges are backed; the lock on the rings makes this process the only writer (J1).
    unsafe { Table::format(file.base(), geometry, seed, uuid, Box::new(backing)) }
        .map_err(|source| ServerError::Format { path: options.name.table_path(), source })
}

/// Removes a table that nobody can use, or that `--fresh` gives up, under the lock on new rings. Its readers learn of it.
fn discard_table(options: &Options, path: &Path) -> Result<(), ServerError> {
    if let Ok(Some(Found::Mapped(file))) = TableFile::open(path) {
        let backing = file.backing(Cgroup::none(), Pages::default());
        // SAFETY: as in `join`.
        if let Ok((table, recovery)) = unsafe { Table::join(file.base(), file.len(), Box::new(backing)) } {
            table.set_state(RegionState::Superseded);
            tracing::warn!(items = recovery.items, "discarded the table with {} items", recovery.items);
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let what = format!("cannot remove the old table {}", path.display());
            Err(ServerError::Io { what, source: error, remedy: if options.fresh { "; remove it by hand" } else { "" } })
        }
        _ => Ok(()),
    }
}

fn range(file: &TableFile) -> sigbus::Range {
    sigbus::Range { start: file.base().as_ptr().addr(), len: file.len() }
}

/// Bytes that nobody can guess: keys hash by them.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], ServerError> {
    let mut bytes = [0; N];
    let read = fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|source| ServerError::io("cannot read random bytes", source))?;
    Ok(bytes)
}
