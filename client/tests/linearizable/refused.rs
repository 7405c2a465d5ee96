//! Histories that the checker must refuse, each beside one much like it that it must take: what is judged can fail.

use std::sync::Arc;

use shmtable::{Condition, Options};

use crate::check::{Records, linearizable};
use crate::daemon::Daemon;
use crate::player::Style;
use crate::record::{Answer, Bytes, Call, Life, Place, Record, Steps};
use crate::rounds::{Plan, play};
use crate::script::Mix;
use crate::spec::CLIENTS;
use crate::values::seed;

/// Client, start and end in tenths of a millisecond, call and answer.
type Line = (usize, u64, u64, Call, Answer);

/// A history made by hand; a client's requests are sent in the order of the lines.
fn history(lines: Vec<Line>) -> Records {
    let mut sent = [0; CLIENTS];
    let record = |(client, start, end, call, answer): Line| {
        sent[client] += 1;
        let place = Place::Request(sent[client]);
        Arc::new(Record { client, place, start: start * 100_000, end: end * 100_000, call, answer })
    };
    lines.into_iter().map(record).collect()
}

fn insert_if(value: &str, when: Condition, life: Life) -> Call {
    Call::Insert { key: 0, value: value.as_bytes().into(), when, life }
}

fn insert(value: &str) -> Call {
    insert_if(value, Condition::Always, Life::Endless)
}

fn stored(replaced: bool) -> Answer {
    Answer::Stored { replaced, version: 0 }
}

fn value(text: &str) -> Answer {
    Answer::Value { version: 0, bytes: text.as_bytes().into() }
}

const READ: Call = Call::Read { key: 0 };

fn incr(by: i64) -> Call {
    Call::Incr { key: 0, by, life: Life::Endless }
}

fn number(value: i64) -> Answer {
    Answer::Number { value, version: 0 }
}

/// The same first lines with another last one: refused, and taken.
fn one_of_two(first: &[Line], refused: Line, taken: Line) {
    for (last, right) in [(refused, false), (taken, true)] {
        let lines: Vec<_> = first.iter().cloned().chain([last]).collect();
        assert_eq!(linearizable(&history(lines.clone())), right, "{lines:#?}");
    }
}

#[test]
fn a_value_that_was_replaced_before() {
    let writes = [(0, 0, 10, insert("old"), stored(false)), (0, 20, 30, insert("new"), stored(true))];
    one_of_two(&writes, (1, 40, 50, READ, value("old")), (1, 40, 50, READ, value("new")));
    one_of_two(&writes, (1, 40, 50, READ, value("old")), (1, 30, 50, READ, value("old")));
    one_of_two(&writes, (1, 25, 50, READ, Answer::Absent), (1, 25, 50, READ, value("old")));
}

#[test]
fn a_write_that_is_seen_and_then_not() {
    let write = (0, 0, 100, insert("new"), stored(false));
    one_of_two(
        &[write.clone(), (1, 10, 20, READ, value("new"))],
        (2, 30, 40, READ, Answer::Absent),
        (2, 30, 40, READ, value("new")),
    );
    one_of_two(&[write, (1, 10, 20, READ, Answer::Absent)], (2, 30, 40, READ, value("other")), (2, 30, 40, READ, value("new")));
}

#[test]
fn an_increment_that_is_lost() {
    one_of_two(&[(0, 0, 50, incr(2), number(2))], (1, 10, 40, incr(3), number(3)), (1, 10, 40, incr(3), number(5)));
    let both = [(0, 0, 50, incr(2), number(5)), (1, 10, 40, incr(3), number(3))];
    one_of_two(&both, (2, 60, 70, READ, value("3")), (2, 60, 70, READ, value("5")));
}

#[test]
fn two_that_were_first() {
    let absent = |text| insert_if(text, Condition::IfAbsent, Life::Endless);
    let no = Answer::NotMet { version: None };
    one_of_two(
        &[(0, 0, 50, absent("one"), stored(false))],
        (1, 10, 40, absent("two"), stored(false)),
        (1, 10, 40, absent("two"), no),
    );
    let versioned = |text, version| {
        let answer = Answer::Stored { replaced: version != 0, version: version + 1 };
        (insert_if(text, if version == 0 { Condition::Always } else { Condition::IfVersion(version) }, Life::Endless), answer)
    };
    let ((first, stored), (second, replaced)) = (versioned("one", 0), versioned("two", 1));
    let swapped = [(0, 0, 10, first, stored), (0, 20, 50, second.clone(), replaced.clone())];
    one_of_two(
        &swapped,
        (1, 20, 50, second.clone(), Answer::Stored { replaced: true, version: 3 }),
        (1, 20, 50, second, Answer::NotMet { version: Some(2) }),
    );
}

#[test]
fn a_pipeline_out_of_order() {
    let pipeline = [(0, 0, 50, insert("first"), stored(false)), (0, 1, 50, insert("second"), stored(true))];
    one_of_two(&pipeline, (1, 60, 70, READ, value("first")), (1, 60, 70, READ, value("second")));
    let swapped = [(0, 0, 50, insert("first"), stored(true)), (0, 1, 50, insert("second"), stored(false))];
    assert!(!linearizable(&history(swapped.to_vec())));
}

#[test]
fn a_direct_read_that_misses_an_unanswered_write() {
    for (answer, right) in [(Answer::Absent, false), (value("mine"), true)] {
        let mut records = history(vec![(0, 0, 50, insert("mine"), stored(false)), (0, 1, 10, READ, answer)]);
        Arc::make_mut(&mut records[1]).place = Place::Direct { after: 1 };
        assert_eq!(linearizable(&records), right);
    }
}

#[test]
fn an_item_that_is_over_too_early_or_too_late() {
    // It lives for 10 ms from some moment in 0 to 1 ms, so it ends in 9 to 12 ms, the clock's granularity included.
    let write = (0, 0, 10, insert_if("short", Condition::Always, Life::Ms(10)), stored(false));
    one_of_two(std::slice::from_ref(&write), (1, 80, 89, READ, Answer::Absent), (1, 80, 89, READ, value("short")));
    one_of_two(std::slice::from_ref(&write), (1, 121, 130, READ, value("short")), (1, 121, 130, READ, Answer::Absent));
    one_of_two(std::slice::from_ref(&write), (1, 80, 89, READ, Answer::Absent), (1, 80, 91, READ, Answer::Absent));
    one_of_two(std::slice::from_ref(&write), (1, 121, 130, READ, value("short")), (1, 119, 130, READ, value("short")));
    // In between either may be seen, but nobody who begins after somebody has missed it sees it, and who sees it narrows the interval.
    let missed = (1, 100, 101, READ, Answer::Absent);
    one_of_two(&[write.clone(), missed.clone()], (2, 102, 103, READ, value("short")), (2, 102, 103, READ, Answer::Absent));
    one_of_two(&[write.clone(), missed], (2, 102, 103, incr(1), Answer::NoNumber), (2, 102, 103, incr(1), number(1)));
    // A write that looked at the clock before, and took effect after somebody missed the item, may have seen it still.
    let replace = insert_if("next", Condition::IfPresent, Life::Endless);
    let absent = (1, 100, 101, READ, Answer::Absent);
    one_of_two(&[write.clone(), absent], (2, 102, 110, replace.clone(), stored(true)), (2, 99, 110, replace, stored(true)));
    let seen = (1, 110, 111, READ, value("short"));
    one_of_two(&[write, seen], (2, 105, 109, READ, Answer::Absent), (2, 105, 112, READ, Answer::Absent));
}

#[test]
fn an_end_that_was_moved() {
    let write = (0, 0, 1, insert_if("9", Condition::Always, Life::Ms(10)), stored(false));
    let (later, never) = (Call::Expire { key: 0, ms: 30 }, Call::Persist { key: 0 });
    let set = Answer::Set { version: 0 };
    one_of_two(
        &[write.clone(), (0, 50, 51, later, set.clone())],
        (1, 200, 201, READ, Answer::Absent),
        (1, 200, 201, READ, value("9")),
    );
    one_of_two(&[write.clone(), (0, 50, 51, never, set)], (1, 900, 901, READ, Answer::Absent), (1, 900, 901, READ, value("9")));
    let replaced = |life| (0, 50, 51, insert_if("8", Condition::Always, life), stored(true));
    one_of_two(&[write.clone(), replaced(Life::Kept)], (1, 200, 201, READ, value("8")), (1, 200, 201, READ, Answer::Absent));
    one_of_two(&[write.clone(), replaced(Life::Endless)], (1, 200, 201, READ, Answer::Absent), (1, 200, 201, READ, value("8")));
    one_of_two(
        &[write.clone(), (0, 50, 51, incr(1), number(10))],
        (1, 200, 201, READ, value("10")),
        (1, 200, 201, READ, Answer::Absent),
    );
    let left = |ms| (1, 50, 51, Call::Left { key: 0 }, Answer::Left { version: 0, ms });
    one_of_two(std::slice::from_ref(&write), left(Some(2)), left(Some(5)));
    one_of_two(&[write], left(None), left(Some(4)));
}

#[test]
fn a_transaction_in_halves() {
    let pair = |text: &str| {
        vec![(0, Some((Bytes::from(text.as_bytes()), Life::Endless))), (1, Some((text.as_bytes().into(), Life::Endless)))]
    };
    let write = |text, versions: [u64; 2]| {
        let steps = Steps { writes: pair(text), ..Steps::default() };
        (Call::Transact(steps), Answer::Committed { reads: vec![], versions: versions.to_vec() })
    };
    let both = Call::Transact(Steps { reads: vec![0, 1], ..Steps::default() });
    let saw = |one: &str, two: &str| {
        let item = |text: &str, version| Some((version, text.as_bytes().into()));
        let version = |text: &str| if text == "old" { 1 } else { 3 };
        Answer::Committed { reads: vec![item(one, version(one)), item(two, version(two) + 1)], versions: vec![] }
    };
    let ((old, first), (new, second)) = (write("old", [1, 2]), write("new", [3, 4]));
    let writes = [(0, 0, 10, old, first), (0, 20, 90, new, second)];
    for taken in [saw("old", "old"), saw("new", "new")] {
        one_of_two(&writes, (1, 30, 40, both.clone(), saw("old", "new")), (1, 30, 40, both.clone(), taken));
    }
    // Two single reads may meet different halves only in the right order.
    let read = |key| Call::Read { key };
    one_of_two(
        &[writes[0].clone(), writes[1].clone(), (1, 30, 40, read(0), value("new"))],
        (1, 50, 60, read(1), value("old")),
        (1, 50, 60, read(1), value("new")),
    );
    let compare = Call::Transact(Steps { compares: vec![(0, 1), (1, 4)], ..Steps::default() });
    one_of_two(
        &writes,
        (1, 30, 40, compare.clone(), Answer::Committed { reads: vec![], versions: vec![] }),
        (1, 30, 40, compare, Answer::Mismatch { compare: 1, version: 2 }),
    );
}

#[test]
fn a_clear_of_one_half() {
    let steps = Steps { writes: vec![(0, Some(("a".as_bytes().into(), Life::Endless))), (1, None)], ..Steps::default() };
    let write = (0, 0, 10, Call::Transact(steps), Answer::Committed { reads: vec![], versions: vec![1, 0] });
    let clear = (1, 20, 30, Call::Clear, Answer::Done);
    one_of_two(&[write, clear], (2, 40, 50, READ, value("a")), (2, 40, 50, READ, Answer::Absent));
}

#[test]
fn recorded_histories_that_were_altered() {
    let server = Daemon::start(&["-s", "1"]);
    let options = Options::new("shmtable").dir(server.dir());
    let styles = [Style::Sync, Style::Polled(3), Style::Pipelined(3)];
    let plan = Plan { styles: &styles, rounds: 6, calls: 12, mix: Mix::default(), pause_us: 0, growth: 5 };
    let (mut torn, mut lost) = (0, 0);
    for records in play(&options, seed("altered"), &plan) {
        assert!(linearizable(&records));
        for at in 0..records.len() {
            let Answer::Value { version, bytes } = &records[at].answer else { continue };
            let mut altered = records.clone();
            let mut other = bytes.0.to_vec();
            other[0] ^= 0x40;
            Arc::make_mut(&mut altered[at]).answer = Answer::Value { version: *version, bytes: other[..].into() };
            assert!(!linearizable(&altered), "a read that was altered is not noticed: {:?}", records[at]);
            torn += 1;
            // The write of that value was lost: it is a random one, so no other call can have written it.
            let wrote =
                |record: &Arc<Record>| matches!(&record.call, Call::Insert { value, .. } if value == bytes && value.0.len() >= 8);
            let (writes, rest): (Records, Records) = records.iter().cloned().partition(wrote);
            if !writes.is_empty() {
                assert!(!linearizable(&rest), "a write that was taken out is not noticed: {:?}", writes[0]);
                lost += 1;
            }
        }
    }
    assert!(torn > 0 && lost > 0, "{torn} reads altered, {lost} writes taken out");
}
