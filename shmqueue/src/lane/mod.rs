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
//! - L3: a client dying while it writes leaves an unpublished slot, which nobody reads; its successor wipes the slots before it uses them.
//! - L4: bodies run over the first words of the slots they span, so that what is left there by an earlier lap can look like any
//!   sequence or tag. Whoever publishes at `p` first bars the slot after it: who goes from one published slot to the next
//!   is never misled. A slot whose predecessor is not published (answered) says nothing.

mod reply;
mod request;

pub use reply::{RawReply, ReplyLane};
pub use request::{Envelope, RequestLane};

/// The kind of request that the engine itself answers: from the next request on the lanes have as many slots in use as the body says
/// (u32, a power of two). A client sends it when nothing else is unanswered. Handlers never see it.
pub const RESIZE: u8 = u8::MAX;
/// Status of the reply to [`RESIZE`]: done.
pub const RESIZED: u8 = 1;
/// Status of the reply to [`RESIZE`]: no such number of slots.
pub const NOT_RESIZED: u8 = 2;

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

#[inline]
fn prefetch_for_write(place: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch touches no memory that the program could observe and never faults.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::layout::FIRST_BODY;
    use crate::sync::{AtomicU64, Ordering};
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
    fn a_body_that_spells_a_later_sequence_is_not_taken_for_a_request() {
        let memory = words(8 * 8);
        let lane = RequestLane::new(&memory);
        // The second slot of this body begins with what the request at position 9 would publish.
        let mut body = [0; 64];
        body[48..56].copy_from_slice(&10u64.to_le_bytes());
        lane.write(0, 1, 0, 2, [&body, b"", b""]);
        assert!(lane.is_published(9), "the forgery stands until the slot comes up");
        lane.write(8, 1, 0, 1, [b"", b"", b""]);
        assert!(!lane.is_published(9), "nothing was sent at 9");
        lane.write(9, 1, 0, 1, [b"", b"", b""]);
        assert!(lane.is_published(9));
    }

    #[test]
    fn a_reply_that_spells_a_later_tag_is_not_taken_for_a_reply() {
        let memory = words(8 * 4);
        let lane = ReplyLane::new(&memory);
        lane.write_bytes(0, &[10, 0, 0, 0, 0, 0, 0, 0]);
        lane.write(0, RawReply { status: 1, span: 2, a: 0, b: 0, c: 8 });
        lane.write(8, RawReply { status: 1, span: 1, a: 0, b: 0, c: 0 });
        assert!(!lane.is_answered(9), "nothing was answered at 9");
    }

    #[test]
    fn a_full_lane_keeps_its_oldest_request_and_reply() {
        let (request, reply) = (words(8 * 8), words(8 * 4));
        let (lane, replies) = (RequestLane::new(&request), ReplyLane::new(&reply));
        for position in 8..16 {
            lane.write(position, 1, 0, 1, [b"", b"", b""]);
            replies.write(position, RawReply { status: 1, span: 1, a: position, b: 0, c: 0 });
        }
        assert!((8..16).all(|position| lane.is_published(position) && replies.is_answered(position)));
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
            prop_assert_eq!(&lane.first(at)[..front], &whole[..front]);

            let answer = &whole[..whole.len().min(62 * 32)];
            replies.write_bytes(at, answer);
            replies.write(at, RawReply { status: 9, span, a: 1, b: 2, c: answer.len() as u64 });
            let mut out = vec![1];
            replies.read_bytes(at, answer.len(), &mut out);
            prop_assert_eq!(&out[1..], answer);
        }
    }
}
