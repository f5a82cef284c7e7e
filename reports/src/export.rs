//! A run as other tools write theirs, in their definitions, from the same instants.
//!
//! Invariant: figures are made by the formulas of `dialect` from the requests that were intended in
//! the window, so that a tool's reader, and our own import, finds what that tool would have said.
//! What a tool's file has and a run of ours has not (generated texts, its command line) is left
//! out; that a run is simulated or INVALID stands under `weighbridge`, so that no export launders
//! it. What it does not do: read or write files.

mod aiperf;
mod csv;
mod inferencex;
mod parquet;
mod vllm;

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::dialect::{Dialect, linear, values_s};
use crate::record::{Outcome, RequestRecord};
use crate::schema::Report;

/// Another tool's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The JSON of `vllm bench serve --save-result --save-detailed`.
    Vllm,
    /// `AIPerf`'s summary and its line for each request.
    Aiperf,
    /// A row of `InferenceX`.
    Inferencex,
    /// One row for each request, in our definitions.
    Csv,
    /// The same rows, with types.
    Parquet,
}

/// Not a format that is written here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a format; accepted are `vllm`, `aiperf`, `inferencex`, `csv`, `parquet`")]
pub struct FormatError(String);

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Vllm,
        Self::Aiperf,
        Self::Inferencex,
        Self::Csv,
        Self::Parquet,
    ];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Aiperf => "aiperf",
            Self::Inferencex => "inferencex",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| FormatError(text.to_owned()))
    }
}

/// A file of another tool: its usual name and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As that tool names it.
    pub name: &'static str,
    /// Whole.
    pub bytes: Vec<u8>,
}

impl File {
    /// The content of a format of text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The files of a format, the one that `compare` reads first.
pub fn files(format: Format, report: &Report, records: &[RequestRecord]) -> Vec<File> {
    let (start_s, end_s) = report.run.window_s;
    let inside = |record: &&RequestRecord| {
        let intended_s = record.intended_ns as f64 / 1e9;
        intended_s >= start_s && intended_s < end_s
    };
    let records: Vec<&RequestRecord> = records.iter().filter(inside).collect();
    match format {
        Format::Vllm => vec![File {
            name: "vllm.json",
            bytes: pretty(&vllm::result(report, &records)),
        }],
        Format::Aiperf => vec![
            File {
                name: "profile_export_aiperf.json",
                bytes: pretty(&aiperf::summary(report, &records)),
            },
            File {
                name: "profile_export.jsonl",
                bytes: aiperf::lines(&records).into_bytes(),
            },
        ],
        Format::Inferencex => vec![File {
            name: "agg_weighbridge.json",
            bytes: pretty(&inferencex::row(report, &records)),
        }],
        Format::Csv => vec![File {
            name: "requests.csv",
            bytes: csv::table(&records).into_bytes(),
        }],
        Format::Parquet => vec![File {
            name: "requests.parquet",
            bytes: parquet::table(&records),
        }],
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let text = serde_json::to_string_pretty(value).expect("JSON values can be written");
    (text + "\n").into_bytes()
}

/// As in `summary.failures`, such as `http_status(503)`.
fn outcome_name(outcome: Outcome) -> String {
    crate::accumulate::failure_cause(outcome)
}

/// What the tool's format has no place for, and a comparison must know.
fn identity(report: &Report) -> Value {
    let simulated = report.target.virtual_time || report.target.kind == "simulated";
    json!({
        "version": report.run.tool_version,
        "basis": if simulated { "simulated" } else { "measured" },
        "invalid": report.validity.reasons,
        "schedule_hash": report.run.schedule_hash,
        "slo": report.workload.slo,
        "device": report.target.device,
        "model": report.model.name,
        "tokenizer": report.model.tokenizer,
        "rate": report.workload.target_rate,
        "concurrency": report.workload.users,
        "seed": report.run.seed,
    })
}

/// Values of a figure over the requests that finished.
#[derive(Debug, Clone, Default)]
struct Sample {
    /// In rising order.
    sorted: Vec<f64>,
}

impl Sample {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// All values that a tool sees under a name.
    fn of(dialect: Dialect, name: &str, records: &[&RequestRecord]) -> Self {
        let finished = records
            .iter()
            .filter(|record| record.outcome == Outcome::Ok);
        let values = finished.flat_map(|record| value_s(dialect, name, record));
        Self::new(values.collect())
    }

    fn mean(&self) -> Option<f64> {
        let count = self.sorted.len() as f64;
        (count > 0.0).then(|| self.sorted.iter().sum::<f64>() / count)
    }

    /// Of the population, as numpy has it.
    fn deviation(&self) -> Option<f64> {
        let mean = self.mean()?;
        let squares: f64 = self.sorted.iter().map(|value| (value - mean).powi(2)).sum();
        Some((squares / self.sorted.len() as f64).sqrt())
    }

    fn at(&self, quantile: f64) -> Option<f64> {
        linear(&self.sorted, quantile)
    }
}

/// The values of one request under a tool's name.
fn value_s(dialect: Dialect, name: &str, record: &RequestRecord) -> Vec<f64> {
    let found = values_s(dialect, record).find(|(known, _)| *known == name);
    found.map(|(_, values)| values).unwrap_or_default()
}

/// What went over the wire.
struct Totals {
    finished: u64,
    failed: u64,
    input: u64,
    output: u64,
}

impl Totals {
    fn new(records: &[&RequestRecord]) -> Self {
        let finished = || {
            records
                .iter()
                .filter(|record| record.outcome == Outcome::Ok)
        };
        let failed = records
            .iter()
            .filter(|record| !matches!(record.outcome, Outcome::Ok | Outcome::Cancelled));
        Self {
            finished: finished().count() as u64,
            failed: failed.count() as u64,
            input: finished().map(|record| record.input_tokens).sum(),
            output: finished().map(|record| record.output_tokens).sum(),
        }
    }
}

/// Over a duration; zero for none.
fn per_second(amount: u64, duration_s: f64) -> f64 {
    if duration_s > 0.0 {
        amount as f64 / duration_s
    } else {
        0.0
    }
}

/// The tool's own duration and rates.
fn figures(
    dialect: Dialect,
    report: &Report,
    records: &[&RequestRecord],
) -> crate::dialect::DialectFigures {
    let ns = |seconds: f64| (seconds * 1e9).round() as u64;
    let (start_s, end_s) = report.run.window_s;
    let window = crate::accumulate::Window {
        start_ns: ns(start_s),
        end_ns: ns(end_s),
    };
    crate::dialect::figures(dialect, records.iter().copied(), window)
}

/// Requests per second within the SLO, as the tools count it: of those that finished, over their
/// own duration, by their own latencies.
fn goodput(
    dialect: Dialect,
    names: [&str; 3],
    report: &Report,
    records: &[&RequestRecord],
    duration_s: f64,
) -> Option<f64> {
    let slo = report.workload.slo?;
    let limits = [slo.ttft_s, slo.tpot_s, slo.e2e_s];
    let good = |record: &&&RequestRecord| {
        let within = |(name, limit): (&str, Option<f64>)| {
            let value = value_s(dialect, name, record)
                .first()
                .copied()
                .unwrap_or(0.0);
            limit.is_none_or(|limit| value <= limit)
        };
        record.outcome == Outcome::Ok && names.into_iter().zip(limits).all(within)
    };
    let good = records.iter().filter(good).count() as u64;
    Some(per_second(good, duration_s))
}
