//! Values of all sizes come and go while the table is nearly full: nothing is refused, and every value stays whole.

mod memory;

use memory::Memory;
use table::{Condition, Expiry, Outcome, Ticket, Writer, stored_bytes};

const NONE: Ticket = Ticket { shard: 0, client: 0, generation: 0, position: 0 };
const KEY: usize = 16;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Log-uniform between 16 bytes and `most`.
    fn size(&mut self, most: u32) -> u32 {
        let share = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (16.0 * (f64::from(most) / 16.0).powf(share)) as u32
    }
}

fn key(n: u64) -> [u8; KEY] {
    let mut key = [b'k'; KEY];
    key[..8].copy_from_slice(&n.to_le_bytes());
    key
}

fn fill(buffer: &mut [u8], n: u64) {
    buffer.fill(n as u8);
    let len = buffer.len();
    buffer[..8].copy_from_slice(&n.to_le_bytes());
    buffer[len - 8..].copy_from_slice(&n.to_be_bytes());
}

fn insert(writer: &mut Writer<'_>, key: &[u8], value: &[u8]) -> Outcome {
    let hash = writer.hash(key);
    writer.insert(key, value, hash, Condition::None, Expiry::Never, &NONE, |outcome| *outcome)
}

/// Keeps the bytes of live items, rounded to classes, close under `target` while it replaces and deletes at random.
struct Churn<'w, 'a> {
    writer: &'w mut Writer<'a>,
    random: Random,
    live: Vec<(u64, u32)>,
    bytes: u64,
    target: u64,
    next: u64,
    buffer: Vec<u8>,
    most: u32,
}

impl Churn<'_, '_> {
    fn delete(&mut self) {
        let at = (self.random.next() % self.live.len() as u64) as usize;
        let (n, len) = self.live.swap_remove(at);
        self.bytes -= stored_bytes(KEY, len);
        let mut out = Vec::new();
        let hash = self.writer.hash(&key(n));
        let item = self.writer.get(&key(n), hash).expect("a live key");
        self.writer.value_into(&item, &mut out).expect("nobody else writes");
        fill(&mut self.buffer[..len as usize], n);
        assert!(out == self.buffer[..len as usize], "value of key {n}");
        let outcome = self.writer.delete(&key(n), hash, Condition::None, &NONE, |outcome| *outcome);
        assert!(matches!(outcome, Outcome::Deleted { .. }), "{outcome:?}");
    }

    /// One insert or replacement, and the deletes that make room for it.
    fn step(&mut self) -> u64 {
        let len = self.random.size(self.most);
        let mut ops = 1;
        while self.bytes + stored_bytes(KEY, len) > self.target {
            self.delete();
            ops += 1;
        }
        let replaces = !self.live.is_empty() && self.random.next().is_multiple_of(4);
        let n = if replaces {
            let at = (self.random.next() % self.live.len() as u64) as usize;
            let (n, old) = std::mem::take(&mut self.live[at]);
            self.live[at] = (n, len);
            self.bytes -= stored_bytes(KEY, old);
            n
        } else {
            self.next += 1;
            self.live.push((self.next, len));
            self.next
        };
        self.bytes += stored_bytes(KEY, len);
        fill(&mut self.buffer[..len as usize], n);
        let outcome = insert(self.writer, &key(n), &self.buffer[..len as usize]);
        let done =
            if replaces { matches!(outcome, Outcome::Replaced { .. }) } else { matches!(outcome, Outcome::Inserted { .. }) };
        assert!(done, "{outcome:?} for {len} bytes after {} of {} live bytes", self.bytes, self.target);
        ops
    }
}

fn churn(memory: &Memory, share: u64, most: u32, ops: u64) {
    let table = memory.format();
    let mut writer = table.writer(0);
    let target = table.stats().memory_limit_bytes / 100 * share;
    let mut churn = Churn {
        writer: &mut writer,
        random: Random(20_261_121),
        live: Vec::new(),
        bytes: 0,
        target,
        next: 0,
        buffer: vec![0; most as usize],
        most,
    };
    let mut done = 0;
    while done < ops {
        for _ in 0..64 {
            done += churn.step();
        }
        churn.writer.memory_ahead(16);
    }
    let items = churn.live.len() as u64;
    assert_eq!(table.stats().items, items);
    assert!(table.stats().memory_used_bytes <= table.stats().memory_limit_bytes);
    table.check_invariants().expect("invariants");
    drop(writer);
    table.check_invariants().expect("invariants without writers");
    drop(table);
    let (table, recovery) = memory.join().expect("join");
    assert_eq!((recovery.items, recovery.dropped_slots), (items, 0));
    table.check_invariants().expect("invariants after join");
}

#[test]
fn sizes_from_16_bytes_to_64_kib_churn_at_95_percent_of_the_limit() {
    let (megabytes, ops) = if cfg!(debug_assertions) { (256, 400_000) } else { (256, 5_000_000) };
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (megabytes, ops, share) = (number("MEGABYTES", megabytes), number("OPS", ops), number("SHARE", 95));
    churn(&Memory::new(megabytes << 20, megabytes * 32, 1 << 16), share, 64 << 10, ops);
}
