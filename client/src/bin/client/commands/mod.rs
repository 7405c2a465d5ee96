//! The commands, one idea a file.

mod bucket;
mod clients;
mod delete;
mod dump;
mod expiry;
mod insert;
mod load;
mod number;
mod ping;
mod read;
mod run;
mod stats;
mod transact;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use shmqueue::region::RegionName;
use shmtable::exit::ExitCode;
use shmtable::{Client, Options};

use crate::args::{Cli, Command, Global};
use crate::doctor;
use crate::failure::Failure;
use crate::output::Output;

/// What every command is given.
pub(crate) struct Context<'a> {
    /// The flags that all commands share.
    pub(crate) global: &'a Global,
    /// Where results go.
    pub(crate) output: Output,
}

impl Context<'_> {
    /// How to reach the region.
    pub(crate) fn options(&self) -> Options {
        Options::new(&self.global.name)
            .dir(self.global.dir.clone())
            .timeout(self.global.timeout)
            .wait(self.global.wait)
            .wait_for_server(self.global.wait_for_server)
            .client_name("client")
    }

    /// A client of the region's server.
    pub(crate) fn attach(&self) -> Result<Client, Failure> {
        Ok(Client::attach(&self.options())?)
    }
}

/// Runs the command and says what the process exits with.
pub(crate) fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    RegionName::new(&cli.global.dir, &cli.global.name).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut context = Context { global: &cli.global, output: Output::new(cli.global.json) };
    let status = dispatch(&mut context, &cli.command);
    // What was printed before a failure is part of the answer.
    context.output.flush()?;
    status
}

fn dispatch(context: &mut Context<'_>, command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Insert(args) => insert::run(context, args),
        Command::Read(args) => read::run(context, args),
        Command::Delete(args) => delete::run(context, args),
        Command::Clear => delete::clear(context),
        Command::Ttl(args) => expiry::ttl(context, args),
        Command::Expire(args) => expiry::expire(context, args),
        Command::Persist(args) => expiry::persist(context, args),
        Command::Bucket(args) => bucket::run(context, args),
        Command::Incr(args) => number::incr(context, args),
        Command::Append(args) => number::append(context, args),
        Command::Dump(args) => dump::run(context, args),
        Command::Load(args) => load::run(context, args),
        Command::Transact(args) => transact::run(context, args),
        Command::Stats(args) => stats::run(context, args),
        Command::Ping => ping::run(context),
        Command::Clients => clients::run(context),
        Command::Run(args) => run::run(context, args),
        Command::Doctor(args) => doctor::run(context, args),
        Command::Other(_) => Err(Failure::Usage("unknown command; `client help` lists the commands".into())),
    }
}

/// A value as given: itself, or all of stdin for `-`. Stdin is read up to just beyond the longest value any server takes.
fn value_or_stdin(argument: &OsStr) -> Result<Vec<u8>, Failure> {
    if argument != "-" {
        return Ok(argument.as_bytes().to_vec());
    }
    let mut value = Vec::new();
    let most = protocol::MAX_VALUE as u64;
    io::stdin().lock().take(most + 1).read_to_end(&mut value).map_err(Failure::io("reading the value from stdin failed"))?;
    if value.len() as u64 > most {
        return Err(Failure::Refused(format!("value from stdin refused: found more than {most} bytes; store it in parts")));
    }
    Ok(value)
}
