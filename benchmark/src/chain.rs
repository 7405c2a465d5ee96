//! Whether an operation has to wait for the answer of the one before it: what makes a loop's time that of one operation, or not.
//!
//! A core works on hundreds of instructions at once. In a loop of operations that have nothing to do with one another it fetches
//! the memory of the next while it waits for that of the first, and what the loop takes per operation is a throughput. A caller
//! that needs the answer before it goes on waits longer. [`Chained`] is that caller: each key is made of the answer before, by
//! arithmetic and not by a branch, which the core would guess. [`Overlapped`] is the loop of independent operations.
//!
//! What a chain can't do: an answer of yes or no (of a write) comes out of the map's own branches, which the core guesses, so that
//! the chain alone doesn't hold the next write back. The atomic operations do that which every map here writes with.

use std::hint::black_box;

use crate::keys::Key;

/// What lies between an operation and the next.
pub trait Link {
    /// The same number, of which what is asked for next is made.
    fn pass(&self, number: u64) -> u64;

    /// The same key, to be asked for next.
    #[inline]
    fn key(&self, key: Key) -> Key {
        // A number of 128 bits, of which 64 pass, stays in registers.
        let whole = u128::from_le_bytes(key);
        (whole & !u128::from(u64::MAX) | u128::from(self.pass(whole as u64))).to_le_bytes()
    }

    /// Takes note of an answer: how far it is from the right one, 0 for none.
    fn follow(&mut self, deviation: u64);
}

/// Each key depends on the answer before.
#[derive(Clone, Copy, Debug)]
pub struct Chained {
    link: u64,
    /// Zero, which the compiler doesn't know, so that a wrong answer changes no key and is counted once.
    zero: u64,
}

impl Chained {
    /// Before the first operation.
    #[allow(clippy::new_without_default, reason = "a chain is begun, not taken for granted")]
    pub fn new() -> Self {
        Self { link: 0, zero: black_box(0) }
    }
}

impl Link for Chained {
    #[inline]
    fn pass(&self, number: u64) -> u64 {
        number ^ self.link
    }

    #[inline]
    fn follow(&mut self, deviation: u64) {
        // The compiler may know that a right answer deviates by 0 and would branch: the black box hides where the number is from.
        self.link = black_box(deviation) & self.zero;
    }
}

/// No operation depends on another.
#[derive(Clone, Copy, Debug)]
pub struct Overlapped;

impl Link for Overlapped {
    #[inline]
    fn pass(&self, number: u64) -> u64 {
        number
    }

    #[inline]
    fn follow(&mut self, _deviation: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyRange;

    #[test]
    fn keys_stay_as_they_are_whatever_was_answered() {
        let key = KeyRange::new(7).key(1);
        let mut chain = Chained::new();
        for deviation in [0, 1, u64::MAX] {
            chain.follow(deviation);
            assert_eq!(chain.key(key), key);
            assert_eq!(Overlapped.key(key), key);
        }
    }

    #[test]
    fn a_key_depends_on_the_answer() {
        // Were zero another number, as the compiler has to assume, a wrong answer would make another key.
        let mut chain = Chained { link: 0, zero: u64::MAX };
        let key = KeyRange::new(7).key(1);
        chain.follow(0);
        assert_eq!(chain.key(key), key);
        chain.follow(1);
        assert_ne!(chain.key(key), key);
    }
}
