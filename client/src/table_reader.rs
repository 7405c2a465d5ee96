//! Reading a table without being anybody's client: with read rights on its file alone, with or without a server.

use std::time::{Duration, Instant};

use shmqueue::region::RegionName;

use crate::client::Client;
use crate::direct::{Found, Handle, Reread};
use crate::error::Error;
use crate::options::Options;
use crate::table_map::TableMap;

/// A reader of a region's table. It takes no client slot, maps nothing but the table's file, and is seen by nobody: its hits
/// and misses are not in the server's counters. It can be shared by threads, and works on in a fork's child.
///
/// It reads on when the server dies. When the server leaves and removes the table, or another one takes its place, reads fail
/// with [`Error::Closed`] and [`Error::Superseded`]; [`TableReader::open`] finds what has the name then.
///
/// ```no_run
/// use shmtable::{Options, TableReader};
///
/// let reader = TableReader::open(&Options::new("shmtable"))?;
/// println!("{:?}", reader.get(b"answer")?);
/// # Ok::<(), shmtable::Error>(())
/// ```
#[derive(Debug)]
pub struct TableReader {
    map: TableMap,
}

impl TableReader {
    /// Maps the table of a region for reading.
    ///
    /// # Errors
    /// [`Error::NoServer`] where there is no table within `wait_for_server`; [`Error::Table`] for one that may not be read, is damaged or of
    /// another layout.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let name = RegionName::new(&options.dir, &options.name)?;
        let start = Instant::now();
        loop {
            match TableMap::open_alone(&name) {
                Err(Error::NoServer(_)) if start.elapsed() < options.wait_for_server => {
                    std::thread::sleep(Duration::from_millis(2).min(options.wait_for_server));
                }
                Err(error) => return Err(error),
                Ok(map) => {
                    map.check()?;
                    return Ok(Self { map });
                }
            }
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`Error::KeySize`], [`Error::Busy`], [`Error::Closed`], [`Error::Superseded`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut value = Vec::new();
        Ok(self.get_vec(key, &mut value)?.map(|_| value))
    }

    /// Reads a value into `out` (cleared first; no allocation when its capacity suffices).
    ///
    /// # Errors
    /// As [`TableReader::get`].
    #[inline(always)]
    pub fn get_vec(&self, key: &[u8], out: &mut Vec<u8>) -> Result<Option<Found>, Error> {
        self.before(key)?;
        let reader = self.map.reader();
        let item = reader.get_into(key, reader.hash(key), out).map_err(|table::Busy| Error::Busy)?;
        Ok(item.map(Found::from))
    }

    /// Reads the first bytes of a value into `out`, as many as fit; [`Found::len`] tells the whole length. Where the key is absent, what
    /// `out` holds afterwards means nothing.
    ///
    /// # Errors
    /// As [`TableReader::get`].
    #[inline(always)]
    pub fn get_into(&self, key: &[u8], out: &mut [u8]) -> Result<Option<Found>, Error> {
        self.before(key)?;
        let reader = self.map.reader();
        let item = reader.get_to(key, reader.hash(key), out).map_err(|table::Busy| Error::Busy)?;
        Ok(item.map(Found::from))
    }

    /// Reads many values, their memory fetched side by side; the results are in the order of the keys. It is no snapshot: each key is read
    /// for itself.
    ///
    /// # Errors
    /// As [`TableReader::get`].
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        self.get_many_with(keys, &mut Vec::new(), |_, value| values.push(value.map(|(_, bytes)| bytes.to_vec())))?;
        Ok(values)
    }

    /// Reads many values without allocating for each: `visit` gets each key's number and its version and value, in the order of the keys;
    /// `room` is the memory in which it sees the value.
    ///
    /// # Errors
    /// As [`TableReader::get`]; keys before and after the one that failed have been visited.
    #[inline]
    pub fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        room: &mut Vec<u8>,
        mut visit: impl FnMut(usize, Option<(u64, &[u8])>),
    ) -> Result<(), Error> {
        for key in keys {
            Client::check_key(key.as_ref())?;
        }
        self.map.check()?;
        let mut failed = Ok(());
        self.map.reader().get_batch(keys, room, |number, answer, bytes| match answer {
            Ok(item) => visit(number, item.map(|item| (item.version(), bytes))),
            Err(table::Busy) => failed = Err(Error::Busy),
        });
        failed
    }

    /// A handle for a key that is read again and again, see [`Client::handle`]. It has read nothing yet.
    ///
    /// # Errors
    /// [`Error::KeySize`].
    pub fn handle(&self, key: &[u8]) -> Result<Handle, Error> {
        Client::check_key(key)?;
        Ok(Handle(self.map.reader().handle(key)))
    }

    /// Reads a handle's key. If it changed since the last reading its value replaces the contents of `out`; if it did not, `out` is as it
    /// was, or holds the value once more.
    ///
    /// # Errors
    /// As [`TableReader::get`].
    #[inline]
    pub fn reread(&self, handle: &mut Handle, out: &mut Vec<u8>) -> Result<Reread, Error> {
        self.map.check()?;
        self.map.reader().reread(&mut handle.0, out).map(Reread::from).map_err(|table::Busy| Error::Busy)
    }

    /// Tries that writers made vain so far.
    pub fn retries(&self) -> u64 {
        self.map.reader().retries()
    }

    #[inline(always)]
    fn before(&self, key: &[u8]) -> Result<(), Error> {
        Client::check_key(key)?;
        self.map.check()
    }
}
