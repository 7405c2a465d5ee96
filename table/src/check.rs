//! The full check of a table at rest, for tests and for the server's own doubts.

use crate::chain;
use crate::deadlines::{NO_DEADLINE, deadline_of, group_word};
use crate::layout::{Counters, GROUP, LINE};
use crate::seqlock;
use crate::server_half::{Table, sum_of};
use crate::sync::Ordering::Relaxed;
use crate::words::{ITEM_HEADER, OVERFLOW_MARK, is_link, offset_of_slot, slot_tag, tag_of};
use std::collections::HashSet;
use std::mem::offset_of;

impl Table {
    /// Checks every bucket, slot, item, block and counter against each other. Nothing may write meanwhile. While
    /// writers are there, blocks they cache count as taken; without any, every taken block must be linked.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut linked = HashSet::new();
        let mut all = Tally::default();
        for index in 0..self.buckets() {
            let one = self.check_bucket(index, &mut linked)?;
            self.check_deadline(index, one.least_expiry)?;
            all.add(&one);
        }
        let Tally { items, lines, .. } = all;
        let (counted, overflow_lines) = (sum_of(&self.arena, offset_of!(Counters, items)), self.stats().overflow_lines);
        if counted != items || overflow_lines != lines {
            return Err(format!("counters say {counted} items and {overflow_lines} lines, the buckets hold {items} and {lines}"));
        }
        let live = self.stats().items;
        if self.sweeping.has_swept(self.arena.version_floor()) && (all.cleared > 0 || live != items) {
            return Err(format!("{} cleared items are linked after a sweep, {live} of {items} count as live", all.cleared));
        }
        let spans = self.store.spans();
        spans.check()?;
        if !self.has_writers() && spans.taken() != items + lines {
            return Err(format!("{} blocks are taken, {} are linked", spans.taken(), items + lines));
        }
        Ok(())
    }

    /// The deadline of a bucket's group is not above its items' earliest expiry, nor is what the sweep waits for (X1, X2).
    fn check_deadline(&self, index: u64, least_expiry: u64) -> Result<(), String> {
        let group = index / GROUP;
        let deadline = deadline_of(group_word(&self.arena, group).load(Relaxed));
        if least_expiry < deadline && !self.sweeping.deadlines.is_at(group) {
            return Err(format!("an item of bucket {index} expires at {least_expiry}, before its group's deadline {deadline}"));
        }
        match self.sweeping.waits_for() {
            Some(due) if due > least_expiry => {
                Err(format!("an item of bucket {index} expires at {least_expiry}, the sweep waits for {due}"))
            }
            _ => Ok(()),
        }
    }

    fn check_bucket(&self, index: u64, linked: &mut HashSet<u64>) -> Result<Tally, String> {
        let (arena, spans) = (&self.arena, self.store.spans());
        let bucket = arena.bucket(index);
        if seqlock::read_begin(arena.section.word(bucket)).is_none() {
            return Err(format!("bucket {index} is locked"));
        }
        let mut tally = Tally::default();
        let mut line = bucket;
        loop {
            let word = arena.section.word(chain::slot_at(line, crate::layout::SLOTS - 1)).load(Relaxed);
            if !is_link(word) {
                break;
            }
            line = chain::line_of(arena, arena.heap_end, word).ok_or(format!("bucket {index} links nowhere"))?;
            if !linked.insert(line) || !spans.is_taken(line, LINE) {
                return Err(format!("overflow line {line} of bucket {index} is linked twice or free"));
            }
            if arena.section.word(line).load(Relaxed) != OVERFLOW_MARK {
                return Err(format!("overflow line {line} of bucket {index} has no mark"));
            }
            tally.lines += 1;
        }
        let mut result = Ok(());
        let (mut keys, floor) = (HashSet::new(), arena.version_floor());
        chain::for_each_slot(arena, arena.heap_end, bucket, |slot, word| {
            let offset = offset_of_slot(word);
            let Some((item, header)) = chain::item_of(arena, arena.heap_end, word).filter(|_| !is_link(word)) else {
                result = Err(format!("slot {slot} of bucket {index} names no item"));
                return;
            };
            let mut key = vec![0; usize::from(header.key_len)];
            // SAFETY: the vector has the key's length.
            unsafe { arena.section.read(item + ITEM_HEADER, key.as_mut_ptr(), key.len()) };
            let hash = self.hash(&key);
            if header.version == 0 || key.is_empty() {
                result = Err(format!("item {offset} of bucket {index} was freed"));
            } else if tag_of(hash) != slot_tag(word) || arena.bucket_count().index(hash) != index {
                result = Err(format!("item {offset} is not of bucket {index}"));
            } else if !linked.insert(item) || !spans.is_taken(item, header.len()) {
                result = Err(format!("item {offset} of bucket {index} is linked twice or its block free"));
            } else if !keys.insert(key) {
                result = Err(format!("bucket {index} holds a key twice"));
            }
            tally.items += 1;
            tally.cleared += u64::from(header.version < floor);
            if header.expiry != 0 {
                tally.least_expiry = tally.least_expiry.min(header.expiry);
            }
        });
        result.map(|()| tally)
    }
}

/// What buckets hold.
struct Tally {
    items: u64,
    /// Items below the version floor.
    cleared: u64,
    lines: u64,
    least_expiry: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { items: 0, cleared: 0, lines: 0, least_expiry: NO_DEADLINE }
    }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.items += other.items;
        self.cleared += other.cleared;
        self.lines += other.lines;
    }
}
