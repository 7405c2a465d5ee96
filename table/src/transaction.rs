//! Several keys as one: versions compared, values read and items written at one moment.
//!
//! After Aguilera, Merchant, Shah, Veitch and Karamanolis, "Sinfonia: a new paradigm for building scalable distributed systems" (2007); where
//! Sinfonia spreads a mini-transaction over machines in two phases, here one worker holds the locks of all buckets instead.
//!
//! ```text
//! prepare ──▶ lock ──▶ judge ──▶ answer ──▶ place ──▶ commit (redo list) ──▶ store ──▶ publish ──▶ clear ──▶ unlock ──▶ free
//!    │ no memory          │ mismatch  │ no room  │ no slot
//!    └────────────────────┴───────────┴──────────┴──▶ unlock, give the new items back: nothing was done
//! ```
//!
//! X1: all buckets are locked from judging to the last store, in address order, so that transactions are serialized with each other and
//! with every other mutation of these keys. X2: items are complete before the commit word, and their deadlines lowered.
//! X3: until the commit word nothing has changed but, perhaps, that a bucket has one more empty overflow line. X4: every store goes to
//! another slot, and no slot that a transaction empties is filled by it.
//! Bounded: at most [`MAX_LOCKED`] keys and one walk of each key's chain. Nothing is allocated.
//! CRASH: see `redo`; before the commit word, prepared items are unreachable memory.

use crate::arena::Arena;
use crate::chain::{self, Room};
use crate::classes::LINE_CLASS;
use crate::clock::Expiry;
use crate::intent::{Effect, EffectKind, SlotStore, Ticket};
use crate::layout::{CHAIN_CAP, Counters, LINE, SLOTS};
use crate::locks::{LockedBuckets, MAX_LOCKED};
use crate::outcome::{ItemRef, Outcome, Refused};
use crate::redo;
use crate::seqlock;
use crate::sync::Ordering::{Relaxed, Release};
use crate::words::{ItemHeader, slot_word, tag_of};
use crate::writer::{Writer, item_ref};
use std::mem::offset_of;
use thiserror::Error;

const _: () = assert!(MAX_LOCKED <= redo::MOST);

/// What a step leaves behind under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'k> {
    /// What was there.
    None,
    /// A new item.
    Insert {
        /// Its value.
        value: &'k [u8],
        /// When it is to be gone.
        expiry: Expiry,
    },
    /// Nothing.
    Delete,
}

/// What a transaction does with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'k> {
    /// The key.
    pub key: &'k [u8],
    /// The version that must be there, 0 for none.
    pub compare: Option<u64>,
    /// What is written.
    pub change: Change<'k>,
}

/// Why a transaction was not begun, or not gone on with; nothing was done and nothing published.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Declined {
    /// More steps than locks are taken at once.
    #[error("transaction refused: found {found} steps against at most 64; split it")]
    TooManySteps {
        /// The number of steps.
        found: usize,
    },
    /// Two steps of one key.
    #[error("transaction refused: found the key of step {first} again in step {second}; name each key once")]
    KeyTwice {
        /// The first of the two.
        first: usize,
        /// The second.
        second: usize,
    },
    /// Whoever writes the answer had no room for it.
    #[error("transaction refused: found no room for its answer; make more")]
    NoRoom,
}

/// What is known of a step; grows from phase to phase.
#[derive(Clone, Copy)]
struct Plan {
    hash: u64,
    bucket: u64,
    /// The new item, 0 if there is none.
    item: u64,
    header: ItemHeader,
    held_back: bool,
    /// The new item's expiry is that of the one it replaces.
    keep: bool,
    /// The live item.
    live: Option<ItemRef>,
    /// The item under the key if it counts as absent.
    dead: Option<ItemHeader>,
    /// The item under the key, be it live or not; 0 if there is none.
    old_item: u64,
    /// The slot to store to, 0 if there is none.
    store: SlotStore,
}

const UNPLANNED: Plan = Plan {
    hash: 0,
    bucket: 0,
    item: 0,
    header: ItemHeader { version: 0, key_len: 0, value_len: 0, type_and_flags: 0, expiry: 0 },
    held_back: false,
    keep: false,
    live: None,
    dead: None,
    old_item: 0,
    store: SlotStore { slot: 0, old: 0, new: 0 },
};

/// What a transaction is about to do, shown under its locks to whoever writes the answer.
pub struct Answer<'p> {
    arena: &'p Arena,
    plan: &'p [Plan],
}

impl Answer<'_> {
    /// The item that was under a step's key before the transaction.
    pub fn item(&self, step: usize) -> Option<&ItemRef> {
        self.plan[step].live.as_ref()
    }

    /// The version that a step's change tells: of the new item, or of the one that is removed, 0 if there is none.
    pub fn version(&self, step: usize) -> u64 {
        let plan = &self.plan[step];
        if plan.item != 0 { plan.header.version } else { plan.live.map_or(0, |item| item.version) }
    }

    /// Appends the value of the item under a step's key; the item.
    pub fn append_value(&self, step: usize, out: &mut Vec<u8>) -> Option<&ItemRef> {
        let item = self.plan[step].live.as_ref()?;
        let len = item.value_len as usize;
        out.reserve(len);
        // SAFETY: room for the value was reserved and is filled; the item's bucket is locked, so that it stays what it is.
        unsafe {
            self.arena.section.read(item.value_offset(), out.as_mut_ptr().add(out.len()), len);
            out.set_len(out.len() + len);
        }
        Some(item)
    }
}

impl Writer<'_> {
    /// Compares, reads and writes the steps' keys as one, at one moment. Keys must differ, and are at most [`MAX_LOCKED`].
    ///
    /// `answer` runs under the locks when every comparison held, and before anything is stored: it may read the old values, and is to
    /// keep what the asker is told besides the highest version where a successor of this process finds it. What it returns becomes
    /// the `value` of [`Outcome::Committed`]; none ends the transaction. `publish` runs with the outcome: after the stores and
    /// before the buckets are unlocked if there were any, else when nothing is held. Neither may panic.
    ///
    /// # Errors
    /// [`Declined`], with `publish` not called.
    pub fn transact<R>(
        &mut self,
        steps: &[Step<'_>],
        ticket: &Ticket,
        answer: impl FnOnce(&Answer<'_>) -> Option<u64>,
        publish: impl FnOnce(&Outcome) -> R,
    ) -> Result<R, Declined> {
        let mut plans = [UNPLANNED; MAX_LOCKED];
        let mut hashes = [0; MAX_LOCKED];
        let (Some(plan), Some(hashes)) = (plans.get_mut(..steps.len()), hashes.get_mut(..steps.len())) else {
            return Err(Declined::TooManySteps { found: steps.len() });
        };
        self.begin(steps, plan, hashes)?;
        if let Err(refusal) = self.prepare(steps, plan) {
            self.give_back(plan);
            return Ok(publish(&refusal));
        }
        let Ok(mut locked) = self.lock_many(hashes) else {
            return Err(Declined::TooManySteps { found: steps.len() });
        };
        if let Err(refusal) = locked.judge(steps, plan) {
            drop(locked);
            self.give_back(plan);
            return Ok(publish(&refusal));
        }
        let Some(value) = answer(&Answer { arena: &locked.writer().arena, plan }) else {
            drop(locked);
            self.give_back(plan);
            return Err(Declined::NoRoom);
        };
        if let Err(refusal) = locked.place(plan) {
            drop(locked);
            self.give_back(plan);
            return Ok(publish(&refusal));
        }
        let version = plan.iter().map(|plan| plan.header.version).max().unwrap_or(0);
        let effect = Effect { kind: EffectKind::Committed, version, value };
        if plan.iter().all(|plan| plan.store.slot == 0) {
            drop(locked);
            return Ok(publish(&Outcome::of(&effect)));
        }
        Ok(locked.store(plan, ticket, &effect, publish))
    }

    /// Checks the steps' keys, and fetches their buckets.
    fn begin(&self, steps: &[Step<'_>], plan: &mut [Plan], hashes: &mut [u64]) -> Result<(), Declined> {
        for (second, step) in steps.iter().enumerate() {
            let hash = self.hash(step.key);
            let again = (0..second).find(|&first| hashes[first] == hash && steps[first].key == step.key);
            if let Some(first) = again {
                return Err(Declined::KeyTwice { first, second });
            }
            self.prefetch(hash);
            (hashes[second], plan[second].hash) = (hash, hash);
        }
        Ok(())
    }

    /// Makes the new items, complete but for what depends on the old ones. What was made is in the plan also if this fails.
    fn prepare(&mut self, steps: &[Step<'_>], plan: &mut [Plan]) -> Result<(), Outcome> {
        if steps.iter().any(|step| step.key.is_empty() || step.key.len() > crate::words::MAX_KEY) {
            return Err(Outcome::TooLong);
        }
        if steps.iter().any(|step| step.change != Change::None) && !self.back_redo_list() {
            self.count(offset_of!(Counters, full), 1);
            return Err(Outcome::Full);
        }
        for (step, plan) in steps.iter().zip(plan) {
            let Change::Insert { value, expiry } = step.change else { continue };
            let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            let mut reservation = self.reserve(step.key, len, 0, expiry).map_err(|refused| match refused {
                Refused::Full => Outcome::Full,
                _ => Outcome::TooLong,
            })?;
            reservation.write_value(value);
            (plan.item, plan.header) = (reservation.block.offset, reservation.header);
            (plan.held_back, plan.keep) = (reservation.held_back, reservation.keep);
            self.clear_the_way(plan.hash);
        }
        Ok(())
    }

    /// Whether this worker's redo list can be written: its first transaction backs it.
    #[inline]
    fn back_redo_list(&self) -> bool {
        redo::is_backed(&self.arena, self.worker()) || {
            let redo = redo::list_of(&self.table.geometry, 0);
            self.table.store.back_redo(redo, self.worker())
        }
    }

    /// Gives the new items versions of one floor, which is the floor to judge by: all of them are of before or of after any clear. To be
    /// called under the locks (see `clear`, F2).
    fn take_versions(&mut self, plan: &mut [Plan]) -> Result<u64, Outcome> {
        let mut floor = self.arena.version_floor();
        loop {
            let judged = floor;
            for plan in plan.iter_mut().filter(|plan| plan.item != 0) {
                if plan.header.version == 0 || plan.header.version < judged {
                    let fresh = self.take_version().ok_or(Outcome::Full)?;
                    plan.header.version = fresh.version;
                    self.arena.section.word(plan.item).store(plan.header.word0(), Relaxed);
                    floor = floor.max(fresh.floor);
                }
            }
            if floor == judged {
                return Ok(floor);
            }
        }
    }

    /// Frees the new items of a transaction that did nothing.
    fn give_back(&mut self, plan: &[Plan]) {
        for plan in plan.iter().filter(|plan| plan.item != 0) {
            self.release(plan.item, plan.held_back);
        }
    }
}

impl LockedBuckets<'_, '_> {
    /// Looks every key up and compares its version.
    fn judge(&mut self, steps: &[Step<'_>], plan: &mut [Plan]) -> Result<(), Outcome> {
        let writer = self.writer();
        let floor = writer.take_versions(plan)?;
        for (at, (step, plan)) in steps.iter().zip(plan).enumerate() {
            plan.bucket = writer.arena.bucket(writer.bucket_of(plan.hash));
            let found = chain::find(&writer.arena, writer.arena.heap_end, plan.bucket, tag_of(plan.hash), step.key);
            plan.live = writer.living_above(found, floor).map(|found| item_ref(found.item, &found.header));
            plan.dead = if plan.live.is_none() { found.map(|found| found.header) } else { None };
            let version = plan.live.map_or(0, |item| item.version);
            if step.compare.is_some_and(|compare| compare != version) {
                return Err(Outcome::Mismatch { step: at as u32, version });
            }
            let new = if plan.item != 0 { slot_word(tag_of(plan.hash), plan.item) } else { 0 };
            match found {
                Some(found) if new != 0 || (step.change == Change::Delete && plan.live.is_some()) => {
                    plan.old_item = found.item;
                    plan.store = SlotStore { slot: found.slot, old: found.word, new };
                }
                _ => plan.store.new = new,
            }
        }
        Ok(())
    }

    /// Finds a slot for every new item that replaces none, and lowers the deadlines.
    fn place(&mut self, plan: &mut [Plan]) -> Result<(), Outcome> {
        for at in 0..plan.len() {
            if plan[at].item == 0 {
                continue;
            }
            if plan[at].keep {
                plan[at].header.expiry = plan[at].live.map_or(0, |item| item.expiry);
                let word1 = self.writer().arena.section.word(plan[at].item + 8);
                word1.store(plan[at].header.word1(), Relaxed);
            }
            if plan[at].header.expiry != 0 {
                self.writer().lower_deadline(plan[at].bucket, plan[at].header.expiry);
            }
            while plan[at].store.slot == 0 {
                let taken = |slot: u64| plan.iter().any(|plan| plan.store.slot == slot);
                match chain::room(&self.writer().arena, plan[at].bucket, taken) {
                    Room::Slot(slot) => plan[at].store.slot = slot,
                    Room::Behind { last, lines } => self.add_line(plan, at, last, lines)?,
                }
            }
        }
        Ok(())
    }

    /// Links an empty line behind the last one of a step's bucket. What stood in the last slot, or was to, moves into the line.
    #[cold]
    fn add_line(&mut self, plan: &mut [Plan], at: usize, last: u64, lines: u32) -> Result<(), Outcome> {
        let writer = self.writer();
        if lines >= CHAIN_CAP {
            writer.count(offset_of!(Counters, chain_full), 1);
            return Err(Outcome::ChainFull);
        }
        let Some(block) = writer.allocate(LINE_CLASS, LINE) else {
            writer.count(offset_of!(Counters, full), 1);
            return Err(Outcome::Full);
        };
        seqlock::before_reuse();
        let (slot, _, link) = chain::fill_line(&writer.arena, last, block.offset, 0);
        // ORDER(slot): Release after the line's own words: one legal store, whether or not the transaction comes about.
        writer.arena.section.word(slot).store(link, Release);
        writer.count(offset_of!(Counters, overflow_lines), 1);
        self.set_changed(plan[at].bucket);
        for moved in plan.iter_mut().filter(|plan| plan.store.slot == slot) {
            moved.store.slot = chain::slot_at(block.offset, 0);
        }
        debug_assert!(slot == chain::slot_at(last, SLOTS - 1));
        Ok(())
    }

    /// The transaction proper: redo list, slot stores, publish, clear, unlock, free.
    fn store<R>(mut self, plan: &[Plan], ticket: &Ticket, effect: &Effect, publish: impl FnOnce(&Outcome) -> R) -> R {
        let stores = || plan.iter().filter(|plan| plan.store.slot != 0);
        let writer = self.writer();
        let list = redo::list_of(&writer.table.geometry, writer.worker());
        redo::commit(&writer.arena, list, ticket, effect, stores().map(|plan| plan.store));
        for plan in stores() {
            // ORDER(slot): Release after the commit word, see `redo`.
            writer.arena.section.word(plan.store.slot).store(plan.store.new, Release);
        }
        let answer = publish(&Outcome::of(effect));
        redo::clear(&writer.arena, list);
        for plan in stores() {
            self.set_changed(plan.bucket);
            if let Some(dead) = &plan.dead {
                self.writer().count_dead(dead);
            }
            match (plan.old_item, plan.item) {
                (_, 0) => {}
                (0, _) => self.writer().note_new(plan.bucket, plan.store.slot),
                _ => self.writer().note_hit(plan.bucket, plan.store.slot),
            }
        }
        let mut lines = [0; MAX_LOCKED];
        let freed = self.unlink_emptied(plan, &mut lines);
        self.unlock_all();
        let writer = self.writer();
        for plan in stores() {
            match (plan.old_item, plan.item) {
                (0, _) => writer.linked(false),
                (_, 0) => writer.unlinked(1),
                _ => {}
            }
            if plan.old_item != 0 {
                writer.release(plan.old_item, plan.held_back);
            }
        }
        for &line in &lines[..freed] {
            writer.count(offset_of!(Counters, overflow_lines), u64::MAX);
            writer.release(line, false);
        }
        answer
    }

    /// Closes chains up from which something was deleted, and unlinks the lines that are empty then, as many as there is room to remember; how many.
    fn unlink_emptied(&mut self, plan: &[Plan], lines: &mut [u64; MAX_LOCKED]) -> usize {
        let mut freed = 0;
        for plan in plan.iter().filter(|plan| plan.store.slot != 0 && plan.item == 0) {
            if freed + CHAIN_CAP as usize > lines.len() {
                // A line that stays linked is legal; the next delete in its bucket finds it.
                break;
            }
            let spare = self.writer().close_up(plan.bucket, |_| false);
            lines[freed..freed + spare.lines().len()].copy_from_slice(spare.lines());
            freed += spare.lines().len();
        }
        freed
    }
}
