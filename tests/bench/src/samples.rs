//! Samples of one quantity, and comparisons of two sides: alternating, so that a machine whose speed drifts affects
//! both.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Values of one quantity, in the order they were taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Appends more samples.
    pub(crate) fn append(&mut self, more: &Self) {
        self.0.extend(&more.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `share` (0 to 1) of the samples lie, by nearest rank. Zero if there are no samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.clamp(1, sorted.len().max(1)) - 1)
            .copied()
            .unwrap_or(0.0)
    }

    /// The middle value; for an even number of samples, the mean of the two middle ones.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            n if n % 2 == 1 => sorted[half],
            _ => f64::midpoint(sorted[half - 1], sorted[half]),
        }
    }

    pub(crate) fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// The samples with each value changed by `change`.
    pub(crate) fn each(&self, change: impl Fn(f64) -> f64) -> Self {
        self.0.iter().copied().map(change).collect()
    }

    /// All but the first, which belongs to the warm-up round.
    pub(crate) fn without_first(&self) -> Self {
        Self(self.0.iter().skip(1).copied().collect())
    }

    /// `self / other`, pair by pair.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// One side of a comparison: prepares, does the measured work, and returns how long that work took.
pub(crate) type Side<'a> = (&'a str, Box<dyn FnMut() -> Result<Duration> + 'a>);

/// Lets the sides take turns: `rounds` times each, after a warm-up round that does not count. Returns each side's
/// seconds. The order is reversed every round, so that no side always comes first.
pub(crate) fn alternate(rounds: usize, sides: &mut [Side<'_>]) -> Result<Vec<Samples>> {
    let mut taken = vec![Samples::default(); sides.len()];
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (name, side) = &mut sides[index];
            let took = side().with_context(|| format!("{name}, round {round}"))?;
            eprintln!(
                "  round {round}: {name} {:.3} s{}",
                took.as_secs_f64(),
                if round == 0 { " (not counted)" } else { "" }
            );
            if round > 0 {
                taken[index].push(took.as_secs_f64());
            }
        }
    }
    Ok(taken)
}

/// How long `work` takes.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begin = Instant::now();
    let value = work()?;
    Ok((value, begin.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            (
                samples.quantile(0.5),
                samples.quantile(0.99),
                samples.max(),
                samples.min()
            ),
            (50.0, 99.0, 100.0, 1.0)
        );
        assert_eq!(samples.median(), 50.5);
        let none = Samples::default();
        assert_eq!((none.median(), none.max(), none.len()), (0.0, 0.0, 0));
    }

    #[test]
    fn sides_take_turns() {
        let order = std::cell::RefCell::new(String::new());
        let side = |name: char| {
            let order = &order;
            Box::new(move || {
                order.borrow_mut().push(name);
                Ok(Duration::from_millis(1))
            })
        };
        let taken = alternate(2, &mut [("a", side('a')), ("b", side('b'))]).unwrap();
        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!(taken.iter().map(Samples::len).collect::<Vec<_>>(), [2, 2]);
    }
}
