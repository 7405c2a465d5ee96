//! Transactions: from a body of steps to the table's, and from what they read to the further bytes of the reply.
//!
//! The body is copied whole before anything of it is looked at; the answer is made whole, and written into the lane, before the table
//! commits. So a successor of this server has only the reply's words to publish.
//!
//! CRASH: bytes in the lane without a commit are written anew when the request is served anew.

use protocol::{
    MAX_KEY, MAX_STEPS, MAX_TRANSACTION, Reply, Status, Steps, Tally, WRITE_ANSWER, Write, encode_read_answer,
    encode_write_answer, read_answer_len,
};
use shmqueue::engine::Job;
use table::{Answer, Change, Declined, Step};

use super::streams::copy_part;
use super::{Service, answer, reply_of, ticket};

/// The steps of a request, as the table takes them.
struct Parts<'b> {
    steps: [Step<'b>; MAX_STEPS],
    /// Which of them are answered with what was there.
    reads: [bool; MAX_STEPS],
    len: usize,
}

impl Service<'_> {
    #[cold]
    pub(super) fn transaction(&mut self, job: &Job<'_>) {
        let len = job.envelope.body_len as usize;
        if len > MAX_TRANSACTION {
            return self.refuse(job, Reply::bare(Status::Malformed));
        }
        let mut body = std::mem::take(&mut self.value);
        body.clear();
        copy_part(job, 0, len, &mut body);
        match self.parts(&body) {
            Ok(parts) => self.transact(job, &parts),
            Err(refusal) => self.refuse(job, refusal),
        }
        self.value = body;
    }

    /// Decodes the steps, and checks them against the limits.
    fn parts<'b>(&self, body: &'b [u8]) -> Result<Parts<'b>, Reply> {
        let nothing = Step { key: &[], compare: None, change: Change::None };
        let mut parts = Parts { steps: [nothing; MAX_STEPS], reads: [false; MAX_STEPS], len: 0 };
        for step in Steps::new(body) {
            let step = step.map_err(|_| Reply::bare(Status::Malformed))?;
            if parts.len == MAX_STEPS {
                return Err(Reply::bare(Status::Malformed));
            }
            if step.key.is_empty() || step.key.len() > MAX_KEY {
                return Err(Reply::bare(Status::KeySize));
            }
            let change = match step.write {
                None => Change::None,
                Some(Write::Delete) => Change::Delete,
                Some(Write::Insert { value, .. }) if value.len() > self.max_value as usize => {
                    return Err(Reply { b: self.max_value.into(), ..Reply::bare(Status::ValueSize) });
                }
                Some(Write::Insert { value, ttl }) => Change::Insert { value, expiry: self.expiry(ttl) },
            };
            parts.steps[parts.len] = Step { key: step.key, compare: step.compare, change };
            parts.reads[parts.len] = step.read;
            parts.len += 1;
        }
        Ok(parts)
    }

    fn transact(&mut self, job: &Job<'_>, parts: &Parts<'_>) {
        let (steps, reads) = (&parts.steps[..parts.len], &parts.reads[..parts.len]);
        let (max_value, room) = (self.max_value, &mut self.room);
        let (mut needed, mut found, mut missed) = (0, 0, 0);
        let write = |told: &Answer<'_>| {
            needed = answer_len(told, steps, reads);
            if needed > job.room() {
                return None;
            }
            room.clear();
            encode(told, steps, reads, room);
            job.write_bytes(room);
            let asked = || (0..steps.len()).filter(|&at| reads[at]);
            found = asked().filter(|&at| told.item(at).is_some()).count() as u64;
            missed = asked().count() as u64 - found;
            Some(room.len() as u64)
        };
        let done = self.writer.transact(steps, &ticket(job), write, |outcome| {
            answer(job, reply_of(outcome, max_value));
        });
        match done {
            Ok(()) => {
                self.tallies[Tally::Hits as usize] += found;
                self.tallies[Tally::Misses as usize] += missed;
            }
            Err(Declined::NoRoom) => answer(job, Reply { b: needed as u64, ..Reply::bare(Status::RoomTooSmall) }),
            Err(_) => self.refuse(job, Reply::bare(Status::Malformed)),
        }
    }
}

/// Bytes of the whole answer.
fn answer_len(told: &Answer<'_>, steps: &[Step<'_>], reads: &[bool]) -> usize {
    let read = |at: usize| read_answer_len(told.item(at).map_or(0, |item| item.value_len as usize));
    (0..steps.len())
        .map(|at| if reads[at] { read(at) } else { 0 } + if steps[at].change == Change::None { 0 } else { WRITE_ANSWER })
        .sum()
}

fn encode(told: &Answer<'_>, steps: &[Step<'_>], reads: &[bool], out: &mut Vec<u8>) {
    for at in 0..steps.len() {
        if reads[at] {
            let (version, len) = told.item(at).map_or((0, 0), |item| (item.version, item.value_len));
            encode_read_answer(version, len, out, |out| {
                let _ = told.append_value(at, out);
            });
        }
        if steps[at].change != Change::None {
            encode_write_answer(told.version(at), out);
        }
    }
}
