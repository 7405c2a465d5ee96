//! Random numbers and values that tell whose they are.

use std::time::{SystemTime, UNIX_EPOCH};

/// Lengths around every border: inline replies, the first slot, listings, parts, and the longest.
pub(crate) const LENGTHS: [usize; 19] =
    [0, 1, 8, 15, 16, 17, 40, 41, 47, 48, 49, 127, 129, 1 << 10, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 64 << 10, 1 << 20];

/// Steele, Lea and Flood's splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A length, mostly a short one.
    pub(crate) fn length(&mut self) -> usize {
        let kinds = match self.below(256) {
            0 => LENGTHS.len() as u64,
            1..4 => LENGTHS.len() as u64 - 1,
            4..32 => LENGTHS.len() as u64 - 2,
            _ => 13,
        };
        LENGTHS[self.below(kinds) as usize]
    }
}

/// A value that says by its bytes whose it is, and never is a number.
pub(crate) fn value(tag: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(tag);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&(random.next() | 0x8080_8080_8080_8080).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A seed of this run, printed; `PROCESSES_SEED` repeats a run.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("PROCESSES_SEED").ok().map(|seed| seed.parse().expect("PROCESSES_SEED is a number"));
    let seed = given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        u64::from(now.subsec_nanos()) ^ u64::from(std::process::id()) << 32
    });
    println!("{test}: PROCESSES_SEED={seed}");
    seed
}
