//! The part of Redis' protocol (RESP 2) that the comparison needs: commands out, replies in.

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+text`.
    Simple(&'a [u8]),
    /// `-text`.
    Error(&'a [u8]),
    /// `:number`.
    Integer(i64),
    /// `$length` and bytes, or none.
    Bulk(Option<&'a [u8]>),
}

/// Bytes that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Longest bulk string that Redis sends.
const LONGEST: usize = 512 << 20;

/// Appends a command of some parts.
pub fn encode(parts: &[&[u8]], out: &mut Vec<u8>) {
    header(b'*', parts.len(), out);
    for part in parts {
        header(b'$', part.len(), out);
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(mark: u8, number: usize, out: &mut Vec<u8>) {
    out.push(mark);
    let mut digits = [0; 20];
    let (mut at, mut left) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// The reply at the start of `bytes` and how many bytes it takes; none while it is not whole.
pub fn parse(bytes: &[u8]) -> Result<Option<(Reply<'_>, usize)>, Malformed> {
    let Some(&mark) = bytes.first() else {
        return Ok(None);
    };
    if !b"+-:$".contains(&mark) {
        return Err(Malformed);
    }
    let Some(end) = bytes.iter().position(|byte| *byte == b'\r') else {
        return if bytes.len() > 64 << 10 { Err(Malformed) } else { Ok(None) };
    };
    match bytes.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(Malformed),
    }
    let (line, after) = (&bytes[1..end], end + 2);
    Ok(match mark {
        b'+' => Some((Reply::Simple(line), after)),
        b'-' => Some((Reply::Error(line), after)),
        b':' => Some((Reply::Integer(number(line)?), after)),
        _ => match number(line)? {
            -1 => Some((Reply::Bulk(None), after)),
            len => {
                let len = usize::try_from(len).ok().filter(|len| *len <= LONGEST).ok_or(Malformed)?;
                match bytes.get(after..after + len + 2) {
                    None => None,
                    Some(body) if body.ends_with(b"\r\n") => Some((Reply::Bulk(Some(&body[..len])), after + len + 2)),
                    Some(_) => return Err(Malformed),
                }
            }
        },
    })
}

fn number(line: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_encoded_as_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&[b"SET", b"k\r\n", b""], &mut out);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$0\r\n\r\n");
        out.clear();
        encode(&[&[7; 1234]], &mut out);
        assert!(out.starts_with(b"*1\r\n$1234\r\n"));
    }

    #[test]
    fn every_kind_of_reply_is_read_whole_or_not_at_all() {
        let wire: &[(&[u8], Reply<'_>)] = &[
            (b"+OK\r\n", Reply::Simple(b"OK")),
            (b"-ERR no\r\n", Reply::Error(b"ERR no")),
            (b":-12\r\n", Reply::Integer(-12)),
            (b"$-1\r\n", Reply::Bulk(None)),
            (b"$0\r\n\r\n", Reply::Bulk(Some(b""))),
            (b"$4\r\na\r\nb\r\n", Reply::Bulk(Some(b"a\r\nb"))),
        ];
        for (bytes, reply) in wire {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{reply:?} cut at {cut}");
            }
            let followed = [*bytes, b"+more"].concat();
            assert_eq!(parse(&followed), Ok(Some((*reply, bytes.len()))));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [&b"x\r\n"[..], b":a\r\n", b"$-2\r\n", b"$99999999999\r\n", b"+a\rb", b"$1\r\nabc", b"*1\r\n"] {
            assert_eq!(parse(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }
}
