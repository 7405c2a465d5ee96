//! A client's end: writes requests, announces bursts, waits for replies.
//!
//! ```text
//! send … send ──▶ announce ──▶ (others' work) ──▶ reply(oldest) ──▶ advance
//!                    │                              │ not there
//!                    │                              ▼
//!                    │                            wait: spin ▶ yield ▶ sleep, nudging the home worker when nothing moves
//!                    ▼
//!        fence; lane hot? nothing more. Last word still ahead of the head? nothing more.
//!        Else one word on the shard's ring; fence; nobody awake? ring the home worker.
//! ```
//!
//! The client holds no lock that the server or another client waits for, and leaves no state behind that anybody depends on:
//! killed at any instruction it leaves unpublished slots (ignored), published ones (applied), a word (taken), a waiting mark
//! (one futile wake) and a lock that the kernel drops.
//!
//! The invariants named E1–E3 are those of `engine::shard`, D1 that of `doorbell`.

mod waiting;

use std::time::Instant;

pub use waiting::{Patience, Waited};

use crate::doorbell::{Awake, Token};
use crate::error::RegionError;
use crate::hints::HintWriter;
use crate::lane::{RESIZE, RESIZED, RawReply, ReplyLane, RequestLane};
use crate::layout::{FIRST_SLOTS, ReplyLaneHead, RequestLaneHead, ServerStatus, ShardStatus};
use crate::region::{Attachment, ClientRegion};
use crate::reply_ring::ReplyRing;
use crate::ring::{RequestRing, Word};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::wait::{self, WaitMode};

/// `RequestLaneHead::waiting`: the client needs no wake.
pub const AWAKE: u32 = 0;
/// `RequestLaneHead::waiting`: the client sleeps, or is about to.
pub const WAITING: u32 = 1;
/// `RequestLaneHead::waiting`: the client has detached.
pub const LEFT: u32 = 2;

/// Slots that are brought near ahead of the one in use.
const AHEAD: u64 = 16;

/// A client's end of its lanes and of its shard's rings. `Send`, not `Sync`: one thread at a time.
#[derive(Debug)]
pub struct Port {
    request: RequestLane<'static>,
    replies: ReplyLane<'static>,
    /// The lanes' words with the slots that are not in use.
    all: (&'static [AtomicU64], &'static [AtomicU64]),
    ring: RequestRing<'static>,
    reply_ring: ReplyRing<'static>,
    request_head: &'static RequestLaneHead,
    reply_head: &'static ReplyLaneHead,
    shard: &'static ShardStatus,
    status: &'static ServerStatus,
    word: Word,
    mode: WaitMode,
    cpus: u32,
    /// Position of a resize that is under way, and the slots it brings into use.
    resizing: Option<(u64, u32)>,
    /// CPU last published in the lane's head.
    cpu: u32,
    /// Position of the next request.
    next: u64,
    /// Position of the oldest request whose reply has not been taken.
    oldest: u64,
    /// Replies before this position are known to be there.
    answered: u64,
    /// Requests before this position have been announced.
    announced: u64,
    /// Position of our last word on the ring.
    last_word: Option<u64>,
    /// When a wait first found no server.
    gone_since: Option<Instant>,
    /// Our place in the broadcast ring.
    cursor: u64,
    hints: HintWriter,
    /// Keeps the mappings that the views above point into; dropped last.
    attachment: Attachment,
}

// SAFETY: the views are shared references to atomics in mappings that the port owns through its attachment; moving the port to
// another thread moves the only user of its cursors.
unsafe impl Send for Port where Attachment: Send {}

/// Extends a borrow of memory that an [`Attachment`] keeps mapped.
///
/// # Safety
/// The result must not be used after the attachment is dropped.
unsafe fn extend<T: ?Sized>(reference: &T) -> &'static T {
    // SAFETY: the caller's promise.
    unsafe { &*std::ptr::from_ref(reference) }
}

impl Port {
    /// Attaches to the least contended shard of a region.
    ///
    /// # Errors
    /// Whatever [`ClientRegion::attach`] finds: no slot free, no memory, no rights.
    pub fn attach(region: &ClientRegion, name: &str, mode: WaitMode) -> Result<Self, RegionError> {
        let attachment = region.attach(name)?;
        let region = attachment.region();
        let shard = attachment.shard();
        let index = attachment.index();
        // SAFETY: all these rest in mappings that the attachment owns (its lanes, and the region it holds on to), at addresses that do
        // not move with it; the port keeps the attachment as its last field, and hands out none of them.
        let (request, request_head, replies, reply_head, ring, reply_ring, shard_status, status) = unsafe {
            let (request_head, request) = attachment.request_lane();
            let (reply_head, replies) = attachment.reply_lane();
            let (ring_head, cells) = region.request_ring(shard);
            let (reply_ring, descriptors) = region.reply_ring(shard);
            let shard_status = extend(region.shard_status(shard));
            (
                extend(request),
                extend(request_head),
                extend(replies),
                extend(reply_head),
                RequestRing::new(&shard_status.head, &extend(ring_head).tail, extend(cells)),
                ReplyRing::new(&extend(reply_ring).tail, extend(descriptors)),
                shard_status,
                extend(region.status()),
            )
        };
        let position = region.client_status(index).position.load(Ordering::Relaxed);
        request_head.waiting.store(AWAKE, Ordering::Relaxed);
        let slots = FIRST_SLOTS.min(region.layout().shape.lane_slots);
        Ok(Self {
            request: RequestLane::in_use(request, slots),
            replies: ReplyLane::in_use(replies, slots),
            all: (request, replies),
            ring,
            reply_ring,
            request_head,
            reply_head,
            shard: shard_status,
            status,
            word: Word { client: index as u16, generation: attachment.generation() as u16 },
            mode,
            cpus: wait::affinity().len().max(1) as u32,
            resizing: None,
            cpu: u32::MAX,
            next: position,
            oldest: position,
            answered: position,
            announced: position,
            last_word: None,
            gone_since: None,
            cursor: reply_ring.tail(),
            hints: HintWriter::new(request_head),
            attachment,
        })
    }

    /// The slot this port works with.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// What this client counts itself, see [`RequestLaneHead::tallies`]; stored by this port's owner only.
    #[inline]
    pub fn tallies(&self) -> &[AtomicU64; 4] {
        &self.request_head.tallies
    }

    /// Whether this handle was inherited over a fork and is the parent's.
    #[inline]
    pub fn forked(&self) -> bool {
        self.attachment.forked()
    }

    /// What the server says of itself.
    pub fn status(&self) -> &ServerStatus {
        self.status
    }

    /// Slots in use of a lane.
    #[inline]
    pub fn slots(&self) -> u32 {
        self.request.slots()
    }

    /// Slots that a lane can have in use.
    pub fn most_slots(&self) -> u32 {
        self.attachment.region().layout().shape.lane_slots
    }

    /// Brings another number of slots into use: the next power of two of `wanted`, at least [`FIRST_SLOTS`], at most
    /// [`Port::most_slots`]. One round trip, if the number changes.
    ///
    /// # Panics
    /// When requests are unanswered: their slots would be lost.
    pub fn resize(&mut self, wanted: u32, patience: &Patience<'_>) -> Waited {
        let settled = self.settle(patience);
        if settled != Waited::Answered {
            return settled;
        }
        let slots = wanted.clamp(FIRST_SLOTS, self.most_slots()).next_power_of_two().min(self.most_slots());
        if slots == self.slots() {
            return Waited::Answered;
        }
        assert!(self.oldest == self.next, "lanes are resized between requests");
        // Nothing is unanswered, and whatever rests in the slots that come into use was not sent by us (L4).
        RequestLane::in_use(self.all.0, slots).wipe();
        self.resizing = Some((self.send(RESIZE, 0, 1, [&slots.to_le_bytes(), &[], &[]]), slots));
        self.settle(patience)
    }

    /// Waits for the end of a [`Port::resize`] whose wait was cut short; until then there is no room.
    pub fn settle(&mut self, patience: &Patience<'_>) -> Waited {
        let Some((position, slots)) = self.resizing else { return Waited::Answered };
        let end = self.wait(position, patience);
        if end == Waited::Answered {
            self.resizing = None;
            self.advance(1);
            if self.replies.read(position).is_some_and(|reply| reply.status == RESIZED) {
                self.request = RequestLane::in_use(self.all.0, slots);
                self.replies = ReplyLane::in_use(self.all.1, slots);
            }
        }
        end
    }

    /// Slots that the next request may span: those that are free, at most half the lane.
    #[inline]
    pub fn room(&self) -> u64 {
        if self.resizing.is_some() {
            return 0;
        }
        let slots = u64::from(self.request.slots());
        (slots - (self.next - self.oldest)).min(slots / 2)
    }

    /// Position of the oldest request whose reply has not been taken; equal to [`Port::next`] when there is none.
    #[inline]
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Position of the next request.
    #[inline]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Writes and publishes a request; returns its position. It is served at the latest after [`Port::announce`].
    ///
    /// # Panics
    /// When the span is beyond half a lane or [`Port::room`], or the body beyond the span: the caller's credits are broken.
    #[inline]
    pub fn send(&mut self, kind: u8, flags: u8, span: u16, parts: [&[u8]; 3]) -> u64 {
        assert!(u64::from(span) <= self.room() && span > 0, "credits cover a request");
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        assert!(len + 16 <= usize::from(span) * 64, "a body fits its span");
        let position = self.next;
        self.request.write(position, kind, flags, span, parts);
        self.next += u64::from(span);
        self.request.prefetch_for_write(self.next + AHEAD);
        position
    }

    /// Makes the server look at what was sent since the last call.
    #[inline]
    pub fn announce(&mut self) {
        if self.announced == self.next {
            return;
        }
        let cpu = wait::current_cpu();
        if self.cpu != cpu {
            self.cpu = cpu;
            self.request_head.cpu.store(cpu, Ordering::Relaxed);
        }
        // ORDER(sequence): E1 and E2, the client's side.
        fence(Ordering::SeqCst);
        let hot = self.reply_head.hot.load(Ordering::Relaxed) != 0;
        let ahead = |last: u64| last.wrapping_sub(self.shard.head.load(Ordering::Relaxed)) as i64 >= 0;
        if hot || self.last_word.is_some_and(ahead) || self.put_word() {
            self.announced = self.next;
        }
    }

    /// Rings the worker that parks for this shard.
    #[cold]
    fn ring_home(&self) {
        let threads = self.status.threads.load(Ordering::Relaxed).max(1);
        let region = self.attachment.region();
        let worker = self.attachment.shard() % threads;
        Token::new(&region.doorbell(worker % region.layout().shape.shards).token).ring();
    }

    /// Puts a word, and rings if everybody sleeps. False when the ring had no room: the next announcement or wait tries again.
    fn put_word(&mut self) -> bool {
        self.last_word = self.ring.put(self.word).ok();
        // ORDER(cell): D1, the client's side.
        fence(Ordering::SeqCst);
        if Awake::new(&self.status.awake.workers).nobody() {
            self.ring_home();
        }
        self.last_word.is_some()
    }

    /// Whether the server wants to know what is read directly.
    #[inline]
    pub fn wants_hints(&self) -> bool {
        self.status.wants_hints.load(Ordering::Relaxed) != 0
    }

    /// Tells the server, if it wants to know, that a key of this hash was read directly. Costs no system call and no request; a hint
    /// may be lost. Not to be called in a fork's child, where [`Port::forked`] says so.
    #[inline]
    pub fn hint(&mut self, hash: u64) {
        if self.wants_hints() {
            self.hints.write(&self.request_head.hints, hash);
        }
    }

    /// The reply of the request at `position`, if it is there.
    #[inline]
    pub fn reply(&self, position: u64) -> Option<RawReply> {
        self.replies.read(position)
    }

    /// Appends `len` further bytes of the reply at `position` to `out`.
    pub fn reply_bytes(&self, position: u64, len: usize, out: &mut Vec<u8>) {
        self.replies.read_bytes(position, len, out);
    }

    /// Copies `len` bytes at `offset` of the body of an own request that still rests in the lane.
    ///
    /// # Panics
    /// When the request at `position` is not between oldest and next: its slots are not ours to read.
    pub fn own_body(&self, position: u64, offset: usize, len: usize, out: &mut Vec<u8>) {
        assert!(position >= self.oldest && position < self.next, "only unanswered requests rest in the lane");
        out.reserve(len);
        // SAFETY: `len` bytes of room were reserved and are filled.
        unsafe {
            self.request.copy_body(position, offset, out.as_mut_ptr().add(out.len()), len);
            out.set_len(out.len() + len);
        }
    }

    /// Gives the oldest request's slots back: its reply has been taken.
    ///
    /// # Panics
    /// When more is given back than was sent: the caller's count is broken.
    #[inline]
    pub fn advance(&mut self, span: u64) {
        self.oldest += span;
        assert!(self.oldest <= self.next, "only what was sent is given back");
        if self.oldest + AHEAD < self.answered {
            self.replies.prefetch(self.oldest + AHEAD);
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.forked() {
            return;
        }
        self.request_head.waiting.store(LEFT, Ordering::Relaxed);
        self.attachment.detach();
        // Without this word the server finds the slot at its next tick.
        self.put_word();
    }
}
