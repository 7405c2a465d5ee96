//! Mutations that depend on the old value: `incr` and `append`. They make a new item under the bucket's lock and swap
//! it in like any other, so that readers and recovery see nothing new.

use crate::cache::Block;
use crate::chain::{self, Found};
use crate::classes::class_for;
use crate::clock::Expiry;
use crate::intent::{Effect, EffectKind, Ticket};
use crate::outcome::Outcome;
use crate::spans::unit_entry;
use crate::words::{ITEM_HEADER, ItemHeader, MAX_KEY, slot_word, tag_of};
use crate::writer::{Fresh, Held, ROOM_TRIES, Writer};
use std::io::Write;

/// Longest decimal text of an i64.
const DIGITS: usize = 20;

/// An operation that found no room and holds nothing any more, with what it would have published by.
struct NoRoom<P> {
    refusal: Outcome,
    /// Bytes of the item that there was no memory for; none if its bucket's chain had no room.
    len: Option<u64>,
    publish: P,
}

impl Writer<'_> {
    /// Adds to the number that is the key's value, as decimal text of an i64; a missing key counts as 0 and is created with
    /// `expiry`, while a present one keeps its own. The type stays.
    pub fn incr<R>(
        &mut self,
        key: &[u8],
        hash: u64,
        by: i64,
        expiry: Expiry,
        ticket: &Ticket,
        publish: impl FnOnce(&Outcome) -> R,
    ) -> R {
        if key.is_empty() || key.len() > MAX_KEY {
            return publish(&Outcome::TooLong);
        }
        self.with_room(hash, publish, |writer, publish| writer.try_incr(key, hash, by, expiry, ticket, publish))
    }

    fn try_incr<R, P: FnOnce(&Outcome) -> R>(
        &mut self,
        key: &[u8],
        hash: u64,
        by: i64,
        expiry: Expiry,
        ticket: &Ticket,
        publish: P,
    ) -> Result<R, NoRoom<P>> {
        let held = self.lock(hash);
        let Some(Fresh { version, floor }) = self.take_version() else { return Ok(self.refuse(held, Outcome::Full, publish)) };
        let (probe, live) = self.probe_living(held, hash, key, floor);
        let sum = match &live {
            None => Ok(by),
            Some(found) => match self.number(found) {
                None => Err(Outcome::NotANumber),
                Some(number) => number.checked_add(by).ok_or(Outcome::Overflow),
            },
        };
        let value = match sum {
            Ok(value) => value,
            Err(refusal) => return Ok(self.refuse(held, refusal, publish)),
        };
        let mut text = [0u8; DIGITS];
        let mut rest = &mut text[..];
        write!(rest, "{value}").expect("twenty bytes hold any i64");
        let unused = rest.len();
        let len = DIGITS - unused;
        let (block, header, held_back) = match self.new_item(version, key, live.as_ref(), len as u32, expiry) {
            Ok(written) => written,
            Err(len) => return Err(self.no_room(held, len, publish)),
        };
        self.arena.section.write(block.offset + ITEM_HEADER + key.len() as u64, &text[..len]);
        let effect = Effect { kind: EffectKind::Number, version: header.version, value: value as u64 };
        self.finish(held, &probe, (block, header, held_back), hash, ticket, effect, publish)
    }

    /// Appends to the key's value; a missing key counts as an empty value. Expiry and type stay.
    pub fn append<R>(&mut self, key: &[u8], hash: u64, bytes: &[u8], ticket: &Ticket, publish: impl FnOnce(&Outcome) -> R) -> R {
        if key.is_empty() || key.len() > MAX_KEY {
            return publish(&Outcome::TooLong);
        }
        self.with_room(hash, publish, |writer, publish| writer.try_append(key, hash, bytes, ticket, publish))
    }

    fn try_append<R, P: FnOnce(&Outcome) -> R>(
        &mut self,
        key: &[u8],
        hash: u64,
        bytes: &[u8],
        ticket: &Ticket,
        publish: P,
    ) -> Result<R, NoRoom<P>> {
        let held = self.lock(hash);
        let Some(Fresh { version, floor }) = self.take_version() else { return Ok(self.refuse(held, Outcome::Full, publish)) };
        let (probe, live) = self.probe_living(held, hash, key, floor);
        let old_len = live.map_or(0, |found| u64::from(found.header.value_len));
        let new_len = old_len + bytes.len() as u64;
        if new_len > u64::from(self.table.geometry.max_value) {
            return Ok(self.refuse(held, Outcome::TooLong, publish));
        }
        let (block, header, held_back) = match self.new_item(version, key, live.as_ref(), new_len as u32, Expiry::Never) {
            Ok(written) => written,
            Err(len) => return Err(self.no_room(held, len, publish)),
        };
        let value_at = block.offset + ITEM_HEADER + key.len() as u64;
        if let Some(found) = &live {
            self.arena.section.copy_inside(found.item + ITEM_HEADER + key.len() as u64, value_at, old_len);
        }
        self.arena.section.write(value_at + old_len, bytes);
        let effect = Effect { kind: EffectKind::Length, version: header.version, value: new_len };
        self.finish(held, &probe, (block, header, held_back), hash, ticket, effect, publish)
    }

    pub(crate) fn refuse<R>(&mut self, held: Held, refusal: Outcome, publish: impl FnOnce(&Outcome) -> R) -> R {
        self.unlock_unchanged(held);
        publish(&refusal)
    }

    /// Runs an operation on the key of `hash`, and again after eviction made room for it.
    fn with_room<R, P: FnOnce(&Outcome) -> R>(
        &mut self,
        hash: u64,
        mut publish: P,
        mut operation: impl FnMut(&mut Self, P) -> Result<R, NoRoom<P>>,
    ) -> R {
        let mut tries = 0;
        loop {
            tries += 1;
            let NoRoom { refusal, len, publish: back } = match operation(self, publish) {
                Ok(answer) => return answer,
                Err(no_room) => no_room,
            };
            let made = match len {
                _ if tries == ROOM_TRIES => false,
                Some(len) => self.evict_for(len, hash).is_some_and(|block| self.keep_near(block)),
                None => self.made_way(&refusal, hash),
            };
            if !made {
                if len.is_some() {
                    self.count_refusal(&refusal);
                }
                return back(&refusal);
            }
            publish = back;
        }
    }

    /// Keeps a block that was freed for an operation in this worker's cache.
    fn keep_near(&mut self, block: Block) -> bool {
        self.cache.put(&self.table.store, &self.arena, block.offset);
        true
    }

    /// There is no memory for an item of `len` bytes; the bucket is unlocked.
    #[cold]
    fn no_room<P>(&mut self, held: Held, len: u64, publish: P) -> NoRoom<P> {
        self.unlock_unchanged(held);
        NoRoom { refusal: Outcome::Full, len: Some(len), publish }
    }

    /// Memory for the successor of `live` with header and key written; the value is the caller's. If there is none, the bytes wanted.
    fn new_item(
        &mut self,
        version: u64,
        key: &[u8],
        live: Option<&Found>,
        value_len: u32,
        expiry: Expiry,
    ) -> Result<(Block, ItemHeader, bool), u64> {
        let header = ItemHeader {
            version,
            key_len: key.len() as u16,
            value_len,
            type_and_flags: live.map_or(0, |found| found.header.type_and_flags),
            expiry: live.map_or(expiry.word(0), |found| found.header.expiry),
        };
        let len = header.len();
        let mut held_back = false;
        let mut block = self.allocate(class_for(len), len);
        if block.is_none()
            && let Some(entry) = live.and_then(|found| unit_entry(&self.arena, found.item))
        {
            block = self.take_like(entry.class, entry.units, len);
            held_back = true;
        }
        let block = block.ok_or(len)?;
        self.start_item(&block, &header);
        self.arena.section.write(block.offset + ITEM_HEADER, key);
        self.arena.section.word(block.offset).store(header.word0(), crate::sync::Ordering::Relaxed);
        Ok((block, header, held_back))
    }

    #[expect(clippy::too_many_arguments, reason = "passes on what `apply` needs")]
    fn finish<R, P: FnOnce(&Outcome) -> R>(
        &mut self,
        held: Held,
        probe: &chain::Probe,
        (block, header, held_back): (Block, ItemHeader, bool),
        hash: u64,
        ticket: &Ticket,
        effect: Effect,
        publish: P,
    ) -> Result<R, NoRoom<P>> {
        match self.place(probe, slot_word(tag_of(hash), block.offset)) {
            Ok(store) => Ok(self.apply(held, probe, store, &header, ticket, effect, held_back, publish)),
            Err(refusal) => {
                self.unlock_unchanged(held);
                self.release(block.offset, held_back);
                Err(NoRoom { refusal, len: None, publish })
            }
        }
    }

    /// The number that an item's value is. The bucket is locked: the item cannot change.
    fn number(&self, found: &Found) -> Option<i64> {
        let len = found.header.value_len as usize;
        if len == 0 || len > DIGITS {
            return None;
        }
        let mut text = [0u8; DIGITS];
        let at = found.item + ITEM_HEADER + u64::from(found.header.key_len);
        // SAFETY: text has room for len bytes.
        unsafe { self.arena.section.read(at, text.as_mut_ptr(), len) };
        if text[0] == b'+' {
            return None;
        }
        std::str::from_utf8(&text[..len]).ok()?.parse().ok()
    }
}
