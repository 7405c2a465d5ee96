//! The sequential specification: what a table of a few keys answers when calls take effect one at a time.
//!
//! - **L1** An answer says whether the call saw the key alive, so a call leads from one state to at most one other. Values are not empty
//!   and numbers positive for that reason: else the answer of an append or an increment could mean both. And a transaction that keeps
//!   an item's time to live reads it.
//! - **L2** Expiry is an interval. An item that was given a time to live at some moment between a call's start and its end is over at some
//!   moment between the two that follow from them, give or take [`GRANULARITY`]. A call that ended before the first must see the item,
//!   one that began after the second must not, and others may say either, but they must agree about the end: each has looked at the
//!   clock once between its start and its end. Who saw the item shows that it was not over when that call began, and who missed it
//!   that it was when that call ended.
//! - **L3** A client's requests take effect in the order sent, though their intervals overlap in a pipeline.

use std::sync::Arc;

use shmtable::Condition;
use todc_utils::specifications::Specification;

use crate::record::{Answer, Bytes, Call, Life, Place, Record, Steps};

/// Most keys of a history.
pub(crate) const KEYS: usize = 2;
/// Most clients of a history.
pub(crate) const CLIENTS: usize = 8;
/// Nanoseconds by which the server's clock of milliseconds may be off.
pub(crate) const GRANULARITY: u64 = 1_000_000;

/// Sequential specification of the table.
pub(crate) struct Table;

/// What is there, and which request of each client took effect last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    items: [Option<Item>; KEYS],
    applied: [u32; CLIENTS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Item {
    value: Bytes,
    /// 0 while nobody was told.
    version: u64,
    until: Option<Span>,
}

/// Some moment from the one to the other, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Span {
    from: u64,
    to: u64,
}

impl Specification for Table {
    type State = State;
    type Operation = Arc<Record>;

    fn init() -> State {
        State::default()
    }

    fn apply(record: &Arc<Record>, state: &State) -> (bool, State) {
        let mut next = state.clone();
        let fits = next.in_order(record) && next.step(record).is_some();
        if fits { (true, next) } else { (false, state.clone()) }
    }
}

impl State {
    /// L3.
    fn in_order(&mut self, record: &Record) -> bool {
        let applied = &mut self.applied[record.client];
        match record.place {
            Place::Request(number) => number > std::mem::replace(applied, number),
            Place::Direct { after } => *applied >= after,
        }
    }

    /// The call takes effect; none where it cannot have been answered so.
    fn step(&mut self, record: &Record) -> Option<()> {
        let now = Span { from: record.start, to: record.end };
        match (&record.call, &record.answer) {
            (Call::Read { key } | Call::Left { key } | Call::Expire { key, .. } | Call::Persist { key }, Answer::Absent) => {
                self.dead(*key, now)
            }
            (Call::Read { key }, Answer::Value { version, bytes }) => self.read(*key, *version, bytes, now),
            (Call::Insert { key, value, when, life }, Answer::Stored { replaced, version }) => {
                let old = self.see(*key, *replaced, now)?;
                let met = match (when, &old) {
                    (Condition::Always, _) | (Condition::IfAbsent, None) | (Condition::IfPresent, Some(_)) => true,
                    (Condition::IfVersion(wanted), Some(item)) => *wanted != 0 && (item.version == 0 || item.version == *wanted),
                    _ => false,
                };
                met.then_some(())?;
                self.put(*key, value.clone(), *version, life.until(now, old.as_ref()))
            }
            (Call::Insert { when: Condition::Always, .. }, Answer::NotMet { .. }) => None,
            (Call::Insert { key, when, .. } | Call::Delete { key, when }, Answer::NotMet { version }) => {
                self.not_met(*key, *when, *version, now)
            }
            (Call::Delete { key, when }, Answer::Deleted { version }) => {
                if let Condition::IfVersion(wanted) = when {
                    (*wanted != 0).then_some(())?;
                    self.live_version(*key, *wanted, now)?;
                }
                self.live_version(*key, *version, now)?;
                self.items[*key] = None;
                Some(())
            }
            (Call::Incr { key, by, life }, Answer::Number { value, version }) => {
                self.incr(*key, (*by, *value), *version, *life, now)
            }
            (Call::Incr { key, by, .. }, Answer::NoNumber) => {
                let item = self.live(*key, now)?;
                number(&item.value).and_then(|old| old.checked_add(*by)).is_none().then_some(())
            }
            (Call::Append { key, bytes }, Answer::Length { len, version }) => {
                // L1: as long as the bytes alone only where nothing was there.
                let alive = *len != bytes.0.len() as u64;
                let old = self.see(*key, alive, now)?;
                let value = [old.as_ref().map_or(&[][..], |item| &item.value.0), &bytes.0].concat();
                (value.len() as u64 == *len).then_some(())?;
                self.put(*key, value[..].into(), *version, old.and_then(|item| item.until))
            }
            (Call::Left { key }, Answer::Left { version, ms }) => self.left(*key, *version, *ms, now),
            (Call::Expire { key, ms }, Answer::Set { version }) => {
                self.live_version(*key, *version, now)?.until = Life::Ms(*ms).until(now, None);
                Some(())
            }
            (Call::Persist { key }, Answer::Set { version }) => {
                self.live_version(*key, *version, now)?.until = None;
                Some(())
            }
            (Call::Clear, Answer::Done) => {
                self.items = Default::default();
                Some(())
            }
            (Call::Transact(steps), Answer::Committed { reads, versions }) => self.commit(steps, reads, versions, now),
            (Call::Transact(steps), Answer::Mismatch { compare, version }) => {
                let (key, wanted) = *steps.compares.get(*compare)?;
                steps.compares[..*compare].iter().try_for_each(|(key, wanted)| self.there(*key, *wanted, now))?;
                (*version != wanted).then_some(())?;
                self.there(key, *version, now)
            }
            _ => None,
        }
    }

    /// L2: the key was seen alive.
    fn live(&mut self, key: usize, now: Span) -> Option<&mut Item> {
        let item = self.items[key].as_mut()?;
        if let Some(until) = &mut item.until {
            (now.from < until.to).then_some(())?;
            until.from = until.from.max(now.from);
        }
        Some(item)
    }

    /// L2: the key was seen absent.
    fn dead(&mut self, key: usize, now: Span) -> Option<()> {
        if let Some(item) = &mut self.items[key] {
            let until = item.until.as_mut()?;
            (now.to >= until.from).then_some(())?;
            until.to = until.to.min(now.to);
        }
        Some(())
    }

    /// What was seen of the key: something, or nothing.
    fn see(&mut self, key: usize, alive: bool, now: Span) -> Option<Option<Item>> {
        if alive { self.live(key, now).map(|item| Some(item.clone())) } else { self.dead(key, now).map(|()| None) }
    }

    /// The key was seen alive with a version, if it was told (else 0).
    fn live_version(&mut self, key: usize, version: u64, now: Span) -> Option<&mut Item> {
        let item = self.live(key, now)?;
        (version == 0 || item.version == 0 || item.version == version).then_some(())?;
        item.version = item.version.max(version);
        Some(item)
    }

    /// The key was seen with this version; 0: absent.
    fn there(&mut self, key: usize, version: u64, now: Span) -> Option<()> {
        if version == 0 { self.dead(key, now) } else { self.live_version(key, version, now).map(|_| ()) }
    }

    fn read(&mut self, key: usize, version: u64, bytes: &Bytes, now: Span) -> Option<()> {
        (self.live_version(key, version, now)?.value == *bytes).then_some(())
    }

    fn incr(&mut self, key: usize, (by, sum): (i64, i64), version: u64, life: Life, now: Span) -> Option<()> {
        // L1: numbers are positive, so the sum is `by` only where nothing was there.
        let old = self.see(key, sum != by, now)?;
        let (before, until) = match &old {
            Some(item) => (number(&item.value)?, item.until),
            None => (0, life.until(now, None)),
        };
        (before.checked_add(by) == Some(sum)).then_some(())?;
        self.put(key, sum.to_string().as_bytes().into(), version, until)
    }

    /// L2: the key was seen alive with so much time left.
    fn left(&mut self, key: usize, version: u64, ms: Option<u64>, now: Span) -> Option<()> {
        let item = self.live_version(key, version, now)?;
        let (Some(until), Some(ms)) = (&mut item.until, ms) else {
            return (item.until.is_none() && ms.is_none()).then_some(());
        };
        let told = Life::Ms(ms).until(now, None)?;
        *until = Span { from: until.from.max(told.from), to: until.to.min(told.to) };
        (until.from <= until.to).then_some(())
    }

    /// A write was refused by its condition.
    fn not_met(&mut self, key: usize, when: Condition, version: Option<u64>, now: Span) -> Option<()> {
        match (when, version) {
            (Condition::IfAbsent, Some(0)) => None,
            (Condition::IfAbsent, version) => self.live_version(key, version.unwrap_or(0), now).map(|_| ()),
            (Condition::Always | Condition::IfPresent, None | Some(0)) | (Condition::IfVersion(_), Some(0)) => {
                self.dead(key, now)
            }
            (Condition::Always | Condition::IfPresent, Some(_)) => None,
            (Condition::IfVersion(wanted), Some(version)) => {
                (version != wanted).then_some(())?;
                self.live_version(key, version, now).map(|_| ())
            }
            // Absent, or another version: nothing is learnt that would hold in both cases.
            (Condition::IfVersion(wanted), None) => {
                let mut other = self.clone();
                let another = self.clone().live(key, now).is_some_and(|item| item.version == 0 || item.version != wanted);
                (another || other.dead(key, now).is_some()).then_some(())
            }
        }
    }

    /// The write of an item, whose version is a new one.
    fn put(&mut self, key: usize, value: Bytes, version: u64, until: Option<Span>) -> Option<()> {
        let old = self.items[key].replace(Item { value, version, until });
        (version == 0 || old.is_none_or(|old| old.version != version)).then_some(())
    }

    fn commit(&mut self, steps: &Steps, reads: &[Option<(u64, Bytes)>], versions: &[u64], now: Span) -> Option<()> {
        (reads.len() == steps.reads.len() && versions.len() == steps.writes.len()).then_some(())?;
        steps.compares.iter().try_for_each(|(key, wanted)| self.there(*key, *wanted, now))?;
        for (key, read) in steps.reads.iter().zip(reads) {
            match read {
                Some((version, bytes)) => self.read(*key, *version, bytes, now)?,
                None => self.dead(*key, now)?,
            }
        }
        for ((key, write), version) in steps.writes.iter().zip(versions) {
            match write {
                Some((value, life)) => {
                    // L1: who keeps what the item has was told whether there is one.
                    let alive = steps.reads.iter().zip(reads).any(|(read, found)| read == key && found.is_some());
                    let until = life.until(now, self.items[*key].as_ref().filter(|_| alive));
                    self.put(*key, value.clone(), *version, until)?;
                }
                None => {
                    self.there(*key, *version, now)?;
                    self.items[*key] = None;
                }
            }
        }
        Some(())
    }
}

impl Life {
    /// L2: when an item is over that was given this life at some moment of a call, in the place of another one.
    fn until(self, now: Span, old: Option<&Item>) -> Option<Span> {
        match self {
            Self::Endless => None,
            Self::Kept => old?.until,
            Self::Ms(ms) => {
                let ttl = ms * 1_000_000;
                Some(Span { from: (now.from + ttl).saturating_sub(GRANULARITY), to: now.to + ttl + GRANULARITY })
            }
        }
    }
}

fn number(value: &Bytes) -> Option<i64> {
    std::str::from_utf8(&value.0).ok()?.parse().ok()
}
