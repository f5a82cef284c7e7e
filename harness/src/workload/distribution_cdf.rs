//! The laws of [`super::distribution`] as probabilities: what a right sample must look like.
//!
//! Invariant: written from the definition of each law, not from its sampler, so that a mistake in
//! either shows as a difference.

use reports::goodness::normal_cdf;

use super::distribution::Distribution;

/// Parts of an interval of user tokens in which a ratio's law is taken to be one.
const SLICES: u32 = 48;

impl Distribution {
    /// `P(X ≤ x)`, or `P(X < x)`; `user` is the number that a ratio is taken of.
    fn probability(&self, x: f64, user: f64, reached: bool) -> f64 {
        let clipped = |min: f64, max: f64, inside: f64| {
            let (below, above) = if reached {
                (x < min, x >= max)
            } else {
                (x <= min, x > max)
            };
            match (below, above) {
                (true, _) => 0.0,
                (_, true) => 1.0,
                _ => inside,
            }
        };
        match self {
            Self::Fixed { value } => clipped(*value, *value, 1.0),
            Self::Uniform { min, max } => clipped(*min, *max, (x - min) / (max - min).max(1e-300)),
            Self::Lognormal {
                mu,
                sigma,
                min,
                max,
            } => clipped(*min, *max, lognormal_cdf(x, *mu, *sigma)),
            Self::RatioOfUser {
                mu,
                sigma,
                min,
                max,
            } => clipped(*min, *max, lognormal_cdf(x / user, *mu, *sigma)),
            Self::Mixture { components } => {
                let total: f64 = components.iter().map(|part| part.weight).sum();
                let parts = components.iter();
                let weighted = parts.map(|p| p.weight * p.law.probability(x, user, reached));
                weighted.sum::<f64>() / total
            }
        }
    }

    /// `P(X ≤ x)`.
    pub(super) fn cdf(&self, x: f64) -> f64 {
        self.probability(x, 1.0, true)
    }

    /// `P(X < x)`.
    pub(super) fn cdf_below(&self, x: f64) -> f64 {
        self.probability(x, 1.0, false)
    }

    /// Is it a multiple of the user's tokens?
    pub(super) fn is_ratio(&self) -> bool {
        matches!(self, Self::RatioOfUser { .. })
    }

    /// `P(X < x)` of a ratio, given only that the user's number, of law `user`, lies within `(from,
    /// to)`.
    pub(super) fn ratio_cdf_below(&self, x: f64, user: &Self, (from, to): (f64, f64)) -> f64 {
        let edge = |part: u32| from + (to - from) * f64::from(part) / f64::from(SLICES);
        let (mut weighted, mut weights) = (0.0, 0.0);
        for part in 0..SLICES {
            let (low, high) = (edge(part), edge(part + 1));
            let weight = user.cdf_below(high) - user.cdf_below(low);
            // The mass of a bound lies on it, not around it.
            let middle = f64::midpoint(low, high).clamp(user.least(), user.largest());
            weighted += weight * self.probability(x, middle, false);
            weights += weight;
        }
        if weights > 0.0 {
            weighted / weights
        } else {
            0.0
        }
    }

    /// The least value there can be.
    pub(super) fn least(&self) -> f64 {
        match self {
            Self::Fixed { value } => *value,
            Self::Lognormal { min, .. }
            | Self::Uniform { min, .. }
            | Self::RatioOfUser { min, .. } => *min,
            Self::Mixture { components } => {
                let least = components.iter().map(|part| part.law.least());
                least.fold(f64::INFINITY, f64::min)
            }
        }
    }
}

fn lognormal_cdf(x: f64, mu: f64, sigma: f64) -> f64 {
    if x <= 0.0 {
        0.0
    } else if sigma > 0.0 {
        normal_cdf((x.ln() - mu) / sigma)
    } else {
        f64::from(u8::from(x.ln() >= mu))
    }
}
