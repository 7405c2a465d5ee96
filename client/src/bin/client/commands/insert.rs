//! `client insert`.

use std::os::unix::ffi::OsStrExt;

use shmtable::exit::ExitCode;
use shmtable::{InsertOptions, Ttl};

use super::{Context, value_or_stdin};
use crate::args;
use crate::failure::Failure;
use crate::output::Object;

pub(super) fn run(context: &mut Context<'_>, args: &args::Insert) -> Result<ExitCode, Failure> {
    let options = InsertOptions { condition: condition(&args.condition)?, ttl: ttl(&args.lifetime)? };
    let value = value_or_stdin(&args.value)?;
    let stored = context.attach()?.insert_with(args.key.as_bytes(), &value, options)?;
    let Some(stored) = stored else {
        context.output.either("unchanged", || Object::new().text("result", "unchanged"))?;
        return Ok(ExitCode::NotMet);
    };
    let result = if stored.replaced { "replaced" } else { "inserted" };
    context.output.either(result, || Object::new().text("result", result).number("version", stored.version))?;
    Ok(ExitCode::Done)
}

fn ttl(args: &args::Lifetime) -> Result<Ttl, Failure> {
    match (args.ttl, args.keep_ttl) {
        (None, false) => Ok(Ttl::None),
        (Some(ttl), false) => Ok(Ttl::For(ttl)),
        (None, true) => Ok(Ttl::Keep),
        (Some(_), true) => {
            Err(Failure::Usage("insert failed: found both --ttl and --keep-ttl against one; give one of them".into()))
        }
    }
}

fn condition(args: &args::Condition) -> Result<shmtable::Condition, Failure> {
    match (args.if_version, args.if_absent, args.if_present) {
        (None, false, false) => Ok(shmtable::Condition::Always),
        (Some(version), false, false) => Ok(shmtable::Condition::IfVersion(version)),
        (None, true, false) => Ok(shmtable::Condition::IfAbsent),
        (None, false, true) => Ok(shmtable::Condition::IfPresent),
        // Several variables: of what stands on the line there is one at most.
        _ => {
            let line = "insert failed: found several conditions against one; give one of --if-absent, --if-present, --if-version";
            Err(Failure::Usage(line.into()))
        }
    }
}
