//! `vllm bench serve --save-result`: summaries in milliseconds, rates per second.
//!
//! Its TTFT counts an empty role chunk, its ITL is of chunks, its rates are over the whole run,
//! ramp-up and drain included. Invariant: ITL is left out, since a name shared with a figure per
//! token would mislead.

use serde_json::Value;

use super::field::{count, number, text};
use super::{ImportError, add_identity, with_figures};
use crate::schema::Metric;
use crate::subject::{Source, Subject, latency_key};

const LATENCIES: [(&str, Metric); 3] = [
    ("ttft", Metric::Ttft),
    ("tpot", Metric::Tpot),
    ("e2el", Metric::E2e),
];
/// Ours and theirs.
pub(super) const STATISTICS: [(&str, &str); 6] = [
    ("mean", "mean"),
    ("p50", "median"),
    ("p90", "p90"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("p999", "p99.9"),
];

pub(super) fn subject(value: &Value) -> Result<Subject, ImportError> {
    let model = text(value, "/model_id");
    let own = text(value, "/label").or_else(|| text(value, "/backend"));
    let own = own.or_else(|| text(value, "/endpoint_type"));
    let label: Vec<String> = [own, model.clone()].into_iter().flatten().collect();
    let mut subject = Subject::new(Source::Vllm, label.join(" "));
    subject.model.name = model;
    subject.model.tokenizer = text(value, "/tokenizer_id");
    let n = count(value, "/completed");
    let mean = |total: &str| Some(number(value, total)? / n? as f64);
    let load = &mut subject.workload;
    load.target_rate = number(value, "/request_rate");
    load.concurrency = count(value, "/max_concurrency");
    load.input_tokens_mean = mean("/total_input_tokens").filter(|mean| mean.is_finite());
    load.output_tokens_mean = mean("/total_output_tokens").filter(|mean| mean.is_finite());
    let rates = [
        ("request_rate", "/request_throughput"),
        ("output_tokens_per_s", "/output_throughput"),
        ("total_tokens_per_s", "/total_token_throughput"),
        ("goodput_rate", "/request_goodput"),
    ];
    for (ours, theirs) in rates {
        subject.put(ours, number(value, theirs), n);
    }
    for (name, metric) in LATENCIES {
        for (ours, theirs) in STATISTICS {
            let milliseconds = number(value, &format!("/{theirs}_{name}_ms"));
            let seconds = milliseconds.map(|ms| ms / 1e3);
            subject.put(&latency_key(metric, ours), seconds, n);
        }
    }
    if n == Some(0) {
        subject.invalid.push("no request completed".to_owned());
    }
    if let Some(failed) = count(value, "/failed").filter(|failed| *failed > 0) {
        subject
            .notes
            .push(format!("{failed} requests failed and are in no figure"));
    }
    add_identity(&mut subject, value);
    with_figures(subject, "vllm")
}
