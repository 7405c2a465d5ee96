//! Asks the checker about recorded histories: Wing and Gong's search with Lowe's memory of what was tried, by the crate `todc-utils`.

use std::fmt::Write;
use std::sync::Arc;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};

use crate::record::Record;
use crate::spec::{KEYS, Table};

/// A history of a few keys, in no particular order.
pub(crate) type Records = Vec<Arc<Record>>;

/// Whether some order of the calls explains their answers and keeps to the times: a call that ended before another one began comes first.
pub(crate) fn linearizable(records: &[Arc<Record>]) -> bool {
    if records.is_empty() {
        return true;
    }
    // Calls and returns of one instant may have overlapped: calls first.
    let mut events: Vec<_> =
        (0..records.len()).flat_map(|at| [(records[at].start, false, at), (records[at].end, true, at)]).collect();
    events.sort_unstable();
    let action = |(_, returned, at): (u64, bool, usize)| {
        let record = Arc::clone(&records[at]);
        (at, if returned { Action::Response(record) } else { Action::Call(record) })
    };
    WGLChecker::<Table>::is_linearizable(History::from_actions(events.into_iter().map(action).collect()))
}

/// The histories of the single keys: a history is linearizable if they are (Herlihy and Wing 1990), unless a call names several keys.
pub(crate) fn by_key(records: &[Arc<Record>]) -> Vec<Records> {
    let of = |key| records.iter().filter(|record| record.call.touches(key)).cloned().collect();
    (0..KEYS).map(of).collect()
}

/// Pairs of calls of different clients that overlap: without any, nothing is shown.
pub(crate) fn overlaps(records: &[Arc<Record>]) -> usize {
    let overlap = |one: &Record, other: &Record| one.client != other.client && one.start < other.end && other.start < one.end;
    (0..records.len()).map(|at| records[..at].iter().filter(|other| overlap(&records[at], other)).count()).sum()
}

/// Fails with the history unless it is linearizable.
pub(crate) fn assert_linearizable(what: &str, records: &[Arc<Record>]) {
    assert!(linearizable(records), "{what}: no order explains this history\n{}", table(records));
}

/// A line per call, by the time of its start in microseconds.
fn table(records: &[Arc<Record>]) -> String {
    let mut sorted = records.to_vec();
    sorted.sort_by_key(|record| record.start);
    let first = sorted.first().map_or(0, |record| record.start);
    let mut text = String::new();
    for Record { client, place, start, end, call, answer } in sorted.iter().map(|record| &**record) {
        let us = |time: u64| (time - first) as f64 / 1e3;
        writeln!(text, "{:>10.1} {:>10.1}  client {client} {place:?}: {call:?} -> {answer:?}", us(*start), us(*end))
            .expect("written");
    }
    text
}
