//! The reply lane: written by the server, read by its client. See the parent module for the layout and the invariants.

use crate::sync::{AtomicU64, Ordering, fence};

use super::{prefetch, prefetch_for_write};

const REPLY_WORDS: usize = 4;

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
    /// A view over the first `slots` slots of the lane's words, four per slot; a power of two.
    pub fn in_use(words: &'a [AtomicU64], slots: u32) -> Self {
        Self::new(&words[..slots as usize * REPLY_WORDS])
    }

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
        self.bar(position + u64::from(reply.span));
        // ORDER(tag): Release publishes the words and the bytes, and the bar, to the client's Acquire in `read`.
        slot[0].store(tag, Ordering::Release);
    }

    /// Makes sure that the slot at `position`, where a reader that follows the replies looks next, does not look answered (L4).
    ///
    /// When the lane is full that is the first slot of the oldest reply, whose tag is another one and stays.
    #[inline]
    pub fn bar(&self, position: u64) {
        let slot = &self.slot(position)[0];
        if slot.load(Ordering::Relaxed) as u32 == tag(position) {
            slot.store(0, Ordering::Relaxed);
        }
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

    /// Brings the slot at `position` near, to be read.
    #[inline]
    pub fn prefetch(&self, position: u64) {
        prefetch(self.slot(position).as_ptr().cast());
    }

    /// Brings the slot at `position` near, to be written. For the server: a client has no right to.
    #[inline]
    pub fn prefetch_for_write(&self, position: u64) {
        prefetch_for_write(self.slot(position).as_ptr().cast());
    }
}

/// What marks the reply of `position`: a slot holds the tag of an earlier lap, or zero, until then.
#[inline]
fn tag(position: u64) -> u32 {
    (position as u32).wrapping_add(1)
}
