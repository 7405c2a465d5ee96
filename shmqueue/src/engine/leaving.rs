//! Clients that come and go: adopting a lane, and releasing the slot of one that has detached or died.

use crate::claim::{self, ClaimState};
use crate::port::AWAKE;
use crate::sync::Ordering;

use super::job::Handler;
use super::lanes::{Lane, NOBODY};
use super::shard::Pass;

impl Pass<'_> {
    /// Starts to serve a client that has claimed a slot on this shard.
    pub(super) fn adopt(&mut self, client: u32) -> bool {
        let Some(claim) = claim::load(&self.region.claim(client).word) else { return false };
        if claim.state == ClaimState::Free || u32::from(claim.shard) != self.index {
            return false;
        }
        // The client has committed its lanes; that is checked, not believed: touching a hole of a full file system would kill us.
        if !self.lanes.adopt(client, self.index) {
            return false;
        }
        if self.region.commit_lane(client).is_err() {
            self.lanes.abandon(client);
            return false;
        }
        let position = self.region.client_status(client).position.load(Ordering::Relaxed);
        *self.lane(client) = Lane { generation: claim.generation, position, ..Lane::default() };
        let status = self.region.client_status(client);
        status.generation.store(claim.generation, Ordering::Relaxed);
        status.requests_total.store(0, Ordering::Relaxed);
        status.attached.store(1, Ordering::Relaxed);
        self.region.reply_lane(client).0.hot.store(0, Ordering::Relaxed);
        self.region.shard_status(self.index).clients.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A lane that a word or the reaper named has nothing to serve: if its client has left or died, its slot is released.
    pub(super) fn release_if_leaving(&mut self, client: u32, handler: &mut dyn Handler) {
        let word = &self.region.claim(client).word;
        let generation = self.lane(client).generation;
        let left = match claim::load(word) {
            Some(claim) => claim.generation == generation && claim.state == ClaimState::Detached,
            None => false,
        };
        let dead = self.is_leaving(client);
        if !left && (!dead || self.region.client_alive(client)) {
            if let Some(entry) = self.lanes.entry(client) {
                entry.leaving.store(false, Ordering::Relaxed);
            }
            return;
        }
        if self.lane(client).hot {
            self.lane(client).hot = false;
            self.core.hot.retain(|other| *other != client);
            self.shard.hottest.store(self.core.hot.first().copied().unwrap_or(NOBODY), Ordering::Relaxed);
            self.region.reply_lane(client).0.hot.store(0, Ordering::Relaxed);
        }
        self.request_lane(client).wipe();
        self.region.request_lane(client).0.waiting.store(AWAKE, Ordering::Relaxed);
        handler.forget(client);
        let status = self.region.client_status(client);
        status.attached.store(0, Ordering::Relaxed);
        self.region.shard_status(self.index).clients.fetch_sub(1, Ordering::Relaxed);
        self.lanes.abandon(client);
        // CRASH: a server that dies before this line leaves the claim to its successor, which finds the lock free and comes here.
        let _ = claim::release(word, generation);
    }

    pub(super) fn is_leaving(&self, client: u32) -> bool {
        self.lanes.entry(client).is_some_and(|entry| entry.leaving.load(Ordering::Relaxed))
    }

    /// Puts every lane whose client is dead into the run queue, those that never sent anything included.
    pub(super) fn enqueue_leaving(&mut self) {
        for client in 0..self.region.layout().shape.clients {
            let owner = self.lanes.owner(client);
            let claimed = claim::load(&self.region.claim(client).word).is_some_and(|claim| claim.state != ClaimState::Free);
            if owner == NOBODY && claimed && !self.region.client_alive(client) && self.adopt(client) {
                if let Some(entry) = self.lanes.entry(client) {
                    entry.leaving.store(true, Ordering::Relaxed);
                }
                self.enqueue(client);
            } else if owner == self.index && self.is_leaving(client) {
                self.enqueue(client);
            }
        }
    }
}
