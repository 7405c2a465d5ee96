//! A clock cheap enough to stand around every call: the CPU's counter where it is invariant, `Instant` elsewhere.
//!
//! Nothing is subtracted for the clock's own cost: a measured call includes it, the ping-pong it is compared with does not
//! (it reads the clock once per batch), so the ratio errs against us.

use std::time::{Duration, Instant};

/// How long the counter is compared with the system's clock.
const CALIBRATION: Duration = Duration::from_millis(30);

/// Reads ticks and turns them into nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ns_per_tick: f64,
    counter: bool,
    origin: Instant,
}

impl Clock {
    /// A calibrated clock; takes some 30 ms.
    pub fn calibrate() -> Self {
        let origin = Instant::now();
        if !counter_is_invariant() {
            return Self { ns_per_tick: 1.0, counter: false, origin };
        }
        let first = read_counter();
        while origin.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let elapsed = origin.elapsed();
        let ticks = read_counter().wrapping_sub(first).max(1);
        Self { ns_per_tick: elapsed.as_nanos() as f64 / ticks as f64, counter: true, origin }
    }

    /// The present moment in ticks.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        if self.counter { read_counter() } else { self.origin.elapsed().as_nanos() as u64 }
    }

    /// A difference of ticks in nanoseconds.
    #[inline]
    pub fn ns(&self, ticks: u64) -> f64 {
        ticks as f64 * self.ns_per_tick
    }

    /// Nanoseconds in ticks.
    pub fn ticks(&self, duration: Duration) -> u64 {
        (duration.as_nanos() as f64 / self.ns_per_tick) as u64
    }

    /// What is read: `counter` or `instant`.
    pub fn source(&self) -> &'static str {
        if self.counter { "counter" } else { "instant" }
    }
}

#[cfg(target_arch = "x86_64")]
fn counter_is_invariant() -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") else {
        return false;
    };
    let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag| flags.split_whitespace().any(|word| word == flag);
    has("constant_tsc") && has("nonstop_tsc")
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn read_counter() -> u64 {
    // SAFETY: both instructions belong to the baseline of x86-64 and touch no memory; the fence keeps the reading from
    // moving before the loads that precede it.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_rdtsc()
    }
}

#[cfg(target_arch = "aarch64")]
fn counter_is_invariant() -> bool {
    true
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn read_counter() -> u64 {
    let ticks: u64;
    // SAFETY: Linux lets user code read the virtual counter, which touches no memory; `isb` keeps the reading in order.
    unsafe { std::arch::asm!("isb", "mrs {ticks}, cntvct_el0", ticks = out(reg) ticks, options(nomem, nostack)) };
    ticks
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter_is_invariant() -> bool {
    false
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read_counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_difference_is_never_shorter_than_the_loop_it_spans() {
        let clock = Clock::calibrate();
        let start = Instant::now();
        let first = clock.now();
        while start.elapsed() < Duration::from_millis(5) {}
        let ns = clock.ns(clock.now() - first);
        // Calibration errs by far less than a tenth.
        assert!(ns > 4.5e6, "{ns} ns for 5 ms by {}", clock.source());
    }

    #[test]
    fn durations_and_ticks_convert_back() {
        let clock = Clock::calibrate();
        let ns = clock.ns(clock.ticks(Duration::from_micros(1234)));
        assert!((ns - 1_234_000.0).abs() < 100.0, "{ns}");
    }
}
