//! Waiting for processes and conditions, always under a watchdog.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long anything may take before the test calls it hung: a watchdog, not an expectation.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Runs `wait` under the watchdog, which kills `pid` and fails the test.
pub(crate) fn watched<T: Send + 'static>(pid: u32, wait: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || done.send(wait()));
    finished.recv_timeout(WATCHDOG).unwrap_or_else(|_| {
        send(pid, Signal::SIGKILL);
        panic!("process {pid} hangs")
    })
}

/// Repeats `look` until it finds something, under the watchdog.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < WATCHDOG, "waited in vain for {what}");
        thread::yield_now();
    }
}

/// Sends a signal to a process of this test.
pub(crate) fn send(pid: u32, signal: Signal) {
    // The process may have ended meanwhile; who waits for it sees how.
    let _ = kill(of(pid), signal);
}

/// Stops a child by SIGSTOP and waits until all its threads stand still.
pub(crate) fn freeze(pid: u32) {
    send(pid, Signal::SIGSTOP);
    let stopped = watched(pid, move || waitpid(of(pid), Some(WaitPidFlag::WUNTRACED)));
    assert_eq!(stopped, Ok(WaitStatus::Stopped(of(pid), Signal::SIGSTOP)));
}

fn of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process id"))
}
