//! What clients of a real server saw, key by key or all keys together.

use shmtable::Options;

use crate::check::{Records, assert_linearizable, by_key, overlaps};
use crate::daemon::Daemon;
use crate::player::Style;
use crate::rounds::{Plan, play};
use crate::script::Mix;
use crate::values::seed;

const STYLES: [Style; 5] = [Style::Sync, Style::Sync, Style::Polled(3), Style::Pipelined(4), Style::Reader];

/// Plays a plan on a server that starts with one bucket, and judges each round as a whole or key by key.
fn judge(test: &str, workers: &str, together: bool, plan: &Plan<'_>) {
    let seed = seed(test);
    let server = Daemon::start(&["-s", "1", "-n", workers, "--memory", "128MiB"]);
    let options = Options::new("shmtable").dir(server.dir());
    let rounds = play(&options, seed, plan);
    let (mut calls, mut overlapping) = (0, 0);
    for (number, round) in rounds.iter().enumerate() {
        let histories: Vec<Records> = if together { vec![round.clone()] } else { by_key(round) };
        for history in &histories {
            assert_linearizable(&format!("{test}, round {number}"), history);
            calls += history.len();
            overlapping += overlaps(history);
        }
    }
    println!("{test}: {calls} calls, {overlapping} pairs of them at once");
    assert!(overlapping > plan.rounds, "the clients took turns: {overlapping} of {calls} calls overlapped; nothing was shown");
}

#[test]
fn reads_and_writes_while_the_table_grows() {
    let mix = Mix { long: true, ..Mix::default() };
    for workers in ["1", "2", "4"] {
        judge("reads and writes", workers, false, &Plan { styles: &STYLES, rounds: 60, calls: 12, mix, pause_us: 0, growth: 5 });
    }
}

#[test]
fn transactions_over_two_keys() {
    let mix = Mix { transactions: true, ..Mix::default() };
    for workers in ["1", "2"] {
        judge("transactions", workers, true, &Plan { styles: &STYLES, rounds: 60, calls: 8, mix, pause_us: 0, growth: 5 });
    }
}

#[test]
fn items_with_a_time_to_live() {
    let mix = Mix { transactions: true, expiry: true, ..Mix::default() };
    judge("expiry", "2", true, &Plan { styles: &STYLES, rounds: 100, calls: 10, mix, pause_us: 2000, growth: 10 });
}

#[test]
fn clearing_among_writes() {
    let mix = Mix { transactions: true, clear: true, ..Mix::default() };
    for workers in ["1", "4"] {
        judge("clear", workers, true, &Plan { styles: &STYLES, rounds: 60, calls: 8, mix, pause_us: 0, growth: 5 });
    }
}

#[test]
fn ends_within_batches() {
    let mix = Mix { expiry: true, ..Mix::default() };
    let styles = [Style::Reader, Style::Pipelined(10), Style::Pipelined(10), Style::Sync];
    judge("ends", "2", false, &Plan { styles: &styles, rounds: 60, calls: 24, mix, pause_us: 100, growth: 10 });
}
