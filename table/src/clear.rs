//! Clearing the whole table at once: the version floor is raised above every version handed out, and the sweep unlinks what lies below.
//!
//! F1: an item whose version is below the floor is absent, for everybody, from the moment the floor is stored. F2: an item is linked
//! under a version that was taken, under its bucket's lock, before the writer read the floor by which it judged what is alive. F3: no
//! version of the floor or above is handed out before the floor is stored; whoever is handed one sees the floor.
//! So a write that judged by the old floor carries a version below the new one: it took effect before the clear, and is
//! cleared. One that carries a version above judged by the new floor: it came after.
//! CRASH: the floor is one word, announced by an intent. `Table::join` drops what lies below it.

use crate::intent::{self, Effect, EffectKind, SlotStore, Ticket};
use crate::layout::Header;
use crate::outcome::Outcome;
use crate::server_half::live_items;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Relaxed, Release};
use crate::words::MAX_VERSION;
use crate::writer::{VERSION_BLOCK, Writer};
use std::mem::offset_of;

/// Versions skipped by a clear: as many blocks as may be taken while the floor is being stored, without a second attempt.
const GAP: u64 = 1 << 20;
const _: () = assert!(GAP.is_multiple_of(VERSION_BLOCK));

impl Writer<'_> {
    /// Removes every item at once, in time that does not depend on how many there are; their memory comes back by the
    /// sweep. The outcome says how many there were.
    pub fn clear<R>(&mut self, ticket: &Ticket, publish: impl FnOnce(&Outcome) -> R) -> R {
        let table = self.table;
        // Two clears at once take turns; nobody else waits here.
        let _clearing = table.clearing.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let section = &self.arena.section;
        let counter = section.word(offset_of!(Header, next_version) as u64);
        let floor_at = offset_of!(Header, version_floor) as u64;
        let count = live_items(&self.arena);
        loop {
            // Not whole blocks above the counter: so it shows who raised it.
            let floor = counter.load(Relaxed) + GAP + 1;
            if floor > MAX_VERSION {
                return publish(&Outcome::Full);
            }
            let store = SlotStore { slot: floor_at, old: self.arena.version_floor(), new: floor };
            let effect = Effect { kind: EffectKind::Cleared, version: floor, value: count };
            intent::write_and_apply(&self.arena, self.record, ticket, &effect, store);
            if raise(counter, floor) {
                break;
            }
        }
        let cleared = section.word(offset_of!(Header, cleared) as u64);
        cleared.store(cleared.load(Relaxed).wrapping_add(count), Relaxed);
        table.sweeping.hurry();
        let answer = publish(&Outcome::Cleared { count });
        intent::clear(&self.arena, self.record);
        answer
    }
}

/// Raises the version counter to a floor that is stored; false if versions of the floor or above may have gone to who did not see it.
fn raise(counter: &AtomicU64, floor: u64) -> bool {
    // ORDER(next_version): Release pairs with the Acquire in `take_version_block` (F3).
    let seen = counter.fetch_max(floor, Release);
    // Whoever needs a version above the floor may have raised the counter to it before us: then it stands whole blocks above. Else more
    // than GAP versions went while the floor was on its way: their owners may have judged by the old floor, and another floor goes
    // above them.
    seen <= floor || (seen - floor).is_multiple_of(VERSION_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second floor would take what was written, read and answered after the first one took effect.
    #[test]
    fn help_is_told_from_an_overrun() {
        for before in [1, 4097, 1 << 40] {
            let floor = before + GAP + 1;
            for (raised_to, blocks, enough) in [
                (0, 0, true),
                (0, 200, true),
                (floor, 0, true),
                (floor, 1, true),
                (floor, 300, true),
                (0, 257, false),
                (0, 900, false),
            ] {
                let counter = AtomicU64::new(before.max(raised_to) + blocks * VERSION_BLOCK);
                assert_eq!(raise(&counter, floor), enough, "{before}, raised to {raised_to}, {blocks} blocks");
                assert!(counter.load(Relaxed) >= floor);
            }
        }
    }
}
