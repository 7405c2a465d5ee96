//! What clients count themselves (each in the head of its request lane), summed up for all to see.
//!
//! X1: a client's tally is taken over as the difference to what was taken over of it before: once, and kept when the client leaves.
//! X2: what rests in the lane is not believed: a tally that shrank or leapt is taken for a new beginning, and adds nothing.
//! Who: whoever ticks, for attached clients; the worker that releases a slot, for the one that leaves.
//! CRASH: what was counted since the last tick before a server's death is not summed up; the sum itself rests in the region.

use super::Engine;
use super::lanes::{Lanes, NOBODY};
use crate::claim::{self, ClaimState};
use crate::region::ServerRegion;
use crate::sync::Ordering;

/// No client counts so much between two ticks.
const MOST: u64 = 1 << 36;

/// Takes over what a client has counted since the last time.
pub(super) fn take(region: &ServerRegion, lanes: &Lanes, client: u32) {
    let Some(entry) = lanes.entry(client) else { return };
    let tallies = &region.request_lane(client).0.tallies;
    for ((tally, taken), sum) in tallies.iter().zip(&entry.tallied).zip(&region.status().client_tallies) {
        let now = tally.load(Ordering::Relaxed);
        let before = taken.swap(now, Ordering::Relaxed);
        match now.checked_sub(before) {
            Some(0) | None => {}
            Some(counted) if counted > MOST => {}
            Some(counted) => drop(sum.fetch_add(counted, Ordering::Relaxed)),
        }
    }
}

/// The last time for a client that leaves: whoever gets the slot next begins with 0.
pub(super) fn close(region: &ServerRegion, lanes: &Lanes, client: u32) {
    take(region, lanes, client);
    let Some(entry) = lanes.entry(client) else { return };
    for (tally, taken) in region.request_lane(client).0.tallies.iter().zip(&entry.tallied) {
        tally.store(0, Ordering::Relaxed);
        taken.store(0, Ordering::Relaxed);
    }
}

impl Engine {
    /// Takes over what an attached client has counted. One that never sent a request has no owner yet, and its lane was never looked at:
    /// touching a hole of a full file system would kill us.
    pub(super) fn take_tallies(&self, client: u32, owner: u32) {
        if owner != NOBODY || self.region.commit_lane(client).is_ok() {
            take(&self.region, &self.lanes, client);
        }
    }

    /// Begins with what the clients of a predecessor have counted: it is in the sum already, but for what came after its last tick.
    pub(super) fn adopt_tallies(&self) {
        for client in 0..self.region.layout().shape.clients {
            let claimed = claim::load(&self.region.claim(client).word).is_some_and(|claim| claim.state != ClaimState::Free);
            if claimed
                && (self.lanes.owner(client) != NOBODY || self.region.commit_lane(client).is_ok())
                && let Some(entry) = self.lanes.entry(client)
            {
                for (tally, taken) in self.region.request_lane(client).0.tallies.iter().zip(&entry.tallied) {
                    taken.store(tally.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        }
    }
}
