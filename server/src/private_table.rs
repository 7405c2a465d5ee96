//! A table as the daemon keeps it, for one process: the same file, mapping and commitment of memory, but no rings, no workers
//! and no name. Benchmarks measure the table through it.
//!
//! N1: the file has lost its name before a caller sees the table, so that nothing is left behind however the process ends.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use table::{Geometry, Table};

use crate::cgroup::Cgroup;
use crate::committing;
use crate::exit::ServerError;
use crate::joining::random;
use crate::memory::HUGE_FROM;
use crate::service;
use crate::table_file::{Backing, Pages, TableFile};

/// A table in memory that only this process reaches.
pub struct PrivateTable {
    table: Table,
    backing: Backing,
    /// Keeps the table's memory mapped; dropped after it.
    _file: TableFile,
}

impl PrivateTable {
    /// Buckets that the daemon's workers sweep in one step ahead.
    pub const STEP: u32 = service::SWEPT_IDLE;

    /// Makes an empty table of `buckets` that may take `memory` bytes, in a file at `path` that is gone when this returns.
    pub fn create(path: &Path, memory: u64, buckets: u64, max_value: u32) -> io::Result<Self> {
        make(path, memory, buckets, max_value).map_err(io::Error::other)
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Runs `work` beside a thread that commits memory ahead, as the daemon has one.
    pub fn while_committing<R>(&self, work: impl FnOnce() -> R) -> R {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let committing = scope.spawn(|| committing::commit_until(&self.table, &self.backing, &stop));
            let _end = End { stop: &stop, thread: committing.thread() };
            work()
        })
    }
}

/// Ends the committing thread, also when the work beside it panics: the scope would wait for it forever.
struct End<'a> {
    stop: &'a AtomicBool,
    thread: &'a thread::Thread,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        // ORDER(stop): Release pairs with the Acquire in `committing`.
        self.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

fn make(path: &Path, memory: u64, buckets: u64, max_value: u32) -> Result<PrivateTable, ServerError> {
    let geometry = Geometry::plan(memory, buckets, max_value)?;
    let seed = u64::from_le_bytes(random()?);
    let file = TableFile::create(path, geometry.file_len(), 0o600, None)?;
    file.unlink();
    let backing = file.backing(Cgroup::of_self(Path::new("/")), Pages { huge: memory >= HUGE_FROM, prefault: false });
    for (offset, len) in geometry.initial_commit() {
        backing.back(offset, len)?;
    }
    // SAFETY: the mapping is page-aligned, as long as the geometry says and dropped after the table; its first ranges are
    // backed; without a name, no other process writes it.
    let table = unsafe { Table::format(file.base(), &geometry, seed, [0; 16], Box::new(backing.clone())) }
        .map_err(|source| ServerError::Format { path: path.to_owned(), source })?;
    Ok(PrivateTable { table, backing, _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;
    use table::{Condition, Expiry, Outcome, Ticket};

    #[test]
    fn a_private_table_takes_items_and_leaves_no_file() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("shared memory");
        let path = dir.path().join("t.table");
        let private = PrivateTable::create(&path, 16 << 20, 1024, 1 << 10).expect("made");
        assert!(!path.exists());
        let used = private.table().stats().memory_used_bytes;
        private.while_committing(|| {
            let (mut writer, ticket) = (private.table().writer(0), Ticket::default());
            for number in 0..20_000u32 {
                let key = number.to_le_bytes();
                let outcome =
                    writer.insert(&key, &key, writer.hash(&key), Condition::None, Expiry::Never, &ticket, |outcome| *outcome);
                assert!(matches!(outcome, Outcome::Inserted { .. }), "{outcome:?}");
            }
        });
        let stats = private.table().stats();
        assert_eq!(stats.items, 20_000);
        assert!(stats.memory_used_bytes > used);
    }

    #[test]
    fn a_panic_of_the_work_ends_the_committing_thread() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("shared memory");
        let private = PrivateTable::create(&dir.path().join("t.table"), 16 << 20, 1024, 1 << 10).expect("made");
        let work = std::panic::AssertUnwindSafe(|| private.while_committing(|| panic!("the work")));
        assert!(std::panic::catch_unwind(work).is_err());
    }
}
