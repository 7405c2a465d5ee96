//! Direct reads: the client looks keys up in the table itself, without a request, a server or a system call.
//!
//! - **R1** (I5) A direct read waits first for the replies of the handle's own unanswered writes, so that it sees them; the replies stay
//!   there to be polled. It fails as the write would when they do not come in time. Other clients' writes are seen once they are answered.
//! - **R2** A read that writers overtake at every try is asked of the server instead; as is every read of a handle that does
//!   not map the table.
//! - **R3** Hits, misses and retries are counted in the head of the handle's request lane, by plain stores of its owner.
//!
//! Progress: a direct read waits for nobody but for R1, and is bounded; nothing of it can be seen by anybody.

use protocol::ClientTally;
use std::sync::atomic::Ordering;
use table::{Reader, Seen};

use crate::client::{Client, Pending};
use crate::error::Error;

/// An item that a direct read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Length of the value in bytes; more than the buffer has room for if only its beginning was copied.
    pub len: usize,
    /// Version of the item: another value has another version.
    pub version: u64,
}

/// Where a key was when it was last read: see [`Client::handle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle(pub(crate) table::Handle);

impl Handle {
    /// The key.
    pub fn key(&self) -> &[u8] {
        self.0.key()
    }

    /// Version of the item that was read last; 0 where the key was absent or never read.
    pub fn version(&self) -> u64 {
        self.0.version()
    }
}

/// What reading through a [`Handle`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reread {
    /// The key's value is the one that was read last.
    Unchanged,
    /// The key has another value than at the last reading, or one for the first time.
    Changed {
        /// Version of the item.
        version: u64,
    },
    /// The key is absent.
    Gone,
}

impl From<table::Reread> for Reread {
    #[inline]
    fn from(found: table::Reread) -> Self {
        match found {
            table::Reread::Unchanged => Self::Unchanged,
            table::Reread::Changed(item) => Self::Changed { version: item.version() },
            table::Reread::Gone => Self::Gone,
        }
    }
}

impl From<Seen> for Found {
    #[inline]
    fn from(item: Seen) -> Self {
        Self { len: item.value_len(), version: item.version() }
    }
}

impl Client {
    /// Reads a value directly from the table.
    ///
    /// # Errors
    /// [`Error::KeySize`]; [`Error::TimedOut`] and the other errors of [`Client::wait`] where writes of this handle are unanswered, or the
    /// server must be asked after all; [`Error::Closed`] and [`Error::Superseded`] for a region that is gone, while
    /// replies of it are still to be polled.
    #[inline]
    pub fn get_direct(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut value = Vec::new();
        Ok(self.get_direct_vec(key, &mut value)?.map(|_| value))
    }

    /// Reads a value directly into `out` (cleared first; no allocation when its capacity suffices).
    ///
    /// # Errors
    /// As [`Client::get_direct`].
    #[inline(always)]
    pub fn get_direct_vec(&mut self, key: &[u8], out: &mut Vec<u8>) -> Result<Option<Found>, Error> {
        if let Some(reader) = self.direct_reader(key)? {
            let hash = reader.hash(key);
            if let Ok(item) = reader.get_into(key, hash, out) {
                self.note(item.is_some(), hash);
                return Ok(item.map(Found::from));
            }
        }
        self.ask(key, out)
    }

    /// Reads the first bytes of a value directly into `out`, as many as fit; [`Found::len`] tells the whole length. Where the key is absent,
    /// what `out` holds afterwards means nothing.
    ///
    /// # Errors
    /// As [`Client::get_direct`].
    #[inline(always)]
    pub fn get_direct_into(&mut self, key: &[u8], out: &mut [u8]) -> Result<Option<Found>, Error> {
        if let Some(reader) = self.direct_reader(key)? {
            let hash = reader.hash(key);
            if let Ok(item) = reader.get_to(key, hash, out) {
                self.note(item.is_some(), hash);
                return Ok(item.map(Found::from));
            }
        }
        let mut value = std::mem::take(&mut self.scratch);
        let found = self.ask(key, &mut value);
        let len = value.len().min(out.len());
        out[..len].copy_from_slice(&value[..len]);
        self.scratch = value;
        found
    }

    /// Reads many values directly, their memory fetched side by side; the results are in the order of the keys. It is no snapshot:
    /// each key is read for itself.
    ///
    /// # Errors
    /// As [`Client::get_direct`].
    pub fn get_many_direct<K: AsRef<[u8]>>(&mut self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = vec![None; keys.len()];
        self.get_many_direct_with(keys, |number, value| values[number] = value.map(|(_, bytes)| bytes.to_vec()))?;
        Ok(values)
    }

    /// Reads many values directly without allocating for each: `visit` gets each key's number and its version and value. Keys are visited
    /// in their order, but for those that the server had to be asked for, which come last.
    ///
    /// # Errors
    /// As [`Client::get_direct`]; keys before may have been visited.
    #[inline]
    pub fn get_many_direct_with<K: AsRef<[u8]>>(
        &mut self,
        keys: &[K],
        mut visit: impl FnMut(usize, Option<(u64, &[u8])>),
    ) -> Result<(), Error> {
        for key in keys {
            Self::check_key(key.as_ref())?;
        }
        self.before_direct()?;
        let mut room = std::mem::take(&mut self.scratch);
        let mut left = Vec::new();
        let (mut hits, mut misses) = (0, 0);
        if let Some(table) = &self.table {
            let (reader, port) = (table.reader(), &mut self.port);
            let hinted = port.wants_hints();
            reader.get_batch(keys, &mut room, |number, answer, bytes| match answer {
                Ok(Some(item)) => {
                    hits += 1;
                    if hinted {
                        port.hint(reader.hash(keys[number].as_ref()));
                    }
                    visit(number, Some((item.version(), bytes)));
                }
                Ok(None) => {
                    misses += 1;
                    visit(number, None);
                }
                Err(table::Busy) => left.push(number),
            });
        } else {
            left.extend(0..keys.len());
        }
        self.count(hits, misses);
        let mut asked = Ok(());
        for number in left {
            match self.ask(keys[number].as_ref(), &mut room) {
                Ok(found) => visit(number, found.map(|found| (found.version, &room[..]))),
                Err(error) => {
                    asked = Err(error);
                    break;
                }
            }
        }
        self.scratch = room;
        asked
    }

    /// A handle for a key that is read again and again: it caches where the key was, so that [`Client::reread`] touches about two
    /// cache lines while nothing changes. It has read nothing yet. It stays good, if slower for one reading, when the table grows or the
    /// region is replaced.
    ///
    /// # Errors
    /// [`Error::KeySize`]; [`Error::Table`] where this handle does not map the table.
    pub fn handle(&self, key: &[u8]) -> Result<Handle, Error> {
        Self::check_key(key)?;
        match &self.table {
            Some(table) => Ok(Handle(table.reader().handle(key))),
            None => Err(Error::Table("making a handle: the table is not mapped; give this process the right to read it".into())),
        }
    }

    /// Reads a handle's key. If it changed since the last reading its value replaces the contents of `out`; if it did not, `out` is as it
    /// was, or holds the value once more.
    ///
    /// # Errors
    /// As [`Client::get_direct`].
    #[inline]
    pub fn reread(&mut self, handle: &mut Handle, out: &mut Vec<u8>) -> Result<Reread, Error> {
        self.before_direct()?;
        if let Some(table) = &self.table
            && let Ok(found) = table.reader().reread(&mut handle.0, out)
        {
            self.note(found != table::Reread::Gone, handle.0.hash());
            return Ok(found.into());
        }
        let found = self.ask(handle.key(), out)?;
        Ok(handle.0.told(found.map(|found| found.version)).map_or(Reread::Gone, |changed| match (changed, found) {
            (true, Some(Found { version, .. })) => Reread::Changed { version },
            _ => Reread::Unchanged,
        }))
    }

    /// The reader, after R1; none where the server must be asked.
    #[inline(always)]
    fn direct_reader(&mut self, key: &[u8]) -> Result<Option<&Reader<'static>>, Error> {
        Self::check_key(key)?;
        self.before_direct()?;
        Ok(self.table.as_ref().map(|table| table.reader()))
    }

    /// What must hold before the table may be looked at.
    #[inline(always)]
    fn before_direct(&mut self) -> Result<(), Error> {
        if self.port.forked() {
            return Err(Error::Forked);
        }
        if let Some(position) = self.newest_write {
            self.see_answered(position)?;
        }
        match self.table.as_ref().map(|table| table.check()) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => self.follow(error),
        }
    }

    /// Waits for the reply of the newest write, and with it of all before it (R1).
    #[inline(always)]
    fn see_answered(&mut self, position: u64) -> Result<(), Error> {
        if !self.port.answered(position) {
            self.await_answer(position)?;
        }
        self.newest_write = None;
        Ok(())
    }

    #[cold]
    fn await_answer(&mut self, position: u64) -> Result<(), Error> {
        if self.gone {
            self.reopen()?;
        }
        // A region that was opened anew has nothing unanswered.
        let Some(pending) = self.pending.iter().rfind(|pending| pending.position == position).copied() else { return Ok(()) };
        self.wait_for(&Pending { write: true, ..pending })
    }

    /// The mapped table is history: goes to the region that has the name now, unless replies of the old one are still to be polled.
    #[cold]
    fn follow(&mut self, error: Error) -> Result<(), Error> {
        if self.in_flight > 0 {
            return Err(error);
        }
        *self = Self::attach(&self.options)?;
        Ok(())
    }

    /// Reads a value through the ring.
    #[cold]
    fn ask(&mut self, key: &[u8], out: &mut Vec<u8>) -> Result<Option<Found>, Error> {
        let version = self.read_into(key, out)?;
        Ok(version.map(|version| Found { len: out.len(), version }))
    }

    /// Counts one direct read (R3), and tells a server that evicts of one that found its key.
    #[inline(always)]
    fn note(&mut self, hit: bool, hash: u64) {
        self.count(u64::from(hit), u64::from(!hit));
        if hit {
            self.port.hint(hash);
        }
    }

    #[inline(always)]
    fn count(&self, hits: u64, misses: u64) {
        let tallies = self.port.tallies();
        let add = |which: ClientTally, more: u64| {
            let tally = &tallies[which as usize];
            tally.store(tally.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        add(ClientTally::DirectHits, hits);
        add(ClientTally::DirectMisses, misses);
        if let Some(table) = &self.table {
            tallies[ClientTally::DirectRetries as usize].store(table.reader().retries(), Ordering::Relaxed);
        }
    }
}
