//! `client bucket`.

use std::os::unix::ffi::OsStrExt;

use shmtable::exit::ExitCode;

use super::Context;
use crate::args;
use crate::failure::Failure;
use crate::record;

pub(super) fn run(context: &mut Context<'_>, args: &args::Bucket) -> Result<ExitCode, Failure> {
    let mut client = context.attach()?;
    let bucket = match (&args.key, args.index) {
        (Some(key), _) => client.bucket(key.as_bytes())?,
        (None, Some(index)) => client.bucket_at(index)?.ok_or_else(|| {
            Failure::Usage(format!(
                "bucket failed: index {index} is out of range; `client stats` shows how many buckets there are"
            ))
        })?,
        (None, None) => return Err(Failure::Usage("bucket failed: no key and no index; give one of them".into())),
    };
    let mut line = Vec::new();
    for item in &bucket.items {
        if context.output.json() {
            let object = record::object(item).number("version", item.version).number("bucket", bucket.index);
            context.output.object(object)?;
        } else {
            line.clear();
            record::tsv_line(&item.key, &item.value, &mut line);
            context.output.raw(&line)?;
        }
    }
    Ok(ExitCode::Done)
}
