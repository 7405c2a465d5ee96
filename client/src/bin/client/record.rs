//! Items as lines of text: what `dump`, `bucket` and `load` write and read.
//!
//! ```text
//! tsv     key<TAB>value, both escaped (see `escape`); reading: a line without a tab is a key with an empty value
//! jsonl   {"key":…,"value":…,"ttl_ms":…,"type":"bytes"}, key and value as key_base64, value_base64 where the bytes are not UTF-8;
//!         ttl_ms only where the item expires; reading: only the key is needed
//! ```

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use shmtable::{Item, Remaining, Ttl};

use crate::escape;
use crate::output::Object;

/// How items are written as lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// `key<TAB>value`, escaped
    Tsv,
    /// one JSON object per line
    Jsonl,
}

/// What a record says of plain bytes.
const BYTES: &str = "bytes";

impl Format {
    /// The format of an input that begins with `line`.
    ///
    /// A line of `dump --format tsv` always has a tab and one of `jsonl` never has, so what `dump` wrote is never mistaken. A
    /// word list whose first word is a whole JSON record would be: `--format tsv` says otherwise.
    pub(crate) fn detect(line: &[u8]) -> Self {
        let is_record = line.starts_with(b"{")
            && !line.contains(&b'\t')
            && serde_json::from_slice::<Map<String, Value>>(line)
                .is_ok_and(|record| record.contains_key("key") || record.contains_key("key_base64"));
        if is_record { Self::Jsonl } else { Self::Tsv }
    }
}

/// Appends an item as a line of TSV, newline included.
pub(crate) fn tsv_line(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    escape::escape(key, out);
    out.push(b'\t');
    escape::escape(value, out);
    out.push(b'\n');
}

/// An item as an object of `jsonl`.
pub(crate) fn object(item: &Item) -> Object {
    let object = Object::new().bytes("key", &item.key).bytes("value", &item.value);
    let object = if item.remaining == Remaining::Forever { object } else { with_ttl(object, item.remaining) };
    match item.kind {
        protocol::TYPE_BYTES => object.text("type", BYTES),
        kind => object.text("type", &format!("type {kind}")),
    }
}

/// Adds what an item has left to an object: milliseconds, or null.
pub(crate) fn with_ttl(object: Object, remaining: Remaining) -> Object {
    match remaining {
        Remaining::Forever => object.number("ttl_ms", "null"),
        Remaining::For(left) => object.number("ttl_ms", left.as_millis()),
    }
}

/// Reads a line in the given format into `key` and `value`, which are cleared first; answers its time to live, and the error says
/// what is wrong with it.
pub(crate) fn parse(format: Format, line: &[u8], key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<Ttl, String> {
    key.clear();
    value.clear();
    match format {
        Format::Tsv => parse_tsv(line, key, value).map(|()| Ttl::None),
        Format::Jsonl => parse_jsonl(line, key, value),
    }
}

fn parse_tsv(line: &[u8], key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<(), String> {
    let tab = line.iter().position(|&byte| byte == b'\t');
    let (key_text, value_text) = match tab {
        Some(tab) => (&line[..tab], &line[tab + 1..]),
        None => (line, &line[..0]),
    };
    let refused = |start: usize| {
        move |escape::BadEscape { at }| {
            format!(
                "column {} has a backslash that begins none of \\t \\n \\\\ \\xNN; write \\\\ for a backslash",
                start + at + 1
            )
        }
    };
    escape::unescape(key_text, key).map_err(refused(0))?;
    escape::unescape(value_text, value).map_err(refused(key_text.len() + 1))
}

fn parse_jsonl(line: &[u8], key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<Ttl, String> {
    let record: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| format!("not a JSON object: {error}; write {{\"key\":…,\"value\":…}}, one object a line"))?;
    match record.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == BYTES => {}
        Some(other) => {
            return Err(format!("type is {other} against expected \"bytes\"; load it with a client that knows the type"));
        }
    }
    let ttl = match record.get("ttl_ms") {
        None | Some(Value::Null) => Ttl::None,
        Some(found) => match found.as_u64() {
            Some(ms) => Ttl::For(Duration::from_millis(ms)),
            None => return Err(format!("ttl_ms is {found} against expected a whole number; give milliseconds")),
        },
    };
    if !field(&record, "key", "key_base64", key)? {
        return Err("no key; give \"key\" or \"key_base64\"".into());
    }
    // Like a TSV line without a tab: no value is an empty one.
    field(&record, "value", "value_base64", value)?;
    Ok(ttl)
}

/// Appends the bytes of a field, given as text or as base64; false if it is not there.
pub(crate) fn field(record: &Map<String, Value>, name: &str, name_base64: &str, out: &mut Vec<u8>) -> Result<bool, String> {
    match (record.get(name), record.get(name_base64)) {
        (None, None) => Ok(false),
        (Some(Value::String(text)), None) => {
            out.extend_from_slice(text.as_bytes());
            Ok(true)
        }
        (None, Some(Value::String(text))) => match STANDARD.decode_vec(text, out) {
            Ok(()) => Ok(true),
            Err(error) => Err(format!("{name_base64} is not base64: {error}; encode it with the standard alphabet and padding")),
        },
        (Some(_), Some(_)) => Err(format!("both {name} and {name_base64} are given; give one")),
        (Some(other), None) => Err(format!("{name} is {other} against expected a string; quote it")),
        (None, Some(other)) => Err(format!("{name_base64} is {other} against expected a string; quote it")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(format: Format, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        let (mut key, mut value) = (b"old".to_vec(), b"old".to_vec());
        parse(format, line, &mut key, &mut value).map(|_| (key, value))
    }

    fn pair(key: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        Ok((key.to_vec(), value.to_vec()))
    }

    fn json(key: &[u8], value: &[u8], remaining: Remaining) -> Vec<u8> {
        let item = Item { key: key.to_vec(), value: value.to_vec(), version: 1, remaining, kind: protocol::TYPE_BYTES };
        let mut line = object(&item).finish();
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    #[test]
    fn a_plain_word_is_a_key_with_an_empty_value() {
        assert_eq!(read(Format::Tsv, b"it's"), pair(b"it's", b""));
        assert_eq!(read(Format::Tsv, b"word\r"), pair(b"word\r", b""));
        assert_eq!(read(Format::Tsv, b"k\tv\tw"), pair(b"k", b"v\tw"), "later tabs belong to the value");
        assert_eq!(read(Format::Tsv, b"\tv"), pair(b"", b"v"), "an empty key is the caller's to refuse");
    }

    #[test]
    fn a_bad_escape_is_named_by_its_column() {
        assert!(read(Format::Tsv, b"a\\q").is_err_and(|why| why.starts_with("column 2 ")));
        assert!(read(Format::Tsv, b"a\tb\\").is_err_and(|why| why.starts_with("column 4 ")));
    }

    #[test]
    fn json_records_are_read_with_optional_fields() {
        assert_eq!(read(Format::Jsonl, br#"{"key":"k"}"#), pair(b"k", b""));
        assert_eq!(
            read(Format::Jsonl, br#"{"value_base64":"/w==","key":"k","ttl_ms":null,"type":"bytes"}"#),
            pair(b"k", b"\xff")
        );
        for line in [
            &br#"{"value":"v"}"#[..],
            br#"{"key":7}"#,
            br#"{"key_base64":7}"#,
            br#"{"key":"a","key_base64":"YQ=="}"#,
            br#"{"key_base64":"?"}"#,
            br#"{"key":"a","ttl_ms":"5"}"#,
            br#"{"key":"a","ttl_ms":-5}"#,
            br#"{"key":"a","ttl_ms":1.5}"#,
            br#"{"key":"a","type":"list"}"#,
            br#"["key"]"#,
            br#"{"key":"a"} x"#,
        ] {
            assert!(read(Format::Jsonl, line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn an_expiry_is_read_and_written_where_there_is_one() {
        let ttl = |line: &[u8]| parse(Format::Jsonl, line, &mut Vec::new(), &mut Vec::new());
        assert_eq!(ttl(br#"{"key":"k","ttl_ms":1500}"#), Ok(Ttl::For(Duration::from_millis(1500))));
        assert_eq!(ttl(br#"{"key":"k","ttl_ms":null}"#), Ok(Ttl::None));
        assert_eq!(ttl(br#"{"key":"k"}"#), Ok(Ttl::None));
        assert_eq!(json(b"k", b"v", Remaining::Forever), br#"{"key":"k","value":"v","type":"bytes"}"#);
        let left = Remaining::For(Duration::from_millis(1500));
        assert_eq!(json(b"k", b"v", left), br#"{"key":"k","value":"v","ttl_ms":1500,"type":"bytes"}"#);
    }

    #[test]
    fn the_format_is_told_by_the_first_line() {
        assert_eq!(Format::detect(br#"{"key":"a","value":"b"}"#), Format::Jsonl);
        assert_eq!(Format::detect(br#"{"key_base64":"YQ=="}"#), Format::Jsonl);
        assert_eq!(Format::detect(b"{\"key\":\"a\",\"value\":\"b\"}\t"), Format::Tsv, "a key that looks like a record");
        assert_eq!(Format::detect(b"{\"name\":1}"), Format::Tsv);
        assert_eq!(Format::detect(b"{"), Format::Tsv);
        assert_eq!(Format::detect(b""), Format::Tsv);
    }

    proptest! {
        #[test]
        fn both_formats_bring_arbitrary_items_back_and_are_told_apart(
            key in proptest::collection::vec(any::<u8>(), 1..60),
            value in proptest::collection::vec(any::<u8>(), 0..60),
            left in proptest::option::of(0..=protocol::MAX_TTL_MS),
        ) {
            let mut line = Vec::new();
            tsv_line(&key, &value, &mut line);
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert_eq!(Format::detect(&line), Format::Tsv);
            prop_assert_eq!(read(Format::Tsv, &line), pair(&key, &value));
            let remaining = left.map_or(Remaining::Forever, |ms| Remaining::For(Duration::from_millis(ms)));
            let line = json(&key, &value, remaining);
            prop_assert_eq!(Format::detect(&line), Format::Jsonl);
            prop_assert_eq!(read(Format::Jsonl, &line), pair(&key, &value));
            prop_assert_eq!(parse(Format::Jsonl, &line, &mut Vec::new(), &mut Vec::new()), Ok(remaining.as_ttl()));
        }
    }
}
