//! Medians and how far the rounds lay apart.

use serde::{Deserialize, Serialize};

/// The median of several rounds with the lowest and the highest of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Middle value (of an even number: mean of the two).
    pub median: f64,
    /// Lowest round.
    pub min: f64,
    /// Highest round.
    pub max: f64,
}

/// What comparing two spreads allows one to say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The ranges overlap.
    NoDifference,
    /// They do not; `ratio` is the first median over the second.
    Ratio(f64),
}

impl Spread {
    /// The spread of some rounds. All zero for none.
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        let median = median(&mut sorted);
        Self { median, min: sorted.first().copied().unwrap_or(0.0), max: sorted.last().copied().unwrap_or(0.0) }
    }

    /// The spread of the quotients of rounds measured side by side.
    pub fn of_ratios(over: &[f64], under: &[f64]) -> Self {
        Self::of(&over.iter().zip(under).filter(|(_, under)| **under > 0.0).map(|(over, under)| over / under).collect::<Vec<_>>())
    }

    /// Compares with another spread.
    pub fn against(&self, other: &Self) -> Verdict {
        if self.min <= other.max && other.min <= self.max || other.median == 0.0 {
            Verdict::NoDifference
        } else {
            Verdict::Ratio(self.median / other.median)
        }
    }
}

/// Sorts and returns the middle value, 0 for none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_none_odd_and_even() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_spread_names_its_ends() {
        assert_eq!(Spread::of(&[5.0, 1.0, 9.0]), Spread { median: 5.0, min: 1.0, max: 9.0 });
        assert_eq!(Spread::of(&[]), Spread { median: 0.0, min: 0.0, max: 0.0 });
    }

    #[test]
    fn ratios_pair_rounds_and_skip_empty_ones() {
        assert_eq!(Spread::of_ratios(&[2.0, 6.0, 1.0], &[1.0, 2.0, 0.0]), Spread { median: 2.5, min: 2.0, max: 3.0 });
    }

    #[test]
    fn overlapping_ranges_say_nothing() {
        let a = Spread::of(&[1.0, 2.0, 3.0]);
        assert_eq!(a.against(&Spread::of(&[3.0, 4.0, 5.0])), Verdict::NoDifference);
        assert_eq!(a.against(&Spread::of(&[4.0, 4.0, 5.0])), Verdict::Ratio(0.5));
        assert_eq!(Spread::of(&[4.0]).against(&a), Verdict::Ratio(2.0));
    }
}
