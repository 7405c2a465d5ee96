//! Sizes and durations as people type them: `64KiB 512MiB 2GiB`, `250ms 5s 10m 2h`.
//!
//! Server and client read their flags with the same two parsers, so that a value that one takes the other takes too. Only
//! whole numbers are read, and a unit that could mean two things (`MB`: 1000 or 1024?) is refused rather than guessed.

use std::time::Duration;

/// A size or duration that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// The text does not start with a whole number.
    #[error("not a whole number: found `{found}`, expected {expected}")]
    Number {
        /// The text.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// The number is followed by something that is no unit.
    #[error("unknown unit `{unit}` in `{found}`: expected {expected}")]
    Unit {
        /// The text.
        found: String,
        /// Its unit.
        unit: String,
        /// What would do.
        expected: &'static str,
    },
    /// The value does not fit 64 bits of bytes or milliseconds.
    #[error("value `{found}` is too large: at most {most} can be written")]
    TooLarge {
        /// The text.
        found: String,
        /// The largest value.
        most: &'static str,
    },
}

const SIZES: &str = "bytes or a size such as 64KiB, 512MiB or 2GiB";
const DURATIONS: &str = "a duration such as 250ms, 5s, 10m or 2h";

/// Units of sizes, largest first, as [`format_size`] writes them.
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Units of durations in nanoseconds.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Reads a size in bytes: a whole number, alone or followed by `B`, `KiB`, `MiB`, `GiB` or `TiB` in either case.
///
/// ```
/// assert_eq!(protocol::parse_size("64KiB"), Ok(65_536));
/// assert_eq!(protocol::parse_size("4096"), Ok(4096));
/// assert!(protocol::parse_size("64KB").is_err());
/// ```
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text, SIZES)?;
    let factor = match unit {
        "" => 1,
        unit => SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|&(_, factor)| factor)
            .ok_or_else(|| UnitError::Unit { found: text.to_owned(), unit: unit.to_owned(), expected: SIZES })?,
    };
    let too_large = || UnitError::TooLarge { found: text.to_owned(), most: "16777215TiB" };
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(too_large)
}

/// Reads a duration: a whole number followed by `ns`, `us`, `ms`, `s`, `m`, `h` or `d`. `0` needs no unit.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(protocol::parse_duration("250ms"), Ok(Duration::from_millis(250)));
/// assert_eq!(protocol::parse_duration("10m"), Ok(Duration::from_secs(600)));
/// assert!(protocol::parse_duration("10").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text, DURATIONS)?;
    if unit.is_empty() && number == Some(0) {
        return Ok(Duration::ZERO);
    }
    let factor = DURATION_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|&(_, factor)| factor)
        .ok_or_else(|| UnitError::Unit { found: text.to_owned(), unit: unit.to_owned(), expected: DURATIONS })?;
    let too_large = || UnitError::TooLarge { found: text.to_owned(), most: "213503d" };
    number.and_then(|number| number.checked_mul(factor)).map(Duration::from_nanos).ok_or_else(too_large)
}

/// Writes a size so that [`parse_size`] reads the same number: in the largest unit that divides it.
pub fn format_size(bytes: u64) -> String {
    let (name, factor) =
        SIZE_UNITS.into_iter().find(|(_, factor)| bytes.is_multiple_of(*factor) && bytes > 0).unwrap_or(("B", 1));
    format!("{}{name}", bytes / factor)
}

/// Splits leading digits from the rest; the number is `None` when it does not fit 64 bits.
fn split<'a>(text: &'a str, expected: &'static str) -> Result<(Option<u64>, &'a str), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 {
        return Err(UnitError::Number { found: text.to_owned(), expected });
    }
    let (number, unit) = text.split_at(digits);
    Ok((number.parse().ok(), unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_of_the_contract_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("1", 1),
            ("17B", 17),
            ("64KiB", 64 << 10),
            ("512MiB", 512 << 20),
            ("2GiB", 2 << 30),
            ("3TiB", 3 << 40),
            ("64kib", 64 << 10),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn durations_of_the_contract_are_read() {
        for (text, ms) in [("0", 0), ("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("2h", 7_200_000), ("1d", 86_400_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_duration("7us"), Ok(Duration::from_micros(7)));
        assert_eq!(parse_duration("9ns"), Ok(Duration::from_nanos(9)));
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for text in ["64KB", "64K", "64MB", "1.5GiB", "64 KiB", "64KiBx"] {
            assert!(matches!(parse_size(text), Err(UnitError::Unit { .. })), "{text}");
        }
        for text in ["5", "5S", "5 s", "5min", "1.5s"] {
            assert!(matches!(parse_duration(text), Err(UnitError::Unit { .. })), "{text}");
        }
        for text in ["", "KiB", "-1", "+1s", " 1s", "ms"] {
            assert!(matches!(parse_size(text), Err(UnitError::Number { .. })), "{text}");
            assert!(matches!(parse_duration(text), Err(UnitError::Number { .. })), "{text}");
        }
    }

    #[test]
    fn values_beyond_64_bits_are_refused() {
        for text in ["18446744073709551616", "16777216TiB", "99999999999999999999999GiB"] {
            assert!(matches!(parse_size(text), Err(UnitError::TooLarge { .. })), "{text}");
        }
        for text in ["213504d", "18446744073709551616ns"] {
            assert!(matches!(parse_duration(text), Err(UnitError::TooLarge { .. })), "{text}");
        }
    }

    #[test]
    fn errors_name_the_value_and_what_would_do() {
        let error = parse_size("64KB").expect_err("refused").to_string();
        assert_eq!(error, "unknown unit `KB` in `64KB`: expected bytes or a size such as 64KiB, 512MiB or 2GiB");
    }

    proptest! {
        #[test]
        fn a_written_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }
    }
}
