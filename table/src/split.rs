//! One step of growth: a bucket's items are divided between it and a new bucket at the end.
//!
//! ```text
//!   old locked ─▶ new bucket filled, locked ─▶ bucket count stored ─▶ moved slots zeroed, chain closed up ─▶ both unlocked
//! ```
//!
//! Z1: until the count is stored nobody can reach the new bucket; from then on nobody looks for a moved key in the old one.
//! Z2: between the two a moved item stands in both; both are locked, and readers that saw the old bucket before look at the
//! count again before they answer "absent". Z3: every store of a slot in the old bucket leaves each staying item in it
//! at least once. Nothing is copied but slot words, and the item's bytes are not looked at: the slot word carries the hash bit that decides.
//! Progress: bounded by the chain's cap; waits for the holder of the old bucket's lock only.
//! CRASH: before the count's store the new line and its overflow lines are unreachable, and a later split fills them anew. After
//! it, items that stand in the old bucket and belong to the new one are dropped from the old by `Table::join`; items twice
//! in the old one's chain likewise.

use crate::arena::Arena;
use crate::chain::{is_item, line_of, slot_at};
use crate::layout::{CHAIN_CAP, SLOTS};
use crate::sync::Ordering::{Relaxed, Release};
use crate::words::{OVERFLOW_MARK, is_link, link_word};

/// Items that a bucket with its chain holds at most.
pub(crate) const MOST: usize = (CHAIN_CAP as usize + 1) * (SLOTS as usize - 1) + 1;

/// Slot words that are to fill a bucket.
pub(crate) struct Words {
    words: [u64; MOST],
    len: usize,
}

impl Words {
    pub(crate) fn new() -> Words {
        Words { words: [0; MOST], len: 0 }
    }

    pub(crate) fn push(&mut self, word: u64) {
        self.words[self.len] = word;
        self.len += 1;
    }

    /// Overflow lines that they need.
    pub(crate) fn lines(&self) -> usize {
        lines_for(self.len)
    }
}

/// Overflow lines that so many items need: all lines but the last have six items and a link.
fn lines_for(items: usize) -> usize {
    items.saturating_sub(SLOTS as usize).div_ceil(SLOTS as usize - 1)
}

/// Fills a bucket that nobody can reach yet, and as many fresh overflow lines as [`Words::lines`] says.
pub(crate) fn fill(arena: &Arena, bucket: u64, words: &Words, lines: &[u64]) {
    let (mut line, mut next, mut from) = (bucket, lines.iter(), 0);
    loop {
        let link = next.next();
        let room = if link.is_some() { SLOTS as usize - 1 } else { SLOTS as usize };
        for index in 0..room {
            let word = if from + index < words.len { words.words[from + index] } else { 0 };
            arena.section.word(slot_at(line, index as u64)).store(word, Relaxed);
        }
        from += room;
        let Some(&link) = link else { return };
        arena.section.word(slot_at(line, SLOTS - 1)).store(link_word(link), Relaxed);
        arena.section.word(link).store(OVERFLOW_MARK, Relaxed);
        line = link;
    }
}

/// Overflow lines that a bucket does without.
pub(crate) struct Spare {
    lines: [u64; CHAIN_CAP as usize],
    len: usize,
}

impl Spare {
    /// Their offsets, to be freed after the unlock.
    pub(crate) fn lines(&self) -> &[u64] {
        &self.lines[..self.len]
    }
}

/// Zeroes the slots whose words `goes`, moves items of later lines into the gaps and unlinks the lines that are empty then. Needs the lock.
pub(crate) fn close_up(arena: &Arena, bucket: u64, goes: impl Fn(u64) -> bool) -> Spare {
    let load = |slot: u64| arena.section.word(slot).load(Relaxed);
    // ORDER(slot): Release keeps the stores in their order in this process, so that a successor finds Z3 (see `intent`, N2).
    let store = |slot: u64, word: u64| arena.section.word(slot).store(word, Release);
    if !is_link(load(slot_at(bucket, SLOTS - 1))) {
        // Most buckets are one line: nothing stands elsewhere that could fill the gaps.
        for slot in (0..SLOTS).map(|index| slot_at(bucket, index)) {
            let word = load(slot);
            if is_item(word) && goes(word) {
                store(slot, 0);
            }
        }
        return Spare { lines: [0; CHAIN_CAP as usize], len: 0 };
    }
    let (mut slots, mut len) = ([0u64; MOST], 0);
    let mut spare = Spare { lines: [0; CHAIN_CAP as usize], len: 0 };
    let mut line = bucket;
    'lines: loop {
        for index in 0..SLOTS {
            let slot = slot_at(line, index);
            let word = load(slot);
            if index == SLOTS - 1
                && is_link(word)
                && let Some(next) = line_of(arena, arena.heap_end, word).filter(|_| spare.len < spare.lines.len())
            {
                spare.lines[spare.len] = next;
                spare.len += 1;
                line = next;
                continue 'lines;
            }
            if is_item(word) && goes(word) {
                store(slot, 0);
            }
            slots[len] = slot;
            len += 1;
        }
        break;
    }
    let (mut front, mut back) = (0, len);
    loop {
        while front < back && load(slots[front]) != 0 {
            front += 1;
        }
        while front < back && load(slots[back - 1]) == 0 {
            back -= 1;
        }
        if front == back {
            break;
        }
        store(slots[front], load(slots[back - 1]));
        store(slots[back - 1], 0);
    }
    let kept = lines_for(front);
    if kept < spare.len {
        // The last line that stays has a link in its seventh slot; the item that may take its place heads the next line.
        let last = if kept == 0 { bucket } else { spare.lines[kept - 1] };
        let before = (kept + 1) * (SLOTS as usize - 1);
        store(slot_at(last, SLOTS - 1), if front > before { load(slots[before]) } else { 0 });
    }
    spare.lines.copy_within(kept.min(spare.len).., 0);
    spare.len -= kept.min(spare.len);
    spare
}
