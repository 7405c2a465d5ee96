//! `client incr` and `client append`: updates that answer with a number.

use std::os::unix::ffi::OsStrExt;

use shmtable::Error;
use shmtable::exit::ExitCode;

use super::{Context, value_or_stdin};
use crate::args;
use crate::failure::Failure;
use crate::output::Object;

pub(super) fn incr(context: &mut Context<'_>, args: &args::Incr) -> Result<ExitCode, Failure> {
    let number = match context.attach()?.incr_with(args.key.as_bytes(), args.by, args.ttl) {
        // Of `incr` these are answers about the item, like a condition that is not met.
        Err(error @ (Error::NotANumber | Error::Overflow)) => return Err(Failure::NotMet(error.to_string())),
        other => other?,
    };
    context.output.either(number, || Object::new().number("number", number))?;
    Ok(ExitCode::Done)
}

pub(super) fn append(context: &mut Context<'_>, args: &args::Append) -> Result<ExitCode, Failure> {
    let bytes = value_or_stdin(&args.bytes)?;
    let length = context.attach()?.append(args.key.as_bytes(), &bytes)?;
    context.output.either(length, || Object::new().number("length", length))?;
    Ok(ExitCode::Done)
}
