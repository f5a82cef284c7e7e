//! The report as rows of text, shared by the Markdown and the HTML page.
//!
//! Invariant: every figure stands with its interval, and every missing one with its reason.
//! What it does not do: escape. Templates do, by the rules of their format.

use serde::Serialize;

use crate::cost::Estimate;
use crate::schema::{Metric, MetricSummary, Rate, Report};
use crate::stats::thousands;
use crate::validity::Verdict;

use super::format::{duration, duration_interval, interval, significant, usd};
use super::{energy, sections, server_metrics};

/// A figure with what belongs to it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    /// As text; `–` when missing.
    pub(super) value: String,
    /// 95 % interval, or empty.
    pub(super) interval: String,
    /// Why it is missing, or empty.
    pub(super) reason: String,
}

impl Figure {
    pub(super) fn plain(value: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            interval: String::new(),
            reason: String::new(),
        }
    }

    pub(super) fn missing(reason: &str) -> Self {
        Self {
            value: "–".to_owned(),
            interval: String::new(),
            reason: reason.to_owned(),
        }
    }
}

/// A label and a figure.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) label: String,
    #[serde(flatten)]
    pub(super) figure: Figure,
}

/// A titled table of rows.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Section {
    /// Its place in the page's address.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) rows: Vec<Row>,
}

/// One line of the latency table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LatencyRow {
    pub(super) name: &'static str,
    /// Key of its definition.
    pub(super) term: &'static str,
    pub(super) meaning: &'static str,
    pub(super) count: String,
    pub(super) figures: Vec<Figure>,
}

/// Stands after a figure of which the client's own error is a large part.
pub(super) const DOUBTFUL: &str = " †";
/// Heads of the latency table, after the name.
pub(super) const LATENCY_HEADS: [&str; 7] = ["mean", "p50", "p90", "p95", "p99", "p99.9", "max"];
const LATENCY_KEYS: [&str; 7] = ["mean", "p50", "p90", "p95", "p99", "p999", "max"];

/// The report as text.
#[derive(Debug, Serialize)]
pub(super) struct View<'a> {
    pub(super) valid: bool,
    pub(super) verdict: &'static str,
    pub(super) reasons: &'a [String],
    pub(super) warnings: &'a [String],
    pub(super) target: &'a str,
    pub(super) device: &'a str,
    pub(super) model: &'a str,
    pub(super) workload: &'a str,
    pub(super) subtitle: String,
    pub(super) command: String,
    pub(super) heads: [&'static str; 7],
    pub(super) latency: Vec<LatencyRow>,
    pub(super) sections: Vec<Section>,
    pub(super) cost_source: String,
    pub(super) scenario: String,
}

impl<'a> View<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        let run = &report.run;
        let clock = if report.target.virtual_time {
            "virtual time"
        } else {
            "wall time"
        };
        let window = duration(report.summary.window_s);
        let load = &report.workload.arrivals;
        Self {
            valid: report.validity.verdict == Verdict::Valid,
            verdict: verdict_text(report.validity.verdict),
            reasons: &report.validity.reasons,
            warnings: &report.warnings,
            target: &report.target.name,
            device: &report.target.device,
            model: &report.model.name,
            workload: &report.workload.name,
            subtitle: format!("{load} · window {window} · {clock} · {}", run.start),
            command: run.command.join(" "),
            heads: LATENCY_HEADS,
            latency: Metric::ALL.map(|metric| latency_row(report, metric)).into(),
            sections: [
                Some(sections::throughput(report)),
                Some(sections::cost(report)),
                sections::cost_over_the_day(report),
                energy::section(report),
                server_metrics::section(report),
                Some(sections::outcomes(report)),
                Some(sections::workload(report)),
                Some(sections::client_error(report)),
                Some(sections::system(report)),
            ]
            .into_iter()
            .flatten()
            .collect(),
            cost_source: report
                .cost
                .as_ref()
                .map(sections::cost_source)
                .unwrap_or_default(),
            scenario: serde_json::to_string_pretty(&report.workload.scenario).unwrap_or_default(),
        }
    }
}

/// As in `report.json`.
pub(super) fn verdict_text(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "VALID",
        Verdict::Invalid => "INVALID",
    }
}

/// Short name and definition.
pub(super) fn metric_words(metric: Metric) -> (&'static str, &'static str) {
    let meaning = match metric {
        Metric::Ttft => "first content, from the intended instant",
        Metric::TtftFromSend => "first content, from the first byte sent",
        Metric::Itl => "gap between tokens, per token",
        Metric::ChunkGap => "gap between content events",
        Metric::Tpot => "time per output token after the first chunk, per request",
        Metric::E2e => "last content, from the intended instant",
        Metric::SendLag => "lateness of the load generator",
        Metric::Queue => "wait for admission by the engine",
    };
    (metric.short_name(), meaning)
}

/// The figures of a metric in the order of [`LATENCY_HEADS`].
fn latency_figures(summary: &MetricSummary) -> Vec<Figure> {
    let MetricSummary {
        mean,
        p50,
        p90,
        p95,
        p99,
        p999,
        max,
        count: _,
        requests: _,
        ci95,
        null_reasons,
    } = summary;
    let values = [mean, p50, p90, p95, p99, p999, max];
    let figure = |(key, value): (&str, &Option<f64>)| match value {
        Some(value) => {
            let ends = ci95.get(key).map(|&ends| duration_interval(*value, ends));
            Figure {
                value: duration(*value),
                interval: ends.unwrap_or_default(),
                reason: String::new(),
            }
        }
        None => Figure::missing(null_reasons.get(key).map_or("not measured", String::as_str)),
    };
    LATENCY_KEYS.into_iter().zip(values).map(figure).collect()
}

/// The figures of a metric; a doubtful one carries [`DOUBTFUL`].
pub(super) fn metric_figures(report: &Report, metric: Metric) -> Vec<Figure> {
    let mut figures = latency_figures(report.summary.metric(metric));
    if let Some(preflight) = &report.client_error.preflight {
        for (figure, key) in figures.iter_mut().zip(LATENCY_KEYS) {
            if preflight.is_marked(metric, key) {
                figure.value.push_str(DOUBTFUL);
            }
        }
    }
    figures
}

fn latency_row(report: &Report, metric: Metric) -> LatencyRow {
    let summary = report.summary.metric(metric);
    let (name, meaning) = metric_words(metric);
    LatencyRow {
        name,
        term: super::definitions::metric_term(metric),
        meaning,
        count: thousands(summary.count),
        figures: metric_figures(report, metric),
    }
}

/// A rate with its interval.
pub(super) fn rate_figure(rate: Rate, unit: &str) -> Figure {
    Figure {
        value: format!("{} {unit}", significant(rate.per_s)),
        interval: rate.ci95.map(interval).unwrap_or_default(),
        reason: String::new(),
    }
}

/// An amount of money with its interval.
pub(super) fn usd_figure(amount: Estimate) -> Figure {
    Figure {
        value: usd(amount.mid),
        interval: amount.interval().map(interval).unwrap_or_default(),
        reason: String::new(),
    }
}
