//! How the rate changes over a run: hours of a day, slow drift, spikes.
//!
//! A [`RateShape`] is what a workload file says; a [`RateCurve`] is what one run makes of it, as
//! the operational time `Λ(t)`: the seconds at the base rate that have as many arrivals as there
//! are until `t`. Arrivals are drawn in operational time and mapped back, so a process keeps its
//! law of gaps whatever the rate does.
//!
//! Invariant: `Λ` rises strictly, and is a function of (shape, seed, span) alone. Only the rate is
//! compressed by `time_scale`; think times and lengths are not known here.

use rand::Rng;
use rand_distr::{Distribution as _, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::random::{Purpose, stream};

const DAY_CURVE: &str = include_str!("../../workloads/day.toml");
const HOUR_S: f64 = 3600.0;
/// The rate is taken to be constant for so long.
const STEP_S: f64 = 1.0;
/// Steps of the drift in each of its correlation times.
const DRIFT_STEPS: f64 = 60.0;
/// A rate never falls below this share of the base rate, so that time can be mapped back.
const LEAST_FACTOR: f64 = 1e-6;

/// How the rate changes; nothing set is a constant rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateShape {
    /// Multiplies the time of `day` and `drift`: at 1/24 a day takes an hour.
    #[serde(default = "one")]
    pub time_scale: f64,
    /// The hours of a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<Day>,
    /// Slow random change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// Sudden crowds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spikes: Option<Spikes>,
}

fn one() -> f64 {
    1.0
}

/// The hours of a day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Day {
    /// The hour at which the measured window begins.
    pub from_hour: f64,
    /// Rate of each hour over the day's mean; in between it is linear from middle to middle.
    #[serde(default = "builtin_day")]
    pub hourly: Vec<f64>,
}

/// A lognormal AR(1) process with mean 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// Standard deviation of the logarithm of the rate.
    pub sigma: f64,
    /// Correlation time in seconds.
    pub tau_s: f64,
}

/// Sudden crowds, one about every `every_s`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spikes {
    /// Seconds between them on average.
    pub every_s: f64,
    /// How far a spike may be moved, as a share of `every_s`.
    pub jitter: f64,
    /// Length of one.
    pub duration_s: f64,
    /// The rate within one over the rate outside.
    pub multiplier: f64,
}

fn builtin_day() -> Vec<f64> {
    #[derive(Deserialize)]
    struct File {
        hourly: Vec<f64>,
    }
    let file: File = toml::from_str(DAY_CURVE).expect("the built-in day is tested");
    file.hourly
}

impl RateShape {
    /// What is wrong with it, if anything: the key and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let need = |key, holds: bool, value: f64, accepted: &str| {
            let message = || format!("{value} is out of range; accepted is {accepted}");
            if holds { Ok(()) } else { Err((key, message())) }
        };
        let scale = self.time_scale;
        let in_range = (1e-5..=1e5).contains(&scale);
        need(
            "rate_shape.time_scale",
            in_range,
            scale,
            "0.00001 to 100000",
        )?;
        if let Some(day) = &self.day {
            let hours = day.hourly.len();
            let all = hours == 24;
            need("rate_shape.day.hourly", all, hours as f64, "24 values")?;
            let from = day.from_hour;
            let in_day = (0.0..24.0).contains(&from);
            need("rate_shape.day.from_hour", in_day, from, "0 to below 24")?;
            for &value in &day.hourly {
                let positive = value.is_finite() && value > 0.0;
                need("rate_shape.day.hourly", positive, value, "numbers above 0")?;
            }
        }
        if let Some(Drift { sigma, tau_s }) = self.drift {
            let in_range = (0.0..=3.0).contains(&sigma);
            need("rate_shape.drift.sigma", in_range, sigma, "0 to 3")?;
            let in_range = (1.0..=1e7).contains(&tau_s);
            need("rate_shape.drift.tau_s", in_range, tau_s, "1 to 10000000")?;
        }
        if let Some(spikes) = self.spikes {
            let (every, jitter) = (spikes.every_s, spikes.jitter);
            let in_range = (1.0..=1e7).contains(&every);
            need(
                "rate_shape.spikes.every_s",
                in_range,
                every,
                "1 to 10000000",
            )?;
            let in_range = (0.0..=1.0).contains(&jitter);
            need("rate_shape.spikes.jitter", in_range, jitter, "0 to 1")?;
            let (length, factor) = (spikes.duration_s, spikes.multiplier);
            let apart = length > 0.0 && length <= every * (1.0 - jitter);
            let accepted = "above 0, and short enough that no two meet";
            need("rate_shape.spikes.duration_s", apart, length, accepted)?;
            let in_range = (0.01..=100.0).contains(&factor);
            need(
                "rate_shape.spikes.multiplier",
                in_range,
                factor,
                "0.01 to 100",
            )?;
        }
        Ok(())
    }

    /// Does the rate stay the same?
    pub fn is_constant(&self) -> bool {
        self.day.is_none() && self.drift.is_none() && self.spikes.is_none()
    }
}

impl Day {
    /// The rate at an hour of the day over the day's mean.
    pub fn factor(&self, hour: f64) -> f64 {
        let mean = self.hourly.iter().sum::<f64>() / self.hourly.len() as f64;
        let place = (hour - 0.5).rem_euclid(24.0);
        let (before, share) = (place.floor() as usize % 24, place.fract());
        let (low, high) = (self.hourly[before], self.hourly[(before + 1) % 24]);
        (low + (high - low) * share) / mean
    }
}

/// What one run makes of a shape.
#[derive(Debug, Clone)]
pub struct RateCurve {
    start_s: f64,
    /// `Λ` at the end of each step.
    ends: Vec<f64>,
    /// The logarithm of the drift at the start of each step; empty without drift.
    drift: Vec<f64>,
}

impl RateCurve {
    /// The curve of one run over `[start_s, end_s)`, in which the measured window begins at
    /// `window_s`.
    pub fn new(shape: &RateShape, seed: u64, (start_s, end_s): (f64, f64), window_s: f64) -> Self {
        let steps = ((end_s - start_s) / STEP_S).ceil().max(1.0) as usize;
        let drift = shape.drift.map_or_else(Vec::new, |drift| {
            drift_of(drift, shape.time_scale, seed, steps)
        });
        let spikes = shape
            .spikes
            .map_or_else(Vec::new, |spikes| spikes_in(spikes, seed, (start_s, end_s)));
        let mut operational = 0.0;
        let ends = (0..steps).map(|step| {
            let (from, to) = (
                start_s + step as f64 * STEP_S,
                start_s + (step + 1) as f64 * STEP_S,
            );
            let hour = |day: &Day| {
                let since_s = (f64::midpoint(from, to) - window_s) / shape.time_scale;
                day.factor((day.from_hour + since_s / HOUR_S).rem_euclid(24.0))
            };
            let of_day = shape.day.as_ref().map_or(1.0, hour);
            let of_drift = drift
                .get(step)
                .zip(shape.drift)
                .map_or(1.0, |(log, drift)| {
                    libm::exp(log - drift.sigma * drift.sigma / 2.0)
                });
            let of_spikes = shape.spikes.map_or(1.0, |law| {
                let inside: f64 = spikes
                    .iter()
                    .map(|&at| (to.min(at + law.duration_s) - from.max(at)).max(0.0))
                    .sum();
                1.0 + (law.multiplier - 1.0) * inside / STEP_S
            });
            operational += STEP_S * (of_day * of_drift * of_spikes).max(LEAST_FACTOR);
            operational
        });
        let ends = ends.collect();
        Self {
            start_s,
            ends,
            drift,
        }
    }

    /// A constant rate.
    pub fn flat(span: (f64, f64)) -> Self {
        let shape = RateShape {
            time_scale: 1.0,
            ..RateShape::default()
        };
        Self::new(&shape, 0, span, 0.0)
    }

    /// `Λ(t)`: operational seconds from the start of the curve; it goes on at its last rate.
    pub fn operational_s(&self, instant_s: f64) -> f64 {
        let place = ((instant_s - self.start_s) / STEP_S).max(0.0);
        let step = (place as usize).min(self.ends.len() - 1);
        let (from, to) = self.step(step);
        from + (to - from) * (place - step as f64)
    }

    /// The instant at which so many operational seconds have passed.
    pub fn instant_s(&self, operational_s: f64) -> f64 {
        let step = self.ends.partition_point(|&end| end <= operational_s);
        let step = step.min(self.ends.len() - 1);
        let (from, to) = self.step(step);
        self.start_s + STEP_S * (step as f64 + (operational_s - from) / (to - from))
    }

    /// The rate over the base rate, on average between two instants.
    pub fn mean_factor(&self, (from_s, to_s): (f64, f64)) -> f64 {
        (self.operational_s(to_s) - self.operational_s(from_s)) / (to_s - from_s)
    }

    /// Where the curve begins, in seconds.
    pub fn start_s(&self) -> f64 {
        self.start_s
    }

    /// The logarithm of the drift, step by step of a second; empty without drift.
    pub fn drift(&self) -> &[f64] {
        &self.drift
    }

    fn step(&self, step: usize) -> (f64, f64) {
        let before = step.checked_sub(1).map_or(0.0, |before| self.ends[before]);
        (before, self.ends[step])
    }
}

/// The AR(1) process in steps of a second, linear between its own.
fn drift_of(drift: Drift, time_scale: f64, seed: u64, steps: usize) -> Vec<f64> {
    let own_step_s = drift.tau_s * time_scale / DRIFT_STEPS;
    let keep = libm::exp(-1.0 / DRIFT_STEPS);
    let fresh = drift.sigma * (1.0 - keep * keep).sqrt();
    let mut rng = stream(seed, Purpose::Drift, 0);
    let mut normal = || -> f64 { StandardNormal.sample(&mut rng) };
    let (mut low, mut number) = (drift.sigma * normal(), 0.0);
    let mut high = keep * low + fresh * normal();
    let at = |step: usize| {
        let place = step as f64 * STEP_S / own_step_s;
        while place >= number + 1.0 {
            low = high;
            high = keep * high + fresh * normal();
            number += 1.0;
        }
        low + (high - low) * (place - number)
    };
    (0..steps).map(at).collect()
}

/// Where spikes begin. Each has its own stream, so that a longer run has the same ones.
fn spikes_in(spikes: Spikes, seed: u64, (start_s, end_s): (f64, f64)) -> Vec<f64> {
    let number = |instant_s: f64| (instant_s / spikes.every_s).floor() as i64;
    (number(start_s) - 1..=number(end_s) + 1)
        .map(|number| {
            let mut rng = stream(seed, Purpose::Spikes, number.rem_euclid(1 << 40) as u64);
            let moved = spikes.jitter * (rng.random::<f64>() - 0.5);
            (number as f64 + 0.5 + moved) * spikes.every_s - spikes.duration_s / 2.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn day(from_hour: f64, time_scale: f64) -> RateShape {
        RateShape {
            time_scale,
            day: Some(Day {
                from_hour,
                hourly: builtin_day(),
            }),
            ..RateShape::default()
        }
    }

    #[test]
    fn the_built_in_day_has_its_peak_and_trough_and_a_mean_of_one() {
        let shape = day(0.0, 1.0 / 24.0);
        assert_eq!(shape.check(), Ok(()));
        let curve = RateCurve::new(&shape, 1, (0.0, 3600.0), 0.0);
        let hour = |hour: f64| curve.mean_factor((150.0 * hour, 150.0 * (hour + 1.0)));
        assert!((curve.mean_factor((0.0, 3600.0)) - 1.0).abs() < 1e-3);
        // Linear between the middles of hours takes a little off the peak of 1.70.
        assert!((hour(20.0) - 1.66).abs() < 0.04, "{}", hour(20.0));
        assert!((hour(5.0) - 0.24).abs() < 0.02, "{}", hour(5.0));
        let peak = RateCurve::new(&day(20.0, 1.0), 1, (-600.0, 3600.0), 0.0);
        assert!((peak.mean_factor((0.0, 3600.0)) - hour(20.0)).abs() < 1e-3);
    }

    #[test]
    fn spikes_are_as_high_and_as_many_as_asked_for() {
        let shape = RateShape {
            time_scale: 1.0,
            spikes: Some(Spikes {
                every_s: 300.0,
                jitter: 0.5,
                duration_s: 45.0,
                multiplier: 4.0,
            }),
            ..RateShape::default()
        };
        assert_eq!(shape.check(), Ok(()));
        let curve = RateCurve::new(&shape, 5, (0.0, 90_000.0), 0.0);
        let rates: Vec<f64> = (0..90_000)
            .map(|t| curve.mean_factor((f64::from(t), f64::from(t + 1))))
            .collect();
        let highest = rates.iter().copied().fold(0.0, f64::max);
        assert!((highest - 4.0).abs() < 1e-6, "{highest}");
        let mean = curve.mean_factor((0.0, 90_000.0));
        assert!((mean - 1.45).abs() < 0.01, "{mean}");
        let begins = rates
            .windows(2)
            .filter(|pair| pair[0] < 2.0 && pair[1] >= 2.0);
        assert!((299..=301).contains(&begins.count()));
    }

    #[test]
    fn drift_has_its_size_and_its_memory() {
        let drift = Drift {
            sigma: 0.15,
            tau_s: 1800.0,
        };
        let found = drift_of(drift, 1.0 / 24.0, 9, 400_000);
        let n = found.len() as f64;
        let mean = found.iter().sum::<f64>() / n;
        let variance = found.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        // 400,000 s are 5,333 correlation times of 75 s: the spread is known to a percent or two.
        assert!(
            (variance.sqrt() / 0.15 - 1.0).abs() < 0.05,
            "{}",
            variance.sqrt()
        );
        let lagged = found
            .iter()
            .zip(&found[75..])
            .map(|(a, b)| (a - mean) * (b - mean));
        let correlation = lagged.sum::<f64>() / n / variance;
        assert!(
            (correlation - (-1.0_f64).exp()).abs() < 0.05,
            "{correlation}"
        );
    }

    #[test]
    fn impossible_shapes_name_their_key() {
        let mut shape = day(24.0, 1.0);
        let key = |shape: &RateShape| shape.check().expect_err("it is wrong").0;
        assert_eq!(key(&shape), "rate_shape.day.from_hour");
        shape.day.as_mut().expect("set").hourly.pop();
        assert_eq!(key(&shape), "rate_shape.day.hourly");
        shape.time_scale = 0.0;
        assert_eq!(key(&shape), "rate_shape.time_scale");
        let shape = RateShape {
            time_scale: 1.0,
            spikes: Some(Spikes {
                every_s: 10.0,
                jitter: 0.5,
                duration_s: 8.0,
                multiplier: 2.0,
            }),
            ..RateShape::default()
        };
        assert_eq!(key(&shape), "rate_shape.spikes.duration_s");
    }

    proptest! {
        #[test]
        fn operational_time_maps_back(instant in -500.0_f64..3_000.0, seed in 0..50_u64) {
            let shape = RateShape {
                drift: Some(Drift { sigma: 0.3, tau_s: 60.0 }),
                ..day(3.0, 0.02)
            };
            let curve = RateCurve::new(&shape, seed, (-500.0, 3_000.0), 0.0);
            let there = curve.instant_s(curve.operational_s(instant));
            prop_assert!((there - instant).abs() < 1e-6, "{instant} became {there}");
        }
    }
}
