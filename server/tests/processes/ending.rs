//! Signals, `--on-exit`, and ends that nobody asked for.

use std::fs::OpenOptions;

use nix::sys::signal::Signal;

use crate::harness::{Ended, Place, error_line};

#[test]
fn both_signals_remove_the_region_and_say_how_much() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let place = Place::new();
        let ended = place.start(&[]).stop(signal);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("removed 0 items"), "{}", ended.stderr);
        assert!(ended.stderr.contains("served 0 requests"), "{}", ended.stderr);
        assert_eq!(place.files(), [""; 0]);
    }
}

#[test]
fn a_region_that_is_kept_stays() {
    let place = Place::new();
    let ended = place.start(&["--on-exit", "keep"]).stop(Signal::SIGTERM);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("kept 0 items"), "{}", ended.stderr);
    assert_eq!(place.files(), ["t.rings", "t.table"]);
}

#[test]
fn a_file_that_took_the_place_of_ours_is_left_alone() {
    let place = Place::new();
    let server = place.start(&[]);
    std::fs::remove_file(place.rings()).expect("removed");
    std::fs::write(place.rings(), "another").expect("written");
    let ended = server.stop(Signal::SIGTERM);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(place.files(), ["t.rings"]);
}

#[test]
fn a_truncated_table_ends_the_server_with_a_word() {
    let place = Place::new();
    let server = place.start(&[]);
    cut(&place.table());
    assert_truncated(&server.stop(Signal::SIGTERM));
}

#[test]
fn truncated_rings_end_the_server_with_a_word() {
    let place = Place::new();
    let server = place.start(&[]);
    cut(&place.rings());
    assert_truncated(&server.stop(Signal::SIGTERM));
}

#[test]
fn a_truncated_table_is_noticed_without_a_touch() {
    let place = Place::new();
    let server = place.start(&[]);
    // The last page was never backed, nobody touches it: only the look at the file's length can tell.
    let file = OpenOptions::new().write(true).open(place.table()).expect("opened");
    let len = file.metadata().expect("metadata").len();
    file.set_len(len - 4096).expect("cut");
    let ended = server.end();
    assert_eq!(ended.code, Some(70), "{}", ended.stderr);
    assert!(error_line(&ended.stderr).contains(&format!("found {} bytes, expected {len}", len - 4096)), "{}", ended.stderr);
}

#[test]
fn a_sigbus_that_somebody_sent_has_its_default_action() {
    let place = Place::new();
    let ended = place.start(&[]).stop(Signal::SIGBUS);
    assert_eq!(ended.signal, Some(Signal::SIGBUS as i32), "{}", ended.stderr);
}

fn cut(path: &std::path::Path) {
    OpenOptions::new().write(true).open(path).expect("opened").set_len(0).expect("cut");
}

fn assert_truncated(ended: &Ended) {
    assert_eq!(ended.code, Some(70), "{}", ended.stderr);
    let error = error_line(&ended.stderr);
    assert!(error.contains("truncated") && error.contains("start the server again"), "{error}");
}
