//! The thread that keeps a table's memory committed ahead of its workers' need.
//!
//! M1: it ends soon after `stop` is set and it is unparked; nothing waits for it meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use table::Table;

use crate::table_file::Backing;

/// Commits ahead until `stop` says so, and makes huge pages while there is nothing to commit. Sleeps until the thread is
/// unparked: by a worker that finds little left of what was committed ahead, or by whoever sets `stop`.
pub(crate) fn commit_until(table: &Table, backing: &Backing, stop: &AtomicBool) {
    table.set_committer(thread::current());
    // ORDER(stop): Acquire pairs with the Release of whoever sets it; only the flag itself is passed.
    while !stop.load(Ordering::Acquire) {
        while !stop.load(Ordering::Relaxed) && table.commit_ahead() {}
        if !backing.make_huge_page() {
            thread::park();
        }
    }
}
