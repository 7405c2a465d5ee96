//! A process that writes nonsense wherever a client may write.

use std::fs::OpenOptions;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::MmapRaw;
use shmqueue::layout::Section;
use shmqueue::region::{ClientRegion, RegionName};
use shmtable::{Client, MAX_KEY, Operation, Options};

use crate::actor::{Actor, Part};
use crate::board::{Board, Word};
use crate::daemon::Daemon;
use crate::reclaimed::take_all;
use crate::values::{Random, seed, value};

const SLOTS: usize = 8;

/// Works with short timeouts, minds no error and no wrong answer, and now and then attaches anew.
pub(crate) fn play_honest(part: &Part) {
    let mut random = Random::new(part.numbers[0]);
    let options = part.options().timeout(Duration::from_millis(20));
    while !part.board.stopped() {
        let Ok(mut client) = Client::attach(&options) else {
            part.add(Word::Errors);
            std::thread::yield_now();
            continue;
        };
        part.set(Word::Slot, u64::from(client.id()) + 1);
        for _ in 0..200 {
            let key = format!("{}-{}", part.line, random.below(50)).into_bytes();
            let worked = match random.below(6) {
                0 => client.read(&key).is_ok(),
                1 => client.delete(&key).is_ok(),
                2 => client.bucket(&key).is_ok(),
                3 => {
                    let mut pipeline = client.pipeline(50);
                    (0..100).all(|_| pipeline.submit(&Operation::Read { key: &key }, &mut |_| {}).is_ok())
                        && pipeline.finish(&mut |_| {}).is_ok()
                }
                4 => {
                    let bytes = value(random.next(), 1000);
                    let insert = Operation::insert(&key, &bytes);
                    client.try_submit(&insert).is_ok() && client.wait().is_ok() && client.poll(&mut |_| {}).is_ok()
                }
                _ => client.insert(&key, &value(random.next(), random.length())).is_ok(),
            };
            part.add(if worked { Word::Acked } else { Word::Errors });
            if part.board.stopped() {
                break;
            }
        }
    }
}

/// Numbers: seed, milliseconds, and bits of what to write into: claims, request rings, request lanes.
pub(crate) fn play_hostile(part: &Part) {
    let [seed, ms, targets] = part.numbers[..] else { panic!("a seed, a duration and targets") };
    let mut random = Random::new(seed);
    let name = RegionName::new(&part.dir, "shmtable").expect("a name");
    let region = ClientRegion::join(&name).expect("joined");
    // A slot and a lane of its own, which it never gives back.
    let own = Client::attach(&part.options().client_name("hostile")).expect("attached");
    let file = OpenOptions::new().read(true).write(true).open(name.rings_path()).expect("a client may write the rings");
    let map = MmapRaw::map_raw(&file).expect("mapped");
    let word = |offset: u64| {
        // SAFETY: the offset is a multiple of eight within a section of the region, which is as long as the mapping; everybody uses these
        // words through atomics.
        unsafe { &*map.as_ptr().add(offset as usize).cast::<AtomicU64>() }
    };
    let sections: Vec<_> = [Section::Claims, Section::RequestRings, Section::RequestLanes]
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| targets & 1 << bit != 0)
        .map(|(_, section)| region.layout().section(section))
        .collect();
    part.set(Word::Slot, u64::from(own.id()) + 1);
    std::mem::forget(own);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(ms) {
        for _ in 0..64 {
            let section = &sections[random.below(sections.len() as u64) as usize];
            let within = |random: &mut Random| section.offset + random.below(section.len / 8) * 8;
            let near = |random: &mut Random| {
                let page = section.offset + random.below(section.len / 4096) * 4096;
                page + random.below(32) * 8
            };
            let at = if random.below(2) == 0 { within(&mut random) } else { near(&mut random) };
            let found = word(at).load(Ordering::Relaxed);
            let nonsense = match random.below(8) {
                0 => random.next(),
                1 => 0,
                2 => u64::MAX,
                3 => found.wrapping_add(1),
                4 => found ^ 1 << random.below(64),
                5 => random.below(4096),
                // What makes sense elsewhere.
                _ => word(within(&mut random)).load(Ordering::Relaxed),
            };
            word(at).store(nonsense, Ordering::Relaxed);
        }
        part.add(Word::Acked);
    }
}

fn survives(targets: u64, ms: u64, threads: &str) {
    let mut random = Random::new(seed("hostile"));
    let server =
        Daemon::start(&["--clients", "8", "-n", threads, "-s", "4096", "--memory", "512MiB", "--evict", "--log-level", "error"]);
    let board = Board::new();
    let mut honest: Vec<_> = (1..=4).map(|line| Actor::start("honest", server.dir(), &board, line, &[random.next()])).collect();
    for actor in &mut honest {
        actor.reaches(&board, Word::Acked, 100);
    }
    Actor::start("hostile", server.dir(), &board, 5, &[random.next(), ms, targets]).finish();
    assert!(board.get(5, Word::Acked) > 0);
    board.stop();
    honest.into_iter().for_each(Actor::finish);
    // Everybody attaches anew, and everything works.
    let options = Options::new("shmtable").dir(server.dir()).timeout(Duration::from_secs(50));
    let mut clients = take_all(&options, SLOTS);
    for item in clients[0].scan() {
        let item = item.expect("the table makes sense");
        assert!((1..=MAX_KEY).contains(&item.key.len()) && item.value.len() <= 1 << 20);
    }
    for round in 0..50 {
        for (number, client) in (0..).zip(&mut clients) {
            let (key, value) = (format!("new {number}-{round}").into_bytes(), value(number + round, (number * 3000) as usize));
            client.insert(&key, &value).expect("stored");
            assert!(client.read(&key).expect("an answer") == Some(value));
        }
    }
    clients[0].clear().expect("cleared");
    assert_eq!(clients[1].scan().count(), 0);
}

#[test]
fn nonsense_in_claims() {
    survives(0b001, 400, "2");
}

#[test]
fn nonsense_in_request_rings() {
    survives(0b010, 400, "2");
}

#[test]
fn nonsense_in_request_lanes() {
    survives(0b100, 400, "2");
}

#[test]
fn nonsense_everywhere() {
    survives(0b111, 1000, "4");
}
