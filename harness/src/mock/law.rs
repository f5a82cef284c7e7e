//! Laws of the times between tokens, as the command line writes them.
//!
//! Invariant: a draw is finite and not negative, and the same on every machine.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};

use crate::units::parse_duration;

/// A law of times, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Law {
    /// Always the same.
    Constant(u64),
    /// Uniform between two times.
    Uniform(u64, u64),
    /// Lognormal with this median and standard deviation of the logarithm.
    Lognormal(u64, f64),
    /// Exponential with this mean.
    Exponential(u64),
}

/// Not a law.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a law of times; accepted are a duration (`50ms`), `uniform:LOW..HIGH`, \
     `lognormal:MEDIAN,SIGMA` with SIGMA from 0 to 5, and `exp:MEAN`; for example \
     `uniform:40ms..60ms` or `lognormal:50ms,0.5`"
)]
pub struct LawError(String);

impl FromStr for Law {
    type Err = LawError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = |text: &str| Some(parse_duration(text).ok()?.as_nanos() as u64);
        let read = || match text.split_once(':') {
            None => time(text).map(Self::Constant),
            Some(("uniform", ends)) => {
                let (low, high) = ends.split_once("..")?;
                let (low, high) = (time(low)?, time(high)?);
                (low <= high).then_some(Self::Uniform(low, high))
            }
            Some(("lognormal", rest)) => {
                let (median, sigma) = rest.split_once(',')?;
                let sigma = sigma.trim().parse().ok()?;
                let law = Self::Lognormal(time(median)?, sigma);
                (0.0..=5.0).contains(&sigma).then_some(law)
            }
            Some(("exp", mean)) => time(mean).map(Self::Exponential),
            Some(_) => None,
        };
        read().ok_or_else(|| LawError(text.into()))
    }
}

impl fmt::Display for Law {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ns: &u64| humantime::format_duration(std::time::Duration::from_nanos(*ns));
        match self {
            Self::Constant(ns) => write!(formatter, "{}", time(ns)),
            Self::Uniform(low, high) => write!(formatter, "uniform:{}..{}", time(low), time(high)),
            Self::Lognormal(median, sigma) => {
                write!(formatter, "lognormal:{},{sigma}", time(median))
            }
            Self::Exponential(mean) => write!(formatter, "exp:{}", time(mean)),
        }
    }
}

impl Law {
    /// Draws a time.
    pub fn draw_ns(self, rng: &mut ChaCha8Rng) -> u64 {
        match self {
            Self::Constant(ns) => ns,
            Self::Uniform(low, high) => rng.random_range(low..=high),
            Self::Lognormal(median, sigma) => {
                let normal: f64 = StandardNormal.sample(rng);
                (median as f64 * libm::exp(sigma * normal)) as u64
            }
            Self::Exponential(mean) => {
                let draw: f64 = Exp1.sample(rng);
                (mean as f64 * draw) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};

    #[test]
    fn laws_are_read_written_and_followed() {
        // Median of 20,000 draws, in milliseconds; the standard error is below 1.5 %.
        for (text, median) in [
            ("50ms", 50.0),
            ("uniform:40ms..60ms", 50.0),
            ("lognormal:50ms,0.5", 50.0),
            ("exp:20ms", 13.863),
        ] {
            let law: Law = text.parse().expect(text);
            assert_eq!(law.to_string(), text);
            let mut rng = stream(1, Purpose::Mock, 0);
            let mut drawn: Vec<u64> = (0..20_000).map(|_| law.draw_ns(&mut rng)).collect();
            drawn.sort_unstable();
            let found = drawn[10_000] as f64 / 1e6;
            assert!((found / median - 1.0).abs() < 0.045, "{text}: {found}");
        }
    }

    #[test]
    fn what_is_no_law_says_what_is_accepted() {
        for text in [
            "",
            "50",
            "-1ms",
            "uniform:60ms..40ms",
            "uniform:40ms",
            "lognormal:50ms",
            "lognormal:50ms,-1",
            "lognormal:50ms,nan",
            "gamma:3ms",
            "exp:",
        ] {
            let error = text.parse::<Law>().expect_err(text).to_string();
            assert!(
                error.contains(text) && error.contains("accepted"),
                "{error}"
            );
        }
    }
}
