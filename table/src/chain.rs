//! A bucket and its overflow lines: finding a key, finding room, linking and unlinking.
//!
//! ```text
//! bucket   version │ s0 s1 s2 s3 s4 s5 │ s6: item, or link ─▶ line   mark │ s0 .. s5 │ s6: item, or link ─▶ ..
//! ```
//!
//! C1: every change of what a bucket holds is one store of one slot word, made under its lock. A line is filled
//! before the store that links it; the item it takes over from slot 6 moves with that same store.
//! C2: a link stands in slot 6 only. C3: at most [`CHAIN_CAP`] lines hang on a bucket.
//! The same walks serve holders of the lock and racing readers: each is bounded, and offsets are checked before use.
//! CRASH: a line filled but not linked is unreferenced memory; a line linked but empty is legal. `Table::join`
//! rebuilds the free memory from what the buckets reach.

use crate::arena::Arena;
use crate::layout::{CHAIN_CAP, LINE, SLOTS};
use crate::sync::Ordering::{Relaxed, Release};
use crate::words::{ITEM_HEADER, ItemHeader, MAX_KEY, OVERFLOW_MARK, is_link, link_word, matches, offset_of_slot};

/// A key to look for: private bytes, or the key of an item that is not linked yet.
pub(crate) trait KeyBytes: Copy {
    fn len(self) -> usize;
    /// Whether the shared bytes at `at` are this key.
    fn equals(self, arena: &Arena, at: u64) -> bool;
}

impl KeyBytes for &[u8] {
    #[inline]
    fn len(self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn equals(self, arena: &Arena, at: u64) -> bool {
        arena.section.equals(at, self)
    }
}

/// The key inside an item of the section.
#[derive(Clone, Copy)]
pub(crate) struct ItemKey {
    pub(crate) at: u64,
    pub(crate) len: usize,
}

impl KeyBytes for ItemKey {
    #[inline]
    fn len(self) -> usize {
        self.len
    }

    #[inline]
    fn equals(self, arena: &Arena, at: u64) -> bool {
        let whole = self.len as u64 & !7;
        let mut done = 0;
        while done < whole {
            if arena.section.word(at + done).load(Relaxed) != arena.section.word(self.at + done).load(Relaxed) {
                return false;
            }
            done += 8;
        }
        let rest = self.len as u64 - whole;
        rest == 0 || {
            let difference = arena.section.word(at + done).load(Relaxed) ^ arena.section.word(self.at + done).load(Relaxed);
            difference << (64 - 8 * rest) == 0
        }
    }
}

/// A slot that holds the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Offset of the slot word.
    pub(crate) slot: u64,
    pub(crate) word: u64,
    /// Offset of the item.
    pub(crate) item: u64,
    pub(crate) header: ItemHeader,
    /// The slot that links to the line of `slot`; 0 in the bucket itself.
    pub(crate) parent: u64,
}

/// What a walk of the whole chain found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) found: Option<Found>,
    /// Offset of the first empty slot, 0 if none.
    pub(crate) free: u64,
    /// The last line.
    pub(crate) last: u64,
    /// Overflow lines.
    pub(crate) lines: u32,
    /// What was found counts as absent: set by whoever judges it.
    pub(crate) dead: bool,
}

/// Whether a slot's word names an item.
#[inline]
pub(crate) fn is_item(word: u64) -> bool {
    word != 0 && !is_link(word)
}

/// Offset of a line's slot.
#[inline]
pub(crate) fn slot_at(line: u64, index: u64) -> u64 {
    line + 8 + 8 * index
}

/// The header of the item that a slot word names, if offset and lengths stay below `end`.
#[inline]
pub(crate) fn item_of(arena: &Arena, end: u64, word: u64) -> Option<(u64, ItemHeader)> {
    let item = offset_of_slot(word);
    if item < arena.heap_start || item + ITEM_HEADER > end {
        return None;
    }
    let header = ItemHeader::decode(arena.section.word(item).load(Relaxed), arena.section.word(item + 8).load(Relaxed));
    (header.len() <= end - item && usize::from(header.key_len) <= MAX_KEY).then_some((item, header))
}

/// The line that a link names, if it is one: inside the heap and aligned.
#[inline]
pub(crate) fn line_of(arena: &Arena, end: u64, word: u64) -> Option<u64> {
    let line = offset_of_slot(word);
    (line >= arena.heap_start && line + LINE <= end && line.is_multiple_of(LINE)).then_some(line)
}

#[inline]
fn check<K: KeyBytes>(arena: &Arena, end: u64, slot: u64, word: u64, key: K, parent: u64) -> Option<Found> {
    let (item, header) = item_of(arena, end, word)?;
    (usize::from(header.key_len) == key.len() && key.equals(arena, item + ITEM_HEADER)).then_some(Found {
        slot,
        word,
        item,
        header,
        parent,
    })
}

/// Looks for a key. Without the lock the answer only counts if the bucket's version holds afterwards.
#[inline]
pub(crate) fn find<K: KeyBytes>(arena: &Arena, end: u64, bucket: u64, tag: u64, key: K) -> Option<Found> {
    let (mut line, mut parent) = (bucket, 0);
    for _ in 0..=CHAIN_CAP {
        for index in 0..SLOTS {
            let slot = slot_at(line, index);
            let word = arena.section.word(slot).load(Relaxed);
            if matches(word, tag)
                && let Some(found) = check(arena, end, slot, word, key, parent)
            {
                return Some(found);
            }
            if index == SLOTS - 1 {
                if !is_link(word) {
                    return None;
                }
                parent = slot;
                line = line_of(arena, end, word)?;
            }
        }
    }
    None
}

/// Walks the chain until the key is found, or to its end with the room there is. Needs the lock.
#[inline]
pub(crate) fn probe<K: KeyBytes>(arena: &Arena, bucket: u64, tag: u64, key: K) -> Probe {
    let end = arena.heap_end;
    let mut probe = Probe { found: None, free: 0, last: bucket, lines: 0, dead: false };
    let mut parent = 0;
    loop {
        let line = probe.last;
        let mut next = 0;
        for index in 0..SLOTS {
            let slot = slot_at(line, index);
            let word = arena.section.word(slot).load(Relaxed);
            if word == 0 {
                if probe.free == 0 {
                    probe.free = slot;
                }
            } else if matches(word, tag) {
                probe.found = check(arena, end, slot, word, key, parent);
                if probe.found.is_some() {
                    return probe;
                }
            }
            if index == SLOTS - 1 && is_link(word) {
                parent = slot;
                next = line_of(arena, end, word).unwrap_or(0);
            }
        }
        if next == 0 || probe.lines == CHAIN_CAP {
            return probe;
        }
        probe.last = next;
        probe.lines += 1;
    }
}

/// Where a bucket has room.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    /// In this slot.
    Slot(u64),
    /// In none: a line may be linked to this last one, if there are not too many.
    Behind { last: u64, lines: u32 },
}

/// The first empty slot of a chain that is not `taken` for something else. Without the lock it is a guess.
pub(crate) fn room(arena: &Arena, bucket: u64, taken: impl Fn(u64) -> bool) -> Room {
    let (mut last, mut lines) = (bucket, 0);
    loop {
        let mut next = None;
        for index in 0..SLOTS {
            let slot = slot_at(last, index);
            let word = arena.section.word(slot).load(Relaxed);
            if word == 0 && !taken(slot) {
                return Room::Slot(slot);
            }
            if index == SLOTS - 1 && is_link(word) {
                next = line_of(arena, arena.heap_end, word);
            }
        }
        match next {
            Some(line) if lines < CHAIN_CAP => (last, lines) = (line, lines + 1),
            _ => return Room::Behind { last, lines },
        }
    }
}

/// Fills a fresh line with what stands in slot 6 of `last` and with `word`. The returned (slot, old, new) is the one
/// store that links both.
#[inline]
pub(crate) fn fill_line(arena: &Arena, last: u64, line: u64, word: u64) -> (u64, u64, u64) {
    let slot = slot_at(last, SLOTS - 1);
    let old = arena.section.word(slot).load(Relaxed);
    arena.section.word(line).store(OVERFLOW_MARK, Relaxed);
    arena.section.word(slot_at(line, 0)).store(old, Relaxed);
    arena.section.word(slot_at(line, 1)).store(word, Relaxed);
    for index in 2..SLOTS {
        arena.section.word(slot_at(line, index)).store(0, Relaxed);
    }
    (slot, old, link_word(line))
}

/// Unlinks the line that `parent` links to if it holds no item; its offset, to be freed after the unlock.
pub(crate) fn unlink_if_empty(arena: &Arena, parent: u64) -> Option<u64> {
    let line = line_of(arena, arena.heap_end, arena.section.word(parent).load(Relaxed))?;
    for index in 0..SLOTS - 1 {
        if arena.section.word(slot_at(line, index)).load(Relaxed) != 0 {
            return None;
        }
    }
    let last = arena.section.word(slot_at(line, SLOTS - 1)).load(Relaxed);
    if last != 0 && !is_link(last) {
        return None;
    }
    // ORDER(slot): Release keeps the store behind those before it in this process, see `intent`.
    arena.section.word(parent).store(last, Release);
    Some(line)
}

/// Calls `visit(slot offset, word)` for every slot with an item, lines in order. Stops after the chain's cap and at
/// links that lead nowhere.
pub(crate) fn for_each_slot(arena: &Arena, end: u64, bucket: u64, mut visit: impl FnMut(u64, u64)) {
    let mut line = bucket;
    for _ in 0..=CHAIN_CAP {
        for index in 0..SLOTS {
            let slot = slot_at(line, index);
            let word = arena.section.word(slot).load(Relaxed);
            if index == SLOTS - 1 && is_link(word) {
                match line_of(arena, end, word) {
                    Some(next) => line = next,
                    None => return,
                }
            } else {
                if word != 0 {
                    visit(slot, word);
                }
                if index == SLOTS - 1 {
                    return;
                }
            }
        }
    }
}
