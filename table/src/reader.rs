//! The read-only half for clients: lookups and copies that never wait, never write and never leave the section.
//!
//! D1: what was copied counts only after the bucket's version (lookups) or the item's (references) has been seen to hold. D2: every
//! offset is checked against the committed length before it is followed. D3: retries are bounded.
//!
//! Why a lookup needs no look at the item's version (S1 to S3 of `seqlock`): while the bucket's version holds, its slots named the item
//! throughout, so the item was not retired. Had its memory been reused all the same, its new owner would have taken it from
//! whoever unlinked it under an odd version, and stored into it behind the Release fence of `before_reuse`: a reader that copied one
//! such byte would find that odd version, or a later one, behind the Acquire fence of `read_holds`.
//! An answer "absent" also needs the bucket to be the key's still: growth may have moved the key between the two looks.
//! What is dead (its expiry has passed, its version is below the floor) is absent. The floor is read after the item: an item at or
//! above it then was alive at every moment before. The clock is read only when an item with an expiry is met.
//!
//! Progress: `copy_value` is wait-free; lookups give up after their retries with [`Busy`].
//! Who may touch what: a reader stores nothing but its private hints; it may be shared by threads.

use crate::arena::Arena;
use crate::chain;
use crate::clock::RegionClock;
use crate::hashing::Hasher;
use crate::header::{self, JoinError};
use crate::layout::{CHAIN_CAP, Header, LINE, Part, SLOTS, committed_word};
use crate::outcome::{Busy, Changed, ItemRef};
pub(crate) use crate::reference::{copy_item, copy_whole};
use crate::section::{LineWords, Section};
use crate::seen::{Answer, Seen};
use crate::seqlock;
use crate::server_half::{RegionState, TableStats, stats_of};
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Acquire, Relaxed};
use crate::target::{Slice, Target, Whole};
use crate::words::{BucketCount, ITEM_HEADER, MAX_VALUE, is_link, matches, offset_of_slot, tag_of};
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::NonNull;

/// Tries of a lookup before it answers busy.
const TRIES: u32 = 64;
/// Highest level of a bucket count that any file can hold.
const MAX_LEVEL: u32 = 40;
/// The bits of a tag in the upper half of a slot's word, and the chain bit, which must be clear.
const TAG_HALF: u32 = 0xffff_fff0;

/// A reader of a table, on a mapping that need not be writable.
pub struct Reader<'a> {
    pub(crate) arena: Arena,
    hasher: Hasher,
    clock: Clock,
    seed: u64,
    uuid: [u8; 16],
    /// Ends of the committed heap and of the committed buckets as last seen. Both only grow, so that an offset below is
    /// backed; one beyond makes the reader look again.
    heap_end: AtomicU64,
    /// A bucket count whose buckets were all seen committed; growth only adds to them.
    counted: AtomicU64,
    /// Tries that a writer made vain.
    retries: AtomicU64,
    mapping: PhantomData<&'a [u8]>,
}

/// What a reader takes for now.
#[derive(Clone, Copy)]
enum Clock {
    Region(RegionClock),
    Fixed(u64),
}

/// An item that a walk has found; it counts only if the bucket's version holds.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    /// Offset of the slot that names it.
    pub(crate) slot: u64,
    /// Its word.
    pub(crate) word: u64,
    pub(crate) item: u64,
    pub(crate) word0: u64,
    pub(crate) word1: u64,
}

impl Clone for Reader<'_> {
    fn clone(&self) -> Self {
        let hint = |word: &AtomicU64| AtomicU64::new(word.load(Relaxed));
        Reader {
            arena: self.arena.clone(),
            hasher: self.hasher,
            clock: self.clock,
            seed: self.seed,
            uuid: self.uuid,
            heap_end: hint(&self.heap_end),
            counted: hint(&self.counted),
            retries: AtomicU64::new(0),
            mapping: PhantomData,
        }
    }
}

impl Reader<'_> {
    /// Joins a table for reading.
    ///
    /// # Safety
    /// `base` must be 64-aligned and mapped readable for `len` bytes throughout the reader's lifetime.
    pub unsafe fn join(base: NonNull<u8>, len: u64) -> Result<Self, JoinError> {
        if !base.as_ptr().addr().is_multiple_of(64) {
            return Err(JoinError::Alignment { found: base.as_ptr().addr() });
        }
        // SAFETY: passed on from the caller.
        let section = unsafe { Section::new(base, len) };
        let identity = header::read(&section, len)?;
        // As many buckets as `header::read` saw committed, or fewer.
        let level = identity.geometry.level;
        let arena = identity.geometry.arena(section);
        let epoch = arena.section.word(offset_of!(Header, epoch) as u64).load(Relaxed);
        Ok(Reader {
            heap_end: AtomicU64::new(arena.heap_start),
            counted: AtomicU64::new(BucketCount::new(level, 0).0),
            arena,
            hasher: Hasher::new(identity.seed),
            clock: Clock::Region(RegionClock::new(epoch)),
            seed: identity.seed,
            uuid: identity.uuid,
            retries: AtomicU64::new(0),
            mapping: PhantomData,
        })
    }

    /// Fixes what this reader takes for now, in milliseconds since the region's epoch, instead of the region's clock.
    pub fn set_now(&mut self, ms: u64) {
        self.clock = Clock::Fixed(ms);
    }

    /// Looks a key up and copies the first bytes of its value into `out`, as many as fit: the answer tells the value's whole length. None
    /// if the key is absent. What `out` holds after another answer than an item means nothing.
    ///
    /// # Errors
    /// [`Busy`] when writers came between every time.
    #[inline(always)]
    pub fn get_to(&self, key: &[u8], hash: u64, out: &mut [u8]) -> Result<Option<Seen>, Busy> {
        self.look_up(key, hash, &mut Slice(out)).open()
    }

    /// Looks a key up and copies its value into `out`, replacing its contents; none if it is absent.
    ///
    /// # Errors
    /// [`Busy`] when writers came between every time.
    #[inline(always)]
    pub fn get_into(&self, key: &[u8], hash: u64, out: &mut Vec<u8>) -> Result<Option<Seen>, Busy> {
        let answer = self.look_up(key, hash, &mut Whole(out)).open();
        match answer {
            // SAFETY: the lookup reserved room for the whole value and filled it.
            Ok(Some(item)) => unsafe { out.set_len(item.value_len()) },
            _ => out.clear(),
        }
        answer
    }

    /// The one place where single lookups happen: straight to the first item whose tag matches, and whatever is not that simple goes the
    /// long way. Few instructions are worth more here than anywhere: a core looks ahead over so many, and the more lookups it sees at once
    /// the more of their misses it waits for together.
    ///
    /// The  answer travels in two registers: handed over in memory it would be written in parts and read as a whole, which makes a core wait
    /// for all that is under way, the next lookup's misses included.
    #[inline]
    fn look_up(&self, key: &[u8], hash: u64, target: &mut impl Target) -> Answer {
        let Some(bucket) = self.bucket(self.arena.bucket_count(), hash) else { return self.look_up_again(key, hash, target) };
        let line = self.line(bucket);
        // ORDER(version): as in `seqlock::read_begin`; an odd one fails below.
        let seen = line.0[0].load(Acquire);
        let candidates = self.candidates(bucket, tag_of(hash));
        if candidates != 0 && seen & 1 == 0 {
            let index = candidates.trailing_zeros() as usize & 7;
            if let Some(hit) = self.check(bucket + 8 * index as u64, line.0[index].load(Relaxed), key) {
                self.copy(&hit, key.len(), target);
                if seqlock::read_holds(&line.0[0], seen) {
                    return Answer::of(self.alive(hit));
                }
            }
        }
        self.look_up_again(key, hash, target)
    }

    /// The long way: any number of candidates, overflow lines, absence, writers in between.
    #[inline(never)]
    fn look_up_again(&self, key: &[u8], hash: u64, target: &mut impl Target) -> Answer {
        match self.attempt(key, hash, target).map_or_else(|| self.get_contended(key, hash, target), Ok) {
            Ok(hit) => Answer::of(hit),
            Err(Busy) => Answer(0, 1),
        }
    }

    #[cold]
    pub(crate) fn get_contended(&self, key: &[u8], hash: u64, target: &mut impl Target) -> Result<Option<Hit>, Busy> {
        let backoff = seqlock::Backoff::new();
        for _ in 1..TRIES {
            // Nobody else needs the count to be right to the last one.
            self.retries.store(self.retries.load(Relaxed) + 1, Relaxed);
            backoff.snooze();
            if let Some(answer) = self.attempt(key, hash, target) {
                return Ok(answer);
            }
        }
        Err(Busy)
    }

    /// One try; none if a writer came between.
    #[inline]
    pub(crate) fn attempt(&self, key: &[u8], hash: u64, target: &mut impl Target) -> Option<Option<Hit>> {
        let count = self.arena.bucket_count();
        let bucket = self.bucket(count, hash)?;
        let version = &self.line(bucket).0[0];
        let seen = seqlock::read_begin(version)?;
        let Some(hit) = self.find(bucket, tag_of(hash), key) else {
            return (seqlock::read_holds(version, seen) && self.is_still(count, hash)).then_some(None);
        };
        self.copy(&hit, key.len(), target);
        seqlock::read_holds(version, seen).then(|| self.alive(hit))
    }

    /// Whether a slot stands in a bucket's own line.
    #[inline]
    pub(crate) fn in_bucket_array(&self, slot: u64) -> bool {
        slot < self.arena.heap_start
    }

    /// Offset of a hash's bucket; none where the count leads beyond what is committed.
    #[inline(always)]
    pub(crate) fn bucket(&self, count: BucketCount, hash: u64) -> Option<u64> {
        if count.0 != self.counted.load(Relaxed) && !self.count_anew(count) {
            return None;
        }
        Some(self.arena.bucket(count.index(hash)))
    }

    /// Whether all buckets of this count are committed; if so it is remembered.
    #[cold]
    fn count_anew(&self, count: BucketCount) -> bool {
        // ORDER(committed): Acquire pairs with the Release in `Store`: what lies below is backed.
        let committed = self.arena.section.word(committed_word(Part::Buckets)).load(Acquire) / LINE;
        let good = count.level() <= MAX_LEVEL && count.buckets() <= committed.min(self.arena.max_buckets);
        if good {
            self.counted.store(count.0, Relaxed);
        }
        good
    }

    /// The line of a bucket that [`Reader::bucket`] has found.
    #[inline(always)]
    pub(crate) fn line(&self, bucket: u64) -> &LineWords {
        debug_assert!(bucket >= self.arena.buckets && bucket < self.arena.heap_start);
        // SAFETY: a bucket below the committed ones is in its part, which `header::read` saw inside the mapping; lines are aligned.
        unsafe { self.arena.section.line_within(bucket) }
    }

    /// The slots of a bucket's line whose tag matches, as bits of their places in the line: no branch depends on which it is. The word of
    /// each is read again by whoever goes on with it.
    #[inline(always)]
    pub(crate) fn candidates(&self, bucket: u64, tag: u64) -> u32 {
        let line: *const LineWords = self.line(bucket);
        // SAFETY: a line within the mapping, aligned to 64 bytes as the base is.
        let found = unsafe { racing::high_halves_equal(line.cast(), (tag >> 32) as u32, TAG_HALF) };
        // The first word is the version.
        found & !1
    }

    /// Whether the key's bucket, looked for before, is its bucket still.
    #[inline]
    pub(crate) fn is_still(&self, count: BucketCount, hash: u64) -> bool {
        let now = self.arena.bucket_count();
        now == count || (now.level() <= MAX_LEVEL && now.index(hash) == count.index(hash))
    }

    /// Walks a bucket's chain for a key.
    #[inline]
    fn find(&self, bucket: u64, tag: u64, key: &[u8]) -> Option<Hit> {
        let line = self.line(bucket);
        let mut candidates = self.candidates(bucket, tag);
        while candidates != 0 {
            let index = candidates.trailing_zeros() as usize & 7;
            if let Some(hit) = self.check(bucket + 8 * index as u64, line.0[index].load(Relaxed), key) {
                return Some(hit);
            }
            candidates &= candidates - 1;
        }
        let last = line.0[SLOTS as usize].load(Relaxed);
        if is_link(last) { self.find_in_chain(last, tag, key) } else { None }
    }

    /// The walk goes on in the overflow lines.
    #[cold]
    fn find_in_chain(&self, link: u64, tag: u64, key: &[u8]) -> Option<Hit> {
        let mut link = link;
        for _ in 0..CHAIN_CAP {
            let at = chain::line_of(&self.arena, self.committed_heap(), link)?;
            let line = self.arena.section.line(at);
            for index in 1..=SLOTS as usize {
                let word = line.0[index].load(Relaxed);
                if matches(word, tag)
                    && let Some(hit) = self.check(at + 8 * index as u64, word, key)
                {
                    return Some(hit);
                }
            }
            link = line.0[SLOTS as usize].load(Relaxed);
            if !is_link(link) {
                return None;
            }
        }
        None
    }

    /// Whether a slot's word names an item of this key, all of it inside the committed heap.
    #[inline(always)]
    pub(crate) fn check(&self, slot: u64, word: u64, key: &[u8]) -> Option<Hit> {
        let item = offset_of_slot(word);
        if item < self.arena.heap_start || !self.reaches(item + ITEM_HEADER + key.len() as u64) {
            return None;
        }
        // SAFETY: header and key lie between the heap's start and its committed end, which `header::read` saw inside the mapping.
        let ([word0, word1], theirs) =
            unsafe { (self.arena.section.pair_within(item), self.arena.section.within(item + ITEM_HEADER)) };
        let hit = Hit { slot, word, item, word0: word0.load(Relaxed), word1: word1.load(Relaxed) };
        // SAFETY: as above.
        let same = hit.key_len() == key.len() && unsafe { racing::equal(theirs, key) };
        (same && self.reaches(item + ITEM_HEADER + key.len() as u64 + u64::from(hit.value_len()))).then_some(hit)
    }

    /// Copies the value of an item that `check` has let pass.
    #[inline(always)]
    pub(crate) fn copy(&self, hit: &Hit, key_len: usize, target: &mut impl Target) {
        let (to, len) = target.place(hit.value_len() as usize);
        debug_assert!(len <= hit.value_len() as usize);
        // SAFETY: `check` saw the whole item inside the committed heap; the target keeps its promise.
        unsafe { racing::copy_few(self.arena.section.within(hit.item + ITEM_HEADER + key_len as u64), to, len) };
    }

    /// The item, unless it is dead.
    #[inline(always)]
    pub(crate) fn alive(&self, hit: Hit) -> Option<Hit> {
        // ORDER(version_floor): after `read_holds` and its fence: see the module's header.
        let dead = hit.word0 >> 16 < self.arena.version_floor() || (hit.word1 >> 24 != 0 && self.has_expired(hit.word1 >> 24));
        (!dead).then_some(hit)
    }

    #[cold]
    fn has_expired(&self, expiry: u64) -> bool {
        expiry <= self.now_ms()
    }

    /// What this reader takes for now, in milliseconds since the region's epoch.
    pub fn now_ms(&self) -> u64 {
        match self.clock {
            Clock::Region(clock) => clock.now_ms(),
            Clock::Fixed(ms) => ms,
        }
    }

    /// Whether the committed heap reaches so far.
    #[inline(always)]
    pub(crate) fn reaches(&self, end: u64) -> bool {
        end <= self.heap_end.load(Relaxed) || self.reaches_now(end)
    }

    #[cold]
    fn reaches_now(&self, end: u64) -> bool {
        end <= self.committed_heap()
    }

    /// End of the committed heap as it is now.
    pub(crate) fn committed_heap(&self) -> u64 {
        // ORDER(committed): Acquire pairs with the Release in `Store`: what lies below is backed.
        let committed = self.arena.section.word(committed_word(Part::Heap)).load(Acquire);
        let end = self.arena.heap_start + committed.min(self.arena.heap_end - self.arena.heap_start);
        self.heap_end.store(end, Relaxed);
        end
    }

    /// Replaces the contents of `out` with the value that the server referred to.
    pub fn copy_value(&self, item: &ItemRef, out: &mut Vec<u8>) -> Result<(), Changed> {
        copy_whole(&self.arena, self.committed_heap(), item, out)
    }

    /// Copies `len` bytes of the value from `from` on; what was copied counts only if the answer is `Ok`.
    ///
    /// # Safety
    /// `out` must be writable for `len` bytes and private to the caller.
    pub unsafe fn copy_value_part(&self, item: &ItemRef, from: u32, len: u32, out: *mut u8) -> Result<(), Changed> {
        // SAFETY: passed on from the caller.
        unsafe { copy_item(&self.arena, self.committed_heap(), item, from, len, out) }
    }

    /// Hash of a key.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    /// Seed of the table's hash.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Id of the region.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Tries that writers made vain since the reader joined.
    #[inline]
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// The region's state.
    #[inline]
    pub fn state(&self) -> RegionState {
        // ORDER(state): Acquire pairs with the Release in `Table::set_state`.
        RegionState::from_word(self.arena.section.word(offset_of!(Header, state) as u64).load(Acquire))
    }

    /// Counters as they stand in the section.
    pub fn stats(&self) -> TableStats {
        stats_of(&self.arena)
    }
}

impl Hit {
    #[inline(always)]
    pub(crate) fn key_len(&self) -> usize {
        (self.word0 >> 5 & 0x7ff) as usize
    }

    #[inline(always)]
    pub(crate) fn value_len(&self) -> u32 {
        (self.word1 >> 3) as u32 & MAX_VALUE
    }

    #[inline(always)]
    pub(crate) fn seen(&self) -> Seen {
        Seen { word0: self.word0, word1: self.word1 }
    }
}
