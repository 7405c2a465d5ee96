//! Setting and removing an item's expiry, and the groups' deadlines that lead the sweep to it.
//!
//! X1: a group's deadline is never above the expiry of an item linked in one of its buckets: it is lowered before the item is
//! linked or its expiry set, and raised by the sweep only. X2: `next_due` is never above a group's deadline, but for the
//! time a sweep needs to go once around.
//!
//! A deadline rests in the section as its distance from beyond the latest expiry, so that 0 is "none", an earlier one is
//! greater, and lowering it is one atomic maximum.
//! CRASH: deadlines are worked out anew by `Table::join`.

use crate::arena::Arena;
use crate::chain;
use crate::clock::Expiry;
use crate::intent::{self, Effect, EffectKind, SlotStore, Ticket};
use crate::layout::{GROUP, LINE};
use crate::outcome::Outcome;
use crate::sync::Ordering::{AcqRel, Relaxed, SeqCst};
use crate::sync::{AtomicU64, fence};
use crate::words::{ItemHeader, MAX_EXPIRY, tag_of};
use crate::writer::Writer;

/// No deadline, as a time.
pub(crate) const NO_DEADLINE: u64 = u64::MAX;

/// The deadline that a group's word stands for.
#[inline]
pub(crate) fn deadline_of(word: u64) -> u64 {
    if word == 0 { NO_DEADLINE } else { (MAX_EXPIRY + 1).saturating_sub(word) }
}

/// The word of a group whose earliest expiry this is.
#[inline]
pub(crate) fn deadline_word(deadline: u64) -> u64 {
    if deadline == NO_DEADLINE { 0 } else { MAX_EXPIRY + 1 - deadline.min(MAX_EXPIRY) }
}

/// The word of a group of buckets.
#[inline]
pub(crate) fn group_word(arena: &Arena, group: u64) -> &AtomicU64 {
    arena.section.word(arena.deadlines + 8 * group)
}

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
        let wanted = deadline_word(expiry);
        // Most items outlive another one of their group: a look is enough for them. The sweep clears the word before it looks at
        // the group's buckets, each under its lock, and our bucket is locked: what it finds out does not miss our item.
        if word.load(Relaxed) < wanted {
            // ORDER(deadline): AcqRel pairs with the sweep's look at the word.
            word.fetch_max(wanted, AcqRel);
            // ORDER(deadline): before the look at `next_due`; pairs with the fence in `begin_round`: the sweep stores `next_due` first and
            // reads the words after, so that it sees our word or we see that it emptied `next_due`.
            fence(SeqCst);
        }
        self.table.sweeping.due_by(expiry);
    }
}
