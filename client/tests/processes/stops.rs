//! Clients that are stopped for a while: others go on, and they go on afterwards.

use shmtable::{Client, Operation, Outcome, Submit};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::values::{Random, seed, value};

/// Fills its lane, says so, and takes the replies when the test says so; again and again.
pub(crate) fn play_full_lane(part: &Part) {
    let mut client = Client::attach(&part.options().client_name("full lane")).expect("attached");
    let (mut sent, mut answered) = (0, 0);
    for round in 0..part.numbers[0] {
        loop {
            let text = format!("{}-{sent}", part.line).into_bytes();
            let bytes = value(sent, sent as usize % 200);
            let operation = Operation::insert(&text, &bytes);
            match client.try_submit(&operation) {
                Ok(ticket) => assert_eq!(ticket, sent),
                Err(Submit::WouldBlock) => break,
                Err(Submit::Refused(error)) => panic!("refused: {error}"),
            }
            sent += 1;
        }
        client.flush();
        part.set(Word::Sent, sent);
        part.set(Word::Phase, 2 * round + 1);
        while part.board.get(part.line, Word::Phase) == 2 * round + 1 {
            std::thread::yield_now();
        }
        while client.in_flight() > 0 {
            client.wait().expect("a reply");
            client
                .poll(&mut |completion| {
                    assert_eq!(completion.ticket, answered);
                    assert!(matches!(completion.outcome, Outcome::Stored { .. }), "{:?}", completion.outcome);
                    answered += 1;
                })
                .expect("replies");
        }
        part.set(Word::Acked, answered);
    }
    for number in 0..sent {
        let text = format!("{}-{number}", part.line).into_bytes();
        assert!(client.read(&text).expect("an answer") == Some(value(number, number as usize % 200)), "the value of {number}");
    }
}

fn others_go_on(board: &Board, others: &mut [Actor], by: u64) {
    let before: Vec<_> = others.iter().map(|actor| board.get(actor.line(), Word::Acked)).collect();
    for (actor, before) in others.iter_mut().zip(before) {
        actor.reaches(board, Word::Acked, before + by);
    }
}

#[test]
fn clients_stopped_in_a_burst_hold_nobody_up_and_go_on() {
    let mut random = Random::new(seed("stops"));
    let server = Daemon::start(&["-s", "4096", "--memory", "1GiB"]);
    let board = Board::new();
    let windows = [1, 200, 40, 10, 100, 600];
    let mut actors: Vec<_> =
        (1..).zip(windows).map(|(line, window)| Actor::start("in order", server.dir(), &board, line, &[window, 1])).collect();
    for actor in &mut actors {
        actor.reaches(&board, Word::Acked, 1);
    }
    for _ in 0..8 {
        let first = random.below(actors.len() as u64) as usize;
        actors.rotate_left(first);
        let (stopped, others) = actors.split_at_mut(3);
        for actor in stopped.iter_mut() {
            let now = board.get(actor.line(), Word::Sent);
            actor.reaches(&board, Word::Sent, now + random.below(300));
            actor.freeze();
        }
        let at: Vec<_> = stopped.iter().map(|actor| board.get(actor.line(), Word::Acked)).collect();
        others_go_on(&board, others, 300);
        assert!(
            stopped.iter().zip(&at).all(|(actor, at)| board.get(actor.line(), Word::Acked) == *at),
            "a stopped client went on"
        );
        stopped.iter().for_each(Actor::thaw);
        others_go_on(&board, stopped, 100);
    }
    board.stop();
    actors.into_iter().for_each(Actor::finish);
}

#[test]
fn a_stopped_client_with_a_full_lane_holds_nobody_up_and_goes_on() {
    const ROUNDS: u64 = 3;
    let server = Daemon::start(&["-s", "4096", "--memory", "1GiB"]);
    let board = Board::new();
    let mut others: Vec<_> = (1..=2).map(|line| Actor::start("in order", server.dir(), &board, line, &[20, 1])).collect();
    let mut full: Vec<_> =
        [4, 6].into_iter().map(|line| Actor::start("full lane", server.dir(), &board, line, &[ROUNDS])).collect();
    for round in 0..ROUNDS {
        for actor in &mut full {
            actor.reaches(&board, Word::Phase, 2 * round + 1);
            actor.freeze();
        }
        others_go_on(&board, &mut others, 300);
        for actor in &mut full {
            let sent = board.get(actor.line(), Word::Sent);
            board.set(actor.line(), Word::Phase, 2 * round + 2);
            actor.thaw();
            actor.reaches(&board, Word::Acked, sent);
        }
    }
    full.into_iter().for_each(Actor::finish);
    board.stop();
    others.into_iter().for_each(Actor::finish);
}
