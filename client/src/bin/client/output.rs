//! Standard output: plain lines or one JSON object per line.
//!
//! A reader that goes away (a broken pipe) is no error: what is written after that goes nowhere, and a command that could go on
//! for long asks [`Output::is_closed`] and ends.

use std::fmt::Display;
use std::io::{self, BufWriter, StdoutLock, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::failure::Failure;

/// Where results go.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    closed: bool,
}

impl Output {
    /// Standard output, with or without `--json`.
    pub(crate) fn new(json: bool) -> Self {
        Self { out: BufWriter::with_capacity(1 << 14, io::stdout().lock()), json, closed: false }
    }

    /// Whether results are wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether the reader has gone away.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let written = self.out.write_all(bytes);
        self.settle(written)
    }

    /// Writes one plain line.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let written = writeln!(self.out, "{text}");
        self.settle(written)
    }

    /// Writes one JSON object as a line.
    pub(crate) fn object(&mut self, object: Object) -> Result<(), Failure> {
        self.raw(&object.finish())
    }

    /// Writes `text` as a line, or `object` where JSON is wanted.
    pub(crate) fn either(&mut self, text: impl Display, object: impl FnOnce() -> Object) -> Result<(), Failure> {
        if self.json { self.object(object()) } else { self.line(text) }
    }

    /// Hands everything to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let written = self.out.flush();
        self.settle(written)
    }

    fn settle(&mut self, written: io::Result<()>) -> Result<(), Failure> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.map_err(Failure::io("writing to stdout failed")),
        }
    }
}

/// A JSON object under construction; fields keep their order.
#[derive(Debug)]
pub(crate) struct Object {
    text: Vec<u8>,
}

impl Object {
    /// An object without fields.
    pub(crate) fn new() -> Self {
        Self { text: vec![b'{'] }
    }

    fn name(&mut self, name: &str) {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
        self.string(name);
        self.text.push(b':');
    }

    fn string(&mut self, text: &str) {
        // Writing a string to memory cannot fail.
        let _ = serde_json::to_writer(&mut self.text, text);
    }

    /// Adds a text.
    pub(crate) fn text(mut self, name: &str, text: &str) -> Self {
        self.name(name);
        self.string(text);
        self
    }

    /// Adds bytes: as text under `name` if they are UTF-8, else as base64 under `name_base64`.
    pub(crate) fn bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(name, text),
            Err(_) => {
                self.name(&format!("{name}_base64"));
                self.string(&STANDARD.encode(bytes));
                self
            }
        }
    }

    /// Adds a whole number, or anything that prints as a JSON number.
    pub(crate) fn number(mut self, name: &str, number: impl Display) -> Self {
        self.name(name);
        // Writing to memory cannot fail.
        let _ = write!(self.text, "{number}");
        self
    }

    /// Adds true or false.
    pub(crate) fn flag(self, name: &str, flag: bool) -> Self {
        self.number(name, flag)
    }

    /// The finished line.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.text.extend_from_slice(b"}\n");
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_one_line_of_json_in_field_order() {
        let object = Object::new().bytes("key", b"a\n\"").bytes("value", b"\xff").number("version", 7).flag("found", true);
        assert_eq!(
            String::from_utf8(object.finish()).expect("JSON is UTF-8"),
            "{\"key\":\"a\\n\\\"\",\"value_base64\":\"/w==\",\"version\":7,\"found\":true}\n"
        );
        assert_eq!(Object::new().finish(), b"{}\n");
    }
}
