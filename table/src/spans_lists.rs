//! The lists of spans with a free block: per class four, by how much of the span is free, so that blocks are taken
//! from full spans first and sparse ones empty by themselves. Grouping by fullness is after the Hoard allocator
//! (E. Berger et al., 2000).
//!
//! F1: a span is in the list of its class and share if it has a free block and is not leaving, else in none.

use crate::spans::{NONE, Spans};

/// Lists per class; the last is of spans with more than three quarters free.
pub(crate) const BINS: usize = 4;
/// In `Span::bin`: in no list.
pub(crate) const UNLISTED: u8 = u8::MAX;

impl Spans {
    /// A span of the class from the list of the least room; the class must have a free block.
    pub(crate) fn fullest(&self, class: usize) -> u32 {
        let head = self.heads[class].into_iter().find(|&head| head != NONE);
        head.expect("a class with free blocks lists their spans")
    }

    /// The spans of one list.
    pub(crate) fn listed(&self, class: usize, bin: usize) -> impl Iterator<Item = u32> + '_ {
        let head = self.heads[class][bin];
        std::iter::successors((head != NONE).then_some(head), |&id| {
            Some(self.spans[id as usize].next).filter(|&next| next != NONE)
        })
    }

    /// Puts a span into the list it belongs to now.
    pub(crate) fn relist(&mut self, id: u32) {
        let span = &self.spans[id as usize];
        let bin = match span.free {
            0 => UNLISTED,
            _ if span.is_leaving() => UNLISTED,
            free => ((u64::from(free) * BINS as u64 - 1) / u64::from(span.blocks)) as u8,
        };
        if bin == span.bin {
            return;
        }
        self.unlist(id);
        if bin != UNLISTED {
            self.list(id, bin);
        }
    }

    fn list(&mut self, id: u32, bin: u8) {
        let class = usize::from(self.spans[id as usize].class);
        let head = self.heads[class][usize::from(bin)];
        let span = &mut self.spans[id as usize];
        (span.bin, span.next, span.prev) = (bin, head, NONE);
        if head != NONE {
            self.spans[head as usize].prev = id;
        }
        self.heads[class][usize::from(bin)] = id;
    }

    /// Takes a span out of its list, if it is in one.
    pub(crate) fn unlist(&mut self, id: u32) {
        let (next, prev, class, bin) = {
            let span = &mut self.spans[id as usize];
            (span.next, span.prev, usize::from(span.class), std::mem::replace(&mut span.bin, UNLISTED))
        };
        if bin == UNLISTED {
            return;
        }
        if next != NONE {
            self.spans[next as usize].prev = prev;
        }
        if prev != NONE {
            self.spans[prev as usize].next = next;
        } else {
            self.heads[class][usize::from(bin)] = next;
        }
    }
}
