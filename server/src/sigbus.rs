//! A mapped file that is truncated under us ends the server with a word, not with SIGBUS.
//!
//! The kernel answers a touch of a page beyond the end of its file with SIGBUS. For addresses of our own mappings the handler
//! closes the region, so that clients learn that nobody serves it, writes one line and leaves with the exit code of an internal
//! error. Any other address gets the default action, as if there were no handler.
//!
//! States of [`STAGE`]: 0 nobody has faulted; a thread id: that thread closes the region. The same thread faulting again
//! means that the page of the region's state is gone as well: it skips that step. Other threads that fault meanwhile wait for
//! the end of the process.
//!
//! - B1: the handler calls async-signal-safe functions only, and reads nothing but the statics below.
//! - B2: ranges are registered before the handler is installed and never change.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use shmqueue::layout::{RegionState, Section};
use shmqueue::region::ServerRegion;

use crate::exit::{Exit, ServerError};

/// Start and end of the mappings: rings, table.
static RANGES: [(AtomicUsize, AtomicUsize); 2] = [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 2];
/// The word of the region's state in the mapped rings.
static STATE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
/// Keeps the mapping under [`STATE`] for the rest of the process's life.
static REGION: OnceLock<Arc<ServerRegion>> = OnceLock::new();
/// Which thread ends the process.
static STAGE: AtomicI32 = AtomicI32::new(0);

const LINES: [&str; 2] = [
    "error: rings file was truncated under the server: found a page without memory, expected the whole file; start the server again\n",
    "error: table file was truncated under the server: found a page without memory, expected the whole file; start the server again with --fresh\n",
];

/// Addresses of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Address of its first byte.
    pub(crate) start: usize,
    /// Its length in bytes.
    pub(crate) len: u64,
}

/// Where the server's mapping of the rings lies.
pub(crate) fn range_of(region: &ServerRegion) -> Range {
    let status = region.layout().section(Section::Status).offset as usize;
    Range { start: ptr::from_ref(region.status()).addr() - status, len: region.layout().file_len }
}

/// Installs the handler for the rings and the table of the one region of this process.
pub(crate) fn install(region: &Arc<ServerRegion>, table: Range) -> Result<(), ServerError> {
    for ((start, end), range) in RANGES.iter().zip([range_of(region), table]) {
        start.store(range.start, Ordering::Relaxed);
        end.store(range.start + range.len as usize, Ordering::Relaxed);
    }
    let region = REGION.get_or_init(|| Arc::clone(region));
    STATE.store(ptr::from_ref(&region.status().state).cast_mut(), Ordering::Relaxed);
    // SAFETY: all-zero bytes are a valid sigaction: no flags, an empty mask, the default action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    // The handler must be able to fault itself (see the states above), so the signal is not blocked in it. Rust gives every
    // thread an alternate stack.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: the action names a function of the signature that SA_SIGINFO asks for; B1 makes it fit to run in a handler.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) };
    if done != 0 {
        return Err(ServerError::io("cannot install the SIGBUS handler", std::io::Error::last_os_error()));
    }
    Ok(())
}

extern "C" fn on_sigbus(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel hands a valid siginfo to a SA_SIGINFO handler; for SIGBUS its address field is set.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let hit = |(start, end): &(AtomicUsize, AtomicUsize)| {
        (start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&address)
    };
    // Signals that another process sent have no address to judge by (their codes are not positive).
    let Some(which) = RANGES.iter().position(hit).filter(|_| code > 0) else {
        fall_back();
        return;
    };
    // SAFETY: gettid has no arguments and cannot fail.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    match STAGE.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            let state = STATE.load(Ordering::Relaxed);
            // SAFETY: `install` stored the address of a word in a mapping that `REGION` keeps, before the handler could run.
            if let Some(state) = unsafe { state.as_ref() } {
                // ORDER(state): Release pairs with the clients' Acquire load of the region's state; nothing is published with
                // it, but no later store of ours may be seen before.
                state.store(RegionState::Closed as u32, Ordering::Release);
            }
        }
        Err(first) if first == thread => {}
        Err(_) => loop {
            // SAFETY: pause has no arguments; the faulting thread ends the process.
            unsafe { libc::pause() };
        },
    }
    let line = LINES[which];
    // SAFETY: the buffer is a static string of that length; a failure to write is of no consequence.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(Exit::Internal as c_int) }
}

/// Gives SIGBUS its default action back; the faulting instruction runs again and meets it.
fn fall_back() {
    // SAFETY: signal with SIG_DFL is async-signal-safe.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    // SAFETY: raise is async-signal-safe; SA_NODEFER leaves the signal deliverable. A sent signal has no instruction to run again.
    unsafe { libc::raise(libc::SIGBUS) };
}
