//! Hot lanes: which lanes a worker tests directly, so that their clients put no words. See `shard` for E2.

use crate::sync::{Ordering, fence};

use super::lanes::NOBODY;
use super::shard::Pass;

/// Lanes that are tested directly.
pub(super) const HOT_LANES: usize = 2;
/// After so many passes that took words hot lanes are cooled down, so that the ones in use now may take their places.
const COOL_EVERY: u32 = 256;

impl Pass<'_> {
    /// Heats up the lanes of a quiet shard, cools down those of a busy one.
    pub(super) fn settle_heat(&mut self, taken: usize) {
        if taken > 0 {
            self.core.since_cool += 1;
        }
        if taken > HOT_LANES || self.core.since_cool >= COOL_EVERY {
            self.core.since_cool = 0;
            if !self.core.hot.is_empty() {
                self.cool_down();
            }
        } else if taken > 0 && taken + self.core.hot.len() <= HOT_LANES {
            for at in 0..self.core.served.len() {
                let client = self.core.served[at];
                if !self.lane(client).hot && self.core.hot.len() < HOT_LANES {
                    self.lane(client).hot = true;
                    self.core.hot.push(client);
                    self.region.reply_lane(client).0.hot.store(1, Ordering::Relaxed);
                }
            }
            self.shard.hottest.store(self.core.hot.first().copied().unwrap_or(NOBODY), Ordering::Relaxed);
        }
    }

    /// Cools every hot lane down; returns whether one of them turned out to have a request.
    pub(super) fn cool_down(&mut self) -> bool {
        for at in 0..self.core.hot.len() {
            let client = self.core.hot[at];
            self.lane(client).hot = false;
            self.region.reply_lane(client).0.hot.store(0, Ordering::Relaxed);
        }
        // ORDER(hot): E2, the worker's side.
        fence(Ordering::SeqCst);
        let mut found = false;
        while let Some(client) = self.core.hot.pop() {
            let position = self.lane(client).position;
            if self.request_lane(client).is_published(position) {
                self.enqueue(client);
                found = true;
            }
        }
        self.shard.hottest.store(NOBODY, Ordering::Relaxed);
        if found {
            self.shard.attention.store(true, Ordering::Relaxed);
        }
        found
    }

    /// Step 2.
    pub(super) fn look_at_hot_lanes(&mut self) {
        for at in 0..self.core.hot.len() {
            let client = self.core.hot[at];
            let position = self.lane(client).position;
            if self.request_lane(client).is_published(position) {
                self.enqueue(client);
            }
        }
    }
}
