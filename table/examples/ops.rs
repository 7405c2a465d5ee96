//! Times insert, get, update and delete through one writer, each answer checked: `ops [KEYS] [ROUNDS]`.

#[path = "../tests/memory/mod.rs"]
mod memory;

use std::time::{Duration, Instant};
use table::{Condition, Expiry, Outcome, Ticket};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let keys = arguments.next().unwrap_or(10_000);
    let rounds = arguments.next().unwrap_or_else(|| (10_000_000 / keys).max(1));
    let memory = memory::Memory::new((keys * 160).max(16 << 20), (keys / 4).max(64), 1 << 20);
    let table = memory.format();
    let mut writer = table.writer(0);
    let names: Vec<[u8; 16]> = (0..keys)
        .map(|n| table::hash(n, b"name").to_le_bytes())
        .map(|h| {
            let mut name = [b'.'; 16];
            name[..8].copy_from_slice(&h);
            name
        })
        .collect();
    let mut spent = [Duration::ZERO; 4];
    let mut best = [f64::MAX; 4];
    for round in 0..rounds {
        let ticket = |n: usize| Ticket { shard: 0, client: 1, generation: 1, position: round * keys + n as u64 };
        let start = Instant::now();
        for (n, name) in names.iter().enumerate() {
            let hash = writer.hash(name);
            let added =
                writer.insert(name, &(n as u64).to_le_bytes(), hash, Condition::None, Expiry::Never, &ticket(n), |outcome| {
                    matches!(outcome, Outcome::Inserted { .. })
                });
            assert!(added);
        }
        let inserted = Instant::now();
        for (n, name) in names.iter().enumerate() {
            let item = writer.get(name, writer.hash(name)).expect("present");
            let mut value = [0; 8];
            // SAFETY: the array has eight bytes.
            unsafe { writer.read_value(&item, 0, 8, value.as_mut_ptr()) }.expect("unchanged");
            assert_eq!(u64::from_le_bytes(value), n as u64);
        }
        let got = Instant::now();
        for (n, name) in names.iter().enumerate() {
            let hash = writer.hash(name);
            let replaced = writer.insert(name, &[7; 8], hash, Condition::None, Expiry::Never, &ticket(n), |outcome| {
                matches!(outcome, Outcome::Replaced { .. })
            });
            assert!(replaced);
        }
        let updated = Instant::now();
        for (n, name) in names.iter().enumerate() {
            let hash = writer.hash(name);
            let deleted =
                writer.delete(name, hash, Condition::None, &ticket(n), |outcome| matches!(outcome, Outcome::Deleted { .. }));
            assert!(deleted);
        }
        let end = Instant::now();
        for (which, time) in [inserted - start, got - inserted, updated - got, end - updated].into_iter().enumerate() {
            spent[which] += time;
            best[which] = best[which].min(time.as_nanos() as f64 / keys as f64);
        }
    }
    for (name, (time, best)) in ["insert", "get", "update", "delete"].iter().zip(spent.iter().zip(best)) {
        println!("{name}: mean {:.1} ns, best round {best:.1} ns", time.as_nanos() as f64 / (keys * rounds) as f64);
    }
    for (n, name) in names.iter().enumerate() {
        let hash = writer.hash(name);
        let ticket = Ticket { position: n as u64, ..Ticket::default() };
        writer.insert(name, &(n as u64).to_le_bytes(), hash, Condition::None, Expiry::Never, &ticket, |_| ());
    }
    drop(writer);
    let stats = table.stats();
    let overhead = (stats.memory_used_bytes as f64 - 24.0 * stats.items as f64) / stats.items as f64;
    drop(table);
    let start = Instant::now();
    let (_, recovery) = memory.join().expect("join");
    let spent = start.elapsed().as_secs_f64() * 1e3;
    assert_eq!((recovery.items, recovery.dropped_slots), (keys, 0));
    println!("join: {spent:.1} ms for {keys} items; committed beyond key and value: {overhead:.1} bytes per item");
}
