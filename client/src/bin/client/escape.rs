//! The escaping of `dump` and `load`: any bytes as printable ASCII, and back.
//!
//! Tab, newline and backslash become `\t`, `\n` and `\\`; every other byte outside printable ASCII becomes `\xNN`. Reading
//! accepts raw bytes as they are; only a backslash is special, and one that begins none of these four is refused rather than
//! guessed at.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A backslash that begins no escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadEscape {
    /// Offset of the backslash in the input.
    pub(crate) at: usize,
}

/// Appends the escaped form of `bytes` to `out`.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

/// The escaped form as text, for messages.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len());
    escape(bytes, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// Appends the bytes that `text` stands for to `out`.
pub(crate) fn unescape(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadEscape> {
    let mut at = 0;
    while at < text.len() {
        let plain = text[at..].iter().position(|&byte| byte == b'\\').map_or(text.len(), |found| at + found);
        out.extend_from_slice(&text[at..plain]);
        at = plain;
        if at == text.len() {
            break;
        }
        let (byte, len) = match &text[at + 1..] {
            [b't', ..] => (b'\t', 2),
            [b'n', ..] => (b'\n', 2),
            [b'\\', ..] => (b'\\', 2),
            [b'x', high, low, ..] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 4),
                _ => return Err(BadEscape { at }),
            },
            _ => return Err(BadEscape { at }),
        };
        out.push(byte);
        at += len;
    }
    Ok(())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unescaped(text: &[u8]) -> Result<Vec<u8>, BadEscape> {
        let mut out = Vec::new();
        unescape(text, &mut out).map(|()| out)
    }

    #[test]
    fn what_is_special_has_the_documented_form() {
        assert_eq!(escaped(b"a b\t\n\\\r\0\x7f\xff~"), "a b\\t\\n\\\\\\x0d\\x00\\x7f\\xff~");
    }

    #[test]
    fn raw_bytes_are_read_as_they_are() {
        assert_eq!(unescaped(b"caf\xc3\xa9\r\t\xff"), Ok(b"caf\xc3\xa9\r\t\xff".to_vec()));
        assert_eq!(unescaped(b"\\xFf"), Ok(vec![0xff]), "either case of hexadecimal digits");
    }

    #[test]
    fn a_backslash_that_begins_no_escape_is_refused_where_it_stands() {
        for (text, at) in [(&b"ab\\"[..], 2), (b"\\q", 0), (b"x\\x1", 1), (b"\\xg0", 0), (b"\\x+1", 0)] {
            assert_eq!(unescaped(text), Err(BadEscape { at }));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut text = Vec::new();
            escape(&bytes, &mut text);
            prop_assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)));
            prop_assert_eq!(unescaped(&text), Ok(bytes));
        }

        #[test]
        fn arbitrary_input_is_read_or_refused(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Err(BadEscape { at }) = unescaped(&text) {
                prop_assert_eq!(text[at], b'\\');
            }
        }
    }
}
