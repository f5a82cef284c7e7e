//! Laws of lengths and times, as workload files write them.
//!
//! Invariant: a sample is finite and within `[min, max]` where the law has bounds; values are the
//! same on every machine (see [`crate::random`]).

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};
use serde::{Deserialize, Serialize};

/// A law.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "dist", rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    /// Always the same.
    Fixed {
        /// The value.
        value: f64,
    },
    /// `exp(N(mu, sigma))`, clipped.
    Lognormal {
        /// Mean of the logarithm.
        mu: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// Uniform.
    Uniform {
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
    /// One of several, by weight.
    Mixture {
        /// The laws.
        components: Vec<Component>,
    },
    /// A multiple of the user's tokens: the output of a translation.
    RatioOfUser {
        /// Mean of the logarithm of the ratio.
        mu: f64,
        /// Standard deviation of the logarithm of the ratio.
        sigma: f64,
        /// Least value.
        min: f64,
        /// Greatest value.
        max: f64,
    },
}

/// A part of a mixture; its law is lognormal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Relative weight.
    pub weight: f64,
    /// The law.
    #[serde(flatten)]
    pub law: Distribution,
}

impl Distribution {
    /// Draws a value; `user_tokens` is what a ratio is taken of.
    pub fn sample(&self, rng: &mut ChaCha8Rng, user_tokens: f64) -> f64 {
        match self {
            Self::Fixed { value } => *value,
            Self::Lognormal {
                mu,
                sigma,
                min,
                max,
            } => lognormal(rng, *mu, *sigma).clamp(*min, *max),
            Self::Uniform { min, max } => min + (max - min) * rng.random::<f64>(),
            Self::Mixture { components } => {
                let total: f64 = components.iter().map(|component| component.weight).sum();
                let mut left = rng.random::<f64>() * total;
                let chosen = components.iter().find(|component| {
                    left -= component.weight;
                    left < 0.0
                });
                let chosen = chosen
                    .or(components.last())
                    .expect("a checked mixture has parts");
                chosen.law.sample(rng, user_tokens)
            }
            Self::RatioOfUser {
                mu,
                sigma,
                min,
                max,
            } => (user_tokens * lognormal(rng, *mu, *sigma)).clamp(*min, *max),
        }
    }

    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Fixed { value } => need(value.is_finite() && *value >= 0.0, "value", *value),
            Self::Uniform { min, max } => bounds(*min, *max),
            Self::Lognormal {
                mu,
                sigma,
                min,
                max,
            }
            | Self::RatioOfUser {
                mu,
                sigma,
                min,
                max,
            } => {
                need(mu.is_finite(), "mu", *mu)?;
                need(sigma.is_finite() && *sigma >= 0.0, "sigma", *sigma)?;
                bounds(*min, *max)
            }
            Self::Mixture { components } if components.is_empty() => {
                Err("`components` is empty; at least one is needed".into())
            }
            Self::Mixture { components } => components.iter().try_for_each(|component| {
                let weight = component.weight;
                need(weight.is_finite() && weight > 0.0, "weight", weight)?;
                component.law.check()
            }),
        }
    }

    /// The greatest value there can be.
    pub fn largest(&self) -> f64 {
        match self {
            Self::Fixed { value } => *value,
            Self::Lognormal { max, .. }
            | Self::Uniform { max, .. }
            | Self::RatioOfUser { max, .. } => *max,
            Self::Mixture { components } => components
                .iter()
                .map(|part| part.law.largest())
                .fold(0.0, f64::max),
        }
    }

    /// Lowers the upper bound; a law without one is left alone.
    pub fn cap(&mut self, cap: f64) {
        match self {
            Self::Lognormal { max, .. }
            | Self::Uniform { max, .. }
            | Self::RatioOfUser { max, .. } => *max = max.min(cap),
            Self::Mixture { components } => components.iter_mut().for_each(|c| c.law.cap(cap)),
            Self::Fixed { .. } => {}
        }
    }
}

fn lognormal(rng: &mut ChaCha8Rng, mu: f64, sigma: f64) -> f64 {
    let normal: f64 = StandardNormal.sample(rng);
    libm::exp(mu + sigma * normal)
}

fn need(holds: bool, key: &str, value: f64) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("`{key}` is {value}, which is out of range"))
    }
}

fn bounds(min: f64, max: f64) -> Result<(), String> {
    if min.is_finite() && max.is_finite() && 0.0 <= min && min <= max {
        Ok(())
    } else {
        Err(format!(
            "`min` is {min} and `max` is {max}; needed is 0 <= min <= max"
        ))
    }
}

/// Turns of a session: `P(T ≥ k) = q^((k−1)^beta)`, cut at `max`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turns {
    /// Chance of a second turn.
    pub q: f64,
    /// Below 1: the longer a session, the likelier it goes on.
    pub beta: f64,
    /// Turns at most.
    pub max: u32,
}

impl Turns {
    /// Draws a number of turns.
    pub fn sample(self, rng: &mut ChaCha8Rng) -> u32 {
        let uniform = 1.0 - rng.random::<f64>();
        let turns = 1.0
            + libm::floor(libm::pow(
                libm::log(uniform) / libm::log(self.q),
                1.0 / self.beta,
            ));
        // `as` saturates, so that a vast number is cut as well.
        (turns as u32).clamp(1, self.max)
    }

    /// The mean number of turns.
    pub fn mean(self) -> f64 {
        (1..=self.max).map(|k| self.at_least(k)).sum()
    }

    /// The mean of the square.
    pub fn mean_square(self) -> f64 {
        (0..self.max)
            .map(|k| (2.0 * f64::from(k) + 1.0) * self.at_least(k + 1))
            .sum()
    }

    /// `P(T ≥ turns)`.
    pub fn at_least(self, turns: u32) -> f64 {
        if turns > self.max {
            return 0.0;
        }
        libm::pow(self.q, libm::pow(f64::from(turns.max(1) - 1), self.beta))
    }

    /// What is wrong with it, if anything.
    pub fn check(self) -> Result<(), String> {
        need(self.q > 0.0 && self.q < 1.0, "q", self.q)?;
        need(self.beta > 0.0 && self.beta.is_finite(), "beta", self.beta)?;
        need(self.max > 0, "max", f64::from(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};

    #[test]
    fn turns_follow_their_law() {
        let turns = Turns {
            q: 0.421,
            beta: 0.631,
            max: 1000,
        };
        let mut rng = stream(5, Purpose::Session, 0);
        let drawn: Vec<u32> = (0..40_000).map(|_| turns.sample(&mut rng)).collect();
        let share = |k| drawn.iter().filter(|&&t| t >= k).count() as f64 / drawn.len() as f64;
        // The law at k = 2, 3, 5, 10; four standard errors at n = 40,000 are 0.01.
        for (k, expected) in [(2, 0.421), (3, 0.262), (5, 0.126), (10, 0.031)] {
            assert!(
                (share(k) - expected).abs() < 0.01,
                "P(T >= {k}) = {}",
                share(k)
            );
        }
        let mean = drawn.iter().map(|&t| f64::from(t)).sum::<f64>() / drawn.len() as f64;
        assert!(
            (mean - turns.mean()).abs() < 0.06,
            "{mean} against {}",
            turns.mean()
        );
    }

    #[test]
    fn samples_have_the_right_median_and_keep_their_bounds() {
        let law = Distribution::Lognormal {
            mu: 2.65,
            sigma: 0.65,
            min: 2.0,
            max: 400.0,
        };
        let mut rng = stream(6, Purpose::Session, 0);
        let mut drawn: Vec<f64> = (0..20_001).map(|_| law.sample(&mut rng, 0.0)).collect();
        drawn.sort_by(f64::total_cmp);
        let median = drawn[10_000];
        assert!(
            (median / 14.15 - 1.0).abs() < 0.02,
            "median {median}, exp(2.65) = 14.15"
        );
        assert!(drawn[0] >= 2.0 && drawn[20_000] <= 400.0);
    }

    #[test]
    fn impossible_laws_are_named() {
        let cases = [
            (
                Distribution::Lognormal {
                    mu: f64::NAN,
                    sigma: 1.0,
                    min: 1.0,
                    max: 2.0,
                },
                "`mu`",
            ),
            (
                Distribution::Lognormal {
                    mu: 1.0,
                    sigma: -1.0,
                    min: 1.0,
                    max: 2.0,
                },
                "`sigma`",
            ),
            (
                Distribution::Uniform { min: 3.0, max: 2.0 },
                "0 <= min <= max",
            ),
            (
                Distribution::Mixture { components: vec![] },
                "`components` is empty",
            ),
        ];
        for (law, part) in cases {
            let error = law.check().expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
