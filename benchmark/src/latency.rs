//! Latencies of single calls: exact to three digits from 1 ns to a minute.

use hdrhistogram::Histogram;

use crate::Error;

const HIGHEST_NS: u64 = 60_000_000_000;

/// A histogram of nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    /// An empty one.
    pub fn new() -> Result<Self, Error> {
        let histogram = Histogram::new_with_bounds(1, HIGHEST_NS, 3);
        Ok(Self { histogram: histogram.map_err(|error| Error::Failed(format!("making a histogram: {error}")))? })
    }

    /// Adds one call; what lies beyond the bounds counts as the bound.
    #[inline]
    pub fn record(&mut self, ns: f64) {
        self.histogram.saturating_record((ns as u64).max(1));
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds, so that nothing can lie outside.
        let _ = self.histogram.add(&other.histogram);
    }

    /// The value that a fraction `q` of the calls does not exceed.
    pub fn quantile(&self, q: f64) -> f64 {
        self.histogram.value_at_quantile(q) as f64
    }

    /// The longest call.
    pub fn max(&self) -> f64 {
        self.histogram.max() as f64
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        self.histogram.mean()
    }

    /// Calls recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_recorded_calls() {
        let mut all = Latencies::new().unwrap();
        let mut part = Latencies::new().unwrap();
        for ns in 1..=1000 {
            part.record(f64::from(ns));
        }
        all.add(&part);
        part.clear();
        assert_eq!((all.count(), part.count()), (1000, 0));
        assert_eq!((all.quantile(0.5), all.quantile(0.99), all.max()), (500.0, 990.0, 1000.0));
    }

    #[test]
    fn a_call_beyond_the_bounds_is_not_lost() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(1e12);
        latencies.record(0.0);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.max() >= 6e10);
    }
}
