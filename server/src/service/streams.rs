//! Values that arrive or leave in parts.
//!
//! ```text
//! none ──INSERT or APPEND with the start of its value──▶ arriving ──CHUNK … CHUNK (last)──▶ committed: none
//! none ──COPY from 0──▶ leaving ──COPY … COPY (last)──▶ none
//! any ──client gone, another value begun, a part out of turn──▶ none
//! ```
//!
//! CRASH: what arrived so far is memory that no slot names; the next server's join finds it free, answers the next part with
//! `StreamLost`, and the client sends the value again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use protocol::{Condition, Reply, Status};
use shmqueue::engine::Job;
use table::{ItemRef, Reservation};

use super::{Service, answer, reply_of, table_condition, ticket};

/// Tries of an optimistic copy before the bucket is locked for it.
const TRIES: usize = 16;

/// What rests between two requests of a client.
#[derive(Debug, Default)]
enum Stream {
    #[default]
    None,
    Insert {
        reservation: Reservation,
        hash: u64,
        condition: Condition,
        got: usize,
    },
    Append {
        key: Vec<u8>,
        hash: u64,
        len: usize,
        bytes: Vec<u8>,
    },
    Copy {
        item: ItemRef,
        bytes: Vec<u8>,
    },
}

/// Per client what is between two parts.
#[derive(Debug)]
pub(crate) struct Streams {
    clients: Vec<CachePadded<Mutex<Stream>>>,
}

impl Streams {
    pub(crate) fn new(clients: u32) -> Self {
        Self { clients: (0..clients).map(|_| CachePadded::new(Mutex::new(Stream::None))).collect() }
    }

    fn of(&self, client: u32) -> MutexGuard<'_, Stream> {
        self.clients[client as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<'_> {
    fn replace_stream(&mut self, client: u32, next: Stream) {
        let before = std::mem::replace(&mut *self.streams.of(client), next);
        if let Stream::Insert { reservation, .. } = before {
            self.writer.discard(reservation);
        }
    }

    pub(super) fn drop_stream(&mut self, client: u32) {
        self.replace_stream(client, Stream::None);
    }

    #[cold]
    pub(super) fn begin_insert(&mut self, job: &Job<'_>, reservation: Reservation, hash: u64, condition: Condition, got: usize) {
        self.replace_stream(job.client, Stream::Insert { reservation, hash, condition, got });
        answer(job, Reply::bare(Status::Partial));
    }

    pub(super) fn append(&mut self, job: &Job<'_>, key: &[u8], hash: u64, len: usize, value_at: usize, here: usize) {
        if self.refuses_key(job, key) {
            return;
        }
        if len > self.max_value as usize {
            return self.refuse(job, Reply { b: self.max_value.into(), ..Reply::bare(Status::ValueSize) });
        }
        let mut bytes = Vec::with_capacity(len);
        copy_part(job, value_at, here, &mut bytes);
        if here < len {
            self.replace_stream(job.client, Stream::Append { key: key.to_vec(), hash, len, bytes });
            return answer(job, Reply::bare(Status::Partial));
        }
        self.finish_append(job, key, hash, &bytes);
    }

    fn finish_append(&mut self, job: &Job<'_>, key: &[u8], hash: u64, bytes: &[u8]) {
        let max_value = self.max_value;
        self.writer.append(key, hash, bytes, &ticket(job), |outcome| answer(job, reply_of(outcome, max_value)));
    }

    pub(super) fn chunk(&mut self, job: &Job<'_>, offset: usize, value_at: usize, here: usize) {
        let stream = std::mem::take(&mut *self.streams.of(job.client));
        match stream {
            Stream::Insert { reservation, hash, condition, got } => {
                let len = reservation.value_len() as usize;
                if offset != got || here == 0 || here > len - got {
                    self.writer.discard(reservation);
                    return self.refuse(job, Reply::bare(Status::Malformed));
                }
                // SAFETY: the reservation has room for `len` bytes, and `here` more after `got` are within them.
                unsafe { job.copy_body(value_at, reservation.value_ptr().as_ptr().add(got), here) };
                let got = got + here;
                if got < len {
                    *self.streams.of(job.client) = Stream::Insert { reservation, hash, condition, got };
                    return answer(job, Reply::bare(Status::Partial));
                }
                let max_value = self.max_value;
                self.writer.commit(reservation, hash, table_condition(condition), &ticket(job), |outcome| {
                    answer(job, reply_of(outcome, max_value));
                });
            }
            Stream::Append { key, hash, len, mut bytes } => {
                if offset != bytes.len() || here == 0 || here > len - bytes.len() {
                    return self.refuse(job, Reply::bare(Status::Malformed));
                }
                copy_part(job, value_at, here, &mut bytes);
                if bytes.len() < len {
                    *self.streams.of(job.client) = Stream::Append { key, hash, len, bytes };
                    return answer(job, Reply::bare(Status::Partial));
                }
                self.finish_append(job, &key, hash, &bytes);
            }
            _ => answer(job, Reply::bare(Status::StreamLost)),
        }
    }

    /// Answers a part of a value, from a private copy that is made with the first part.
    pub(super) fn copy_out(&mut self, job: &Job<'_>, key: &[u8], hash: u64, version: u64, offset: u32, len: u32) {
        if self.refuses_key(job, key) {
            return;
        }
        let mut stream = std::mem::take(&mut *self.streams.of(job.client));
        let mut offset = offset as usize;
        let goes_on =
            matches!(&stream, Stream::Copy { item, bytes } if item.version == version && version != 0 && offset <= bytes.len());
        if !goes_on {
            if let Stream::Insert { reservation, .. } = stream {
                self.writer.discard(reservation);
            }
            let mut bytes = Vec::new();
            let Some(item) = self.whole_value(key, hash, &mut bytes) else {
                return answer(job, Reply::bare(Status::NotFound));
            };
            stream = Stream::Copy { item, bytes };
            offset = 0;
        }
        let Stream::Copy { item, bytes } = stream else { return answer(job, Reply::bare(Status::StreamLost)) };
        let here = (bytes.len() - offset).min(len as usize).min(job.room());
        job.write_bytes(&bytes[offset..offset + here]);
        let whole = bytes.len() as u64;
        if offset + here < bytes.len() {
            *self.streams.of(job.client) = Stream::Copy { item, bytes };
        }
        answer(job, Reply { status: Status::ValueCopy, a: item.version, b: whole, c: here as u64 });
    }

    fn whole_value(&mut self, key: &[u8], hash: u64, out: &mut Vec<u8>) -> Option<ItemRef> {
        for _ in 0..TRIES {
            let item = self.writer.get(key, hash)?;
            if self.writer.value_into(&item, out).is_ok() {
                return Some(item);
            }
        }
        self.writer.value_locked(key, hash, out)
    }
}

pub(super) fn copy_part(job: &Job<'_>, at: usize, len: usize, out: &mut Vec<u8>) {
    out.reserve(len);
    // SAFETY: `len` bytes of room were reserved and are filled.
    unsafe {
        job.copy_body(at, out.as_mut_ptr().add(out.len()), len);
        out.set_len(out.len() + len);
    }
}
