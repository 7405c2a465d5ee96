//! Waiting: how long to spin, when to yield, how to sleep, and how to wake.
//!
//! Sleepers sleep on words of the region, so the futexes are *shared* ones: a private futex never wakes another process.
//! Every sleep has a deadline after which the sleeper looks for itself, because whoever should wake it may have been stopped
//! between its store and its system call (I1).

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::futex;

use crate::sync::{AtomicU32, AtomicU64};

/// How a process waits for the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitMode {
    /// Spins until there is something: lowest latency, one core busy.
    Spin,
    /// Spins while a core is free for it, then yields a few times, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once: lowest CPU use.
    Block,
}

impl FromStr for WaitMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "spin" => Ok(Self::Spin),
            "adaptive" => Ok(Self::Adaptive),
            "block" => Ok(Self::Block),
            _ => Err(format!("unknown way to wait: {text:?} against spin, adaptive or block; name one of them")),
        }
    }
}

impl fmt::Display for WaitMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Block => "block",
        })
    }
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody rang, or the word had already changed.
    Rung,
    /// The deadline passed.
    Deadline,
    /// A signal handler ran.
    Signal,
}

/// Sleeps while `word` holds `value`, until rung with a bit of `bits`, or for `at_most`.
pub fn sleep(word: &AtomicU32, value: u32, bits: NonZeroU32, at_most: Duration) -> Woken {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = now.tv_nsec + i64::from(at_most.subsec_nanos());
    let deadline = futex::Timespec {
        tv_sec: now.tv_sec + at_most.as_secs().min(1 << 30) as i64 + nanos / 1_000_000_000,
        tv_nsec: nanos % 1_000_000_000,
    };
    match futex::wait_bitset(word, futex::Flags::empty(), value, Some(&deadline), bits) {
        Err(Errno::TIMEDOUT) => Woken::Deadline,
        Err(Errno::INTR) => Woken::Signal,
        _ => Woken::Rung,
    }
}

/// Wakes every sleeper on `word` that has a bit of `bits`.
pub fn wake(word: &AtomicU32, bits: NonZeroU32) {
    let _ = futex::wake_bitset(word, futex::Flags::empty(), i32::MAX as u32, bits);
}

/// The low half of a position, as the futex word that it is.
pub fn low_half(word: &AtomicU64) -> &AtomicU32 {
    const { assert!(cfg!(target_endian = "little"), "the low half comes first only in little-endian memory") };
    // SAFETY: the reference covers the first four bytes of an atomic word that lives as long; both types allow shared access, and
    // the kernel compares just these bytes.
    unsafe { &*std::ptr::from_ref(word).cast::<AtomicU32>() }
}

/// The bit under which a client sleeps: clients share the 32 bits of a futex bitset.
pub fn bit_of(client: u32) -> NonZeroU32 {
    NonZeroU32::new(1 << (client % 32)).unwrap_or(NonZeroU32::MIN)
}

/// The CPU that runs the caller.
#[inline]
pub fn current_cpu() -> u32 {
    // SAFETY: takes no argument; in glibc it reads the thread's own restartable-sequence area.
    unsafe { libc::sched_getcpu() as u32 }
}

/// CPUs that the calling thread may run on, as its affinity says.
pub fn affinity() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => vec![0],
    }
}

/// Restricts the calling thread to some CPUs. Failing to is no error: it only costs fairness.
pub fn set_affinity(cpus: &[usize]) {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in cpus.iter().filter(|cpu| **cpu < rustix::thread::CpuSet::MAX_CPU) {
        set.set(*cpu);
    }
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// A stopwatch that looks at the clock only now and then.
#[derive(Debug)]
pub(crate) struct Pacer {
    start: Instant,
    steps: u32,
}

impl Pacer {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), steps: 0 }
    }

    /// Counts a step; every `every` steps (a power of two) tells the time since the start.
    #[inline]
    pub(crate) fn step(&mut self, every: u32) -> Option<Duration> {
        self.steps = self.steps.wrapping_add(1);
        (self.steps & (every - 1) == 0).then(|| self.start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;

    #[test]
    fn a_sleep_on_a_changed_word_ends_at_once() {
        let word = AtomicU32::new(2);
        assert_eq!(sleep(&word, 1, bit_of(0), Duration::from_secs(60)), Woken::Rung);
    }

    #[test]
    fn a_sleep_ends_at_its_deadline() {
        let word = AtomicU32::new(1);
        let start = Instant::now();
        assert_eq!(sleep(&word, 1, bit_of(0), Duration::from_millis(20)), Woken::Deadline);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_wake_reaches_only_the_bits_it_names() {
        let word = AtomicU64::new(7 << 32 | 1);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while low_half(&word).load(Ordering::Acquire) == 1 {
                    sleep(low_half(&word), 1, bit_of(3), Duration::from_secs(60));
                }
            });
            word.fetch_add(1, Ordering::Release);
            while !sleeper.is_finished() {
                wake(low_half(&word), bit_of(3));
                std::thread::yield_now();
            }
        });
        assert_eq!(bit_of(35), bit_of(3));
    }

    #[test]
    fn ways_to_wait_are_named_as_the_flags_name_them() {
        for mode in [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Block] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("busy".parse::<WaitMode>().is_err());
    }
}
