//! Scales of plots: where a value lies, and which ticks to label.
//!
//! Invariant: `min < max`, both finite, and positive on a logarithmic scale, whatever the data.

use serde::Serialize;

use super::format::{duration, significant, usd};

/// How values are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scale {
    Linear,
    Log,
    /// Quantiles `q` at `log(1 / (1 − q))`: each nine as wide as the one before.
    Tail,
}

/// What values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A latency in seconds.
    Latency,
    /// Seconds since the start of the run.
    Elapsed,
    /// A quantile.
    Quantile,
    /// A share of all values.
    Share,
    /// Anything counted.
    Count,
    /// Watts.
    Power,
    /// A share of requests, as a line.
    Within,
    /// US dollars.
    Usd,
}

/// One axis.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) kind: Kind,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Axis {
    /// From zero to a little over the largest value.
    pub(super) fn from_zero(kind: Kind, values: impl Iterator<Item = f64>) -> Self {
        let max = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let max = if max > 0.0 { max * 1.06 } else { 1.0 };
        Self {
            scale: Scale::Linear,
            kind,
            min: 0.0,
            max,
        }
    }

    /// A linear axis between two values.
    pub(super) fn between(kind: Kind, min: f64, max: f64) -> Self {
        Self {
            scale: Scale::Linear,
            kind,
            min,
            max: max.max(min + 1e-9),
        }
    }

    /// A logarithmic axis around the values.
    pub(super) fn log(kind: Kind, values: impl Iterator<Item = f64> + Clone) -> Self {
        let values = values.filter(|value| value.is_finite() && *value > 0.0);
        let min = values.clone().fold(f64::INFINITY, f64::min);
        let max = values.fold(0.0, f64::max);
        let (min, max) = if min <= max {
            (min / 1.12, max * 1.12)
        } else {
            (1e-3, 1.0)
        };
        let centre = (min * max).sqrt();
        Self {
            scale: Scale::Log,
            kind,
            min: min.min(centre / 1.25),
            max: max.max(centre * 1.25),
        }
    }

    /// Quantiles of this many values.
    pub(super) fn tail(count: u64) -> Self {
        let max = 1.0 - 0.5 / count.max(10) as f64;
        Self {
            scale: Scale::Tail,
            kind: Kind::Quantile,
            min: 0.0,
            max,
        }
    }

    /// Position between 0 and 1.
    pub(super) fn fraction(&self, value: f64) -> f64 {
        let fraction = match self.scale {
            Scale::Linear => (value - self.min) / (self.max - self.min),
            Scale::Log => (value / self.min).ln() / (self.max / self.min).ln(),
            Scale::Tail => (1.0 - value).ln() / (1.0 - self.max).ln(),
        };
        if fraction.is_nan() {
            0.0
        } else {
            fraction.clamp(0.0, 1.0)
        }
    }

    /// Values to label, with their labels; `most` at most, by and large.
    pub(super) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let values = match self.scale {
            Scale::Linear => linear_ticks(self.min, self.max, most),
            Scale::Log => log_ticks(self.min, self.max, most),
            Scale::Tail => {
                let nines = [0.0, 0.5, 0.9, 0.99, 0.999, 0.999_9, 0.999_99, 0.999_999];
                nines.into_iter().filter(|&q| q <= self.max).collect()
            }
        };
        values
            .into_iter()
            .map(|value| (value, self.label(value)))
            .collect()
    }

    fn label(&self, value: f64) -> String {
        match self.kind {
            Kind::Latency => tick_duration(value),
            Kind::Elapsed => format!("{} s", plain(value)),
            Kind::Quantile => format!("p{}", plain(value * 100.0)),
            Kind::Share | Kind::Within => format!("{} %", plain(value * 100.0)),
            Kind::Usd => usd(value),
            Kind::Count => plain(value),
            Kind::Power => format!("{} W", plain(value)),
        }
    }

    /// A value in a table.
    pub(super) fn words(&self, value: f64) -> String {
        match self.kind {
            Kind::Latency => duration(value),
            Kind::Elapsed => format!("{} s", plain(value)),
            Kind::Quantile => self.label(value),
            Kind::Share | Kind::Within => format!("{:.2} %", value * 100.0),
            Kind::Usd => usd(value),
            Kind::Count => significant(value),
            Kind::Power => format!("{} W", significant(value)),
        }
    }
}

/// Without digits that say nothing.
fn plain(value: f64) -> String {
    if value.abs() >= 999.5 {
        return significant(value);
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn tick_duration(seconds: f64) -> String {
    match seconds {
        small if small < 0.000_999 => format!("{} µs", plain(small * 1e6)),
        middle if middle < 0.999 => format!("{} ms", plain(middle * 1e3)),
        large => format!("{} s", plain(large)),
    }
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(min: f64, max: f64, most: usize) -> Vec<f64> {
    let rough = (max - min) / most.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= rough);
    let step = factor.unwrap_or(10.0) * power;
    let first = (min / step).ceil() as i64;
    let last = (max / step).floor() as i64;
    (first..=last.min(first + 50))
        .map(|index| index as f64 * step)
        .collect()
}

/// The finest of powers of ten, 1-2-5 or 1-3 steps that is not too fine; linear in narrow ranges.
fn log_ticks(min: f64, max: f64, most: usize) -> Vec<f64> {
    let decades = min.log10().floor() as i32..=max.log10().ceil() as i32;
    let choices: [&[f64]; 3] = [&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
    for factors in choices {
        let values = decades.clone().flat_map(|decade| {
            // Division by a positive power is exact to the last digit where multiplication is not.
            let power = 10_f64.powi(decade.abs());
            factors
                .iter()
                .map(move |f| if decade < 0 { f / power } else { f * power })
        });
        let inside: Vec<f64> = values
            .filter(|&value| value >= min && value <= max)
            .collect();
        if inside.len() <= most && inside.len() >= 2 {
            return inside;
        }
        if inside.len() < 2 {
            return linear_ticks(min, max, most.min(5));
        }
    }
    decades
        .step_by(3)
        .map(|decade| 10_f64.powi(decade))
        .filter(|&v| v >= min && v <= max)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, most: usize) -> Vec<String> {
        axis.ticks(most)
            .into_iter()
            .map(|(_, label)| label)
            .collect()
    }

    #[test]
    fn ticks_read_well() {
        let latency = |low, high| Axis::log(Kind::Latency, [low, high].into_iter());
        assert_eq!(
            labels(&latency(0.01, 1.0), 7),
            [
                "10 ms", "20 ms", "50 ms", "100 ms", "200 ms", "500 ms", "1 s"
            ]
        );
        assert_eq!(
            labels(&latency(0.01, 100.0), 6),
            ["10 ms", "100 ms", "1 s", "10 s", "100 s"]
        );
        assert_eq!(
            labels(&latency(0.02, 0.021), 6),
            ["18 ms", "20 ms", "22 ms", "24 ms"]
        );
        let elapsed = Axis::between(Kind::Elapsed, 0.0, 160.0);
        assert_eq!(labels(&elapsed, 5), ["0 s", "50 s", "100 s", "150 s"]);
        assert_eq!(
            labels(&Axis::tail(800), 9),
            ["p0", "p50", "p90", "p99", "p99.9"]
        );
        assert_eq!(
            labels(&Axis::from_zero(Kind::Share, [0.068].into_iter()), 4),
            ["0 %", "2 %", "4 %", "6 %"]
        );
    }

    #[test]
    fn any_data_gives_a_usable_axis() {
        for values in [
            vec![],
            vec![0.0],
            vec![f64::NAN],
            vec![f64::INFINITY, 3.0],
            vec![1e-9, 1e9],
        ] {
            for axis in [
                Axis::log(Kind::Latency, values.iter().copied()),
                Axis::from_zero(Kind::Count, values.iter().copied()),
            ] {
                assert!(
                    axis.min < axis.max && axis.max.is_finite(),
                    "{values:?} {axis:?}"
                );
                assert!(axis.ticks(6).len() < 60);
                assert!((0.0..=1.0).contains(&axis.fraction(f64::NAN)));
            }
        }
    }
}
