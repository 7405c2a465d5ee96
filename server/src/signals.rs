//! Signals: SIGINT and SIGTERM are read by the main thread from a descriptor, workers never see any.
//!
//! A handler would run on whatever thread the kernel picks; a descriptor lets the main thread wait for a signal and for its
//! next tick in one call. Signals that a thread raises against itself (SIGBUS, SIGSEGV and their like) stay deliverable
//! everywhere: blocked, they would kill the process without a word.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::exit::ServerError;

/// Where the main thread waits for a reason to stop.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks SIGINT and SIGTERM for this thread and all that it starts, and opens the descriptor that reports them. SIGXFSZ
    /// is blocked too: a file-size limit is an error of the call that met it.
    pub(crate) fn block() -> Result<Self, ServerError> {
        let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        let blocked = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGXFSZ]);
        blocked.thread_block().map_err(|source| ServerError::io("cannot block signals", source))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd =
            SignalFd::with_flags(&stop, flags).map_err(|source| ServerError::io("cannot open a signal descriptor", source))?;
        Ok(Self { fd })
    }

    /// Waits until a signal asks to stop, at most `pace`.
    pub(crate) fn wait(&self, pace: Duration) -> Result<Option<Signal>, ServerError> {
        let timeout = PollTimeout::try_from(pace).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(source) => return Err(ServerError::io("cannot wait for signals", source)),
        }
        let read = self.fd.read_signal().map_err(|source| ServerError::io("cannot read a signal", source))?;
        Ok(read.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()))
    }
}

/// Blocks every signal in the calling worker but those it can only raise itself.
pub(crate) fn block_in_worker() {
    let mut all = SigSet::all();
    for own in [Signal::SIGBUS, Signal::SIGSEGV, Signal::SIGFPE, Signal::SIGILL, Signal::SIGSYS, Signal::SIGTRAP, Signal::SIGABRT]
    {
        all.remove(own);
    }
    if let Err(error) = all.thread_block() {
        tracing::warn!(%error, "cannot block signals in a worker; the main thread may learn of them late");
    }
}
