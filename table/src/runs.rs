//! Runs of free units: boundary tags and bins by length (D. Knuth's boundary-tag method), all in private memory.
//!
//! R1: a free run has its length at its first and its last unit; all other units have 0, so that any part of what was
//! taken may be given back. R2: two free runs never touch. Everything is behind the heap's lock; no call allocates but `grow`.

const EXACT: u32 = 64;
const BINS: usize = 64 + 26;
const NONE: u32 = u32::MAX;
/// How many runs of a logarithmic bin are looked at before a longer bin is preferred.
const LOOK: usize = 16;

/// The free units of a heap.
pub(crate) struct RunPool {
    tag: Vec<u32>,
    next: Vec<u32>,
    prev: Vec<u32>,
    heads: [u32; BINS],
    occupied: u128,
    free: u64,
}

fn bin_of(len: u32) -> usize {
    if len <= EXACT { len as usize - 1 } else { (EXACT + len.ilog2() - 6) as usize }
}

impl RunPool {
    pub(crate) fn new() -> RunPool {
        RunPool { tag: Vec::new(), next: Vec::new(), prev: Vec::new(), heads: [NONE; BINS], occupied: 0, free: 0 }
    }

    /// Units known, free or not.
    pub(crate) fn units(&self) -> u64 {
        self.tag.len() as u64
    }

    pub(crate) fn free_units(&self) -> u64 {
        self.free
    }

    /// Adds units at the end as used; the caller frees what is free of them.
    pub(crate) fn grow(&mut self, units: u64) {
        let total = self.tag.len() + units as usize;
        self.tag.resize(total, 0);
        self.next.resize(total, NONE);
        self.prev.resize(total, NONE);
    }

    /// Takes `len` units that follow each other; the first of them.
    pub(crate) fn take(&mut self, len: u32) -> Option<u32> {
        let run = self.fitting(len)?;
        self.cut(run, len);
        Some(run)
    }

    /// Takes the first `len` units of a free run.
    fn cut(&mut self, run: u32, len: u32) {
        let have = self.tag[run as usize];
        self.unlist(run);
        self.free -= u64::from(have);
        self.tag[run as usize] = 0;
        self.tag[(run + have - 1) as usize] = 0;
        self.tag[(run + len - 1) as usize] = 0;
        if have > len {
            self.list(run + len, have - len);
        }
    }

    /// Takes `len` units that end at `below` or before; looks at a bounded number of runs.
    pub(crate) fn take_below(&mut self, len: u32, below: u32) -> Option<u32> {
        let bins = (bin_of(len)..BINS).filter(|&bin| self.occupied & (1 << bin) != 0);
        let fits = |&(run, have): &(u32, u32)| have >= len && run + len <= below;
        let (run, _) = bins.flat_map(|bin| self.listed(bin).take(LOOK)).find(fits)?;
        self.cut(run, len);
        Some(run)
    }

    /// Length of the free run that begins or ends at a unit; 0 if the unit is used or inside of one.
    pub(crate) fn run_at(&self, unit: u32) -> u32 {
        self.tag[unit as usize]
    }

    /// A bin's runs with their lengths.
    fn listed(&self, bin: usize) -> impl Iterator<Item = (u32, u32)> + '_ {
        let head = self.heads[bin];
        std::iter::successors((head != NONE).then_some(head), move |&run| {
            Some(self.next[run as usize]).filter(|&next| next != NONE)
        })
        .map(move |run| (run, self.tag[run as usize]))
    }

    /// Free runs with their lengths, the longest bins first.
    pub(crate) fn longest_first(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..BINS).rev().flat_map(|bin| self.listed(bin))
    }

    /// Whether `len` units follow each other somewhere.
    pub(crate) fn has_run(&self, len: u32) -> bool {
        self.fitting(len).is_some()
    }

    fn fitting(&self, len: u32) -> Option<u32> {
        let bin = bin_of(len);
        if len > EXACT
            && let Some(run) = self.look(bin, len, LOOK)
        {
            return Some(run);
        }
        let from = if len > EXACT { bin + 1 } else { bin };
        let above = self.occupied.checked_shr(from as u32).unwrap_or(0);
        if above != 0 {
            return Some(self.heads[from + above.trailing_zeros() as usize]);
        }
        if len > EXACT { self.look(bin, len, usize::MAX) } else { None }
    }

    fn look(&self, bin: usize, len: u32, most: usize) -> Option<u32> {
        let mut run = self.heads[bin];
        for _ in 0..most {
            if run == NONE {
                return None;
            }
            if self.tag[run as usize] >= len {
                return Some(run);
            }
            run = self.next[run as usize];
        }
        None
    }

    /// Gives units back and joins them with free neighbours.
    pub(crate) fn give(&mut self, first: u32, len: u32) {
        let (mut start, mut total) = (first, len);
        if start > 0 && self.tag[start as usize - 1] != 0 {
            let before = self.tag[start as usize - 1];
            start -= before;
            total += before;
            self.unlist(start);
            self.tag[first as usize - 1] = 0;
            self.free -= u64::from(before);
        }
        let end = (first + len) as usize;
        if end < self.tag.len() && self.tag[end] != 0 {
            let after = self.tag[end];
            total += after;
            self.unlist(end as u32);
            self.tag[end] = 0;
            self.free -= u64::from(after);
        }
        self.list(start, total);
    }

    fn list(&mut self, run: u32, len: u32) {
        let bin = bin_of(len);
        self.tag[run as usize] = len;
        self.tag[(run + len - 1) as usize] = len;
        self.next[run as usize] = self.heads[bin];
        self.prev[run as usize] = NONE;
        if self.heads[bin] != NONE {
            self.prev[self.heads[bin] as usize] = run;
        }
        self.heads[bin] = run;
        self.occupied |= 1 << bin;
        self.free += u64::from(len);
    }

    fn unlist(&mut self, run: u32) {
        let bin = bin_of(self.tag[run as usize]);
        let (next, prev) = (self.next[run as usize], self.prev[run as usize]);
        if next != NONE {
            self.prev[next as usize] = prev;
        }
        if prev != NONE {
            self.next[prev as usize] = next;
        } else {
            self.heads[bin] = next;
            if next == NONE {
                self.occupied &= !(1 << bin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_join_and_the_exact_run_is_preferred() {
        let mut pool = RunPool::new();
        pool.grow(100);
        pool.give(0, 100);
        let runs: Vec<u32> = (0..10).map(|_| pool.take(10).expect("room")).collect();
        assert!(pool.take(1).is_none());
        pool.give(runs[3], 10);
        pool.give(runs[5], 10);
        assert!(pool.take(11).is_none());
        pool.give(runs[4], 10);
        assert_eq!(pool.take(30), Some(runs[3]));
        assert_eq!(pool.free_units(), 0);
    }

    proptest! {
        #[test]
        fn no_unit_is_handed_out_twice_and_all_come_back(steps in prop::collection::vec((any::<bool>(), 1u32..200), 1..200)) {
            let mut pool = RunPool::new();
            pool.grow(600);
            pool.give(0, 600);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (take, len) in steps {
                if take {
                    if let Some(run) = pool.take(len) {
                        prop_assert!(run + len <= 600);
                        prop_assert!(held.iter().all(|&(other, n)| run + len <= other || other + n <= run));
                        held.push((run, len));
                    }
                } else if !held.is_empty() {
                    // What was taken may come back in parts, its end first.
                    let (run, n) = held.swap_remove(len as usize % held.len());
                    let kept = len % n;
                    pool.give(run + kept, n - kept);
                    if kept > 0 {
                        held.push((run, kept));
                    }
                }
                let used: u64 = held.iter().map(|&(_, n)| u64::from(n)).sum();
                prop_assert_eq!(pool.free_units() + used, 600);
            }
            for (run, n) in held {
                pool.give(run, n);
            }
            prop_assert_eq!(pool.take(600), Some(0));
        }
    }
}
