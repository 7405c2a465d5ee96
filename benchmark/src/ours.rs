//! The table behind the same trait as its peers: in this process, in a file of shared memory, with the daemon's commitment of
//! memory ahead.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use server::PrivateTable;
use table::{Condition, Expiry, MAX_WORKERS, Outcome, Ticket, Writer};

use crate::Error;
use crate::keys::Key;
use crate::peers::{Handle, Map};
use crate::table_bench::race::{Op, Worker};

/// Requests whose buckets the server's workers prefetch together.
const GROUP: usize = 8;
/// Bytes allowed per item: more than growth can ever want.
const ROOM: u64 = 160;
/// Bytes allowed beside the items.
const ROOM_BESIDE: u64 = 64 << 20;

/// A table of this process.
pub(crate) struct Ours {
    private: PrivateTable,
    next: AtomicU32,
}

impl Ours {
    /// An empty table of `buckets` with memory for `items`.
    pub(crate) fn new(buckets: u64, items: u64) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{}-private-{}.table", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = Path::new("/dev/shm").join(name);
        let private = PrivateTable::create(&path, items * ROOM + buckets * 64 + ROOM_BESIDE, buckets, 1 << 20);
        Ok(Self { private: private.map_err(Error::io("making a table in shared memory"))?, next: AtomicU32::new(0) })
    }

    /// The table and what keeps its memory ahead.
    pub(crate) fn private(&self) -> &PrivateTable {
        &self.private
    }

    /// Committed bytes beyond keys and values, per item.
    pub(crate) fn overhead_per_item(&self, bytes_per_item: u64) -> f64 {
        let stats = self.private.table().stats();
        (stats.memory_used_bytes as f64 - (stats.items * bytes_per_item) as f64) / stats.items.max(1) as f64
    }
}

/// A worker's writer.
pub(crate) struct OurHandle<'a>(pub(crate) Writer<'a>);

impl Map for Ours {
    type Handle<'a> = OurHandle<'a>;

    fn handle(&self) -> OurHandle<'_> {
        // No more handles than records are there at once, so that the record is free again when the numbers come round.
        OurHandle(self.private.table().writer(self.next.fetch_add(1, Ordering::Relaxed) % MAX_WORKERS))
    }
}

impl OurHandle<'_> {
    #[inline]
    fn value(&self, key: &Key, hash: u64) -> Option<u64> {
        loop {
            let item = self.0.get(key, hash)?;
            if item.value_len != 8 {
                return None;
            }
            let mut bytes = [0; 8];
            // SAFETY: the array is private and has room for the value, whose length was just checked.
            if unsafe { self.0.read_value(&item, 0, 8, bytes.as_mut_ptr()) }.is_ok() {
                return Some(u64::from_le_bytes(bytes));
            }
        }
    }

    #[inline]
    fn write(&mut self, key: &Key, hash: u64, value: u64) -> Outcome {
        self.write_until(key, hash, value, Expiry::Never)
    }

    #[inline]
    fn write_until(&mut self, key: &Key, hash: u64, value: u64, expiry: Expiry) -> Outcome {
        self.0.insert(key, &value.to_le_bytes(), hash, Condition::None, expiry, &Ticket::default(), |outcome| *outcome)
    }

    /// Adds a key that is to be gone at a time of the region's clock; whether it was absent.
    #[inline]
    pub(crate) fn insert_until(&mut self, key: &Key, value: u64, ms: u64) -> bool {
        matches!(self.write_until(key, self.0.hash(key), value, Expiry::At(ms)), Outcome::Inserted { .. })
    }

    #[inline]
    fn remove(&mut self, key: &Key, hash: u64) -> bool {
        let outcome = self.0.delete(key, hash, Condition::None, &Ticket::default(), |outcome| *outcome);
        matches!(outcome, Outcome::Deleted { .. })
    }
}

impl Handle for OurHandle<'_> {
    #[inline]
    fn get(&mut self, key: &Key) -> Option<u64> {
        self.value(key, self.0.hash(key))
    }

    #[inline]
    fn insert(&mut self, key: &Key, value: u64) -> bool {
        matches!(self.write(key, self.0.hash(key), value), Outcome::Inserted { .. })
    }

    #[inline]
    fn update(&mut self, key: &Key, value: u64) -> bool {
        matches!(self.write(key, self.0.hash(key), value), Outcome::Replaced { .. })
    }

    #[inline]
    fn delete(&mut self, key: &Key) -> bool {
        self.remove(key, self.0.hash(key))
    }
}

/// Operations as the server's workers make them: in groups whose buckets are fetched ahead.
pub(crate) struct Grouped<'a>(pub(crate) OurHandle<'a>);

impl Worker for Grouped<'_> {
    #[inline]
    fn apply(&mut self, op: Op, keys: &[Key], words: &[u64]) -> u64 {
        let mut wrong = 0;
        for (keys, words) in keys.chunks(GROUP).zip(words.chunks(GROUP)) {
            let mut hashes = [0; GROUP];
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.0.0.hash(key);
                self.0.0.prefetch(*hash);
            }
            if matches!(op, Op::Get | Op::Delete) {
                hashes[..keys.len()].iter().for_each(|hash| self.0.0.prefetch_item(*hash));
            }
            for ((key, word), hash) in keys.iter().zip(words).zip(hashes) {
                let right = match op {
                    Op::Insert => matches!(self.0.write(key, hash, *word), Outcome::Inserted { .. }),
                    Op::Update => matches!(self.0.write(key, hash, *word), Outcome::Replaced { .. }),
                    Op::Get => self.0.value(key, hash) == Some(*word),
                    Op::Delete => self.0.remove(key, hash),
                };
                wrong += u64::from(!right);
            }
        }
        wrong
    }
}
