//! A client that plays random calls and records what it did.

use std::collections::VecDeque;

use shmtable::{
    Client, Completion, Error, Handle, InsertOptions, Operation, Options, Outcome, Remaining, Reread, Stored, Submit,
    TableReader, Transacted, Ttl,
};
use std::time::Duration;

use crate::record::{Answer, Bytes, Call, Life, Place, Record, Steps, now};
use crate::script::{Mix, call};
use crate::spec::KEYS;
use crate::values::Random;

/// How a client asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// One request after the other.
    Sync,
    /// So many requests under way at the poll level, direct reads in between.
    Polled(usize),
    /// So many requests under way in a pipeline.
    Pipelined(usize),
    /// Nothing but direct reads, of the table alone.
    Reader,
}

/// A call that was sent and not answered yet.
struct Begun {
    place: Place,
    start: u64,
    call: Call,
}

/// What a client has recorded of a round.
struct Log {
    me: usize,
    records: Vec<Record>,
    waiting: VecDeque<Begun>,
    /// Requests sent, and for each key the last of them that was a write.
    sent: u32,
    wrote: [u32; KEYS],
    /// Versions seen last.
    seen: [u64; KEYS],
}

/// A client and its log.
pub(crate) struct Player {
    client: Client,
    reader: TableReader,
    style: Style,
    log: Log,
}

impl Player {
    pub(crate) fn new(me: usize, style: Style, options: &Options) -> Self {
        let client = Client::attach(options).expect("attached");
        let reader = TableReader::open(options).expect("the table");
        let log = Log { me, records: Vec::new(), waiting: VecDeque::new(), sent: 0, wrote: [0; KEYS], seen: [0; KEYS] };
        Self { client, reader, style, log }
    }

    /// Plays so many calls on these keys, each after a pause of `pause`; what was recorded.
    pub(crate) fn round(
        &mut self,
        keys: &[Vec<u8>],
        calls: usize,
        mix: Mix,
        random: &mut Random,
        pause: impl Fn(&mut Random),
    ) -> Vec<Record> {
        self.log.wrote = [0; KEYS];
        self.log.seen = [0; KEYS];
        match self.style {
            Style::Sync => {
                for _ in 0..calls {
                    pause(random);
                    let call = call(random, mix, &self.log.seen);
                    if matches!(call, Call::Read { .. }) && random.below(2) == 0 {
                        self.direct(keys, call, random)
                    } else {
                        self.sync(keys, call)
                    }
                }
            }
            Style::Polled(window) => self.polled(keys, calls, mix, random, window, pause),
            Style::Pipelined(window) => self.pipelined(keys, calls, mix, random, window, pause),
            Style::Reader => self.read_alone(keys, calls, random, pause),
        }
        assert!(self.log.waiting.is_empty(), "calls without an answer");
        std::mem::take(&mut self.log.records)
    }

    fn sync(&mut self, keys: &[Vec<u8>], call: Call) {
        self.log.begin(&call);
        let answer = ask(&mut self.client, keys, &call).unwrap_or_else(|error| panic!("{call:?}: {error}"));
        self.log.end(Some(answer));
    }

    fn polled(
        &mut self,
        keys: &[Vec<u8>],
        calls: usize,
        mix: Mix,
        random: &mut Random,
        window: usize,
        pause: impl Fn(&mut Random),
    ) {
        for _ in 0..calls {
            pause(random);
            let call = call(random, Mix { long: false, ..mix }, &self.log.seen);
            if matches!(call, Call::Read { .. }) && random.below(3) == 0 {
                self.direct(keys, call, random);
                continue;
            }
            self.poll_until_below(window);
            let Some(operation) = operation(keys, &call) else {
                self.poll_until_below(1);
                self.sync(keys, call);
                continue;
            };
            self.log.begin(&call);
            while let Err(refusal) = self.client.try_submit(&operation) {
                assert!(matches!(refusal, Submit::WouldBlock), "{call:?}: {refusal}");
                let left = self.client.in_flight();
                self.poll_until_below(left);
            }
        }
        self.poll_until_below(1);
    }

    fn poll_until_below(&mut self, most: usize) {
        while self.client.in_flight() >= most {
            self.client.wait().expect("a reply");
            let log = &mut self.log;
            self.client.poll(&mut |completion| log.reply(completion)).expect("replies");
        }
    }

    fn pipelined(
        &mut self,
        keys: &[Vec<u8>],
        calls: usize,
        mix: Mix,
        random: &mut Random,
        window: usize,
        pause: impl Fn(&mut Random),
    ) {
        let log = &mut self.log;
        let mut pipeline = self.client.pipeline(window);
        for _ in 0..calls {
            pause(random);
            let call = call(random, Mix { transactions: false, clear: false, ..mix }, &log.seen);
            let operation = operation(keys, &call).expect("an operation of pipelines");
            log.begin(&call);
            pipeline.submit(&operation, &mut |completion| log.reply(completion)).expect("submitted");
        }
        pipeline.finish(&mut |completion| log.reply(completion)).expect("replies");
    }

    /// A read of the table itself, alone, in a batch or through a handle.
    fn direct(&mut self, keys: &[Vec<u8>], call: Call, random: &mut Random) {
        let Call::Read { key } = call else { unreachable!("only reads are direct") };
        self.log.begin_direct(key);
        let mut bytes = Vec::new();
        let version = match random.below(3) {
            0 => self.client.get_direct_vec(&keys[key], &mut bytes).map(|found| found.map(|found| found.version)),
            1 => {
                let mut version = None;
                let visit = |number: usize, found: Option<(u64, &[u8])>| {
                    if let (true, Some((found, value))) = (number == key, found) {
                        version = Some(found);
                        bytes.extend_from_slice(value);
                    }
                };
                self.client.get_many_direct_with(keys, visit).map(|()| version)
            }
            _ => {
                // Read once to know the place, so that the second reading is the handle's own.
                let mut handle = self.client.handle(&keys[key]).expect("a handle");
                let _ = self.client.reread(&mut handle, &mut bytes).expect("an answer");
                self.log.restart();
                self.client.reread(&mut handle, &mut bytes).map(|_| told(&handle))
            }
        };
        let version = version.expect("an answer");
        self.log.end_direct(version.map(|version| (version, bytes)));
    }

    fn read_alone(&mut self, keys: &[Vec<u8>], calls: usize, random: &mut Random, pause: impl Fn(&mut Random)) {
        let mut handles: Vec<_> = keys.iter().map(|key| self.reader.handle(key).expect("a handle")).collect();
        let mut values = vec![Vec::new(); keys.len()];
        for _ in 0..calls {
            pause(random);
            let key = random.below(KEYS as u64) as usize;
            self.log.begin_direct(key);
            let mut bytes = Vec::new();
            let version = if random.below(2) == 0 {
                self.reader.get_vec(&keys[key], &mut bytes).map(|found| found.map(|found| found.version))
            } else {
                let reread = self.reader.reread(&mut handles[key], &mut values[key]);
                bytes.clone_from(&values[key]);
                reread.map(|reread| (reread != Reread::Gone).then(|| handles[key].version()))
            };
            match version {
                Ok(version) => self.log.end_direct(version.map(|version| (version, bytes))),
                Err(Error::Busy) => drop(self.log.waiting.pop_back()),
                Err(error) => panic!("a reader of the table: {error}"),
            }
        }
    }
}

/// The version that a handle has read; it has 0 where there was nothing.
fn told(handle: &Handle) -> Option<u64> {
    Some(handle.version()).filter(|version| *version != 0)
}

impl Log {
    fn begin(&mut self, call: &Call) {
        self.sent += 1;
        if call.is_write() {
            (0..KEYS).filter(|key| call.touches(*key)).for_each(|key| self.wrote[key] = self.sent);
        }
        self.waiting.push_back(Begun { place: Place::Request(self.sent), start: now(), call: call.clone() });
    }

    /// A direct read begins: it is answered before what is waiting.
    fn begin_direct(&mut self, key: usize) {
        self.waiting.push_back(Begun { place: Place::Direct { after: self.wrote[key] }, start: now(), call: Call::Read { key } });
    }

    /// What was begun last begins only now.
    fn restart(&mut self) {
        if let Some(begun) = self.waiting.back_mut() {
            begun.start = now();
        }
    }

    fn end_direct(&mut self, found: Option<(u64, Vec<u8>)>) {
        let end = now();
        let begun = self.waiting.pop_back().expect("a direct read");
        let answer = found.map_or(Answer::Absent, |(version, bytes)| Answer::Value { version, bytes: bytes[..].into() });
        self.record(begun, end, answer);
    }

    /// The oldest call was answered; without an answer nothing is known of it, and it did nothing.
    fn end(&mut self, answer: Option<Answer>) {
        let end = now();
        let begun = self.waiting.pop_front().expect("an answer to something");
        if let Some(answer) = answer {
            self.record(begun, end, answer);
        }
    }

    fn reply(&mut self, completion: Completion<'_>) {
        let call = &self.waiting.front().expect("a reply to something").call;
        let answer = answer(call, &completion.outcome);
        self.end(answer);
    }

    fn record(&mut self, Begun { place, start, call }: Begun, end: u64, answer: Answer) {
        if let (
            Call::Read { key } | Call::Insert { key, .. } | Call::Incr { key, .. } | Call::Append { key, .. },
            Answer::Value { version, .. }
            | Answer::Stored { version, .. }
            | Answer::Number { version, .. }
            | Answer::Length { version, .. },
        ) = (&call, &answer)
        {
            self.seen[*key] = *version;
        }
        self.records.push(Record { client: self.me, place, start, end, call, answer });
    }
}

fn ttl(life: Life) -> Ttl {
    match life {
        Life::Endless => Ttl::None,
        Life::Kept => Ttl::Keep,
        Life::Ms(ms) => Ttl::For(Duration::from_millis(ms)),
    }
}

/// For what takes a time to live or none.
fn duration(life: Life) -> Option<Duration> {
    match life {
        Life::Ms(ms) => Some(Duration::from_millis(ms)),
        Life::Endless | Life::Kept => None,
    }
}

fn left_ms(remaining: Remaining) -> Option<u64> {
    match remaining {
        Remaining::Forever => None,
        Remaining::For(left) => Some(left.as_millis() as u64),
    }
}

/// A call as an operation of the poll level, where it is one.
fn operation<'a>(keys: &'a [Vec<u8>], call: &'a Call) -> Option<Operation<'a>> {
    Some(match call {
        Call::Read { key } => Operation::Read { key: &keys[*key] },
        Call::Insert { key, value, when, life } => {
            Operation::Insert { key: &keys[*key], value: &value.0, condition: *when, ttl: ttl(*life) }
        }
        Call::Delete { key, when } => Operation::Delete { key: &keys[*key], condition: *when },
        Call::Incr { key, by, life } => Operation::Incr { key: &keys[*key], by: *by, ttl: duration(*life) },
        Call::Append { key, bytes } => Operation::Append { key: &keys[*key], bytes: &bytes.0 },
        Call::Left { key } => Operation::Ttl { key: &keys[*key] },
        Call::Expire { key, ms } => Operation::Expire { key: &keys[*key], ttl: Duration::from_millis(*ms) },
        Call::Persist { key } => Operation::Persist { key: &keys[*key] },
        Call::Clear | Call::Transact(_) => return None,
    })
}

/// The answer that an outcome is to a call; none for a read that was overtaken.
fn answer(call: &Call, outcome: &Outcome<'_>) -> Option<Answer> {
    Some(match (call, outcome) {
        (Call::Insert { .. } | Call::Delete { .. }, Outcome::NotFound) => Answer::NotMet { version: Some(0) },
        (_, Outcome::ConditionNotMet { version }) => Answer::NotMet { version: Some(*version) },
        (_, Outcome::NotFound) => Answer::Absent,
        (_, Outcome::Value { version, bytes }) => Answer::Value { version: *version, bytes: Bytes::from(*bytes) },
        (_, Outcome::Stored { replaced, version }) => Answer::Stored { replaced: *replaced, version: *version },
        (_, Outcome::Deleted { version }) => Answer::Deleted { version: *version },
        (_, Outcome::Number { value, version }) => Answer::Number { value: *value, version: *version },
        (_, Outcome::Length { len, version }) => Answer::Length { len: *len, version: *version },
        (_, Outcome::Expiry { version, remaining }) => Answer::Left { version: *version, ms: left_ms(*remaining) },
        (_, Outcome::ExpirySet { version }) => Answer::Set { version: *version },
        (_, Outcome::Failed(Error::NotANumber | Error::Overflow)) => Answer::NoNumber,
        (Call::Read { .. }, Outcome::Failed(Error::Overtaken)) => return None,
        (call, outcome) => panic!("{call:?} was answered by {outcome:?}"),
    })
}

/// Asks by a sync call.
fn ask(client: &mut Client, keys: &[Vec<u8>], call: &Call) -> Result<Answer, Error> {
    Ok(match call {
        Call::Read { key } => {
            let mut bytes = Vec::new();
            match client.read_into(&keys[*key], &mut bytes)? {
                Some(version) => Answer::Value { version, bytes: bytes[..].into() },
                None => Answer::Absent,
            }
        }
        Call::Insert { key, value, when, life } => {
            let options = InsertOptions { condition: *when, ttl: ttl(*life) };
            match client.insert_with(&keys[*key], &value.0, options)? {
                Some(Stored { replaced, version }) => Answer::Stored { replaced, version },
                None => Answer::NotMet { version: None },
            }
        }
        Call::Delete { key, when } => match client.delete_if(&keys[*key], *when)? {
            true => Answer::Deleted { version: 0 },
            false => Answer::NotMet { version: None },
        },
        Call::Incr { key, by, life } => match client.incr_with(&keys[*key], *by, duration(*life)) {
            Ok(value) => Answer::Number { value, version: 0 },
            Err(Error::NotANumber | Error::Overflow) => Answer::NoNumber,
            Err(error) => return Err(error),
        },
        Call::Append { key, bytes } => Answer::Length { len: client.append(&keys[*key], &bytes.0)?, version: 0 },
        Call::Left { key } => match client.ttl(&keys[*key])? {
            Some(remaining) => Answer::Left { version: 0, ms: left_ms(remaining) },
            None => Answer::Absent,
        },
        Call::Expire { key, ms } => match client.expire(&keys[*key], Duration::from_millis(*ms))? {
            true => Answer::Set { version: 0 },
            false => Answer::Absent,
        },
        Call::Persist { key } => match client.persist(&keys[*key])? {
            true => Answer::Set { version: 0 },
            false => Answer::Absent,
        },
        Call::Clear => client.clear().map(|_| Answer::Done)?,
        Call::Transact(steps) => transact(client, keys, steps)?,
    })
}

fn transact(client: &mut Client, keys: &[Vec<u8>], steps: &Steps) -> Result<Answer, Error> {
    let mut transaction = client.transaction();
    for (key, version) in &steps.compares {
        transaction.compare(&keys[*key], *version);
    }
    for key in &steps.reads {
        transaction.read(&keys[*key]);
    }
    for (key, write) in &steps.writes {
        let key = &keys[*key];
        match write {
            None => transaction.delete(key),
            Some((value, Life::Endless)) => transaction.insert(key, &value.0),
            Some((value, Life::Kept)) => transaction.insert_keep_ttl(key, &value.0),
            Some((value, Life::Ms(ms))) => transaction.insert_ttl(key, &value.0, Duration::from_millis(*ms)),
        };
    }
    Ok(match transaction.commit()? {
        Transacted::Committed { reads, versions } => {
            let read = |read: Option<shmtable::Versioned>| read.map(|read| (read.version, Bytes::from(&read.value[..])));
            Answer::Committed { reads: reads.into_iter().map(read).collect(), versions }
        }
        Transacted::Mismatch { compare, version } => Answer::Mismatch { compare, version },
    })
}
