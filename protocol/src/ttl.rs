//! Times to live, as people and requests give them.
//!
//! Requests carry them relative, in milliseconds: only the server's clock decides when an item is over. One rule for every
//! place where a time to live is taken: below a millisecond it is rounded up, so that only 0 is over at once, and
//! beyond [`MAX_TTL_MS`] it is cut to that.

use std::time::Duration;

/// Longest time to live in milliseconds, 34 years: an item's expiry has 40 bits.
pub const MAX_TTL_MS: u64 = (1 << 40) - 1;

/// How long an item is to live from the moment the server stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// Until it is removed.
    #[default]
    None,
    /// As long as the item that it replaces; without one until it is removed.
    Keep,
    /// So long. Parts of a millisecond count as a whole one; 0 is over at once; beyond 2^40 − 1 ms (34 years) it is cut to that.
    For(Duration),
}

/// A time to live in milliseconds, rounded up and cut to [`MAX_TTL_MS`].
#[inline]
pub fn ttl_ms(ttl: Duration) -> u64 {
    let whole = ttl.as_secs().saturating_mul(1000);
    whole.saturating_add(ttl.subsec_nanos().div_ceil(1_000_000).into()).min(MAX_TTL_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_millisecond_count_whole_and_ages_are_cut() {
        for (ttl, ms) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(1), 1),
            (Duration::from_nanos(1_000_001), 2),
            (Duration::from_nanos(999_000_001), 1000),
            (Duration::from_secs(60), 60_000),
            (Duration::from_millis(MAX_TTL_MS), MAX_TTL_MS),
            (Duration::from_millis(MAX_TTL_MS + 1), MAX_TTL_MS),
            (Duration::MAX, MAX_TTL_MS),
        ] {
            assert_eq!(ttl_ms(ttl), ms, "{ttl:?}");
        }
    }
}
