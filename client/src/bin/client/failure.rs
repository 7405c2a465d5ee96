//! What can end a command before its work is done, each with its line for stderr and its exit code.

use std::io;

use shmtable::Error;
use shmtable::exit::ExitCode;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library refused or failed.
    Client(Error),
    /// The library failed while a given line of an input was worked on, or in another place worth naming.
    At {
        /// Where: `load failed at line 7`.
        place: String,
        /// The library's error.
        error: Error,
    },
    /// A condition does not hold or something is not there; the line says which.
    NotMet(String),
    /// The arguments make no sense together or name something that is not there.
    Usage(String),
    /// The input is not acceptable.
    Refused(String),
    /// Reading or writing failed.
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl Failure {
    /// An input or output failure with its context.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    /// The line for stderr, or `None` where the exit code says enough.
    pub(crate) fn line(&self) -> Option<String> {
        Some(match self {
            Self::Client(error) => one_line(&error.to_string()),
            Self::At { place, error } => one_line(&format!("{place}: {error}")),
            Self::NotMet(line) | Self::Usage(line) | Self::Refused(line) => one_line(line),
            Self::Io { what, source } => one_line(&format!("{what}: {source}")),
        })
    }

    /// The exit code.
    pub(crate) fn status(&self) -> ExitCode {
        match self {
            Self::Client(error) | Self::At { error, .. } => error.exit_code(),
            Self::NotMet(_) => ExitCode::NotMet,
            Self::Usage(_) => ExitCode::Usage,
            Self::Refused(_) => ExitCode::Refused,
            Self::Io { .. } => ExitCode::Internal,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

/// Errors are one line, whatever a path or a system message contains.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_in_a_message_does_not_break_the_line() {
        let failure = Failure::Usage("load of \"a\nb\" failed".into());
        assert_eq!(failure.line().as_deref(), Some("load of \"a b\" failed"));
        assert_eq!(failure.status() as u8, 2);
    }

    #[test]
    fn each_kind_has_its_code() {
        assert_eq!(Failure::NotMet(String::new()).status() as u8, 1);
        assert_eq!(Failure::Refused(String::new()).status() as u8, 6);
        assert_eq!(Failure::io("x")(io::Error::other("y")).status() as u8, 70);
    }
}
