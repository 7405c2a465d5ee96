//! Which operation comes next, and on which key.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operation of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Write a value.
    Insert,
    /// Read one.
    Read,
    /// Remove one.
    Delete,
}

/// Parts of inserts, reads and deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// Parts of inserts.
    pub inserts: u16,
    /// Parts of reads.
    pub reads: u16,
    /// Parts of deletes.
    pub deletes: u16,
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("reading the mix: found {text:?} against I:R:D, three numbers of at most 1000 and not all zero; try 1:1:1")
        };
        let parts: Vec<u16> = text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        match parts[..] {
            [inserts, reads, deletes] if parts.iter().all(|part| *part <= 1000) && parts.iter().any(|part| *part > 0) => {
                Ok(Self { inserts, reads, deletes })
            }
            _ => Err(wrong()),
        }
    }
}

impl Mix {
    fn total(&self) -> u32 {
        u32::from(self.inserts) + u32::from(self.reads) + u32::from(self.deletes)
    }

    /// The operation that 16 random bits stand for.
    #[inline]
    pub fn pick(&self, random: u16) -> Kind {
        let at = (u32::from(random) * self.total()) >> 16;
        if at < u32::from(self.inserts) {
            Kind::Insert
        } else if at < u32::from(self.inserts) + u32::from(self.reads) {
            Kind::Read
        } else {
            Kind::Delete
        }
    }

    /// The share of keys that is present once the mix has run for long.
    pub fn present_share(&self) -> f64 {
        match (self.inserts, self.deletes) {
            (_, 0) => 1.0,
            (inserts, deletes) => f64::from(inserts) / f64::from(inserts + deletes),
        }
    }
}

/// Marsaglia's xorshift64*: fast, and good enough to spread requests.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator of its own sequence for each seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1 }
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Chooses keys: uniformly, or by Zipf's law with Walker's alias tables in Vose's linear-time construction.
#[derive(Clone, Debug)]
pub struct KeyChoice {
    keys: u32,
    /// Per column: the share (of 2^32) that stays, and where the rest goes. Empty when uniform.
    columns: Vec<(u32, u32)>,
}

impl KeyChoice {
    /// A choice among `keys` keys; key number k is chosen in proportion to 1 / (k + 1)^`exponent`.
    pub fn new(keys: u32, exponent: f64) -> Self {
        let keys = keys.max(1);
        if exponent <= 0.0 {
            return Self { keys, columns: Vec::new() };
        }
        let weights: Vec<f64> = (1..=keys).map(|rank| f64::from(rank).powf(-exponent)).collect();
        Self { keys, columns: alias_columns(&weights) }
    }

    /// The key that 48 random bits stand for (the upper ones of `random`; the lower 16 choose the operation).
    #[inline]
    pub fn pick(&self, random: u64) -> u32 {
        let column = (((random >> 32) * u64::from(self.keys)) >> 32) as u32;
        match self.columns.get(column as usize) {
            None => column,
            // 16 bits decide between the two keys of a column; they are spread over the 32 bits of a share.
            Some(&(stays, alias)) => {
                let share = ((random >> 16) as u32 & 0xFFFF) << 16 | 0x8000;
                if share < stays { column } else { alias }
            }
        }
    }
}

fn alias_columns(weights: &[f64]) -> Vec<(u32, u32)> {
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    let mut left: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|&at| left[at] < 1.0);
    let mut columns: Vec<(u32, u32)> = (0..left.len()).map(|at| (u32::MAX, at as u32)).collect();
    while let (Some(low), Some(&high)) = (small.pop(), large.last()) {
        columns[low] = ((left[low] * 4_294_967_296.0) as u32, high as u32);
        left[high] -= 1.0 - left[low];
        if left[high] < 1.0 {
            large.pop();
            small.push(high);
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_parse_or_say_what_to_do() {
        assert_eq!("1:2:3".parse(), Ok(Mix { inserts: 1, reads: 2, deletes: 3 }));
        for wrong in ["", "1:2", "1:2:3:4", "0:0:0", "a:b:c", "1:1:-1", "1001:1:1"] {
            assert!(wrong.parse::<Mix>().unwrap_err().contains("I:R:D"), "{wrong}");
        }
    }

    #[test]
    fn operations_come_in_the_wanted_parts() {
        let mix: Mix = "1:2:1".parse().unwrap();
        let counts = (0..=u16::MAX).fold([0u32; 3], |mut counts, random| {
            counts[mix.pick(random) as usize] += 1;
            counts
        });
        assert_eq!(counts, [16384, 32768, 16384]);
        let reads: Mix = "0:1:0".parse().unwrap();
        assert!((0..=u16::MAX).all(|random| reads.pick(random) == Kind::Read));
    }

    #[test]
    fn the_present_share_follows_inserts_and_deletes() {
        assert_eq!("1:1:1".parse::<Mix>().unwrap().present_share(), 0.5);
        assert_eq!("0:1:0".parse::<Mix>().unwrap().present_share(), 1.0);
        assert_eq!("0:1:1".parse::<Mix>().unwrap().present_share(), 0.0);
    }

    #[test]
    fn uniform_choice_reaches_every_key_and_nothing_else() {
        let (choice, mut random) = (KeyChoice::new(50, 0.0), Random::new(7));
        let mut seen = [false; 50];
        for _ in 0..10_000 {
            seen[choice.pick(random.bits()) as usize] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn zipf_choice_follows_its_law() {
        let (choice, mut random) = (KeyChoice::new(1000, 1.0), Random::new(7));
        let mut counts = vec![0u32; 1000];
        let draws = 2_000_000;
        for _ in 0..draws {
            counts[choice.pick(random.bits()) as usize] += 1;
        }
        let harmonic: f64 = (1..=1000).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1, 2, 5, 10, 100] {
            let wanted = f64::from(draws) / f64::from(rank) / harmonic;
            let found = f64::from(counts[rank as usize - 1]);
            assert!((found / wanted - 1.0).abs() < 0.1, "rank {rank}: {found} against {wanted}");
        }
    }
}
