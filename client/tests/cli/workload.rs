//! The verified workload.

use nix::sys::signal::Signal;

use crate::commandline::Answer;
use crate::daemon::Daemon;
use crate::watch::until;

/// `ops`, `errors` of the last line, which must have the contract's form.
fn last_line(answer: &Answer) -> (u64, u64) {
    let text = std::str::from_utf8(&answer.stdout).expect("text");
    let line = text.lines().last().unwrap_or_else(|| panic!("no line: {answer:?}"));
    let fields: Vec<(&str, &str)> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
    let names: Vec<&str> = fields.iter().map(|field| field.0).collect();
    assert_eq!(names, ["ops", "errors", "seconds", "ops_per_second"], "{line}");
    assert!(fields[2].1.parse::<f64>().is_ok_and(|seconds| seconds >= 0.0), "{line}");
    let number = |at: usize| fields[at].1.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    let _: u64 = number(3);
    (number(0), number(1))
}

#[test]
fn both_forms_do_three_operations_per_key_and_leave_nothing() {
    let server = Daemon::start(&[]);
    for args in [
        &["100", "10"][..],
        &["run", "100", "10"],
        &["1", "1000", "--window", "1"],
        &["2", "500", "--window", "1024", "--seed", "7"],
        &["10", "100", "--value-size", "0"],
        &["5", "200", "--wait", "block"],
    ] {
        let answer = server.client(args);
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert_eq!(last_line(&answer), (3000, 0), "{args:?}");
    }
    assert_eq!(last_line(&server.client(&["4", "50", "--value-size", "5KiB"])), (600, 0));
    assert_eq!(last_line(&server.client(&["1", "3", "--value-size", "300KiB"])), (9, 0));
    assert_eq!(last_line(&server.client(&["7", "0"])), (0, 0));
    assert_eq!(server.client(&["dump"]).text(), "");
}

#[test]
fn an_endless_run_ends_at_a_signal_with_its_line() {
    let server = Daemon::start(&[]);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let run = server.background(&["0", "1000"]);
        until("the run to begin", || (!server.client(&["clients"]).text().is_empty()).then_some(()));
        let answer = run.end(signal);
        assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
        let (ops, errors) = last_line(&answer);
        assert_eq!((ops % 3, errors), (0, 0));
        assert_eq!(server.client(&["dump"]).text(), "", "what was inserted is deleted");
    }
}

/// SplitMix64 on a counter, as the workload makes its keys.
fn mix(counter: u64) -> u64 {
    let z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_reply_that_is_wrong_is_found() {
    let server = Daemon::start(&[]);
    // A key of the run that is there already: its insert cannot be that of a new key.
    let counter = mix(7).wrapping_add(2 * 5);
    let key: String = [mix(counter), mix(counter.wrapping_add(1))]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .map(|byte| format!("\\x{byte:02x}"))
        .collect();
    assert_eq!(server.fed(&["load", "-"], key.as_bytes()).text(), "1\n");
    let answer = server.client(&["1", "10", "--seed", "7"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert_eq!(last_line(&answer), (30, 1));
    assert!(answer.stderr.starts_with("error: verification failed: insert of key 6 in round 1: "), "{answer:?}");
    assert_eq!(last_line(&server.client(&["1", "10", "--seed", "7"])), (30, 0), "with the key gone");
}
