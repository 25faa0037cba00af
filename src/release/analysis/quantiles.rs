//! Times, as counts in cells that each reach two percent further: a quantile of any number of them in a few kilobytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The upper end of the first cell, in seconds.
const FIRST: f64 = 1e-5;

/// How much further each cell reaches than the one before.
const GROWTH: f64 = 1.02;

/// The last cell, above two days.
const LAST: f64 = 1200.0;

/// Counts of times.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Quantiles {
    cells: BTreeMap<u16, u64>,
    count: u64,
}

impl Quantiles {
    /// Takes in a time in seconds.
    pub(super) fn add(&mut self, seconds: f64) {
        let cell = ((seconds / FIRST).ln() / GROWTH.ln()).ceil().clamp(0.0, LAST);
        *self.cells.entry(cell as u16).or_default() += 1;
        self.count += 1;
    }

    /// Takes in what others hold.
    pub(super) fn merge(&mut self, other: Self) {
        for (cell, count) in other.cells {
            *self.cells.entry(cell).or_default() += count;
        }
        self.count += other.count;
    }

    /// How many times there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A time, in seconds, that at least this share of all do not pass; none where there are none.
    pub(super) fn at(&self, share: f64) -> Option<f64> {
        let mut seen = 0;
        let wanted = (share * self.count as f64).ceil();
        let cell = self.cells.iter().find(|(_, count)| {
            seen += **count;
            seen as f64 >= wanted
        })?;
        Some(FIRST * GROWTH.powi(i32::from(*cell.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_two_percent() {
        let mut times = Quantiles::default();
        assert_eq!(times.at(0.5), None);
        (1..=1000).for_each(|i| times.add(f64::from(i) / 250.0));
        for (share, exact) in [(0.5, 2.0), (0.95, 3.8), (0.99, 3.96)] {
            let found = times.at(share).unwrap();
            assert!((exact..exact * 1.0201).contains(&found), "{share}: {found}");
        }
        let mut extremes = Quantiles::default();
        extremes.add(0.0);
        extremes.add(1e9);
        assert!(extremes.at(0.5).unwrap() <= 1e-5 && extremes.at(1.0).unwrap() > 172_800.0);
    }
}
