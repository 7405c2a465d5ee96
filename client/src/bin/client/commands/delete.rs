//! `client delete` and `client clear`.

use std::os::unix::ffi::OsStrExt;

use shmtable::exit::ExitCode;

use super::Context;
use crate::args;
use crate::escape::escaped;
use crate::failure::Failure;
use crate::output::Object;

pub(super) fn run(context: &mut Context<'_>, args: &args::Delete) -> Result<ExitCode, Failure> {
    match (&args.key, &args.prefix) {
        (Some(key), _) => one(context, key.as_bytes()),
        (None, Some(prefix)) if prefix.is_empty() => {
            Err(Failure::Usage("delete failed: an empty prefix means every key; use `client clear`".into()))
        }
        (None, Some(prefix)) => {
            let deleted = context.attach()?.delete_prefix(prefix.as_bytes())?;
            context.output.either(deleted, || Object::new().number("deleted", deleted))?;
            Ok(ExitCode::Done)
        }
        (None, None) => Err(Failure::Usage("delete failed: no key and no prefix; give one of them".into())),
    }
}

fn one(context: &mut Context<'_>, key: &[u8]) -> Result<ExitCode, Failure> {
    let deleted = context.attach()?.delete(key)?;
    if deleted {
        context.output.either("deleted", || Object::new().text("result", "deleted"))?;
        return Ok(ExitCode::Done);
    }
    if context.output.json() {
        context.output.object(Object::new().text("result", "not found"))?;
    }
    Err(Failure::NotMet(format!("delete failed: no item has the key {}; it may be gone already", escaped(key))))
}

pub(super) fn clear(context: &mut Context<'_>) -> Result<ExitCode, Failure> {
    let cleared = context.attach()?.clear()?;
    context.output.either(cleared, || Object::new().number("cleared", cleared))?;
    Ok(ExitCode::Done)
}
