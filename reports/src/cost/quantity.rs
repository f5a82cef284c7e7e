//! Figures somebody else vouches for, and what is computed from them.
//!
//! Invariant: a [`Quantity`] says who gives it, when, and how far it can be relied on, and
//! `low ≤ mid ≤ high`. What is computed carries its mid value (all inputs at theirs) and the 95 %
//! interval over [`DRAWS`] draws in which each input varies by itself, triangular over its range.
//! The draws come from a fixed seed: equal inputs give equal intervals on every machine.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stats::percentile_interval;

/// Draws behind each interval.
pub const DRAWS: usize = 2_000;
/// Drawing starts here, always.
const SEED: u64 = 0x0077_6569_6768_0002;

/// How far a figure can be relied on.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Read at its source.
    High,
    /// From a single or an indirect source.
    Medium,
    /// Rough.
    Low,
    /// Conflicting, or nobody has checked it.
    Unconfirmed,
    /// Assumed by whoever wrote the sheet.
    Assumption,
    /// Made up, to show how it works.
    Example,
}

impl Confidence {
    /// As in price sheets.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
            Self::Unconfirmed => "unconfirmed",
            Self::Assumption => "assumption",
            Self::Example => "example",
        }
    }
}

/// A figure with its range, its source, its date and its confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantity {
    /// Lowest value that is likely.
    pub low: f64,
    /// The value used where one is needed.
    pub mid: f64,
    /// Highest value that is likely.
    pub high: f64,
    /// Currency of an amount of money, as ISO 4217 has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Who says so.
    pub source: String,
    /// `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    pub date: String,
    /// How far it can be relied on.
    pub confidence: Confidence,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Something computed: at the mid values of its inputs, and its 95 % interval, both of whose ends
/// are null where an input has a spread that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// All inputs at their mid values.
    pub mid: f64,
    /// 2.5 % quantile over the draws.
    pub low: Option<f64>,
    /// 97.5 % quantile over the draws.
    pub high: Option<f64>,
}

impl Estimate {
    /// From the mid value and the values of the draws.
    pub(super) fn new(mid: f64, mut draws: Vec<f64>) -> Self {
        let ends = percentile_interval(&mut draws, f64::total_cmp);
        let (low, high) = ends.unwrap_or((mid, mid));
        Self {
            mid,
            low: Some(low.min(mid)),
            high: Some(high.max(mid)),
        }
    }

    /// The 95 % interval.
    pub fn interval(self) -> Option<(f64, f64)> {
        self.low.zip(self.high)
    }

    /// The same in another unit.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self {
            mid: self.mid * factor,
            low: self.low.map(|low| low * factor),
            high: self.high.map(|high| high * factor),
        }
    }

    /// The same where the draws do not hold all that varies.
    #[must_use]
    pub(super) fn without_interval(self) -> Self {
        Self {
            low: None,
            high: None,
            ..self
        }
    }
}

/// One world: every input at its mid value, or every input drawn.
#[derive(Debug)]
pub(super) enum World {
    Mid,
    Drawn(Box<ChaCha8Rng>),
}

impl World {
    /// The mid world and the [`DRAWS`] drawn ones.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let drawn = (0..DRAWS).map(|index| {
            let mut rng = ChaCha8Rng::seed_from_u64(SEED);
            rng.set_stream(index as u64);
            Self::Drawn(Box::new(rng))
        });
        std::iter::once(Self::Mid).chain(drawn)
    }

    /// A quantity's value in this world. To be asked once for each quantity.
    pub(super) fn value(&mut self, quantity: &Quantity) -> f64 {
        match self {
            Self::Mid => quantity.mid,
            Self::Drawn(rng) => triangular(quantity, rng.random()),
        }
    }

    /// A factor around 1 for a measured rate above 0 with its 95 % interval, log-normal.
    pub(super) fn rate_factor(&mut self, rate: f64, (low, high): (f64, f64)) -> f64 {
        let Self::Drawn(rng) = self else { return 1.0 };
        // Each side has its own width: block intervals of rates are not symmetric.
        let normal = standard_normal(rng);
        let side = if normal < 0.0 {
            rate / low
        } else {
            high / rate
        };
        (normal * side.max(1.0).ln() / 1.96).exp()
    }
}

/// The value below which a share `at` of the triangle lies.
fn triangular(quantity: &Quantity, at: f64) -> f64 {
    let Quantity { low, mid, high, .. } = *quantity;
    let width = high - low;
    if width <= 0.0 {
        return mid;
    }
    let peak = (mid - low) / width;
    if at < peak {
        low + (at * width * (mid - low)).sqrt()
    } else {
        high - ((1.0 - at) * width * (high - mid)).sqrt()
    }
}

/// Box and Muller's first value.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(low: f64, mid: f64, high: f64) -> Quantity {
        Quantity {
            low,
            mid,
            high,
            currency: None,
            source: "test".to_owned(),
            date: "2026-01".to_owned(),
            confidence: Confidence::Example,
            note: None,
        }
    }

    #[test]
    fn triangles_have_their_quantiles() {
        let triangle = quantity(1.0, 2.0, 4.0);
        // F(2) = (2−1)²/((4−1)(2−1)) = 1/3; F(3) = 1 − (4−3)²/((4−1)(4−2)) = 5/6.
        for (share, value) in [(0.0, 1.0), (1.0 / 3.0, 2.0), (5.0 / 6.0, 3.0), (1.0, 4.0)] {
            assert!((triangular(&triangle, share) - value).abs() < 1e-12);
        }
        assert!((triangular(&quantity(3.0, 3.0, 3.0), 0.9) - 3.0).abs() < 1e-12);
    }

    #[test]
    fn draws_repeat_and_cover_the_interval_of_a_rate() {
        let factors: Vec<f64> = World::all()
            .skip(1)
            .map(|mut world| world.rate_factor(10.0, (9.0, 12.0)))
            .collect();
        let again: Vec<f64> = World::all()
            .skip(1)
            .map(|mut world| world.rate_factor(10.0, (9.0, 12.0)))
            .collect();
        assert_eq!(factors, again);
        let estimate = Estimate::new(1.0, factors);
        let (low, high) = estimate.interval().expect("draws have one");
        assert!((low - 0.9).abs() < 0.01, "{estimate:?}");
        assert!((high - 1.2).abs() < 0.01, "{estimate:?}");
    }
}
