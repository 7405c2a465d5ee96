//! The request lane: written by its client, read by the server. See the parent module for the layout and the invariants.

use crate::layout::FIRST_BODY;
use crate::sync::{AtomicU64, Ordering};

use super::{most_span, prefetch, prefetch_for_write, span_of_body};

const REQUEST_WORDS: usize = 8;
/// Parts of a body from this length on, in bytes, go past the caches.
const STREAMED: usize = 4096;

/// What the first slot of a request says, copied out of the lane and checked.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// What is asked; the meaning is the protocol's.
    pub kind: u8,
    /// Flags of the kind.
    pub flags: u8,
    /// Slots that request and reply span.
    pub span: u16,
    /// Length of the body in bytes; at most what the span holds.
    pub body_len: u32,
}

/// A view of a request lane.
#[derive(Clone, Copy, Debug)]
pub struct RequestLane<'a> {
    words: &'a [AtomicU64],
}

impl<'a> RequestLane<'a> {
    /// A view over the first `slots` slots of the lane's words, eight per slot; a power of two.
    pub fn in_use(words: &'a [AtomicU64], slots: u32) -> Self {
        Self::new(&words[..slots as usize * REQUEST_WORDS])
    }

    /// A view over the lane's words, eight per slot, a power of two of slots.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        debug_assert!(words.len().is_power_of_two() && words.len() >= REQUEST_WORDS);
        Self { words }
    }

    /// Number of slots.
    #[inline]
    pub fn slots(&self) -> u32 {
        (self.words.len() / REQUEST_WORDS) as u32
    }

    #[inline]
    fn slot(&self, position: u64) -> &'a [AtomicU64; REQUEST_WORDS] {
        let index = (position & (u64::from(self.slots()) - 1)) as usize * REQUEST_WORDS;
        // The mask keeps the index within the lane.
        self.words[index..].first_chunk().expect("a lane has whole slots")
    }

    /// Writes a request at `position` and publishes it. The body is the concatenation of `parts`.
    ///
    /// The caller (the lane's client) has made sure that the slots are free (L1) and that the body fits the span.
    #[inline]
    pub fn write(&self, position: u64, kind: u8, flags: u8, span: u16, parts: [&[u8]; 3]) {
        let len = parts[0].len() + parts[1].len() + parts[2].len();
        debug_assert!(span_of_body(len) <= usize::from(span) && u32::from(span) <= self.slots() / 2);
        let slot = self.slot(position);
        let envelope = u64::from(kind) | u64::from(flags) << 8 | u64::from(span) << 16 | (len as u64) << 32;
        slot[1].store(envelope, Ordering::Relaxed);
        if len <= FIRST_BODY {
            let mut body = [0u8; FIRST_BODY];
            let mut at = 0;
            for part in parts {
                put(&mut body[at..at + part.len()], part);
                at += part.len();
            }
            for (word, bytes) in slot[2..].iter().zip(body.chunks_exact(8)) {
                word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
            }
        } else {
            let mut at = 0;
            for part in parts {
                self.body(position, at, part.len(), |place, from, len| {
                    // SAFETY: `body` keeps the place within the lane, which is mapped for writing; `part` is a slice of ours.
                    unsafe {
                        if len >= STREAMED {
                            racing::copy_streaming(part.as_ptr().add(from), place, len);
                        } else {
                            racing::copy(part.as_ptr().add(from), place, len);
                        }
                    }
                });
                at += part.len();
            }
        }
        self.bar(position + u64::from(span));
        // ORDER(sequence): Release publishes envelope and body, and the bar, to the server's Acquire in `is_published`.
        slot[0].store(position + 1, Ordering::Release);
    }

    /// Makes sure that the slot at `position`, where the server looks next, does not look published (L4).
    ///
    /// When the lane is full that is the first slot of the oldest request, whose sequence is another one and stays.
    #[inline]
    pub fn bar(&self, position: u64) {
        let sequence = &self.slot(position)[0];
        if sequence.load(Ordering::Relaxed) == position + 1 {
            sequence.store(0, Ordering::Relaxed);
        }
    }

    /// Walks the (at most two) contiguous pieces of `len` bytes at `offset` of the body: `visit(place, done before, length)`.
    fn body(&self, position: u64, offset: usize, len: usize, mut visit: impl FnMut(*mut u8, usize, usize)) {
        let size = std::mem::size_of_val(self.words);
        let base = self.words.as_ptr().cast::<u8>().cast_mut();
        let first = (position & (u64::from(self.slots()) - 1)) as usize * 64 + 16;
        // A lane has a power of two of slots, so that the mask is a remainder.
        let start = (first + offset) & (size - 1);
        let before_end = len.min(size - start);
        // SAFETY: start is below the lane's size, and the second piece starts at the lane's first byte; neither reaches beyond the end
        // because len is at most the lane's size.
        unsafe {
            visit(base.add(start), 0, before_end);
            if before_end < len {
                visit(base, before_end, len - before_end);
            }
        }
    }

    /// Whether the request at `position` is published.
    #[inline]
    pub fn is_published(&self, position: u64) -> bool {
        // ORDER(sequence): pairs with the Release in `write`.
        self.slot(position)[0].load(Ordering::Acquire) == position + 1
    }

    /// Brings the slot at `position` near, to be read.
    #[inline]
    pub fn prefetch(&self, position: u64) {
        prefetch(self.slot(position).as_ptr().cast());
    }

    /// Brings the slot at `position` near, to be written.
    #[inline]
    pub fn prefetch_for_write(&self, position: u64) {
        prefetch_for_write(self.slot(position).as_ptr().cast());
    }

    /// Copies the published request at `position`; `None` if there is none. An envelope that contradicts itself comes back with
    /// kind 0, span 1 and no body: it will be answered as malformed, and costs nobody else anything.
    #[inline]
    pub fn read(&self, position: u64) -> Option<Envelope> {
        if !self.is_published(position) {
            return None;
        }
        let slot = self.slot(position);
        let raw = slot[1].load(Ordering::Relaxed);
        let (kind, flags, span, body_len) = (raw as u8, (raw >> 8) as u8, (raw >> 16) as u16, (raw >> 32) as u32);
        let room = usize::from(span) * 64;
        if span == 0 || span > most_span(self.slots()) || body_len as usize + 16 > room {
            return Some(Envelope { kind: 0, flags: 0, span: 1, body_len: 0 });
        }
        Some(Envelope { kind, flags, span, body_len })
    }

    /// Copies the first bytes of the body of the request at `position`: what rests in its first slot.
    #[inline(always)]
    pub fn first(&self, position: u64) -> [u8; FIRST_BODY] {
        let slot = self.slot(position);
        let mut first = [0u8; FIRST_BODY];
        for (bytes, word) in first.chunks_exact_mut(8).zip(&slot[2..]) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        first
    }

    /// Copies `len` bytes at `offset` of the body of the request at `position` to `to`. The caller has checked both against
    /// the copied envelope's `body_len`.
    ///
    /// # Safety
    /// `to` must be mapped for writes of `len` bytes, outside the lane.
    ///
    /// # Panics
    /// When the range is longer than the lane: the caller's check is broken.
    #[inline]
    pub unsafe fn copy_body(&self, position: u64, offset: usize, to: *mut u8, len: usize) {
        assert!(offset + len <= std::mem::size_of_val(self.words), "a body is no longer than its lane");
        self.body(position, offset, len, |place, done, len| {
            // SAFETY: `body` keeps the place within the lane; `to` is the caller's promise.
            unsafe { racing::copy(place, to.add(done), len) };
        });
    }

    /// Unpublishes every slot. The lane's client does so before slots come into use: what an earlier client left in them, or a body, must
    /// never be taken for a request.
    pub fn wipe(&self) {
        for slot in self.words.chunks_exact(REQUEST_WORDS) {
            if slot[0].load(Ordering::Relaxed) != 0 {
                // ORDER(sequence): Relaxed: the Release of the claim word, or of the resize's sequence, orders it before the server's look.
                slot[0].store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Copies between slices of one length without a call for the lengths that small requests have.
#[inline(always)]
fn put(to: &mut [u8], from: &[u8]) {
    let len = from.len();
    match len {
        8 => to[..8].copy_from_slice(&from[..8]),
        9..=16 => {
            to[..8].copy_from_slice(&from[..8]);
            to[len - 8..].copy_from_slice(&from[len - 8..]);
        }
        0 => {}
        _ => to.copy_from_slice(from),
    }
}
