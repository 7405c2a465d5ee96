//! One request on its way through a worker.

use crate::lane::{Envelope, RawReply, ReplyLane, RequestLane};
use crate::layout::FIRST_BODY;
use std::time::Duration;

/// A request that a worker has taken from a lane and must answer.
#[derive(Debug)]
pub struct Job<'a> {
    /// Shard over which it came.
    pub shard: u32,
    /// Index of the client.
    pub client: u32,
    /// Generation of the client's slot.
    pub generation: u32,
    /// Position in the client's lanes.
    pub position: u64,
    /// The copied, checked envelope.
    pub envelope: Envelope,
    pub(super) request: RequestLane<'a>,
    pub(super) reply: ReplyLane<'a>,
}

impl Job<'_> {
    /// Copies the first bytes of the body. They can change under a hostile client: copy once, check and use the copy.
    #[inline(always)]
    pub fn first(&self) -> [u8; FIRST_BODY] {
        self.request.first(self.position)
    }

    /// Copies `len` bytes at `offset` of the body to `to`.
    ///
    /// # Safety
    /// `to` must be mapped for writes of `len` bytes, outside the lanes.
    ///
    /// # Panics
    /// When the range reaches beyond the body: the caller's check is broken.
    #[inline]
    pub unsafe fn copy_body(&self, offset: usize, to: *mut u8, len: usize) {
        assert!(offset + len <= self.envelope.body_len as usize, "a handler reads no further than the body");
        // SAFETY: the range is within the body, which the envelope's check holds within the lane; `to` is the caller's promise.
        unsafe { self.request.copy_body(self.position, offset, to, len) };
    }

    /// Bytes that the reply has room for besides its three words.
    pub fn room(&self) -> usize {
        (usize::from(self.envelope.span) - 1) * 32
    }

    /// Writes further bytes of the reply; [`Job::reply`] publishes them.
    ///
    /// # Panics
    /// When they are more than [`Job::room`]: the caller's check is broken.
    pub fn write_bytes(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "a handler writes no more than the request made room for");
        self.reply.write_bytes(self.position, bytes);
    }

    /// Publishes the reply. From here on the request is answered, also for a successor of this server.
    #[inline]
    pub fn reply(&self, status: u8, a: u64, b: u64, c: u64) {
        self.reply.write(self.position, RawReply { status, span: self.envelope.span, a, b, c });
    }
}

/// What a handler has to do besides requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// There is more to do now.
    More,
    /// There will be, so long from now.
    In(Duration),
    /// Nothing that anybody has to wake up for.
    Nothing,
}

/// What serves requests: the server's table, or a test's echo. One per worker thread.
pub trait Handler {
    /// Answers every job of the batch, in order: [`Job::reply`] exactly once for each.
    fn process(&mut self, batch: &[Job<'_>]);

    /// What was counted since the last call, published per shard after each pass.
    fn take_tallies(&mut self) -> [u64; 4];

    /// A step of whatever is to be done ahead of need (memory, expired items): short, since requests wait meanwhile. `busy` says that
    /// there were requests just now; otherwise it is called again and again while it answers [`Ahead::More`], with a look for
    /// requests in between, and the worker that is last to sleep wakes up when the answer says.
    fn work_ahead(&mut self, busy: bool) -> Ahead {
        let _ = busy;
        Ahead::Nothing
    }

    /// The worker is about to sleep: what it keeps for itself and others could use is to be given back.
    fn rest(&mut self);

    /// Numbers that clients left of their own accord, see [`Engine::want_hints`](super::Engine::want_hints). They may be anything.
    fn hints(&mut self, hints: &[u64]) {
        let _ = hints;
    }

    /// A client is gone: whatever was kept for it is to be let go.
    fn forget(&mut self, client: u32);
}
