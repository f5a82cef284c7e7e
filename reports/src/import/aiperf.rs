//! `AIPerf`'s `profile_export_aiperf.json`: one object for each metric, with its unit.
//!
//! Its inter-token latency is `(latency − TTFT) / (tokens − 1)`, so it goes under TPOT. Invariant:
//! a latency is converted by the unit beside it; one in an unknown unit is left out.

use serde_json::Value;

use super::field::{count, first_text, number, text};
use super::{ImportError, add_identity, with_figures};
use crate::schema::Metric;
use crate::subject::{STATISTICS, Source, Subject, latency_key};

const LATENCIES: [(&str, Metric); 3] = [
    ("time_to_first_token", Metric::Ttft),
    ("inter_token_latency", Metric::Tpot),
    ("request_latency", Metric::E2e),
];

fn per_second(unit: &str) -> Option<f64> {
    match unit {
        "ns" => Some(1e9),
        "us" | "µs" => Some(1e6),
        "ms" => Some(1e3),
        "sec" | "s" | "seconds" => Some(1.0),
        _ => None,
    }
}

pub(super) fn subject(value: &Value) -> Result<Subject, ImportError> {
    let model = first_text(
        value,
        &[
            "/input_config/models/items/0/name",
            "/input_config/endpoint/model_names/0",
            "/weighbridge/model",
        ],
    );
    let label = model.clone().unwrap_or_else(|| "aiperf".to_owned());
    let mut subject = Subject::new(Source::Aiperf, label);
    subject.tool_version = text(value, "/aiperf_version");
    subject.model.name = model;
    let tokenizer = ["/input_config/tokenizer/name", "/weighbridge/tokenizer"];
    subject.model.tokenizer = first_text(value, &tokenizer);
    let seed = count(value, "/run_info/random_seed");
    subject.workload.seed = seed.or_else(|| count(value, "/weighbridge/seed"));
    let profiling = value
        .pointer("/input_config/phases")
        .and_then(Value::as_array)
        .and_then(|phases| phases.last().cloned())
        .unwrap_or_default();
    let loadgen = |key: &str| number(value, &format!("/input_config/loadgen/{key}"));
    subject.workload.target_rate = number(&profiling, "/rate")
        .or_else(|| loadgen("request_rate"))
        .or_else(|| number(value, "/weighbridge/rate"));
    subject.workload.concurrency = count(&profiling, "/concurrency")
        .or_else(|| loadgen("concurrency").map(|concurrency| concurrency as u64))
        .or_else(|| count(value, "/weighbridge/concurrency"));
    subject.workload.input_tokens_mean = number(value, "/input_sequence_length/avg");
    subject.workload.output_tokens_mean = number(value, "/output_sequence_length/avg");
    let n = count(value, "/request_count/avg");
    let rates = [
        ("request_rate", "request_throughput"),
        ("output_tokens_per_s", "output_token_throughput"),
        ("total_tokens_per_s", "total_token_throughput"),
        ("goodput_rate", "goodput"),
    ];
    for (ours, theirs) in rates {
        subject.put(ours, number(value, &format!("/{theirs}/avg")), n);
    }
    put_latencies(&mut subject, value, n);
    if value["was_cancelled"] == true {
        subject.invalid.push("the run was cancelled".to_owned());
    }
    if value["is_complete"] == false {
        let why = text(value, "/incomplete_reason");
        let why = why.unwrap_or_else(|| "the run did not complete".to_owned());
        subject.invalid.push(why);
    }
    let failed = count(value, "/error_request_count/avg");
    if let Some(failed) = failed.filter(|failed| *failed > 0) {
        subject
            .notes
            .push(format!("{failed} requests failed and are in no latency"));
    }
    add_identity(&mut subject, value);
    with_figures(subject, "AIPerf")
}

fn put_latencies(subject: &mut Subject, value: &Value, n: Option<u64>) {
    for (name, metric) in LATENCIES {
        let unit = text(value, &format!("/{name}/unit"));
        let Some(scale) = unit.as_deref().and_then(per_second) else {
            continue;
        };
        for (statistic, _) in STATISTICS {
            let theirs = if statistic == "mean" {
                "avg"
            } else {
                statistic
            };
            let found = number(value, &format!("/{name}/{theirs}")).map(|found| found / scale);
            subject.put(&latency_key(metric, statistic), found, n);
        }
    }
}
