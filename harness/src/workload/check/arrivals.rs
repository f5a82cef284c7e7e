//! When sessions begin: gaps, their spread, their independence, and the rate over time.
//!
//! Invariant: everything about gaps is in operational time, where the process is a plain renewal
//! process whatever the rate does; that the rate does what it is to do is tested apart, by the hour
//! and by its drift.

use rand_chacha::ChaCha8Rng;
use reports::fit::{Check, Evidence, FitPlot, FitScale, FitShape};
use reports::goodness::{
    Test, chi_square_p, chi_square_two_sided_p, gamma_cdf, ljung_box, normal_p, uniform_ks,
};

use super::super::rate::{Drift, RateShape};
use super::super::spec::WorkloadSpec;
use super::{CheckOptions, Sample, law, plus_minus, randomised};
use crate::arrivals::Arrivals;

const GROUP: &str = "arrivals";
/// Instants are whole nanoseconds; shorter gaps than this many seconds are one value.
const RESOLUTION_S: f64 = 1e-6;
/// Windows of the index of dispersion in seconds.
const WINDOWS_S: [f64; 4] = [1.0, 10.0, 60.0, 300.0];
/// Gaps before a gap that it must not depend on.
const LAGS: usize = 5;
/// Points of a plot.
const POINTS: usize = 200;

/// The arrivals of all samples.
pub(super) struct Arrived<'a> {
    spec: &'a WorkloadSpec,
    samples: &'a [Sample],
    arrivals: Arrivals,
    /// Sessions per second at the base rate.
    session_rate: f64,
    /// Gaps in units of the mean gap, by sample.
    gaps: Vec<Vec<f64>>,
    /// Their transforms.
    uniform: Vec<Vec<f64>>,
}

/// Counts of sessions in equal windows of operational time.
struct Dispersion {
    window_s: f64,
    found: f64,
    expected: f64,
    spread: f64,
}

impl<'a> Arrived<'a> {
    pub(super) fn new(
        spec: &'a WorkloadSpec,
        options: &CheckOptions,
        samples: &'a [Sample],
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let session_rate = options.rate / spec.mean_turns();
        let gaps = samples.iter().map(|sample| {
            let instants = sample
                .starts_s
                .iter()
                .map(|&t| sample.curve.operational_s(t));
            let mut before = 0.0;
            let gap = |at: f64| session_rate * (at - std::mem::replace(&mut before, at));
            instants.map(gap).collect::<Vec<f64>>()
        });
        let gaps: Vec<Vec<f64>> = gaps.collect();
        let shape = 1.0 / options.arrivals.cv().powi(2).max(1e-9);
        let least = session_rate * RESOLUTION_S;
        let mut transform = |&gap: &f64| {
            if gap < least {
                randomised(0.0, gamma_cdf(least, shape, 1.0 / shape), rng)
            } else {
                gamma_cdf(gap, shape, 1.0 / shape)
            }
        };
        let uniform = gaps
            .iter()
            .map(|gaps| gaps.iter().map(&mut transform).collect());
        Self {
            uniform: uniform.collect(),
            spec,
            samples,
            arrivals: options.arrivals,
            session_rate,
            gaps,
        }
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.number()];
        if self.arrivals == Arrivals::Constant {
            let even = self
                .gaps
                .iter()
                .flatten()
                .all(|gap| (gap - 1.0).abs() < 1e-6);
            let words = ("gaps".to_owned(), "all equal".to_owned());
            checks.push(Check::new(GROUP, "gaps", words, Evidence::Within(even)));
            return checks;
        }
        let mut pooled: Vec<f64> = self.uniform.iter().flatten().copied().collect();
        let gaps = "gaps, time rescaled (KS)".to_owned();
        checks.push(law(GROUP, gaps, uniform_ks(&mut pooled), "D"));
        checks.push(self.variation());
        checks.extend(self.dispersion().iter().map(|found| {
            let z = (found.found - found.expected) / found.spread;
            let figures = (
                format!("{:.3}", found.found),
                plus_minus(found.expected, found.spread),
            );
            let what = format!("index of dispersion, {} s", found.window_s);
            Check::new(GROUP, what, figures, Evidence::P(normal_p(z)))
        }));
        let apart = ljung_box(&self.uniform, LAGS);
        checks.push(law(
            GROUP,
            format!("gaps apart, lags 1 to {LAGS}"),
            apart,
            "Q",
        ));
        if let Some(shape) = &self.spec.rate_shape {
            checks.extend(self.hours(shape));
            checks.extend(self.drift(shape));
            checks.extend(self.spikes(shape));
        }
        checks
    }

    /// Operational time of a sample, in mean gaps: so many arrivals are expected.
    fn expected(&self, sample: &Sample) -> f64 {
        let (from, to) = sample.span_s;
        self.session_rate * (sample.curve.operational_s(to) - sample.curve.operational_s(from))
    }

    /// The number of arrivals varies as it must: neither more nor *less*. Gaps that were scaled to
    /// fill the time exactly give a number without any variance.
    fn number(&self) -> Check {
        let cv = self.arrivals.cv();
        let (mut squares, mut found, mut expected) = (0.0, 0, 0.0);
        for sample in self.samples {
            let wanted = self.expected(sample);
            let off = sample.starts_s.len() as f64 - wanted;
            squares += (off / (cv * wanted.sqrt()).max(1.0)).powi(2);
            found += sample.starts_s.len();
            expected += wanted;
        }
        let seeds = self.samples.len() as f64;
        let p = if cv > 0.0 {
            chi_square_two_sided_p(squares, seeds)
        } else {
            chi_square_p(squares, seeds)
        };
        let figures = (
            found.to_string(),
            format!("{expected:.0} ± {:.0}", cv * expected.sqrt()),
        );
        Check::new(GROUP, "number, and its variance", figures, Evidence::P(p))
    }

    fn variation(&self) -> Check {
        let gaps: Vec<f64> = self.gaps.iter().flatten().copied().collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let (cv, found) = (self.arrivals.cv(), variance.sqrt() / mean);
        // The standard error of the estimate for gamma gaps.
        let spread = cv * ((1.0 + cv * cv) / (2.0 * n)).sqrt();
        let figures = (format!("{found:.4}"), plus_minus(cv, spread));
        let evidence = Evidence::P(normal_p((found - cv) / spread));
        Check::new(GROUP, "CV of gaps", figures, evidence)
    }

    /// Variance over mean of the number of sessions in a window.
    fn dispersion(&self) -> Vec<Dispersion> {
        let of = |window_s: f64| {
            let width = window_s * self.session_rate;
            let mut counts = Vec::new();
            for gaps in &self.gaps {
                let (mut at, mut count, mut end) = (0.0, 0.0_f64, width);
                for gap in gaps {
                    at += gap;
                    while at >= end {
                        counts.push(count);
                        (count, end) = (0.0, end + width);
                    }
                    count += 1.0;
                }
            }
            let n = counts.len() as f64;
            let moment = |power| counts.iter().map(|c| (c - width).powi(power)).sum::<f64>() / n;
            let variance = moment(2);
            // The spread of a variance, from the fourth moment that there is.
            let error = ((moment(4) - variance * variance) / n).sqrt();
            (n >= 50.0).then(|| Dispersion {
                window_s,
                found: variance / width,
                expected: expected_dispersion(width, self.arrivals.cv()),
                spread: error / width,
            })
        };
        WINDOWS_S.into_iter().filter_map(of).collect()
    }

    /// Sessions by the hour of the day, against the table in the specification.
    fn hours(&self, shape: &RateShape) -> Option<Check> {
        let day = shape.day.as_ref()?;
        let (mut found, mut expected) = ([0.0; 24], [0.0; 24]);
        let hour_of = |t: f64| {
            let since_h = (t - self.spec.warmup_s) / shape.time_scale / 3600.0;
            (day.from_hour + since_h).rem_euclid(24.0)
        };
        for sample in self.samples {
            for &start_s in &sample.starts_s {
                found[hour_of(start_s) as usize % 24] += 1.0;
            }
            let (from, to) = sample.span_s;
            let log_of = |second: usize| sample.curve.drift().get(second).copied();
            let half = shape.drift.map_or(0.0, |drift| drift.sigma.powi(2) / 2.0);
            for second in 0..(to - from) as usize {
                let hour = hour_of(from + second as f64 + 0.5);
                let drift = log_of(second).map_or(1.0, |log| (log - half).exp());
                expected[hour as usize % 24] += self.session_rate * day.factor(hour) * drift;
            }
        }
        let spread = self.arrivals.cv().powi(2);
        let cells = found
            .iter()
            .zip(&expected)
            .filter(|(_, wanted)| **wanted > 5.0);
        let terms: Vec<f64> = cells
            .map(|(seen, wanted)| (seen - wanted).powi(2) / (spread * wanted))
            .collect();
        let statistic = terms.iter().sum();
        let test = Test {
            statistic,
            p: chi_square_p(statistic, terms.len() as f64),
        };
        Some(law(
            GROUP,
            format!("sessions by hour, {} hours", terms.len()),
            test,
            "χ²",
        ))
    }

    /// The drift's size and memory, from the curves that were followed.
    fn drift(&self, shape: &RateShape) -> Vec<Check> {
        let Some(Drift { sigma, tau_s }) = shape.drift else {
            return Vec::new();
        };
        let tau_s = tau_s * shape.time_scale;
        let logs: Vec<&[f64]> = self
            .samples
            .iter()
            .map(|sample| sample.curve.drift())
            .collect();
        let n: f64 = logs.iter().map(|log| log.len() as f64).sum();
        // Means are known to be zero, so short samples are no trouble.
        let variance = logs
            .iter()
            .flat_map(|log| log.iter())
            .map(|x| x * x)
            .sum::<f64>()
            / n;
        let lag = (tau_s.round() as usize).max(1);
        let (mut both, mut pairs) = (0.0, 0.0);
        for log in &logs {
            let shifted = log.get(lag..).unwrap_or_default();
            both += log.iter().zip(shifted).map(|(a, b)| a * b).sum::<f64>();
            pairs += shifted.len() as f64;
        }
        // So many values tell as much as these: neighbours are nearly the same.
        let independent = (n / (2.0 * tau_s)).max(1.0);
        let error = 4.0 / (2.0 * independent).sqrt();
        let ratio = variance.sqrt() / sigma;
        let size = Check::new(
            GROUP,
            "drift of the rate, log sd",
            (
                format!("{:.4}", variance.sqrt()),
                plus_minus(sigma, sigma * error / 4.0),
            ),
            Evidence::Within((ratio - 1.0).abs() < error),
        );
        let keeps = both / pairs.max(1.0) / variance;
        let expected = (-(lag as f64) / tau_s).exp();
        let slack = 4.0 / (pairs / (2.0 * tau_s)).max(1.0).sqrt();
        let memory = Check::new(
            GROUP,
            format!("drift of the rate, kept after {lag} s"),
            (format!("{keeps:.3}"), plus_minus(expected, slack / 4.0)),
            Evidence::Within((keeps - expected).abs() < slack),
        );
        vec![size, memory]
    }

    /// Spikes add what they must to the mean rate.
    fn spikes(&self, shape: &RateShape) -> Option<Check> {
        let spikes = shape
            .spikes
            .filter(|_| shape.day.is_none() && shape.drift.is_none())?;
        let expected = 1.0 + (spikes.multiplier - 1.0) * spikes.duration_s / spikes.every_s;
        let (mut time_s, mut operational_s) = (0.0, 0.0);
        for sample in self.samples {
            let length_s = sample.span_s.1 - sample.span_s.0;
            time_s += length_s;
            operational_s += sample.curve.mean_factor(sample.span_s) * length_s;
        }
        let found = operational_s / time_s;
        // A spike more or less at each end of each sample.
        let each = (expected - 1.0) * spikes.every_s;
        let slack = 2.0 * each * self.samples.len() as f64 / time_s;
        let figures = (format!("{found:.3}"), plus_minus(expected, slack));
        let inside = (found - expected).abs() < slack;
        Some(Check::new(
            GROUP,
            "mean rate with spikes",
            figures,
            Evidence::Within(inside),
        ))
    }

    pub(super) fn plots(&self) -> Vec<FitPlot> {
        let mut plots = vec![self.rate_plot()];
        if self.arrivals != Arrivals::Constant {
            plots.push(self.gaps_plot());
            plots.push(self.dispersion_plot());
        }
        plots
    }

    fn gaps_plot(&self) -> FitPlot {
        let mut values: Vec<f64> = self.uniform.iter().flatten().copied().collect();
        values.sort_unstable_by(f64::total_cmp);
        let n = values.len();
        let place = |step: usize| (step * n.saturating_sub(1)) / POINTS;
        let point = |at: usize| (values[at], (at as f64 + 0.5) / n as f64 - values[at]);
        let band = 1.628 / (n as f64).sqrt();
        let flat = |y: f64| vec![(0.0, y), (1.0, y)];
        FitPlot {
            id: "gaps",
            title: "Gaps between sessions, time rescaled",
            caption: "Found minus expected share of gaps below each quantile of the law; a right \
                      generator leaves the band once in a hundred times."
                .to_owned(),
            scales: (FitScale::Linear, FitScale::Linear),
            series: vec![
                (
                    "found",
                    FitShape::Line,
                    (0..=POINTS).map(place).map(point).collect(),
                ),
                ("band", FitShape::Line, flat(band)),
                ("band below", FitShape::Line, flat(-band)),
            ],
        }
    }

    fn dispersion_plot(&self) -> FitPlot {
        let found = self.dispersion();
        let pick = |value: fn(&Dispersion) -> f64| -> Vec<(f64, f64)> {
            found.iter().map(|d| (d.window_s, value(d))).collect()
        };
        FitPlot {
            id: "dispersion",
            title: "Index of dispersion",
            caption: "Variance over mean of the sessions in a window of operational time."
                .to_owned(),
            scales: (FitScale::LogSeconds, FitScale::Linear),
            series: vec![
                ("found", FitShape::Line, pick(|d| d.found)),
                ("expected", FitShape::Line, pick(|d| d.expected)),
            ],
        }
    }

    fn rate_plot(&self) -> FitPlot {
        let mut series = Vec::new();
        if let Some(sample) = self.samples.first() {
            let (from, to) = sample.span_s;
            let width = (to - from) / 60.0;
            let edge = |bin: usize| from + bin as f64 * width;
            let mut counts = vec![0.0; 60];
            for &start_s in &sample.starts_s {
                counts[(((start_s - from) / width) as usize).min(59)] += 1.0 / width;
            }
            let expected = |bin: usize| {
                let factor = sample.curve.mean_factor((edge(bin), edge(bin + 1)));
                (edge(bin) + width / 2.0, self.session_rate * factor)
            };
            let found = counts.iter().enumerate();
            let found = found
                .map(|(bin, rate)| (edge(bin) + width / 2.0, *rate))
                .collect();
            series.push(("found", FitShape::Line, found));
            series.push(("expected", FitShape::Line, (0..60).map(expected).collect()));
        }
        FitPlot {
            id: "rate",
            title: "Sessions per second",
            caption: "Of the first seed, in sixty parts of its time.".to_owned(),
            scales: (FitScale::Seconds, FitScale::Linear),
            series,
        }
    }
}

/// The index of dispersion of gamma gaps over windows of so many mean gaps.
///
/// For a stationary renewal process `Var N(w) = 2 ∫ M(u) du + w − w²` with `M` the renewal
/// function; far out it is `cv² w + (1 + 3 cv⁴) / 6 + …`, and only the first term matters.
fn expected_dispersion(width: f64, cv: f64) -> f64 {
    const FAR: f64 = 300.0;
    const NODES: u32 = 400;
    let shape = 1.0 / (cv * cv);
    let far = width > FAR * (1.0 + cv * cv);
    if far {
        return cv * cv;
    }
    let most = width + 12.0 * cv * width.sqrt() + 40.0 * cv.max(1.0);
    let renewals = |u: f64| {
        let mut sum = 0.0;
        let mut k = 1.0;
        while k < most {
            let term = gamma_cdf(u, k * shape, 1.0 / shape);
            if term < 1e-10 {
                break;
            }
            sum += term;
            k += 1.0;
        }
        sum
    };
    // Nodes crowd near 0, where the renewal function of clumped gaps is steep.
    let node = |i: u32| width * (f64::from(i) / f64::from(NODES)).powi(3);
    let integral: f64 = (0..NODES)
        .map(|i| {
            let (a, b) = (node(i), node(i + 1));
            (b - a) * renewals(f64::midpoint(a, b))
        })
        .sum();
    (2.0 * integral + width - width * width) / width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dispersion_of_a_renewal_process_is_known() {
        for width in [0.3, 5.0, 80.0] {
            assert!(
                (expected_dispersion(width, 1.0) - 1.0).abs() < 0.01,
                "Poisson, {width}"
            );
        }
        // Short windows see single arrivals, long ones the square of the CV.
        assert!((expected_dispersion(1e-3, 0.5) - 1.0).abs() < 0.02);
        assert!((expected_dispersion(200.0, 1.05) - 1.1025).abs() < 0.01);
        let (near, far) = (
            expected_dispersion(1.0, 3.5),
            expected_dispersion(150.0, 3.5),
        );
        assert!(near > 1.5 && near < far && far < 12.25, "{near} {far}");
    }
}
