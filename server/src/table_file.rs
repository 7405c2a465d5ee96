//! The file `DIR/NAME.table`: made, opened, mapped and backed with memory.
//!
//! The file is as long as the table may ever become and sparse; [`Backing`] backs ranges before they are touched (I9). What is
//! backed stays so: nothing here punches or truncates, readers of other processes map the same pages.
//!
//! Who may touch it: only the holder of the server's lock on the rings makes, joins or removes the table of that name.

use std::fs::{File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use rustix::mm::{Advice, madvise};
use shmqueue::aligned_map::{AlignedMap, HUGE_PAGE, Right};
use table::{Commit, CommitError};

use crate::cgroup::Cgroup;
use crate::exit::ServerError;
use crate::memory::free_shared;

/// Bytes of a control group's headroom that stay for the rest of the process: a table that took the last page would leave the
/// next stack page to the kernel's out-of-memory killer.
const CGROUP_SPARE: u64 = 4 << 20;

/// What stands at a table's path.
#[derive(Debug)]
pub(crate) enum Found {
    /// A file without a single byte.
    Empty,
    /// A file with bytes that nobody has looked at yet.
    Mapped(TableFile),
}

/// A mapped table file.
#[derive(Debug)]
pub(crate) struct TableFile {
    path: PathBuf,
    file: Arc<File>,
    map: Arc<AlignedMap>,
    len: u64,
}

impl TableFile {
    /// Makes the file, which must not exist, `len` bytes long and without any memory behind it.
    pub(crate) fn create(path: &Path, len: u64, mode: u32, gid: Option<u32>) -> Result<Self, ServerError> {
        let failed = |what: &str| format!("cannot {what} {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        let file = options.open(path).map_err(|source| ServerError::io(failed("create"), source))?;
        // The file is ours from here on: a later failure must not leave it behind.
        let made = || {
            std::os::unix::fs::fchown(&file, None, gid).map_err(|source| ServerError::Io {
                what: failed("give to the group of --group"),
                source,
                remedy: "; name a group that the server's user is in",
            })?;
            // The process's umask cut the mode at creation; what was asked for is set in so many bits.
            file.set_permissions(Permissions::from_mode(mode))
                .map_err(|source| ServerError::io(failed("set the mode of"), source))?;
            file.set_len(len).map_err(|source| match source.raw_os_error() {
                Some(libc::EFBIG) => ServerError::FileLimit { path: path.to_owned(), expected: len },
                _ => ServerError::io(failed("size"), source),
            })?;
            map(&file, path, len)
        };
        match made() {
            Ok(map) => Ok(Self { path: path.to_owned(), file: Arc::new(file), map: Arc::new(map), len }),
            Err(error) => {
                remove_ours(path, &file);
                Err(error)
            }
        }
    }

    /// Opens and maps what another server left; `None` where there is no such file.
    pub(crate) fn open(path: &Path) -> Result<Option<Found>, ServerError> {
        let failed = |what: &str| format!("cannot {what} {}", path.display());
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let remedy = "; look who owns it, or choose another --name";
                return Err(ServerError::Io { what: failed("open"), source, remedy });
            }
        };
        let meta = file.metadata().map_err(|source| ServerError::io(failed("look at"), source))?;
        if !meta.is_file() {
            return Err(ServerError::Foreign { path: path.to_owned() });
        }
        let len = meta.len();
        if len == 0 {
            // There is nothing to map: its maker died at once.
            return Ok(Some(Found::Empty));
        }
        let map = map(&file, path, len)?;
        Ok(Some(Found::Mapped(Self { path: path.to_owned(), file: Arc::new(file), map: Arc::new(map), len })))
    }

    /// Address of the first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.map.base()
    }

    /// Length of the file when it was mapped.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What backs ranges of this file.
    pub(crate) fn backing(&self, cgroup: Cgroup, pages: Pages) -> Backing {
        let (path, file, map) = (self.path.clone(), Arc::clone(&self.file), Arc::clone(&self.map));
        Backing { path, file, map, cgroup, pages, small: Arc::default() }
    }

    /// Touches the pages of a range for writing without changing a byte, so that nobody meets them for the first time.
    pub(crate) fn populate(&self, offset: u64, len: u64) {
        populate(&self.map, offset, len);
    }

    /// Touches all pages that have memory behind them: what a predecessor used.
    pub(crate) fn populate_data(&self) {
        let mut at = 0;
        // The walk ends by itself: each step is further into the file, and an error (ENXIO beyond the last data) ends it.
        while let Ok(start) = rustix::fs::seek(&*self.file, rustix::fs::SeekFrom::Data(at))
            && let Ok(end) = rustix::fs::seek(&*self.file, rustix::fs::SeekFrom::Hole(start))
            && end > start
        {
            self.populate(start, end - start);
            at = end;
        }
    }

    /// Finds out whether somebody cut the file.
    pub(crate) fn check_len(&self) -> Result<(), ServerError> {
        match self.file.metadata() {
            Ok(meta) if meta.len() < self.len => {
                Err(ServerError::Truncated { path: self.path.clone(), found: meta.len(), expected: self.len })
            }
            Ok(_) => Ok(()),
            Err(source) => Err(ServerError::io(format!("cannot look at {}", self.path.display()), source)),
        }
    }

    /// Removes the file's name, if it still names this file. Mappings stay valid until they are dropped.
    pub(crate) fn unlink(&self) {
        remove_ours(&self.path, &self.file);
    }
}

/// Backs ranges of a table file with memory, for [`table::Commit`].
#[derive(Clone, Debug)]
pub(crate) struct Backing {
    path: PathBuf,
    file: Arc<File>,
    map: Arc<AlignedMap>,
    cgroup: Cgroup,
    pages: Pages,
    /// Ranges (start, end) that are backed by small pages and may still become huge ones, the newest last.
    small: Arc<Mutex<Vec<(u64, u64)>>>,
}

/// What is done to memory when it is backed, beside that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    /// Huge pages are made of it where the kernel gives them.
    pub(crate) huge: bool,
    /// It is touched however much it is at once, so that no request meets a page for the first time.
    pub(crate) prefault: bool,
}

const HUGE: u64 = HUGE_PAGE as u64;

/// Where the first whole huge page at or behind an offset begins.
fn first_piece(offset: u64) -> u64 {
    offset.next_multiple_of(HUGE)
}

/// The most that is touched at once without being asked for: a table formatted for very many buckets starts quicker.
const TOUCHED_AT_ONCE: u64 = 1 << 30;

impl Backing {
    /// Backs a range before anybody uses the table, with huge pages at once; what is backed already stays as it is.
    pub(crate) fn back(&self, offset: u64, len: u64) -> Result<(), ServerError> {
        self.allocate(offset, len)?;
        if self.pages.huge {
            collapse(&self.map, offset, len);
        }
        if self.pages.prefault || len <= TOUCHED_AT_ONCE {
            populate(&self.map, offset, len);
        }
        Ok(())
    }

    /// Makes one huge page of memory that was committed since; false if there is none to make. A reader of that page waits
    /// for it once.
    pub(crate) fn make_huge_page(&self) -> bool {
        let piece = {
            let mut small = self.small();
            let Some(place) = small.iter().rposition(|&(start, end)| first_piece(start) + HUGE <= end) else { return false };
            let range = &mut small[place];
            let piece = first_piece(range.0);
            range.0 = piece + HUGE;
            if range.0 == range.1 {
                small.remove(place);
            }
            piece
        };
        if !collapse(&self.map, piece, HUGE) {
            // What failed once fails again: what was committed so far stays as it is.
            self.small().clear();
        }
        true
    }

    fn small(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.small.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reserves memory for a range.
    fn allocate(&self, offset: u64, len: u64) -> Result<(), ServerError> {
        let none = |available| ServerError::NoMemory { path: self.path.clone(), asked: len, available, flag: "--memory" };
        // The kernel charges pages of a tmpfs to the group that touches them first, and kills rather than refuses when the
        // group is full. So the group is asked before.
        if let Some(headroom) = self.cgroup.memory_headroom()
            && headroom < len + CGROUP_SPARE
        {
            return Err(none(headroom.saturating_sub(CGROUP_SPARE)));
        }
        loop {
            match fallocate(&*self.file, FallocateFlags::empty(), offset as i64, len as i64) {
                Ok(()) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::ENOSPC | Errno::ENOMEM) => {
                    let dir = self.path.parent().unwrap_or(Path::new("."));
                    return Err(none(free_shared(dir).ok().flatten().unwrap_or(0)));
                }
                Err(Errno::EFBIG) => return Err(ServerError::FileLimit { path: self.path.clone(), expected: offset + len }),
                Err(source) => {
                    let what = format!("cannot back {} with memory", self.path.display());
                    return Err(ServerError::Io { what, source: source.into(), remedy: "; use a tmpfs for --dir" });
                }
            }
        }
        Ok(())
    }
}

impl Commit for Backing {
    fn commit(&self, offset: u64, len: u64) -> Result<(), CommitError> {
        self.allocate(offset, len).map_err(|error| {
            tracing::warn!(%error, "the table cannot grow");
            CommitError { offset, len, reason: error.to_string() }
        })?;
        // Small pages for now: somebody may wait, and making a huge one takes long when all processors are busy.
        populate(&self.map, offset, len);
        if self.pages.huge {
            let mut small = self.small();
            match small.iter_mut().find(|range| range.1 == offset) {
                Some(range) => range.1 += len,
                None => small.push((offset, offset + len)),
            }
        }
        Ok(())
    }
}

fn map(file: &File, path: &Path, len: u64) -> Result<AlignedMap, ServerError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    AlignedMap::new(file, len, Right::Write).map_err(|source| ServerError::Io {
        what: format!("cannot map {len} bytes of {}", path.display()),
        source,
        remedy: "; raise the limit of address space (ulimit -v) or lower --memory",
    })
}

/// Touches the pages of a range that are not there yet.
fn populate(map: &AlignedMap, offset: u64, len: u64) {
    let page = rustix::param::page_size() as u64;
    let start = offset / page * page;
    let end = (offset + len).min(map.len() as u64);
    if start >= end {
        return;
    }
    let address = map.base().as_ptr().wrapping_add(start as usize);
    // SAFETY: the range is inside of the mapping; populating it changes no byte.
    if let Err(error) = unsafe { madvise(address.cast(), (end - start) as usize, Advice::LinuxPopulateWrite) } {
        // Kernels before 5.14 cannot; the first touches are slower then, nothing else changes.
        tracing::debug!(%error, "cannot touch pages ahead of their use");
    }
}

/// Makes huge pages of the whole ones in a range that is backed and untouched; whether all of them are.
fn collapse(map: &AlignedMap, offset: u64, len: u64) -> bool {
    let (start, end) = (offset.next_multiple_of(HUGE_PAGE as u64), (offset + len) / HUGE_PAGE as u64 * HUGE_PAGE as u64);
    let mut done = true;
    for piece in (start..end).step_by(HUGE_PAGE) {
        let address = map.base().as_ptr().wrapping_add(piece as usize);
        // SAFETY: the range is inside of the mapping; collapsing changes no byte.
        done &= unsafe { libc::madvise(address.cast(), HUGE_PAGE, libc::MADV_COLLAPSE) } == 0;
        if !done {
            // Older kernels, or no huge page free: small ones serve as well, more slowly.
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, "cannot make huge pages of the table's memory");
            break;
        }
    }
    done
}

/// Removes the name at `path` if it names this very file.
fn remove_ours(path: &Path, file: &File) {
    let same = match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(ours)) => (named.dev(), named.ino()) == (ours.dev(), ours.ino()),
        _ => false,
    };
    if same && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove the table; remove it by hand");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::tree;

    fn no_limits() -> Cgroup {
        Cgroup::of_self(Path::new("/nonexistent"))
    }

    fn blocks(path: &Path) -> u64 {
        std::fs::metadata(path).expect("metadata").blocks() * 512
    }

    /// A directory in shared memory: memory is what these tests are about.
    fn shm() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").expect("shared memory")
    }

    #[test]
    fn a_new_file_is_sparse_and_private() {
        let dir = shm();
        let path = dir.path().join("t.table");
        let table = TableFile::create(&path, 1 << 30, 0o640, None).expect("created");
        assert_eq!(blocks(&path), 0);
        assert_eq!(std::fs::metadata(&path).expect("metadata").mode() & 0o7777, 0o640);
        table.backing(no_limits(), Pages::default()).back(4096, 64 << 10).expect("backed");
        assert_eq!(blocks(&path), 64 << 10);
        assert!(TableFile::create(&path, 4096, 0o600, None).is_err(), "the name is taken");
        table.unlink();
        assert!(!path.exists());
    }

    #[test]
    fn huge_pages_change_no_byte_and_no_more_is_backed() {
        let dir = shm();
        let path = dir.path().join("t.table");
        let table = TableFile::create(&path, 64 << 20, 0o600, None).expect("created");
        let backing = table.backing(no_limits(), Pages { huge: true, prefault: false });
        backing.back(4096, 16 << 20).expect("backed");
        assert_eq!(blocks(&path), 16 << 20);
        let file = std::fs::read(&path).expect("read");
        assert!(file.iter().all(|&byte| byte == 0));
        // SAFETY: inside of the mapping, backed, and nobody else's.
        unsafe { table.base().as_ptr().add(5 << 20).write(9) };
        backing.back(4096, 16 << 20).expect("backed again");
        // SAFETY: as above.
        assert_eq!(unsafe { table.base().as_ptr().add(5 << 20).read() }, 9);
        assert_eq!(blocks(&path), 16 << 20);
        // What is committed later waits for its huge pages: only whole ones, and only what was committed.
        for at in (20..25).chain(40..41) {
            backing.commit(at << 20, 1 << 20).expect("committed");
        }
        // SAFETY: as above.
        unsafe { table.base().as_ptr().add(21 << 20).write(8) };
        while backing.make_huge_page() {}
        // SAFETY: as above.
        assert_eq!(unsafe { table.base().as_ptr().add(21 << 20).read() }, 8);
        assert_eq!(blocks(&path), 22 << 20);
    }

    #[test]
    fn a_file_that_took_the_name_is_left_alone() {
        let dir = shm();
        let path = dir.path().join("t.table");
        let table = TableFile::create(&path, 4096, 0o600, None).expect("created");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "another").expect("written");
        table.unlink();
        assert_eq!(std::fs::read(&path).expect("still there"), b"another");
    }

    #[test]
    fn a_cut_file_is_noticed() {
        let dir = shm();
        let path = dir.path().join("t.table");
        let table = TableFile::create(&path, 8192, 0o600, None).expect("created");
        table.check_len().expect("whole");
        std::fs::OpenOptions::new().write(true).open(&path).expect("opened").set_len(4096).expect("cut");
        let error = table.check_len().expect_err("cut").to_string();
        assert!(error.contains("found 4096 bytes, expected 8192"), "{error}");
    }

    #[test]
    fn a_full_group_is_an_error_before_the_kernel_kills() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n"),
            ("cg/cgroup.controllers", "memory\n"),
            ("cg/memory.max", "8388608\n"),
            ("cg/memory.current", "0\n"),
        ]);
        let dir = shm();
        let path = dir.path().join("t.table");
        let table = TableFile::create(&path, 1 << 30, 0o600, None).expect("created");
        let backing = table.backing(Cgroup::of_self(root.path()), Pages::default());
        backing.back(0, 4 << 20).expect("fits");
        let error = backing.back(0, 5 << 20).expect_err("does not fit").to_string();
        assert!(error.contains("found 4MiB free, expected 5MiB"), "{error}");
    }

    #[test]
    fn what_is_no_file_is_not_mapped() {
        let dir = shm();
        assert!(matches!(TableFile::open(&dir.path().join("none")), Ok(None)));
        std::fs::write(dir.path().join("empty"), "").expect("written");
        assert!(matches!(TableFile::open(&dir.path().join("empty")), Ok(Some(Found::Empty))));
        assert!(TableFile::open(dir.path()).is_err(), "a directory");
    }

    #[test]
    fn what_a_predecessor_wrote_is_populated_and_nothing_more() {
        let dir = shm();
        let path = dir.path().join("t.table");
        let mut file = vec![7u8; 8192];
        file.resize(1 << 20, 0);
        std::fs::write(&path, &file[..8192]).expect("written");
        let table = {
            std::fs::OpenOptions::new().write(true).open(&path).expect("opened").set_len(1 << 20).expect("lengthened");
            TableFile::open(&path)
        };
        let Ok(Some(Found::Mapped(table))) = table else { panic!("a file with bytes is mapped: {table:?}") };
        table.populate_data();
        assert_eq!(blocks(&path), 8192);
        assert_eq!(std::fs::read(&path).expect("read"), file);
    }
}
