//! Clients that come and go: adopting a lane, and releasing the slot of one that has detached or died.

use crate::claim::{self, ClaimState};
use crate::lane::{Envelope, NOT_RESIZED, RESIZED, RawReply, ReplyLane};
use crate::layout::FIRST_SLOTS;
use crate::port::AWAKE;
use crate::region::ServerRegion;
use crate::sync::Ordering;

use super::job::Handler;
use super::lanes::{Lane, NOBODY};
use super::shard::Pass;

/// Slots in use by the request at `position` of a client's lanes, as this server or its predecessor published it.
pub(super) fn slots_at(region: &ServerRegion, client: u32, position: u64) -> u32 {
    let status = region.client_status(client);
    let after = position.wrapping_sub(status.resized_at.load(Ordering::Relaxed)) as i64 > 0;
    let slots = if after { &status.slots_after } else { &status.slots_before }.load(Ordering::Relaxed);
    if slots == 0 { FIRST_SLOTS.min(region.layout().shape.lane_slots) } else { slots }
}

impl Pass<'_> {
    /// Answers a client that wants another number of slots in use.
    #[cold]
    pub(super) fn resize(&mut self, client: u32, position: u64, envelope: &Envelope) {
        let most = self.region.layout().shape.lane_slots;
        let [a, b, c, d, ..] = self.request_lane(client).first(position);
        let wanted = u32::from_le_bytes([a, b, c, d]);
        let before = self.lane(client).slots;
        let reply = ReplyLane::in_use(self.region.reply_lane(client).1, before);
        let good = envelope.body_len == 4 && wanted.is_power_of_two() && (FIRST_SLOTS.min(most)..=most).contains(&wanted);
        if good {
            // CRASH: a server that dies between these and the reply leaves a request that is unanswered at `resized_at`, where the
            // old number holds; the next one answers it anew.
            let status = self.region.client_status(client);
            status.slots_before.store(before, Ordering::Relaxed);
            status.slots_after.store(wanted, Ordering::Relaxed);
            status.resized_at.store(position, Ordering::Release);
            self.lane(client).slots = wanted;
            // The client looks for its next reply in the lane as it is now: nothing may look answered there (L4).
            ReplyLane::in_use(self.region.reply_lane(client).1, wanted).bar(position + 1);
        }
        let status = if good { RESIZED } else { NOT_RESIZED };
        reply.write(position, RawReply { status, span: envelope.span, a: wanted.into(), b: 0, c: 0 });
    }

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
        let status = self.region.client_status(client);
        let position = status.position.load(Ordering::Relaxed);
        let slots = slots_at(self.region, client, position);
        *self.lane(client) = Lane { generation: claim.generation, position, slots, ..Lane::default() };
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
        let position = self.lane(client).position;
        if self.request_lane(client).is_published(position) {
            // Sent between our look at the lane and the client's leaving.
            self.enqueue(client);
            return;
        }
        if self.lane(client).hot {
            self.lane(client).hot = false;
            self.core.hot.retain(|other| *other != client);
            self.shard.hottest.store(self.core.hot.first().copied().unwrap_or(NOBODY), Ordering::Relaxed);
            self.region.reply_lane(client).0.hot.store(0, Ordering::Relaxed);
        }
        let first = FIRST_SLOTS.min(self.region.layout().shape.lane_slots);
        ReplyLane::in_use(self.region.reply_lane(client).1, first).bar(position);
        self.region.request_lane(client).0.waiting.store(AWAKE, Ordering::Relaxed);
        handler.forget(client);
        super::tallies::close(self.region, self.lanes, client);
        let status = self.region.client_status(client);
        status.attached.store(0, Ordering::Relaxed);
        status.slots_before.store(0, Ordering::Relaxed);
        status.slots_after.store(0, Ordering::Relaxed);
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
            } else if owner == NOBODY && claimed && self.lanes.hinted.load(Ordering::Relaxed) {
                // One that reads directly and asks nothing would never be served, and its hints never taken.
                self.adopt(client);
            } else if owner == self.index && self.is_leaving(client) {
                self.enqueue(client);
            }
        }
    }
}
