//! Rounds: all clients play at once on keys that no round before had, while the table grows under them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use shmtable::{Client, Operation, Options};

use crate::check::Records;
use crate::player::{Player, Style};
use crate::record::{Record, now};
use crate::script::Mix;
use crate::spec::{CLIENTS, KEYS};
use crate::values::Random;

/// How a call waits for its reply, a watchdog.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rounds on one server.
pub(crate) struct Plan<'a> {
    pub(crate) styles: &'a [Style],
    pub(crate) rounds: usize,
    /// Calls of each client in each round.
    pub(crate) calls: usize,
    pub(crate) mix: Mix,
    /// Longest pause before a call, in microseconds.
    pub(crate) pause_us: u64,
    /// By how much the table grows in each round: by one item in so many.
    pub(crate) growth: usize,
}

/// Where all threads of a test meet before each round.
struct Gate {
    there: AtomicUsize,
    threads: usize,
    failed: AtomicBool,
}

impl Gate {
    /// Waits until all threads have come for the `round`th time.
    fn pass(&self, round: usize) {
        // ORDER(there): AcqRel and Acquire, pair with each other: what others did before they came is done. Nothing depends on it.
        self.there.fetch_add(1, Ordering::AcqRel);
        while self.there.load(Ordering::Acquire) < self.threads * (round + 1) {
            assert!(!self.failed.load(Ordering::Relaxed), "another client failed");
            thread::yield_now();
        }
    }
}

/// Tells the others when its thread fails, so that they do not wait for it.
struct Failing<'a>(&'a Gate);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

/// Plays a plan; each round's records.
pub(crate) fn play(options: &Options, seed: u64, plan: &Plan<'_>) -> Vec<Records> {
    assert!(plan.styles.len() <= CLIENTS);
    let options = &options.clone().timeout(PATIENCE);
    let gate = &Gate { there: AtomicUsize::new(0), threads: plan.styles.len() + 1, failed: AtomicBool::new(false) };
    let client = |me: usize| {
        let _failing = Failing(gate);
        let mut player = Player::new(me, plan.styles[me], options);
        let mut random = Random::new(seed ^ (me as u64) << 56);
        let pause = |random: &mut Random| {
            if plan.pause_us > 0 {
                idle(random.below(plan.pause_us + 1) * 1000)
            }
        };
        let round = |round: usize| {
            gate.pass(round);
            player.round(&keys(seed, round), plan.calls, plan.mix, &mut random, pause)
        };
        (0..plan.rounds).map(round).collect::<Vec<Vec<Record>>>()
    };
    let played: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.styles.len()).map(|me| scope.spawn(move || client(me))).collect();
        grow(options, gate, plan);
        threads.into_iter().map(|thread| thread.join().expect("a client")).collect()
    });
    let mut rounds = vec![Records::new(); plan.rounds];
    for records in played {
        rounds.iter_mut().zip(records).for_each(|(round, records)| round.extend(records.into_iter().map(Arc::new)));
    }
    rounds
}

/// Names of a round's keys, of various lengths.
fn keys(seed: u64, round: usize) -> Vec<Vec<u8>> {
    (0..KEYS).map(|key| format!("{seed:x}/{round}/{key}/{}", "-".repeat(round * 7 % 61)).into_bytes()).collect()
}

/// Lets so many nanoseconds pass.
fn idle(ns: u64) {
    let end = now() + ns;
    while now() < end {
        thread::yield_now();
    }
}

/// Adds items in every round, so that buckets are split while clients use them.
fn grow(options: &Options, gate: &Gate, plan: &Plan<'_>) {
    let _failing = Failing(gate);
    let mut client = Client::attach(options).expect("attached");
    let mut items = 0;
    for round in 0..plan.rounds {
        gate.pass(round);
        let mut pipeline = client.pipeline(8);
        for _ in 0..4 + items / plan.growth {
            let key = (items as u64).to_le_bytes();
            let operation = Operation::insert(&key, b"filling");
            pipeline.submit(&operation, &mut |_| {}).expect("submitted");
            items += 1;
        }
        pipeline.finish(&mut |_| {}).expect("stored");
    }
}
