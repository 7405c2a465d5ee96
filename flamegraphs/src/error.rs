//! What can go wrong, worded for the person who runs it.

use std::io;

/// Why the graphs could not be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    /// There is no perf.
    #[error("finding perf: it is not installed; install it (Debian: apt-get install linux-perf)")]
    NoPerf,
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A part shared with the benchmarks failed.
    #[error(transparent)]
    Benchmark(#[from] benchmark::Error),
    /// Something is missing or failed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Turns an I/O error into one that says what was being done.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}
