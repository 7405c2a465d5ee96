//! The poll level: submit, poll, wait; pipelines and sync calls stand on it.

use protocol::{Entries, Head, Kind, MAX_KEY, MAX_VALUE, Reply, Status, encode_chunk, inline_bytes};
use shmqueue::lane::{span_of_body, span_of_reply};
use shmqueue::port::{Patience, Waited};
use std::time::Duration;

use crate::client::{Client, PART, Pending, encode};
use crate::error::{Error, Submit, refusal};
use crate::expiry::Remaining;
use crate::operation::{Completion, Items, Operation, Outcome};
use crate::options::{Options, ServerGone};

impl Client {
    /// Submits a request without waiting, system call (but for a wake when every worker sleeps) or allocation. It is announced by
    /// [`Client::poll`], [`Client::wait`] or [`Client::flush`]. (A request for which the lane is too small makes it grow when nothing
    /// is unanswered: one round trip, once; [`crate::Options::window`] avoids it.)
    ///
    /// # Errors
    /// [`Submit::WouldBlock`] when the lane is full; [`Submit::Refused`] for what can never be taken, a value beyond
    /// [`Client::MAX_POLLED_VALUE`] included.
    #[inline]
    pub fn try_submit(&mut self, operation: &Operation<'_>) -> Result<u64, Submit> {
        if self.port.forked() {
            return Err(Submit::Refused(Error::Forked));
        }
        if self.gone {
            self.reopen().map_err(Submit::Refused)?;
        }
        let (head, key, value, reply_room) = encode(operation);
        if key.len() > MAX_KEY || (key.is_empty() && head.kind != Kind::Ping) {
            return Err(Submit::Refused(Error::KeySize { found: key.len() }));
        }
        if value.len() > PART {
            return Err(Submit::Refused(Error::Unfit("a value that long streams in parts; use a sync call or a pipeline")));
        }
        let body = head.bytes().len() + key.len() + value.len();
        let span = span_of_body(body).max(span_of_reply(reply_room));
        if self.wanted_slots != 0 && self.pending.is_empty() {
            self.fit().map_err(Submit::Refused)?;
        }
        if span as u64 > self.port.room() {
            self.want(span);
            if !self.pending.is_empty() {
                return Err(Submit::WouldBlock);
            }
            self.fit().map_err(Submit::Refused)?;
            if span as u64 > self.port.room() {
                return Err(Submit::WouldBlock);
            }
        }
        Ok(self.send(&head, key, value, span, operation.is_write(), false, value.len()))
    }

    /// Asks for a lane with more slots than the one that had no room for `span`.
    #[cold]
    pub(crate) fn want(&mut self, span: usize) {
        self.wanted_slots = (self.port.slots() * 4).max(span as u32 * 4).min(self.port.most_slots());
    }

    /// Brings the wanted slots into use. Nothing is unanswered.
    #[cold]
    pub(crate) fn fit(&mut self) -> Result<(), Error> {
        let wanted = std::mem::take(&mut self.wanted_slots).max(1);
        let end = self.port.resize(wanted, &patience(&self.options));
        self.waited(end, false)
    }

    /// Announces what was submitted.
    #[inline]
    pub fn flush(&mut self) {
        self.port.announce();
    }

    /// Delivers the replies that are there, in the order of submission. Never waits. Returns how many were delivered.
    ///
    /// # Errors
    /// [`Error::Forked`]; [`Error::Protocol`] when a reply makes no sense.
    #[inline]
    pub fn poll(&mut self, on_reply: &mut dyn FnMut(Completion<'_>)) -> Result<usize, Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        self.port.announce();
        let mut delivered = 0;
        while let Some(pending) = self.pending.front().copied() {
            let Some(reply) = self.take_reply(&pending)? else { break };
            if pending.part {
                self.retire(&pending);
                continue;
            }
            if !pending.abandoned {
                delivered += 1;
                self.in_flight -= 1;
                let outcome = self.outcome(&pending, &reply);
                on_reply(Completion { ticket: pending.ticket, outcome });
            }
            self.retire(&pending);
        }
        Ok(delivered)
    }

    /// Waits until the oldest reply is there, as the options say.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::ServerGone`], [`Error::Interrupted`], [`Error::Forked`].
    #[inline]
    pub fn wait(&mut self) -> Result<(), Error> {
        // A reply to a part is not yet a reply to the request: wait for the request's last one.
        let Some(pending) = self.pending.iter().find(|pending| !pending.part && !pending.abandoned).copied() else {
            return Ok(());
        };
        self.wait_for(&pending)
    }

    /// Waits until the replies up to the `nth` unanswered request (from 0) can be polled, or, where there are fewer, the oldest.
    #[inline]
    pub(crate) fn wait_for_nth(&mut self, nth: usize) -> Result<(), Error> {
        match self.pending.get(nth).copied() {
            Some(pending) => self.wait_for(&pending),
            None => self.wait(),
        }
    }

    pub(crate) fn wait_for(&mut self, pending: &Pending) -> Result<(), Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        let end = self.port.wait(pending.position, &patience(&self.options));
        self.waited(end, pending.write)
    }

    #[inline]
    fn waited(&mut self, end: Waited, write: bool) -> Result<(), Error> {
        match end {
            Waited::Answered => Ok(()),
            Waited::Deadline => Err(Error::TimedOut { after: self.options.timeout, write }),
            Waited::Interrupted => Err(Error::Interrupted { write }),
            Waited::ServerGone => {
                self.gone = true;
                Err(Error::ServerGone { write })
            }
        }
    }

    /// Submits, waiting for room and delivering replies on the way where there is none; long values go in parts.
    pub(crate) fn submit_waiting(
        &mut self,
        operation: &Operation<'_>,
        on_reply: &mut dyn FnMut(Completion<'_>),
    ) -> Result<u64, Error> {
        loop {
            if operation.value_len() > PART {
                return self.submit_parts(operation, on_reply);
            }
            match self.try_submit(operation) {
                Ok(ticket) => return Ok(ticket),
                Err(Submit::Refused(error)) => return Err(error),
                Err(Submit::WouldBlock) => self.make_room(self.wanted_slots > self.port.slots(), on_reply)?,
            }
        }
    }

    /// Waits for the oldest request, or for `all`, and delivers what there is.
    fn make_room(&mut self, all: bool, on_reply: &mut dyn FnMut(Completion<'_>)) -> Result<(), Error> {
        while let Some(oldest) = self.pending.front().copied() {
            self.wait_for(&oldest)?;
            self.poll(on_reply)?;
            if !all {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn submit_parts(
        &mut self,
        operation: &Operation<'_>,
        on_reply: &mut dyn FnMut(Completion<'_>),
    ) -> Result<u64, Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        let (head, key, value, _) = encode(operation);
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Error::KeySize { found: key.len() });
        }
        if value.len() > self.max_value() {
            return Err(Error::ValueSize { found: value.len(), most: self.max_value() });
        }
        if self.port.slots() < self.port.most_slots() {
            self.make_room(true, on_reply)?;
            self.wanted_slots = self.port.most_slots();
            self.fit()?;
        }
        let mut at = 0;
        let mut ticket = 0;
        while at < value.len() {
            let len = PART.min(value.len() - at);
            let last = at + len == value.len();
            let chunk = encode_chunk(at);
            let (head, key) = if at == 0 { (&head, key) } else { (&chunk, &b""[..]) };
            let span = span_of_body(head.bytes().len() + key.len() + len);
            while span as u64 > self.port.room() {
                self.make_room(false, on_reply)?;
            }
            ticket = self.send(head, key, &value[at..at + len], span, true, !last, value.len());
            self.port.announce();
            at += len;
        }
        Ok(ticket)
    }

    #[allow(clippy::too_many_arguments, reason = "private, and every part is another fact of the one request")]
    #[inline]
    pub(crate) fn send(
        &mut self,
        head: &Head,
        key: &[u8],
        value: &[u8],
        span: usize,
        write: bool,
        part: bool,
        value_len: usize,
    ) -> u64 {
        let position = self.port.send(head.kind as u8, head.flags, span as u16, [head.bytes(), key, value]);
        if write {
            self.newest_write = Some(position);
        }
        let ticket = self.next_ticket;
        self.pending.push_back(Pending {
            ticket,
            position,
            span: span as u16,
            key_len: key.len() as u16,
            value_len: value_len as u32,
            write,
            part,
            abandoned: false,
        });
        if !part {
            self.next_ticket += 1;
            self.in_flight += 1;
        }
        ticket
    }

    /// The decoded reply of a request, if it is there. A failed part's reply stands for the whole request.
    #[inline]
    pub(crate) fn take_reply(&mut self, pending: &Pending) -> Result<Option<Reply>, Error> {
        let Some(raw) = self.port.reply(pending.position) else { return Ok(None) };
        let Some(status) = Status::from_raw(raw.status) else {
            return Err(Error::Protocol("a reply of unknown status"));
        };
        let reply = Reply { status, a: raw.a, b: raw.b, c: raw.c };
        if pending.part {
            if status != Status::Partial && self.failed_part.is_none() {
                self.failed_part = Some(reply);
            }
            return Ok(Some(reply));
        }
        Ok(Some(self.failed_part.take().unwrap_or(reply)))
    }

    /// The reply of the head of the queue has been used: its slots are free again.
    #[inline]
    pub(crate) fn retire(&mut self, pending: &Pending) {
        self.pending.pop_front();
        self.port.advance(u64::from(pending.span));
    }

    #[inline]
    fn outcome(&mut self, pending: &Pending, reply: &Reply) -> Outcome<'_> {
        let version = reply.version();
        match reply.status {
            Status::Inserted => Outcome::Stored { replaced: false, version },
            Status::Replaced => Outcome::Stored { replaced: true, version },
            Status::Deleted => Outcome::Deleted { version },
            Status::NotFound => Outcome::NotFound,
            Status::Value => {
                self.small = inline_bytes(reply.b, reply.c);
                Outcome::Value { version, bytes: &self.small[..reply.inline_len()] }
            }
            Status::ValueRef => {
                self.scratch.clear();
                let len = (reply.c as usize).min(MAX_VALUE);
                match &self.table {
                    Some(table) if table.copy(reply.b, version, pending.key_len.into(), len, &mut self.scratch) => {
                        Outcome::Value { version, bytes: &self.scratch }
                    }
                    _ => Outcome::Failed(Error::Overtaken),
                }
            }
            Status::Items => {
                self.scratch.clear();
                let room = (usize::from(pending.span) - 1) * 32;
                self.port.reply_bytes(pending.position, (reply.c as u32 as usize).min(room), &mut self.scratch);
                Outcome::Items {
                    bucket: reply.a,
                    items: Items { entries: Entries::new(&self.scratch), table: self.table.as_ref(), room: Vec::new() },
                    whole: reply.c >> 32 == 0,
                }
            }
            Status::RoomTooSmall => {
                let items = Items { entries: Entries::new(&[]), table: None, room: Vec::new() };
                Outcome::Items { bucket: reply.a, items, whole: false }
            }
            Status::ConditionNotMet => Outcome::ConditionNotMet { version },
            Status::Number => Outcome::Number { value: reply.b as i64, version },
            Status::Length => Outcome::Length { len: reply.b, version },
            Status::Expiry => Outcome::Expiry { version, remaining: Remaining::of(reply) },
            Status::ExpirySet => Outcome::ExpirySet { version },
            Status::Pong => Outcome::Pong,
            _ => Outcome::Failed(
                refusal(reply, pending.key_len.into(), pending.value_len as usize)
                    .unwrap_or(Error::Protocol("a reply that does not fit the request")),
            ),
        }
    }
}

/// How long the options have a wait last, and what ends it.
#[inline]
fn patience(options: &Options) -> Patience<'_> {
    Patience {
        timeout: options.timeout,
        interrupt: options.interrupt.as_deref(),
        successor: match options.server_gone {
            ServerGone::Wait(at_most) => at_most,
            ServerGone::FailFast => Duration::ZERO,
        },
    }
}
