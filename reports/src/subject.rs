//! One side of a comparison: the figures of a run, whoever measured it, with what they rest on.
//!
//! Invariant: every figure has a name that [`figures`] lists, in the unit that the name ends in,
//! and nothing that the source does not state is filled in. What it does not do: say whether two
//! subjects may be compared; `compare` does.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cost::{Cost, Estimate, Per};
use crate::histogram::LatencyHistogram;
use crate::schema::{Metric, MetricSummary, Rate, Report, Slo};
use crate::validity::Verdict;

/// Version of the JSON of a [`Subject`].
pub const SUBJECT_SCHEMA_VERSION: u32 = 1;
/// Marks the JSON of a [`Subject`].
pub const SUBJECT_FORMAT: &str = "weighbridge-subject";

/// Whose file a subject comes from, and so whose definitions its figures follow.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A report of ours.
    Weighbridge,
    /// Rows of `weighbridge speed --json`.
    Speed,
    /// `vllm bench serve`.
    Vllm,
    /// NVIDIA `AIPerf`.
    Aiperf,
    /// `GuideLLM`.
    Guidellm,
    /// `llama-bench` of llama.cpp.
    LlamaBench,
    /// A row of `InferenceX`.
    Inferencex,
    /// A table of requests that `weighbridge export` wrote.
    Requests,
}

impl Source {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weighbridge => "weighbridge",
            Self::Speed => "weighbridge speed",
            Self::Vllm => "vllm",
            Self::Aiperf => "aiperf",
            Self::Guidellm => "guidellm",
            Self::LlamaBench => "llama-bench",
            Self::Inferencex => "inferencex",
            Self::Requests => "requests",
        }
    }

    /// Do figures of the two mean the same? Engines without load are measured alike.
    pub fn defines_as(self, other: Self) -> bool {
        let engine = |source| matches!(source, Self::Speed | Self::LlamaBench);
        let own = |source| matches!(source, Self::Weighbridge | Self::Requests);
        self == other || (engine(self) && engine(other)) || (own(self) && own(other))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What the figures were read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A device, in real time.
    Measured,
    /// A model of a device.
    Simulated,
}

/// What was served. Only what the source states.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelIdentity {
    /// Name or path.
    pub name: Option<String>,
    /// Weight format.
    pub weights: Option<String>,
    /// `llama` or what else it is.
    pub architecture: Option<String>,
    /// Parameters.
    pub parameters: Option<u64>,
    /// Hash of the weights, or how they were made.
    pub identity: Option<String>,
    /// Tokenizer that lengths are counted in.
    pub tokenizer: Option<String>,
}

/// The load. Only what the source states.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadIdentity {
    /// Name, or the data set.
    pub name: Option<String>,
    /// Equal for equal schedules: every instant and every length.
    pub schedule_hash: Option<String>,
    /// Seed.
    pub seed: Option<u64>,
    /// Requests per second asked for.
    pub target_rate: Option<f64>,
    /// Users or requests at a time.
    pub concurrency: Option<u64>,
    /// Mean prompt tokens.
    pub input_tokens_mean: Option<f64>,
    /// Mean output tokens.
    pub output_tokens_mean: Option<f64>,
    /// Limits that goodput is counted by.
    pub slo: Option<Slo>,
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectFigure {
    /// In the unit of its name.
    pub value: f64,
    /// 95 % interval, where the source gives one or what it takes to make one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<(f64, f64)>,
    /// Requests or repeats behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// Always `weighbridge-subject`.
    pub format: String,
    /// [`SUBJECT_SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// For people.
    pub label: String,
    /// Whose file it was.
    pub source: Source,
    /// Version of the tool that measured.
    pub tool_version: Option<String>,
    /// The device in words.
    pub device: Option<String>,
    /// How many of them.
    pub devices: Option<u32>,
    /// What was served.
    pub model: ModelIdentity,
    /// The load.
    pub workload: WorkloadIdentity,
    /// Measured or simulated.
    pub basis: Basis,
    /// Why no figure may be used; empty when nothing says so.
    pub invalid: Vec<String>,
    /// Figures by name.
    pub figures: BTreeMap<String, SubjectFigure>,
    /// Percentile curves by metric: quantile and seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub curves: BTreeMap<String, Vec<(f64, f64)>>,
    /// Price of all devices for an hour.
    pub usd_per_hour: Option<f64>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Latencies and costs.
    Lower,
    /// Rates.
    Higher,
}

/// What the values of a figure are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Anything per second, with its name.
    PerSecond(&'static str),
    /// A share of a whole.
    Share,
    /// US dollars.
    Usd,
}

/// A figure that subjects can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FigureKind {
    /// Name in [`Subject::figures`].
    pub key: String,
    /// For people.
    pub name: String,
    /// Unit.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
}

/// Latencies that can be compared, and the statistics of each.
pub const LATENCIES: [Metric; 4] = [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2e];
/// Statistics of a latency: key and name.
pub const STATISTICS: [(&str, &str); 6] = [
    ("mean", "mean"),
    ("p50", "p50"),
    ("p90", "p90"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("p999", "p99.9"),
];

const TOKENS: Unit = Unit::PerSecond("tok/s");
const OTHERS: [(&str, &str, Unit, Better); 13] = [
    (
        "usd_per_query",
        "Cost per served query",
        Unit::Usd,
        Better::Lower,
    ),
    (
        "usd_per_million_input_tokens",
        "Cost per 1M input tokens",
        Unit::Usd,
        Better::Lower,
    ),
    (
        "usd_per_million_output_tokens",
        "Cost per 1M output tokens",
        Unit::Usd,
        Better::Lower,
    ),
    (
        "usd_per_million_total_tokens",
        "Cost per 1M tokens",
        Unit::Usd,
        Better::Lower,
    ),
    (
        "goodput_share",
        "Goodput share",
        Unit::Share,
        Better::Higher,
    ),
    (
        "goodput_rate",
        "Goodput",
        Unit::PerSecond("req/s"),
        Better::Higher,
    ),
    (
        "request_rate",
        "Requests",
        Unit::PerSecond("req/s"),
        Better::Higher,
    ),
    (
        "output_tokens_per_s",
        "Output tokens",
        TOKENS,
        Better::Higher,
    ),
    (
        "total_tokens_per_s",
        "Input and output tokens",
        TOKENS,
        Better::Higher,
    ),
    (
        "output_tokens_per_s_per_device",
        "Output tokens per device",
        TOKENS,
        Better::Higher,
    ),
    (
        "total_tokens_per_s_per_device",
        "All tokens per device",
        TOKENS,
        Better::Higher,
    ),
    ("prefill_tokens_per_s", "Prefill", TOKENS, Better::Higher),
    ("decode_tokens_per_s", "Decode", TOKENS, Better::Higher),
];

/// Every figure that subjects can have, in the order of tables.
pub fn figures() -> Vec<FigureKind> {
    let other = |&(key, name, unit, better): &(&str, &str, Unit, Better)| FigureKind {
        key: key.to_owned(),
        name: name.to_owned(),
        unit,
        better,
    };
    let mut kinds: Vec<FigureKind> = OTHERS.iter().map(other).collect();
    for metric in LATENCIES {
        kinds.extend(STATISTICS.map(|(statistic, name)| FigureKind {
            key: latency_key(metric, statistic),
            name: format!("{} {name}", metric.short_name()),
            unit: Unit::Seconds,
            better: Better::Lower,
        }));
    }
    kinds
}

/// The name of a latency's statistic, as `ttft_s.p50`.
pub fn latency_key(metric: Metric, statistic: &str) -> String {
    format!("{}_s.{statistic}", metric.name())
}

impl Subject {
    /// A subject without figures.
    pub fn new(source: Source, label: impl Into<String>) -> Self {
        Self {
            format: SUBJECT_FORMAT.to_owned(),
            schema_version: SUBJECT_SCHEMA_VERSION,
            label: label.into(),
            source,
            tool_version: None,
            device: None,
            devices: None,
            model: ModelIdentity::default(),
            workload: WorkloadIdentity::default(),
            basis: Basis::Measured,
            invalid: Vec::new(),
            figures: BTreeMap::new(),
            curves: BTreeMap::new(),
            usd_per_hour: None,
            notes: Vec::new(),
        }
    }

    /// Adds a figure if there is one and it is a number.
    pub fn put(&mut self, key: &str, value: Option<f64>, n: Option<u64>) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            let figure = SubjectFigure {
                value,
                ci95: None,
                n,
            };
            self.figures.insert(key.to_owned(), figure);
        }
    }

    fn put_with(&mut self, key: &str, value: Option<f64>, ci95: Option<(f64, f64)>, n: u64) {
        self.put(key, value, Some(n));
        if let Some(figure) = self.figures.get_mut(key) {
            figure.ci95 = ci95;
        }
    }

    fn put_latency(&mut self, metric: Metric, summary: &MetricSummary) {
        let values = [
            summary.mean,
            summary.p50,
            summary.p90,
            summary.p95,
            summary.p99,
            summary.p999,
        ];
        for ((statistic, _), value) in STATISTICS.into_iter().zip(values) {
            let key = latency_key(metric, statistic);
            let ci95 = summary.ci95.get(statistic).copied();
            self.put_with(&key, value, ci95, summary.requests);
        }
    }

    fn put_cost(&mut self, cost: &Cost) {
        self.usd_per_hour = Some(cost.usd_per_hour.mid);
        if cost.per == Per::Device {
            self.devices = Some(cost.units);
        }
        let served = cost.served.map_or(0, |served| served.requests);
        let figures = &cost.at_this_load;
        for (key, value) in [
            ("usd_per_query", figures.usd_per_query),
            (
                "usd_per_million_input_tokens",
                figures.usd_per_million_input_tokens,
            ),
            (
                "usd_per_million_output_tokens",
                figures.usd_per_million_output_tokens,
            ),
            (
                "usd_per_million_total_tokens",
                figures.usd_per_million_total_tokens,
            ),
        ] {
            let ends = value.and_then(Estimate::interval);
            self.put_with(key, value.map(|value| value.mid), ends, served);
        }
    }
}

/// The label of a report: what was measured.
fn label(report: &Report) -> String {
    let (target, model) = (&report.target.name, &report.model.name);
    format!("{target} {model} {}", report.workload.name)
}

impl From<&Report> for Subject {
    fn from(report: &Report) -> Self {
        let (summary, load, model) = (&report.summary, &report.workload, &report.model);
        let mut subject = Self::new(Source::Weighbridge, label(report));
        subject.tool_version = Some(report.run.tool_version.clone());
        subject.device = Some(report.target.device.clone());
        subject.model = ModelIdentity {
            name: Some(model.name.clone()),
            weights: model.weights.clone(),
            architecture: model.architecture.clone(),
            parameters: model.parameters,
            identity: model.identity.clone(),
            tokenizer: Some(model.tokenizer.clone()),
        };
        subject.workload = WorkloadIdentity {
            name: Some(load.name.clone()),
            schedule_hash: Some(report.run.schedule_hash.clone()),
            seed: Some(report.run.seed),
            target_rate: load.target_rate,
            concurrency: load.users.map(u64::from),
            input_tokens_mean: Some(load.realised.prompt_tokens_mean),
            output_tokens_mean: Some(load.realised.output_tokens_mean),
            slo: load.slo,
        };
        if report.target.virtual_time || report.target.kind == "simulated" {
            subject.basis = Basis::Simulated;
        }
        if report.validity.verdict == Verdict::Invalid {
            subject.invalid.clone_from(&report.validity.reasons);
        }
        subject.notes.clone_from(&report.warnings);
        let n = summary.requests.total;
        let mut rate = |key: &str, rate: Option<Rate>| {
            subject.put_with(key, rate.map(|r| r.per_s), rate.and_then(|r| r.ci95), n);
        };
        rate("request_rate", Some(summary.request_rate));
        rate("output_tokens_per_s", Some(summary.output_tokens_per_s));
        rate("goodput_rate", summary.goodput_rate);
        subject.put("goodput_share", summary.goodput_share, Some(n));
        for metric in LATENCIES {
            subject.put_latency(metric, summary.metric(metric));
            let held = report.histograms.get(&metric);
            let held = held.and_then(|held| LatencyHistogram::decode(held).ok());
            let requests = summary.metric(metric).requests;
            let curve = held.map(|held| crate::render::percentile_curve(&held, requests));
            let curve = curve.filter(|curve| !curve.is_empty());
            let name = metric.name().to_owned();
            subject.curves.extend(curve.map(|curve| (name, curve)));
        }
        if let Some(cost) = &report.cost {
            subject.put_cost(cost);
        }
        subject
    }
}
