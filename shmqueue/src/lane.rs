//! Lanes: where requests and replies rest.
//!
//! A client and the server share one pair of lanes. A request at position `p` spans `n` slots of the request lane, and its
//! reply has the same `n` slots of the reply lane: one numbering for both, so that what was answered can be told from the
//! reply lane alone, also by a successor of a dead server.
//!
//! ```text
//! request slot (64 bytes)                              reply slot (32 bytes)
//!   word 0  sequence: position + 1 when published        word 0  tag: low 32 bits of position + 1 | status | flags | span
//!   word 1  kind 8 | flags 8 | span 16 | body length 32  word 1  a
//!   word 2… body; it goes on in the following slots,     word 2  b
//!           from the lane's end to its start             word 3  c; further bytes in the following slots
//! ```
//!
//! States of a request slot at position `p`, and who moves it on:
//!
//! ```text
//! free ──client writes body──▶ being written ──client stores sequence──▶ published ──server stores reply tag──▶ answered
//!  ▲                                                                                                           │
//!  └────────────────────────────────── client has read the reply ───────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - L1: the client writes at position `p` only when it has read all replies before `p − slots + span`: so neither side ever
//!   overwrites what the other may still read, and the server never has to check whether there is room (I1).
//! - L2: the server trusts nothing that it reads in a request lane: the envelope is copied once and validated.
//! - L3: a client dying while it writes leaves an unpublished slot, which nobody reads; its successor in the slot overwrites it.

use crate::layout::FIRST_BODY;
use crate::sync::{AtomicU64, Ordering, fence};

const REQUEST_WORDS: usize = 8;
const REPLY_WORDS: usize = 4;

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
    /// The first bytes of the body.
    pub first: [u8; FIRST_BODY],
}

/// A view of a request lane.
#[derive(Clone, Copy, Debug)]
pub struct RequestLane<'a> {
    words: &'a [AtomicU64],
}

/// The largest span that a request may have in a lane of `slots` slots.
pub fn most_span(slots: u32) -> u16 {
    (slots / 2).min(u32::from(u16::MAX)) as u16
}

/// Slots that a request with a body of `len` bytes spans.
#[inline]
pub fn span_of_body(len: usize) -> usize {
    (len + 16).div_ceil(64).max(1)
}

/// Slots whose reply has room for `len` bytes after its first slot.
#[inline]
pub fn span_of_reply(len: usize) -> usize {
    1 + len.div_ceil(32)
}

impl<'a> RequestLane<'a> {
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
                body[at..at + part.len()].copy_from_slice(part);
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
                    unsafe { racing::copy(part.as_ptr().add(from), place, len) };
                });
                at += part.len();
            }
        }
        // ORDER(sequence): Release publishes envelope and body to the server's Acquire in `is_published`.
        slot[0].store(position + 1, Ordering::Release);
    }

    /// Walks the (at most two) contiguous pieces of `len` bytes at `offset` of the body: `visit(place, done before, length)`.
    fn body(&self, position: u64, offset: usize, len: usize, mut visit: impl FnMut(*mut u8, usize, usize)) {
        let size = std::mem::size_of_val(self.words);
        let base = self.words.as_ptr().cast::<u8>().cast_mut();
        let first = (position & (u64::from(self.slots()) - 1)) as usize * 64 + 16;
        let start = (first + offset) % size;
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

    /// Brings the slot at `position` near, ahead of its use.
    #[inline]
    pub fn prefetch(&self, position: u64) {
        prefetch(self.slot(position).as_ptr().cast());
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
        let mut first = [0u8; FIRST_BODY];
        for (bytes, word) in first.chunks_exact_mut(8).zip(&slot[2..]) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        let (kind, flags, span, body_len) = (raw as u8, (raw >> 8) as u8, (raw >> 16) as u16, (raw >> 32) as u32);
        let room = usize::from(span) * 64;
        if span == 0 || span > most_span(self.slots()) || body_len as usize + 16 > room {
            return Some(Envelope { kind: 0, flags: 0, span: 1, body_len: 0, first });
        }
        Some(Envelope { kind, flags, span, body_len, first })
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

    /// Unpublishes every slot: what a dead client left behind its published prefix must never be
    /// taken for a request of its successor.
    pub fn wipe(&self) {
        for slot in self.words.chunks_exact(REQUEST_WORDS) {
            if slot[0].load(Ordering::Relaxed) != 0 {
                // ORDER(sequence): Relaxed: the release of the slot's claim word orders it before the next owner.
                slot[0].store(0, Ordering::Relaxed);
            }
        }
    }
}

/// The first slot of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawReply {
    /// What became of the request; the meaning is the protocol's.
    pub status: u8,
    /// Slots that request and reply span.
    pub span: u16,
    /// First word.
    pub a: u64,
    /// Second word.
    pub b: u64,
    /// Third word.
    pub c: u64,
}

/// A view of a reply lane. In a client the memory is mapped read-only: the writing half is the server's.
#[derive(Clone, Copy, Debug)]
pub struct ReplyLane<'a> {
    words: &'a [AtomicU64],
}

impl<'a> ReplyLane<'a> {
    /// A view over the lane's words, four per slot, a power of two of slots.
    pub fn new(words: &'a [AtomicU64]) -> Self {
        debug_assert!(words.len().is_power_of_two() && words.len() >= REPLY_WORDS);
        Self { words }
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        (self.words.len() / REPLY_WORDS) as u32
    }

    #[inline]
    fn slot(&self, position: u64) -> &'a [AtomicU64; REPLY_WORDS] {
        let index = (position & (u64::from(self.slots()) - 1)) as usize * REPLY_WORDS;
        self.words[index..].first_chunk().expect("a lane has whole slots")
    }

    /// Writes further bytes of the reply at `position`, before the reply itself is published. They start at the slot after the
    /// first; the caller has made sure that they fit the request's span.
    pub fn write_bytes(&self, position: u64, bytes: &[u8]) {
        debug_assert!(bytes.len() <= std::mem::size_of_val(self.words));
        self.pieces(position, bytes.len(), |place, done, len| {
            // SAFETY: `pieces` keeps the place within the lane; `bytes` is a slice of ours.
            unsafe { racing::copy(bytes.as_ptr().add(done), place, len) };
        });
    }

    fn pieces(&self, position: u64, len: usize, mut visit: impl FnMut(*mut u8, usize, usize)) {
        let size = std::mem::size_of_val(self.words);
        let base = self.words.as_ptr().cast::<u8>().cast_mut();
        let start = (position.wrapping_add(1) & (u64::from(self.slots()) - 1)) as usize * 32;
        let before_end = len.min(size - start);
        // SAFETY: start is below the lane's size, and the second piece starts at the lane's first byte; len is at most the size.
        unsafe {
            visit(base.add(start), 0, before_end);
            if before_end < len {
                visit(base, before_end, len - before_end);
            }
        }
    }

    /// Writes and publishes the reply of the request at `position`.
    #[inline]
    pub fn write(&self, position: u64, reply: RawReply) {
        let slot = self.slot(position);
        slot[1].store(reply.a, Ordering::Relaxed);
        slot[2].store(reply.b, Ordering::Relaxed);
        slot[3].store(reply.c, Ordering::Relaxed);
        let tag = u64::from(tag(position)) | u64::from(reply.status) << 32 | u64::from(reply.span) << 48;
        // ORDER(tag): Release publishes the words and the bytes to the client's Acquire in `read`.
        slot[0].store(tag, Ordering::Release);
    }

    /// Whether the request at `position` has been answered.
    #[inline]
    pub fn is_answered(&self, position: u64) -> bool {
        // ORDER(tag): Relaxed: whoever goes on to read the reply does so with `read`, which fences.
        self.slot(position)[0].load(Ordering::Relaxed) as u32 == tag(position)
    }

    /// The reply of the request at `position`, if it is there.
    #[inline]
    pub fn read(&self, position: u64) -> Option<RawReply> {
        let slot = self.slot(position);
        let raw = slot[0].load(Ordering::Relaxed);
        if raw as u32 != tag(position) {
            return None;
        }
        // ORDER(tag): a fence, pairs with the Release in `write`; an acquiring load of read-only memory is not defined.
        fence(Ordering::Acquire);
        Some(RawReply {
            status: (raw >> 32) as u8,
            span: (raw >> 48) as u16,
            a: slot[1].load(Ordering::Relaxed),
            b: slot[2].load(Ordering::Relaxed),
            c: slot[3].load(Ordering::Relaxed),
        })
    }

    /// Appends the first `len` further bytes of the reply at `position` to `out`; fewer if the lane is shorter.
    pub fn read_bytes(&self, position: u64, len: usize, out: &mut Vec<u8>) {
        let len = len.min(std::mem::size_of_val(self.words));
        out.reserve(len);
        let start = out.len();
        self.pieces(position, len, |place, done, len| {
            // SAFETY: `pieces` keeps the place within the lane, and room for all pieces was reserved.
            unsafe { racing::copy(place, out.as_mut_ptr().add(start + done), len) };
        });
        // SAFETY: the pieces filled `len` bytes after `start`.
        unsafe { out.set_len(start + len) };
    }

    /// Brings the slot at `position` near, ahead of its use.
    #[inline]
    pub fn prefetch(&self, position: u64) {
        prefetch(self.slot(position).as_ptr().cast());
    }
}

/// What marks the reply of `position`: a slot holds the tag of an earlier lap, or zero, until then.
#[inline]
fn tag(position: u64) -> u32 {
    (position as u32).wrapping_add(1)
}

#[inline]
fn prefetch(place: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch touches no memory that the program could observe and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(place.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    fn body(lane: &RequestLane<'_>, position: u64, envelope: &Envelope) -> Vec<u8> {
        let mut out = vec![0; envelope.body_len as usize];
        // SAFETY: the vector has room for the whole body.
        unsafe { lane.copy_body(position, 0, out.as_mut_ptr(), out.len()) };
        out
    }

    #[test]
    fn a_body_without_its_sequence_is_not_there() {
        let memory = words(64 * 8);
        let lane = RequestLane::new(&memory);
        lane.write(5, 2, 0, 1, [b"key", b"", b""]);
        memory[5 * 8].store(0, Ordering::Relaxed);
        assert!(lane.read(5).is_none(), "a client that died before the sequence has asked nothing");
        memory[5 * 8].store(5 + 1 + 64, Ordering::Relaxed);
        assert!(lane.read(5).is_none(), "the sequence of another lap is not this request's");
    }

    #[test]
    fn envelopes_that_contradict_themselves_come_back_as_malformed() {
        let memory = words(64 * 8);
        let lane = RequestLane::new(&memory);
        for raw in [0u64, 33 << 16, 1 << 16 | 49 << 32, u64::MAX, 2 << 16 | 113 << 32] {
            memory[1].store(raw | 7, Ordering::Relaxed);
            memory[0].store(1, Ordering::Relaxed);
            let envelope = lane.read(0).expect("published");
            assert_eq!((envelope.kind, envelope.span, envelope.body_len), (0, 1, 0), "for {raw:#x}");
        }
    }

    #[test]
    fn a_wiped_lane_has_no_request() {
        let memory = words(64 * 8);
        let lane = RequestLane::new(&memory);
        for position in 64..128 {
            lane.write(position, 1, 0, 1, [b"", b"", b""]);
        }
        lane.wipe();
        assert!((0..256).all(|position| !lane.is_published(position)));
    }

    #[test]
    fn a_reply_of_an_earlier_lap_is_not_taken_for_this_one() {
        let memory = words(64 * 4);
        let lane = ReplyLane::new(&memory);
        assert!(lane.read(0).is_none());
        let reply = RawReply { status: 3, span: 1, a: 1, b: 2, c: 3 };
        lane.write(0, reply);
        assert_eq!(lane.read(0), Some(reply));
        assert!(lane.read(64).is_none());
    }

    proptest! {
        #[test]
        fn requests_and_replies_of_any_size_survive_any_position(
            at in 0u64..5_000_000_000, head in proptest::collection::vec(any::<u8>(), 0..24),
            key in proptest::collection::vec(any::<u8>(), 0..100), value in proptest::collection::vec(any::<u8>(), 0..1800),
        ) {
            let request = words(64 * 8);
            let reply = words(64 * 4);
            let (lane, replies) = (RequestLane::new(&request), ReplyLane::new(&reply));
            let whole = [&head[..], &key, &value].concat();
            let span = span_of_body(whole.len()) as u16;
            prop_assume!(span <= most_span(64));
            lane.write(at, 4, 1, span, [&head, &key, &value]);
            let envelope = lane.read(at).expect("published");
            prop_assert_eq!((envelope.kind, envelope.flags, envelope.span), (4, 1, span));
            prop_assert_eq!(body(&lane, at, &envelope), whole.clone());
            let front = whole.len().min(FIRST_BODY);
            prop_assert_eq!(&envelope.first[..front], &whole[..front]);

            let answer = &whole[..whole.len().min(62 * 32)];
            replies.write_bytes(at, answer);
            replies.write(at, RawReply { status: 9, span, a: 1, b: 2, c: answer.len() as u64 });
            let mut out = vec![1];
            replies.read_bytes(at, answer.len(), &mut out);
            prop_assert_eq!(&out[1..], answer);
        }
    }
}
