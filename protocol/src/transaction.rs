//! The mini-transaction: versions to compare, keys to read and items to write, all of one moment.
//!
//! After Aguilera, Merchant, Shah, Veitch and Karamanolis, "Sinfonia: a new paradigm for building scalable distributed systems" (2007).
//!
//! ```text
//! request   a step per key, to the end of the body, every key once:
//!           u16 key length, u8 flags, u8 zero, u32 value length, [u64 version if COMPARE], [u64 ttl in ms if TTL], key, value
//! reply     Committed: a part per step that asks for one, in the order of the steps
//!           READ: u64 version (0: absent), u32 length, u32 zero, value, zeros to a multiple of 8
//!           INSERT: u64 version of the new item; DELETE: u64 version of the item removed (0: absent)
//! ```
//!
//! A step compares first, then reads, then writes: a read answers what was there before the transaction.

use std::time::Duration;

use crate::{MAX_VALUE, Malformed, Ttl, malformed, take, ttl_ms};

/// Most steps, and so most keys, of a transaction.
pub const MAX_STEPS: usize = 64;
/// Longest body of a transaction in bytes.
pub const MAX_TRANSACTION: usize = 32 << 10;

const COMPARE: u8 = 1;
const READ: u8 = 2;
const INSERT: u8 = 4;
const DELETE: u8 = 8;
const TTL: u8 = 16;
const KEEP_TTL: u8 = 32;
/// Bytes of a step that are always there.
const FIXED: usize = 8;
/// Bytes of a read's answer before the value.
const READ_FIXED: usize = 16;

/// What a step leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// A new item.
    Insert {
        /// Its value.
        value: &'a [u8],
        /// How long it lives.
        ttl: Ttl,
    },
    /// Nothing.
    Delete,
}

/// What a transaction does with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The version that must be there, 0 for none.
    pub compare: Option<u64>,
    /// Whether the value is to be answered.
    pub read: bool,
    /// What is to be written.
    pub write: Option<Write<'a>>,
}

/// Bytes that a step takes in the body.
pub fn encoded_step_len(step: &Step<'_>) -> usize {
    let (value_len, ttl) = match step.write {
        Some(Write::Insert { value, ttl }) => (value.len(), matches!(ttl, Ttl::For(_))),
        _ => (0, false),
    };
    FIXED + 8 * (usize::from(step.compare.is_some()) + usize::from(ttl)) + step.key.len() + value_len
}

/// Appends a step to a body. The key is at most [`MAX_KEY`](crate::MAX_KEY) long, the value at most [`MAX_TRANSACTION`].
pub fn encode_step(step: &Step<'_>, body: &mut Vec<u8>) {
    let mut flags = if step.compare.is_some() { COMPARE } else { 0 } | if step.read { READ } else { 0 };
    let (mut rest, mut ttl) = (&[][..], None);
    match step.write {
        Some(Write::Insert { value, ttl: lives }) => {
            flags |= INSERT;
            rest = value;
            match lives {
                Ttl::None => {}
                Ttl::For(lives) => {
                    flags |= TTL;
                    ttl = Some(ttl_ms(lives));
                }
                Ttl::Keep => flags |= KEEP_TTL,
            }
        }
        Some(Write::Delete) => flags |= DELETE,
        None => {}
    }
    body.extend_from_slice(&(step.key.len() as u16).to_le_bytes());
    body.extend_from_slice(&[flags, 0]);
    body.extend_from_slice(&(rest.len() as u32).to_le_bytes());
    for word in step.compare.into_iter().chain(ttl) {
        body.extend_from_slice(&word.to_le_bytes());
    }
    body.extend_from_slice(step.key);
    body.extend_from_slice(rest);
}

/// Walks the steps of a body; an `Err` ends the walk. That keys differ and are not too many is the reader's to check.
#[derive(Clone, Debug)]
pub struct Steps<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Steps<'a> {
    /// A walk over a whole body.
    pub fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    fn decode(&mut self) -> Result<Step<'a>, Malformed> {
        let (body, at) = (self.body, &mut self.at);
        let key_len = usize::from(u16::from_le_bytes(take(body, at, "step")?));
        let [flags, zero]: [u8; 2] = take(body, at, "step")?;
        let value_len = u32::from_le_bytes(take(body, at, "step")?) as usize;
        let known = COMPARE | READ | INSERT | DELETE | TTL | KEEP_TTL;
        let writes = flags & (INSERT | DELETE);
        let inserts = flags & INSERT != 0;
        let lives = flags & (TTL | KEEP_TTL);
        let sensible = flags & !known == 0
            && zero == 0
            && flags & (COMPARE | READ | INSERT | DELETE) != 0
            && writes != INSERT | DELETE
            && lives != TTL | KEEP_TTL
            && (inserts || (lives == 0 && value_len == 0));
        if !sensible || value_len > MAX_VALUE {
            return malformed("step");
        }
        let compare = if flags & COMPARE != 0 { Some(u64::from_le_bytes(take(body, at, "step")?)) } else { None };
        let ttl = match lives {
            TTL => Ttl::For(Duration::from_millis(u64::from_le_bytes(take(body, at, "step")?))),
            KEEP_TTL => Ttl::Keep,
            _ => Ttl::None,
        };
        let key = part(body, at, key_len, "step")?;
        let value = part(body, at, value_len, "step")?;
        let write = match writes {
            INSERT => Some(Write::Insert { value, ttl }),
            DELETE => Some(Write::Delete),
            _ => None,
        };
        Ok(Step { key, compare, read: flags & READ != 0, write })
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<Step<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.body.len() {
            return None;
        }
        let step = self.decode();
        if step.is_err() {
            self.at = self.body.len();
        }
        Some(step)
    }
}

fn part<'a>(bytes: &'a [u8], at: &mut usize, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
    let end = at.checked_add(len).ok_or(Malformed { what })?;
    let part = bytes.get(*at..end).ok_or(Malformed { what })?;
    *at = end;
    Ok(part)
}

/// Bytes that the answer to a read of so long a value takes.
pub fn read_answer_len(value_len: usize) -> usize {
    (READ_FIXED + value_len).next_multiple_of(8)
}

/// Bytes that the answer to a write takes.
pub const WRITE_ANSWER: usize = 8;

/// Appends the answer to a read; `version` 0 for an absent key. `append` appends the value, of the length said.
pub fn encode_read_answer(version: u64, value_len: u32, out: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&value_len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    append(out);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Appends the answer to a write.
pub fn encode_write_answer(version: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&version.to_le_bytes());
}

/// Takes the answers of a Committed reply from its bytes, in the order in which the steps asked for them.
#[derive(Clone, Debug)]
pub struct Answers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Answers<'a> {
    /// The answers in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The answer to a read: version and value, none for an absent key.
    ///
    /// # Errors
    /// [`Malformed`] when no such answer is there.
    pub fn read(&mut self) -> Result<Option<(u64, &'a [u8])>, Malformed> {
        let (bytes, at) = (self.bytes, &mut self.at);
        let version = u64::from_le_bytes(take(bytes, at, "answer")?);
        let len = u32::from_le_bytes(take(bytes, at, "answer")?) as usize;
        let _: [u8; 4] = take(bytes, at, "answer")?;
        let value = part(bytes, at, len, "answer")?;
        part(bytes, at, at.next_multiple_of(8) - *at, "answer")?;
        Ok((version != 0).then_some((version, value)))
    }

    /// The answer to a write: the version.
    ///
    /// # Errors
    /// [`Malformed`] when no such answer is there.
    pub fn written(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(take(self.bytes, &mut self.at, "answer")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Key, comparison, read or not, kind of write, value, lifetime.
    type Parts = (Vec<u8>, Option<u64>, bool, u8, Vec<u8>, u64);

    fn steps() -> impl Strategy<Value = Vec<Parts>> {
        let bytes = |most: usize| proptest::collection::vec(any::<u8>(), 0..most);
        proptest::collection::vec((bytes(40), any::<Option<u64>>(), any::<bool>(), 0..5u8, bytes(300), any::<u64>()), 0..20)
    }

    proptest! {
        #[test]
        fn steps_survive_the_way(steps in steps()) {
            let steps: Vec<Step<'_>> = steps.iter().map(|(key, compare, read, kind, value, ms)| {
                let ttl = [Ttl::None, Ttl::For(Duration::from_millis((*ms).min(crate::MAX_TTL_MS))), Ttl::Keep][usize::from(*kind).min(2)];
                let write = match kind {
                    0..=2 => Some(Write::Insert { value, ttl }),
                    3 => Some(Write::Delete),
                    _ => None,
                };
                Step { key, compare: *compare, read: *read || (write.is_none() && compare.is_none()), write }
            }).collect();
            let mut body = Vec::new();
            for step in &steps {
                let before = body.len();
                encode_step(step, &mut body);
                prop_assert_eq!(body.len() - before, encoded_step_len(step));
            }
            let decoded: Result<Vec<_>, _> = Steps::new(&body).collect();
            prop_assert_eq!(decoded.expect("what was encoded decodes"), steps.clone());
            if let Some(last) = steps.last() && !body.is_empty() {
                // A body that was cut is refused in the step that it was cut in.
                let cut = body.len() - 1 - (last.key.len() / 2);
                prop_assert!(Steps::new(&body[..cut]).any(|step| step.is_err()) || encoded_step_len(last) <= body.len() - cut);
            }
        }

        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let walked = Steps::new(&bytes).count();
            prop_assert!(walked <= bytes.len() / FIXED + 1);
            let mut answers = Answers::new(&bytes);
            while answers.read().is_ok() {}
            prop_assert!(answers.at <= bytes.len());
        }
    }

    #[test]
    fn steps_that_contradict_themselves_are_malformed() {
        let mut good = Vec::new();
        encode_step(&Step { key: b"k", compare: None, read: true, write: None }, &mut good);
        assert!(Steps::new(&good).all(|step| step.is_ok()));
        for (what, at, byte) in [
            ("no purpose", 2, 0),
            ("unknown flag", 2, READ | 64),
            ("both writes", 2, INSERT | DELETE),
            ("both lifetimes", 2, INSERT | TTL | KEEP_TTL),
            ("a lifetime of nothing", 2, READ | KEEP_TTL),
            ("not zero", 3, 1),
            ("a value of nothing", 4, 1),
            ("a key beyond the body", 0, 2),
        ] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let steps: Vec<_> = Steps::new(&bytes).collect();
            assert!(matches!(steps[..], [Err(Malformed { .. })]), "{what}: {steps:?}");
        }
    }

    #[test]
    fn answers_come_back_in_their_order() {
        let mut bytes = Vec::new();
        encode_read_answer(7, 5, &mut bytes, |out| out.extend_from_slice(b"seven"));
        encode_write_answer(8, &mut bytes);
        encode_read_answer(0, 0, &mut bytes, |_| {});
        assert_eq!(bytes.len(), read_answer_len(5) + WRITE_ANSWER + read_answer_len(0));
        let mut answers = Answers::new(&bytes);
        assert_eq!(answers.read(), Ok(Some((7, &b"seven"[..]))));
        assert_eq!((answers.written(), answers.read()), (Ok(8), Ok(None)));
        assert!(answers.written().is_err());
    }
}
