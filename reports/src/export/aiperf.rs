//! `AIPerf`'s summary (`profile_export_aiperf.json`) and its line for each request.
//!
//! Invariant: the objects validate as that tool's own models. Its configuration is not ours to
//! make up, so what identifies the run stands under `weighbridge`, which its readers pass over.

use serde_json::{Map, Value, json};

use super::{Sample, Totals, figures, goodput, per_second, value_s};
use crate::dialect::Dialect;
use crate::record::{Outcome, RequestRecord};
use crate::schema::Report;

/// Tag, name in the dialect, and the header that the tool prints.
const LATENCIES: [(&str, &str); 3] = [
    ("time_to_first_token", "time to first token"),
    ("inter_token_latency", "inter token latency"),
    ("request_latency", "request latency"),
];
const PERCENTILES: [(&str, f64); 9] = [
    ("p1", 0.01),
    ("p5", 0.05),
    ("p10", 0.1),
    ("p25", 0.25),
    ("p50", 0.5),
    ("p75", 0.75),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
];
/// Version of the summary that this is written after.
const SCHEMA_VERSION: &str = "1.4";

pub(super) fn summary(report: &Report, records: &[&RequestRecord]) -> Value {
    let totals = Totals::new(records);
    let found = figures(Dialect::Aiperf, report, records);
    let only = |unit: &str, value: f64| json!({ "unit": unit, "avg": value });
    let mut summary = Map::new();
    let mut put = |tag: &str, value: Value| summary.insert(tag.to_owned(), value);
    put("schema_version", json!(SCHEMA_VERSION));
    put(
        "request_throughput",
        only("requests/sec", found.request_rate),
    );
    put(
        "output_token_throughput",
        only("tokens/sec", found.output_tokens_per_s),
    );
    let total = per_second(totals.input + totals.output, found.duration_s);
    put("total_token_throughput", only("tokens/sec", total));
    put("request_count", only("requests", totals.finished as f64));
    put(
        "error_request_count",
        only("requests", totals.failed as f64),
    );
    put("benchmark_duration", only("sec", found.duration_s));
    let names = LATENCIES.map(|(_, name)| name);
    if let Some(good) = goodput(Dialect::Aiperf, names, report, records, found.duration_s) {
        put("goodput", only("requests/sec", good));
    }
    for (tag, name) in LATENCIES {
        let sample = Sample::of(Dialect::Aiperf, name, records);
        put(tag, distribution("ms", 1e3, &sample));
    }
    let finished = || {
        records
            .iter()
            .filter(|record| record.outcome == Outcome::Ok)
    };
    let tokens = |pick: fn(&RequestRecord) -> u64| {
        Sample::new(finished().map(|record| pick(record) as f64).collect())
    };
    let input = tokens(|record| record.input_tokens);
    let output = tokens(|record| record.output_tokens);
    put("input_sequence_length", distribution("tokens", 1.0, &input));
    put(
        "output_sequence_length",
        distribution("tokens", 1.0, &output),
    );
    put("was_cancelled", json!(report.run.incomplete));
    put("start_time", json!(report.run.start));
    put("end_time", json!(report.run.end));
    put("weighbridge", super::identity(report));
    Value::Object(summary)
}

fn distribution(unit: &str, scale: f64, sample: &Sample) -> Value {
    let mut found = Map::new();
    let mut put = |key: &str, value: Option<f64>| {
        let value = value.map(|value| value * scale);
        found.insert(key.to_owned(), json!(value));
    };
    put("avg", sample.mean());
    put("min", sample.at(0.0));
    put("max", sample.at(1.0));
    put("std", sample.deviation());
    for (key, quantile) in PERCENTILES {
        put(key, sample.at(quantile));
    }
    found.insert("unit".to_owned(), json!(unit));
    found.insert("count".to_owned(), json!(sample.sorted.len()));
    Value::Object(found)
}

/// One line for each request: what `profile_export.jsonl` has.
pub(super) fn lines(records: &[&RequestRecord]) -> String {
    let line = |(index, record): (usize, &&RequestRecord)| {
        let text = one(index, record).to_string();
        text + "\n"
    };
    records.iter().enumerate().map(line).collect()
}

fn one(index: usize, record: &RequestRecord) -> Value {
    let start_ns = record.sent_ns.unwrap_or(record.intended_ns);
    let mut metrics = Map::new();
    if record.outcome == Outcome::Ok {
        for (tag, name) in LATENCIES {
            let value = value_s(Dialect::Aiperf, name, record);
            let value = value
                .first()
                .map(|s| json!({ "value": s * 1e3, "unit": "ms" }));
            metrics.extend(value.map(|value| (tag.to_owned(), value)));
        }
        let tokens = |count: u64| json!({ "value": count, "unit": "tokens" });
        metrics.insert(
            "input_sequence_length".to_owned(),
            tokens(record.input_tokens),
        );
        metrics.insert(
            "output_sequence_length".to_owned(),
            tokens(record.output_tokens),
        );
    }
    let error = (record.outcome != Outcome::Ok).then(|| {
        let words = serde_json::to_value(record.outcome).unwrap_or_default();
        let kind = words
            .as_str()
            .map_or_else(|| words.to_string(), ToOwned::to_owned);
        json!({ "type": kind, "message": record.error.clone().unwrap_or_else(|| kind.clone()) })
    });
    json!({
        "metadata": {
            "session_num": index,
            "x_request_id": record.id.to_string(),
            "conversation_id": record.session.to_string(),
            "turn_index": record.turn,
            "credit_issued_ns": record.intended_ns,
            "request_start_ns": start_ns,
            "request_end_ns": record.end_ns.unwrap_or(start_ns),
            "worker_id": "weighbridge",
            "record_processor_id": "weighbridge",
            "benchmark_phase": "profiling",
            "was_cancelled": record.outcome == Outcome::Cancelled,
        },
        "metrics": metrics,
        "error": error,
    })
}
