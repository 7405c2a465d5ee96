//! `client doctor`: what keeps a region from working, and what to do about it.
//!
//! `examine` gathers facts about the files of a directory, `judge` turns facts into findings without looking at anything, and
//! `clean` removes what a dead server left. Whether a server is alive is decided by its lock alone.

mod clean;
mod examine;
mod judge;

use std::path::Path;

use nix::sys::statvfs::statvfs;
use shmtable::exit::ExitCode;

use crate::args;
use crate::commands::Context;
use crate::failure::Failure;
use crate::output::{Object, Output};

/// Less room than this is a finding: what a server needs to start with its defaults.
const LEAST_ROOM: u64 = 64 << 20;

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// `ok`, `kept`, `removed` or the kind of problem.
    status: &'static str,
    /// The region or path it is about.
    subject: String,
    /// What was found.
    detail: String,
    /// What to do; a finding with nothing to do is no problem.
    remedy: Option<String>,
    /// Whether `--clean` removes what it is about.
    removable: bool,
}

impl Finding {
    fn fine(status: &'static str, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, subject: subject.into(), detail: detail.into(), remedy: None, removable: false }
    }

    fn problem(status: &'static str, subject: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::fine(status, subject, detail) }
    }

    fn removable(self) -> Self {
        Self { removable: true, ..self }
    }

    fn is_problem(&self) -> bool {
        self.remedy.is_some()
    }
}

/// Examines the directory, prints a line per finding, and removes what is asked to be removed.
pub(crate) fn run(context: &mut Context<'_>, args: &args::Doctor) -> Result<ExitCode, Failure> {
    let dir = &context.global.dir;
    let mut problems = false;
    for pair in examine::pairs(dir)? {
        for mut finding in judge::pair(&pair) {
            if finding.removable && args.clean {
                finding = clean::remove(dir, &pair);
            }
            problems |= finding.is_problem();
            print(&mut context.output, &finding)?;
        }
    }
    let finding = room(dir)?;
    problems |= finding.is_problem();
    print(&mut context.output, &finding)?;
    Ok(if problems { ExitCode::NotMet } else { ExitCode::Done })
}

fn room(dir: &Path) -> Result<Finding, Failure> {
    let stat =
        statvfs(dir).map_err(|errno| Failure::io(format!("asking for the room in {} failed", dir.display()))(errno.into()))?;
    Ok(judge_room(dir, stat.blocks_available() * stat.fragment_size()))
}

fn judge_room(dir: &Path, free: u64) -> Finding {
    let (subject, detail) = (dir.display().to_string(), format!("{} MiB free", free >> 20));
    if free >= LEAST_ROOM {
        return Finding::fine("ok", subject, detail);
    }
    Finding::problem(
        "room",
        subject,
        format!("{detail} against {} MiB", LEAST_ROOM >> 20),
        "remove what is not needed there or enlarge it (docker: --shm-size; else mount -o remount,size=)",
    )
}

fn print(output: &mut Output, finding: &Finding) -> Result<(), Failure> {
    let Finding { status, subject, detail, remedy, .. } = finding;
    let line = match remedy {
        Some(remedy) => format!("{status} {subject}: {detail}; {remedy}"),
        None => format!("{status} {subject}: {detail}"),
    };
    output.either(line, || {
        let object = Object::new().text("status", status).text("subject", subject).text("detail", detail);
        match remedy {
            Some(remedy) => object.text("remedy", remedy),
            None => object,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_a_problem_with_a_remedy() {
        let dir = Path::new("/d");
        assert!(!judge_room(dir, LEAST_ROOM).is_problem());
        let finding = judge_room(dir, LEAST_ROOM - 1);
        assert!(finding.is_problem() && !finding.removable);
        assert_eq!(finding.detail, "63 MiB free against 64 MiB");
    }
}
