//! Listings: the items of a bucket, and scans over buckets.
//!
//! The cursor is the table's own. Where a reply has no room for an item the listing stops there; the next one starts at the
//! table's cursor and leaves out what was delivered from it already (items of equal hash bits share a cursor).

use protocol::{Entry, EntryValue, Reply, Status, encode_entry, encoded_entry_len};
use shmqueue::engine::Job;

use table::ItemView;

use super::{Service, answer};

/// Most buckets looked at in one step: the bound on how long one request keeps a worker.
pub(super) const MOST_BUCKETS: u32 = 1024;
/// Longest value that a listing carries itself; longer ones go by reference.
const INLINE_VALUE: u32 = 128;
/// The part of a cursor that is a bucket's index.
const CURSOR_INDEX: u64 = (1 << 36) - 1;

/// What a listing found, beside the entries in the service's room.
struct Listed {
    next: u64,
    delivered: u64,
    too_small: bool,
}

impl Service<'_> {
    pub(super) fn bucket(&mut self, job: &Job<'_>, key: &[u8], hash: u64, skip: u32) {
        if self.refuses_key(job, key) {
            return;
        }
        loop {
            let index = self.writer.bucket_of(hash);
            let listed = self.list(job.room(), index, 1, skip);
            // The bucket may have been split between the two: the key then belongs to the new one, which happens once per doubling.
            if self.writer.bucket_of(hash) == index {
                return self.answer_listing(job, index, index, skip, &listed);
            }
        }
    }

    pub(super) fn scan(&mut self, job: &Job<'_>, cursor: u64, buckets: u32, skip: u32) {
        // Counted before the walk: a bucket that is made meanwhile is either beyond the end or walked, never half of each.
        let (index, count) = (cursor & CURSOR_INDEX, self.writer.table().buckets());
        if index >= count {
            return answer(job, Reply { status: Status::Items, a: u64::MAX, b: u64::MAX, c: 0 });
        }
        let listed = self.list(job.room(), cursor, buckets.clamp(1, MOST_BUCKETS), skip);
        self.answer_listing(job, index, cursor, skip, &listed);
    }

    /// Collects what fits `room` bytes.
    fn list(&mut self, room: usize, cursor: u64, buckets: u32, skip: u32) -> Listed {
        let (mut left_out, mut delivered, mut too_small) = (0, 0, false);
        let mut out = std::mem::take(&mut self.room);
        let mut value = std::mem::take(&mut self.value);
        out.clear();
        let next = self.writer.scan(cursor, buckets, &mut |view| {
            if left_out < skip {
                left_out += 1;
                return true;
            }
            let Some(entry) = self.entry(view, &mut value) else { return true };
            if out.len() + encoded_entry_len(&entry) > room {
                too_small = true;
                return false;
            }
            encode_entry(&entry, &mut out);
            delivered += 1;
            true
        });
        (self.room, self.value) = (out, value);
        Listed { next: next.unwrap_or(u64::MAX), delivered, too_small }
    }

    /// An item as an entry; `None` when it went away meanwhile.
    fn entry<'a>(&self, view: &'a ItemView<'_>, value: &'a mut Vec<u8>) -> Option<Entry<'a>> {
        let (mut item, mut inline) = (*view.item(), false);
        if item.value_len <= INLINE_VALUE {
            item = view.value_into(value)?;
            inline = value.len() <= INLINE_VALUE as usize;
        }
        Some(Entry {
            key: view.key(),
            version: item.version,
            ttl_ms: self.remaining_ms(&item),
            type_and_flags: item.type_and_flags,
            value: match inline {
                true => EntryValue::Inline(value),
                false => EntryValue::Reference { offset: item.offset, len: item.value_len as usize },
            },
        })
    }

    fn answer_listing(&mut self, job: &Job<'_>, index: u64, cursor: u64, skip: u32, listed: &Listed) {
        let Listed { next, delivered, too_small } = *listed;
        if too_small && delivered == 0 {
            return answer(job, Reply { status: Status::RoomTooSmall, a: index, b: 0, c: 0 });
        }
        job.write_bytes(&self.room);
        // Stopped at the cursor we came from: what was delivered shares it, and is left out next time.
        let rest = match too_small {
            false => 0,
            true if next == cursor => u64::from(skip) + delivered + 1,
            true => 1,
        };
        answer(job, Reply { status: Status::Items, a: index, b: next, c: self.room.len() as u64 | rest << 32 });
    }
}
