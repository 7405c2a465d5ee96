//! From request to table to reply: the handler that each worker runs.
//!
//! A batch is decoded and its buckets prefetched in groups, then applied in order. What a request needs beyond one reply (a
//! value that arrives in parts, a copy that leaves in parts) rests in [`Streams`], under the client's index.
//!
//! Nothing here allocates, locks or calls the kernel for a request whose value fits one part; [`Streams`] has a lock per
//! client, taken for parts only and never waited for by others than that client's own requests.

mod expiry;
mod listing;
mod streams;
mod transaction;

use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::{
    Condition, Counter, HEAD_MAX, INLINE_MAX, MAX_KEY, Reply, Request, Status, TALLIES, TYPE_BYTES, Tally, Ttl, decode,
    inline_words,
};
use shmqueue::engine::{Ahead, Handler, Job};
use shmqueue::layout::{FIRST_BODY, ServerStatus};
use table::{ItemRef, Outcome, Refused, Table, Ticket, Writer};

pub(crate) use streams::Streams;

/// Requests whose buckets are prefetched together.
const GROUP: usize = 8;
/// Requests for which a bucket is swept while there is something to sweep: about a fifth of the time.
const REQUESTS_PER_BUCKET: u32 = 4;
/// Requests served until a worker that is not idle looks whether something is to be done ahead: a look reads the clock.
const REQUESTS_PER_LOOK: u32 = 64;
/// Buckets swept in one step: some microseconds.
const MOST_SWEPT: u32 = 16;
/// The same by a worker that has nothing else to do: about a microsecond, which is what a request that comes meanwhile waits.
pub(crate) const SWEPT_IDLE: u32 = 4;

/// The handler of one worker.
pub(crate) struct Service<'a> {
    writer: Writer<'a>,
    streams: &'a Streams,
    tallies: [u64; TALLIES],
    /// Requests served since the last step ahead.
    served: u32,
    /// There was more to do ahead than that step did.
    more: bool,
    max_value: u32,
    /// First part of a body that is longer than its first slot.
    front: Vec<u8>,
    /// A value or listing on its way.
    room: Vec<u8>,
    value: Vec<u8>,
}

impl<'a> Service<'a> {
    pub(crate) fn new(table: &'a Table, streams: &'a Streams, worker: u32, max_value: u32) -> Self {
        Self {
            writer: table.writer(worker),
            tallies: [0; TALLIES],
            served: 0,
            more: false,
            streams,
            max_value,
            front: Vec::with_capacity(HEAD_MAX),
            room: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Serves one decoded request.
    #[inline]
    fn apply(&mut self, job: &Job<'_>, request: &Request<'_>, hash: u64, body: &[u8]) {
        match *request {
            Request::Read { key } => self.read(job, key, hash),
            Request::Insert { key, condition, ttl, value_len, value_at, here } => {
                self.insert(job, key, hash, condition, ttl, value_len, value_at, here, body);
            }
            Request::Delete { key, condition } => self.delete(job, key, hash, condition),
            Request::Bucket { key, skip } => self.bucket(job, key, hash, skip),
            Request::Ping => answer(job, Reply::bare(Status::Pong)),
            _ => self.apply_rare(job, request, hash),
        }
    }

    #[cold]
    fn apply_rare(&mut self, job: &Job<'_>, request: &Request<'_>, hash: u64) {
        match *request {
            Request::Incr { key, by, ttl } => self.incr(job, key, hash, by, ttl),
            Request::Ttl { key } => self.ttl(job, key, hash),
            Request::Expire { key, ttl } => self.expire(job, key, hash, Ttl::For(ttl)),
            Request::Persist { key } => self.expire(job, key, hash, Ttl::None),
            Request::Clear => self.clear(job),
            Request::Append { key, len, value_at, here } => self.append(job, key, hash, len, value_at, here),
            Request::Chunk { offset, value_at, here } => self.chunk(job, offset, value_at, here),
            Request::Copy { key, version, offset, len } => self.copy_out(job, key, hash, version, offset, len),
            Request::Scan { cursor, buckets, skip } => self.scan(job, cursor, buckets, skip),
            Request::DeleteStep { cursor, buckets, prefix } => {
                if prefix.len() > MAX_KEY {
                    return self.refuse(job, Reply::bare(Status::KeySize));
                }
                let (removed, next) = self.writer.delete_step(cursor, buckets.min(listing::MOST_BUCKETS), prefix);
                answer(job, Reply { status: Status::Stepped, a: removed, b: next.unwrap_or(u64::MAX), c: 0 });
            }
            Request::Transaction => self.transaction(job),
            _ => self.refuse(job, Reply::bare(Status::Malformed)),
        }
    }

    #[inline]
    fn count(&mut self, tally: Tally) {
        self.tallies[tally as usize] += 1;
    }

    fn refuse(&mut self, job: &Job<'_>, reply: Reply) {
        self.count(Tally::Refused);
        answer(job, reply);
    }

    #[inline]
    fn refuses_key(&mut self, job: &Job<'_>, key: &[u8]) -> bool {
        let bad = key.is_empty() || key.len() > MAX_KEY;
        if bad {
            self.refuse(job, Reply::bare(Status::KeySize));
        }
        bad
    }

    #[inline]
    fn read(&mut self, job: &Job<'_>, key: &[u8], hash: u64) {
        if self.refuses_key(job, key) {
            return;
        }
        while let Some(item) = self.writer.get(key, hash) {
            if item.value_len as usize > INLINE_MAX {
                self.count(Tally::Hits);
                let reply = Reply { status: Status::ValueRef, a: item.version, b: item.offset, c: item.value_len.into() };
                return answer(job, reply);
            }
            if let Some((b, c)) = self.small_value(&item) {
                self.count(Tally::Hits);
                return answer(job, Reply::inline(item.version, item.value_len as usize, b, c));
            }
        }
        self.count(Tally::Misses);
        answer(job, Reply::bare(Status::NotFound));
    }

    #[inline]
    fn small_value(&self, item: &ItemRef) -> Option<(u64, u64)> {
        let mut bytes = [0u8; INLINE_MAX];
        // SAFETY: the array has room for the item's value, whose length was checked against it.
        let copied = unsafe { self.writer.read_value(item, 0, item.value_len, bytes.as_mut_ptr()) };
        copied.ok().map(|()| inline_words(&bytes))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one request")]
    #[inline]
    fn insert(
        &mut self,
        job: &Job<'_>,
        key: &[u8],
        hash: u64,
        condition: Condition,
        ttl: Ttl,
        value_len: usize,
        value_at: usize,
        here: usize,
        body: &[u8],
    ) {
        if self.refuses_key(job, key) {
            return;
        }
        if value_len > self.max_value as usize {
            return self.refuse(job, Reply { b: self.max_value.into(), ..Reply::bare(Status::ValueSize) });
        }
        let mut reservation = match self.writer.reserve(key, value_len as u32, TYPE_BYTES, self.expiry(ttl)) {
            Ok(reservation) => reservation,
            Err(Refused::Full) => return answer(job, Reply::bare(Status::Full)),
            Err(_) => return self.refuse(job, Reply::bare(Status::Malformed)),
        };
        match body.get(value_at..value_at + here) {
            Some(value) if here == value_len => reservation.write_value(value),
            // SAFETY: the reservation has room for `value_len` bytes, and a decoded insert has at most so many here.
            _ => unsafe { job.copy_body(value_at, reservation.value_ptr().as_ptr(), here) },
        }
        if here < value_len {
            return self.begin_insert(job, reservation, hash, condition, here);
        }
        let max_value = self.max_value;
        self.writer.commit(reservation, hash, table_condition(condition), &ticket(job), |outcome| {
            answer(job, reply_of(outcome, max_value));
        });
    }

    #[inline]
    fn delete(&mut self, job: &Job<'_>, key: &[u8], hash: u64, condition: Condition) {
        if self.refuses_key(job, key) {
            return;
        }
        let max_value = self.max_value;
        self.writer
            .delete(key, hash, table_condition(condition), &ticket(job), |outcome| answer(job, reply_of(outcome, max_value)));
    }

    /// Serves a request by itself.
    fn serve(&mut self, job: &Job<'_>) {
        let len = job.envelope.body_len as usize;
        if len <= FIRST_BODY {
            let first = job.first();
            return self.serve_body(job, &first[..len]);
        }
        let mut body = std::mem::take(&mut self.front);
        let len = len.min(HEAD_MAX + 1);
        body.clear();
        body.reserve(len);
        // SAFETY: `len` bytes of room were reserved, and they are within the body.
        unsafe {
            job.copy_body(0, body.as_mut_ptr(), len);
            body.set_len(len);
        }
        self.serve_body(job, &body);
        self.front = body;
    }

    /// Serves a request of which `body` is the private copy of the body, or of its first part.
    #[inline]
    fn serve_body(&mut self, job: &Job<'_>, body: &[u8]) {
        let envelope = &job.envelope;
        match decode(envelope.kind, envelope.flags, body, envelope.body_len as usize) {
            Ok(request) => {
                let hash = key_of(&request).map_or(0, |key| self.writer.hash(key));
                self.apply(job, &request, hash, body);
            }
            Err(_) => self.refuse(job, Reply::bare(Status::Malformed)),
        }
    }
}

impl Handler for Service<'_> {
    fn process(&mut self, batch: &[Job<'_>]) {
        self.writer.refresh_clock();
        self.served += batch.len() as u32;
        if let [job] = batch {
            return self.serve(job);
        }
        for group in batch.chunks(GROUP) {
            let firsts: [[u8; FIRST_BODY]; GROUP] = std::array::from_fn(|at| group.get(at).map_or([0; FIRST_BODY], Job::first));
            // Only the hash is kept of what is decoded here: decoding a small request again costs less than keeping its parts.
            let mut hashes = [None; GROUP];
            for ((job, first), place) in group.iter().zip(&firsts).zip(&mut hashes) {
                let Some(request) = small(job, first) else { continue };
                let Some(key) = key_of(&request) else { continue };
                let hash = self.writer.hash(key);
                self.writer.prefetch(hash);
                *place = Some((hash, !matches!(request, Request::Insert { .. })));
            }
            for (hash, _) in hashes.iter().flatten().filter(|(_, reads_item)| *reads_item) {
                self.writer.prefetch_item(*hash);
            }
            for ((job, first), hash) in group.iter().zip(&firsts).zip(hashes) {
                match (hash, small(job, first)) {
                    (Some((hash, _)), Some(request)) => self.apply(job, &request, hash, &first[..job.envelope.body_len as usize]),
                    _ => self.serve(job),
                }
            }
        }
    }

    fn take_tallies(&mut self) -> [u64; TALLIES] {
        std::mem::take(&mut self.tallies)
    }

    fn work_ahead(&mut self, busy: bool) -> Ahead {
        if busy && !self.more && self.served < REQUESTS_PER_LOOK {
            return Ahead::Nothing;
        }
        let served = std::mem::take(&mut self.served);
        let buckets = if busy { (served / REQUESTS_PER_BUCKET).clamp(1, MOST_SWEPT) } else { SWEPT_IDLE };
        self.writer.refresh_clock();
        let ahead = self.writer.work_ahead(buckets);
        self.more = ahead == table::Ahead::More;
        match ahead {
            table::Ahead::More => Ahead::More,
            table::Ahead::At(due_ms) => Ahead::In(Duration::from_millis(due_ms.saturating_sub(self.writer.now_ms()).max(1))),
            table::Ahead::Nothing => Ahead::Nothing,
        }
    }

    fn hints(&mut self, hints: &[u64]) {
        self.writer.hint(hints);
    }

    fn rest(&mut self) {
        // Freed memory in this worker's cache is no use to the worker that wakes next.
        self.writer.trim();
    }

    fn forget(&mut self, client: u32) {
        self.drop_stream(client);
    }
}

/// A request whose body is whole in its first slot.
#[inline(always)]
fn small<'a>(job: &Job<'_>, first: &'a [u8; FIRST_BODY]) -> Option<Request<'a>> {
    let (envelope, len) = (&job.envelope, job.envelope.body_len as usize);
    decode(envelope.kind, envelope.flags, first.get(..len)?, len).ok()
}

#[inline]
fn key_of<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    match *request {
        Request::Read { key }
        | Request::Insert { key, .. }
        | Request::Delete { key, .. }
        | Request::Bucket { key, .. }
        | Request::Copy { key, .. }
        | Request::Incr { key, .. }
        | Request::Append { key, .. }
        | Request::Ttl { key }
        | Request::Expire { key, .. }
        | Request::Persist { key } => Some(key),
        _ => None,
    }
}

#[inline]
fn ticket(job: &Job<'_>) -> Ticket {
    Ticket { shard: job.shard, client: job.client, generation: job.generation, position: job.position }
}

#[inline]
fn answer(job: &Job<'_>, reply: Reply) {
    job.reply(reply.status as u8, reply.a, reply.b, reply.c);
}

#[inline]
fn table_condition(condition: Condition) -> table::Condition {
    match condition {
        Condition::Always => table::Condition::None,
        Condition::IfAbsent => table::Condition::IfAbsent,
        Condition::IfPresent => table::Condition::IfPresent,
        Condition::IfVersion(version) => table::Condition::IfVersion(version),
    }
}

/// The reply that tells an outcome.
#[inline]
pub(crate) fn reply_of(outcome: &Outcome, max_value: u32) -> Reply {
    match *outcome {
        Outcome::Inserted { version } => Reply::versioned(Status::Inserted, version),
        Outcome::Replaced { version } => Reply::versioned(Status::Replaced, version),
        Outcome::Deleted { version } => Reply::versioned(Status::Deleted, version),
        Outcome::NotFound => Reply::bare(Status::NotFound),
        Outcome::ConditionNotMet { version } => Reply::versioned(Status::ConditionNotMet, version),
        Outcome::Number { value, version } => Reply { b: value as u64, ..Reply::versioned(Status::Number, version) },
        Outcome::Length { len, version } => Reply { b: len.into(), ..Reply::versioned(Status::Length, version) },
        Outcome::Expires { version } => Reply::versioned(Status::ExpirySet, version),
        Outcome::Cleared { count } => Reply { a: count, ..Reply::bare(Status::Cleared) },
        Outcome::Committed { version, value } => Reply { c: value, ..Reply::versioned(Status::Committed, version) },
        Outcome::Mismatch { step, version } => Reply { status: Status::Mismatch, a: step.into(), b: version, c: 0 },
        Outcome::NotANumber => Reply::bare(Status::NotANumber),
        Outcome::Overflow => Reply::bare(Status::Overflow),
        Outcome::Full => Reply::bare(Status::Full),
        Outcome::ChainFull => Reply::bare(Status::ChainFull),
        Outcome::TooLong => Reply { b: max_value.into(), ..Reply::bare(Status::ValueSize) },
    }
}

/// Publishes what the table has counted.
pub(crate) fn publish_counters(status: &ServerStatus, table: &Table) {
    let stats = table.stats();
    let publish = |counter: Counter, value: u64| status.counters[counter as usize].store(value, Ordering::Relaxed);
    publish(Counter::Items, stats.items);
    publish(Counter::Buckets, stats.buckets);
    publish(Counter::MemoryUsedBytes, stats.memory_used_bytes);
    publish(Counter::MemoryLimitBytes, stats.memory_limit_bytes);
    publish(Counter::FullTotal, stats.full_total + stats.chain_full_total);
    publish(Counter::ExpiredTotal, stats.expired_total);
    publish(Counter::EvictedTotal, stats.evicted_total);
    publish(Counter::ExpiryLagMs, stats.expiry_lag_ms);
}
