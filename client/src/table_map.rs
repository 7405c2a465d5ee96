//! The table as a client sees it: mapped read-only, read by reference or directly.
#![allow(unsafe_code, reason = "mapping the table and joining its reader are the library's only unsafe acts")]

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use shmqueue::aligned_map::{AlignedMap, Right};
use shmqueue::region::RegionName;
use shmqueue::sigbus::{Guarded, Part};
use table::{ItemRef, Reader, RegionState, TableStats};

use crate::error::Error;

/// A read-only mapping of the table with its reader.
pub(crate) struct TableMap {
    reader: Reader<'static>,
    path: PathBuf,
    /// Device and inode of the mapped file.
    file: (u64, u64),
    /// See [`crate::guard`]; dropped before the memory is unmapped.
    _guarded: Guarded,
    /// Keeps the memory mapped that the reader reads; dropped after it.
    _map: AlignedMap,
}

impl std::fmt::Debug for TableMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableMap").field("len", &self._map.len()).finish_non_exhaustive()
    }
}

impl TableMap {
    /// Maps the table that belongs to a region. `Ok(None)` where this process has no right to read it: values then travel through
    /// the lane.
    pub(crate) fn open(name: &RegionName, uuid: [u8; 16]) -> Result<Option<Self>, Error> {
        let path = name.table_path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(Error::Table(format!("opening table {}: {error}; restart the server", path.display()))),
        };
        let map = Self::map(&file, path)?;
        if map.reader.uuid() != uuid {
            return Err(Error::Table(format!(
                "joining table {}: it belongs to another region; restart the server",
                map.path.display()
            )));
        }
        Ok(Some(map))
    }

    /// Maps a table without asking whose it is, or whether anybody serves it.
    pub(crate) fn open_alone(name: &RegionName) -> Result<Self, Error> {
        let path = name.table_path();
        let file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::NoServer(format!("no table at {}; start a server of that name, or check --name and --dir", path.display()))
            }
            _ => Error::Table(format!("opening table {}: {error}; ask for the right to read it (--table-mode)", path.display())),
        })?;
        Self::map(&file, path)
    }

    fn map(file: &File, path: PathBuf) -> Result<Self, Error> {
        let meta =
            file.metadata().map_err(|error| Error::Table(format!("inspecting table {}: {error}; try again", path.display())))?;
        let len = usize::try_from(meta.len()).unwrap_or(usize::MAX);
        // The server never truncates a live table; the reader treats the bytes as racing and untrusted.
        let map = AlignedMap::new(file, len, Right::Read).map_err(|error| {
            Error::Table(format!("mapping table {}: {error}; check the limit on address space", path.display()))
        })?;
        let base = map.base();
        let guarded = Guarded::enter(base.as_ptr(), map.len() as u64, Part::Table);
        // SAFETY: the mapping is as long as said, and outlives the reader: both are fields of one struct.
        let reader = unsafe { Reader::join(base, map.len() as u64) }
            .map_err(|error| Error::Table(format!("joining table {}: {error}", path.display())))?;
        Ok(Self { reader, path, file: identity(&meta), _guarded: guarded, _map: map })
    }

    /// Reads the table without anybody's help.
    #[inline(always)]
    pub(crate) fn reader(&self) -> &Reader<'static> {
        &self.reader
    }

    /// Whether the table is its region's still, so that what it says is what the region holds.
    #[inline(always)]
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.reader.state() {
            RegionState::Forming | RegionState::Ready | RegionState::Draining => Ok(()),
            state => self.check_left(state),
        }
    }

    /// The server left: what it kept under its name can be read, what it removed is history.
    #[cold]
    fn check_left(&self, state: RegionState) -> Result<(), Error> {
        if state == RegionState::Superseded {
            return Err(Error::Superseded(self.path.clone()));
        }
        let kept = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| identity(&meta) == self.file);
        if kept { Ok(()) } else { Err(Error::Closed(self.path.clone())) }
    }

    /// What the table counts.
    pub(crate) fn stats(&self) -> TableStats {
        self.reader.stats()
    }

    /// Copies the value of an item into `out`, replacing its contents; false when it was replaced meanwhile.
    pub(crate) fn copy(&self, offset: u64, version: u64, key_len: usize, value_len: usize, out: &mut Vec<u8>) -> bool {
        let item =
            ItemRef { offset, version, expiry: 0, value_len: value_len as u32, key_len: key_len as u16, type_and_flags: 0 };
        self.reader.copy_value(&item, out).is_ok()
    }
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}
