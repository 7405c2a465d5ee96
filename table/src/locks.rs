//! Several buckets locked at once, in address order: the basis of operations on several keys.
//!
//! K1: locks are taken in ascending order of the bucket, each once, by a writer that holds no other; so two sets
//! never wait for each other in a circle. K2: once they are held, each key's bucket is the one that was locked, and stays it: a split
//! takes the lock of the bucket that it splits.

use crate::words::BucketCount;
use crate::writer::{Held, Writer};
use thiserror::Error;

/// Most hashes of one set.
pub const MAX_LOCKED: usize = 64;

/// More keys than one set of locks takes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("locking buckets failed: found {found} keys against at most 64; split the operation")]
pub struct TooManyKeys {
    /// The number of keys.
    pub found: usize,
}

/// The buckets of several keys, locked until this is dropped. The writer cannot be used for anything else meanwhile.
pub struct LockedBuckets<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// In ascending order, each with whether it was changed.
    held: [Option<(Held, bool)>; MAX_LOCKED],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Locks the buckets of these hashes, each once, in address order.
    pub fn lock_many(&mut self, hashes: &[u64]) -> Result<LockedBuckets<'_, 'a>, TooManyKeys> {
        if hashes.len() > MAX_LOCKED {
            return Err(TooManyKeys { found: hashes.len() });
        }
        let mut locked = LockedBuckets { writer: self, held: [None; MAX_LOCKED], len: 0 };
        let mut count = locked.writer.arena.bucket_count();
        loop {
            locked.lock_all(hashes, count);
            let now = locked.writer.arena.bucket_count();
            // A split elsewhere has moved none of these keys.
            if now == count || hashes.iter().all(|&hash| now.index(hash) == count.index(hash)) {
                return Ok(locked);
            }
            locked.unlock_all();
            count = now;
        }
    }
}

impl<'a> LockedBuckets<'_, 'a> {
    fn lock_all(&mut self, hashes: &[u64], count: BucketCount) {
        let mut indexes = [0u64; MAX_LOCKED];
        for (index, &hash) in indexes.iter_mut().zip(hashes) {
            *index = count.index(hash);
        }
        let indexes = &mut indexes[..hashes.len()];
        indexes.sort_unstable();
        let mut last = None;
        for &index in indexes.iter() {
            if last != Some(index) {
                self.held[self.len] = Some((self.writer.lock_bucket(index), false));
                self.len += 1;
                last = Some(index);
            }
        }
    }

    /// How many buckets are locked.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The writer that holds the locks.
    pub(crate) fn writer(&mut self) -> &mut Writer<'a> {
        self.writer
    }

    /// Says that slots of a bucket (by its offset) were stored, so that its readers retry.
    pub(crate) fn set_changed(&mut self, bucket: u64) {
        let held = self.held[..self.len].iter_mut().flatten().find(|(held, _)| held.bucket == bucket);
        held.expect("only buckets that are locked are changed").1 = true;
    }

    /// Unlocks all, before this is dropped.
    pub(crate) fn unlock_all(&mut self) {
        for (held, changed) in self.held[..self.len].iter_mut().filter_map(Option::take) {
            if changed { self.writer.unlock(held) } else { self.writer.unlock_unchanged(held) }
        }
        self.len = 0;
    }
}

impl Drop for LockedBuckets<'_, '_> {
    fn drop(&mut self) {
        self.unlock_all();
    }
}
