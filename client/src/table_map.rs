//! The table as a client sees it: mapped read-only, read by reference.
#![allow(unsafe_code, reason = "mapping the table and joining its reader are the library's only unsafe acts")]

use std::fs::File;
use std::ptr::NonNull;

use memmap2::{Mmap, MmapOptions};
use shmqueue::region::RegionName;
use shmqueue::sigbus::{Guarded, Part};
use table::{ItemRef, Reader, TableStats};

use crate::error::Error;

/// A read-only mapping of the table with its reader.
pub(crate) struct TableMap {
    reader: Reader<'static>,
    /// See [`crate::guard`]; dropped before the memory is unmapped.
    _guarded: Guarded,
    /// Keeps the memory mapped that the reader reads; dropped after it.
    _map: Mmap,
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
        // SAFETY: the server never truncates a live table; the reader treats the bytes as racing and untrusted.
        let map = unsafe { MmapOptions::new().map(&file) }.map_err(|error| {
            Error::Table(format!("mapping table {}: {error}; check the limit on address space", path.display()))
        })?;
        let base = NonNull::from(map.as_ref()).cast::<u8>();
        let guarded = Guarded::enter(base.as_ptr(), map.len() as u64, Part::Table);
        // SAFETY: the mapping is as long as said, and outlives the reader: both are fields of one struct.
        let reader = unsafe { Reader::join(base, map.len() as u64) }
            .map_err(|error| Error::Table(format!("joining table {}: {error}", path.display())))?;
        if reader.uuid() != uuid {
            return Err(Error::Table(format!(
                "joining table {}: it belongs to another region; restart the server",
                path.display()
            )));
        }
        Ok(Some(Self { reader, _guarded: guarded, _map: map }))
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
