//! Listings: the items of a bucket, and scans over buckets.
//!
//! The cursor is the table's own. Where a reply has no room for an item the listing stops there; the next one starts at the
//! table's cursor and leaves out what was delivered from it already (items of equal hash bits share a cursor).

use protocol::{Entry, EntryValue, Reply, Status, encode_entry, encoded_entry_len};
use shmqueue::engine::Job;

use super::{Service, answer};

/// Most buckets looked at in one step: the bound on how long one request keeps a worker.
pub(super) const MOST_BUCKETS: u32 = 1024;
/// Longest value that a listing carries itself; longer ones go by reference.
const INLINE_VALUE: u32 = 128;

impl Service<'_> {
    pub(super) fn bucket(&mut self, job: &Job<'_>, key: &[u8], hash: u64, skip: u32) {
        if self.refuses_key(job, key) {
            return;
        }
        let index = self.writer.bucket_of(hash);
        self.list(job, index, index, 1, skip);
    }

    pub(super) fn scan(&mut self, job: &Job<'_>, cursor: u64, buckets: u32, skip: u32) {
        self.list(job, cursor, cursor, buckets.clamp(1, MOST_BUCKETS), skip);
    }

    fn list(&mut self, job: &Job<'_>, index: u64, cursor: u64, buckets: u32, skip: u32) {
        let room = job.room();
        let (mut left_out, mut delivered, mut too_small) = (0, 0, false);
        let (out, value) = (&mut self.room, &mut self.value);
        out.clear();
        let next = self.writer.scan(cursor, buckets, &mut |view| {
            if left_out < skip {
                left_out += 1;
                return true;
            }
            let item = view.item();
            let mut entry = Entry {
                key: view.key(),
                version: item.version,
                value: EntryValue::Reference { offset: item.offset, len: item.value_len as usize },
            };
            if item.value_len <= INLINE_VALUE {
                let Some(item) = view.value_into(value) else { return true };
                entry.version = item.version;
                if value.len() <= INLINE_VALUE as usize {
                    entry.value = EntryValue::Inline(value);
                } else {
                    entry.value = EntryValue::Reference { offset: item.offset, len: item.value_len as usize };
                }
            }
            if out.len() + encoded_entry_len(&entry) > room {
                too_small = true;
                return false;
            }
            encode_entry(&entry, out);
            delivered += 1;
            true
        });
        if too_small && delivered == 0 {
            return answer(job, Reply { status: Status::RoomTooSmall, a: index, b: 0, c: 0 });
        }
        job.write_bytes(out);
        let next = next.unwrap_or(u64::MAX);
        // Stopped at the cursor we came from: what was delivered shares it, and is left out next time.
        let rest = match too_small {
            false => 0,
            true if next == cursor => u64::from(skip) + delivered + 1,
            true => 1,
        };
        answer(job, Reply { status: Status::Items, a: index, b: next, c: out.len() as u64 | rest << 32 });
    }
}
