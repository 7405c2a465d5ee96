//! `client ttl`, `client expire` and `client persist`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use shmtable::Remaining;
use shmtable::exit::ExitCode;

use super::Context;
use crate::args;
use crate::escape::escaped;
use crate::failure::Failure;
use crate::output::Object;
use crate::record;

pub(super) fn ttl(context: &mut Context<'_>, args: &args::OfKey) -> Result<ExitCode, Failure> {
    let key = args.key.as_bytes();
    let Some(remaining) = context.attach()?.ttl(key)? else {
        if context.output.json() {
            context.output.object(Object::new().bytes("key", key).flag("found", false))?;
        }
        return Err(missing("ttl", key));
    };
    let text = match remaining {
        Remaining::Forever => "none".to_owned(),
        Remaining::For(left) => left.as_millis().to_string(),
    };
    context.output.either(text, || record::with_ttl(Object::new().bytes("key", key).flag("found", true), remaining))?;
    Ok(ExitCode::Done)
}

pub(super) fn expire(context: &mut Context<'_>, args: &args::Expire) -> Result<ExitCode, Failure> {
    let set = context.attach()?.expire(args.key.as_bytes(), args.ttl)?;
    report(context, "expire", &args.key, set)
}

pub(super) fn persist(context: &mut Context<'_>, args: &args::OfKey) -> Result<ExitCode, Failure> {
    let set = context.attach()?.persist(args.key.as_bytes())?;
    report(context, "persist", &args.key, set)
}

fn report(context: &mut Context<'_>, what: &str, key: &OsStr, set: bool) -> Result<ExitCode, Failure> {
    if set {
        context.output.either("ok", || Object::new().text("result", "ok"))?;
        return Ok(ExitCode::Done);
    }
    if context.output.json() {
        context.output.object(Object::new().text("result", "not found"))?;
    }
    Err(missing(what, key.as_bytes()))
}

fn missing(what: &str, key: &[u8]) -> Failure {
    Failure::NotMet(format!("{what} failed: no item has the key {}; it may have expired, insert it again", escaped(key)))
}
