//! The exact policy "least recently used", simulated: the yardstick of every cache.

const NONE: u32 = u32::MAX;

/// A cache of so many keys, by number.
#[derive(Debug)]
pub(super) struct Lru {
    /// Per key: the ones used just before and just after it; itself when it is not in the cache.
    links: Vec<(u32, u32)>,
    /// Least and most recently used.
    ends: (u32, u32),
    len: u64,
    capacity: u64,
}

impl Lru {
    /// An empty cache of `capacity` of the key numbers below `keys`.
    pub(super) fn new(keys: u32, capacity: u64) -> Self {
        Self { links: (0..keys).map(|key| (key, key)).collect(), ends: (NONE, NONE), len: 0, capacity: capacity.max(1) }
    }

    /// A request for a key, which is in the cache afterwards; whether it was before.
    pub(super) fn request(&mut self, key: u32) -> bool {
        let hit = self.links[key as usize] != (key, key);
        if hit {
            self.unlink(key);
        } else if self.len == self.capacity {
            self.unlink(self.ends.0);
        }
        self.append(key);
        hit
    }

    fn unlink(&mut self, key: u32) {
        let (before, after) = self.links[key as usize];
        match before {
            NONE => self.ends.0 = after,
            _ => self.links[before as usize].1 = after,
        }
        match after {
            NONE => self.ends.1 = before,
            _ => self.links[after as usize].0 = before,
        }
        self.links[key as usize] = (key, key);
        self.len -= 1;
    }

    fn append(&mut self, key: u32) {
        let last = self.ends.1;
        self.links[key as usize] = (last, NONE);
        match last {
            NONE => self.ends.0 = key,
            _ => self.links[last as usize].1 = key,
        }
        self.ends.1 = key;
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::Random;

    #[test]
    fn it_holds_the_keys_used_last_and_no_others() {
        let (mut lru, mut random, mut used) = (Lru::new(50, 7), Random::new(5), Vec::<u32>::new());
        for _ in 0..5000 {
            let key = (random.bits() >> 40) as u32 % 50;
            let place = used.iter().position(|other| *other == key);
            assert_eq!(lru.request(key), place.is_some(), "key {key} of {used:?}");
            place.map(|place| used.remove(place));
            used.push(key);
            if used.len() > 7 {
                used.remove(0);
            }
        }
    }
}
