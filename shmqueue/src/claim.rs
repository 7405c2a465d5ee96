//! The life of a client slot, as transitions of one word.
//!
//! ```text
//!            attach (client, under its lock)            detach (client)
//!   FREE(g) ───────────────────────────────▶ ATTACHED(g) ─────────────▶ DETACHED(g)
//!     ▲                                          │ the lock is gone: dead     │
//!     │              release (server only)       ▼                            ▼
//!     └──────────────────────────────────── server drains the lane ◀──────────┘
//!   FREE(g+1)
//! ```
//!
//! | state    | who may change the word                | who may write the request lane |
//! |----------|----------------------------------------|--------------------------------|
//! | FREE     | the holder of the slot's lock byte     | nobody                         |
//! | ATTACHED | that holder; the server once it is dead| that holder                    |
//! | DETACHED | the server                             | nobody                         |
//!
//! The word is `state` in bits 0 to 7, `shard` in bits 8 to 23, `generation` in bits 32 to 63; a zeroed slot is FREE of
//! generation 0.
//!
//! Invariants:
//! - **K1** A word becomes ATTACHED only under the slot's lock byte, and only after the lanes are backed and mapped.
//! - **K2** A generation is attached at most once: only [`release`] leaves it, and it raises it.
//! - **K3** Liveness is judged by the lock byte, never by this word: any client can scribble on it, so it is a hint to the
//!   server, which keeps its own copy of shard and generation.
//!
//! Progress: every transition is one atomic instruction, nobody waits.

use crate::sync::{AtomicU64, Ordering};

/// State of a client slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ClaimState {
    /// Nobody's; the next client may attach.
    Free = 0,
    /// A client's, alive or dead.
    Attached = 1,
    /// Given back by its client, not yet drained by the server.
    Detached = 2,
}

/// A claim word, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where in its life the slot is.
    pub state: ClaimState,
    /// Shard on whose ring the client puts its words; 0 while free.
    pub shard: u16,
    /// How many clients have had the slot before.
    pub generation: u32,
}

impl Claim {
    /// The word of a free slot.
    pub const fn free(generation: u32) -> Self {
        Self { state: ClaimState::Free, shard: 0, generation }
    }

    /// Encodes the claim.
    pub const fn pack(self) -> u64 {
        self.state as u64 | (self.shard as u64) << 8 | (self.generation as u64) << 32
    }

    /// Decodes a word; `None` for one that no honest client or server writes.
    pub const fn unpack(word: u64) -> Option<Self> {
        let state = match word as u8 {
            0 => ClaimState::Free,
            1 => ClaimState::Attached,
            2 => ClaimState::Detached,
            _ => return None,
        };
        let claim = Self { state, shard: (word >> 8) as u16, generation: (word >> 32) as u32 };
        let reserved = (word >> 24) as u8 != 0;
        let shard_of_free = matches!(state, ClaimState::Free) && claim.shard != 0;
        if reserved || shard_of_free { None } else { Some(claim) }
    }
}

/// What became of [`attach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "only an attached slot may be used"]
pub enum Attach {
    /// The slot is the caller's; this is its claim from now on.
    Attached(Claim),
    /// The word was no longer free of that generation.
    Taken,
}

/// What became of [`detach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a lost slot was taken from its client"]
pub enum Detach {
    /// The server will drain and free the slot.
    Detached,
    /// The word was no longer this client's.
    Lost,
}

/// What [`release`] found; the slot is free of the next generation in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a word that was scribbled on is worth counting"]
pub enum Release {
    /// The word was of the drained generation.
    Clean(Claim),
    /// Somebody had written another word over it.
    Overwritten(Claim),
}

/// Reads a claim word: `None` where it cannot be decoded.
pub fn load(word: &AtomicU64) -> Option<Claim> {
    // ORDER(word): Acquire pairs with the Release of `attach` (pid, uid and name stand) and of `release` (the lane is drained).
    Claim::unpack(word.load(Ordering::Acquire))
}

/// FREE → ATTACHED. The caller holds the slot's lock byte, and its lanes are backed.
///
/// CRASH: a client that dies before this leaves the slot free; one that dies after it leaves ATTACHED without a lock, which
/// the server drains and releases.
pub fn attach(word: &AtomicU64, generation: u32, shard: u16) -> Attach {
    let next = Claim { state: ClaimState::Attached, shard, generation };
    // ORDER(word): AcqRel: Acquire pairs with `release` (the drained lane is seen), Release with `load` (pid, uid, name).
    match word.compare_exchange(Claim::free(generation).pack(), next.pack(), Ordering::AcqRel, Ordering::Relaxed) {
        Ok(_) => Attach::Attached(next),
        Err(_) => Attach::Taken,
    }
}

/// ATTACHED → DETACHED, by the slot's own client, which writes its lane no more.
///
/// CRASH: between this and the unlock nothing is lost, the kernel drops the lock.
pub fn detach(word: &AtomicU64, own: Claim) -> Detach {
    let next = Claim { state: ClaimState::Detached, ..own };
    // ORDER(word): Release pairs with the server's `load`: every request that was published stands before the slot is drained.
    match word.compare_exchange(own.pack(), next.pack(), Ordering::Release, Ordering::Relaxed) {
        Ok(_) => Detach::Detached,
        Err(_) => Detach::Lost,
    }
}

/// ATTACHED (dead) or DETACHED → FREE of the next generation. Only the server calls it, after draining `generation`.
///
/// The store is unconditional, so that a scribbled word does not keep the slot from coming back.
///
/// CRASH: a server that dies before this leaves the slot to its successor, which drains it again and finds nothing.
pub fn release(word: &AtomicU64, generation: u32) -> Release {
    let next = Claim::free(generation.wrapping_add(1));
    // ORDER(word): Release pairs with the Acquire of `load` and `attach`: the next client sees the lane as drained.
    let before = word.swap(next.pack(), Ordering::AcqRel);
    match Claim::unpack(before) {
        Some(claim) if claim.generation == generation && claim.state != ClaimState::Free => Release::Clean(next),
        _ => Release::Overwritten(next),
    }
}

/// A word that cannot be decoded, or names a shard that is not there → FREE of the next generation, unless it has changed since it was
/// looked at. Only the server calls it, for a slot that it does not serve and whose lock is free.
pub fn release_scribbled(word: &AtomicU64, found: u64, generation: u32) {
    let next = Claim::free(generation.wrapping_add(1));
    // ORDER(word): as in `release`. Losing the race means that a client has claimed the slot, or scribbled again: the next tick looks.
    let _ = word.compare_exchange(found, next.pack(), Ordering::AcqRel, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_claim_survives_packing() {
        for state in [ClaimState::Attached, ClaimState::Detached] {
            for (shard, generation) in [(0, 0), (255, 1), (u16::MAX, u32::MAX)] {
                let claim = Claim { state, shard, generation };
                assert_eq!(Claim::unpack(claim.pack()), Some(claim));
            }
        }
        assert_eq!(Claim::unpack(0), Some(Claim::free(0)));
        assert_eq!(Claim::unpack(Claim::free(u32::MAX).pack()), Some(Claim::free(u32::MAX)));
    }

    #[test]
    fn words_that_nobody_writes_are_refused() {
        for word in [3, 0xff, 1 << 8, 1 << 24 | 1, 0x80 << 24 | 2, u64::MAX] {
            assert_eq!(Claim::unpack(word), None, "{word:#x}");
        }
    }

    #[test]
    fn a_slot_lives_through_all_its_states() {
        let word = AtomicU64::new(0);
        let Attach::Attached(own) = attach(&word, 0, 7) else { panic!("a free slot was refused") };
        assert_eq!(load(&word), Some(own));
        assert_eq!(attach(&word, 0, 7), Attach::Taken);
        assert_eq!(detach(&word, own), Detach::Detached);
        assert_eq!(detach(&word, own), Detach::Lost);
        assert_eq!(attach(&word, 0, 7), Attach::Taken);
        assert_eq!(release(&word, 0), Release::Clean(Claim::free(1)));
        assert_eq!(attach(&word, 0, 7), Attach::Taken, "an old generation attached again");
        assert!(matches!(attach(&word, 1, 2), Attach::Attached(_)));
    }

    #[test]
    fn a_dead_clients_slot_is_released_and_its_late_detach_does_nothing() {
        let word = AtomicU64::new(Claim::free(u32::MAX).pack());
        let Attach::Attached(own) = attach(&word, u32::MAX, 1) else { panic!("a free slot was refused") };
        assert_eq!(release(&word, u32::MAX), Release::Clean(Claim::free(0)));
        assert_eq!(detach(&word, own), Detach::Lost);
        assert_eq!(load(&word), Some(Claim::free(0)));
    }

    #[test]
    fn a_scribbled_word_comes_back_as_free() {
        for scribble in [u64::MAX, Claim::free(9).pack(), Claim { state: ClaimState::Attached, shard: 1, generation: 8 }.pack()] {
            let word = AtomicU64::new(scribble);
            assert_eq!(release(&word, 9), Release::Overwritten(Claim::free(10)));
            assert_eq!(load(&word), Some(Claim::free(10)));
        }
    }
}
