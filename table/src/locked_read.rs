//! Reading a value under its bucket's lock: the way out for readers that keep losing the race against writers.

use crate::chain;
use crate::outcome::ItemRef;
use crate::words::tag_of;
use crate::writer::{Writer, item_ref};

impl Writer<'_> {
    /// Replaces the contents of `out` with the key's value, copied while its bucket is locked; the item, or none if the key is absent.
    ///
    /// Other workers wait for the bucket meanwhile: use it after optimistic tries only.
    pub fn value_locked(&mut self, key: &[u8], hash: u64, out: &mut Vec<u8>) -> Option<ItemRef> {
        let held = self.lock(hash);
        let found = chain::find(&self.arena, self.arena.heap_end, held.bucket, tag_of(hash), key);
        let item = self.living(found).map(|found| item_ref(found.item, &found.header));
        let item = item.filter(|item| self.value_into(item, out).is_ok());
        self.unlock_unchanged(held);
        item
    }
}
