//! Several buckets locked at once, in address order: the basis of operations on several keys.
//!
//! K1: locks are taken in ascending order of the bucket, each once, by a writer that holds no other; so two sets
//! never wait for each other in a circle.

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
    held: [Option<Held>; MAX_LOCKED],
    len: usize,
    changed: bool,
}

impl<'a> Writer<'a> {
    /// Locks the buckets of these hashes, each once, in address order.
    pub fn lock_many(&mut self, hashes: &[u64]) -> Result<LockedBuckets<'_, 'a>, TooManyKeys> {
        if hashes.len() > MAX_LOCKED {
            return Err(TooManyKeys { found: hashes.len() });
        }
        let mut locked = LockedBuckets { writer: self, held: [None; MAX_LOCKED], len: 0, changed: false };
        loop {
            let count = locked.writer.arena.bucket_count();
            let mut indexes = [0u64; MAX_LOCKED];
            for (index, &hash) in indexes.iter_mut().zip(hashes) {
                *index = count.index(hash);
            }
            let indexes = &mut indexes[..hashes.len()];
            indexes.sort_unstable();
            let mut last = None;
            for &index in indexes.iter() {
                if last != Some(index) {
                    locked.held[locked.len] = Some(locked.writer.lock_bucket(index));
                    locked.len += 1;
                    last = Some(index);
                }
            }
            if locked.writer.arena.bucket_count() == count {
                return Ok(locked);
            }
            locked.unlock_all();
        }
    }
}

impl LockedBuckets<'_, '_> {
    /// How many buckets are locked.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says that slots were stored, so that readers of these buckets retry.
    pub fn set_changed(&mut self) {
        self.changed = true;
    }

    fn unlock_all(&mut self) {
        for held in self.held[..self.len].iter_mut().filter_map(Option::take) {
            if self.changed { self.writer.unlock(held) } else { self.writer.unlock_unchanged(held) }
        }
        self.len = 0;
    }
}

impl Drop for LockedBuckets<'_, '_> {
    fn drop(&mut self) {
        self.unlock_all();
    }
}
