//! A plain map that does what the table should do, and a checker of replies against it.
//!
//! What a request must answer is decided when it is submitted: requests of one client take effect in the order sent, and nobody
//! else touches its keys.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use shmtable::{Client, Completion, Condition, Error, InsertOptions, Operation, Outcome, Remaining, Submit, Ttl};

use crate::requests::{LONG, Level, Request, When};

/// Longest value that the server of these tests takes.
const MAX_VALUE: usize = 1 << 20;

#[derive(Debug)]
enum Answer {
    /// `over`: and gone at once.
    Stored {
        replaced: bool,
        over: bool,
    },
    NotMet,
    Value(Vec<u8>),
    Missing,
    Deleted,
    Number {
        sum: i64,
        over: bool,
    },
    NotANumber,
    Overflow,
    Length(usize),
    TooLong,
    Bucket(Option<Vec<u8>>),
    ExpirySet {
        over: bool,
    },
    /// Whether it expires.
    Left(bool),
}

struct Expected {
    key: Vec<u8>,
    answer: Answer,
    /// How often the key had been written when this was submitted.
    writes: u64,
}

/// The map and the replies that are still to come.
#[derive(Default)]
pub(crate) struct Mirror {
    pub(crate) items: HashMap<Vec<u8>, Vec<u8>>,
    /// Those of them that expire.
    expiring: HashSet<Vec<u8>>,
    /// Items that were over at once: as long as they are not swept up, a clear may count them.
    over: u64,
    versions: HashMap<Vec<u8>, u64>,
    writes: HashMap<Vec<u8>, u64>,
    queue: VecDeque<Expected>,
    /// The client has no view of the table.
    pub(crate) unmapped: bool,
    /// Replies checked.
    pub(crate) checked: u64,
}

impl Mirror {
    /// Sends a request as `level` says and checks what has been answered by then.
    pub(crate) fn send(&mut self, client: &mut Client, level: Level, key: &[u8], request: &Request) {
        if matches!(request.when(), When::Current) || matches!(level, Level::Sync) {
            self.settle(client);
        }
        let operation = request.operation(key, self.condition(key, request.when()));
        let long = match request {
            Request::Insert(value, _) | Request::InsertFor(value, ..) | Request::Append(value) => {
                value.len() > Client::MAX_POLLED_VALUE
            }
            _ => false,
        };
        match level {
            Level::Sync => self.call(client, &operation),
            Level::Poll if long => {
                self.settle(client);
                self.call(client, &operation);
            }
            Level::Poll => {
                self.expect(&operation);
                loop {
                    match client.try_submit(&operation) {
                        Ok(_) => break,
                        Err(Submit::WouldBlock) => client.wait().expect("a reply"),
                        Err(Submit::Refused(error)) => panic!("refused: {error}"),
                    }
                    client.poll(&mut |completion| self.check(&completion)).expect("replies");
                }
                client.poll(&mut |completion| self.check(&completion)).expect("replies");
            }
            Level::Pipeline(_) => unreachable!("pipelines are run as a whole"),
        }
    }

    /// Sends a series through a pipeline and collects all replies.
    pub(crate) fn run(&mut self, client: &mut Client, window: usize, series: &[(Vec<u8>, Request)]) {
        let mut pipeline = client.pipeline(window);
        for (key, request) in series {
            if matches!(request.when(), When::Current) {
                pipeline.finish(&mut |completion| self.check(&completion)).expect("replies");
            }
            let operation = request.operation(key, self.condition(key, request.when()));
            self.expect(&operation);
            pipeline.submit(&operation, &mut |completion| self.check(&completion)).expect("submitted");
            assert!(pipeline.in_flight() <= window, "{} in flight", pipeline.in_flight());
        }
        pipeline.finish(&mut |completion| self.check(&completion)).expect("replies");
        assert!(self.queue.is_empty());
    }

    /// Collects everything that is under way.
    pub(crate) fn settle(&mut self, client: &mut Client) {
        while client.in_flight() > 0 {
            client.wait().expect("a reply");
            client.poll(&mut |completion| self.check(&completion)).expect("replies");
        }
        assert!(self.queue.is_empty(), "{} replies never came", self.queue.len());
    }

    fn condition(&self, key: &[u8], when: When) -> Condition {
        match when {
            When::Always => Condition::Always,
            When::Absent => Condition::IfAbsent,
            When::Present => Condition::IfPresent,
            When::Current => self.versions.get(key).map_or(Condition::IfPresent, |version| Condition::IfVersion(*version)),
            When::Stale => Condition::IfVersion(u64::MAX >> 8),
        }
    }

    /// Applies a request to the map and remembers what it must answer.
    fn expect(&mut self, operation: &Operation<'_>) {
        let (key, answer) = match *operation {
            Operation::Ping => unreachable!("no request of these tests"),
            Operation::Read { key } => (key, self.items.get(key).map_or(Answer::Missing, |value| Answer::Value(value.clone()))),
            Operation::Bucket { key } => (key, Answer::Bucket(self.items.get(key).cloned())),
            Operation::Insert { key, value, condition, ttl } => (key, self.insert(key, value, condition, ttl)),
            Operation::Delete { key, condition } => {
                let answer = if !self.items.contains_key(key) {
                    Answer::Missing
                } else if self.holds(key, condition) {
                    self.items.remove(key);
                    self.expiring.remove(key);
                    Answer::Deleted
                } else {
                    Answer::NotMet
                };
                (key, answer)
            }
            Operation::Incr { key, by, ttl } => {
                let created = !self.items.contains_key(key);
                let number = match self.items.get(key) {
                    None => Some(0),
                    Some(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok()),
                };
                let answer = match number.map(|number| number.checked_add(by)) {
                    None => Answer::NotANumber,
                    Some(None) => Answer::Overflow,
                    Some(Some(sum)) => {
                        self.items.insert(key.to_vec(), sum.to_string().into_bytes());
                        Answer::Number { sum, over: created && self.live(key, ttl) }
                    }
                };
                (key, answer)
            }
            Operation::Append { key, bytes } => {
                let len = self.items.get(key).map_or(0, Vec::len) + bytes.len();
                let answer = if len > MAX_VALUE {
                    Answer::TooLong
                } else {
                    self.items.entry(key.to_vec()).or_default().extend_from_slice(bytes);
                    Answer::Length(len)
                };
                (key, answer)
            }
            Operation::Ttl { key } => match self.items.contains_key(key) {
                true => (key, Answer::Left(self.expiring.contains(key))),
                false => (key, Answer::Missing),
            },
            Operation::Expire { key, .. } | Operation::Persist { key } if !self.items.contains_key(key) => (key, Answer::Missing),
            Operation::Expire { key, ttl } => (key, Answer::ExpirySet { over: self.live(key, Some(ttl)) }),
            Operation::Persist { key } => (key, Answer::ExpirySet { over: self.live(key, None) }),
        };
        if operation.is_write() {
            *self.writes.entry(key.to_vec()).or_default() += 1;
        }
        let writes = self.writes.get(key).copied().unwrap_or(0);
        self.queue.push_back(Expected { key: key.to_vec(), answer, writes });
    }

    fn holds(&self, key: &[u8], condition: Condition) -> bool {
        match condition {
            Condition::Always => true,
            Condition::IfAbsent => !self.items.contains_key(key),
            Condition::IfPresent => self.items.contains_key(key),
            Condition::IfVersion(version) => self.items.contains_key(key) && self.versions.get(key) == Some(&version),
        }
    }

    fn insert(&mut self, key: &[u8], value: &[u8], condition: Condition, ttl: Ttl) -> Answer {
        if !self.holds(key, condition) {
            return Answer::NotMet;
        }
        let replaced = self.items.insert(key.to_vec(), value.to_vec()).is_some();
        let over = match ttl {
            Ttl::None => self.live(key, None),
            Ttl::Keep => false,
            Ttl::For(ttl) => self.live(key, Some(ttl)),
        };
        Answer::Stored { replaced, over }
    }

    /// Sets how long an item lives; whether that is over already.
    fn live(&mut self, key: &[u8], ttl: Option<Duration>) -> bool {
        self.expiring.remove(key);
        match ttl {
            None => false,
            Some(Duration::ZERO) => {
                self.over += 1;
                self.items.remove(key);
                true
            }
            Some(_) => {
                self.expiring.insert(key.to_vec());
                false
            }
        }
    }

    /// Takes note of the version that a write left behind, or of none.
    fn note(&mut self, key: Vec<u8>, version: u64, over: bool) {
        if over {
            self.versions.remove(&key);
        } else {
            self.versions.insert(key, version);
        }
    }

    /// A completion must be what was expected.
    pub(crate) fn check(&mut self, completion: &Completion<'_>) {
        let expected = self.queue.pop_front().expect("a reply to a request");
        self.checked += 1;
        let context = || format!("{:?} for a key of {} bytes", completion.outcome, expected.key.len());
        let overtaken = |len: usize| len > 16 && (self.unmapped || self.writes.get(&expected.key) > Some(&expected.writes));
        match (&completion.outcome, &expected.answer) {
            (Outcome::Stored { replaced, version }, Answer::Stored { replaced: before, over }) if replaced == before => {
                self.note(expected.key, *version, *over);
            }
            (Outcome::Value { version, bytes }, Answer::Value(value)) if bytes == value => {
                assert_eq!(self.versions.get(&expected.key), Some(version), "{}", context());
            }
            (Outcome::Failed(Error::Overtaken), Answer::Value(value)) if overtaken(value.len()) => {}
            (Outcome::NotFound, Answer::Missing) => {}
            // A condition that an absent key does not meet may be answered either way.
            (Outcome::NotFound, Answer::NotMet) => assert!(!self.versions.contains_key(&expected.key), "{}", context()),
            (Outcome::ConditionNotMet { version }, Answer::NotMet | Answer::Missing) => {
                assert_eq!(self.versions.get(&expected.key).copied().unwrap_or(0), *version, "{}", context());
            }
            (Outcome::Deleted { .. }, Answer::Deleted) => {
                self.versions.remove(&expected.key);
            }
            (Outcome::Number { value, version }, Answer::Number { sum, over }) if value == sum => {
                self.note(expected.key, *version, *over);
            }
            (Outcome::ExpirySet { version }, Answer::ExpirySet { over }) => {
                assert_eq!(self.versions.get(&expected.key), Some(version), "{}", context());
                self.note(expected.key, *version, *over);
            }
            (Outcome::Expiry { version, remaining }, Answer::Left(expires)) => {
                assert_eq!(self.versions.get(&expected.key), Some(version), "{}", context());
                assert!(fits(*remaining, *expires), "{}", context());
            }
            (Outcome::Length { len, version }, Answer::Length(sum)) if *len == *sum as u64 => {
                self.versions.insert(expected.key, *version);
            }
            (Outcome::Failed(Error::NotANumber), Answer::NotANumber)
            | (Outcome::Failed(Error::Overflow), Answer::Overflow)
            | (Outcome::Failed(Error::ValueSize { .. }), Answer::TooLong)
            | (Outcome::Items { .. }, Answer::Bucket(_)) => {}
            (_, answer) => panic!("expected {}, found {}", brief(answer), context()),
        }
    }

    /// A sync call, whose result must be what was expected.
    fn call(&mut self, client: &mut Client, operation: &Operation<'_>) {
        self.expect(operation);
        let expected = self.queue.pop_back().expect("just put there");
        self.checked += 1;
        let answer = &expected.answer;
        match *operation {
            Operation::Ping => unreachable!("no request of these tests"),
            Operation::Insert { key, value, condition, ttl } => {
                let stored = client.insert_with(key, value, InsertOptions { condition, ttl }).expect("an answer");
                match (stored, answer) {
                    (Some(stored), Answer::Stored { replaced, over }) if *replaced == stored.replaced => {
                        self.note(expected.key, stored.version, *over);
                    }
                    (None, Answer::NotMet) => {}
                    (found, _) => panic!("expected {}, found {found:?}", brief(answer)),
                }
            }
            Operation::Read { key } => {
                let mut bytes = Vec::new();
                match client.read_into(key, &mut bytes).expect("an answer") {
                    Some(version) => {
                        assert!(matches!(answer, Answer::Value(value) if *value == bytes), "{}", brief(answer));
                        assert_eq!(self.versions.get(key), Some(&version));
                    }
                    None => assert!(matches!(answer, Answer::Missing), "{}", brief(answer)),
                }
            }
            Operation::Delete { key, condition } => {
                let deleted = client.delete_if(key, condition).expect("an answer");
                assert_eq!(deleted, matches!(answer, Answer::Deleted), "{}", brief(answer));
                if deleted {
                    self.versions.remove(key);
                }
            }
            Operation::Incr { key, by, ttl } => match (client.incr_with(key, by, ttl), answer) {
                (Ok(value), Answer::Number { sum, over: false }) if value == *sum => self.refresh(client, key),
                (Ok(value), Answer::Number { sum, over: true }) if value == *sum => self.note(expected.key, 0, true),
                (Err(Error::NotANumber), Answer::NotANumber) | (Err(Error::Overflow), Answer::Overflow) => {}
                (found, _) => panic!("expected {}, found {found:?}", brief(answer)),
            },
            Operation::Append { key, bytes } => match (client.append(key, bytes), answer) {
                (Ok(len), Answer::Length(sum)) if len == *sum as u64 => self.refresh(client, key),
                (Err(Error::ValueSize { .. }), Answer::TooLong) => {}
                (found, _) => panic!("expected {}, found {found:?}", brief(answer)),
            },
            Operation::Bucket { key } => {
                let bucket = client.bucket(key).expect("an answer");
                let found = bucket.items.iter().find(|item| item.key == key).map(|item| &item.value);
                assert!(matches!(answer, Answer::Bucket(value) if value.as_ref() == found), "a bucket misses its key or lies");
                for item in &bucket.items {
                    assert_eq!(self.items.get(&item.key), Some(&item.value), "a bucket's item");
                    assert!(fits(item.remaining, self.expiring.contains(&item.key)), "{:?}", item.remaining);
                }
            }
            Operation::Ttl { key } => match (client.ttl(key).expect("an answer"), answer) {
                (Some(remaining), Answer::Left(expires)) if fits(remaining, *expires) => {}
                (None, Answer::Missing) => {}
                (found, _) => panic!("expected {}, found {found:?}", brief(answer)),
            },
            Operation::Expire { key, .. } | Operation::Persist { key } => {
                let set = match *operation {
                    Operation::Expire { ttl, .. } => client.expire(key, ttl),
                    _ => client.persist(key),
                };
                match (set.expect("an answer"), answer) {
                    (true, Answer::ExpirySet { over: true }) => self.note(expected.key, 0, true),
                    (true, Answer::ExpirySet { over: false }) | (false, Answer::Missing) => {}
                    (found, _) => panic!("expected {}, found {found:?}", brief(answer)),
                }
            }
        }
    }

    /// Learns the version after a call that does not tell it.
    fn refresh(&mut self, client: &mut Client, key: &[u8]) {
        let version = client.read_into(key, &mut Vec::new()).expect("an answer").expect("just written");
        self.versions.insert(key.to_vec(), version);
    }

    /// What a whole scan must find.
    pub(crate) fn compare(&self, client: &mut Client) {
        let mut found = HashMap::new();
        for item in client.scan() {
            let item = item.expect("an item");
            assert!(fits(item.remaining, self.expiring.contains(&item.key)), "{:?} of {:?}", item.remaining, item.key);
            found.insert(item.key, item.value);
        }
        assert!(found == self.items, "a scan found {} items, expected {}", found.len(), self.items.len());
    }

    /// Removes by prefix from table and map.
    pub(crate) fn remove(&mut self, client: &mut Client, prefix: &[u8]) {
        let before = self.items.len();
        self.items.retain(|key, _| !key.starts_with(prefix));
        let Self { items, versions, expiring, .. } = self;
        versions.retain(|key, _| items.contains_key(key));
        expiring.retain(|key| items.contains_key(key));
        let expected = (before - self.items.len()) as u64;
        if prefix.is_empty() {
            let removed = client.clear().expect("an answer");
            let most = expected + std::mem::take(&mut self.over);
            assert!((expected..=most).contains(&removed), "cleared {removed} against {expected} to {most}");
        } else {
            assert_eq!(client.delete_prefix(prefix).expect("an answer"), expected);
        }
    }
}

/// Whether what an item has left is what it was given.
fn fits(remaining: Remaining, expires: bool) -> bool {
    match remaining {
        Remaining::Forever => !expires,
        Remaining::For(left) => expires && left <= LONG && !left.is_zero(),
    }
}

/// An answer without the bytes of a long value.
fn brief(answer: &Answer) -> String {
    match answer {
        Answer::Value(value) => format!("a value of {} bytes", value.len()),
        Answer::Bucket(_) => "a bucket".to_owned(),
        answer => format!("{answer:?}"),
    }
}
