//! Recording with perf.
//!
//! Stacks are unwound from copies of the stack by the debug information (`--call-graph dwarf`): the binaries have no frame
//! pointers, and are recorded as they are measured.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use benchmark::cleanup::{self, Leftover, Watched};
use benchmark::server_process::{beside_us, forget_environment};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::error::Error;

/// Samples per second and core: not a divisor of the scheduler's tick, so that the two do not keep step.
const FREQUENCY: &str = "999";
/// Bytes of stack copied with each sample: the deepest stack of a worker or client takes less, 8 KiB are too few.
const STACK: &str = "dwarf,16384";

/// What perf recorded of one run of a benchmark; removed when dropped.
pub(crate) struct Recording {
    folder: TempDir,
    _watched: Watched,
}

/// Fails if there is no perf.
pub(crate) fn find_perf() -> Result<(), Error> {
    match Command::new("perf").arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).status() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NoPerf),
        Err(error) => Err(Error::io("starting perf")(error)),
        Ok(_) => Ok(()),
    }
}

impl Recording {
    /// Runs a benchmark, whose binary rests beside this one, under `perf record`.
    pub(crate) fn make(words: &[String]) -> Result<Self, Error> {
        let [binary, arguments @ ..] = words else { return Err(Error::Failed("recording: no command".to_owned())) };
        let binary = beside_us(binary, "benchmark")?;
        let folder = tempfile::tempdir().map_err(Error::io("making a folder for the recording"))?;
        let watched = cleanup::watch(Leftover::Path(folder.path().to_owned()));
        let recording = Self { folder, _watched: watched };
        let mut command = recording.perf("record");
        command.args(["-F", FREQUENCY, "--call-graph", STACK, "--quiet", "--"]).arg(binary).args(arguments);
        command.stdout(Stdio::null());
        forget_environment(&mut command);
        cleanup::die_with_parent(&mut command, Signal::SIGTERM);
        let status = command.status().map_err(Error::io("starting perf record"))?;
        if status.success() {
            return Ok(recording);
        }
        Err(Error::Failed(format!(
            "recording {}: found {status} against exit 0; see the messages above (perf needs root, or kernel.perf_event_paranoid at most 1)",
            words.join(" ")
        )))
    }

    /// All samples as perf's text: blocks of a head and the frames from the innermost, with an empty line between.
    pub(crate) fn samples(&self) -> Result<String, Error> {
        let mut command = self.perf("script");
        command.args(["-F", "comm,pid,tid,time,event,ip,sym,dso"]).stderr(Stdio::null());
        let output = command.output().map_err(Error::io("starting perf script"))?;
        if !output.status.success() {
            return Err(Error::Failed(format!(
                "reading the recording: perf script ended with {}; try it by hand",
                output.status
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn perf(&self, task: &str) -> Command {
        let mut command = Command::new("perf");
        let side = if task == "record" { "--output" } else { "--input" };
        command.arg(task).arg(side).arg(self.folder.path().join("recording")).stdin(Stdio::null());
        command
    }
}
