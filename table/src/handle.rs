//! A key's handle: where the key was when it was last read, so that the next reading need not search.
//!
//! While nothing changed, a reading touches two lines, and asks for both at once: the slot that named the item, and the item's header.
//!
//! K1: "unchanged" means that the item of that version is the key's item at a moment during the call. The slot's word and then the
//! item's word 0 are read. The item was linked by that very word when the handle was made, and versions never recur (S3 of
//! `seqlock`): word 0 says the version, so the item has not been retired in between; so the slot cannot have named another item at
//! that offset, and where it says that word, it names this one. The item's word alone would not do: a writer answers whoever asked for
//! a change before it retires the item that went.
//! K2: only slots of the bucket array are kept in a handle: overflow lines are freed and become something else.
//! Whatever does not match (replaced, deleted, moved by growth or evacuation) is looked up; an item that was moved keeps its
//! version, and is "unchanged" all the same.

use crate::outcome::Busy;
use crate::reader::{Hit, Reader};
use crate::seen::Seen;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::target::{Slice, Target, Whole};

/// Where a key was when it was last read through this handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    key: Box<[u8]>,
    hash: u64,
    /// Id of the region that the places below are of.
    region: [u8; 16],
    /// Offset of the slot and its word; 0 where there is nothing to go by.
    slot: u64,
    word: u64,
    item: u64,
    word0: u64,
    /// Version of the item that was read last; 0 where the key was absent or never read.
    version: u64,
}

/// What a reading through a handle found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reread {
    /// The key's item is the one that was read last.
    Unchanged,
    /// The key has another item than at the last reading, or an item for the first time.
    Changed(Seen),
    /// The key is absent.
    Gone,
}

impl Handle {
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key's hash.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Version of the item that was read last; 0 where the key was absent or never read.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes what somebody else found for the state at the last reading: the version of the key's item, if there is one. Whether it
    /// is another one than before; none where the key is absent.
    pub fn told(&mut self, version: Option<u64>) -> Option<bool> {
        let before = self.version;
        (self.slot, self.version) = (0, version.unwrap_or(0));
        version.map(|version| version != before)
    }

    /// Takes a lookup's answer for the state at the last reading.
    #[inline]
    fn remember(&mut self, reader: &Reader<'_>, hit: Option<Hit>) -> Reread {
        let Some(hit) = hit else {
            (self.slot, self.version) = (0, 0);
            return Reread::Gone;
        };
        let (item, before) = (hit.seen(), self.version);
        (self.item, self.word0, self.version) = (hit.item, hit.word0, item.version());
        (self.slot, self.word) = if reader.in_bucket_array(hit.slot) { (hit.slot, hit.word) } else { (0, 0) };
        if before == item.version() { Reread::Unchanged } else { Reread::Changed(item) }
    }
}

impl Reader<'_> {
    /// A handle for a key; it has read nothing yet.
    pub fn handle(&self, key: &[u8]) -> Handle {
        let hash = self.hash(key);
        Handle { key: key.into(), hash, region: self.uuid(), slot: 0, word: 0, item: 0, word0: 0, version: 0 }
    }

    /// Reads a handle's key. If it changed since the last reading, its value replaces the contents of `out`; if it did
    /// not, `out` is as it was, or holds the value once more.
    ///
    /// # Errors
    /// [`Busy`] when writers came between every time.
    #[inline]
    pub fn reread(&self, handle: &mut Handle, out: &mut Vec<u8>) -> Result<Reread, Busy> {
        if let Some(answer) = self.at_a_glance(handle) {
            return Ok(answer);
        }
        let hit = self.search(handle, &mut Whole(out))?;
        // SAFETY: the lookup reserved room for the whole value and filled it.
        unsafe { out.set_len(hit.map_or(0, |hit| hit.value_len() as usize)) };
        Ok(handle.remember(self, hit))
    }

    /// The same with the first bytes of the value, as many as fit `out`.
    ///
    /// # Errors
    /// [`Busy`] when writers came between every time.
    #[inline]
    pub fn reread_to(&self, handle: &mut Handle, out: &mut [u8]) -> Result<Reread, Busy> {
        if let Some(answer) = self.at_a_glance(handle) {
            return Ok(answer);
        }
        let hit = self.search(handle, &mut Slice(out))?;
        Ok(handle.remember(self, hit))
    }

    /// The answer where slot and item are what they were.
    #[inline(always)]
    fn at_a_glance(&self, handle: &mut Handle) -> Option<Reread> {
        let section = &self.arena.section;
        if handle.slot == 0 || handle.region != self.uuid() {
            return None;
        }
        // ORDER(slot): Acquire: the item's words are read after it (K1).
        let word = section.word(handle.slot).load(Acquire);
        let [word0, word1] = section.pair(handle.item);
        // ORDER(word1): Acquire: word 0 is read after it, so that the expiry is this item's if the version is.
        let word1 = word1.load(Acquire);
        if word != handle.word || word0.load(Relaxed) != handle.word0 {
            return None;
        }
        let hit = Hit { slot: handle.slot, word, item: handle.item, word0: handle.word0, word1 };
        match self.alive(hit) {
            Some(_) => Some(Reread::Unchanged),
            None => Some(handle.remember(self, None)),
        }
    }

    #[cold]
    fn search(&self, handle: &mut Handle, target: &mut impl Target) -> Result<Option<Hit>, Busy> {
        if handle.region != self.uuid() {
            // Another region, another hash; and versions of its own.
            *handle = self.handle(&handle.key);
        }
        match self.attempt(&handle.key, handle.hash, target) {
            Some(hit) => Ok(hit),
            None => self.get_contended(&handle.key, handle.hash, target),
        }
    }
}
