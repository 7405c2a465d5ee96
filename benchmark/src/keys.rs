//! Keys and values of the workload: each client owns a range of keys, and every value tells whose it is.
//!
//! A key is 16 bytes: the owner's number and the key's, both mixed by bijections, so that no two coincide and none shares a
//! prefix. A value is one 8-byte word, repeated to the wanted length: owner, key and a stamp that counts the owner's writes. A
//! reply of another key, of another client or of two writes mixed therefore never passes for the right one.

/// Bytes of a key.
pub const KEY_LEN: usize = 16;

/// A key.
pub type Key = [u8; KEY_LEN];

/// The keys of one client.
#[derive(Clone, Copy, Debug)]
pub struct KeyRange {
    owner: u64,
}

impl KeyRange {
    /// The range of client number `owner`.
    pub fn new(owner: u32) -> Self {
        // An odd factor maps 64-bit numbers to 64-bit numbers one to one.
        Self { owner: u64::from(owner).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) }
    }

    /// Key number `index`.
    #[inline]
    pub fn key(&self, index: u32) -> Key {
        let mut key = [0; KEY_LEN];
        let mixed = u64::from(index).wrapping_add(1).wrapping_mul(0xD1B5_4A32_D192_ED03);
        key[..8].copy_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
        key[8..].copy_from_slice(&self.owner.to_le_bytes());
        key
    }

    /// The word that fills the value written to key `index` by write number `stamp`.
    #[inline]
    pub fn word(&self, index: u32, stamp: u32) -> u64 {
        (u64::from(index) << 32 | u64::from(stamp)) ^ self.owner
    }

    /// Number of the key that a word was written to, by whichever write; that of no key if another owner wrote it, but for chance.
    #[inline]
    pub fn number_of(&self, word: u64) -> u64 {
        (word ^ self.owner) >> 32
    }
}

/// Fills a value with its word.
#[inline]
pub fn fill(value: &mut [u8], word: u64) {
    let bytes = word.to_le_bytes();
    let mut chunks = value.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&bytes);
    }
    let rest = chunks.into_remainder();
    rest.copy_from_slice(&bytes[..rest.len()]);
}

/// Whether a value consists of its word and nothing else.
#[inline]
pub fn holds(value: &[u8], word: u64, len: usize) -> bool {
    let bytes = word.to_le_bytes();
    let chunks = value.chunks_exact(8);
    let rest = chunks.remainder();
    value.len() == len && *rest == bytes[..rest.len()] && chunks.fold(true, |all, chunk| all & (chunk == bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_clients_differ() {
        let mut seen = std::collections::HashSet::new();
        for owner in 0..20 {
            for index in 0..2000 {
                assert!(seen.insert(KeyRange::new(owner).key(index)));
            }
        }
    }

    #[test]
    fn words_tell_owner_key_and_write() {
        let mut seen = std::collections::HashSet::new();
        for owner in 0..10 {
            for index in 0..50 {
                for stamp in 0..50 {
                    let word = KeyRange::new(owner).word(index, stamp);
                    assert_eq!(KeyRange::new(owner).number_of(word), u64::from(index));
                    assert_ne!(KeyRange::new(owner + 1).number_of(word), u64::from(index));
                    assert!(seen.insert(KeyRange::new(owner).word(index, stamp)));
                }
            }
        }
    }

    #[test]
    fn a_value_of_any_length_is_checked_to_its_last_byte() {
        for len in 0..40 {
            let mut value = vec![0xEE; len];
            fill(&mut value, 0x0102_0304_0506_0708);
            assert!(holds(&value, 0x0102_0304_0506_0708, len));
            assert!(!holds(&value, 0x0102_0304_0506_0708, len + 1));
            for at in 0..len {
                value[at] ^= 1;
                assert!(!holds(&value, 0x0102_0304_0506_0708, len), "byte {at} of {len}");
                value[at] ^= 1;
            }
        }
    }
}
