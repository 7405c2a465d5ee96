//! A pipeline: a bounded number of requests in flight.

use crate::client::{Client, lane_for};
use crate::error::Error;
use crate::operation::{Completion, Operation};

/// Windows from which on several replies are waited for at a time.
const WIDE: usize = 64;
/// Replies that are waited for together at the end of a pipeline.
const AT_ONCE: usize = 32;

/// Many requests in flight over one handle. Dropping it lets go of replies that were not collected; the requests take effect.
#[derive(Debug)]
pub struct Pipeline<'a> {
    client: &'a mut Client,
    window: usize,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(client: &'a mut Client, window: usize) -> Self {
        client.abandon();
        let window = window.clamp(1, Client::MAX_WINDOW);
        let (have, wanted) = (client.port.slots(), lane_for(window));
        if wanted > have || wanted < have / 8 {
            client.wanted_slots = wanted;
        }
        Self { client, window }
    }

    /// Submits a request; returns its ticket. When the window or the lane is full, replies are waited for and delivered first.
    ///
    /// # Errors
    /// Those of the handle itself; what befalls a single request is its [`crate::Outcome::Failed`].
    #[inline]
    pub fn submit(&mut self, operation: &Operation<'_>, on_reply: &mut dyn FnMut(Completion<'_>)) -> Result<u64, Error> {
        // Again where what was answered is a part of a long value, or nobody's any more: that makes no room in the window.
        while self.client.in_flight() >= self.window {
            // For the oldest reply, or in wide windows for some more of them, so that the two sides work on lines apart. (Measured at windows
            // of 10 and 100: waiting for half a window halves the throughput of the small one, and takes a fifth of the wide one's.)
            self.client.wait_for_nth(if self.window < WIDE { 0 } else { self.window / 8 })?;
            self.client.poll(on_reply)?;
        }
        self.client.submit_waiting(operation, on_reply)
    }

    /// Waits for all replies and delivers them.
    ///
    /// # Errors
    /// Those of [`Client::wait`].
    pub fn finish(&mut self, on_reply: &mut dyn FnMut(Completion<'_>)) -> Result<(), Error> {
        while self.client.in_flight() > 0 {
            // Half of what is left, so that taking replies and serving go on side by side; a few at the end together.
            let left = self.client.pending.len();
            self.client.wait_for_nth(if left > AT_ONCE { left / 2 } else { left - 1 })?;
            self.client.poll(on_reply)?;
        }
        Ok(())
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.client.in_flight()
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        self.client.abandon();
    }
}
