//! Sync calls: one request, one reply.

use std::time::{Duration, Instant};

use protocol::{Condition, Head, MAX_KEY, MAX_VALUE, Reply, Status, encode_copy, encode_delete, encode_read, inline_bytes};
use shmqueue::lane::{span_of_body, span_of_reply};

use crate::client::{Client, PART, Pending, Stored, encode, unexpected};
use crate::error::Error;
use crate::expiry::InsertOptions;
use crate::operation::Operation;
use crate::table_map::TableMap;

/// Tries of a value in parts whose server was replaced on the way.
const PARTS_TRIES: usize = 3;
/// Tries of a read by reference before a copy through the lane is asked for.
const REFERENCE_TRIES: usize = 3;
/// Bytes of one part of a copy through the lane.
const COPY_PART: usize = 16 << 10;

impl Client {
    /// Sends one request and waits for its reply. Replies that nobody polled before are let go.
    #[inline]
    pub(crate) fn call(&mut self, head: &Head, key: &[u8], write: bool, reply_room: usize) -> Result<Reply, Error> {
        let span = span_of_body(head.bytes().len() + key.len()).max(span_of_reply(reply_room));
        self.call_with(head, key, &[], span, write)
    }

    /// The same with a value, and with the slots that request and reply span.
    #[inline]
    pub(crate) fn call_with(&mut self, head: &Head, key: &[u8], value: &[u8], span: usize, write: bool) -> Result<Reply, Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        if self.gone {
            self.reopen()?;
        }
        self.catch_up(span)?;
        self.send(head, key, value, span, write, false, value.len());
        self.finish_call()
    }

    /// Waits for the reply of the newest request, with everything before it let go.
    #[inline]
    fn finish_call(&mut self) -> Result<Reply, Error> {
        // However this ends, nobody polls for the reply.
        self.in_flight = 0;
        if let Some(newest) = self.pending.back_mut() {
            newest.abandoned = true;
        }
        loop {
            let Some(newest) = self.pending.back().copied() else {
                return Err(Error::Protocol("a request was lost"));
            };
            self.wait_for(&newest)?;
            while let Some(pending) = self.pending.front().copied() {
                let Some(reply) = self.take_reply(&pending)? else { break };
                if pending.position == newest.position {
                    // The slots are given back by the next call, so that further bytes of the reply can still be read.
                    return Ok(reply);
                }
                self.retire(&pending);
            }
        }
    }

    /// Lets go of everything answered, and waits for room where there is not enough.
    #[inline]
    fn catch_up(&mut self, span: usize) -> Result<(), Error> {
        self.abandon();
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
                self.want(span);
                self.fit()?;
                if span as u64 > self.port.room() {
                    return Err(Error::Unfit("a request larger than the lane"));
                }
                continue;
            };
            // Nothing of this call has been sent yet.
            self.wait_for(&Pending { write: false, ..oldest })?;
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

    #[inline]
    pub(crate) fn check_key(key: &[u8]) -> Result<(), Error> {
        if key.is_empty() || key.len() > MAX_KEY { Err(Error::KeySize { found: key.len() }) } else { Ok(()) }
    }

    pub(crate) fn send_value(&mut self, operation: &Operation<'_>) -> Result<Reply, Error> {
        let (head, key, value, _) = encode(operation);
        Self::check_key(key)?;
        if value.len() > self.max_value() {
            return Err(Error::ValueSize { found: value.len(), most: self.max_value() });
        }
        if value.len() <= PART {
            let span = span_of_body(head.bytes().len() + key.len() + value.len());
            return self.call_with(&head, key, value, span, true);
        }
        for _ in 1..PARTS_TRIES {
            let reply = self.send_parts(operation)?;
            if reply.status != Status::StreamLost {
                return Ok(reply);
            }
            // The server was replaced between two parts: nothing of the value is stored, and the successor takes it from the start.
        }
        self.send_parts(operation)
    }

    fn send_parts(&mut self, operation: &Operation<'_>) -> Result<Reply, Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        if self.gone {
            self.reopen()?;
        }
        self.catch_up(1)?;
        self.pending.iter_mut().for_each(|pending| pending.abandoned = true);
        self.submit_parts(operation, &mut |_| {})?;
        self.finish_call()
    }

    /// Stores a value, to live until it is removed; [`Client::insert_with`] gives it a time to live.
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
        self.insert_with(key, value, InsertOptions::new().condition(condition))
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`Error::KeySize`] and those of [`Client::wait`].
    pub fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut value = Vec::new();
        Ok(self.read_into(key, &mut value)?.map(|_| value))
    }

    /// Reads a value with its version, for [`Condition::IfVersion`]: read, compute, and store only if nobody wrote meanwhile.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub fn read_versioned(&mut self, key: &[u8]) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let mut value = Vec::new();
        Ok(self.read_into(key, &mut value)?.map(|version| (version, value)))
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

    /// Adds to a decimal number; a missing key counts as 0. An expiry stays. Returns the sum.
    ///
    /// # Errors
    /// [`Error::NotANumber`], [`Error::Overflow`], [`Error::Full`], and those of [`Client::wait`].
    pub fn incr(&mut self, key: &[u8], by: i64) -> Result<i64, Error> {
        self.incr_with(key, by, None)
    }

    /// Appends bytes to a value; a missing key counts as empty. An expiry stays. Returns the new length.
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
