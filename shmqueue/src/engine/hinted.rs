//! Taking the clients' hints: after a pass from those it served, and once a tick from all, since some only read directly.

use crate::hints;
use crate::layout::HINTS;
use crate::sync::Ordering;

use super::Engine;
use super::job::Handler;
use super::shard::Pass;

impl Engine {
    /// Asks clients for hints of what they read directly, and passes them on to the handlers. Before workers start.
    pub fn want_hints(&self) {
        self.lanes.hinted.store(true, Ordering::Relaxed);
        self.region.status().wants_hints.store(1, Ordering::Relaxed);
    }

    pub(super) fn wants_hints(&self) -> bool {
        self.lanes.hinted.load(Ordering::Relaxed)
    }

    /// Takes the hints of all lanes. A shard in other hands is left to those.
    pub(super) fn take_hints(&self, worker: u32, handler: &mut dyn Handler) {
        if !self.wants_hints() {
            return;
        }
        for (index, shard) in self.shards.iter().enumerate() {
            let Some(_held) = shard.serving.claim(worker) else { continue };
            // SAFETY: the serving word is held until the end of the round.
            let mut pass = unsafe { Pass::new(&self.region, &self.lanes, shard, index as u32) };
            for client in 0..self.region.layout().shape.clients {
                if self.lanes.owner(client) == index as u32 {
                    pass.take_hints(client, handler);
                }
            }
        }
    }
}

impl Pass<'_> {
    /// Passes on what a client has read directly since the last time.
    #[inline]
    pub(super) fn take_hints(&mut self, client: u32, handler: &mut dyn Handler) {
        if self.lanes.hinted.load(Ordering::Relaxed) {
            self.pass_hints(client, handler);
        }
    }

    #[cold]
    fn pass_hints(&mut self, client: u32, handler: &mut dyn Handler) {
        if self.lanes.owner(client) != self.index {
            return;
        }
        let mut found = [0; HINTS];
        let ring = &self.region.request_lane(client).0.hints;
        let count = hints::take(ring, &mut self.lane(client).hints, &mut found);
        if count > 0 {
            handler.hints(&found[..count]);
        }
    }
}
