//! `client transact`: the steps of one transaction from a file, one JSON object a line.
//!
//! ```text
//! {"op":"compare","key":…,"version":N}       {"op":"insert","key":…,"value":…[,"ttl_ms":N|,"keep_ttl":true]}
//! {"op":"read","key":…}                      {"op":"delete","key":…}              keys and values also as …_base64
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use serde_json::{Map, Value};
use shmtable::exit::ExitCode;
use shmtable::{Transacted, Transaction, Versioned};

use super::Context;
use crate::args;
use crate::escape::escaped;
use crate::failure::Failure;
use crate::lines::{Line, read_line};
use crate::output::Object;
use crate::record::field;

/// Most steps that are read: no transaction has more.
const MOST_LINES: usize = 4 * protocol::MAX_STEPS;
/// No step that fits a transaction needs a longer line: JSON writes a byte in at most six.
const LONGEST_LINE: usize = 6 * protocol::MAX_TRANSACTION + 1024;

enum What {
    Compare(u64),
    Read,
    Insert { value: Vec<u8>, ttl: Option<Duration>, keep: bool },
    Delete,
}

struct Step {
    line: usize,
    key: Vec<u8>,
    what: What,
}

pub(super) fn run(context: &mut Context<'_>, args: &args::Transact) -> Result<ExitCode, Failure> {
    let steps = if args.file == "-" {
        read_steps(io::stdin().lock())?
    } else {
        let file = File::open(&args.file).map_err(|error| {
            let path = args.file.display();
            Failure::Usage(format!("transact failed: opening {path} failed: {error}; name a file that can be read"))
        })?;
        read_steps(BufReader::new(file))?
    };
    let mut client = context.attach()?;
    let mut transaction = client.transaction();
    for step in &steps {
        add(&mut transaction, step);
    }
    match transaction.commit()? {
        Transacted::Committed { reads, versions } => {
            committed(context, &steps, reads, versions)?;
            Ok(ExitCode::Done)
        }
        Transacted::Mismatch { compare, version } => {
            let line = steps.iter().filter(|step| matches!(step.what, What::Compare(_))).nth(compare).map_or(0, |step| step.line);
            let object = || Object::new().text("result", "mismatch").number("line", line).number("version", version);
            context.output.either("mismatch", object)?;
            Ok(ExitCode::NotMet)
        }
    }
}

fn add<'k>(transaction: &mut Transaction<'_, 'k>, step: &'k Step) {
    let key = &step.key;
    match &step.what {
        What::Compare(version) => transaction.compare(key, *version),
        What::Read => transaction.read(key),
        What::Insert { value, keep: true, .. } => transaction.insert_keep_ttl(key, value),
        What::Insert { value, ttl: Some(ttl), .. } => transaction.insert_ttl(key, value, *ttl),
        What::Insert { value, .. } => transaction.insert(key, value),
        What::Delete => transaction.delete(key),
    };
}

/// Prints `committed`, then a line per read; as JSON also one per write.
fn committed(
    context: &mut Context<'_>,
    steps: &[Step],
    reads: Vec<Option<Versioned>>,
    versions: Vec<u64>,
) -> Result<(), Failure> {
    context.output.either("committed", || Object::new().text("result", "committed"))?;
    let (mut reads, mut versions, json) = (reads.into_iter(), versions.into_iter(), context.output.json());
    for step in steps {
        let object = |op: &str| Object::new().text("op", op).bytes("key", &step.key);
        match &step.what {
            What::Compare(_) => {}
            What::Read => {
                let read = reads.next().flatten();
                match (json, read) {
                    (true, None) => context.output.object(object("read").flag("found", false))?,
                    (true, Some(Versioned { version, value })) => {
                        context
                            .output
                            .object(object("read").flag("found", true).bytes("value", &value).number("version", version))?;
                    }
                    (false, None) => context.output.line(format_args!("0\t{}\t", escaped(&step.key)))?,
                    (false, Some(Versioned { version, value })) => {
                        context.output.line(format_args!("{version}\t{}\t{}", escaped(&step.key), escaped(&value)))?;
                    }
                }
            }
            What::Insert { .. } | What::Delete => {
                let op = if matches!(step.what, What::Delete) { "delete" } else { "insert" };
                let version = versions.next().unwrap_or(0);
                if json {
                    context.output.object(object(op).number("version", version))?;
                }
            }
        }
    }
    Ok(())
}

fn read_steps(mut input: impl BufRead) -> Result<Vec<Step>, Failure> {
    let (mut steps, mut text, mut line) = (Vec::new(), Vec::new(), 0);
    loop {
        line += 1;
        let refused = |why: String| Failure::Refused(format!("transact failed at line {line}: {why}"));
        match read_line(&mut input, &mut text, LONGEST_LINE).map_err(Failure::io("reading the steps failed"))? {
            Line::End => return Ok(steps),
            Line::TooLong => {
                let most = protocol::MAX_TRANSACTION;
                return Err(refused(format!(
                    "found more than {LONGEST_LINE} bytes against steps of {most} bytes in all; split it"
                )));
            }
            Line::Whole if text.trim_ascii().is_empty() => continue,
            Line::Whole if steps.len() == MOST_LINES => {
                return Err(refused(format!("found more than {MOST_LINES} steps against at most 64 keys; split it")));
            }
            Line::Whole => steps.push(parse(&text, line).map_err(refused)?),
        }
    }
}

fn parse(text: &[u8], line: usize) -> Result<Step, String> {
    let record: Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| format!("not a JSON object: {error}; write one object a line"))?;
    let op = record.get("op").and_then(Value::as_str).ok_or("no op; give \"op\": compare, read, insert or delete")?;
    let known: &[&str] = match op {
        "compare" => &["version"],
        "insert" => &["value", "value_base64", "ttl_ms", "keep_ttl"],
        "read" | "delete" => &[],
        other => return Err(format!("op is {other:?} against compare, read, insert or delete; give one of them")),
    };
    let unknown = record.keys().find(|name| !["op", "key", "key_base64"].contains(&&name[..]) && !known.contains(&&name[..]));
    if let Some(name) = unknown {
        return Err(format!("{op} has no field {name:?}; remove it"));
    }
    let mut key = Vec::new();
    if !field(&record, "key", "key_base64", &mut key)? {
        return Err("no key; give \"key\" or \"key_base64\"".into());
    }
    let what = match op {
        "compare" => What::Compare(number(&record, "version")?.ok_or("no version; give \"version\", 0 for an absent key")?),
        "read" => What::Read,
        "delete" => What::Delete,
        _ => insert(&record)?,
    };
    Ok(Step { line, key, what })
}

fn insert(record: &Map<String, Value>) -> Result<What, String> {
    let mut value = Vec::new();
    field(record, "value", "value_base64", &mut value)?;
    let ttl = number(record, "ttl_ms")?.map(Duration::from_millis);
    let keep = match record.get("keep_ttl") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) if ttl.is_none() => true,
        Some(Value::Bool(true)) => return Err("both ttl_ms and keep_ttl are given; give one".into()),
        Some(other) => return Err(format!("keep_ttl is {other} against true or false; give one of them")),
    };
    Ok(What::Insert { value, ttl, keep })
}

fn number(record: &Map<String, Value>, name: &str) -> Result<Option<u64>, String> {
    match record.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{name} is {value} against a whole number from 0 on; give one")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_that_make_no_sense_are_refused_by_their_line() {
        for text in [
            r#"{"key":"a"}"#,
            r#"{"op":"swap","key":"a"}"#,
            r#"{"op":"read"}"#,
            r#"{"op":"read","key":"a","value":"b"}"#,
            r#"{"op":"compare","key":"a"}"#,
            r#"{"op":"compare","key":"a","version":-1}"#,
            r#"{"op":"compare","key":"a","version":"1"}"#,
            r#"{"op":"insert","key":"a","value":7}"#,
            r#"{"op":"insert","key":"a","ttl_ms":1,"keep_ttl":true}"#,
            r#"{"op":"insert","key":"a","ttl":1}"#,
            r#"["op"]"#,
        ] {
            let input = format!("{{\"op\":\"read\",\"key\":\"k\"}}\n\n{text}\n");
            match read_steps(input.as_bytes()) {
                Err(Failure::Refused(why)) => assert!(why.starts_with("transact failed at line 3: "), "{text}: {why}"),
                other => panic!("{text}: {:?}", other.map(|steps| steps.len())),
            }
        }
        assert_eq!(read_steps(&b""[..]).expect("nothing is well").len(), 0);
        let many = "{\"op\":\"read\",\"key\":\"k\"}\n".repeat(MOST_LINES + 1);
        assert!(matches!(read_steps(many.as_bytes()), Err(Failure::Refused(_))));
    }
}
