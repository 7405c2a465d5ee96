//! The sweep: unlinks what expired or was cleared, bucket by bucket, in steps that workers do between requests and when idle.
//!
//! ```text
//!   resting ──a deadline passed, or the floor was raised──▶ round: groups 0, 1, .. the last ──▶ resting
//!                                                             not due: passed over, its deadline noted
//!                                                             due: word cleared, each bucket swept, its earliest expiry entered
//! ```
//!
//! U1: one worker at a time is at the sweep, and nobody waits for it. What it does to the deadlines
//! stands in [`crate::deadlines`].
//! After a round that found little the sweep rests in proportion to the buckets it looked at in vain, at most [`MOST_REST_MS`]: so
//! expiry times spread evenly over a large table cost a few per cent of one core, and the memory of an expired item comes back
//! some seconds late. Whoever runs out of memory ends the rest.
//! CRASH: a group half swept has its deadline worked out anew by `Table::join`.

use crate::chain;
use crate::deadlines::{Deadlines, NO_DEADLINE, deadline_of, group_word};
use crate::layout::{Counters, GROUP, Header, SLOTS};
use crate::prefetch;
use crate::split::MOST;
use crate::sync::Mutex;
use crate::sync::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{AtomicBool, AtomicU64};
use crate::words::{is_link, offset_of_slot};
use crate::writer::Writer;
use std::mem::offset_of;
use std::sync::TryLockError;

/// Longest rest between two rounds, in milliseconds.
const MOST_REST_MS: u64 = 5_000;
const LEAST_REST_MS: u64 = 50;
/// Buckets looked at in vain for a millisecond of rest: at about a third of a microsecond each, some three per cent of a core.
const PER_REST_MS: u64 = 96;
/// Groups passed over in one step.
const PASSED_OVER: u32 = 512;
/// Buckets between the one whose line is fetched and the one whose items are, and that one and the one being swept.
const AHEAD: u64 = 3;
/// Time between two looks for a reason to end a rest, and buckets that are looked at.
const LOOK_EVERY_MS: u64 = 50;
const LOOKED_AT: u64 = 4;
/// Groups whose deadlines are looked at.
const GROUPS_LOOKED_AT: u64 = 32;
/// Blocks moved in one step.
const MOVED: usize = 8;

/// What is to be done ahead of need, see [`Writer::work_ahead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// There is more to do now.
    More,
    /// Nothing before this time of the region's clock, in milliseconds.
    At(u64),
    /// Nothing.
    Nothing,
}

/// The books of the sweep.
pub(crate) struct Sweeping {
    pub(crate) deadlines: Deadlines,
    /// The deadline that the round under way was begun for.
    since: AtomicU64,
    /// A copy of [`Round::under_way`], to look at without the lock.
    busy: AtomicBool,
    /// The table was cleared since the last round began, or memory ran out: no rest.
    hurry: AtomicBool,
    round: Mutex<Round>,
}

struct Round {
    under_way: bool,
    bucket: u64,
    /// The version floor that the round sweeps for, if it was raised since the last one that ended.
    clears: Option<u64>,
    swept_floor: u64,
    in_group: bool,
    least: u64,
    in_vain: u64,
    rest_until: u64,
    /// When to look, in the middle of a rest, whether it had better end.
    next_look: u64,
}

impl Sweeping {
    pub(crate) fn new(next_due: u64, floor: u64) -> Sweeping {
        Sweeping {
            deadlines: Deadlines::new(next_due),
            since: AtomicU64::new(NO_DEADLINE),
            busy: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            round: Mutex::new(Round {
                under_way: false,
                bucket: 0,
                clears: None,
                swept_floor: floor,
                in_group: false,
                least: NO_DEADLINE,
                in_vain: 0,
                rest_until: 0,
                next_look: 0,
            }),
        }
    }

    /// The floor was raised, or memory is wanted.
    pub(crate) fn hurry(&self) {
        // ORDER(hurry): Release, after the floor's store; pairs with the Acquire in `begin_round`.
        self.hurry.store(true, Release);
    }

    /// Whether there is nothing to sweep for, now or later.
    #[inline]
    fn is_quiet(&self) -> bool {
        self.deadlines.next_due() == NO_DEADLINE && !self.hurry.load(Relaxed) && !self.busy.load(Relaxed)
    }

    /// The deadline that the sweep waits for; none while it is under way.
    pub(crate) fn waits_for(&self) -> Option<u64> {
        (!self.busy.load(Relaxed)).then(|| self.deadlines.next_due())
    }

    /// Whether the items below this floor are unlinked, and nobody is at it.
    pub(crate) fn has_swept(&self, floor: u64) -> bool {
        self.round.try_lock().is_ok_and(|round| !round.under_way && round.swept_floor == floor)
    }

    /// Milliseconds since the earliest deadline passed that may not have been swept for.
    pub(crate) fn lag_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.deadlines.next_due().min(self.since.load(Relaxed)))
    }
}

impl Writer<'_> {
    /// Does some of what would otherwise wait: a split that is due, eviction and room for what comes when memory is short, and the
    /// sweep, of at most `most_buckets` buckets. To be called between batches and when idle; takes no lock that anybody waits for,
    /// but for the buckets' own.
    pub fn work_ahead(&mut self, most_buckets: u32) -> Ahead {
        let growing = self.catch_up();
        let evicting = self.evict_ahead(most_buckets);
        let making_room = self.memory_ahead(MOVED);
        let ahead = self.sweep(most_buckets);
        if growing || evicting || making_room { Ahead::More } else { ahead }
    }

    /// Sweeps at most so many buckets.
    pub(crate) fn sweep(&mut self, most_buckets: u32) -> Ahead {
        let sweeping = &self.table.sweeping;
        if sweeping.is_quiet() {
            return Ahead::Nothing;
        }
        let mut round = match sweeping.round.try_lock() {
            Ok(round) => round,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ahead::Nothing,
        };
        if !round.under_way
            && let Some(rest) = self.begin_round(&mut round)
        {
            return rest;
        }
        for _ in 0..most_buckets {
            if !round.in_group && !self.next_group(&mut round) {
                break;
            }
            if !round.under_way {
                return Ahead::More;
            }
            self.sweep_next(&mut round);
        }
        Ahead::More
    }

    /// Begins a round if there is reason to; else what to wait for.
    fn begin_round(&self, round: &mut Round) -> Option<Ahead> {
        let sweeping = &self.table.sweeping;
        // ORDER(hurry): Acquire pairs with the Release in `hurry`: taken away before the floor is looked at, so that no clear goes unseen.
        if sweeping.hurry.load(Relaxed) && sweeping.hurry.swap(false, Acquire) {
            round.rest_until = 0;
        }
        let floor = self.arena.version_floor();
        round.clears = (floor > round.swept_floor).then_some(floor);
        let due = sweeping.deadlines.next_due();
        if round.clears.is_none() {
            if due == NO_DEADLINE {
                return Some(Ahead::Nothing);
            }
            let (now, start) = (self.now_ms(), due.max(round.rest_until));
            if now < start && !(due <= now && self.finds_many_dead(round, now)) {
                // What is due later may be more than one round found: whether to rest on is looked at then.
                return Some(Ahead::At(if due <= now { start.min(round.next_look) } else { due }));
            }
        }
        sweeping.since.store(due, Relaxed);
        sweeping.deadlines.begin();
        sweeping.busy.store(true, Relaxed);
        (round.under_way, round.bucket, round.least, round.in_vain) = (true, 0, NO_DEADLINE, 0);
        None
    }

    /// Whether, in the middle of a rest, a look finds that the sweep had better go on: so few groups are due that it costs nothing, or most of
    /// what some buckets hold is dead (items that expire all at once may do so just after a round that found the first of them).
    fn finds_many_dead(&self, round: &mut Round, now: u64) -> bool {
        if now < round.next_look {
            return false;
        }
        round.next_look = now + LOOK_EVERY_MS;
        let (arena, floor, buckets) = (&self.arena, self.arena.version_floor(), self.arena.bucket_count().buckets());
        // Few groups that are due make a short round: nothing to rest from.
        let groups = buckets.div_ceil(GROUP);
        let sample = (0..GROUPS_LOOKED_AT).map(|number| now.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) % groups);
        let due = sample.filter(|&group| deadline_of(group_word(arena, group).load(Relaxed)) <= now).count() as u64;
        if due * 8 <= GROUPS_LOOKED_AT {
            return true;
        }
        let (mut items, mut dead) = (0, 0);
        for number in 0..LOOKED_AT {
            // Anywhere, and elsewhere the next time. What is read beside writers is good enough to count.
            let index = now.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) % buckets;
            for slot in 0..SLOTS {
                let word = arena.section.word(chain::slot_at(arena.bucket(index), slot)).load(Relaxed);
                if chain::is_item(word)
                    && let Some((_, header)) = chain::item_of(arena, arena.heap_end, word)
                {
                    items += 1;
                    dead += u64::from(self.is_dead(&header, floor));
                }
            }
        }
        2 * dead > items
    }

    /// Goes to the next group that is due, or ends the round; false when enough were passed over for one step.
    fn next_group(&self, round: &mut Round) -> bool {
        let (sweeping, now) = (&self.table.sweeping, self.now_ms());
        for _ in 0..PASSED_OVER {
            if round.bucket >= self.arena.bucket_count().buckets() {
                self.end_round(round);
                return true;
            }
            let group = round.bucket / GROUP;
            let word = group_word(&self.arena, group);
            // ORDER(deadline): Acquire pairs with the AcqRel of `Deadlines::lower`.
            let deadline = deadline_of(word.load(Acquire));
            if round.clears.is_some() || deadline <= now {
                sweeping.deadlines.take(group, word);
                // The table may have grown since the round stood at its end, in the middle of a group: that is begun anew, with its word.
                round.bucket = group * GROUP;
                round.in_group = true;
                return true;
            }
            round.least = round.least.min(deadline);
            round.bucket = (group + 1) * GROUP;
        }
        false
    }

    fn sweep_next(&mut self, round: &mut Round) {
        let buckets = self.arena.bucket_count().buckets();
        let (index, group) = (round.bucket, round.bucket / GROUP);
        self.fetch_ahead(index, buckets);
        if !self.sweep_bucket(index) {
            round.in_vain += 1;
        }
        round.bucket += 1;
        // The count anew: the bucket that was swept may have been split while its lock was waited for.
        if round.bucket.is_multiple_of(GROUP) || round.bucket >= self.arena.bucket_count().buckets() {
            round.least = round.least.min(self.table.sweeping.deadlines.leave(group_word(&self.arena, group)));
            round.in_group = false;
        }
    }

    fn end_round(&self, round: &mut Round) {
        let sweeping = &self.table.sweeping;
        sweeping.deadlines.due_by(round.least);
        sweeping.since.store(NO_DEADLINE, Relaxed);
        round.under_way = false;
        sweeping.busy.store(false, Relaxed);
        round.rest_until = self.now_ms() + (round.in_vain / PER_REST_MS).clamp(LEAST_REST_MS, MOST_REST_MS);
        if let Some(floor) = round.clears {
            round.swept_floor = floor;
            // Nothing below the floor is linked any more: what the clears counted and what was unlinked are the same, whatever writes came between.
            if let Ok(_clearing) = self.table.clearing.try_lock()
                && self.arena.version_floor() == floor
            {
                let unlinked = crate::server_half::sum_of(&self.arena, offset_of!(Counters, cleared));
                self.arena.section.word(offset_of!(Header, cleared) as u64).store(unlinked, Relaxed);
            }
        }
    }

    fn fetch_ahead(&self, index: u64, buckets: u64) {
        let arena = &self.arena;
        if index + 2 * AHEAD < buckets {
            prefetch::for_write(arena.section.hint(arena.bucket(index + 2 * AHEAD)));
        }
        if index + AHEAD < buckets {
            let line = arena.bucket(index + AHEAD);
            for slot in 0..SLOTS {
                let word = arena.section.word(chain::slot_at(line, slot)).load(Relaxed);
                if word != 0 {
                    prefetch::for_write(arena.section.hint(offset_of_slot(word)));
                }
            }
        }
        if index + 1 < buckets {
            let last = arena.section.word(chain::slot_at(arena.bucket(index + 1), SLOTS - 1)).load(Relaxed);
            if is_link(last)
                && let Some(line) = chain::line_of(arena, arena.heap_end, last)
            {
                for slot in 0..SLOTS {
                    let word = arena.section.word(chain::slot_at(line, slot)).load(Relaxed);
                    prefetch::for_write(arena.section.hint(offset_of_slot(word)));
                }
            }
        }
    }

    /// Unlinks a bucket's dead items; whether there were any.
    fn sweep_bucket(&mut self, index: u64) -> bool {
        let held = self.lock_bucket(index);
        let (arena, floor) = (&self.arena, self.arena.version_floor());
        let mut freed = [0u64; MOST];
        let (mut dead, mut expired, mut least) = (0, 0, NO_DEADLINE);
        chain::for_each_slot(arena, arena.heap_end, held.bucket, |slot, word| {
            let Some((item, header)) = chain::item_of(arena, arena.heap_end, word) else { return };
            if self.is_dead(&header, floor) && dead < MOST {
                // ORDER(slot): Release, one visible step per item for a successor.
                arena.section.word(slot).store(0, Release);
                freed[dead] = item;
                dead += 1;
                expired += u64::from(header.version >= floor);
            } else if header.expiry != 0 {
                least = least.min(header.expiry);
            }
        });
        if least != NO_DEADLINE {
            Deadlines::enter(group_word(arena, index / GROUP), least);
        }
        if dead == 0 {
            self.unlock_unchanged(held);
            return false;
        }
        let spare = self.close_up(held.bucket, |_| false);
        self.count(offset_of!(Counters, expired), expired);
        self.count(offset_of!(Counters, cleared), dead as u64 - expired);
        self.unlock(held);
        self.count(offset_of!(Counters, overflow_lines), (spare.lines().len() as u64).wrapping_neg());
        self.unlinked(dead as u64);
        for &offset in freed[..dead].iter().chain(spare.lines()) {
            self.release(offset, false);
        }
        true
    }
}
