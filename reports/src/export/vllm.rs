//! The JSON of `vllm bench serve`: summaries in milliseconds, lists in seconds.
//!
//! Invariant: lists have an entry for each request, also for those that failed, as the tool's do.

use serde_json::{Map, Value, json};

use super::{Sample, Totals, figures, goodput, per_second, value_s};
use crate::dialect::Dialect;
use crate::record::{Outcome, RequestRecord};
use crate::schema::Report;

const SUMMARIES: [(&str, &str); 4] = [
    ("ttft", "TTFT"),
    ("tpot", "TPOT"),
    ("itl", "ITL"),
    ("e2el", "E2EL"),
];
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

pub(super) fn result(report: &Report, records: &[&RequestRecord]) -> Value {
    let totals = Totals::new(records);
    let found = figures(Dialect::Vllm, report, records);
    let names = ["TTFT", "TPOT", "E2EL"];
    let good = goodput(Dialect::Vllm, names, report, records, found.duration_s);
    let load = &report.workload;
    let mut result = json!({
        "date": compact_date(&report.run.start),
        "endpoint_type": "openai-chat",
        "backend": "weighbridge",
        "label": format!("weighbridge {}", report.target.name),
        "model_id": report.model.name,
        "tokenizer_id": report.model.tokenizer,
        "num_prompts": records.len(),
        "request_rate": load.target_rate.map_or_else(|| json!("inf"), |rate| json!(rate)),
        "burstiness": 1.0,
        "max_concurrency": load.users,
        "duration": found.duration_s,
        "completed": totals.finished,
        "failed": totals.failed,
        "total_input_tokens": totals.input,
        "total_output_tokens": totals.output,
        "request_throughput": found.request_rate,
        "request_goodput": good,
        "output_throughput": found.output_tokens_per_s,
        "total_token_throughput": per_second(totals.input + totals.output, found.duration_s),
        "weighbridge": super::identity(report),
    });
    let result_fields = result.as_object_mut().expect("an object was made");
    add_lists(result_fields, records);
    for (key, name) in SUMMARIES {
        let sample = Sample::of(Dialect::Vllm, name, records);
        let mut put = |statistic: &str, value: Option<f64>| {
            let milliseconds = value.unwrap_or(0.0) * 1e3;
            result_fields.insert(format!("{statistic}_{key}_ms"), json!(milliseconds));
        };
        put("mean", sample.mean());
        put("median", sample.at(0.5));
        put("std", sample.deviation());
        for (statistic, quantile) in PERCENTILES {
            put(statistic, sample.at(quantile));
        }
    }
    result
}

fn add_lists(result: &mut Map<String, Value>, records: &[&RequestRecord]) {
    let of = |name: &str, record: &RequestRecord| {
        let finished = record.outcome == Outcome::Ok;
        let values = value_s(Dialect::Vllm, name, record);
        if finished { values } else { Vec::new() }
    };
    let first = |name: &str| -> Vec<f64> {
        let each = records.iter();
        each.map(|record| of(name, record).first().copied().unwrap_or(0.0))
            .collect()
    };
    let sent_s =
        |record: &&RequestRecord| record.sent_ns.unwrap_or(record.intended_ns) as f64 / 1e9;
    let lists = [
        (
            "input_lens",
            json!(records.iter().map(|r| r.input_tokens).collect::<Vec<_>>()),
        ),
        (
            "output_lens",
            json!(records.iter().map(|r| r.output_tokens).collect::<Vec<_>>()),
        ),
        ("ttfts", json!(first("TTFT"))),
        ("latencies", json!(first("E2EL"))),
        (
            "itls",
            json!(records.iter().map(|r| of("ITL", r)).collect::<Vec<_>>()),
        ),
        (
            "start_times",
            json!(records.iter().map(sent_s).collect::<Vec<_>>()),
        ),
        (
            "errors",
            json!(
                records
                    .iter()
                    .map(|r| r.error.clone().unwrap_or_default())
                    .collect::<Vec<_>>()
            ),
        ),
    ];
    for (key, list) in lists {
        result.insert(key.to_owned(), list);
    }
}

/// `20260401-101500` of `2026-04-01T10:15:00Z`.
fn compact_date(start: &str) -> String {
    let kept: String = start
        .chars()
        .filter(|c| c.is_ascii_digit() || *c == 'T')
        .collect();
    kept.replace('T', "-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_are_written_as_the_tool_writes_them() {
        assert_eq!(
            super::compact_date("2026-04-01T10:15:00Z"),
            "20260401-101500"
        );
    }
}
