//! What can go wrong in a benchmark, worded for the person who runs it.

use std::io;

/// Why a benchmark could not finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The library under test refused something.
    #[error("{what}: {source}")]
    Table {
        /// What was being done.
        what: String,
        /// What the library said.
        source: shmtable::Error,
    },
    /// Something is missing, took too long or answered wrongly.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Turns an I/O error into one that says what was being done.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what: what.into(), source: source.into() }
    }

    /// Turns a library error into one that says what was being done.
    pub fn table(what: impl Into<String>) -> impl FnOnce(shmtable::Error) -> Self {
        move |source| Self::Table { what: what.into(), source }
    }

    /// A failure in words.
    pub fn failed<T>(what: impl Into<String>) -> Result<T, Self> {
        Err(Self::Failed(what.into()))
    }
}
