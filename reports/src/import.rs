//! Other tools' result files as subjects of a comparison, told apart by their shape.
//!
//! Invariant: a figure keeps the meaning its tool gives it; where a tool's name means what another
//! name means here, it goes under ours (`AIPerf`'s and `GuideLLM`'s ITL is a TPOT). A file that is
//! cut off, is of another schema version or has no figure is an error, never an empty subject.
//! What it does not do: read files, or convert between definitions.

mod aiperf;
mod field;
mod guidellm;
mod inferencex;
mod llama_bench;
mod table;
mod vllm;

use serde_json::Value;

use crate::schema::{Report, SCHEMA_VERSION};
use crate::subject::{Basis, SUBJECT_FORMAT, SUBJECT_SCHEMA_VERSION, Subject};

/// What is accepted, in words.
pub const ACCEPTED: &str = "a result folder or `report.json` of weighbridge, the output of \
    `weighbridge import` or `weighbridge speed --json`, and the JSON results of \
    `vllm bench serve`, AIPerf (`profile_export_aiperf.json`), GuideLLM (`benchmarks.json`), \
    `llama-bench -o json`, and InferenceX (`agg_*.json`); the CSV and Parquet tables of \
    `weighbridge export`";

/// Why a text gave no subject.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Cut off, or not JSON at all.
    #[error("not whole JSON, or not as its format has it")]
    Json(#[from] serde_json::Error),
    /// No CSV after all.
    #[error("not whole CSV")]
    Csv(#[from] csv::Error),
    /// A cell that is no number.
    #[error("line {line}, `{column}`: `{found}` is no number")]
    Cell {
        /// Its column.
        column: &'static str,
        /// Counted from 1, the head too.
        line: u64,
        /// What is there.
        found: String,
    },
    /// No Parquet after all.
    #[error("not whole Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Neither text nor Parquet.
    #[error("neither text nor Parquet\n\nhint: accepted are {ACCEPTED}")]
    Bytes,
    /// Nobody's that is known here.
    #[error("the JSON has no known shape\n\nhint: accepted are {ACCEPTED}")]
    Shape,
    /// A version that this build does not read.
    #[error("{what} has schema version {found}; accepted is {accepted}")]
    Version {
        /// Of what.
        what: &'static str,
        /// As found.
        found: String,
        /// As accepted.
        accepted: u32,
    },
    /// The tool's shape, but nothing to compare.
    #[error("{tool} result without {what}")]
    Missing {
        /// Whose.
        tool: &'static str,
        /// What is missing.
        what: &'static str,
    },
}

/// The subjects of a file, whatever its format.
pub fn subjects_of(bytes: &[u8]) -> Result<Vec<Subject>, ImportError> {
    if bytes.starts_with(table::PARQUET_START) {
        return Ok(vec![table::from_parquet(bytes)?]);
    }
    subjects(std::str::from_utf8(bytes).map_err(|_| ImportError::Bytes)?)
}

/// The subjects of a text: one, or one for each of its benchmarks or rows.
pub fn subjects(text: &str) -> Result<Vec<Subject>, ImportError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with(table::CSV_START) {
        return Ok(vec![table::from_csv(text)?]);
    }
    let value = match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        // `vllm bench serve --append-result` and `llama-bench -o jsonl` write one JSON per line.
        Err(error) if text.lines().count() > 1 && text.starts_with('{') => {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            let read: Result<Vec<Value>, _> = lines.map(serde_json::from_str).collect();
            Value::Array(read.map_err(|_| error)?)
        }
        Err(error) => return Err(error.into()),
    };
    of_value(&value)
}

fn of_value(value: &Value) -> Result<Vec<Subject>, ImportError> {
    let has = |key: &str| value.get(key).is_some();
    if value["format"] == SUBJECT_FORMAT {
        return Ok(vec![neutral(value)?]);
    }
    if has("summary") && has("run") && has("validity") {
        return Ok(vec![own(value)?]);
    }
    if has("benchmarks") && has("metadata") {
        return guidellm::subjects(value);
    }
    if has("time_to_first_token") || has("request_latency") && has("request_throughput") {
        return Ok(vec![aiperf::subject(value)?]);
    }
    if has("tput_per_gpu") {
        return Ok(vec![inferencex::subject(value)?]);
    }
    if has("request_throughput") && has("output_throughput") {
        return Ok(vec![vllm::subject(value)?]);
    }
    match value.as_array().map(Vec::as_slice) {
        Some([]) | None => Err(ImportError::Shape),
        Some(rows) if rows.iter().all(|row| row.get("avg_ts").is_some()) => {
            llama_bench::subjects(rows)
        }
        Some(rows) if rows.iter().all(|row| row.get("prefill_samples").is_some()) => {
            llama_bench::speed(rows)
        }
        Some(rows) => {
            let each = rows.iter().map(of_value);
            Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
        }
    }
}

fn check_version(value: &Value, what: &'static str, accepted: u32) -> Result<(), ImportError> {
    let found = &value["schema_version"];
    if found.as_u64() == Some(u64::from(accepted)) {
        return Ok(());
    }
    Err(ImportError::Version {
        what,
        found: found.to_string(),
        accepted,
    })
}

fn own(value: &Value) -> Result<Subject, ImportError> {
    check_version(value, "report.json", SCHEMA_VERSION)?;
    let report: Report = serde_json::from_value(value.clone())?;
    Ok(Subject::from(&report))
}

fn neutral(value: &Value) -> Result<Subject, ImportError> {
    check_version(value, "the subject", SUBJECT_SCHEMA_VERSION)?;
    Ok(serde_json::from_value(value.clone())?)
}

/// What our exports say of the run beside the other tool's fields.
fn add_identity(subject: &mut Subject, value: &Value) {
    let own = &value["weighbridge"];
    if own["basis"] == "simulated" {
        subject.basis = Basis::Simulated;
    }
    let reasons = own["invalid"].as_array().into_iter().flatten();
    let reasons = reasons.filter_map(Value::as_str).map(ToOwned::to_owned);
    subject.invalid.extend(reasons);
    subject.workload.schedule_hash = field::text(own, "/schedule_hash");
    subject.workload.slo = serde_json::from_value(own["slo"].clone()).unwrap_or_default();
    if subject.device.is_none() {
        subject.device = field::text(own, "/device");
    }
}

/// A subject, if it has a figure.
fn with_figures(subject: Subject, tool: &'static str) -> Result<Subject, ImportError> {
    if subject.figures.is_empty() {
        return Err(ImportError::Missing {
            tool,
            what: "a figure that can be compared",
        });
    }
    Ok(subject)
}

#[cfg(test)]
#[path = "import/tests.rs"]
mod tests;
