//! Many lookups at once: the memory that they need is fetched side by side instead of one line after the other.
//!
//! Group prefetching after S. Chen, A. Ailamaki, P. Gibbons and T. Mowry, "Improving hash join performance through prefetching",
//! ICDE 2004: each step of the lookup is made for the whole group, and asks for the lines that the next step reads.
//!
//! ```text
//! hash, fetch bucket (all) ─▶ version, tags, fetch item (all) ─▶ key, copy, version again (all) ─▶ what is left: a lookup by itself
//! ```
//!
//! E1: every key is answered for itself, as by a single lookup; a batch is no snapshot. E2: what the group's steps cannot settle (an
//! overflow line, a writer in between, a tag that two keys share) is looked up by itself, with that lookup's bounds.

use crate::outcome::Busy;
use crate::prefetch;
use crate::reader::Reader;
use crate::seen::Seen;
use crate::seqlock;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::target::Whole;
use crate::words::{BucketCount, ITEM_HEADER, is_link, offset_of_slot, tag_of};

/// Keys that are looked up side by side: about as many lines as a core fetches at once.
pub const BATCH: usize = 16;

/// What a group knows of one of its keys.
#[derive(Clone, Copy)]
struct Glance {
    hash: u64,
    /// Offset of the bucket's line; 0 where there is none.
    bucket: u64,
    /// The bucket's version, odd where there is nothing to go on with.
    seen: u64,
    /// Offset of the slot that may name the item, and its word; 0 where there is none.
    slot: u64,
    word: u64,
}

const NOTHING: Glance = Glance { hash: 0, bucket: 0, seen: 1, slot: 0, word: 0 };

impl Reader<'_> {
    /// Looks many keys up, [`BATCH`] side by side. `visit` gets the key's number, the answer and the value, in the order of the keys;
    /// `room` is the memory in which it sees the value.
    #[inline]
    pub fn get_batch<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        room: &mut Vec<u8>,
        mut visit: impl FnMut(usize, Result<Option<Seen>, Busy>, &[u8]),
    ) {
        for (number, group) in keys.chunks(BATCH).enumerate() {
            let mut glances = [NOTHING; BATCH];
            let count = self.arena.bucket_count();
            for (glance, key) in glances.iter_mut().zip(group) {
                self.approach(glance, count, key.as_ref());
            }
            for (glance, key) in glances.iter_mut().zip(group) {
                self.look(glance, key.as_ref().len());
            }
            for (place, (glance, key)) in glances.iter().zip(group).enumerate() {
                let answer = self.settle(glance, count, key.as_ref(), room);
                visit(number * BATCH + place, answer, room);
            }
        }
    }

    /// Hashes a key and fetches its bucket.
    #[inline(always)]
    fn approach(&self, glance: &mut Glance, count: BucketCount, key: &[u8]) {
        glance.hash = self.hash(key);
        if let Some(bucket) = self.bucket(count, glance.hash) {
            glance.bucket = bucket;
            prefetch::for_read(self.arena.section.hint(bucket));
        }
    }

    /// Reads the bucket's line and fetches the item that it names.
    #[inline(always)]
    fn look(&self, glance: &mut Glance, key_len: usize) {
        if glance.bucket == 0 {
            return;
        }
        let line = self.line(glance.bucket);
        // ORDER(version): as in `seqlock::read_begin`; an odd one is looked at later.
        glance.seen = line.0[0].load(Acquire);
        let candidates = self.candidates(glance.bucket, tag_of(glance.hash));
        if candidates == 0 {
            return;
        }
        let index = candidates.trailing_zeros() as usize & 7;
        glance.slot = glance.bucket + 8 * index as u64;
        glance.word = line.0[index].load(Relaxed);
        let item = offset_of_slot(glance.word);
        prefetch::for_read(self.arena.section.hint(item));
        // Where the item lies across two lines, the second is as far away as the first.
        prefetch::for_read(self.arena.section.hint(item + ITEM_HEADER + key_len as u64 + 7));
    }

    /// The answer for a key, its value in `room`.
    #[inline(always)]
    fn settle(&self, glance: &Glance, count: BucketCount, key: &[u8], room: &mut Vec<u8>) -> Result<Option<Seen>, Busy> {
        // Without a bucket `seen` is odd.
        if glance.seen & 1 == 0 {
            let line = self.line(glance.bucket);
            if glance.word != 0 {
                if let Some(hit) = self.check(glance.slot, glance.word, key) {
                    self.copy(&hit, key.len(), &mut Whole(room));
                    if seqlock::read_holds(&line.0[0], glance.seen) {
                        let answer = self.alive(hit).map(|hit| hit.seen());
                        // SAFETY: the copy reserved and filled so many bytes.
                        unsafe { room.set_len(answer.map_or(0, |item| item.value_len())) };
                        return Ok(answer);
                    }
                }
            } else if !is_link(line.0[7].load(Relaxed))
                && seqlock::read_holds(&line.0[0], glance.seen)
                && self.is_still(count, glance.hash)
            {
                room.clear();
                return Ok(None);
            }
        }
        self.get_into(key, glance.hash, room)
    }
}
