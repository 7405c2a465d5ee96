//! `client read`.

use std::os::unix::ffi::OsStrExt;

use shmtable::exit::ExitCode;
use shmtable::{Client, Error, Options, TableReader};

use super::Context;
use crate::args;
use crate::escape::escaped;
use crate::failure::Failure;
use crate::output::Object;

pub(super) fn run(context: &mut Context<'_>, args: &args::Read) -> Result<ExitCode, Failure> {
    let key = args.key.as_bytes();
    let mut value = Vec::new();
    let version = if args.direct {
        read_direct(&context.options(), key, &mut value)?
    } else {
        context.attach()?.read_into(key, &mut value)?
    };
    let json = context.output.json();
    let Some(version) = version else {
        if json {
            context.output.object(Object::new().bytes("key", key).flag("found", false))?;
        }
        return Err(Failure::NotMet(format!("read failed: no item has the key {}; insert it first", escaped(key))));
    };
    if json {
        let object = Object::new().bytes("key", key).flag("found", true).bytes("value", &value).number("version", version);
        context.output.object(object)?;
        return Ok(ExitCode::Done);
    }
    if args.with_version {
        context.output.raw(format!("{version}\t").as_bytes())?;
    }
    context.output.raw(&value)?;
    if !args.raw {
        context.output.raw(b"\n")?;
    }
    Ok(ExitCode::Done)
}

/// Reads from the table itself; the item's version. Where this process can be a client it is, so that the read is counted and a bucket
/// that is fought for can be asked of the server.
fn read_direct(options: &Options, key: &[u8], value: &mut Vec<u8>) -> Result<Option<u64>, Error> {
    let found = match Client::attach(options) {
        Ok(mut client) => client.get_direct_vec(key, value)?,
        Err(_) => TableReader::open(options)?.get_vec(key, value)?,
    };
    Ok(found.map(|found| found.version))
}
