//! The handle: attach, submit, poll, wait, and the sync calls on top.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::{
    Condition, Entries, Head, Kind, MAX_KEY, MAX_VALUE, Reply, Status, encode_append, encode_bucket, encode_chunk, encode_copy,
    encode_delete, encode_incr, encode_insert, encode_read, inline_bytes,
};
use shmqueue::lane::{span_of_body, span_of_reply};
use shmqueue::port::{Patience, Port, Waited};
use shmqueue::region::{ClientRegion, RegionName};

use crate::error::{Error, Submit, refusal};
use crate::operation::{Completion, Items, Operation, Outcome};
use crate::options::{Options, ServerGone};
use crate::pipeline::Pipeline;
use crate::table_map::TableMap;

/// Bytes of a value that travel in one request; longer ones stream in parts of this size.
const PART: usize = 16 << 10;
/// Bytes that a bucket listing makes room for at first.
const BUCKET_ROOM: usize = 224;
/// Tries of a read by reference before a copy through the lane is asked for.
const REFERENCE_TRIES: usize = 3;
/// Bytes of one part of a copy through the lane.
const COPY_PART: usize = 16 << 10;

/// What an insert did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Whether a value was there before.
    pub replaced: bool,
    /// The new item's version.
    pub version: u64,
}

/// A request whose reply has not been taken.
#[derive(Clone, Copy, Debug)]
struct Pending {
    ticket: u64,
    position: u64,
    span: u16,
    key_len: u16,
    value_len: u32,
    write: bool,
    /// Further parts of the same request follow: this reply is not the last.
    part: bool,
    /// Nobody wants to hear of it.
    abandoned: bool,
}

/// A handle on a region: one client slot, its lanes, and a read-only view of the table.
#[derive(Debug)]
pub struct Client {
    port: Port,
    table: Option<TableMap>,
    options: Options,
    pending: VecDeque<Pending>,
    /// Tickets in flight that are not abandoned.
    in_flight: usize,
    next_ticket: u64,
    /// The first failure among the parts of the request at the head.
    failed_part: Option<Reply>,
    scratch: Vec<u8>,
}

impl Client {
    /// Most requests in flight.
    pub const MAX_WINDOW: usize = 1024;
    /// Longest value that [`Client::try_submit`] takes, in bytes: what fits the lane without waiting.
    pub const MAX_POLLED_VALUE: usize = PART;

    /// Attaches to a region's least contended shard.
    ///
    /// # Errors
    /// [`Error::NoServer`] when no server is there within `wait_for_server`, [`Error::NoSlot`], [`Error::Region`] for a region of another
    /// layout, without rights, or damaged.
    pub fn attach(options: &Options) -> Result<Self, Error> {
        let name = RegionName::new(&options.dir, &options.name)?;
        let region = join(&name, options)?;
        let table = TableMap::open(&name, region.header().uuid())?;
        let port = Port::attach(&region, &options.client_name, options.wait)?;
        let slots = port.slots() as usize;
        Ok(Self {
            port,
            table,
            options: options.clone(),
            pending: VecDeque::with_capacity(slots),
            in_flight: 0,
            next_ticket: 0,
            failed_part: None,
            scratch: Vec::new(),
        })
    }

    /// The shard this handle works with.
    pub fn shard(&self) -> u32 {
        self.port.attachment().shard()
    }

    /// Index of this handle's client slot.
    pub fn id(&self) -> u32 {
        self.port.attachment().index()
    }

    /// Process id of the server, as the server sees it.
    pub fn server_pid(&self) -> u32 {
        self.port.status().server_pid.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Largest value the server takes, in bytes.
    pub fn max_value(&self) -> usize {
        (self.port.status().max_value.load(std::sync::atomic::Ordering::Relaxed) as usize).clamp(1, MAX_VALUE)
    }

    /// Requests in flight whose replies can still be polled.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests in flight over one handle; see [`Pipeline`]. `window`: 1 to [`Client::MAX_WINDOW`]; others are brought within.
    pub fn pipeline(&mut self, window: usize) -> Pipeline<'_> {
        Pipeline::new(self, window)
    }

    /// Lets go of replies that have not been polled; their requests take effect.
    pub(crate) fn abandon(&mut self) {
        if self.in_flight > 0 {
            self.pending.iter_mut().for_each(|pending| pending.abandoned = true);
            self.in_flight = 0;
        }
    }

    // --- poll level -------------------------------------------------------------------------------------------------------

    /// Submits a request without waiting, system call (but for a wake when every worker sleeps) or allocation. It is announced by
    /// [`Client::poll`], [`Client::wait`] or [`Client::flush`].
    ///
    /// # Errors
    /// [`Submit::WouldBlock`] when the lane is full; [`Submit::Refused`] for what can never be taken, a value beyond
    /// [`Client::MAX_POLLED_VALUE`] included.
    #[inline]
    pub fn try_submit(&mut self, operation: &Operation<'_>) -> Result<u64, Submit> {
        if self.port.forked() {
            return Err(Submit::Refused(Error::Forked));
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
        if span as u64 > self.port.room() {
            return Err(Submit::WouldBlock);
        }
        Ok(self.send(&head, key, value, span, operation.is_write(), false, value.len()))
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

    fn wait_for(&mut self, pending: &Pending) -> Result<(), Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        let patience = Patience {
            timeout: self.options.timeout,
            interrupt: self.options.interrupt.as_deref(),
            fail_fast: self.options.server_gone == ServerGone::FailFast,
        };
        let write = pending.write;
        match self.port.wait(pending.position, &patience) {
            Waited::Answered => Ok(()),
            Waited::Deadline => Err(Error::TimedOut { after: self.options.timeout, write }),
            Waited::Interrupted => Err(Error::Interrupted { write }),
            Waited::ServerGone => Err(Error::ServerGone { write }),
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
                Err(Submit::WouldBlock) => self.make_room(on_reply)?,
            }
        }
    }

    /// Waits for the oldest request of all and delivers what there is.
    fn make_room(&mut self, on_reply: &mut dyn FnMut(Completion<'_>)) -> Result<(), Error> {
        if let Some(oldest) = self.pending.front().copied() {
            self.wait_for(&oldest)?;
        }
        self.poll(on_reply)?;
        Ok(())
    }

    fn submit_parts(&mut self, operation: &Operation<'_>, on_reply: &mut dyn FnMut(Completion<'_>)) -> Result<u64, Error> {
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
        let mut at = 0;
        let mut ticket = 0;
        while at < value.len() {
            let len = PART.min(value.len() - at);
            let last = at + len == value.len();
            let chunk = encode_chunk(at);
            let (head, key) = if at == 0 { (&head, key) } else { (&chunk, &b""[..]) };
            let span = span_of_body(head.bytes().len() + key.len() + len);
            while span as u64 > self.port.room() {
                self.make_room(on_reply)?;
            }
            ticket = self.send(head, key, &value[at..at + len], span, true, !last, value.len());
            self.port.announce();
            at += len;
        }
        Ok(ticket)
    }

    #[allow(clippy::too_many_arguments, reason = "private, and every part is another fact of the one request")]
    #[inline]
    fn send(&mut self, head: &Head, key: &[u8], value: &[u8], span: usize, write: bool, part: bool, value_len: usize) -> u64 {
        let position = self.port.send(head.kind as u8, head.flags, span as u16, [head.bytes(), key, value]);
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
    fn take_reply(&mut self, pending: &Pending) -> Result<Option<Reply>, Error> {
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
    fn retire(&mut self, pending: &Pending) {
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
                self.scratch.clear();
                self.scratch.extend_from_slice(&inline_bytes(reply.b, reply.c)[..reply.inline_len()]);
                Outcome::Value { version, bytes: &self.scratch }
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
            Status::Pong => Outcome::Pong,
            _ => Outcome::Failed(
                refusal(reply, pending.key_len.into(), pending.value_len as usize)
                    .unwrap_or(Error::Protocol("a reply that does not fit the request")),
            ),
        }
    }

    // --- sync calls -------------------------------------------------------------------------------------------------------

    /// Sends one request and waits for its reply. Replies that nobody polled before are let go.
    #[inline]
    pub(crate) fn call(&mut self, head: &Head, key: &[u8], write: bool, reply_room: usize) -> Result<Reply, Error> {
        let span = span_of_body(head.bytes().len() + key.len()).max(span_of_reply(reply_room));
        self.call_with(head, key, &[], span, write)
    }

    #[inline]
    fn call_with(&mut self, head: &Head, key: &[u8], value: &[u8], span: usize, write: bool) -> Result<Reply, Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        self.catch_up(span)?;
        self.send(head, key, value, span, write, false, value.len());
        self.finish_call()
    }

    /// Waits for the reply of the newest request, with everything before it let go.
    #[inline]
    fn finish_call(&mut self) -> Result<Reply, Error> {
        self.in_flight = 0;
        loop {
            let Some(newest) = self.pending.back().copied() else {
                return Err(Error::Protocol("a request was lost"));
            };
            if let Err(error) = self.wait_for(&newest) {
                self.pending.iter_mut().for_each(|pending| pending.abandoned = true);
                return Err(error);
            }
            while let Some(pending) = self.pending.front().copied() {
                let Some(reply) = self.take_reply(&pending)? else { break };
                if pending.position == newest.position {
                    // The slots are given back by the next call, so that further bytes of the reply can still be read.
                    self.pending[0].abandoned = true;
                    return Ok(reply);
                }
                self.retire(&pending);
            }
        }
    }

    /// Lets go of everything answered, and waits for room where there is not enough.
    #[inline]
    fn catch_up(&mut self, span: usize) -> Result<(), Error> {
        self.in_flight = 0;
        loop {
            while let Some(pending) = self.pending.front().copied() {
                if self.take_reply(&pending)?.is_none() {
                    break;
                }
                self.retire(&pending);
            }
            if span as u64 <= self.port.room() {
                self.failed_part = None;
                return Ok(());
            }
            let Some(oldest) = self.pending.front().copied() else {
                return Err(Error::Unfit("a request larger than the lane"));
            };
            self.wait_for(&oldest)?;
        }
    }

    /// The further bytes of the reply of the last call.
    pub(crate) fn reply_bytes(&mut self, len: usize, out: &mut Vec<u8>) {
        if let Some(last) = self.pending.back() {
            let room = (usize::from(last.span) - 1) * 32;
            self.port.reply_bytes(last.position, len.min(room), out);
        }
    }

    pub(crate) fn table(&self) -> Option<&TableMap> {
        self.table.as_ref()
    }

    pub(crate) fn status(&self) -> &shmqueue::layout::ServerStatus {
        self.port.status()
    }

    fn check_key(key: &[u8]) -> Result<(), Error> {
        if key.is_empty() || key.len() > MAX_KEY { Err(Error::KeySize { found: key.len() }) } else { Ok(()) }
    }

    fn send_value(&mut self, operation: &Operation<'_>) -> Result<Reply, Error> {
        let (head, key, value, _) = encode(operation);
        Self::check_key(key)?;
        if value.len() > self.max_value() {
            return Err(Error::ValueSize { found: value.len(), most: self.max_value() });
        }
        if value.len() <= PART {
            let span = span_of_body(head.bytes().len() + key.len() + value.len());
            return self.call_with(&head, key, value, span, true);
        }
        if self.port.forked() {
            return Err(Error::Forked);
        }
        self.catch_up(1)?;
        self.abandon();
        self.pending.iter_mut().for_each(|pending| pending.abandoned = true);
        self.submit_parts(operation, &mut |_| {})?;
        self.finish_call()
    }

    /// Stores a value.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::ChainFull`], [`Error::KeySize`], [`Error::ValueSize`], and those of [`Client::wait`].
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<Stored, Error> {
        match self.insert_if(key, value, Condition::Always)? {
            Some(stored) => Ok(stored),
            None => Err(Error::Protocol("a condition that was not set was not met")),
        }
    }

    /// Stores a value if a condition holds; `None` when it does not.
    ///
    /// # Errors
    /// As [`Client::insert`].
    #[inline]
    pub fn insert_if(&mut self, key: &[u8], value: &[u8], condition: Condition) -> Result<Option<Stored>, Error> {
        let reply = self.send_value(&Operation::Insert { key, value, condition })?;
        let version = reply.version();
        match reply.status {
            Status::Inserted => Ok(Some(Stored { replaced: false, version })),
            Status::Replaced => Ok(Some(Stored { replaced: true, version })),
            Status::ConditionNotMet | Status::NotFound => Ok(None),
            _ => Err(unexpected(&reply, key.len(), value.len())),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`Error::KeySize`] and those of [`Client::wait`].
    pub fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut value = Vec::new();
        Ok(self.read_into(key, &mut value)?.map(|_| value))
    }

    /// Reads a value into `out` (cleared first; no allocation when its capacity suffices); returns the item's version.
    ///
    /// # Errors
    /// As [`Client::read`].
    #[inline]
    pub fn read_into(&mut self, key: &[u8], out: &mut Vec<u8>) -> Result<Option<u64>, Error> {
        Self::check_key(key)?;
        for _ in 0..REFERENCE_TRIES {
            out.clear();
            let reply = self.call(&encode_read(), key, false, 0)?;
            match reply.status {
                Status::NotFound => return Ok(None),
                Status::Value => {
                    out.extend_from_slice(&inline_bytes(reply.b, reply.c)[..reply.inline_len()]);
                    return Ok(Some(reply.version()));
                }
                Status::ValueRef => {
                    let len = (reply.c as usize).min(MAX_VALUE);
                    match &self.table {
                        Some(table) if table.copy(reply.b, reply.version(), key.len(), len, out) => {
                            return Ok(Some(reply.version()));
                        }
                        Some(_) => {}
                        None => break,
                    }
                }
                _ => return Err(unexpected(&reply, key.len(), 0)),
            }
        }
        self.read_through_lane(key, out)
    }

    /// Has the server copy a value into the lane, part by part.
    fn read_through_lane(&mut self, key: &[u8], out: &mut Vec<u8>) -> Result<Option<u64>, Error> {
        out.clear();
        let mut version = 0;
        loop {
            let reply = self.call(&encode_copy(version, out.len() as u32, COPY_PART as u32), key, false, COPY_PART)?;
            match reply.status {
                Status::NotFound => return Ok(None),
                Status::ValueCopy => {}
                _ => return Err(unexpected(&reply, key.len(), 0)),
            }
            let (whole, here) = (reply.b as usize, reply.c as usize);
            if version != reply.version() {
                // The server began a new copy: the old one was let go.
                out.clear();
                version = reply.version();
            }
            let before = out.len();
            self.reply_bytes(here, out);
            if whole > MAX_VALUE || out.len() > whole || (out.len() == before && before < whole) {
                return Err(Error::Protocol("a copy that does not add up"));
            }
            if out.len() == whole {
                return Ok(Some(version));
            }
        }
    }

    /// Removes a key; false when it was not there.
    ///
    /// # Errors
    /// [`Error::KeySize`] and those of [`Client::wait`].
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        self.delete_if(key, Condition::Always)
    }

    /// Removes a key if a condition holds; false when it was not there or the condition did not hold.
    ///
    /// # Errors
    /// As [`Client::delete`].
    #[inline]
    pub fn delete_if(&mut self, key: &[u8], condition: Condition) -> Result<bool, Error> {
        Self::check_key(key)?;
        let reply = self.call(&encode_delete(condition), key, true, 0)?;
        match reply.status {
            Status::Deleted => Ok(true),
            Status::NotFound | Status::ConditionNotMet => Ok(false),
            _ => Err(unexpected(&reply, key.len(), 0)),
        }
    }

    /// Adds to a decimal number; a missing key counts as 0. Returns the sum.
    ///
    /// # Errors
    /// [`Error::NotANumber`], [`Error::Overflow`], [`Error::Full`], and those of [`Client::wait`].
    pub fn incr(&mut self, key: &[u8], by: i64) -> Result<i64, Error> {
        Self::check_key(key)?;
        let reply = self.call(&encode_incr(by, None), key, true, 0)?;
        match reply.status {
            Status::Number => Ok(reply.b as i64),
            _ => Err(unexpected(&reply, key.len(), 0)),
        }
    }

    /// Appends bytes to a value; a missing key counts as empty. Returns the new length.
    ///
    /// # Errors
    /// [`Error::ValueSize`] when the result would be too long, [`Error::Full`], and those of [`Client::wait`].
    pub fn append(&mut self, key: &[u8], bytes: &[u8]) -> Result<u64, Error> {
        let reply = self.send_value(&Operation::Append { key, bytes })?;
        match reply.status {
            Status::Length => Ok(reply.b),
            _ => Err(unexpected(&reply, key.len(), bytes.len())),
        }
    }

    /// Measures one round trip.
    ///
    /// # Errors
    /// Those of [`Client::wait`].
    pub fn ping(&mut self) -> Result<Duration, Error> {
        let start = Instant::now();
        let (head, ..) = encode(&Operation::Ping);
        let reply = self.call(&head, &[], false, 0)?;
        match reply.status {
            Status::Pong => Ok(start.elapsed()),
            _ => Err(unexpected(&reply, 0, 0)),
        }
    }
}

pub(crate) fn unexpected(reply: &Reply, key_len: usize, value_len: usize) -> Error {
    refusal(reply, key_len, value_len).unwrap_or(Error::Protocol("a reply that does not fit the request"))
}

/// Joins the region, waiting for a server as long as the options say.
pub(crate) fn join(name: &RegionName, options: &Options) -> Result<ClientRegion, Error> {
    let start = Instant::now();
    loop {
        let error = match ClientRegion::join(name).map_err(Error::from) {
            Ok(region) if region.server_alive() => return Ok(region),
            Ok(_) => Error::NoServer(format!("region {} is left behind by a dead server", name.rings_path().display())),
            Err(error) => error,
        };
        if !matches!(error, Error::NoServer(_)) || start.elapsed() >= options.wait_for_server {
            return Err(error);
        }
        if options.interrupt.as_deref().is_some_and(|flag| flag.load(std::sync::atomic::Ordering::Relaxed)) {
            return Err(Error::Interrupted { write: false });
        }
        std::thread::sleep(Duration::from_millis(2).min(options.wait_for_server));
    }
}

/// Head, key, value and room for the reply of an operation.
#[inline]
fn encode<'a>(operation: &Operation<'a>) -> (Head, &'a [u8], &'a [u8], usize) {
    match *operation {
        Operation::Read { key } => (encode_read(), key, &[], 0),
        Operation::Insert { key, value, condition } => (encode_insert(key.len(), value.len(), condition, None), key, value, 0),
        Operation::Delete { key, condition } => (encode_delete(condition), key, &[], 0),
        Operation::Bucket { key } => (encode_bucket(0), key, &[], BUCKET_ROOM),
        Operation::Ping => (protocol::encode_ping(), &[], &[], 0),
        Operation::Incr { key, by } => (encode_incr(by, None), key, &[], 0),
        Operation::Append { key, bytes } => (encode_append(key.len(), bytes.len()), key, bytes, 0),
    }
}
