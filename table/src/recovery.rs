//! Taking a table over from a dead server: what the buckets reach is the table, everything else is free memory.
//!
//! ```text
//! header checked ─▶ intents read ─▶ each bucket: odd version ─▶ next even, chain and slots checked, blocks marked
//!                ─▶ spans settled ─▶ counters set ─▶ joined
//! ```
//!
//! V1: every step only repeats what a second run would do: a join killed anywhere is followed by another. V2: intents
//! stay in their records until the first writer is taken, so that a second join reports them again. V3: nothing read
//! from the section is followed before it was checked; what does not check is dropped and counted.

use crate::arena::Arena;
use crate::chain;
use crate::classes::{LINE_CLASS, UNIT};
use crate::hashing::Hasher;
use crate::header::{self, JoinError};
use crate::intent::{self, PendingIntent};
use crate::layout::{CHAIN_CAP, Counters, Header, LINE, MAX_WORKERS, Part, SLOTS, WorkerRecord};
use crate::prefetch;
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
    /// Mutations that were under way.
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
        let committed = identity.committed[Part::Heap as usize];
        let mut spans = Spans::new(arena.clone(), reserve_units(&geometry));
        spans.grow(committed / UNIT, false);
        let mut rebuild = Rebuild {
            end: arena.heap_start + committed,
            hasher: Hasher::new(identity.seed),
            recovery: Recovery { intents: pending_intents(&arena), ..Recovery::default() },
            lines: 0,
            highest_version: 0,
            arena,
            spans,
        };
        rebuild.buckets();
        rebuild.spans.settle();
        rebuild.counters();
        let Rebuild { arena, spans, recovery, .. } = rebuild;
        let used = arena.workers
            + [Part::Workers, Part::Deadlines, Part::ClassMap, Part::Buckets, Part::Heap]
                .map(|part| identity.committed[part as usize])
                .iter()
                .sum::<u64>();
        let table = Table::new(arena, geometry, identity.seed, identity.uuid, spans, commit, used);
        *table.intents_stand.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = true;
        Ok((table, recovery))
    }
}

/// The intents that stand, with whether their store happened: the slot holds the new word.
fn pending_intents(arena: &Arena) -> Vec<PendingIntent> {
    let slot_ok = |slot: u64| {
        let in_buckets = slot >= arena.buckets && slot < arena.buckets + arena.max_buckets * LINE;
        slot.is_multiple_of(8) && (in_buckets || (slot >= arena.heap_start && slot < arena.heap_end))
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
}

impl Rebuild {
    fn buckets(&mut self) {
        let buckets = self.arena.bucket_count().buckets();
        for index in 0..buckets {
            self.fetch_ahead(index + AHEAD, buckets);
            self.bucket(index);
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
                } else if let Some((item, header)) = self.item(index, word) {
                    let one = Kept { tag: slot_tag(word), item, key_len: header.key_len };
                    if !self.duplicate(&kept[..kept_len], one) && self.spans.mark(item, header.len()) {
                        kept[kept_len] = one;
                        kept_len += 1;
                        self.highest_version = self.highest_version.max(header.version);
                        continue;
                    }
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

    /// The item of a slot, if it is one whose key belongs into this bucket.
    fn item(&self, index: u64, word: u64) -> Option<(u64, ItemHeader)> {
        let (item, header) = chain::item_of(&self.arena, self.end, word)?;
        if header.version == 0 || header.key_len == 0 {
            return None;
        }
        let mut key = [std::mem::MaybeUninit::<u8>::uninit(); MAX_KEY];
        let len = usize::from(header.key_len);
        // SAFETY: item_of admits keys of at most MAX_KEY bytes, the size of the array; the copied bytes are initialised.
        let hash = unsafe {
            self.arena.section.read(item + ITEM_HEADER, key.as_mut_ptr().cast(), len);
            self.hasher.hash(std::slice::from_raw_parts(key.as_ptr().cast(), len))
        };
        let belongs = tag_of(hash) == slot_tag(word) && self.arena.bucket_count().index(hash) == index;
        belongs.then_some((item, header))
    }

    /// Whether a chain has an item of the same key already.
    fn duplicate(&self, kept: &[Kept], one: Kept) -> bool {
        use chain::KeyBytes;
        kept.iter().any(|other| {
            let key = chain::ItemKey { at: one.item + ITEM_HEADER, len: usize::from(one.key_len) };
            other.tag == one.tag && other.key_len == one.key_len && key.equals(&self.arena, other.item + ITEM_HEADER)
        })
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
        }
        let next = section.word(offset_of!(Header, next_version) as u64);
        if next.load(Relaxed) <= self.highest_version {
            next.store(self.highest_version + 1, Relaxed);
        }
    }
}
