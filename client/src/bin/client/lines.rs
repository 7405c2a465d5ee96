//! Lines of an input of any size in bounded memory.

use std::io::{self, BufRead};

/// What was found where a line was wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line is in the buffer, without its newline.
    Whole,
    /// The line is longer than allowed; the buffer holds its beginning.
    TooLong,
    /// The input is at its end.
    End,
}

/// Reads the next line of at most `most` bytes into `line`, which is cleared first. The last line needs no newline.
pub(crate) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>, most: usize) -> io::Result<Line> {
    line.clear();
    let mut begun = false;
    loop {
        let piece = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if piece.is_empty() {
            return Ok(if begun { Line::Whole } else { Line::End });
        }
        begun = true;
        let newline = piece.iter().position(|&byte| byte == b'\n');
        let len = newline.unwrap_or(piece.len());
        if line.len() + len > most {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(&piece[..len]);
        input.consume(len + usize::from(newline.is_some()));
        if newline.is_some() {
            return Ok(Line::Whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(text: &[u8], most: usize) -> (Vec<Vec<u8>>, Line) {
        // A buffer of three bytes makes lines span refills.
        let mut input = BufReader::with_capacity(3, text);
        let (mut all, mut line) = (Vec::new(), Vec::new());
        loop {
            match read_line(&mut input, &mut line, most).expect("reading memory") {
                Line::Whole => all.push(line.clone()),
                other => return (all, other),
            }
        }
    }

    #[test]
    fn lines_come_without_newlines_and_the_last_needs_none() {
        let want = vec![b"one".to_vec(), b"".to_vec(), b"three\r".to_vec()];
        assert_eq!(lines(b"one\n\nthree\r\n", 9), (want.clone(), Line::End));
        assert_eq!(lines(b"one\n\nthree\r", 9), (want, Line::End));
        assert_eq!(lines(b"", 9), (vec![], Line::End));
    }

    #[test]
    fn a_line_beyond_the_limit_is_named_and_not_stored() {
        assert_eq!(lines(b"four\nfives\n", 4), (vec![b"four".to_vec()], Line::TooLong));
        assert_eq!(lines(b"abcde", 5), (vec![b"abcde".to_vec()], Line::End));
    }
}
