//! When sessions arrive: a renewal process at a rate that may change, as absolute instants.
//!
//! Invariant: instants depend on the process, the rate and the stream alone, and never decrease;
//! gaps keep their law in operational time ([`crate::workload::rate`]).
//! Nothing here knows how long answers take: open-loop load does not wait for them.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma};
use serde::{Deserialize, Serialize};

use crate::workload::rate::RateCurve;

/// The law of the gaps between sessions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Arrivals {
    /// Equal gaps.
    Constant,
    /// Exponential gaps.
    Poisson,
    /// Gamma gaps with this coefficient of variation.
    Gamma(f64),
}

/// Not an arrival process.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is not an arrival process; accepted are `poisson`, `constant` and `gamma:CV` with CV \
     from 0.05 to 20"
)]
pub struct ArrivalsError(String);

impl FromStr for Arrivals {
    type Err = ArrivalsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "constant" => Ok(Self::Constant),
            "poisson" => Ok(Self::Poisson),
            _ => text
                .strip_prefix("gamma:")
                .and_then(|cv| cv.parse().ok())
                .filter(|cv| (0.05..=20.0).contains(cv))
                .map(Self::Gamma)
                .ok_or_else(|| ArrivalsError(text.into())),
        }
    }
}

impl TryFrom<String> for Arrivals {
    type Error = ArrivalsError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Arrivals> for String {
    fn from(arrivals: Arrivals) -> Self {
        arrivals.to_string()
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => formatter.write_str("constant"),
            Self::Poisson => formatter.write_str("poisson"),
            Self::Gamma(cv) => write!(formatter, "gamma:{cv}"),
        }
    }
}

impl Arrivals {
    /// The coefficient of variation of the gaps.
    pub fn cv(self) -> f64 {
        match self {
            Self::Constant => 0.0,
            Self::Poisson => 1.0,
            Self::Gamma(cv) => cv,
        }
    }

    /// The gaps, in units of the mean gap: positive, with mean 1, without end.
    pub fn gaps(self, mut rng: ChaCha8Rng) -> impl Iterator<Item = f64> {
        let gamma = match self {
            Self::Gamma(cv) => {
                let variance = cv * cv;
                Some(Gamma::new(1.0 / variance, variance).expect("the CV was checked"))
            }
            Self::Constant | Self::Poisson => None,
        };
        std::iter::repeat_with(move || match (self, &gamma) {
            (Self::Constant, _) => 1.0,
            (_, Some(gamma)) => gamma.sample(&mut rng),
            (_, None) => Exp1.sample(&mut rng),
        })
    }

    /// Instants in seconds from the start of the curve until before `end_s`. `rate` per second is
    /// the curve's base rate.
    pub fn instants_s(
        self,
        rate: f64,
        curve: &RateCurve,
        end_s: f64,
        rng: ChaCha8Rng,
    ) -> impl Iterator<Item = f64> {
        let sums = self.gaps(rng).scan(0.0, move |operational_s, gap| {
            *operational_s += gap / rate;
            Some(curve.instant_s(*operational_s))
        });
        sums.take_while(move |&instant| instant < end_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};

    fn mean_and_cv(arrivals: Arrivals) -> (f64, f64) {
        let gaps: Vec<f64> = arrivals
            .gaps(stream(1, Purpose::Arrivals, 0))
            .take(20_000)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>();
        (mean, (variance / gaps.len() as f64).sqrt() / mean)
    }

    #[test]
    fn gaps_have_the_mean_and_the_variation_asked_for() {
        // Tolerances: three standard errors at 20,000 gaps (workload research, section 6).
        let cases: [(Arrivals, f64, f64); 5] = [
            (Arrivals::Constant, 0.0, 0.005),
            (Arrivals::Poisson, 1.0, 0.03),
            (Arrivals::Gamma(1.05), 1.05, 0.035),
            (Arrivals::Gamma(0.3), 0.3, 0.01),
            (Arrivals::Gamma(3.0), 3.0, 0.27),
        ];
        for (arrivals, cv, tolerance) in cases {
            let (mean, found) = mean_and_cv(arrivals);
            assert!(
                (mean - 1.0).abs() < 0.03 * cv.max(1.0),
                "{arrivals}: mean {mean}"
            );
            assert!((found - cv).abs() <= tolerance, "{arrivals}: CV {found}");
        }
    }

    #[test]
    fn instants_keep_to_their_window_and_repeat() {
        let instants = || -> Vec<f64> {
            let rng = stream(3, Purpose::Arrivals, 0);
            let curve = RateCurve::flat((-10.0, 100.0));
            Arrivals::Poisson
                .instants_s(5.0, &curve, 100.0, rng)
                .collect()
        };
        let all = instants();
        assert_eq!(all, instants());
        assert!(all.is_sorted() && all.iter().all(|t| (-10.0..100.0).contains(t)));
        assert!((450..650).contains(&all.len()), "{}", all.len());
    }

    #[test]
    fn names_are_read_and_written() {
        for name in ["poisson", "constant", "gamma:1.05"] {
            assert_eq!(name.parse::<Arrivals>().expect(name).to_string(), name);
        }
        for wrong in [
            "",
            "gamma",
            "gamma:0",
            "gamma:-1",
            "gamma:nan",
            "gamma:x",
            "Poisson",
        ] {
            let error = wrong.parse::<Arrivals>().expect_err(wrong).to_string();
            assert!(error.contains("accepted are"), "{error}");
        }
    }
}
