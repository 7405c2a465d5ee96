//! `client load`: the items of a file, streamed through a pipeline in bounded memory.
//!
//! Each line is one request and replies come in the order of requests, so the number of a reply is the number of its line.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

use shmtable::exit::ExitCode;
use shmtable::{Client, Completion, Condition, Error, Operation, Outcome};

use super::Context;
use crate::args;
use crate::failure::Failure;
use crate::lines::{Line, read_line};
use crate::output::Object;
use crate::record::{self, Format};

/// No item needs a longer line: JSON writes a byte in at most six, and fields have short names.
const LONGEST_LINE: usize = 6 * (protocol::MAX_KEY + protocol::MAX_VALUE) + 1024;

pub(super) fn run(context: &mut Context<'_>, args: &args::Load) -> Result<ExitCode, Failure> {
    let loaded = if args.file == "-" {
        let input = BufReader::with_capacity(1 << 16, io::stdin().lock());
        load(&mut context.attach()?, input, "-".as_ref(), args.format)?
    } else {
        let input = File::open(&args.file).map_err(|error| {
            Failure::Usage(format!("load failed: opening {} failed: {error}; name a file that can be read", args.file.display()))
        })?;
        load(&mut context.attach()?, BufReader::with_capacity(1 << 16, input), &args.file, args.format)?
    };
    context.output.either(loaded, || Object::new().number("loaded", loaded))?;
    Ok(ExitCode::Done)
}

/// What the replies so far amount to.
#[derive(Default)]
struct Tally {
    stored: u64,
    replies: u64,
    failed: Option<(u64, Error)>,
}

impl Tally {
    fn take(&mut self, completion: Completion<'_>) {
        self.replies += 1;
        match completion.outcome {
            Outcome::Failed(error) => {
                self.failed.get_or_insert((self.replies, error));
            }
            _ => self.stored += 1,
        }
    }
}

fn load(client: &mut Client, mut input: impl BufRead, file: &OsStr, format: Option<Format>) -> Result<u64, Failure> {
    let mut pipeline = client.pipeline(Client::MAX_WINDOW);
    let mut tally = Tally::default();
    let mut format = format;
    let (mut line, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
    let mut number = 0;
    let mut refused = None;
    while refused.is_none() && tally.failed.is_none() {
        match read_line(&mut input, &mut line, LONGEST_LINE).map_err(Failure::io(format!("reading {} failed", file.display())))? {
            Line::End => break,
            Line::Whole => number += 1,
            Line::TooLong => {
                number += 1;
                refused = Some(format!("found more than {LONGEST_LINE} bytes, more than any item needs; is it a list of items?"));
                continue;
            }
        }
        let format = *format.get_or_insert_with(|| Format::detect(&line));
        let parsed = record::parse(format, &line, &mut key, &mut value).and_then(|ttl| check_key(&key).map(|()| ttl));
        let ttl = match parsed {
            Ok(ttl) => ttl,
            Err(why) => {
                refused = Some(why);
                continue;
            }
        };
        let operation = Operation::Insert { key: &key, value: &value, condition: Condition::Always, ttl };
        match pipeline.submit(&operation, &mut |completion| tally.take(completion)) {
            Ok(_) => {}
            // The library refuses what no server takes before it is sent: that concerns this line alone.
            Err(error @ (Error::KeySize { .. } | Error::ValueSize { .. })) => refused = Some(error.to_string()),
            Err(error) => return Err(Failure::At { place: format!("load failed near line {number}"), error }),
        }
    }
    // Lines that were sent are answered before the load ends, whatever ended it.
    pipeline
        .finish(&mut |completion| tally.take(completion))
        .map_err(|error| Failure::At { place: format!("load failed before line {}", number + 1), error })?;
    if let Some((line, error)) = tally.failed {
        return Err(Failure::At { place: format!("load failed at line {line}"), error });
    }
    match refused {
        Some(why) => Err(Failure::Refused(format!("load failed at line {number}: {why}"))),
        None => Ok(tally.stored),
    }
}

fn check_key(key: &[u8]) -> Result<(), String> {
    match key.len() {
        0 => Err("found an empty key against 1 to 1024 bytes; remove the line".into()),
        len if len > protocol::MAX_KEY => Err(format!("found a key of {len} bytes against 1 to 1024; shorten it")),
        _ => Ok(()),
    }
}
