//! Steps over the whole table: scanning and deleting by prefix, bucket by bucket, from a cursor.
//!
//! A cursor is {27 hash bits, bucket}: inside a bucket items are visited in the order of their hash bits, which stay
//! with the key wherever it moves in the chain. So a step can stop between two items, and an item that is there
//! throughout is met by this step or the next; items of equal hash bits may be met twice, and a visitor that stops at the second of
//! two stops there for ever unless it leaves out what it has met. They are the highest bits of the hash, of which neither the bucket's index
//! nor the slot's tag has any: two keys of one bucket hardly ever agree in them.

use crate::chain;
use crate::layout::Counters;
use crate::outcome::ItemRef;
use crate::seqlock;
use crate::split::MOST;
use crate::sync::Ordering::Release;
use crate::words::ITEM_HEADER;
use crate::writer::{Writer, item_ref};
use std::mem::offset_of;

const INDEX_BITS: u32 = 36;
/// Optimistic copies of a bucket before its lock is taken.
const TRIES: u32 = 32;

/// An item met by a scan: a consistent copy of header and key; the value is copied on request.
pub struct ItemView<'a> {
    writer: &'a Writer<'a>,
    item: ItemRef,
    key: &'a [u8],
}

impl ItemView<'_> {
    /// The key.
    pub fn key(&self) -> &[u8] {
        self.key
    }

    /// The item as it was met.
    pub fn item(&self) -> &ItemRef {
        &self.item
    }

    /// Replaces the contents of `out` with the key's value, the current one if it changed since; none if the key is
    /// gone. The item whose value it is.
    pub fn value_into(&self, out: &mut Vec<u8>) -> Option<ItemRef> {
        let mut item = self.item;
        loop {
            if self.writer.value_into(&item, out).is_ok() {
                return Some(item);
            }
            item = self.writer.get(self.key, self.writer.hash(self.key))?;
        }
    }
}

#[derive(Clone, Copy)]
struct Met {
    /// The hash bits that items are visited in the order of.
    place: u64,
    item: ItemRef,
    key_at: usize,
}

/// One bucket, copied.
struct Snapshot {
    met: Vec<Met>,
    keys: Vec<u8>,
}

impl Writer<'_> {
    /// Visits the items of at most `max_buckets` buckets from `cursor` on (0 to begin) until `visit` answers false; that
    /// item will be met again. The cursor to go on from, none at the end. Expired items are left out.
    pub fn scan(&self, cursor: u64, max_buckets: u32, visit: &mut dyn FnMut(&ItemView<'_>) -> bool) -> Option<u64> {
        let (mut index, mut from) = (cursor & ((1 << INDEX_BITS) - 1), cursor >> INDEX_BITS);
        let mut snapshot = Snapshot { met: Vec::new(), keys: Vec::new() };
        for _ in 0..max_buckets {
            if index >= self.arena.bucket_count().buckets() {
                return None;
            }
            self.snapshot(index, from, &mut snapshot);
            for met in &snapshot.met {
                let key = &snapshot.keys[met.key_at..met.key_at + usize::from(met.item.key_len)];
                if !visit(&ItemView { writer: self, item: met.item, key }) {
                    return Some(met.place << INDEX_BITS | index);
                }
            }
            index += 1;
            from = 0;
        }
        (index < self.arena.bucket_count().buckets()).then_some(index)
    }

    /// Copies a bucket's items whose hash bits are at least `from`, in their order.
    fn snapshot(&self, index: u64, from: u64, into: &mut Snapshot) {
        let bucket = self.arena.bucket(index);
        let version = self.arena.section.word(bucket);
        let backoff = seqlock::Backoff::new();
        for _ in 0..TRIES {
            if let Some(seen) = seqlock::read_begin(version) {
                self.collect(bucket, from, into);
                if seqlock::read_holds(version, seen) {
                    return;
                }
            }
            backoff.snooze();
        }
        let held = self.lock_bucket(index);
        self.collect(bucket, from, into);
        self.unlock_unchanged(held);
    }

    fn collect(&self, bucket: u64, from: u64, into: &mut Snapshot) {
        into.met.clear();
        into.keys.clear();
        let floor = self.arena.version_floor();
        chain::for_each_slot(&self.arena, self.arena.heap_end, bucket, |_, word| {
            let Some((item, header)) = chain::item_of(&self.arena, self.arena.heap_end, word) else { return };
            if self.is_dead(&header, floor) {
                return;
            }
            let key_at = into.keys.len();
            into.keys.resize(key_at + usize::from(header.key_len), 0);
            // SAFETY: the vector was just grown by the key's length.
            unsafe {
                let out = into.keys.as_mut_ptr().add(key_at);
                self.arena.section.read(item + ITEM_HEADER, out, usize::from(header.key_len));
            }
            let place = self.hash(&into.keys[key_at..]) >> (INDEX_BITS + 1);
            if place < from {
                into.keys.truncate(key_at);
            } else {
                into.met.push(Met { place, item: item_ref(item, &header), key_at });
            }
        });
        into.met.sort_by_key(|met| met.place);
    }

    /// Deletes the keys with a prefix in at most `max_buckets` buckets from `cursor` on; how many, and the cursor to go
    /// on from. Each key goes by one slot store; no intent is written, since doing a step again does no harm.
    pub fn delete_step(&mut self, cursor: u64, max_buckets: u32, prefix: &[u8]) -> (u64, Option<u64>) {
        let (mut index, mut deleted) = (cursor & ((1 << INDEX_BITS) - 1), 0);
        for _ in 0..max_buckets {
            if index >= self.arena.bucket_count().buckets() {
                return (deleted, None);
            }
            deleted += self.delete_in_bucket(index, prefix);
            index += 1;
        }
        (deleted, (index < self.arena.bucket_count().buckets()).then_some(index))
    }

    fn delete_in_bucket(&mut self, index: u64, prefix: &[u8]) -> u64 {
        let mut freed = [0u64; MOST];
        let (mut items, mut live, mut expired, floor) = (0, 0, 0, self.arena.version_floor());
        let held = self.lock_bucket(index);
        let arena = &self.arena;
        chain::for_each_slot(arena, arena.heap_end, held.bucket, |slot, word| {
            let Some((item, header)) = chain::item_of(arena, arena.heap_end, word) else { return };
            let begins = usize::from(header.key_len) >= prefix.len() && arena.section.equals(item + ITEM_HEADER, prefix);
            if begins && items < MOST {
                // ORDER(slot): Release, one visible step per key for a successor.
                arena.section.word(slot).store(0, Release);
                freed[items] = item;
                items += 1;
                let dead = self.is_dead(&header, floor);
                live += u64::from(!dead);
                expired += u64::from(dead && header.version >= floor);
            }
        });
        if items == 0 {
            self.unlock_unchanged(held);
            return 0;
        }
        let spare = self.close_up(held.bucket, |_| false);
        self.count(offset_of!(Counters, expired), expired);
        self.count(offset_of!(Counters, cleared), items as u64 - live - expired);
        self.unlock(held);
        self.count(offset_of!(Counters, overflow_lines), (spare.lines().len() as u64).wrapping_neg());
        self.unlinked(items as u64);
        for &offset in freed[..items].iter().chain(spare.lines()) {
            self.release(offset, false);
        }
        live
    }
}
