//! The thread that keeps a table's memory committed ahead of its workers' need.
//!
//! M1: it ends soon after `stop` is set and it is unparked; nothing waits for it meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use table::Table;

/// Rest between rounds that found something to commit.
const PACE: Duration = Duration::from_millis(20);

/// Commits ahead until `stop` says so. Sleeps until the thread is unparked; while it finds something to do it looks again by
/// itself.
pub(crate) fn commit_until(table: &Table, stop: &AtomicBool) {
    // ORDER(stop): Acquire pairs with the Release of whoever sets it; only the flag itself is passed.
    while !stop.load(Ordering::Acquire) {
        let mut committed = false;
        while !stop.load(Ordering::Relaxed) && table.commit_ahead() {
            committed = true;
        }
        if committed { thread::park_timeout(PACE) } else { thread::park() }
    }
}
