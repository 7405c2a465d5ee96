//! Calls that nobody answers in time, and waits that the caller ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use shmtable::{Client, Error, Operation, Options, Outcome, Submit, WaitMode};

use crate::daemon::Daemon;
use crate::values::value;
use crate::watch::send;

const MODES: [WaitMode; 3] = [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Block];

fn key(number: u64) -> Vec<u8> {
    format!("key {number}").into_bytes()
}

#[test]
fn late_replies_are_not_taken_for_others() {
    let server = Daemon::start(&["-s", "4096"]);
    for mode in MODES {
        let options = Options::new("shmtable").dir(server.dir()).wait(mode);
        let mut client = Client::attach(&options.clone().timeout(Duration::from_millis(3))).expect("attached");
        let mut patient = Client::attach(&options.timeout(Duration::from_secs(50))).expect("attached");
        for number in 0..100 {
            patient.insert(&key(number), &value(number, number as usize)).expect("stored");
        }
        for round in 0..4 {
            server.freeze();
            let late = key(1000 + round);
            assert!(matches!(client.insert(&late, b"late"), Err(Error::TimedOut { write: true, .. })));
            for number in 0..10 {
                assert!(matches!(client.read(&key(number)), Err(Error::TimedOut { write: false, .. })));
            }
            assert!(matches!(client.incr(b"late sums", 1), Err(Error::TimedOut { write: true, .. })));
            assert!(matches!(client.insert(&late, &value(round, 60_000)), Err(Error::TimedOut { .. })));
            send(server.pid(), Signal::SIGCONT);
            for number in 0..100 {
                let found = loop {
                    match client.read(&key(number)) {
                        Err(Error::TimedOut { .. }) => {}
                        found => break found.expect("an answer"),
                    }
                };
                assert!(found == Some(value(number, number as usize)), "key {number} after round {round}");
            }
            // What timed out took effect, once, before what was asked after it.
            assert!(matches!(client.read(&late), Ok(Some(_)) | Err(Error::TimedOut { .. })));
            assert_eq!(patient.incr(b"late sums", 0).expect("a number"), round as i64 + 1);
        }
        assert!(patient.delete(b"late sums").expect("an answer"));
    }
}

#[test]
fn a_lane_full_of_late_requests_empties() {
    let server = Daemon::start(&[]);
    let options = Options::new("shmtable").dir(server.dir()).timeout(Duration::from_millis(1));
    let mut client = Client::attach(&options).expect("attached");
    let mut patient = Client::attach(&options.timeout(Duration::from_secs(50))).expect("attached");
    patient.insert(b"k", &value(7, 500)).expect("stored");
    server.freeze();
    let mut sent = 0;
    for _ in 0..20 {
        loop {
            match client.try_submit(&Operation::Incr { key: b"n", by: 1, ttl: None }) {
                Ok(_) => sent += 1,
                Err(Submit::WouldBlock | Submit::Refused(Error::TimedOut { .. })) => break,
                Err(Submit::Refused(error)) => panic!("{error}"),
            }
        }
        // A sync call lets go of what was not polled, whether it finds room or not.
        assert!(matches!(client.read(b"k"), Err(Error::TimedOut { .. })));
        assert_eq!(client.in_flight(), 0);
        assert!(client.wait().is_ok(), "there is nothing to wait for");
    }
    send(server.pid(), Signal::SIGCONT);
    let found = loop {
        match client.read(b"k") {
            Err(Error::TimedOut { .. }) => {}
            found => break found.expect("an answer"),
        }
    };
    assert!(found == Some(value(7, 500)));
    assert_eq!(client.poll(&mut |completion| panic!("{completion:?} was let go")).expect("no error"), 0);
    assert_eq!(patient.incr(b"n", 0).expect("a number"), sent);
}

#[test]
fn polled_requests_survive_a_timeout() {
    let server = Daemon::start(&[]);
    let options = Options::new("shmtable").dir(server.dir()).timeout(Duration::from_millis(3));
    let mut client = Client::attach(&options).expect("attached");
    server.freeze();
    for _ in 0..50 {
        client.try_submit(&Operation::Incr { key: b"n", by: 1, ttl: None }).expect("room");
    }
    assert!(matches!(client.wait(), Err(Error::TimedOut { write: true, .. })));
    assert_eq!(client.poll(&mut |_| panic!("nobody answered")).expect("no error"), 0);
    send(server.pid(), Signal::SIGCONT);
    let mut next = 0;
    while next < 50 {
        let waited = client.wait();
        assert!(matches!(waited, Ok(()) | Err(Error::TimedOut { .. })), "{waited:?}");
        client
            .poll(&mut |completion| {
                assert_eq!(completion.ticket, next as u64);
                next += 1;
                assert!(matches!(completion.outcome, Outcome::Number { value, .. } if value == next), "{:?}", completion.outcome);
            })
            .expect("no error");
    }
}

#[test]
fn a_raised_flag_ends_a_wait() {
    let server = Daemon::start(&[]);
    for mode in MODES {
        let flag = Arc::new(AtomicBool::new(false));
        let options = Options::new("shmtable").dir(server.dir()).wait(mode).timeout(Duration::from_secs(50));
        let mut client = Client::attach(&options.interrupt(Arc::clone(&flag))).expect("attached");
        client.insert(b"k", b"before").expect("stored");
        server.freeze();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let write = client.insert(b"k", b"after");
                (write, client.read(b"k"))
            });
            flag.store(true, Ordering::Relaxed);
            let (write, read) = waiting.join().expect("no panic");
            assert!(matches!(write, Err(Error::Interrupted { write: true })), "{write:?}");
            assert!(matches!(read, Err(Error::Interrupted { write: false })), "{read:?}");
        });
        flag.store(false, Ordering::Relaxed);
        send(server.pid(), Signal::SIGCONT);
        assert_eq!(client.read(b"k").expect("an answer").as_deref(), Some(&b"after"[..]));
    }
}
