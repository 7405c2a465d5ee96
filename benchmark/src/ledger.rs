//! What a client knows of its own keys, and what each reply must therefore say.
//!
//! A client's requests take effect in the order sent and nobody else writes its keys, so that the right reply is known when
//! the request is made. The ledger keeps those expectations in a ring until the replies come, in the same order.
//!
//! L1: `made - checked` never exceeds the window the ledger was made for.

use std::fmt;

use crate::keys::{self, Key, KeyRange};
use crate::mix::{KeyChoice, Kind, Mix, Random};

/// A request to be made.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What to do.
    pub kind: Kind,
    /// With which key.
    pub key: Key,
    /// The word that fills the value of an insert.
    pub word: u64,
}

/// A reply, in the words of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A write was done; whether it replaced something, where the peer tells.
    Stored(Option<bool>),
    /// A value was found.
    Value(&'a [u8]),
    /// The key was removed.
    Deleted,
    /// There is no such key.
    NotFound,
    /// Anything else.
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Expectation {
    kind: Kind,
    present: bool,
    word: u64,
}

/// One client's plan and its expectations.
pub struct Ledger {
    range: KeyRange,
    mix: Mix,
    choice: KeyChoice,
    random: Random,
    /// Per key the stamp of the last write, 0 when absent.
    stamps: Vec<u32>,
    stamp: u32,
    expected: Vec<Expectation>,
    mask: usize,
    value_len: usize,
    made: usize,
    checked: usize,
    errors: u64,
    first_error: Option<String>,
}

/// What a ledger is made for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of the client that owns the keys.
    pub owner: u32,
    /// How many keys it owns.
    pub keys: u32,
    /// Bytes of every value.
    pub value_len: usize,
    /// Most requests under way at once.
    pub window: usize,
    /// Operations in which parts.
    pub mix: Mix,
    /// Exponent of Zipf's law, 0 for uniform.
    pub zipf: f64,
    /// Seed of the sequence.
    pub seed: u64,
}

impl Ledger {
    /// An empty ledger: no key is present.
    pub fn new(shape: &Shape) -> Self {
        let room = shape.window.max(1).next_power_of_two();
        Self {
            range: KeyRange::new(shape.owner),
            mix: shape.mix,
            choice: KeyChoice::new(shape.keys, shape.zipf),
            random: Random::new(shape.seed ^ u64::from(shape.owner) << 40),
            stamps: vec![0; shape.keys.max(1) as usize],
            stamp: 0,
            expected: vec![Expectation { kind: Kind::Read, present: false, word: 0 }; room],
            mask: room - 1,
            value_len: shape.value_len,
            made: 0,
            checked: 0,
            errors: 0,
            first_error: None,
        }
    }

    /// The next request by mix and key choice; its reply is expected from now on.
    #[inline]
    pub fn step(&mut self) -> Step {
        let random = self.random.bits();
        self.make(self.mix.pick(random as u16), self.choice.pick(random))
    }

    /// The keys that are written before anything is measured: as many as the mix keeps present in the long run.
    pub fn first_keys(&self) -> impl Iterator<Item = u32> + use<> {
        let share = self.mix.present_share();
        (0..self.stamps.len() as u32)
            .filter(move |&key| ((f64::from(key) + 1.0) * share) as u64 > (f64::from(key) * share) as u64)
    }

    /// A request of one's own choice.
    #[inline]
    pub fn make(&mut self, kind: Kind, index: u32) -> Step {
        let slot = &mut self.stamps[index as usize];
        let before = *slot;
        match kind {
            Kind::Insert => {
                self.stamp = self.stamp.wrapping_add(1).max(1);
                *slot = self.stamp;
            }
            Kind::Read => {}
            Kind::Delete => *slot = 0,
        }
        let word = self.range.word(index, *slot);
        self.expected[self.made & self.mask] = Expectation { kind, present: before != 0, word };
        self.made += 1;
        Step { kind, key: self.range.key(index), word }
    }

    /// Checks the reply to the oldest unanswered request.
    #[inline]
    pub fn check(&mut self, seen: Seen<'_>) {
        if self.checked == self.made {
            return self.wrong("a reply without a request", seen);
        }
        let Expectation { kind, present, word } = self.expected[self.checked & self.mask];
        self.checked += 1;
        let right = match (kind, seen) {
            (Kind::Insert, Seen::Stored(replaced)) => replaced.is_none_or(|replaced| replaced == present),
            (Kind::Read, Seen::Value(value)) => present && keys::holds(value, word, self.value_len),
            (Kind::Delete, Seen::Deleted) => present,
            (Kind::Read | Kind::Delete, Seen::NotFound) => !present,
            _ => false,
        };
        if !right {
            self.wrong(&format!("{kind:?} of a key that is {}", if present { "present" } else { "absent" }), seen);
        }
    }

    #[cold]
    fn wrong(&mut self, request: &str, seen: Seen<'_>) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(format!("request {}: {request}: found {}", self.checked, Shown(seen)));
        }
    }

    /// Requests whose replies were checked so far.
    #[inline]
    pub fn checked(&self) -> u64 {
        self.checked as u64
    }

    /// Requests whose replies are outstanding.
    #[inline]
    pub fn unanswered(&self) -> usize {
        self.made - self.checked
    }

    /// Replies that were not what they had to be.
    #[inline]
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// The first of them in words.
    pub fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }
}

struct Shown<'a>(Seen<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Seen::Value(value) => {
                write!(out, "a value of {} bytes that starts {:02x?}", value.len(), &value[..value.len().min(8)])
            }
            ref other => write!(out, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn shape(window: usize) -> Shape {
        Shape { owner: 3, keys: 40, value_len: 11, window, mix: "1:1:1".parse().unwrap(), zipf: 0.0, seed: 1 }
    }

    fn value_of(step: &Step) -> Vec<u8> {
        let mut value = vec![0; 11];
        keys::fill(&mut value, step.word);
        value
    }

    #[test]
    fn a_true_map_passes_at_any_window() {
        for window in [1, 3, 16] {
            let mut ledger = Ledger::new(&shape(window));
            let mut map = HashMap::new();
            for _ in 0..300 {
                let steps: Vec<Step> = (0..window).map(|_| ledger.step()).collect();
                assert_eq!(ledger.unanswered(), window);
                for step in steps {
                    match step.kind {
                        Kind::Insert => {
                            let replaced = map.insert(step.key, value_of(&step)).is_some();
                            ledger.check(Seen::Stored(Some(replaced)));
                        }
                        Kind::Read => ledger.check(map.get(&step.key).map_or(Seen::NotFound, |value| Seen::Value(value))),
                        Kind::Delete => {
                            ledger.check(if map.remove(&step.key).is_some() { Seen::Deleted } else { Seen::NotFound })
                        }
                    }
                }
            }
            assert_eq!((ledger.errors(), ledger.first_error()), (0, None));
        }
    }

    #[test]
    fn every_kind_of_wrong_reply_is_counted() {
        let mut ledger = Ledger::new(&shape(8));
        let old = value_of(&ledger.make(Kind::Insert, 5));
        ledger.check(Seen::Stored(Some(true)));
        ledger.make(Kind::Insert, 5);
        ledger.check(Seen::Stored(Some(true)));
        assert_eq!(ledger.errors(), 1, "the first write replaced nothing, the second did");
        ledger.make(Kind::Read, 5);
        ledger.check(Seen::Value(&old));
        ledger.make(Kind::Read, 5);
        ledger.check(Seen::NotFound);
        ledger.make(Kind::Delete, 5);
        ledger.check(Seen::NotFound);
        ledger.make(Kind::Delete, 5);
        ledger.check(Seen::Deleted);
        ledger.make(Kind::Read, 6);
        ledger.check(Seen::Other);
        ledger.check(Seen::NotFound);
        assert_eq!(ledger.errors(), 7);
        assert!(ledger.first_error().unwrap().contains("Insert of a key that is absent"));
    }

    #[test]
    fn the_first_keys_are_the_present_share() {
        assert_eq!(Ledger::new(&shape(1)).first_keys().count(), 20);
        let reads = Shape { mix: "0:1:0".parse().unwrap(), ..shape(1) };
        assert_eq!(Ledger::new(&reads).first_keys().count(), 40);
    }
}
