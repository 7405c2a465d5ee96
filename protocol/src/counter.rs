//! The server's counters in the region's status page.

/// Index of a counter in the status page.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as `client stats` prints them")]
pub enum Counter {
    Items = 0,
    Buckets = 1,
    MemoryUsedBytes = 2,
    MemoryLimitBytes = 3,
    Clients = 4,
    RequestsTotal = 5,
    HitsTotal = 6,
    MissesTotal = 7,
    DirectHitsTotal = 8,
    DirectMissesTotal = 9,
    DirectRetriesTotal = 10,
    ExpiredTotal = 11,
    EvictedTotal = 12,
    FullTotal = 13,
    RefusedTotal = 14,
    ExpiryLagMs = 15,
}

/// What handlers count per shard.
pub const TALLIES: usize = 4;

/// Index of a tally in a shard's status.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Reads that found their key.
    Hits = 0,
    /// Reads that did not.
    Misses = 1,
    /// Requests refused for their input.
    Refused = 2,
}

/// Index of a tally that a client keeps in the head of its request lane.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTally {
    /// Direct reads that found their key.
    DirectHits = 0,
    /// Direct reads that did not.
    DirectMisses = 1,
    /// Tries of direct reads that a writer made vain.
    DirectRetries = 2,
}

/// Every counter with the name that `client stats` prints; `expiry_lag_seconds` is derived from [`Counter::ExpiryLagMs`].
pub const COUNTERS: [(Counter, &str); 15] = [
    (Counter::Items, "items"),
    (Counter::Buckets, "buckets"),
    (Counter::MemoryUsedBytes, "memory_used_bytes"),
    (Counter::MemoryLimitBytes, "memory_limit_bytes"),
    (Counter::Clients, "clients"),
    (Counter::RequestsTotal, "requests_total"),
    (Counter::HitsTotal, "hits_total"),
    (Counter::MissesTotal, "misses_total"),
    (Counter::DirectHitsTotal, "direct_hits_total"),
    (Counter::DirectMissesTotal, "direct_misses_total"),
    (Counter::DirectRetriesTotal, "direct_retries_total"),
    (Counter::ExpiredTotal, "expired_total"),
    (Counter::EvictedTotal, "evicted_total"),
    (Counter::FullTotal, "full_total"),
    (Counter::RefusedTotal, "refused_total"),
];
