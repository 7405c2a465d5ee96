//! Random calls. The same seed gives the same calls, but for versions, which are those that the client has seen.

use shmtable::Condition;

use crate::record::{Bytes, Call, Life, Steps};
use crate::spec::KEYS;
use crate::values::{Random, value};

/// What calls there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mix {
    /// Items that live for milliseconds.
    pub(crate) expiry: bool,
    /// Transactions over all keys.
    pub(crate) transactions: bool,
    /// Clearing the table.
    pub(crate) clear: bool,
    /// Values longer than fit one request.
    pub(crate) long: bool,
}

/// Longest time to live, in milliseconds.
pub(crate) const LONGEST_MS: u64 = 6;

/// The next call of a client that has seen these versions.
pub(crate) fn call(random: &mut Random, mix: Mix, seen: &[u64; KEYS]) -> Call {
    let key = random.below(KEYS as u64) as usize;
    match random.below(100) {
        0..30 => Call::Read { key },
        30..32 if mix.clear => Call::Clear,
        32..52 if mix.transactions => Call::Transact(steps(random, mix, seen)),
        52..56 if mix.expiry => Call::Left { key },
        56..60 if mix.expiry => Call::Expire { key, ms: random.below(LONGEST_MS + 1) },
        60..62 if mix.expiry => Call::Persist { key },
        30..62 => Call::Insert { key, value: stored(random, mix), when: when(random, seen[key]), life: life(random, mix, true) },
        62..72 => Call::Delete { key, when: if random.below(3) == 0 { version(random, seen[key]) } else { Condition::Always } },
        72..88 => Call::Incr { key, by: 1 + random.below(9) as i64, life: life(random, mix, false) },
        _ => Call::Append { key, bytes: appended(random) },
    }
}

fn steps(random: &mut Random, mix: Mix, seen: &[u64; KEYS]) -> Steps {
    let mut steps = Steps::default();
    for (key, version) in seen.iter().enumerate() {
        match random.below(6) {
            0 => steps.compares.push((key, 0)),
            1 => steps.compares.push((key, *version)),
            _ => {}
        }
        let read = random.below(2) == 0;
        if read {
            steps.reads.push(key);
        }
        match random.below(5) {
            0 => steps.writes.push((key, None)),
            1 | 2 => steps.writes.push((key, Some((stored(random, Mix { long: false, ..mix }), life(random, mix, read))))),
            _ => {}
        }
    }
    steps
}

/// A value, not empty: a positive number, so that increments and appends build on each other, or bytes of all lengths.
fn stored(random: &mut Random, mix: Mix) -> Bytes {
    let number = random.below(3) == 0;
    if number {
        return (1 + random.below(999)).to_string().as_bytes().into();
    }
    let len = random.length().clamp(1, if mix.long { 40_000 } else { 1000 });
    value(random.next(), len)[..].into()
}

fn appended(random: &mut Random) -> Bytes {
    if random.below(3) > 0 {
        return (1 + random.below(9)).to_string().as_bytes().into();
    }
    let len = 1 + random.below(40) as usize;
    value(random.next(), len)[..].into()
}

fn when(random: &mut Random, seen: u64) -> Condition {
    match random.below(6) {
        0 => Condition::IfAbsent,
        1 => Condition::IfPresent,
        2 => version(random, seen),
        _ => Condition::Always,
    }
}

/// Mostly the version that the client has seen last.
fn version(random: &mut Random, seen: u64) -> Condition {
    Condition::IfVersion(if random.below(4) == 0 { seen ^ 1 } else { seen })
}

/// `kept`: the one of before may be kept.
fn life(random: &mut Random, mix: Mix, kept: bool) -> Life {
    match random.below(4) {
        0 if mix.expiry && kept => Life::Kept,
        1 | 2 if mix.expiry => Life::Ms(random.below(LONGEST_MS + 1)),
        _ => Life::Endless,
    }
}
