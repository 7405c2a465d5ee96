//! `client insert`.

use std::os::unix::ffi::OsStrExt;

use shmtable::exit::ExitCode;

use super::{Context, value_or_stdin};
use crate::args;
use crate::failure::Failure;
use crate::output::Object;

pub(super) fn run(context: &mut Context<'_>, args: &args::Insert) -> Result<ExitCode, Failure> {
    let value = value_or_stdin(&args.value)?;
    let stored = context.attach()?.insert_if(args.key.as_bytes(), &value, condition(&args.condition))?;
    let Some(stored) = stored else {
        context.output.either("unchanged", || Object::new().text("result", "unchanged"))?;
        return Ok(ExitCode::NotMet);
    };
    let result = if stored.replaced { "replaced" } else { "inserted" };
    context.output.either(result, || Object::new().text("result", result).number("version", stored.version))?;
    Ok(ExitCode::Done)
}

fn condition(args: &args::Condition) -> shmtable::Condition {
    match args {
        args::Condition { if_version: Some(version), .. } => shmtable::Condition::IfVersion(*version),
        args::Condition { if_absent: true, .. } => shmtable::Condition::IfAbsent,
        args::Condition { if_present: true, .. } => shmtable::Condition::IfPresent,
        _ => shmtable::Condition::Always,
    }
}
