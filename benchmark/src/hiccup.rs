//! The longest pause of a loop that does nothing but read the clock: what the machine itself adds to every maximum.

use std::time::Duration;

use crate::clock::Clock;

/// Longest distance between two readings of the clock during `duration`, in nanoseconds.
pub fn longest_pause_ns(clock: &Clock, duration: Duration) -> f64 {
    let begin = clock.now();
    let end = begin + clock.ticks(duration);
    let (mut last, mut longest) = (begin, 0);
    while last < end {
        let now = clock.now();
        longest = longest.max(now.saturating_sub(last));
        last = now;
    }
    clock.ns(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_lies_between_one_reading_and_the_whole() {
        let clock = Clock::calibrate();
        let pause = longest_pause_ns(&clock, Duration::from_millis(3));
        assert!(pause > 0.0, "two readings of a clock cannot coincide for 3 ms");
    }
}
