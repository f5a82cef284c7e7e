//! The client's own error: what it reported of a server whose every instant is known.
//!
//! Before a run over HTTP the client is driven against the bundled ground truth at the planned
//! load. Here that is held against what the run then measured. Invariant: an error is the
//! difference between the same quantile of what was reported and of the truth; it bounds what the
//! figure of the run can be trusted for on this machine under this load. What it does not do:
//! correct any figure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{Metric, Slo, Summary};
use crate::stats::{Quantile, nearest_rank};

/// A figure whose own error is a larger share of it than this is marked.
pub const MARKED_SHARE: f64 = 0.05;

/// Fewest values of which p99 is compared.
pub const P99_VALUES: usize = 100;

/// The client against the ground truth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Preflight {
    /// The load in words.
    pub load: String,
    /// How long it lasted, seconds.
    pub duration_s: f64,
    /// Requests that finished and were compared.
    pub requests: u64,
    /// Chunks that were compared, one token each.
    pub tokens: u64,
    /// From the server's stamp before its write to the instant the client has, per chunk. Below
    /// zero is what the client has as too early: its clock and the kernel's are compared to within
    /// some microseconds.
    pub receive_error_s: Spread,
    /// Share of the chunks that the client has as too early.
    #[serde(default)]
    pub early_share: Option<f64>,
    /// How late the ground truth itself sent its chunks; it is in none of the errors.
    #[serde(default)]
    pub server_late_s: Option<Spread>,
    /// Lateness of sends.
    pub send_lag_s: Spread,
    /// What was reported and what was true, by metric and figure (`p50`, `p99`).
    pub errors: BTreeMap<Metric, BTreeMap<String, FigureError>>,
    /// CPU seconds of this process over wall seconds.
    pub cpu_cores_used: Option<f64>,
    /// CPU milliseconds of this process for 1000 tokens.
    pub cpu_ms_per_1000_tokens: Option<f64>,
    /// Figures of the run whose own error is more than 5 % of them.
    pub marks: Vec<Mark>,
}

/// Quantiles (nearest rank over all values, however few) and the ends, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spread {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Smallest.
    #[serde(default)]
    pub min: Option<f64>,
}

impl Spread {
    /// Of nanoseconds, with a sign or without; zeros when there are none.
    pub fn of<T: Copy + Ord + Into<i128>>(mut values_ns: Vec<T>) -> Self {
        values_ns.sort_unstable();
        let seconds = |ns: T| ns.into() as f64 / 1e9;
        let at = |quantile| nearest_rank(&values_ns, quantile).map_or(0.0, seconds);
        Self {
            p50: at(Quantile::P50),
            p90: at(Quantile::P90),
            p99: at(Quantile::P99),
            max: values_ns.last().copied().map_or(0.0, seconds),
            min: values_ns.first().copied().map(seconds),
        }
    }
}

/// One figure, as reported and as it was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FigureError {
    /// As the client has it, seconds.
    pub reported_s: f64,
    /// As the server has it, seconds.
    pub true_s: f64,
}

impl FigureError {
    /// The difference, without sign.
    pub fn error_s(self) -> f64 {
        (self.reported_s - self.true_s).abs()
    }
}

/// A figure of the run that its own error makes doubtful.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Mark {
    /// Of which metric.
    pub metric: Metric,
    /// `p50` or `p99`.
    pub figure: String,
    /// As the run has it, seconds.
    pub value_s: f64,
    /// Its own error, seconds.
    pub error_s: f64,
    /// It is a headline, or its metric has an SLO: the run is INVALID.
    pub decides: bool,
}

/// Values of one metric for the same requests or gaps, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    /// As the client has them.
    pub reported_ns: Vec<u64>,
    /// As the server has them.
    pub true_ns: Vec<u64>,
}

impl Pairs {
    /// The figures that are compared; of few values p99 would only be the worst of them.
    pub fn errors(&self) -> BTreeMap<String, FigureError> {
        let (reported, truth) = (
            Spread::of(self.reported_ns.clone()),
            Spread::of(self.true_ns.clone()),
        );
        let figures = [
            ("p50", reported.p50, truth.p50),
            ("p99", reported.p99, truth.p99),
        ];
        let known = if self.true_ns.len() < P99_VALUES {
            1
        } else {
            2
        };
        figures
            .into_iter()
            .take(known)
            .map(|(figure, reported_s, true_s)| {
                (figure.to_owned(), FigureError { reported_s, true_s })
            })
            .collect()
    }
}

impl Preflight {
    /// Holds the errors against the figures of the run.
    pub fn mark(&mut self, summary: &Summary, slo: Option<Slo>) {
        let mut marks = Vec::new();
        for (&metric, errors) in &self.errors {
            let figures = summary.metric(metric);
            for (figure, error) in errors {
                let value = match figure.as_str() {
                    "p50" => figures.p50,
                    "p99" => figures.p99,
                    _ => None,
                };
                let Some(value_s) = value else { continue };
                let error_s = error.error_s();
                if error_s > MARKED_SHARE * value_s {
                    marks.push(Mark {
                        metric,
                        figure: figure.clone(),
                        value_s,
                        error_s,
                        decides: decides(metric, figure, slo),
                    });
                }
            }
        }
        self.marks = marks;
    }

    /// Reasons against the run, and warnings.
    pub fn judge(&self) -> (Vec<String>, Vec<String>) {
        let (mut reasons, mut warnings) = (Vec::new(), Vec::new());
        for mark in &self.marks {
            let Mark {
                metric,
                figure,
                value_s,
                error_s,
                decides,
            } = mark;
            let text = format!(
                "{} {figure} is {:.3} ms and the client's own error {:.3} ms, {:.1} % of it \
                 (allowed {:.0} %)",
                metric.short_name(),
                value_s * 1e3,
                error_s * 1e3,
                100.0 * error_s / value_s.max(1e-12),
                100.0 * MARKED_SHARE,
            );
            if *decides {
                reasons.push(format!("The client is part of what was measured: {text}."));
            } else {
                warnings.push(format!("{text}."));
            }
        }
        (reasons, warnings)
    }

    /// Is this figure doubtful?
    pub fn is_marked(&self, metric: Metric, figure: &str) -> bool {
        let mut marks = self.marks.iter();
        marks.any(|mark| mark.metric == metric && mark.figure == figure)
    }
}

/// The headlines are TTFT p50 and p99 and TPOT p50; an SLO makes all of its metric count.
fn decides(metric: Metric, figure: &str, slo: Option<Slo>) -> bool {
    let limited = slo.is_some_and(|slo| match metric {
        Metric::Ttft => slo.ttft_s.is_some(),
        Metric::Tpot => slo.tpot_s.is_some(),
        Metric::E2e => slo.e2e_s.is_some(),
        _ => false,
    });
    limited || metric == Metric::Ttft || (metric == Metric::Tpot && figure == "p50")
}
