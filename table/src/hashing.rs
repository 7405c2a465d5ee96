//! The table's hash: seeded rapidhash, version 3, whose results the header's hash version pins.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

/// Number of the hash function in the header; another one is another layout.
pub const HASH_VERSION: u32 = 3;

/// A hash function with its secrets worked out once.
#[derive(Clone, Copy)]
pub struct Hasher(RapidSecrets);

impl Hasher {
    /// The hash function of this seed; seed and secrets both depend on it, against flooding with chosen keys.
    pub fn new(seed: u64) -> Hasher {
        Hasher(RapidSecrets::seed(seed))
    }

    /// Hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_inline::<true, false, false>(key, &self.0)
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

/// Hash of one key under a seed. Working out the secrets costs more than hashing: keep a [`Hasher`] for many.
#[inline]
pub fn hash(seed: u64, key: &[u8]) -> u64 {
    Hasher::new(seed).hash(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_pinned() {
        // A change of these values is a change of HASH_VERSION.
        let seen = [hash(1, b"a"), hash(1, b"0123456789abcdef"), hash(2, b"a")];
        assert_eq!(seen, PINNED);
    }

    const PINNED: [u64; 3] = [13127683534721263781, 982988660255207506, 3936406649312707234];
}
