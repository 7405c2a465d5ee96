//! Slots that come back.

use std::path::Path;

use shmtable::{Client, Error, Monitor, Options};

use crate::watch::until;

/// Waits until nobody but the test's own clients holds a slot.
pub(crate) fn until_only(dir: &Path, left: usize) {
    let monitor = Monitor::open(&Options::new("shmtable").dir(dir)).expect("a look");
    until("the slots of clients that are gone", || (monitor.clients().len() <= left).then_some(()));
    assert_eq!(monitor.clients().len(), left, "{:?}", monitor.clients());
}

/// Attaches as many clients as the region has slots for; one more finds none.
pub(crate) fn take_all(options: &Options, slots: usize) -> Vec<Client> {
    let mut held = Vec::new();
    while held.len() < slots {
        held.push(until("a free slot", || match Client::attach(options) {
            Ok(client) => Some(client),
            Err(Error::NoSlot(_)) => None,
            Err(error) => panic!("attaching failed: {error}"),
        }));
    }
    match Client::attach(options) {
        Err(Error::NoSlot(found)) => assert_eq!(found as usize, slots),
        found => panic!("expected no slot, found {found:?}"),
    }
    held
}
