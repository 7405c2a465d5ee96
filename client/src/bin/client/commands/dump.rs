//! `client dump`: every item as a line, streamed.

use std::os::unix::ffi::OsStrExt;

use shmtable::exit::ExitCode;

use super::Context;
use crate::args;
use crate::failure::Failure;
use crate::record::{self, Format};

pub(super) fn run(context: &mut Context<'_>, args: &args::Dump) -> Result<ExitCode, Failure> {
    let unset = if context.output.json() { Format::Jsonl } else { Format::Tsv };
    let format = args.format.unwrap_or(unset);
    let prefix = args.prefix.as_deref().map_or(&b""[..], OsStrExt::as_bytes);
    let mut client = context.attach()?;
    let mut line = Vec::new();
    for item in client.scan() {
        let item = item?;
        if !item.key.starts_with(prefix) {
            continue;
        }
        match format {
            Format::Tsv => {
                line.clear();
                record::tsv_line(&item.key, &item.value, &mut line);
                context.output.raw(&line)?;
            }
            Format::Jsonl => context.output.object(record::object(&item))?,
        }
        if context.output.is_closed() {
            break;
        }
    }
    Ok(ExitCode::Done)
}
