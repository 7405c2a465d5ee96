//! The file under a region: opening what may be anything, telling whether a path still names it, and backing ranges.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;
use nix::sys::statvfs::fstatvfs;

use crate::error::RegionError;
use crate::layout::{MAGIC, PAGE};
use crate::lock;

/// How long a file without magic and lock is given before its server counts as dead: its creator may stand between
/// making the file and locking it.
const CREATOR_PATIENCE: Duration = Duration::from_millis(250);

/// Opens a rings file for reading and writing, whatever stands at the path.
pub(crate) fn open_rings(path: &Path) -> Result<OwnedFd, RegionError> {
    let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EISDIR) => foreign(path, "a directory"),
        Some(libc::ELOOP) => foreign(path, "a symbolic link"),
        Some(libc::ENXIO) => foreign(path, "a socket or device"),
        _ => refused("opening", path, error),
    })?;
    let meta = file.metadata().map_err(|error| refused("inspecting", path, error))?;
    if !meta.is_file() {
        return Err(foreign(path, "a pipe or device"));
    }
    Ok(file.into())
}

/// An error of the system as the variant that tells the user most.
pub(crate) fn refused(what: &'static str, path: &Path, source: impl Into<io::Error>) -> RegionError {
    let source = source.into();
    let path = path.to_path_buf();
    match source.kind() {
        ErrorKind::NotFound => RegionError::NotFound { path },
        ErrorKind::PermissionDenied => RegionError::Permission { path, what, uid: nix::unistd::geteuid().as_raw() },
        _ => RegionError::Io { what, path, source },
    }
}

pub(crate) fn foreign(path: &Path, found: &'static str) -> RegionError {
    RegionError::Foreign { path: path.to_path_buf(), found }
}

/// Identity of a file, whatever its names: device and inode. An open descriptor keeps the inode from being reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The identity of an open file.
    pub(crate) fn of(fd: impl AsFd, path: &Path) -> Result<Self, RegionError> {
        let stat = fstat(fd).map_err(|errno| refused("inspecting", path, errno))?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Whether the path names this very file now.
    pub(crate) fn stands_at(self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|meta| self == Self { device: meta.dev(), inode: meta.ino() })
    }
}

/// Length of an open file.
pub(crate) fn len(fd: impl AsFd, path: &Path) -> Result<u64, RegionError> {
    let stat = fstat(fd).map_err(|errno| refused("inspecting", path, errno))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// What a file at a region's path is, before anything of it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It carries the magic.
    Formatted {
        /// The live server's pid.
        live: Option<u32>,
    },
    /// No magic, but a server that holds the lock is at it.
    Forming {
        /// That server's pid.
        live: u32,
    },
    /// No magic, and nobody is at it.
    Unfinished,
    /// The path names another file, or none, by now.
    Gone,
}

/// Looks at a file that somebody may be formatting at this moment.
///
/// CRASH: a creator that died before its lock is told from one that is slow by patience alone; if it was merely slow, it
/// finds its file discarded or locked, and starts over.
pub(crate) fn look(fd: BorrowedFd<'_>, path: &Path) -> Result<Found, RegionError> {
    let id = FileId::of(fd, path)?;
    let start = Instant::now();
    loop {
        let live = lock::server_pid(fd).map_err(|errno| refused("asking for the lock of", path, errno))?;
        match first_word(fd, path)? {
            MAGIC => return Ok(Found::Formatted { live }),
            0 => {}
            _ => return Err(foreign(path, "another magic")),
        }
        if !id.stands_at(path) {
            return Ok(Found::Gone);
        }
        if let Some(live) = live {
            return Ok(Found::Forming { live });
        }
        if start.elapsed() > CREATOR_PATIENCE {
            return Ok(Found::Unfinished);
        }
        std::thread::yield_now();
    }
}

fn first_word(fd: BorrowedFd<'_>, path: &Path) -> Result<u64, RegionError> {
    let mut word = [0; 8];
    let read = rustix::io::pread(fd, &mut word, 0).map_err(|errno| refused("reading", path, errno))?;
    // A file too short for a magic reads as zeros if empty, and as something foreign otherwise.
    Ok(if read == 0 { 0 } else { u64::from_ne_bytes(word) })
}

/// Refuses a file length that the process's file size limit forbids, before the kernel does so by a signal.
pub(crate) fn allow_len(len: u64, path: &Path) -> Result<(), RegionError> {
    let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE).map_err(|errno| refused("asking for limits for", path, errno))?;
    if soft < len {
        return Err(RegionError::NoMemory { asked: len, available: soft, path: path.to_path_buf() });
    }
    Ok(())
}

/// Backs a range of a file with memory; what is backed already stays as it is.
pub(crate) fn commit(fd: BorrowedFd<'_>, offset: u64, len: u64, path: &Path) -> Result<(), RegionError> {
    let signed = |value: u64| i64::try_from(value).map_err(|_| refused("committing", path, Errno::EFBIG));
    let (start, bytes) = (signed(offset)?, signed(len)?);
    loop {
        match fallocate(fd, FallocateFlags::empty(), start, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG | Errno::ENOMEM) => {
                return Err(RegionError::NoMemory { asked: len, available: available(fd), path: path.to_path_buf() });
            }
            Err(errno) => return Err(refused("committing memory for", path, errno)),
        }
    }
}

/// Bytes that the file system says are left, 0 where it cannot be asked.
fn available(fd: BorrowedFd<'_>) -> u64 {
    fstatvfs(fd).map_or(0, |stat| stat.blocks_available() * stat.fragment_size())
}

/// Refuses a machine whose pages are larger than sections are aligned to: rights could not be kept apart there.
pub(crate) fn allow_page_size(path: &Path) -> Result<(), RegionError> {
    let found = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let found = found.ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    if found == PAGE { Ok(()) } else { Err(RegionError::Abi { path: path.to_path_buf(), found, expected: PAGE }) }
}
