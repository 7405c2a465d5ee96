//! Who is alive: open-file-description locks on ranges of `NAME.rings` far beyond its data.
//!
//! ```text
//! 1 << 40 + i                    client slot i: one byte, held by the attached client
//! 1 << 41 .. 1 << 41 + pid       the server: as many bytes as its process id
//! ```
//!
//! The kernel drops a lock when the last descriptor of its description is closed, that is with the process (see
//! [`crate::fork`] for children). It is therefore right across reuse of process ids and across pid namespaces, and it is
//! the only thing by which liveness is ever judged. The length of the server's range tells its pid: whoever finds
//! the lock taken learns in the same call by whom, without a moment in which the lock is held and the pid not yet published.
//!
//! Invariants:
//! - **L1** Two handles never share a description: each is opened afresh, so that locks of one process do not merge.
//! - **L2** No call here waits.
//! - **L3** These offsets are the same in every layout version, so that programs of different versions see each other live.
//!
//! Whoever may open the file may lock any of these ranges, so that a hostile process with the file's rights can keep a server from
//! starting or a slot from being freed; it cannot make a live one look dead. The file's mode is the guard against that.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::error::RegionError;
use crate::fork::GuardedFd;
use crate::region::open_rings;

/// Offset of the lock byte of client slot 0.
pub const CLIENT_LOCKS: i64 = 1 << 40;
/// Offset of the server's lock range.
pub const SERVER_LOCK: i64 = 1 << 41;

/// What became of an attempt to take a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a lock that was not taken protects nothing"]
pub enum Taken {
    /// The lock is held by this handle now.
    Yes,
    /// Another handle holds it.
    No,
}

fn range(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn set(fd: BorrowedFd<'_>, kind: libc::c_int, start: i64, len: i64) -> Result<Taken, Errno> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&range(kind, start, len))) {
        Ok(_) => Ok(Taken::Yes),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(Taken::No),
        Err(errno) => Err(errno),
    }
}

/// The range that another handle has locked over `start`, as start and length.
fn holder(fd: BorrowedFd<'_>, start: i64) -> Result<Option<(i64, i64)>, Errno> {
    let mut lock = range(libc::F_WRLCK, start, 1);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some((lock.l_start, lock.l_len)))
}

/// The pid of the server that holds the region open as `fd`, in its own pid namespace; `None` where none is alive.
pub fn server_pid(fd: impl AsFd) -> Result<Option<u32>, Errno> {
    Ok(holder(fd.as_fd(), SERVER_LOCK)?.map(|(_, len)| u32::try_from(len).unwrap_or(0)))
}

/// Whether another handle than `fd` holds client slot `index`.
pub fn client_held(fd: impl AsFd, index: u32) -> Result<bool, Errno> {
    Ok(holder(fd.as_fd(), CLIENT_LOCKS + i64::from(index))?.is_some())
}

/// A description of a rings file of its own, for locks, which a fork's child closes.
#[derive(Debug)]
pub struct LockFile {
    guarded: GuardedFd,
}

impl LockFile {
    /// Opens the file anew, with no lock yet.
    pub fn open(path: &Path) -> Result<Self, RegionError> {
        Ok(Self { guarded: GuardedFd::open(|| open_rings(path))? })
    }

    /// The descriptor, or [`RegionError::Forked`] in the child of a fork.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, RegionError> {
        self.guarded.fd()
    }

    /// Whether the handle was inherited over a fork.
    #[inline]
    pub fn forked(&self) -> bool {
        self.guarded.forked()
    }

    /// Tries to become the server of the region, under this process's id.
    pub fn try_server(&self, path: &Path) -> Result<Taken, RegionError> {
        let pid = i64::from(std::process::id());
        set(self.fd()?, libc::F_WRLCK, SERVER_LOCK, pid).map_err(|errno| refused("locking", path, errno))
    }

    /// Tries to take client slot `index`.
    pub fn try_client(&self, path: &Path, index: u32) -> Result<Taken, RegionError> {
        let start = CLIENT_LOCKS + i64::from(index);
        set(self.fd()?, libc::F_WRLCK, start, 1).map_err(|errno| refused("locking", path, errno))
    }

    /// Gives client slot `index` back; nothing happens in the child of a fork, where it is not held.
    pub fn release_client(&self, index: u32) {
        if let Ok(fd) = self.fd() {
            // Unlocking a range of an open file fails only for want of kernel memory; then closing it does the same.
            let _ = set(fd, libc::F_UNLCK, CLIENT_LOCKS + i64::from(index), 1);
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if let Ok(fd) = self.fd() {
            // Explicitly, because a copy of the descriptor may still be open in a process about to execute another program (F4).
            let _ = set(fd, libc::F_UNLCK, 0, 0);
        }
    }
}

fn refused(what: &'static str, path: &Path, errno: Errno) -> RegionError {
    RegionError::Io { what, path: path.to_path_buf(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_lock_excludes_and_names_its_holder() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let (one, two) = (LockFile::open(file.path()).expect("opens"), LockFile::open(file.path()).expect("opens"));
        assert_eq!(server_pid(two.fd().expect("own")), Ok(None));
        assert_eq!(one.try_server(file.path()).expect("lock"), Taken::Yes);
        assert_eq!(two.try_server(file.path()).expect("lock"), Taken::No);
        assert_eq!(server_pid(two.fd().expect("own")), Ok(Some(std::process::id())));
        assert_eq!(server_pid(one.fd().expect("own")), Ok(None), "a handle's own lock is not another's");
        drop(one);
        assert_eq!(two.try_server(file.path()).expect("lock"), Taken::Yes);
    }

    #[test]
    fn client_bytes_are_apart_from_each_other_and_from_the_server() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let handles: Vec<_> = (0..4).map(|_| LockFile::open(file.path()).expect("opens")).collect();
        assert_eq!(handles[3].try_server(file.path()).expect("lock"), Taken::Yes);
        for (index, handle) in (0..3).zip(&handles) {
            assert_eq!(handle.try_client(file.path(), index).expect("lock"), Taken::Yes);
        }
        assert_eq!(handles[0].try_client(file.path(), 1).expect("lock"), Taken::No);
        let server = handles[3].fd().expect("own");
        assert_eq!([0, 1, 2, 3].map(|index| client_held(server, index).expect("query")), [true, true, true, false]);
        handles[1].release_client(1);
        assert!(!client_held(server, 1).expect("query"));
    }
}
