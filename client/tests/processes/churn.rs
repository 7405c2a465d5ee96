//! Attaching and detaching, more often than there are slots.

use shmtable::{Client, Error, Monitor, Options};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::reclaimed::{take_all, until_only};

/// Numbers: rounds. Attaches, writes, reads and detaches, sometimes with requests under way.
pub(crate) fn play(part: &Part) {
    let options = part.options();
    let mut attached = 0;
    while attached < part.numbers[0] {
        let mut client = match Client::attach(&options) {
            Ok(client) => client,
            Err(Error::NoSlot(_)) => {
                part.add(Word::Errors);
                std::thread::yield_now();
                continue;
            }
            Err(error) => panic!("attaching failed: {error}"),
        };
        attached += 1;
        let key = format!("{}-{attached}", part.line).into_bytes();
        if attached % 3 == 0 {
            // Detached with requests under way: they take effect.
            client.try_submit(&shmtable::Operation::insert(&key, &key)).expect("room");
        } else {
            client.insert(&key, &key).expect("stored");
            assert_eq!(client.read(&key).expect("an answer").as_deref(), Some(&key[..]));
        }
        part.set(Word::Acked, attached);
    }
}

#[test]
fn slots_come_back() {
    const ROUNDS: u64 = 100;
    const SLOTS: usize = 5;
    let server = Daemon::start(&["--clients", "5", "-n", "4"]);
    let board = Board::new();
    let actors: Vec<_> = (1..=8).map(|line| Actor::start("churn", server.dir(), &board, line, &[ROUNDS])).collect();
    actors.into_iter().for_each(Actor::finish);
    until_only(server.dir(), 0);
    let options = Options::new("shmtable").dir(server.dir());
    let mut held = take_all(&options, SLOTS);
    for line in 1..=8 {
        for round in 1..=ROUNDS {
            let key = format!("{line}-{round}").into_bytes();
            let client = &mut held[round as usize % SLOTS];
            assert_eq!(client.read(&key).expect("an answer").as_deref(), Some(&key[..]), "{line}-{round}");
        }
    }
    held.truncate(2);
    until_only(server.dir(), 2);
    held.clear();
    drop(take_all(&options, SLOTS));
}

#[test]
fn clients_spread_over_shards() {
    let server = Daemon::start(&["-n", "4"]);
    let options = Options::new("shmtable").dir(server.dir());
    let per_shard = |clients: &[Client]| {
        let mut shards = [0; 4];
        clients.iter().for_each(|client| shards[client.shard() as usize] += 1);
        shards
    };
    let mut clients: Vec<_> = (0..16).map(|_| Client::attach(&options).expect("attached")).collect();
    assert_eq!(per_shard(&clients), [4; 4]);
    // Newcomers go where others left.
    clients.retain(|client| client.shard() != 2);
    clients.extend((0..4).map(|_| Client::attach(&options).expect("attached")));
    assert_eq!(per_shard(&clients), [4; 4]);
    drop(clients);
    until_only(server.dir(), 0);
    // At the same time: every shard gets some.
    let attach = || Client::attach(&options).expect("attached");
    let clients: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(attach)).collect();
        threads.into_iter().map(|thread| thread.join().expect("attached")).collect()
    });
    assert!(per_shard(&clients).iter().all(|count| *count > 0), "{:?}", per_shard(&clients));
    assert_eq!(Monitor::open(&options).expect("a look").clients().len(), 16);
}
