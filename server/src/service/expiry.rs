//! Times to live: what requests say in milliseconds from now becomes a time of the region's clock, and back.
//!
//! The clock is the writer's. It stands still within a group of requests that are served together, so a time to live is counted from
//! the moment its group was begun, and no item outlives what was asked for.

use std::time::Duration;

use protocol::{Reply, Status, Ttl, ttl_ms};
use shmqueue::engine::Job;
use table::{Expiry, ItemRef};

use super::{Service, answer, reply_of, ticket};

impl Service<'_> {
    /// The expiry that a time to live stands for.
    #[inline]
    pub(super) fn expiry(&self, ttl: Ttl) -> Expiry {
        match ttl {
            Ttl::None => Expiry::Never,
            Ttl::Keep => Expiry::Keep,
            Ttl::For(ttl) => self.writer.deadline(ttl_ms(ttl)),
        }
    }

    /// Milliseconds that an item still has to live; `None`: until it is removed.
    #[inline]
    pub(super) fn remaining_ms(&self, item: &ItemRef) -> Option<u64> {
        (item.expiry != 0).then(|| item.expiry.saturating_sub(self.writer.now_ms()))
    }

    pub(super) fn ttl(&mut self, job: &Job<'_>, key: &[u8], hash: u64) {
        if self.refuses_key(job, key) {
            return;
        }
        let reply = match self.writer.get(key, hash) {
            Some(item) => {
                let left = self.remaining_ms(&item).unwrap_or(u64::MAX);
                Reply { b: left, ..Reply::versioned(Status::Expiry, item.version) }
            }
            None => Reply::bare(Status::NotFound),
        };
        answer(job, reply);
    }

    /// EXPIRE, and with [`Ttl::None`] PERSIST.
    pub(super) fn expire(&mut self, job: &Job<'_>, key: &[u8], hash: u64, ttl: Ttl) {
        if self.refuses_key(job, key) {
            return;
        }
        let (expiry, max_value) = (self.expiry(ttl), self.max_value);
        self.writer.expire(key, hash, expiry, &ticket(job), |outcome| answer(job, reply_of(outcome, max_value)));
    }

    pub(super) fn incr(&mut self, job: &Job<'_>, key: &[u8], hash: u64, by: i64, ttl: Option<Duration>) {
        if self.refuses_key(job, key) {
            return;
        }
        let (expiry, max_value) = (self.expiry(ttl.map_or(Ttl::None, Ttl::For)), self.max_value);
        self.writer.incr(key, hash, by, expiry, &ticket(job), |outcome| answer(job, reply_of(outcome, max_value)));
    }

    pub(super) fn clear(&mut self, job: &Job<'_>) {
        let max_value = self.max_value;
        self.writer.clear(&ticket(job), |outcome| answer(job, reply_of(outcome, max_value)));
    }
}
