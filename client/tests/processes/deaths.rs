//! Clients that are killed, at any instant and with replies unread.

use shmtable::{Client, Operation, Options, Outcome, Submit};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::reclaimed::until_only;
use crate::values::{Random, seed, value};

/// Most keys of an actor that only inserts.
const MOST: u64 = 8000;
/// Keys that an actor without an end goes round in.
const ROUND: u64 = 1000;

fn key(line: usize, number: u64) -> Vec<u8> {
    format!("{line}-{number}").into_bytes()
}

fn value_of(line: usize, number: u64) -> Vec<u8> {
    let mut random = Random::new(number ^ (line as u64) << 32);
    let len = random.length();
    value(random.next(), len)
}

/// Numbers: window, and 1 for an actor that goes round, reading what it wrote. Inserts keys in the order of their numbers.
pub(crate) fn play_in_order(part: &Part) {
    let [window, round] = part.numbers[..] else { panic!("a window and whether to go round") };
    let round = round == 1;
    let mut client = Client::attach(&part.options().client_name("in order")).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    let (mut sent, mut answered) = (0, 0);
    let mut pipeline = client.pipeline(window as usize);
    let per_number = 1 + u64::from(round);
    let mut on_reply = |completion: shmtable::Completion<'_>| {
        assert_eq!(completion.ticket, answered, "replies come in the order sent");
        let number = answered / per_number;
        match completion.outcome {
            Outcome::Stored { replaced, .. } => assert_eq!(replaced, number >= ROUND && round),
            Outcome::Value { bytes, .. } => assert!(bytes == value_of(part.line, number % ROUND), "the value of {number}"),
            outcome => panic!("{outcome:?} for {number}"),
        }
        answered += 1;
        part.set(Word::Acked, answered / per_number);
    };
    while !part.board.stopped() {
        if sent == MOST && !round {
            std::thread::yield_now();
            continue;
        }
        let number = if round { sent % ROUND } else { sent };
        let (key, value) = (key(part.line, number), value_of(part.line, number));
        sent += 1;
        part.set(Word::Sent, sent);
        let insert = Operation::insert(&key, &value);
        pipeline.submit(&insert, &mut on_reply).expect("submitted");
        if round {
            pipeline.submit(&Operation::Read { key: &key }, &mut on_reply).expect("submitted");
        }
    }
    pipeline.finish(&mut on_reply).expect("replies");
}

/// Fills its lane, and never looks at a reply.
pub(crate) fn play_unread(part: &Part) {
    let mut client = Client::attach(&part.options().client_name("unread")).expect("attached");
    for number in 0.. {
        let (key, value) = (key(part.line, number), value_of(part.line, number));
        if value.len() > Client::MAX_POLLED_VALUE {
            // Too long for this level: a shorter one in its place.
            assert!(client.try_submit(&Operation::insert(&key, b"short")).is_ok());
            continue;
        }
        match client.try_submit(&Operation::insert(&key, &value)) {
            Ok(_) => {}
            Err(Submit::WouldBlock) => {
                client.flush();
                part.set(Word::Sent, number);
                break;
            }
            Err(Submit::Refused(error)) => panic!("refused: {error}"),
        }
    }
    loop {
        std::thread::park();
    }
}

/// How many keys of a line are there, which must be the first ones with their right values.
fn prefix_of(client: &mut Client, line: usize, sent: u64) -> u64 {
    let keys = (0..sent + 64).map(|number| key(line, number));
    let found = client.get_many(keys).expect("answers");
    let present = found.iter().position(Option::is_none).expect("keys that were never sent") as u64;
    assert!(found[present as usize..].iter().all(Option::is_none), "line {line} has a hole at {present}");
    for (number, found) in (0..present).zip(found) {
        assert!(found == Some(value_of(line, number)), "the value of {line}-{number}");
    }
    present
}

#[test]
fn killed_clients_leave_a_prefix_and_their_slot() {
    const CLIENTS: usize = 7;
    let mut random = Random::new(seed("deaths"));
    let server = Daemon::start(&["--clients", "9", "-s", "32768", "--memory", "2GiB"]);
    let board = Board::new();
    let mut inspector = Client::attach(&Options::new("shmtable").dir(server.dir())).expect("attached");
    for window in [1, 7, 100, 1000, 300] {
        let mut actors: Vec<_> =
            (1..=CLIENTS).map(|line| Actor::start("in order", server.dir(), &board, line, &[window, 0])).collect();
        while !actors.is_empty() {
            let mut actor = actors.swap_remove(random.below(actors.len() as u64) as usize);
            if random.below(6) > 0 {
                let now = board.get(actor.line(), Word::Sent);
                actor.reaches(&board, Word::Sent, (now + random.below(900)).min(MOST));
            }
            actor.kill();
        }
        until_only(server.dir(), 1);
        for line in 1..=CLIENTS {
            let (sent, acked) = (board.get(line, Word::Sent), board.get(line, Word::Acked));
            let present = prefix_of(&mut inspector, line, sent);
            assert!((acked..=sent).contains(&present), "line {line}: {acked} acknowledged, {present} there, {sent} sent");
        }
        inspector.clear().expect("cleared");
    }
}

#[test]
fn clients_killed_with_unread_replies_disturb_nobody() {
    let server = Daemon::start(&["--clients", "6", "-s", "32768", "--memory", "2GiB"]);
    let board = Board::new();
    let mut going = Actor::start("in order", server.dir(), &board, 1, &[50, 1]);
    let mut inspector = Client::attach(&Options::new("shmtable").dir(server.dir())).expect("attached");
    let mut actors: Vec<_> = (2..=5).map(|line| Actor::start("unread", server.dir(), &board, line, &[])).collect();
    for actor in &mut actors {
        actor.reaches(&board, Word::Sent, 1);
    }
    let before = board.get(1, Word::Acked);
    going.reaches(&board, Word::Acked, before + 500);
    actors.into_iter().for_each(Actor::kill);
    let before = board.get(1, Word::Acked);
    going.reaches(&board, Word::Acked, before + 500);
    until_only(server.dir(), 2);
    for line in 2..=5 {
        let sent = board.get(line, Word::Sent);
        let keys = (0..sent + 64).map(|number| key(line, number));
        let found = inspector.get_many(keys).expect("answers");
        assert_eq!(found.iter().filter(|found| found.is_some()).count() as u64, sent, "line {line}");
    }
    board.stop();
    going.finish();
}
