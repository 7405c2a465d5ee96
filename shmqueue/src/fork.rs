//! What a fork does to handles: in the child every handle turns invalid and every lock's file is closed.
//!
//! An open-file-description lock lives as long as any process holds the description open. A pre-forking parent that dies
//! would therefore look alive for as long as its children live, were the descriptor not closed in them. So every descriptor
//! that ever carries a lock is entered in a fixed table, and the child's side of `pthread_atfork` closes all of them and
//! raises a process-wide fork generation, against which handles compare the generation they were made under.
//!
//! Invariants:
//! - **F1** A descriptor is opened and entered, or taken out and closed, only while the gate is held; a fork holds the gate
//!   too. So a child's copy of the table names exactly the descriptors that the child inherited.
//! - **F2** The gate is held only with all signals blocked, so that a fork inside a signal handler cannot wait for its own thread.
//! - **F3** The child handler does only loads, stores, `close` and the gate's unlock, all of which are async-signal-safe in practice.
//! - **F4** A lock is released explicitly before its descriptor leaves the table, so that a copy in a process that has not yet
//!   executed its own program (`vfork`, `posix_spawn`) keeps no lock alive.
//!
//! Not covered: a bare `clone` system call, which runs no handlers; its child must execute another program (the descriptors are
//! close-on-exec) or touch no handle.
//!
//! Progress: attaching waits for a fork of the same process that is under way; nobody else is waited for.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::error::RegionError;

/// Most descriptors with locks, that is servers and attachments, of one process.
pub const MOST_GUARDED: usize = 1024;

const EMPTY: i32 = -1;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static DESCRIPTORS: [AtomicI32; MOST_GUARDED] = [const { AtomicI32::new(EMPTY) }; MOST_GUARDED];
static GATE: Gate =
    Gate { mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER), mask: UnsafeCell::new(MaybeUninit::uninit()) };
static HANDLERS: Once = Once::new();

/// A process-local mutex that can be locked in one handler and unlocked in another, which a guard cannot express. All signals
/// are blocked while it is held.
struct Gate {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    /// The signal mask of the thread that holds the mutex, from before.
    mask: UnsafeCell<MaybeUninit<libc::sigset_t>>,
}

// SAFETY: the mutex is only touched through the pthread calls, the mask only by the holder of the mutex.
unsafe impl Sync for Gate {}

impl Gate {
    fn lock(&self) {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets are locals that the calls fill; the mutex is a static, initialised at compile time and never moved;
        // no thread locks it twice, because no signal handler runs while it is held (F2). The mask is the holder's.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            libc::pthread_mutex_lock(self.mutex.get());
            *self.mask.get() = before;
        }
    }

    fn unlock(&self) {
        // SAFETY: called by the thread that locked it, or by its copy in the child of a fork; `lock` filled the mask.
        unsafe {
            let before = *self.mask.get();
            libc::pthread_mutex_unlock(self.mutex.get());
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        }
    }
}

unsafe extern "C" fn prepare() {
    GATE.lock();
}

unsafe extern "C" fn parent() {
    GATE.unlock();
}

unsafe extern "C" fn child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    for entry in &DESCRIPTORS {
        let fd = entry.swap(EMPTY, Ordering::Relaxed);
        if fd != EMPTY {
            // SAFETY: by F1 the child inherited this descriptor, and its handle knows by the generation not to close it again.
            unsafe { libc::close(fd) };
        }
    }
    GATE.unlock();
}

/// Runs `action` with the gate held.
fn through_gate<T>(action: impl FnOnce() -> T) -> T {
    GATE.lock();
    let result = action();
    GATE.unlock();
    result
}

/// How many forks lie between this process and the first that used the crate.
#[inline]
pub fn generation() -> u32 {
    // Relaxed: the only writer is the child handler, which runs before any other code of the child.
    GENERATION.load(Ordering::Relaxed)
}

/// A descriptor that the child of a fork closes.
#[derive(Debug)]
pub struct GuardedFd {
    fd: RawFd,
    entry: usize,
    generation: u32,
}

impl GuardedFd {
    /// Enters what `open` returns in the table, with no fork in between.
    pub fn open(open: impl FnOnce() -> Result<OwnedFd, RegionError>) -> Result<Self, RegionError> {
        let mut refused = 0;
        // SAFETY: the three handlers are functions of this program, which live as long as it.
        HANDLERS.call_once(|| refused = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) });
        if refused != 0 {
            return Err(RegionError::Io {
                what: "registering fork handlers for",
                path: "this process".into(),
                source: io::Error::from_raw_os_error(refused),
            });
        }
        through_gate(|| {
            let free = DESCRIPTORS.iter().position(|entry| entry.load(Ordering::Relaxed) == EMPTY);
            let Some(entry) = free else { return Err(RegionError::TooManyHandles { most: MOST_GUARDED }) };
            let fd = open()?.into_raw_fd();
            // Relaxed: every access to the table is under the gate or in the single thread of a fork's child.
            DESCRIPTORS[entry].store(fd, Ordering::Relaxed);
            Ok(Self { fd, entry, generation: generation() })
        })
    }

    /// Whether the handle was inherited over a fork, so that its descriptor is closed.
    #[inline]
    pub fn forked(&self) -> bool {
        generation() != self.generation
    }

    /// The descriptor, or [`RegionError::Forked`] in the child of a fork.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, RegionError> {
        if self.forked() {
            return Err(RegionError::Forked);
        }
        // SAFETY: the descriptor is open until the drop of `self`, except in a fork's child, which was just ruled out.
        Ok(unsafe { BorrowedFd::borrow_raw(self.fd) })
    }
}

impl Drop for GuardedFd {
    fn drop(&mut self) {
        through_gate(|| {
            if !self.forked() {
                DESCRIPTORS[self.entry].store(EMPTY, Ordering::Relaxed);
                // SAFETY: the descriptor is this handle's own, is open, and is not used after this.
                unsafe { libc::close(self.fd) };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> Result<OwnedFd, RegionError> {
        Ok(std::fs::File::open("/dev/null").expect("the null device opens").into())
    }

    #[test]
    fn a_handle_is_invalid_in_the_child_and_its_descriptor_is_closed() {
        let guarded = GuardedFd::open(null).expect("a free entry");
        // SAFETY: the child calls only async-signal-safe functions and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: asking a descriptor for its flags and leaving touch no memory.
            unsafe {
                let closed = libc::fcntl(guarded.fd, libc::F_GETFD) == -1;
                libc::_exit(i32::from(!(guarded.forked() && closed && guarded.fd().is_err())));
            }
        }
        let mut status = 0;
        // SAFETY: the pid is that of a child of this process, and the status is a local.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "the child saw a live handle");
        assert!(!guarded.forked());
        assert!(guarded.fd().is_ok());
    }

    #[test]
    fn a_failed_open_uses_up_no_entry() {
        for _ in 0..=MOST_GUARDED {
            assert!(matches!(GuardedFd::open(|| Err(RegionError::Forked)), Err(RegionError::Forked)));
        }
        assert!(GuardedFd::open(null).is_ok());
    }
}
