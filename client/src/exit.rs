//! Exit codes: the contract's, in one place for every program of the project.

/// How a program ended.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Not found, condition not met, verification failed.
    NotMet = 1,
    /// Wrong usage.
    Usage = 2,
    /// No server, the name taken, or no client slot.
    NoServer = 3,
    /// Timed out; of a write: outcome unknown.
    TimedOut = 4,
    /// The table is full.
    Full = 5,
    /// Refused input: empty or too long a key, too long a value, wrong type.
    Refused = 6,
    /// A broken promise of our own or of the machine.
    Internal = 70,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
