//! Setting and removing an item's expiry. Where it leads the sweep to is in [`crate::deadlines`].

use crate::chain;
use crate::clock::Expiry;
use crate::deadlines::group_word;
use crate::intent::{self, Effect, EffectKind, SlotStore, Ticket};
use crate::layout::{GROUP, LINE};
use crate::outcome::Outcome;
use crate::words::{ItemHeader, tag_of};
use crate::writer::Writer;

impl Writer<'_> {
    /// Sets when a key's item is to be gone, or (never) that it stays. The item stays the same, with its version.
    pub fn expire<R>(
        &mut self,
        key: &[u8],
        hash: u64,
        expiry: Expiry,
        ticket: &Ticket,
        publish: impl FnOnce(&Outcome) -> R,
    ) -> R {
        let held = self.lock(hash);
        let found = chain::find(&self.arena, self.arena.heap_end, held.bucket, tag_of(hash), key);
        let Some(found) = self.living(found) else { return self.refuse(held, Outcome::NotFound, publish) };
        let header = ItemHeader { expiry: expiry.word(found.header.expiry), ..found.header };
        if header.expiry != 0 {
            self.lower_deadline(held.bucket, header.expiry);
        }
        let store = SlotStore { slot: found.item + 8, old: found.header.word1(), new: header.word1() };
        let effect = Effect { kind: EffectKind::Expires, version: header.version, value: 0 };
        intent::write_and_apply(&self.arena, self.record, ticket, &effect, store);
        let answer = publish(&Outcome::Expires { version: header.version });
        intent::clear(&self.arena, self.record);
        self.unlock(held);
        answer
    }

    /// Lowers the deadline of the bucket's group (X1), and what the sweep waits for.
    #[inline]
    pub(crate) fn lower_deadline(&self, bucket: u64, expiry: u64) {
        let word = group_word(&self.arena, (bucket - self.arena.buckets) / LINE / GROUP);
        self.table.sweeping.deadlines.lower(word, expiry);
    }
}
