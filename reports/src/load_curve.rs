//! Runs at rising loads: a sweep over given loads, or the search for the capacity.
//!
//! Invariant: a point stands for one run, whose whole report is in its folder; nothing here is
//! measured again. A load of several runs has several points. What it does not do: draw.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capacity::{Capacity, Decision};
use crate::cost::{Confidence, Cost, Estimate};
use crate::schema::{Rate, Report, RunInfo, Slo};

/// Version of the schema that this build writes.
pub const SCHEMA_VERSION: u32 = 1;

/// What a load is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadUnit {
    /// Requests per second, open loop.
    RequestsPerSecond,
    /// Users, closed loop.
    Users,
}

impl LoadUnit {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "req/s",
            Self::Users => "users",
        }
    }
}

/// `curve.json`: all points of a sweep or a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadCurve {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Always `load_curve`.
    pub kind: String,
    /// When, where and how.
    pub run: RunInfo,
    /// As given to `--target`.
    pub target: String,
    /// In words.
    pub device: String,
    /// True when time was virtual.
    pub virtual_time: bool,
    /// The model.
    pub model: String,
    /// The workload.
    pub workload: String,
    /// Limits a request must meet.
    pub slo: Option<Slo>,
    /// What loads are counted in.
    pub unit: LoadUnit,
    /// Every run, in the order in which they were made.
    pub points: Vec<Point>,
    /// What a search found.
    pub search: Option<Found>,
    /// What a reader should know.
    pub warnings: Vec<String>,
}

/// What a search for the capacity found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Found {
    /// Share of requests that must meet the SLO.
    pub goal_share: f64,
    /// The capacity.
    pub capacity: Capacity,
    /// The cost at the highest load that passed.
    pub cost: Option<Cost>,
    /// Its cost of a query, at the capacity's interval as well as the prices'.
    pub usd_per_query: Option<Estimate>,
    /// Its cost of a million tokens, likewise.
    pub usd_per_million_total_tokens: Option<Estimate>,
}

/// One run of the curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// Requests per second, or users.
    pub load: f64,
    /// Seed of its prompts.
    pub seed: u64,
    /// Where its report is, under the curve's folder.
    pub folder: String,
    /// `VALID`, or why not.
    pub invalid: Vec<String>,
    /// What the search made of the load, with all its runs.
    pub decision: Option<Decision>,
    /// Requests that were to meet the SLO.
    pub judged: u64,
    /// Share of them that met it; of those that finished, without an SLO.
    pub share: Option<f64>,
    /// Requests completed per second.
    pub request_rate: Rate,
    /// Output tokens per second.
    pub output_tokens_per_s: Rate,
    /// Tokens per second that a user saw: one over the median TPOT.
    pub tokens_per_s_per_user: Option<f64>,
    /// Devices or vCPUs that the price is for.
    pub units: Option<u32>,
    /// Median TTFT.
    pub ttft_p50_s: Option<f64>,
    /// 95th percentile.
    pub ttft_p95_s: Option<f64>,
    /// 99th percentile.
    pub ttft_p99_s: Option<f64>,
    /// Median TPOT.
    pub tpot_p50_s: Option<f64>,
    /// 95th percentile.
    pub tpot_p95_s: Option<f64>,
    /// 99th percentile.
    pub tpot_p99_s: Option<f64>,
    /// Median E2E.
    pub e2e_p50_s: Option<f64>,
    /// Cost of a served query at this load.
    pub usd_per_query: Option<Estimate>,
    /// Cost of a million tokens, input and output alike, at this load.
    pub usd_per_million_total_tokens: Option<Estimate>,
    /// Cost of a million output tokens at this load.
    pub usd_per_million_output_tokens: Option<Estimate>,
    /// How far the prices can be relied on.
    pub price_confidence: Option<Confidence>,
}

impl Point {
    /// From the report of a run at this load.
    pub fn new(load: f64, folder: String, report: &Report) -> Self {
        let summary = &report.summary;
        let figures = report.cost.as_ref().map(|cost| cost.at_this_load);
        let judged = summary.requests.judged();
        let finished = (judged > 0).then(|| summary.requests.ok as f64 / judged as f64);
        Self {
            load,
            seed: report.run.seed,
            folder,
            invalid: report.validity.reasons.clone(),
            decision: None,
            judged,
            share: summary.goodput_share.or(finished),
            request_rate: summary.request_rate,
            output_tokens_per_s: summary.output_tokens_per_s,
            tokens_per_s_per_user: summary.tpot_s.p50.map(|tpot_s| 1.0 / tpot_s.max(1e-9)),
            units: report.cost.as_ref().map(|cost| cost.units),
            ttft_p50_s: summary.ttft_s.p50,
            ttft_p95_s: summary.ttft_s.p95,
            ttft_p99_s: summary.ttft_s.p99,
            tpot_p50_s: summary.tpot_s.p50,
            tpot_p95_s: summary.tpot_s.p95,
            tpot_p99_s: summary.tpot_s.p99,
            e2e_p50_s: summary.e2e_s.p50,
            usd_per_query: figures.and_then(|figures| figures.usd_per_query),
            usd_per_million_total_tokens: figures
                .and_then(|figures| figures.usd_per_million_total_tokens),
            usd_per_million_output_tokens: figures
                .and_then(|figures| figures.usd_per_million_output_tokens),
            price_confidence: report.cost.as_ref().map(|cost| cost.confidence),
        }
    }
}

impl Found {
    /// With the cost of the highest load that passed. A query costs in inverse proportion to the
    /// load, so the ends of the capacity's interval widen the price's own.
    pub fn new(goal_share: f64, capacity: Capacity, passed: Option<&Report>) -> Self {
        let cost = passed.and_then(|report| report.cost.clone());
        let figures = cost.as_ref().map(|cost| cost.at_this_load);
        // On the scale of the capacity: what arrived, or users.
        let arrived = passed.and_then(|report| {
            let (summary, users) = (&report.summary, report.workload.users);
            let rate = || summary.requests.total as f64 / summary.window_s;
            users.map(f64::from).or((summary.window_s > 0.0).then(rate))
        });
        let widen = |figure: Option<Estimate>| {
            let (figure, arrived) = (figure?, arrived?);
            let (load, (low, high)) = (capacity.load?, capacity.ci95?);
            let spread =
                |part: f64, end: f64| ((part.ln()).powi(2) + (end.ln()).powi(2)).sqrt().exp();
            let mid = figure.mid * arrived / load;
            Some(Estimate {
                mid,
                low: figure
                    .low
                    .map(|end| mid / spread(figure.mid / end, high / load)),
                high: figure
                    .high
                    .map(|end| mid * spread(end / figure.mid, load / low)),
            })
        };
        Self {
            goal_share,
            usd_per_query: widen(figures.and_then(|figures| figures.usd_per_query)),
            usd_per_million_total_tokens: widen(
                figures.and_then(|figures| figures.usd_per_million_total_tokens),
            ),
            cost,
            capacity,
        }
    }
}
