//! From the words of the command line to [`Cli`], or to a usage error in one line.
//!
//! `client OUTER INNER` is `client run OUTER INNER`: where a number stands in a command's place, [`Bare`] reads the line.
//!
//! Flags of which one excludes the others may come from the line and from the environment; the line then goes before the
//! environment, whose say is left out. The definition knows no such rule, so the line is read, and read again without those variables.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::args::{Cli, Command, Global, Run};

/// Commands with arguments of which one excludes the others.
const ALTERNATIVES: [(&str, &[&str]); 5] = [
    ("insert", &["ttl", "keep_ttl"]),
    ("insert", &["if_absent", "if_present", "if_version"]),
    ("delete", &["key", "prefix"]),
    ("bucket", &["key", "index"]),
    ("stats", &["watch", "prometheus"]),
];

/// The command line of `client OUTER INNER`.
#[derive(Debug, Parser)]
#[command(name = "client", version)]
struct Bare {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    run: Run,
}

impl From<Bare> for Cli {
    fn from(Bare { global, run }: Bare) -> Self {
        Self { global, command: Command::Run(run) }
    }
}

/// Reads the command line; exits with 2 and a message if it makes no sense, with 0 after `--help` and `--version`.
pub(crate) fn parse() -> Cli {
    let args: Vec<OsString> = std::env::args_os().collect();
    parse_from(args).unwrap_or_else(|error| {
        if let Some(line) = usage_line(&error) {
            // A closed stderr leaves nowhere to complain to; the exit code still tells.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
            std::process::exit(error.exit_code());
        }
        error.exit()
    })
}

/// A usage error as the one line that every error is; `None` for help and version, which are none.
fn usage_line(error: &clap::Error) -> Option<String> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = error.render().to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default().split("\n\nFor more information").next().unwrap_or_default();
    let words: Vec<&str> = said.split_whitespace().collect();
    Some(format!("{}; see `client --help`", words.join(" ")))
}

fn parse_from(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    // The short form is timed as a whole process, and building the definition of all commands takes 0.2 ms.
    if args.get(1).is_some_and(|first| is_number(first)) {
        return Ok(Bare::try_parse_from(args)?.into());
    }
    let matches = Cli::command().try_get_matches_from(&args)?;
    let overruled = overruled(&matches)?;
    let cli = if overruled.is_empty() {
        Cli::from_arg_matches(&matches)?
    } else {
        let deaf = overruled.into_iter().fold(Cli::command(), |command, (name, id)| {
            command.mut_subcommand(name, |command| command.mut_arg(id, |arg| arg.env(Resettable::Reset)))
        });
        Cli::from_arg_matches(&deaf.try_get_matches_from(&args)?)?
    };
    let Command::Other(rest) = &cli.command else { return Ok(cli) };
    match rest.first() {
        Some(first) if is_number(first) => Ok(Bare::try_parse_from(args)?.into()),
        other => Err(unknown(other.map(OsString::as_os_str).unwrap_or_default())),
    }
}

/// Of each set of alternatives of which one stands on the line: those that the environment gives, as command and argument.
fn overruled(matches: &ArgMatches) -> Result<Vec<(&'static str, &'static str)>, clap::Error> {
    let Some((name, given)) = matches.subcommand() else { return Ok(Vec::new()) };
    let mut overruled = Vec::new();
    for (command, set) in ALTERNATIVES.iter().filter(|(command, _)| *command == name) {
        let from = |source| set.iter().filter(move |id| given.value_source(id) == Some(source));
        match from(ValueSource::CommandLine).count() {
            0 => {}
            1 => overruled.extend(from(ValueSource::EnvVariable).map(|id| (*command, *id))),
            _ => {
                let names: Vec<String> = set.iter().map(|id| display(id)).collect();
                let message = format!("found several of {} against one; give one of them", names.join(", "));
                return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
            }
        }
    }
    Ok(overruled)
}

fn display(id: &str) -> String {
    if id == "key" { "KEY".to_owned() } else { format!("--{}", id.replace('_', "-")) }
}

fn is_number(text: &OsStr) -> bool {
    !text.is_empty() && text.as_bytes().iter().all(u8::is_ascii_digit)
}

fn unknown(command: &OsStr) -> clap::Error {
    let message = format!("unknown command `{}`", command.to_string_lossy().escape_debug());
    Cli::command().error(ErrorKind::InvalidSubcommand, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        parse_from(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn two_numbers_are_a_run_wherever_global_flags_stand() {
        for line in ["client 3 4", "client run 3 4", "client --name n 3 4", "client 3 4 --name n", "client --json 3 4 --window 9"]
        {
            match parsed(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
                Command::Run(run) => assert_eq!((run.outer, run.inner), (3, 4), "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        assert_eq!(parsed("client 3 4 --name n").expect("parsed").global.name, "n");
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in
            ["client --json --timeout 7s read k", "client read --json --timeout 7s k", "client read k --timeout 7s --json"]
        {
            let cli = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(cli.global.json, "{line}");
            assert_eq!(cli.global.timeout, Duration::from_secs(7), "{line}");
        }
    }

    #[test]
    fn values_may_be_dashes_and_negative_numbers() {
        match parsed("client incr k -5").expect("parsed").command {
            Command::Incr(incr) => assert_eq!(incr.by, -5),
            other => panic!("{other:?}"),
        }
        match parsed("client insert -- -k -v").expect("parsed").command {
            Command::Insert(insert) => assert_eq!((insert.key, insert.value), ("-k".into(), "-v".into())),
            other => panic!("{other:?}"),
        }
        assert!(parsed("client insert k -").is_ok());
    }

    #[test]
    fn a_usage_error_is_one_line_and_help_is_no_error() {
        let line = |line: &str| usage_line(&parsed(line).expect_err(line));
        assert_eq!(
            line("client insert k").as_deref(),
            Some("error: the following required arguments were not provided: <VALUE>; see `client --help`")
        );
        assert_eq!(line("client frob").as_deref(), Some("error: unknown command `frob`; see `client --help`"));
        assert_eq!(line("client --help"), None);
        assert_eq!(line("client --version"), None);
        assert_eq!(line("client"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_as_usage() {
        for line in [
            "client frobnicate",
            "client 3",
            "client 3 4 5",
            "client 3x 4",
            "client insert k",
            "client delete",
            "client delete k --prefix p",
            "client bucket k --index 3",
            "client bucket",
            "client insert k v --ttl 1s --keep-ttl",
            "client insert k v --ttl 1",
            "client insert k v --ttl soon",
            "client insert k v --if-absent --if-present",
            "client expire k",
            "client expire k soon",
            "client ttl",
            "client persist",
            "client incr k 1 --ttl 5",
            "client incr k many",
            "client run 1 1 --window 0",
            "client run 1 1 --window 1025",
            "client run 1 1 --value-size 2MiB",
            "client read k --timeout 5",
            "client stats --watch --prometheus",
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
