//! A parent that attaches, forks forty children and dies.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::unistd::{ForkResult, fork};
use shmtable::{Client, Error, Operation, Options, Submit};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::reclaimed::until_only;
use crate::watch::until;

const CHILDREN: usize = 40;

/// Forks children, which play on the lines after its own, and works on until it is killed.
pub(crate) fn play(part: &Part) {
    let mut client = Some(Client::attach(&part.options().client_name("parent")).expect("attached"));
    client.as_mut().expect("attached").insert(b"parents", b"before").expect("stored");
    for child in 1..=CHILDREN {
        // SAFETY: the child works with its own copy of everything, glibc's allocator is usable there, and it leaves by `_exit`.
        if matches!(unsafe { fork() }.expect("a child"), ForkResult::Child) {
            let line = part.line + child;
            let worked = catch_unwind(AssertUnwindSafe(|| child_works(part, line, client.take().expect("inherited"))));
            part.board.set(line, if worked.is_ok() { Word::Done } else { Word::Errors }, 1);
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { nix::libc::_exit(0) };
        }
    }
    let mut client = client.expect("the parent's own");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    loop {
        client.incr(b"parent", 1).expect("its handle still works");
        part.add(Word::Acked);
    }
}

fn child_works(part: &Part, line: usize, mut inherited: Client) {
    part.board.set(line, Word::Pid, std::process::id().into());
    assert!(matches!(inherited.read(b"parents"), Err(Error::Forked)));
    assert!(matches!(inherited.insert(b"parents", b"the child's"), Err(Error::Forked)));
    assert!(matches!(inherited.insert(b"parents", &vec![0; 100_000]), Err(Error::Forked)));
    assert!(matches!(inherited.try_submit(&Operation::Ping), Err(Submit::Refused(Error::Forked))));
    assert!(matches!(inherited.poll(&mut |_| {}), Err(Error::Forked)));
    let slot = inherited.id();
    if line.is_multiple_of(2) {
        drop(inherited);
    }
    let mut client = Client::attach(&part.options().client_name("child")).expect("attached");
    assert_ne!(client.id(), slot, "the parent's slot was given away");
    part.board.set(line, Word::Slot, u64::from(client.id()) + 1);
    let key = format!("child {line}").into_bytes();
    let mut number = 0;
    while !part.board.stopped() {
        number += 1;
        assert_eq!(client.incr(&key, 1).expect("an answer"), number);
        part.board.set(line, Word::Acked, number as u64);
    }
    assert_eq!(client.read(&key).expect("an answer"), Some(number.to_string().into_bytes()));
}

#[test]
fn children_go_on_when_their_parent_dies() {
    let server = Daemon::start(&["--clients", "42"]);
    let board = Board::new();
    let mut parent = Actor::start("forks", server.dir(), &board, 1, &[]);
    let lines = 2..2 + CHILDREN;
    let all_reach = |least: &dyn Fn(usize) -> u64| {
        for line in lines.clone() {
            until(&format!("child {line} to go on"), || {
                assert_eq!(board.get(line, Word::Errors), 0, "child {line} failed");
                (board.get(line, Word::Acked) >= least(line)).then_some(())
            });
        }
    };
    all_reach(&|_| 1);
    let before = board.get(1, Word::Acked);
    parent.reaches(&board, Word::Acked, before.max(1) + 50);
    let mut slots: Vec<_> = (1..2 + CHILDREN).map(|line| board.get(line, Word::Slot)).collect();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), CHILDREN + 1, "every process has a slot of its own");
    parent.kill();
    // The parent's slot comes back; the children keep theirs.
    until_only(server.dir(), CHILDREN);
    let after: Vec<_> = (0..2 + CHILDREN).map(|line| board.get(line, Word::Acked)).collect();
    all_reach(&|line| after[line] + 50);
    board.stop();
    for line in lines.clone() {
        until(&format!("child {line} to end"), || {
            assert_eq!(board.get(line, Word::Errors), 0, "child {line} failed");
            (board.get(line, Word::Done) == 1).then_some(())
        });
    }
    until_only(server.dir(), 0);
    let mut client = Client::attach(&Options::new("shmtable").dir(server.dir())).expect("attached");
    assert_eq!(client.read(b"parents").expect("an answer").as_deref(), Some(&b"before"[..]));
    for line in lines {
        let counted = client.incr(format!("child {line}").as_bytes(), 0).expect("a number");
        assert_eq!(counted as u64, board.get(line, Word::Acked));
    }
}
