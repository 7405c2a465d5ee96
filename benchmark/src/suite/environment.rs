//! Where a run was made: everything that a reader needs in order to distrust it properly, and no path of the machine.

use std::process::{Command, Stdio};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Machine, system, tools and revision.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    /// Day of the run, UTC.
    pub(crate) date: String,
    /// Name of the machine.
    pub(crate) host: String,
    /// Short hash of the revision, with `-dirty` where files were changed.
    pub(crate) commit: String,
    /// CPU model.
    pub(crate) cpu: String,
    /// CPUs that the run may use.
    pub(crate) cpus: usize,
    /// Kernel.
    pub(crate) kernel: String,
    /// Bytes of memory.
    pub(crate) memory_bytes: u64,
    /// Compiler.
    pub(crate) rustc: String,
    /// Profile and compiler flags.
    pub(crate) flags: String,
    /// Hyperfine's version.
    pub(crate) hyperfine: String,
    /// Redis' version.
    pub(crate) redis: String,
    /// The system's load when the run began.
    pub(crate) load_at_start: String,
    /// And when it ended.
    pub(crate) load_at_end: String,
}

impl Environment {
    /// Looks around.
    pub(crate) fn examine() -> Self {
        let kernel =
            |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default().trim().to_owned();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            date: date(clock_gettime(ClockId::Realtime).tv_sec),
            host: file_name(&kernel("hostname")),
            commit: commit(),
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: crate::cpus::allowed().map_or(0, |cpus| cpus.len()),
            kernel: format!("{} {}", kernel("ostype"), kernel("osrelease")),
            memory_bytes: memory_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            rustc: first_line("rustc", &["--version"]),
            flags: flags(),
            hyperfine: first_line("hyperfine", &["--version"]),
            redis: first_line("redis-server", &["--version"]),
            load_at_start: load(),
            load_at_end: String::new(),
        }
    }

    /// The same, with the load of now.
    pub(crate) fn at_the_end(self) -> Self {
        Self { load_at_end: load(), ..self }
    }

    /// Name of the folder of this run.
    pub(crate) fn folder_name(&self) -> String {
        format!("{}-{}-{}", self.date, self.host, self.commit)
    }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn flags() -> String {
    let profile =
        if cfg!(debug_assertions) { "debug assertions on: times say nothing" } else { "optimised, no debug assertions" };
    match std::env::var("RUSTFLAGS") {
        Ok(flags) if !flags.is_empty() => format!("{profile}; RUSTFLAGS={flags}"),
        _ => profile.to_owned(),
    }
}

fn commit() -> String {
    let hash = first_line("git", &["rev-parse", "--short", "HEAD"]);
    if hash == "unknown" {
        return hash;
    }
    let clean = first_line("git", &["status", "--porcelain", "--untracked-files=no"]) == "unknown";
    if clean { hash } else { hash + "-dirty" }
}

/// First line of a command's output, `unknown` where there is none.
fn first_line(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text =
        output.ok().filter(|output| output.status.success()).map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let line = text.as_deref().and_then(|text| text.lines().next()).unwrap_or_default().trim().to_owned();
    if line.is_empty() { "unknown".to_owned() } else { line }
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().filter_map(|line| line.split_once(':')).find(|(field, _)| field.trim() == name);
    line.map(|(_, value)| value.trim().to_owned())
}

fn memory_bytes(meminfo: &str) -> u64 {
    let text = field(meminfo, "MemTotal").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// What may stand in a file's name.
fn file_name(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

/// The day of a moment, by the era arithmetic of Howard Hinnant's "chrono-compatible low-level date algorithms".
fn date(unix_seconds: i64) -> String {
    let days = unix_seconds.div_euclid(86_400) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let days: Vec<String> = [0, 951_782_400, 951_868_800, 1_735_689_599, 1_735_689_600].map(date).into();
        assert_eq!(days, ["1970-01-01", "2000-02-29", "2000-03-01", "2024-12-31", "2025-01-01"]);
    }

    #[test]
    fn files_of_the_system_are_understood() {
        assert_eq!(memory_bytes("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(field("processor\t: 0\nmodel name\t: A: B\n", "model name").as_deref(), Some("A: B"));
        assert_eq!(file_name("a.b-c"), "a_b_c");
    }

    #[test]
    fn a_missing_command_is_unknown() {
        assert_eq!(first_line("shmtable-no-such-command", &[]), "unknown");
    }
}
