//! Servers that are killed under load, and regions that are made anew.

use std::time::Duration;

use nix::sys::signal::Signal;
use shmtable::{Client, Error, Operation, Options, Outcome, ServerGone};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::values::{Random, seed, value};
use crate::watch::until;

const KILLS: usize = 8;

fn counter(line: usize) -> Vec<u8> {
    format!("counter {line}").into_bytes()
}

fn log(line: usize) -> Vec<u8> {
    format!("log {line}").into_bytes()
}

/// Numbers: window, 0 for sync calls. Adds to its counter and its log; every answer must be the next number.
pub(crate) fn play_counting(part: &Part) {
    let (counter, log) = (counter(part.line), log(part.line));
    let mut client = Client::attach(&part.options().client_name("counting")).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    if part.numbers[0] == 0 {
        while !part.board.stopped() {
            part.add(Word::Sent);
            let next = part.board.get(part.line, Word::Acked) + 1;
            assert_eq!(client.incr(&counter, 1).expect("an answer"), next as i64);
            assert_eq!(client.append(&log, b"a").expect("an answer"), next);
            part.set(Word::Acked, next);
        }
        return;
    }
    let mut pipeline = client.pipeline(part.numbers[0] as usize);
    let (mut counted, mut logged) = (0, 0);
    let mut on_reply = |completion: shmtable::Completion<'_>| match completion.outcome {
        Outcome::Number { value, .. } => {
            counted += 1;
            assert_eq!(value, counted, "of the counter");
        }
        Outcome::Length { len, .. } => {
            logged += 1;
            assert_eq!(len, logged, "of the log");
            part.set(Word::Acked, logged);
        }
        outcome => panic!("{outcome:?}"),
    };
    while !part.board.stopped() {
        part.add(Word::Sent);
        pipeline.submit(&Operation::Incr { key: &counter, by: 1, ttl: None }, &mut on_reply).expect("submitted");
        pipeline.submit(&Operation::Append { key: &log, bytes: b"a" }, &mut on_reply).expect("submitted");
    }
    pipeline.finish(&mut on_reply).expect("replies");
}

/// Adds to its counter; a dead server is an error at once, after which it goes on.
pub(crate) fn play_failing_fast(part: &Part) {
    let counter = counter(part.line);
    let options = part.options().server_gone(ServerGone::FailFast);
    let mut client = Client::attach(&options).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    let (mut sent, mut last) = (0, 0);
    while !part.board.stopped() {
        match client.incr(&counter, 1) {
            Ok(value) => {
                sent += 1;
                assert!((last + 1..=sent).contains(&value), "{value} after {last} with {sent} sent");
                last = value;
                part.add(Word::Acked);
            }
            Err(Error::ServerGone { write: true }) => {
                sent += 1;
                part.add(Word::Errors);
            }
            Err(Error::NoServer(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Stores values that travel in parts and reads them back.
pub(crate) fn play_large(part: &Part) {
    let key = format!("large {}", part.line).into_bytes();
    let mut client = Client::attach(&part.options()).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    for number in 0.. {
        if part.board.stopped() {
            break;
        }
        let value = value(number, 100_000 + number as usize % 1000);
        client.insert(&key, &value).expect("stored");
        assert!(client.read(&key).expect("an answer") == Some(value), "value {number}");
        part.set(Word::Acked, number + 1);
    }
}

#[test]
fn killed_servers_lose_and_double_nothing() {
    let mut random = Random::new(seed("restarts"));
    let args = ["-s", "1024", "--memory", "256MiB"];
    let mut server = Daemon::start(&args);
    let board = Board::new();
    let dir = server.dir().to_path_buf();
    let counting = [0, 2, 30, 500];
    let mut actors: Vec<_> =
        (1..).zip(counting).map(|(line, window)| Actor::start("counting", &dir, &board, line, &[window])).collect();
    actors.extend((5..=6).map(|line| Actor::start("counting, failing fast", &dir, &board, line, &[])));
    actors.push(Actor::start("large values", &dir, &board, 7, &[]));
    for actor in &mut actors {
        actor.reaches(&board, Word::Acked, 1);
    }
    for _ in 0..KILLS {
        let at = random.below(actors.len() as u64) as usize;
        let line = actors[at].line();
        let more = if line == 7 { 3 } else { random.below(2000) };
        let now = board.get(line, Word::Acked);
        actors[at].reaches(&board, Word::Acked, now + more);
        let (_, folder) = server.end(Signal::SIGKILL);
        server = Daemon::start_in(folder, &args);
        assert!(!server.ready.contains(" items=0 "), "{}", server.ready);
        // Whoever waited is answered, whoever failed goes on.
        let before: Vec<_> = actors.iter().map(|actor| board.get(actor.line(), Word::Acked)).collect();
        for (actor, before) in actors.iter_mut().zip(before) {
            actor.reaches(&board, Word::Acked, before + 2);
        }
    }
    board.stop();
    actors.into_iter().for_each(Actor::finish);
    let mut client = Client::attach(&Options::new("shmtable").dir(&dir)).expect("attached");
    for line in 1..=4 {
        let (sent, acked) = (board.get(line, Word::Sent), board.get(line, Word::Acked));
        assert_eq!(sent, acked, "everything was answered");
        assert_eq!(client.incr(&counter(line), 0).expect("a number") as u64, acked);
        assert_eq!(client.read(&log(line)).expect("an answer").map(|log| log.len() as u64), Some(acked));
    }
    for line in 5..=6 {
        let (acked, errors) = (board.get(line, Word::Acked), board.get(line, Word::Errors));
        let value = client.incr(&counter(line), 0).expect("a number") as u64;
        assert!((acked..=acked + errors).contains(&value), "{value} of {acked} acknowledged with {errors} errors");
    }
}

#[test]
fn a_call_to_a_dead_server_fails_fast_and_the_next_one_goes_on() {
    let mut server = Daemon::start(&[]);
    let dir = server.dir().to_path_buf();
    let options = Options::new("shmtable").dir(&dir).server_gone(ServerGone::FailFast);
    let mut client = Client::attach(&options).expect("attached");
    client.insert(b"k", b"1").expect("stored");
    let (_, folder) = server.end(Signal::SIGKILL);
    assert!(matches!(client.insert(b"k", b"2"), Err(Error::ServerGone { write: true })));
    assert!(matches!(client.read(b"k"), Err(Error::NoServer(_))));
    server = Daemon::start_in(folder, &[]);
    // The insert rests in the lane; the successor completed it before it was asked again.
    assert_eq!(client.read(b"k").expect("an answer").as_deref(), Some(&b"2"[..]));
    drop(server);
}

#[test]
fn a_call_waits_for_the_successor_only_as_long_as_it_may() {
    let server = Daemon::start(&[]);
    let options = Options::new("shmtable").dir(server.dir()).server_gone(ServerGone::Wait(Duration::from_millis(30)));
    let mut client = Client::attach(&options).expect("attached");
    let (_, folder) = server.end(Signal::SIGKILL);
    assert!(matches!(client.read(b"k"), Err(Error::ServerGone { write: false })));
    let server = Daemon::start_in(folder, &[]);
    assert_eq!(client.read(b"k").expect("an answer"), None);
    drop(server);
}

#[test]
fn a_region_made_anew_is_one_error_and_then_reopened() {
    let server = Daemon::start(&[]);
    let dir = server.dir().to_path_buf();
    let options = Options::new("shmtable").dir(&dir);
    let attach = || Client::attach(&options).expect("attached");
    let (mut early, mut late, mut busy) = (attach(), attach(), attach());
    early.insert(b"k", b"of the first region").expect("stored");
    for _ in 0..10 {
        busy.try_submit(&Operation::Incr { key: b"n", by: 1, ttl: None }).expect("room");
    }
    let (status, folder) = server.end(Signal::SIGTERM);
    assert!(status.success());
    assert!(matches!(early.read(b"k"), Err(Error::ServerGone { write: false })));
    assert!(matches!(early.read(b"k"), Err(Error::NoServer(_))));
    let server = Daemon::start_in(folder, &["-n", "1"]);
    // One that was told, one that was not, and one with requests under way.
    assert_eq!(early.read(b"k").expect("reopened"), None);
    assert!(matches!(late.insert(b"k", b"lost"), Err(Error::ServerGone { write: true })));
    assert!(!late.insert(b"k", b"of the second").expect("reopened").replaced);
    let counted = until("the one with requests under way to learn it", || match busy.incr(b"n", 1) {
        Ok(value) => Some(value),
        Err(Error::ServerGone { .. }) => None,
        Err(error) => panic!("{error}"),
    });
    assert_eq!(counted, 1);
    assert_eq!(early.read(b"k").expect("an answer").as_deref(), Some(&b"of the second"[..]));
    drop((early, late, busy));
    drop(server);
}
