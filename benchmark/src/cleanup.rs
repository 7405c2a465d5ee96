//! Nothing is left behind, however a benchmark ends.
//!
//! Three nets, each for what the one before cannot catch: guards that stop what they started when they are dropped; a list of
//! what is still there, swept by a panic hook (release builds abort, so that nothing is dropped) and by a thread that waits
//! for SIGINT, SIGTERM and SIGHUP; and the kernel, which signals every child when its parent is gone (`kill -9`).

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::Error;

/// How long a child may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Something that must not outlive the benchmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// A child process.
    Process(Pid),
    /// A file or a directory.
    Path(PathBuf),
}

static LEFTOVERS: Mutex<Vec<Leftover>> = Mutex::new(Vec::new());

/// Keeps a [`Leftover`] on the list.
#[must_use = "what is dropped is off the list"]
#[derive(Debug)]
pub struct Watched(Leftover);

/// Puts something on the list until the returned value is dropped.
pub fn watch(leftover: Leftover) -> Watched {
    lock().push(leftover.clone());
    Watched(leftover)
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut list = lock();
        if let Some(at) = list.iter().position(|leftover| *leftover == self.0) {
            list.swap_remove(at);
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Leftover>> {
    LEFTOVERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Installs the panic hook and the signal thread. Call it before any other thread starts: the signals are blocked in the
/// caller and all threads it makes, so that only the signal thread receives them. [`die_with_parent`] unblocks them in children.
pub fn install() -> Result<(), Error> {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        previous(info);
        sweep();
    }));
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(Error::io("blocking signals"))?;
    let waiting = move || {
        if let Ok(signal) = signals.wait() {
            sweep();
            std::process::exit(128 + signal as i32);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(waiting).map_err(Error::io("starting the signal thread"))?;
    Ok(())
}

/// Ends and removes all that is on the list.
fn sweep() {
    // A panic may come while this very thread holds the list.
    let list = match LEFTOVERS.try_lock() {
        Ok(mut list) => std::mem::take(&mut *list),
        Err(_) => return,
    };
    let processes = list.iter().filter_map(|leftover| if let Leftover::Process(pid) = leftover { Some(*pid) } else { None });
    let processes: Vec<Pid> = processes.collect();
    for pid in &processes {
        ask_to_end(*pid);
    }
    for pid in processes {
        if !ended_within(pid, PATIENCE) {
            let _ = kill(pid, Signal::SIGKILL);
            ended_within(pid, PATIENCE);
        }
    }
    for leftover in &list {
        if let Leftover::Path(path) = leftover {
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
}

/// Sends SIGTERM, and SIGCONT in case the process is stopped.
pub fn ask_to_end(pid: Pid) {
    let _ = kill(pid, Signal::SIGTERM);
    let _ = kill(pid, Signal::SIGCONT);
}

/// Waits until a child has ended, without reaping it; false when it has not in time.
pub fn ended_within(pid: Pid, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) if Instant::now() < deadline => std::thread::yield_now(),
            Ok(WaitStatus::StillAlive) => return false,
            _ => return true,
        }
    }
}

/// Has the kernel signal the child when this process is gone, and gives signals their usual meaning in it: `Command` hands the
/// mask of [`install`] on, and a shell without job control starts background commands with SIGINT ignored. The thread that
/// spawns the child must be the one that lives longest.
pub fn die_with_parent(command: &mut Command, signal: Signal) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let tie = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        SigSet::all().thread_unblock()?;
        // SAFETY: no handler is installed; `exec` follows at once.
        unsafe { nix::sys::signal::signal(Signal::SIGINT, SigHandler::SigDfl) }?;
        // CRASH: the parent may have died before the line above; then nobody would send the signal.
        if std::os::unix::process::parent_id() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec the closure makes system calls only and neither allocates nor takes a lock.
    unsafe { command.pre_exec(tie) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_off_the_list() {
        let here = Leftover::Path("/nonexistent/shmtable-bench-a".into());
        let watched = watch(here.clone());
        assert!(lock().contains(&here));
        drop(watched);
        assert!(!lock().contains(&here));
    }

    #[test]
    fn a_child_starts_with_no_signal_blocked() {
        let output = std::thread::spawn(|| {
            [Signal::SIGINT, Signal::SIGTERM].into_iter().collect::<SigSet>().thread_block().unwrap();
            let mut command = Command::new("cat");
            command.arg("/proc/self/status");
            die_with_parent(&mut command, Signal::SIGKILL);
            command.output().unwrap()
        });
        let status = String::from_utf8(output.join().unwrap().stdout).unwrap();
        assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    }

    #[test]
    fn a_stopped_child_ends_when_asked() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        assert!(!ended_within(pid, Duration::ZERO));
        ask_to_end(pid);
        assert!(ended_within(pid, PATIENCE));
        assert!(!child.wait().unwrap().success());
    }
}
