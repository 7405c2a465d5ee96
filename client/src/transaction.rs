//! Transactions: several keys compared, read and written as one.
//!
//! The builder gathers one step per key, however often the key is named. A transaction is one request; the server does all of it or
//! nothing, at one moment. Nothing is locked between two requests, so nobody ever waits for a client.

use std::time::Duration;

use protocol::{
    Answers, MAX_KEY, MAX_STEPS, MAX_TRANSACTION, Reply, Status, Step, Ttl, WRITE_ANSWER, Write, encode_step, encode_transaction,
    encoded_step_len, read_answer_len,
};
use shmqueue::lane::{most_span, span_of_body, span_of_reply};

use crate::client::{Client, unexpected};
use crate::error::Error;

/// Bytes of a value that a first try makes room for.
const GUESS: usize = 64;

/// A value with the version of its item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The item's version: what [`Transaction::compare`] takes.
    pub version: u64,
    /// The value.
    pub value: Vec<u8>,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transacted {
    /// It took effect.
    Committed {
        /// What was there before, for each [`Transaction::read`] in the order of the calls; `None` for an absent key.
        reads: Vec<Option<Versioned>>,
        /// For each write in the order of the calls: the version of the new item, or of the one that was deleted (0: there was none).
        versions: Vec<u64>,
    },
    /// A comparison failed, and nothing was done.
    Mismatch {
        /// Which comparison, counted from 0 in the order of the calls: the first that failed.
        compare: usize,
        /// The version that is there, 0 for an absent key.
        version: u64,
    },
}

/// Why a transaction cannot be sent.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    TooManyKeys,
    Twice(&'static str),
    KeySize(usize),
    ValueSize(usize),
}

/// A transaction being put together; see [`Client::transaction`].
#[derive(Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct Transaction<'c, 'k> {
    client: &'c mut Client,
    steps: Vec<Step<'k>>,
    /// The steps that the calls named, in the order of the calls.
    compares: Vec<usize>,
    reads: Vec<usize>,
    writes: Vec<usize>,
    refusal: Option<Refusal>,
}

impl Client {
    /// Begins a transaction: versions to compare, keys to read and items to write, all at one moment or not at all.
    ///
    /// Comparisons and reads see what was there before the transaction's own writes. A transaction names at most 64 keys, and what it
    /// sends, and what it reads, must each fit one message of 32 KiB.
    ///
    /// ```no_run
    /// use shmtable::{Client, Options, Transacted};
    ///
    /// let mut client = Client::attach(&Options::new("shmtable"))?;
    /// // Moves 5 from one account to the other, whatever others do meanwhile.
    /// loop {
    ///     let Transacted::Committed { reads, .. } = client.transaction().read(b"ann").read(b"bob").commit()? else {
    ///         unreachable!("nothing was compared");
    ///     };
    ///     let [Some(ann), Some(bob)] = &reads[..] else { panic!("no such account") };
    ///     let balance = |text: &[u8]| std::str::from_utf8(text).expect("text").parse::<i64>().expect("a number");
    ///     let (less, more) = (balance(&ann.value) - 5, balance(&bob.value) + 5);
    ///     let done = client
    ///         .transaction()
    ///         .compare(b"ann", ann.version)
    ///         .compare(b"bob", bob.version)
    ///         .insert(b"ann", less.to_string().as_bytes())
    ///         .insert(b"bob", more.to_string().as_bytes())
    ///         .commit()?;
    ///     if matches!(done, Transacted::Committed { .. }) {
    ///         break;
    ///     }
    /// }
    /// # Ok::<(), shmtable::Error>(())
    /// ```
    pub fn transaction<'k>(&mut self) -> Transaction<'_, 'k> {
        let (compares, reads, writes) = (Vec::new(), Vec::new(), Vec::new());
        Transaction { client: self, steps: Vec::new(), compares, reads, writes, refusal: None }
    }

    /// Reads up to 64 keys at one moment; the results are in the order of the keys. Unlike [`Client::get_many`] it is a snapshot.
    ///
    /// # Errors
    /// Those of [`Transaction::commit`].
    pub fn get_many_atomic<K: AsRef<[u8]>>(&mut self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys: Vec<K> = keys.into_iter().collect();
        let mut transaction = self.transaction();
        for key in &keys {
            transaction.read(key.as_ref());
        }
        match transaction.commit()? {
            Transacted::Committed { reads, .. } => Ok(reads.into_iter().map(|read| read.map(|read| read.value)).collect()),
            Transacted::Mismatch { .. } => Err(NOTHING_COMPARED),
        }
    }

    /// Stores up to 64 pairs at one moment, all or none; the new items' versions, in the order of the pairs.
    ///
    /// # Errors
    /// Those of [`Transaction::commit`].
    pub fn insert_many_atomic<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Vec<u64>, Error> {
        let pairs: Vec<(K, V)> = pairs.into_iter().collect();
        let mut transaction = self.transaction();
        for (key, value) in &pairs {
            transaction.insert(key.as_ref(), value.as_ref());
        }
        match transaction.commit()? {
            Transacted::Committed { versions, .. } => Ok(versions),
            Transacted::Mismatch { .. } => Err(NOTHING_COMPARED),
        }
    }
}

const NOTHING_COMPARED: Error = Error::Protocol("a comparison failed where none was asked for");

impl<'k> Transaction<'_, 'k> {
    /// Goes on only if the key's item has this version (as [`Versioned`] or [`crate::Stored`] told it; 0: only if the key is absent).
    pub fn compare(&mut self, key: &'k [u8], version: u64) -> &mut Self {
        if let Some(at) = self.step(key) {
            match self.steps[at].compare {
                Some(other) if other != version => self.refuse(Refusal::Twice("compared with two versions")),
                _ => self.steps[at].compare = Some(version),
            }
            self.compares.push(at);
        }
        self
    }

    /// Goes on only if the key is absent.
    pub fn compare_absent(&mut self, key: &'k [u8]) -> &mut Self {
        self.compare(key, 0)
    }

    /// Answers what was under the key before.
    pub fn read(&mut self, key: &'k [u8]) -> &mut Self {
        if let Some(at) = self.step(key) {
            self.steps[at].read = true;
            self.reads.push(at);
        }
        self
    }

    /// Stores a value.
    pub fn insert(&mut self, key: &'k [u8], value: &'k [u8]) -> &mut Self {
        self.write(key, Write::Insert { value, ttl: Ttl::None })
    }

    /// Stores a value that is gone after `ttl`; see [`Ttl::For`].
    pub fn insert_ttl(&mut self, key: &'k [u8], value: &'k [u8], ttl: Duration) -> &mut Self {
        self.write(key, Write::Insert { value, ttl: Ttl::For(ttl) })
    }

    /// Stores a value that is gone when the one that it replaces would have been.
    pub fn insert_keep_ttl(&mut self, key: &'k [u8], value: &'k [u8]) -> &mut Self {
        self.write(key, Write::Insert { value, ttl: Ttl::Keep })
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: &'k [u8]) -> &mut Self {
        self.write(key, Write::Delete)
    }

    /// Sends the transaction and waits for what became of it. It may be committed again.
    ///
    /// # Errors
    /// [`Error::TransactionSize`] and [`Error::TransactionTwice`] for what can never be one transaction, [`Error::KeySize`],
    /// [`Error::ValueSize`], [`Error::Full`], [`Error::ChainFull`] (nothing was done), and those of [`Client::wait`].
    pub fn commit(&mut self) -> Result<Transacted, Error> {
        if let Some(refusal) = self.refusal {
            return Err(self.error(refusal));
        }
        let order = self.order();
        let len = self.steps.iter().map(encoded_step_len).sum();
        if len > MAX_TRANSACTION {
            return Err(Error::TransactionSize { what: "bytes of keys and values", found: len, most: MAX_TRANSACTION });
        }
        let mut body = Vec::with_capacity(len);
        for &at in &order {
            encode_step(&self.steps[at], &mut body);
        }
        if body.is_empty() {
            return Ok(Transacted::Committed { reads: Vec::new(), versions: Vec::new() });
        }
        let reply = self.call(&body)?;
        match reply.status {
            Status::Committed => self.committed(&reply, &order),
            Status::Mismatch => {
                let step = order.get(reply.a as usize);
                let compare = self.compares.iter().position(|at| Some(at) == step);
                let compare = compare.ok_or(Error::Protocol("a comparison failed that was not asked for"))?;
                Ok(Transacted::Mismatch { compare, version: reply.b })
            }
            _ => Err(unexpected(&reply, 0, 0)),
        }
    }

    /// The steps' order on the way: those that compare first, in the order of the calls, so that the first failure is the caller's.
    fn order(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.steps.len());
        for at in self.compares.iter().copied().chain(0..self.steps.len()) {
            if !order.contains(&at) {
                order.push(at);
            }
        }
        order
    }

    /// Sends the body with ever more room for the answer, until it fits or cannot.
    fn call(&mut self, body: &[u8]) -> Result<Reply, Error> {
        let most = (usize::from(most_span(self.client.port.most_slots())) - 1) * 32;
        let answer = |step: &Step<'_>| {
            let read = if step.read { read_answer_len(GUESS) } else { 0 };
            read + if step.write.is_some() { WRITE_ANSWER } else { 0 }
        };
        let mut room = self.steps.iter().map(answer).sum::<usize>().min(most);
        loop {
            let span = span_of_body(body.len()).max(span_of_reply(room));
            let reply = self.client.call_with(&encode_transaction(), &[], body, span, !self.writes.is_empty())?;
            if reply.status != Status::RoomTooSmall {
                return Ok(reply);
            }
            let needed = reply.b as usize;
            if needed > most {
                return Err(Error::TransactionSize { what: "bytes read", found: needed, most });
            }
            if needed <= room {
                return Err(Error::Protocol("an answer without need of more room was not given"));
            }
            room = needed;
        }
    }

    fn committed(&mut self, reply: &Reply, order: &[usize]) -> Result<Transacted, Error> {
        let mut bytes = Vec::new();
        self.client.reply_bytes(usize::try_from(reply.c).unwrap_or(usize::MAX), &mut bytes);
        let mut answers = Answers::new(&bytes);
        let (mut reads, mut versions) = (vec![None; self.steps.len()], vec![0; self.steps.len()]);
        for &at in order {
            let broken = |_| Error::Protocol("an answer that does not fit the transaction");
            if self.steps[at].read {
                let read = answers.read().map_err(broken)?;
                reads[at] = read.map(|(version, value)| Versioned { version, value: value.to_vec() });
            }
            if self.steps[at].write.is_some() {
                versions[at] = answers.written().map_err(broken)?;
            }
        }
        let reads = self.reads.iter().map(|&at| reads[at].clone()).collect();
        let versions = self.writes.iter().map(|&at| versions[at]).collect();
        Ok(Transacted::Committed { reads, versions })
    }

    fn write(&mut self, key: &'k [u8], write: Write<'k>) -> &mut Self {
        if let Some(at) = self.step(key) {
            if let Write::Insert { value, .. } = write
                && value.len() > self.client.max_value()
            {
                self.refuse(Refusal::ValueSize(value.len()));
            }
            if self.steps[at].write.is_some() {
                self.refuse(Refusal::Twice("written twice"));
            }
            self.steps[at].write = Some(write);
            self.writes.push(at);
        }
        self
    }

    /// The step of a key; none once the transaction is refused.
    fn step(&mut self, key: &'k [u8]) -> Option<usize> {
        if key.is_empty() || key.len() > MAX_KEY {
            self.refuse(Refusal::KeySize(key.len()));
        }
        let found = self.steps.iter().position(|step| step.key == key);
        if found.is_none() && self.steps.len() == MAX_STEPS {
            self.refuse(Refusal::TooManyKeys);
        }
        if self.refusal.is_some() {
            return None;
        }
        found.or_else(|| {
            self.steps.push(Step { key, compare: None, read: false, write: None });
            Some(self.steps.len() - 1)
        })
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    fn error(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::TooManyKeys => Error::TransactionSize { what: "keys", found: MAX_STEPS + 1, most: MAX_STEPS },
            Refusal::Twice(what) => Error::TransactionTwice { what },
            Refusal::KeySize(found) => Error::KeySize { found },
            Refusal::ValueSize(found) => Error::ValueSize { found, most: self.client.max_value() },
        }
    }
}
