//! Taking a table over from a dead server: what the buckets reach is the table, everything else is free memory.
//!
//! ```text
//! header checked ─▶ redo lists completed ─▶ intents read
//!                ─▶ each bucket: odd version ─▶ next even, chain and slots checked, blocks marked
//!                ─▶ spans settled ─▶ counters and deadlines set ─▶ joined
//! ```
//!
//! Slots that a split had copied but not yet zeroed, and items below the version floor, are dropped without a word: the first
//! stand in their new bucket, the second were cleared.
//!
//! V1: every step only repeats what a second run would do: a join killed anywhere is followed by another. V2: intents
//! and redo lists stay in their records until the first writer is taken, so that a second join reports them again. V3: nothing read
//! from the section is followed before it was checked; what does not check is dropped and counted.

use crate::arena::Arena;
use crate::chain;
use crate::classes::{LINE_CLASS, UNIT};
use crate::deadlines::{NO_DEADLINE, deadline_word, group_word};
use crate::hashing::Hasher;
use crate::header::{self, JoinError};
use crate::intent::{self, PendingIntent};
use crate::layout::{CHAIN_CAP, Counters, GROUP, Header, LINE, MAX_WORKERS, Part, SLOTS, WorkerRecord};
use crate::prefetch;
use crate::redo;
use crate::section::Section;
use crate::server_half::{Table, reserve_units};
use crate::spans::{Spans, unit_entry};
use crate::store::Commit;
use crate::sync::Ordering::Relaxed;
use crate::words::{ITEM_HEADER, ItemHeader, MAX_KEY, OVERFLOW_MARK, is_link, offset_of_slot, slot_tag, tag_of};
use std::mem::offset_of;
use std::ptr::NonNull;

/// Buckets whose items are fetched ahead of the scan.
const AHEAD: u64 = 6;

/// What a join found and mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Items in the table.
    pub items: u64,
    /// Buckets that were locked or lost slots.
    pub repaired_buckets: u64,
    /// Slots whose contents could not be an item's, or were one's twice.
    pub dropped_slots: u64,
    /// Mutations that were under way. Transactions among them are applied: what was committed has been finished.
    pub intents: Vec<PendingIntent>,
}

impl Table {
    /// Joins a table that another server process left, in whatever state. Publish the replies of the intents it reports
    /// before taking the first [`Writer`](crate::Writer).
    ///
    /// # Safety
    /// As for [`Table::format`], with `len` the mapped length; no other process may write the section any more.
    pub unsafe fn join(base: NonNull<u8>, len: u64, commit: Box<dyn Commit>) -> Result<(Table, Recovery), JoinError> {
        if !base.as_ptr().addr().is_multiple_of(64) {
            return Err(JoinError::Alignment { found: base.as_ptr().addr() });
        }
        // SAFETY: passed on from the caller; the base is aligned.
        let section = unsafe { Section::new(base, len) };
        let identity = header::read(&section, len)?;
        let geometry = identity.geometry;
        let arena = geometry.arena(section);
        // Before any bucket is looked at: what was committed is in the buckets from here on.
        let transactions = redo::complete(&arena, &geometry);
        let committed = identity.committed[Part::Heap as usize];
        let mut spans = Spans::new(arena.clone(), reserve_units(&geometry));
        spans.grow(committed / UNIT, false);
        let mut rebuild = Rebuild {
            end: arena.heap_start + committed,
            hasher: Hasher::new(identity.seed),
            recovery: Recovery { intents: [pending_intents(&arena), transactions].concat(), ..Recovery::default() },
            lines: 0,
            highest_version: 0,
            floor: arena.version_floor(),
            least: NO_DEADLINE,
            next_due: NO_DEADLINE,
            arena,
            spans,
        };
        rebuild.buckets();
        rebuild.spans.settle();
        rebuild.counters();
        let Rebuild { arena, spans, recovery, next_due, .. } = rebuild;
        let used = arena.workers
            + [Part::Workers, Part::Redo, Part::Deadlines, Part::ClassMap, Part::Buckets, Part::Heap]
                .map(|part| identity.committed[part as usize])
                .iter()
                .sum::<u64>();
        let table = Table::new(arena, geometry, identity.seed, identity.uuid, spans, commit, used, next_due);
        *table.intents_stand.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        Ok((table, recovery))
    }
}

/// The intents that stand, with whether their store happened: the slot holds the new word.
fn pending_intents(arena: &Arena) -> Vec<PendingIntent> {
    let slot_ok = |slot: u64| {
        let in_buckets = slot >= arena.buckets && slot < arena.buckets + arena.max_buckets * LINE;
        let floor = slot == offset_of!(Header, version_floor) as u64;
        slot.is_multiple_of(8) && (floor || in_buckets || (slot >= arena.heap_start && slot < arena.heap_end))
    };
    (0..MAX_WORKERS)
        .filter_map(|worker| intent::read(arena, worker))
        .filter(|(_, store)| slot_ok(store.slot) && store.old != store.new)
        .map(|(pending, store)| PendingIntent { applied: arena.section.word(store.slot).load(Relaxed) == store.new, ..pending })
        .collect()
}

/// An item kept so far in a chain, to find duplicates by.
#[derive(Clone, Copy)]
struct Kept {
    tag: u64,
    item: u64,
    key_len: u16,
}

struct Rebuild {
    arena: Arena,
    end: u64,
    hasher: Hasher,
    spans: Spans,
    recovery: Recovery,
    lines: u64,
    highest_version: u64,
    floor: u64,
    /// Earliest expiry of the group that is being looked at, and of all.
    least: u64,
    next_due: u64,
}

/// What a slot's word is.
enum Slot {
    Item(u64, ItemHeader),
    /// Nothing that is missed: moved by a split, or cleared.
    Leftover,
    Damaged,
}

impl Rebuild {
    fn buckets(&mut self) {
        let buckets = self.arena.bucket_count().buckets();
        for index in 0..buckets {
            self.fetch_ahead(index + AHEAD, buckets);
            self.bucket(index);
            if (index + 1).is_multiple_of(GROUP) || index + 1 == buckets {
                group_word(&self.arena, index / GROUP).store(deadline_word(self.least), Relaxed);
                self.next_due = self.next_due.min(self.least);
                self.least = NO_DEADLINE;
            }
        }
    }

    fn fetch_ahead(&self, index: u64, buckets: u64) {
        if index >= buckets {
            return;
        }
        for slot in 0..SLOTS {
            let word = self.arena.section.word(chain::slot_at(self.arena.bucket(index), slot)).load(Relaxed);
            if word != 0 {
                prefetch::for_read(self.arena.section.hint(offset_of_slot(word)));
            }
        }
    }

    fn bucket(&mut self, index: u64) {
        let bucket = self.arena.bucket(index);
        let mut repaired = false;
        let mut kept: [Kept; 128] = [Kept { tag: 0, item: 0, key_len: 0 }; 128];
        let mut kept_len = 0;
        let mut line = bucket;
        'lines: for depth in 0..=CHAIN_CAP {
            for place in 0..SLOTS {
                let slot = chain::slot_at(line, place);
                let word = self.arena.section.word(slot).load(Relaxed);
                if word == 0 {
                    continue;
                }
                if is_link(word) {
                    if place == SLOTS - 1
                        && depth < CHAIN_CAP
                        && let Some(next) = self.line(word)
                    {
                        self.lines += 1;
                        line = next;
                        continue 'lines;
                    }
                } else {
                    match self.item(index, word) {
                        Slot::Item(item, header) => {
                            let one = Kept { tag: slot_tag(word), item, key_len: header.key_len };
                            let again = self.duplicate(&kept[..kept_len], one);
                            if again != Some(item) {
                                if again.is_none() && self.spans.mark(item, header.len()) {
                                    kept[kept_len] = one;
                                    kept_len += 1;
                                    self.keep(&header);
                                    continue;
                                }
                                self.recovery.dropped_slots += 1;
                            }
                        }
                        Slot::Leftover => {}
                        Slot::Damaged => self.recovery.dropped_slots += 1,
                    }
                    self.arena.section.word(slot).store(0, Relaxed);
                    repaired = true;
                    continue;
                }
                self.arena.section.word(slot).store(0, Relaxed);
                self.recovery.dropped_slots += 1;
                repaired = true;
            }
            break;
        }
        self.recovery.items += kept_len as u64;
        let version = self.arena.section.word(bucket);
        let seen = version.load(Relaxed);
        if repaired || seen & 1 == 1 {
            // An even version goes to another even one as well: its readers saw slots that are gone.
            version.store(seen.wrapping_add(2) & !1, Relaxed);
            self.recovery.repaired_buckets += 1;
        }
    }

    /// The overflow line of a link, if it is one that nothing else uses.
    fn line(&mut self, word: u64) -> Option<u64> {
        let line = chain::line_of(&self.arena, self.end, word)?;
        let marked = self.arena.section.word(line).load(Relaxed) == OVERFLOW_MARK;
        let class = unit_entry(&self.arena, line)?.class;
        (marked && class == LINE_CLASS && self.spans.mark(line, LINE)).then_some(line)
    }

    fn keep(&mut self, header: &ItemHeader) {
        self.highest_version = self.highest_version.max(header.version);
        if header.expiry != 0 {
            self.least = self.least.min(header.expiry);
        }
    }

    /// What the slot's word names: an item whose key belongs into this bucket, one that went elsewhere, or nothing sensible.
    fn item(&self, index: u64, word: u64) -> Slot {
        let Some((item, header)) = chain::item_of(&self.arena, self.end, word) else { return Slot::Damaged };
        if header.version == 0 || header.key_len == 0 {
            return Slot::Damaged;
        }
        let mut key = [std::mem::MaybeUninit::<u8>::uninit(); MAX_KEY];
        let len = usize::from(header.key_len);
        // SAFETY: item_of admits keys of at most MAX_KEY bytes, the size of the array; the copied bytes are initialised.
        let hash = unsafe {
            self.arena.section.read(item + ITEM_HEADER, key.as_mut_ptr().cast(), len);
            self.hasher.hash(std::slice::from_raw_parts(key.as_ptr().cast(), len))
        };
        if tag_of(hash) != slot_tag(word) {
            return Slot::Damaged;
        }
        let count = self.arena.bucket_count();
        if count.index(hash) != index {
            // A split copied it before the count went up: the newest bucket has it, if this is the one it was divided with.
            let moved = count.parent_of_newest() == Some(index) && count.index(hash) == count.buckets() - 1;
            return if moved { Slot::Leftover } else { Slot::Damaged };
        }
        if header.version < self.floor { Slot::Leftover } else { Slot::Item(item, header) }
    }

    /// The item of the same key that a chain has already.
    fn duplicate(&self, kept: &[Kept], one: Kept) -> Option<u64> {
        use chain::KeyBytes;
        let key = chain::ItemKey { at: one.item + ITEM_HEADER, len: usize::from(one.key_len) };
        let same = |other: &&Kept| {
            other.tag == one.tag && other.key_len == one.key_len && key.equals(&self.arena, other.item + ITEM_HEADER)
        };
        kept.iter().find(same).map(|other| other.item)
    }

    /// The sums start anew from what was found; the version counter is kept above every version in use.
    fn counters(&mut self) {
        let section = &self.arena.section;
        for worker in 0..MAX_WORKERS {
            let at = self.arena.record(worker) + offset_of!(WorkerRecord, counters) as u64;
            let first = worker == 0;
            let (items, lines) = if first { (self.recovery.items, self.lines) } else { (0, 0) };
            section.word(at + offset_of!(Counters, items) as u64).store(items, Relaxed);
            section.word(at + offset_of!(Counters, overflow_lines) as u64).store(lines, Relaxed);
            section.word(at + offset_of!(Counters, cleared) as u64).store(0, Relaxed);
        }
        section.word(offset_of!(Header, cleared) as u64).store(0, Relaxed);
        let next = section.word(offset_of!(Header, next_version) as u64);
        let least = self.floor.max(self.highest_version + 1);
        if next.load(Relaxed) < least {
            next.store(least, Relaxed);
        }
    }
}
