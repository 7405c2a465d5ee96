//! Hyperfine: found, run, its export read.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::server_process::forget_environment;
use crate::{Error, cleanup};

/// What hyperfine exports of a command; times in seconds.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Times {
    /// Mean.
    pub(crate) mean: f64,
    /// Median.
    pub(crate) median: f64,
    /// Shortest.
    pub(crate) min: f64,
    /// Longest.
    pub(crate) max: f64,
    #[serde(default)]
    exit_codes: Vec<Option<i32>>,
}

#[derive(Deserialize)]
struct Export {
    results: Vec<Times>,
}

/// Checks that hyperfine is installed.
pub(crate) fn find() -> Result<(), Error> {
    match Command::new("hyperfine").arg("--version").stdout(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Error::failed(format!("running hyperfine --version: found {status} against exit 0; reinstall it")),
        Err(error) if error.kind() == ErrorKind::NotFound => Error::failed(
            "finding hyperfine: not installed; install the Debian package `hyperfine`, or leave it out with --no-hyperfine",
        ),
        Err(error) => Err(Error::io("running hyperfine")(error)),
    }
}

/// Times `client 100 10` on a region.
pub(crate) fn time(scenario: &str, client: &Path, region: &str, runs: u32, export: &Path) -> Result<Times, Error> {
    let mut command = Command::new("hyperfine");
    forget_environment(&mut command);
    // The name keeps the folder of this machine out of the exported data.
    command.args(["-N", "--style", "none", "--warmup", "5", "--min-runs", &runs.to_string(), "--command-name", scenario]);
    command.arg("--export-json").arg(export).arg(format!("{} 100 10", quoted(client))).env("SHMTABLE_NAME", region);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    cleanup::die_with_parent(&mut command, nix::sys::signal::Signal::SIGTERM);
    let status = command.status().map_err(Error::io("running hyperfine"))?;
    if !status.success() {
        return Error::failed(format!("running hyperfine: found {status} against exit 0; see its messages above"));
    }
    let text = std::fs::read_to_string(export).map_err(Error::io(format!("reading {}", export.display())))?;
    read(&text)
}

fn read(text: &str) -> Result<Times, Error> {
    let export: Export = serde_json::from_str(text).map_err(Error::io("reading hyperfine's export"))?;
    match export.results.into_iter().next() {
        None => Error::failed("reading hyperfine's export: found no result against one"),
        Some(times) if times.exit_codes.iter().any(|code| *code != Some(0)) => {
            Error::failed("reading hyperfine's export: found runs that failed against none; its times are void")
        }
        Some(times) => Ok(times),
    }
}

/// As hyperfine splits its commands: words may be quoted.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_read_unless_a_run_failed() {
        let export = |code: &str| {
            format!(
                r#"{{"results":[{{"command":"x","mean":2.0,"stddev":0.1,"median":1.5,"min":1.0,"max":3.0,"times":[1.0],"exit_codes":[0,{code}]}}]}}"#
            )
        };
        let times = read(&export("0")).unwrap();
        assert_eq!((times.mean, times.median, times.min, times.max), (2.0, 1.5, 1.0, 3.0));
        assert!(read(&export("1")).is_err());
        assert!(read(&export("null")).is_err());
        assert!(read(r#"{"results":[]}"#).is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn a_path_with_quotes_and_spaces_stays_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
