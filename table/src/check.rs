//! The full check of a table at rest, for tests and for the server's own doubts.

use crate::chain;
use crate::layout::LINE;
use crate::seqlock;
use crate::server_half::Table;
use crate::sync::Ordering::Relaxed;
use crate::words::{ITEM_HEADER, OVERFLOW_MARK, is_link, offset_of_slot, slot_tag, tag_of};
use std::collections::HashSet;

impl Table {
    /// Checks every bucket, slot, item, block and counter against each other. Nothing may write meanwhile. While
    /// writers are there, blocks they cache count as taken; without any, every taken block must be linked.
    pub fn check_invariants(&self) -> Result<(), String> {
        let mut linked = HashSet::new();
        let (mut items, mut lines) = (0u64, 0u64);
        for index in 0..self.buckets() {
            let (n, m) = self.check_bucket(index, &mut linked)?;
            items += n;
            lines += m;
        }
        let stats = self.stats();
        if stats.items != items || stats.overflow_lines != lines {
            return Err(format!(
                "counters say {} items and {} lines, the buckets hold {items} and {lines}",
                stats.items, stats.overflow_lines
            ));
        }
        let spans = self.store.spans();
        spans.check()?;
        if !self.has_writers() && spans.taken() != items + lines {
            return Err(format!("{} blocks are taken, {} are linked", spans.taken(), items + lines));
        }
        Ok(())
    }

    fn check_bucket(&self, index: u64, linked: &mut HashSet<u64>) -> Result<(u64, u64), String> {
        let (arena, spans) = (&self.arena, self.store.spans());
        let bucket = arena.bucket(index);
        if seqlock::read_begin(arena.section.word(bucket)).is_none() {
            return Err(format!("bucket {index} is locked"));
        }
        let mut lines = 0;
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
            lines += 1;
        }
        let mut result = Ok(());
        let (mut items, mut keys) = (0, HashSet::new());
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
            items += 1;
        });
        result.map(|()| (items, lines))
    }
}
