//! How a client waits for a reply: spin while a core is free for it, yield, sleep on the broadcast ring; and what it does when
//! nothing comes.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::layout::RegionState;
use crate::reply_ring::Heard;
use crate::sync::{Ordering, fence};
use crate::wait::{self, Pacer, WaitMode};

use super::{AHEAD, AWAKE, Port, WAITING};

/// Without any head movement for so long, a sender rings the home worker itself: whoever serves may have been preempted.
const NUDGE: Duration = Duration::from_micros(50);
/// An adaptive client spins at most for so long before it sleeps.
const SPIN: Duration = Duration::from_micros(100);
/// Yields of an adaptive client before it sleeps.
const YIELDS: u32 = 4;
/// First and longest sleep between two looks at whether the server lives.
const NAPS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// The reply is there.
    Answered,
    /// The deadline passed first.
    Deadline,
    /// The caller's flag was raised.
    Interrupted,
    /// No server holds the region, and either the caller wants to know at once, or none can come back to it.
    ServerGone,
}

/// What a wait heeds besides the reply.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// When to give up, from the moment on at which the wait is no longer a short one.
    pub timeout: Duration,
    /// Raised by a signal handler or another thread to end the wait.
    pub interrupt: Option<&'a AtomicBool>,
    /// How long to wait for a dead server's successor; zero: end at once.
    pub successor: Duration,
}

impl Port {
    /// Whether the request at `position` is answered. What looks like a reply means something only where the replies before it are
    /// there (L4), so the oldest one is asked as well.
    #[inline]
    fn is_answered(&self, position: u64) -> bool {
        self.replies.is_answered(position) && (position == self.oldest || self.replies.is_answered(self.oldest))
    }

    /// Whether the request at `position`, sent by this port at any time, is answered.
    #[inline]
    pub fn answered(&self, position: u64) -> bool {
        position < self.oldest || self.is_answered(position)
    }

    /// Waits for the reply of the request at `position`.
    #[inline]
    pub fn wait(&mut self, position: u64, patience: &Patience<'_>) -> Waited {
        let end = self.wait_for(position, patience);
        if end == Waited::Answered && position > self.oldest {
            // Lines that another core has written come one by one where they are read one by one: ask for many at once.
            self.answered = position + 1;
            for ahead in (self.oldest + 1..self.answered).take(AHEAD as usize).step_by(2) {
                self.replies.prefetch(ahead);
            }
        }
        end
    }

    fn wait_for(&mut self, position: u64, patience: &Patience<'_>) -> Waited {
        self.announce();
        for _ in 0..64 {
            if self.is_answered(position) {
                return Waited::Answered;
            }
            if self.mode == WaitMode::Block {
                break;
            }
            crate::sync::spin_hint();
            if self.is_crowded() {
                break;
            }
        }
        self.wait_longer(position, patience, Instant::now() + patience.timeout)
    }

    /// Whether spinning would take a core from somebody who has work to do.
    #[inline]
    fn is_crowded(&self) -> bool {
        self.mode == WaitMode::Adaptive && self.status.runnable.load(Ordering::Relaxed) > self.cpus
    }

    fn wait_longer(&mut self, position: u64, patience: &Patience<'_>, deadline: Instant) -> Waited {
        if self.mode != WaitMode::Block
            && !self.is_crowded()
            && let Some(end) = self.spin(position, patience, deadline)
        {
            return end;
        }
        if self.mode == WaitMode::Adaptive {
            for _ in 0..YIELDS {
                std::thread::yield_now();
                if self.is_answered(position) {
                    return Waited::Answered;
                }
            }
        }
        let mut nap = NAPS.0;
        let end = loop {
            if let Some(end) = self.sleep(position, nap.min(deadline.saturating_duration_since(Instant::now()))) {
                break end;
            }
            if let Some(end) = self.take_stock(position, patience, deadline) {
                break end;
            }
            nap = (nap * 2).min(NAPS.1);
        };
        self.request_head.waiting.store(AWAKE, Ordering::Relaxed);
        end
    }

    /// Spins until the reply is there; `None` when it is time to sleep.
    fn spin(&mut self, position: u64, patience: &Patience<'_>, deadline: Instant) -> Option<Waited> {
        let mut pacer = Pacer::start();
        let mut nudge = NUDGE;
        loop {
            if self.is_answered(position) {
                return Some(Waited::Answered);
            }
            crate::sync::spin_hint();
            let Some(elapsed) = pacer.step(64) else { continue };
            if self.shard.cpu.load(Ordering::Relaxed) == wait::current_cpu() {
                // The worker cannot answer while we spin on its CPU.
                std::thread::yield_now();
            }
            if elapsed >= nudge {
                if let Some(end) = self.take_stock(position, patience, deadline) {
                    return Some(end);
                }
                nudge = (nudge * 2).min(elapsed + NAPS.1);
            }
            if self.mode != WaitMode::Spin && (elapsed >= SPIN || self.is_crowded()) {
                return None;
            }
        }
    }

    /// Sleeps on the broadcast ring until it speaks of our lane, or for `at_most`.
    fn sleep(&mut self, position: u64, at_most: Duration) -> Option<Waited> {
        let until = Instant::now() + at_most;
        self.request_head.waiting.store(WAITING, Ordering::Relaxed);
        // ORDER(waiting): E3, the client's side.
        fence(Ordering::SeqCst);
        loop {
            let tail = self.reply_ring.tail();
            match self.reply_ring.follow(&mut self.cursor, self.word.client) {
                Heard::Nothing if tail == self.cursor => {}
                _ => continue,
            }
            if self.is_answered(position) {
                return Some(Waited::Answered);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let word = wait::low_half(self.reply_ring.tail_word());
            match wait::sleep(word, tail as u32, wait::bit_of(u32::from(self.word.client)), left) {
                wait::Woken::Rung => {}
                wait::Woken::Deadline | wait::Woken::Signal => {
                    return self.is_answered(position).then_some(Waited::Answered);
                }
            }
        }
    }

    /// Nothing came for a while: heeds deadline, interrupt and the server's death, and makes sure that our requests are known.
    #[cold]
    fn take_stock(&mut self, position: u64, patience: &Patience<'_>, deadline: Instant) -> Option<Waited> {
        if self.is_answered(position) {
            return Some(Waited::Answered);
        }
        if patience.interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Some(Waited::Interrupted);
        }
        if Instant::now() >= deadline {
            return Some(Waited::Deadline);
        }
        let region = self.attachment.region();
        if !region.server_alive() {
            let since = *self.gone_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= patience.successor || !region.is_current() {
                return Some(Waited::ServerGone);
            }
            return None;
        }
        self.gone_since = None;
        if RegionState::from_raw(self.status.state.load(Ordering::Relaxed)) == Some(RegionState::Superseded) {
            return Some(Waited::ServerGone);
        }
        let hot = self.reply_head.hot.load(Ordering::Relaxed) != 0;
        let passed = self.last_word.is_none_or(|last| (last.wrapping_sub(self.shard.head.load(Ordering::Relaxed)) as i64) < 0);
        if !hot && passed {
            // Our word was taken and our lane is still unserved, or the word was lost to a scribble.
            self.put_word();
        }
        self.ring_home();
        None
    }
}
