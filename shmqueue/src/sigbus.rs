//! A mapped file that is truncated under us ends the process with a word, not with SIGBUS, where the program asked for it.
//!
//! The kernel answers a touch of a page beyond the end of its file with SIGBUS. Mappings enter their addresses in a fixed table.
//! For an address in it the handler closes the region if its server asked for that, writes one line and leaves with the exit
//! code the program chose. Any other address, and a signal that another process sent, go to whatever the disposition was before.
//! Until [`exit_on_truncation`] is called there is no handler, and the table is only written.
//!
//! An entry: `start` 0 free; 1 claimed, its end being written; otherwise the mapping's first address, page-aligned, with the part
//! of the region in its lowest bits.
//!
//! States of `STAGE`: 0 nobody has faulted; a thread id: that thread ends the process. The same thread faulting again means
//! that the page of the region's state is gone as well: it skips that step. Other threads that fault meanwhile wait for the end.
//!
//! - **B1** The handler calls async-signal-safe functions only, and reads nothing but the statics below and what `ENDING` keeps.
//! - **B2** `ENDING` is set before the handler is installed and never changes.
//! - **B3** A mapping enters its entry before anyone gets an address in it, and leaves it before it is unmapped. So the entry of the
//!   mapping that a thread faults in stands still; a torn look at any other entry is told by its `start` changing.
//!
//! Not covered: mappings beyond the table's `MOST` entries, and system calls on a page that is gone, which answer `EFAULT`.
//! The signal mask that an earlier handler asked for is not applied when it is called from here.
//!
//! Progress: entering and leaving never wait; they are done by anyone, at any time, also in the child of a fork.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crate::layout::RegionState;
use crate::region::ServerRegion;

/// Mappings that one process can enter: six for each of the most handles that it can hold, and some to spare.
const MOST: usize = 8192;
const FREE: usize = 0;
const CLAIMED: usize = 1;
/// Bits of `start` that hold the part.
const PART_BITS: usize = 0b11;

struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
}

static ENTRIES: [Entry; MOST] = [const { Entry { start: AtomicUsize::new(FREE), end: AtomicUsize::new(0) } }; MOST];
/// Entries from here on were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
static ENDING: OnceLock<Setup> = OnceLock::new();
static STAGE: AtomicI32 = AtomicI32::new(0);

/// What a mapping belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The rings file.
    Rings = 0b01,
    /// The table file.
    Table = 0b10,
}

/// How the process ends when a mapping's file was truncated.
#[derive(Debug)]
pub struct Ending {
    /// The whole line, with its newline, for stderr when the rings are gone.
    pub rings: &'static str,
    /// The same for the table.
    pub table: &'static str,
    /// The process's exit code.
    pub code: u8,
    /// The region that a server serves, so that its clients learn that nobody does any more.
    pub closes: Option<Arc<ServerRegion>>,
}

struct Setup {
    ending: Ending,
    previous: libc::sigaction,
}

/// Keeps a mapping's addresses in the table until it is dropped: drop it before the mapping.
#[derive(Debug)]
#[must_use = "what is dropped is not guarded"]
pub struct Guarded(Option<&'static Entry>);

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("start", &self.start).field("end", &self.end).finish()
    }
}

impl Guarded {
    /// Enters `len` bytes from the page-aligned address `start`. A full table leaves them unguarded.
    pub fn enter(start: *const u8, len: u64, part: Part) -> Self {
        let start = start.addr();
        debug_assert!(start > PART_BITS && start & PART_BITS == 0, "a mapping is aligned to a page");
        let claim = |entry: &&Entry| {
            // ORDER(start): Acquire pairs with the Release of `drop`: the end written next is not overtaken by that entry's life.
            entry.start.load(Ordering::Relaxed) == FREE
                && entry.start.compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let Some((at, entry)) = ENTRIES.iter().enumerate().find(|(_, entry)| claim(entry)) else { return Self(None) };
        // ORDER(start): Release, with the handler's Acquire: whoever sees the end of this life sees that the last one is over.
        fence(Ordering::Release);
        entry.end.store(start.saturating_add(len as usize), Ordering::Relaxed);
        // ORDER(start): Release pairs with the Acquire load in `find`: the end stands.
        entry.start.store(start | part as usize, Ordering::Release);
        // ORDER(USED): Release pairs with the Acquire load in `find`, for a thread that was handed an address of this mapping.
        USED.fetch_max(at + 1, Ordering::Release);
        Self(Some(entry))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(entry) = self.0 {
            // ORDER(start): Release pairs with the Acquire of the next claim in `enter`.
            entry.start.store(FREE, Ordering::Release);
        }
    }
}

/// The part of the region that an address belongs to.
fn find(address: usize) -> Option<Part> {
    // ORDER(USED): Acquire pairs with the Release in `enter`.
    let used = USED.load(Ordering::Acquire).min(MOST);
    ENTRIES[..used].iter().find_map(|entry| {
        // ORDER(start): Acquire pairs with the Release in `enter`: the end is that of this mapping or of a later one.
        let start = entry.start.load(Ordering::Acquire);
        let end = entry.end.load(Ordering::Relaxed);
        // ORDER(start): pairs with the Release fence in `enter`: a later mapping's end makes the look below see another start.
        fence(Ordering::Acquire);
        let stands = start > CLAIMED && entry.start.load(Ordering::Relaxed) == start;
        (stands && (start & !PART_BITS..end).contains(&address)).then_some(())?;
        Some(if start & PART_BITS == Part::Rings as usize { Part::Rings } else { Part::Table })
    })
}

/// From here on a truncated file under a mapping ends the process as `ending` says. The first call counts, later ones change
/// nothing. It replaces the process's SIGBUS handler; who installs one later takes the guard's place.
pub fn exit_on_truncation(ending: Ending) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sigaction: no flags, an empty mask, the default action.
    let (mut previous, mut action): (libc::sigaction, libc::sigaction) = unsafe { (mem::zeroed(), mem::zeroed()) };
    // SAFETY: both pointers are null or to a local.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if ENDING.set(Setup { ending, previous }).is_err() {
        return Ok(());
    }
    action.sa_sigaction = on_sigbus as *const () as usize;
    // The handler must be able to fault itself (see the states above), so the signal is not blocked in it. Rust gives every
    // thread of its own an alternate stack; other threads run the handler on their usual one.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
    // SAFETY: the action names a function of the signature that SA_SIGINFO asks for; B1 makes it fit to run in a handler.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a valid siginfo to a SA_SIGINFO handler; for SIGBUS its address field is set.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    // Signals that somebody sent have no address to judge by (their codes are not positive).
    let sent = code <= 0;
    // Getting a set `OnceLock` is one load; it was set before this handler was installed (B2).
    let Some(Setup { ending, previous }) = ENDING.get() else { return };
    match find(address).filter(|_| !sent) {
        Some(part) => end(ending, part),
        None => hand_on(previous, sent, signal, info, context),
    }
}

fn end(ending: &Ending, part: Part) -> ! {
    // SAFETY: gettid has no arguments and cannot fail.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    match STAGE.compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            if let Some(region) = &ending.closes {
                // ORDER(state): Release pairs with the clients' Acquire load of the region's state; nothing is published with
                // it, but no later store of ours may be seen before.
                region.status().state.store(RegionState::Closed as u32, Ordering::Release);
            }
        }
        Err(first) if first == thread => {}
        Err(_) => loop {
            // SAFETY: pause has no arguments; the faulting thread ends the process.
            unsafe { libc::pause() };
        },
    }
    let line = match part {
        Part::Rings => ending.rings,
        Part::Table => ending.table,
    };
    // SAFETY: the buffer is a static string of that length; a failure to write is of no consequence.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len()) };
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(ending.code.into()) }
}

/// Does what would have happened without this module.
fn hand_on(previous: &libc::sigaction, sent: bool, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    match previous.sa_sigaction {
        libc::SIG_IGN if sent => return,
        // The kernel lets nobody ignore a fault.
        libc::SIG_DFL | libc::SIG_IGN => take_default(),
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the disposition was a handler of this signature, which the flag says.
            let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: the disposition was a handler, and the flag of the longer signature is not set.
            let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
    if sent && is_default() {
        // The earlier handler, as Rust's own does, counts on the faulting instruction to run again and to meet the default action:
        // a sent signal has none. SA_NODEFER leaves the signal deliverable.
        // SAFETY: raise is async-signal-safe.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

fn take_default() {
    // SAFETY: signal with SIG_DFL is async-signal-safe.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

fn is_default() -> bool {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut now: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: asking for the disposition is async-signal-safe and fills a local.
    unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_DFL }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::AtomicU8;

    use memmap2::MmapRaw;

    use super::*;

    /// Runs `act` in a fork's child with its stderr in a pipe; returns the wait status and what it wrote.
    fn in_child(act: impl FnOnce()) -> (c_int, String) {
        let mut ends = [0; 2];
        // SAFETY: the array takes two descriptors.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: the child makes system calls, runs `act`, which allocates nothing, and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: as above.
            unsafe { libc::dup2(ends[1], libc::STDERR_FILENO) };
            act();
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        use std::io::Read;
        use std::os::fd::FromRawFd;
        // SAFETY: the descriptors are this function's own; closing the writing end lets the read below see the end.
        let (mut read, written) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
        drop(written);
        let mut said = String::new();
        read.read_to_string(&mut said).expect("read");
        let mut status = 0;
        // SAFETY: the pid is that of a child of this process, and the status is a local.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        (status, said)
    }

    fn mapped() -> (File, MmapRaw) {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8192).expect("grown");
        let map = MmapRaw::map_raw(&file).expect("mapped");
        (file, map)
    }

    fn touch(map: &MmapRaw) {
        // SAFETY: the byte is within the mapping; whether there is memory behind it is what the test is about.
        unsafe { (*map.as_mut_ptr().add(4096).cast::<AtomicU8>()).store(1, Ordering::Relaxed) };
    }

    const ENDS: fn() -> Ending = || Ending { rings: "rings\n", table: "table\n", code: 7, closes: None };

    #[test]
    fn only_registered_mappings_end_with_a_word() {
        let ((guarded_file, guarded), (foreign_file, foreign)) = (mapped(), mapped());
        let enter = |part| Guarded::enter(guarded.as_ptr(), 8192, part);
        guarded_file.set_len(0).expect("cut");
        foreign_file.set_len(0).expect("cut");
        let without = in_child(|| {
            let _entry = enter(Part::Rings);
            touch(&guarded);
        });
        assert!(libc::WIFSIGNALED(without.0) && libc::WTERMSIG(without.0) == libc::SIGBUS, "{without:?}");
        for (part, word) in [(Part::Rings, "rings\n"), (Part::Table, "table\n")] {
            let (status, said) = in_child(|| {
                exit_on_truncation(ENDS()).expect("installed");
                let _entry = enter(part);
                touch(&guarded);
            });
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status} {said}");
            assert_eq!(said, word);
        }
        let strange = in_child(|| {
            exit_on_truncation(ENDS()).expect("installed");
            let _entry = enter(Part::Rings);
            touch(&foreign);
        });
        assert!(libc::WIFSIGNALED(strange.0) && libc::WTERMSIG(strange.0) == libc::SIGBUS, "{strange:?}");
        let left = in_child(|| {
            exit_on_truncation(ENDS()).expect("installed");
            drop(enter(Part::Rings));
            touch(&guarded);
        });
        assert!(libc::WIFSIGNALED(left.0) && libc::WTERMSIG(left.0) == libc::SIGBUS, "{left:?}");
    }

    #[test]
    fn an_earlier_handler_gets_what_is_not_ours() {
        extern "C" fn earlier(_signal: c_int) {
            // SAFETY: _exit is async-signal-safe.
            unsafe { libc::_exit(9) };
        }
        let (file, map) = mapped();
        file.set_len(0).expect("cut");
        let install = || {
            // SAFETY: the handler has the signature of one without SA_SIGINFO and calls `_exit` only.
            unsafe { libc::signal(libc::SIGBUS, earlier as *const () as usize) };
            exit_on_truncation(ENDS()).expect("installed");
        };
        for sent in [false, true] {
            let (status, _) = in_child(|| {
                install();
                if sent {
                    // SAFETY: raise has no memory to touch.
                    unsafe { libc::raise(libc::SIGBUS) };
                } else {
                    touch(&map);
                }
            });
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 9, "sent {sent}: {status}");
        }
    }

    #[test]
    fn a_sent_signal_has_its_usual_end() {
        let (status, _) = in_child(|| {
            exit_on_truncation(ENDS()).expect("installed");
            // SAFETY: raise has no memory to touch.
            unsafe { libc::raise(libc::SIGBUS) };
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "{status}");
        let (status, _) = in_child(|| {
            // SAFETY: ignoring a signal has no memory to touch.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_IGN) };
            exit_on_truncation(ENDS()).expect("installed");
            // SAFETY: as above.
            unsafe { libc::raise(libc::SIGBUS) };
        });
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "an ignored signal stays ignored: {status}");
    }

    #[test]
    fn an_entry_covers_its_addresses_and_nothing_after_its_end() {
        let (_file, map) = mapped();
        let start = map.as_ptr().addr();
        let entry = Guarded::enter(map.as_ptr(), 8192, Part::Table);
        assert_eq!((find(start), find(start + 8191)), (Some(Part::Table), Some(Part::Table)));
        assert_ne!(find(start + 8192), Some(Part::Table));
        drop(entry);
        assert_eq!(find(start), None);
    }

    #[test]
    fn an_entry_that_is_being_written_covers_nothing() {
        let entry = &ENTRIES[MOST - 1];
        USED.fetch_max(MOST, Ordering::Relaxed);
        entry.end.store(8192, Ordering::Relaxed);
        entry.start.store(CLAIMED, Ordering::Relaxed);
        assert_eq!(find(64), None);
        entry.start.store(4096 | Part::Rings as usize, Ordering::Relaxed);
        assert_eq!(find(64), None);
        assert_eq!(find(4096), Some(Part::Rings));
        entry.start.store(FREE, Ordering::Relaxed);
        assert_eq!(find(4096), None);
    }
}
