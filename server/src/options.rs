//! Validated options: what the rest of the server works with.

use nix::unistd::Group;
use protocol::{MAX_VALUE, format_size};
use shmqueue::region::RegionName;
use shmqueue::wait::WaitMode;

use crate::args::{Args, OnExit, Switch};
use crate::cpus;
use crate::exit::ServerError;

/// What the command line and the environment ask for, checked as far as that goes without looking at the region.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) name: RegionName,
    pub(crate) buckets: u64,
    pub(crate) threads: Option<u32>,
    pub(crate) memory: Option<u64>,
    pub(crate) evict: bool,
    pub(crate) max_value: u32,
    pub(crate) clients: u32,
    pub(crate) wait: WaitMode,
    pub(crate) cpus: Option<Vec<usize>>,
    pub(crate) lock_memory: bool,
    pub(crate) prefault: bool,
    pub(crate) huge_pages: bool,
    pub(crate) mode: u32,
    pub(crate) table_mode: u32,
    pub(crate) gid: Option<u32>,
    pub(crate) fresh: bool,
    pub(crate) keep: bool,
}

impl Options {
    /// Checks the flags.
    pub(crate) fn new(args: &Args) -> Result<Self, ServerError> {
        if args.on_exit == OnExit::Snapshot {
            return Err(usage("cannot use --on-exit snapshot: snapshots come with a later version; use `remove` or `keep`"));
        }
        let mode = mode("--mode", &args.mode)?;
        let table_mode = mode_of_table(&args.table_mode)?;
        let max_value =
            u32::try_from(args.max_value).ok().filter(|&len| len as usize <= MAX_VALUE && len > 0).ok_or_else(|| {
                let found = format_size(args.max_value);
                usage(format!("cannot use --max-value: found {found}, expected 1 to {MAX_VALUE} bytes (2MiB - 1); ask for less"))
            })?;
        let cpus = args.cpus.as_deref().map(cpus::parse_list).transpose();
        Ok(Self {
            name: RegionName::new(&args.dir, &args.name)?,
            buckets: args.size,
            threads: args.threads,
            memory: args.memory,
            evict: args.evict,
            max_value,
            clients: args.clients,
            wait: args.wait,
            cpus: cpus.map_err(|reason| usage(format!("cannot use --cpus: {reason}")))?,
            lock_memory: args.lock_memory,
            prefault: args.prefault,
            huge_pages: args.huge_pages == Switch::On,
            mode,
            table_mode,
            gid: args.group.as_deref().map(group).transpose()?,
            fresh: args.fresh,
            keep: args.on_exit == OnExit::Keep,
        })
    }
}

fn usage(text: impl Into<String>) -> ServerError {
    ServerError::Usage(text.into())
}

/// Reads an octal file mode. The owner must keep its rights, or the next server could not join what this one leaves.
fn mode(flag: &str, text: &str) -> Result<u32, ServerError> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()));
    match mode {
        Some(mode) if mode & 0o600 == 0o600 && mode & !0o666 == 0 => Ok(mode),
        _ => Err(usage(format!(
            "cannot use {flag}: found `{text}`, expected an octal mode from 0600 to 0666; 0660 lets a group in"
        ))),
    }
}

/// Reads the table's mode. Clients map the table read-only, so nobody else is ever given the right to write.
fn mode_of_table(text: &str) -> Result<u32, ServerError> {
    let mode = mode("--table-mode", text)?;
    if mode & 0o022 != 0 {
        let text =
            format!("cannot use --table-mode: found `{text}` which lets others write; only the server does, use 0640 or 0644");
        return Err(usage(text));
    }
    Ok(mode)
}

/// Finds a group by name or number.
fn group(text: &str) -> Result<u32, ServerError> {
    if let Ok(gid) = text.parse() {
        return Ok(gid);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(usage(format!("cannot use --group: found no group `{text}`; name one of this system, or its number"))),
        Err(source) => Err(ServerError::io(format!("cannot look up the group `{text}`"), source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(flags: &[&str]) -> Result<Options, ServerError> {
        let args = Args::try_parse_from(["server"].iter().chain(flags)).expect("known flags");
        Options::new(&args)
    }

    fn refusal(flags: &[&str]) -> String {
        let error = options(flags).expect_err("refused");
        assert_eq!(error.exit(), crate::exit::Exit::Usage, "{error}");
        error.to_string()
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        use clap::CommandFactory;
        for arg in Args::command().get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else { continue };
            let expected = format!("SHMTABLE_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(expected.as_str()), "--{long}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let options = options(&[]).expect("defaults");
        assert_eq!(options.name.name(), "shmtable");
        assert_eq!((options.buckets, options.max_value, options.clients), (65_536, 1 << 20, 256));
        assert_eq!((options.mode, options.table_mode), (0o600, 0o600));
        assert_eq!((options.threads, options.memory, options.gid), (None, None, None));
        assert!(!options.keep && !options.fresh && !options.evict && options.huge_pages);
    }

    #[test]
    fn modes_are_octal_and_keep_the_owner_in() {
        assert_eq!(
            options(&["--mode", "660", "--table-mode", "0o644"]).map(|o| (o.mode, o.table_mode)).ok(),
            Some((0o660, 0o644))
        );
        for bad in ["0800", "rw", "", "0440", "0777", "+600", "1600"] {
            assert!(refusal(&["--mode", bad]).contains("--mode"), "{bad}");
        }
        assert!(refusal(&["--table-mode", "0660"]).contains("only the server"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        assert!(refusal(&["--on-exit", "snapshot"]).contains("snapshot"));
        assert!(refusal(&["--max-value", "2MiB"]).contains("--max-value"));
        assert!(refusal(&["--max-value", "0"]).contains("--max-value"));
        assert!(refusal(&["--cpus", "3-1"]).contains("--cpus"));
        assert!(refusal(&["--group", "no such group"]).contains("--group"));
        assert!(refusal(&["--name", "a/b"]).contains("a/b"));
    }

    #[test]
    fn groups_are_found_by_name_and_number() {
        assert_eq!(options(&["--group", "root"]).expect("root is everywhere").gid, Some(0));
        assert_eq!(options(&["--group", "4711"]).expect("a number").gid, Some(4711));
    }
}
