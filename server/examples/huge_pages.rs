//! Whether making huge pages disturbs readers: latencies of reads of memory that is there, while more is committed beside it.
//!
//! One thread reads random words of the first half of a file in shared memory. Meanwhile another backs the second half piece by
//! piece: not at all, by touching small pages, or by making huge ones, as the server does. Prints percentiles, and what a
//! piece costs. Run it with `cargo run --release -p server --example huge_pages`.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, fallocate};
use shmqueue::aligned_map::{AlignedMap, HUGE_PAGE, Right};

const HALF: usize = 512 << 20;
const PACE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Nothing,
    SmallPages,
    HugePages,
    /// Huge pages of the very memory that is read.
    UnderTheReader,
}

fn advise(map: &AlignedMap, at: usize, len: usize, advice: i32) -> bool {
    // SAFETY: the range is inside of the mapping and backed; neither advice changes a byte.
    unsafe { libc::madvise(map.base().as_ptr().add(at).cast(), len, advice) == 0 }
}

fn back(file: &File, map: &AlignedMap, at: usize, way: Way) -> bool {
    fallocate(file, FallocateFlags::empty(), at as i64, HUGE_PAGE as i64).expect("shared memory");
    let huge = way == Way::HugePages && advise(map, at, HUGE_PAGE, libc::MADV_COLLAPSE);
    advise(map, at, HUGE_PAGE, libc::MADV_POPULATE_WRITE);
    huge
}

fn run(first: Way, second: Way) {
    let file = tempfile::tempfile_in("/dev/shm").expect("shared memory");
    file.set_len(2 * HALF as u64).expect("lengthened");
    let map = AlignedMap::new(&file, 2 * HALF, Right::Write).expect("mapped");
    for at in (0..HALF).step_by(HUGE_PAGE) {
        back(&file, &map, at, first);
    }
    let done = AtomicBool::new(false);
    let (mut reads, mut pieces, mut huge) = (Vec::with_capacity(1 << 25), Vec::new(), 0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut random, mut sum) = (88_172_645_463_325_252u64, 0u64);
            while !done.load(Relaxed) && reads.len() < reads.capacity() {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = random as usize % (HALF / 8) * 8;
                let begin = Instant::now();
                // SAFETY: aligned, inside of the mapping and backed; all accesses are atomic.
                sum ^= unsafe { AtomicU64::from_ptr(map.base().as_ptr().add(at).cast()) }.load(Relaxed);
                reads.push(begin.elapsed().as_nanos() as u32);
            }
            std::hint::black_box(sum);
        });
        for at in (HALF..2 * HALF).step_by(HUGE_PAGE) {
            let begin = Instant::now();
            if second == Way::UnderTheReader {
                huge += u32::from(advise(&map, at - HALF, HUGE_PAGE, libc::MADV_COLLAPSE));
            } else if second != Way::Nothing {
                huge += u32::from(back(&file, &map, at, second));
            }
            pieces.push(begin.elapsed().as_micros() as u32);
            std::thread::park_timeout(PACE);
        }
        done.store(true, Relaxed);
        reader.join().expect("the reader");
    });
    reads.sort_unstable();
    pieces.sort_unstable();
    let at = |share: f64| reads[((reads.len() - 1) as f64 * share) as usize];
    println!(
        "read {first:?}, beside {second:?}: p50 {} p99 {} p99.9 {} p99.99 {} max {} ns; a piece: median {} max {} us, {huge} huge",
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0),
        pieces[pieces.len() / 2],
        pieces[pieces.len() - 1],
    );
}

fn main() {
    for _ in 0..2 {
        for (first, second) in [
            (Way::SmallPages, Way::Nothing),
            (Way::SmallPages, Way::SmallPages),
            (Way::SmallPages, Way::HugePages),
            (Way::SmallPages, Way::UnderTheReader),
            (Way::HugePages, Way::Nothing),
            (Way::HugePages, Way::SmallPages),
            (Way::HugePages, Way::HugePages),
        ] {
            run(first, second);
        }
    }
}
