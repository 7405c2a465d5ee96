//! Transactions from several processes at once, over kills of the server, at their limits, and from one that sends nonsense.

use std::fs::OpenOptions;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memmap2::MmapRaw;
use nix::sys::signal::Signal;
use protocol::{MAX_STEPS, MAX_TRANSACTION, Status, Step, Write, encode_step};
use shmqueue::lane::{RawReply, span_of_body, span_of_reply};
use shmqueue::layout::{ReplyLaneHead, Section};
use shmqueue::port::{Patience, Port, Waited};
use shmqueue::region::{ClientRegion, RegionName};
use shmtable::{Client, Error, Options, Transacted, Versioned, WaitMode};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::values::{Random, seed, value};

const ACCOUNTS: u64 = 30;
const EACH: u64 = 1000;
const KILLS: usize = 8;

fn account(n: u64) -> Vec<u8> {
    format!("account {n}").into_bytes()
}

fn journal(line: usize) -> Vec<u8> {
    format!("journal {line}").into_bytes()
}

fn number(read: Option<&Versioned>) -> u64 {
    let value = &read.expect("accounts are never closed").value;
    u64::from_le_bytes(value[..8].try_into().expect("eight bytes"))
}

fn committed(done: Transacted) -> (Vec<Option<Versioned>>, Vec<u64>) {
    match done {
        Transacted::Committed { reads, versions } => (reads, versions),
        Transacted::Mismatch { .. } => panic!("nothing was compared: {done:?}"),
    }
}

/// Moves money between some accounts, and with each transfer counts on in its own journal, at the version that its last one answered.
pub(crate) fn play_transfers(part: &Part) {
    let mut random = Random::new(part.numbers[0]);
    let mut client = Client::attach(&part.options()).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    let own = journal(part.line);
    let (mut last, mut count) = (0, 0u64);
    while !part.board.stopped() {
        let mut accounts: Vec<_> = (0..2 + random.below(6)).map(|_| random.below(ACCOUNTS)).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let keys: Vec<_> = accounts.into_iter().map(account).collect();
        let mut transaction = client.transaction();
        for key in &keys {
            transaction.read(key);
        }
        let (reads, _) = committed(transaction.commit().expect("an answer"));
        let mut balances: Vec<_> = reads.iter().map(|read| number(read.as_ref())).collect();
        for at in 1..balances.len() {
            let amount = random.below(balances[at] + 1);
            balances[at] -= amount;
            balances[0] += amount;
        }
        // Some longer than others, so that memory of several classes is reused.
        let tail = vec![0; random.below(20) as usize * 8];
        let values: Vec<_> = balances.iter().map(|balance| [&balance.to_le_bytes()[..], &tail].concat()).collect();
        let next = (count + 1).to_le_bytes();
        let mut transaction = client.transaction();
        transaction.compare(&own, last).insert(&own, &next).read(&own);
        for at in 0..keys.len() {
            let version = reads[at].as_ref().expect("read").version;
            transaction.compare(&keys[at], version).insert(&keys[at], &values[at]);
        }
        part.add(Word::Sent);
        match transaction.commit().expect("an answer") {
            Transacted::Committed { reads, versions } => {
                let before = reads[0].as_ref();
                assert_eq!(before.map(|read| read.version), (last != 0).then_some(last));
                assert_eq!(before.map_or(0, |read| number(Some(read))), count, "the journal of line {}", part.line);
                assert_eq!(versions.len(), keys.len() + 1);
                (last, count) = (versions[0], count + 1);
                part.set(Word::Acked, count);
            }
            Transacted::Mismatch { compare, version } => {
                // Somebody came between on an account; nobody else writes the journal, so a lost or doubled transfer shows here.
                assert!(compare > 0, "the journal is at {version}, not at {last}");
                assert_ne!(version, reads[compare - 1].as_ref().expect("read").version);
                part.add(Word::Errors);
            }
        }
    }
}

/// Adds up all accounts, each time at one moment.
pub(crate) fn play_auditor(part: &Part) {
    let mut client = Client::attach(&part.options()).expect("attached");
    part.set(Word::Slot, u64::from(client.id()) + 1);
    let keys: Vec<_> = (0..ACCOUNTS).map(account).collect();
    while !part.board.stopped() {
        let balances = client.get_many_atomic(&keys).expect("an answer");
        let sum: u64 =
            balances.iter().map(|value| u64::from_le_bytes(value.as_ref().expect("open")[..8].try_into().expect("8"))).sum();
        assert_eq!(sum, ACCOUNTS * EACH);
        part.add(Word::Acked);
    }
}

#[test]
fn transfers_keep_the_sum_while_servers_are_killed() {
    let mut random = Random::new(seed("transfers"));
    let args = ["-s", "8", "--memory", "64MiB"];
    let mut server = Daemon::start(&args);
    let board = Board::new();
    let dir = server.dir().to_path_buf();
    let mut client = Client::attach(&Options::new("shmtable").dir(&dir)).expect("attached");
    let open = client.insert_many_atomic((0..ACCOUNTS).map(|n| (account(n), EACH.to_le_bytes()))).expect("stored");
    assert_eq!(open.len() as u64, ACCOUNTS);
    let mut actors: Vec<_> = (1..=3).map(|line| Actor::start("transfers", &dir, &board, line, &[random.next()])).collect();
    actors.push(Actor::start("auditor", &dir, &board, 4, &[]));
    for actor in &mut actors {
        actor.reaches(&board, Word::Acked, 1);
    }
    for _ in 0..KILLS {
        let at = random.below(actors.len() as u64) as usize;
        let now = board.get(actors[at].line(), Word::Acked);
        actors[at].reaches(&board, Word::Acked, now + random.below(500));
        let (_, folder) = server.end(Signal::SIGKILL);
        server = Daemon::start_in(folder, &args);
        let before: Vec<_> = actors.iter().map(|actor| board.get(actor.line(), Word::Acked)).collect();
        for (actor, before) in actors.iter_mut().zip(before) {
            actor.reaches(&board, Word::Acked, before + 2);
        }
    }
    board.stop();
    actors.into_iter().for_each(Actor::finish);
    for line in 1..=3 {
        let value = client.read(&journal(line)).expect("an answer").expect("a journal");
        assert_eq!(value, board.get(line, Word::Acked).to_le_bytes(), "everything was answered");
    }
    drop(server);
}

#[test]
fn a_transaction_compares_reads_and_writes_at_once() {
    let server = Daemon::start(&[]);
    let mut client = Client::attach(&Options::new("shmtable").dir(server.dir())).expect("attached");
    let nothing = client.transaction().commit().expect("nothing to do");
    assert_eq!(committed(nothing), (vec![], vec![]));
    let a = client.insert(b"a", b"1").expect("stored").version;
    let b = client.insert(b"b", &value(2, 5000)).expect("stored").version;
    let done = client
        .transaction()
        .read(b"b")
        .compare(b"a", a)
        .read(b"c")
        .insert(b"c", b"3")
        .delete(b"a")
        .read(b"a")
        .delete(b"z")
        .commit();
    let (reads, versions) = committed(done.expect("an answer"));
    let read = |version, value: &[u8]| Some(Versioned { version, value: value.to_vec() });
    assert_eq!(reads, [read(b, &value(2, 5000)), None, read(a, b"1")]);
    assert!(versions[0] > 0 && versions[0] != a && versions[0] != b);
    assert_eq!(versions[1..], [a, 0]);
    assert_eq!(client.get_many_atomic([b"a", b"c", b"c"]).expect("an answer"), [None, Some(b"3".to_vec()), Some(b"3".to_vec())]);
    // The first comparison of the caller's, whatever else was named before it.
    let done = client.transaction().read(b"b").compare(b"b", b).compare_absent(b"c").compare(b"a", a).insert(b"a", b"x").commit();
    assert_eq!(done.expect("an answer"), Transacted::Mismatch { compare: 1, version: versions[0] });
    let done = client.transaction().compare(b"a", a).compare_absent(b"c").commit();
    assert_eq!(done.expect("an answer"), Transacted::Mismatch { compare: 0, version: 0 });
    assert_eq!(client.read(b"a").expect("an answer"), None);
    // One that was put together once may be committed again.
    let mut again = client.transaction();
    again.insert(b"n", b"1").read(b"n");
    assert_eq!(committed(again.commit().expect("an answer")).0, [None]);
    assert_eq!(committed(again.commit().expect("an answer")).0[0].as_ref().map(|read| &read.value[..]), Some(&b"1"[..]));
}

#[test]
fn what_is_too_much_is_refused_whole_and_says_so() {
    let server = Daemon::start(&["--max-value", "64KiB"]);
    let mut client = Client::attach(&Options::new("shmtable").dir(server.dir())).expect("attached");
    let keys: Vec<_> = (0..65u32).map(|n| format!("key {n}").into_bytes()).collect();
    let pairs = |count: usize, len: usize| keys[..count].iter().map(move |key| (key, vec![1; len]));
    let error = client.insert_many_atomic(pairs(65, 1)).expect_err("65 keys");
    assert!(matches!(error, Error::TransactionSize { found: 65, most: MAX_STEPS, .. }), "{error}");
    assert_eq!(error.to_string(), "transaction refused: 65 keys against at most 64; split it");
    assert_eq!(client.insert_many_atomic(pairs(64, 480)).expect("31 KiB").len(), 64);
    let error = client.insert_many_atomic(pairs(64, 510)).expect_err("more than 32 KiB");
    assert!(matches!(error, Error::TransactionSize { most: MAX_TRANSACTION, .. }), "{error}");
    let error = client.insert_many_atomic([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]).expect_err("a twice");
    assert_eq!(error.to_string(), "transaction refused: one of its keys is written twice; name it once");
    let error = client.transaction().compare(b"a", 1).compare(b"a", 2).commit().expect_err("two versions");
    assert!(matches!(error, Error::TransactionTwice { .. }), "{error}");
    assert!(matches!(client.transaction().read(b"").commit(), Err(Error::KeySize { found: 0 })));
    let long = vec![0; (64 << 10) + 1];
    assert!(matches!(client.transaction().insert(b"a", &long).commit(), Err(Error::ValueSize { .. })));
    assert_eq!(client.get_many_atomic(&keys[..64]).expect("31 KiB").into_iter().flatten().count(), 64);
    for (key, value) in pairs(64, 600) {
        client.insert(key, &value).expect("stored");
    }
    let error = client.get_many_atomic(&keys[..64]).expect_err("38 KiB");
    assert!(matches!(error, Error::TransactionSize { what: "bytes read", .. }), "{error}");
    let error = client.transaction().read(&keys[0]).insert(b"new", b"1").read(&keys[1]).commit().map(committed);
    assert_eq!(error.expect("1.2 KiB").0.len(), 2);
    assert_eq!(client.get_many_atomic(&keys[..50]).expect("30 KiB").into_iter().flatten().count(), 50);
}

#[test]
fn a_full_table_refuses_the_whole_transaction() {
    let server = Daemon::start(&["-s", "64", "--memory", "2MiB", "--max-value", "4KiB"]);
    let mut client = Client::attach(&Options::new("shmtable").dir(server.dir())).expect("attached");
    client.transaction().insert(b"first", b"1").commit().expect("room");
    let filled = (0u32..).find(|n| matches!(client.insert(&n.to_le_bytes(), &[0; 1500]), Err(Error::Full))).expect("an end");
    let keys: Vec<_> = (0..20u32).map(|n| (filled + n).to_le_bytes()).collect();
    assert!(matches!(client.insert_many_atomic(keys.iter().map(|key| (key, [0; 1500]))), Err(Error::Full)));
    assert!(client.get_many_atomic(&keys).expect("an answer").iter().all(Option::is_none));
    assert_eq!(client.read(b"first").expect("an answer").as_deref(), Some(&b"1"[..]));
}

const PATIENCE: Patience<'_> = Patience { timeout: Duration::from_secs(60), interrupt: None, successor: Duration::from_secs(60) };

/// A port that sends what the library never would.
struct Raw {
    port: Port,
}

impl Raw {
    fn attach(dir: &Path) -> Self {
        let name = RegionName::new(dir, "shmtable").expect("a name");
        let region = ClientRegion::join(&name).expect("joined");
        let mut port = Port::attach(&region, "raw", WaitMode::Adaptive).expect("attached");
        assert_eq!(port.resize(2048, &PATIENCE), Waited::Answered);
        Self { port }
    }

    /// Sends a body; its position and span.
    fn send(&mut self, body: &[u8], room: usize) -> (u64, u64) {
        let span = span_of_body(body.len()).max(span_of_reply(room));
        let position = self.port.send(12, 0, span as u16, [body, &[], &[]]);
        self.port.announce();
        (position, span as u64)
    }

    fn wait(&mut self, position: u64) -> RawReply {
        assert_eq!(self.port.wait(position, &PATIENCE), Waited::Answered);
        self.port.reply(position).expect("answered")
    }

    fn ask(&mut self, body: &[u8], room: usize) -> (Status, u64) {
        let (position, span) = self.send(body, room);
        let reply = self.wait(position);
        self.port.advance(span);
        (Status::from_raw(reply.status).expect("a known status"), reply.b)
    }
}

fn body(steps: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for &(key, value) in steps {
        let write = Some(Write::Insert { value, ttl: Default::default() });
        encode_step(&Step { key, compare: None, read: true, write }, &mut body);
    }
    body
}

#[test]
fn bodies_of_nonsense_are_answered_and_do_nothing() {
    let server = Daemon::start(&["--max-value", "4KiB"]);
    let mut raw = Raw::attach(server.dir());
    let keys: Vec<_> = (0..65u32).map(|n| n.to_le_bytes()).collect();
    let many: Vec<_> = keys.iter().map(|key| (&key[..], &b"v"[..])).collect();
    let long = [0; 4097];
    assert_eq!(raw.ask(&[], 0).0, Status::Committed);
    assert_eq!(raw.ask(&body(&many), 8000).0, Status::Malformed, "65 steps");
    assert_eq!(raw.ask(&body(&[(b"a", b"1"), (b"b", b"1"), (b"a", b"2")]), 800).0, Status::Malformed, "a key twice");
    assert_eq!(raw.ask(&body(&[(b"a", b"1"), (b"", b"1")]), 800).0, Status::KeySize);
    assert_eq!(raw.ask(&body(&[(b"a", b"1"), (&long[..1025], b"1")]), 800).0, Status::KeySize);
    assert_eq!(raw.ask(&body(&[(b"a", b"1"), (b"b", &long)]), 800), (Status::ValueSize, 4096));
    assert_eq!(raw.ask(&vec![0; MAX_TRANSACTION + 8], 800).0, Status::Malformed);
    assert_eq!(raw.ask(&body(&many[..2]), 0), (Status::RoomTooSmall, 2 * 24), "no room for the answer");
    let mut client = Client::attach(&Options::new("shmtable").dir(server.dir())).expect("attached");
    assert_eq!(client.scan().count(), 0, "nothing was stored");
    let mut random = Random::new(seed("nonsense"));
    let good = body(&many[..20]);
    let mut told = [0; 256];
    for _ in 0..20_000 {
        let mut bytes = good[..random.below(good.len() as u64 + 1) as usize].to_vec();
        for _ in 0..random.below(4) {
            if !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
            }
        }
        told[raw.ask(&bytes, random.below(1500) as usize).0 as usize] += 1;
    }
    assert!(told[Status::Committed as usize] > 100 && told[Status::Malformed as usize] > 100, "{told:?}");
    let whole: Vec<_> = client.scan().map(|item| item.expect("a whole item").key).collect();
    assert!(!whole.is_empty() && whole.iter().all(|key| !key.is_empty()));
    assert!(client.transaction().insert(b"after", b"1").commit().is_ok());
}

/// A file of a region without a server, word by word.
struct Words(MmapRaw);

impl Words {
    fn open(path: PathBuf) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("the region's owner may");
        Self(MmapRaw::map_raw(&file).expect("mapped"))
    }

    fn at(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.0.len() as u64);
        // SAFETY: within the mapping and aligned; everybody uses these words through atomics.
        unsafe { &*self.0.as_ptr().add(offset as usize).cast() }
    }

    fn get(&self, offset: u64) -> u64 {
        self.at(offset).load(Ordering::Relaxed)
    }

    fn set(&self, offset: u64, word: u64) {
        self.at(offset).store(word, Ordering::Relaxed);
    }
}

/// Takes a dead server's last steps back: the reply at `position`, which was the last, and of three new items all but `stored`.
fn take_back(dir: &Path, client: u32, position: u64, stored: u64, committed: bool) {
    let name = RegionName::new(dir, "shmtable").expect("a name");
    let table = Words::open(name.table_path());
    // The second entry of the directory, and in it the first list: the server had one worker.
    let list = table.get(128 + 32 + 8);
    assert_eq!(table.get(list), 0, "the server had cleared the list");
    for entry in stored..3 {
        let at = list + 32 + 24 * entry;
        let (slot, old, new) = (table.get(at), table.get(at + 8), table.get(at + 16));
        assert!(old == 0 && table.get(slot) == new, "a new item in a free slot");
        table.set(slot, old);
    }
    table.set(list, if committed { 3 } else { 0 });
    let rings = Words::open(name.rings_path());
    let region = ClientRegion::join(&name);
    let layout = region.as_ref().expect("a dead server's region is joined").layout();
    let lane = layout.element(Section::ReplyLanes, client);
    rings.set(lane + offset_of!(ReplyLaneHead, complete) as u64, position);
    rings.set(lane + 4096 + 32 * (position % 2048), 0);
}

#[test]
fn a_successor_finishes_and_answers_what_was_committed() {
    for (committed, stored) in [(true, 0), (true, 1), (true, 3), (false, 0)] {
        let args = ["-n", "1", "-s", "2"];
        let server = Daemon::start(&args);
        let dir = server.dir().to_path_buf();
        let mut client = Client::attach(&Options::new("shmtable").dir(&dir)).expect("attached");
        client.insert(b"before", b"1").expect("stored");
        let mut raw = Raw::attach(&dir);
        let (position, span) = raw.send(&body(&[(b"x", b"1"), (b"y", b"2"), (b"z", b"3")]), 200);
        let reply = raw.wait(position);
        assert_eq!(Status::from_raw(reply.status), Some(Status::Committed));
        let mut told = Vec::new();
        raw.port.reply_bytes(position, reply.c as usize, &mut told);
        let (_, folder) = server.end(Signal::SIGKILL);
        take_back(&dir, raw.port.attachment().index(), position, stored, committed);
        assert!(raw.port.reply(position).is_none(), "the reply was taken back");
        let server = Daemon::start_in(folder, &args);
        let again = raw.wait(position);
        let mut bytes = Vec::new();
        raw.port.reply_bytes(position, again.c as usize, &mut bytes);
        raw.port.advance(span);
        let same = (again, &bytes) == (reply, &told);
        assert_eq!(same, committed, "served anew, with new versions, only if it was not committed");
        assert_eq!(again.status, reply.status);
        let values = client.get_many_atomic([b"x", b"y", b"z"]).expect("an answer");
        assert_eq!(values, [b"1", b"2", b"3"].map(|value| Some(value.to_vec())));
        drop((client, raw, server));
    }
}
