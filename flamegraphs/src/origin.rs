//! Where a graph comes from: the commit and the kernel that its title names.

use std::process::{Command, Stdio};

use nix::sys::utsname::uname;

use crate::error::Error;

/// What was recorded, and on what.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The commit, marked where the tree differs from it.
    pub(crate) commit: String,
    /// The kernel's release and the machine's kind.
    pub(crate) kernel: String,
}

impl Origin {
    /// Asks git and the kernel.
    pub(crate) fn find() -> Result<Self, Error> {
        let system = uname().map_err(|error| Error::io("asking for the kernel's release")(error.into()))?;
        let (release, machine) = (system.release().to_string_lossy(), system.machine().to_string_lossy());
        let commit = match git(&["rev-parse", "--short", "HEAD"]) {
            // The graphs are what this program changes itself.
            Some(commit) => {
                match git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!flamegraphs"]).as_deref() {
                    Some("") => commit,
                    _ => format!("{commit} with changes"),
                }
            }
            None => "unknown".to_owned(),
        };
        Ok(Self { commit, kernel: format!("Linux {release} {machine}") })
    }

    /// A graph's title.
    pub(crate) fn title(&self, name: &str, command: &[String]) -> String {
        format!("{name}: {}; commit {}; {}", command.join(" "), self.commit, self.kernel)
    }
}

/// What git says, where there is a git and a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
