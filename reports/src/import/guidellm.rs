//! `GuideLLM`'s `benchmarks.json`: one subject for each benchmark of a sweep.
//!
//! Its inter-token latency is `(last − first) / (tokens − 1)`, so it goes under TPOT; what it calls
//! time per output token contains TTFT and is left out. Invariant: figures are of successful
//! requests, as `GuideLLM` prints them.

use serde_json::Value;

use super::field::{count, first_text, number, text};
use super::{ImportError, with_figures};
use crate::schema::Metric;
use crate::subject::{Source, Subject, latency_key};

/// Name, ours, and how many of its units are a second.
const LATENCIES: [(&str, Metric, f64); 3] = [
    ("time_to_first_token_ms", Metric::Ttft, 1e3),
    ("inter_token_latency_ms", Metric::Tpot, 1e3),
    ("request_latency", Metric::E2e, 1.0),
];
const STATISTICS: [(&str, &str); 6] = [
    ("mean", "mean"),
    ("p50", "median"),
    ("p90", "percentiles/p90"),
    ("p95", "percentiles/p95"),
    ("p99", "percentiles/p99"),
    ("p999", "percentiles/p999"),
];

pub(super) fn subjects(value: &Value) -> Result<Vec<Subject>, ImportError> {
    let benchmarks = value["benchmarks"].as_array();
    let benchmarks = benchmarks.filter(|benchmarks| !benchmarks.is_empty());
    let benchmarks = benchmarks.ok_or(ImportError::Missing {
        tool: "GuideLLM",
        what: "benchmarks",
    })?;
    benchmarks.iter().map(|one| subject(value, one)).collect()
}

fn subject(report: &Value, benchmark: &Value) -> Result<Subject, ImportError> {
    let strategy = &benchmark["config"]["strategy"];
    let kind = first_text(strategy, &["/type_", "/kind"]).unwrap_or_default();
    let model = first_text(
        benchmark,
        &["/config/backend/model", "/config/backend/config/model"],
    )
    .or_else(|| first_text(report, &["/config/model", "/args/model"]));
    let rate = number(strategy, "/rate");
    let streams = count(strategy, "/streams").or_else(|| count(strategy, "/max_concurrency"));
    let amount = rate.or(streams.map(|streams| streams as f64));
    let amount = amount.map(|amount| amount.to_string());
    let names = [
        Some("guidellm".to_owned()),
        model.clone(),
        Some(kind),
        amount,
    ];
    let label: Vec<String> = names
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
        .collect();
    let mut subject = Subject::new(Source::Guidellm, label.join(" "));
    subject.tool_version = text(report, "/metadata/guidellm_version");
    subject.model.name = model;
    subject.workload.target_rate = rate;
    subject.workload.concurrency = streams;
    let metrics = &benchmark["metrics"];
    let of = |name: &str| number(metrics, &format!("/{name}/successful/mean"));
    subject.workload.input_tokens_mean = of("prompt_token_count");
    subject.workload.output_tokens_mean = of("output_token_count");
    let n = count(metrics, "/request_totals/successful");
    subject.put("request_rate", of("requests_per_second"), n);
    subject.put("output_tokens_per_s", of("output_tokens_per_second"), n);
    subject.put("total_tokens_per_s", of("tokens_per_second"), n);
    for (name, metric, per_second) in LATENCIES {
        for (ours, theirs) in STATISTICS {
            let found = number(metrics, &format!("/{name}/successful/{theirs}"));
            let key = latency_key(metric, ours);
            subject.put(&key, found.map(|found| found / per_second), n);
        }
    }
    if n == Some(0) {
        subject.invalid.push("no request was successful".to_owned());
    }
    for (what, path) in [("failed", "errored"), ("were cut off", "incomplete")] {
        let requests = count(metrics, &format!("/request_totals/{path}"));
        if let Some(requests) = requests.filter(|requests| *requests > 0) {
            subject
                .notes
                .push(format!("{requests} requests {what} and are in no figure"));
        }
    }
    with_figures(subject, "GuideLLM")
}
