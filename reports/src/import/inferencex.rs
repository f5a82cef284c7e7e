//! A row of `InferenceX` (`agg_*.json`): latencies in seconds, throughput per GPU.
//!
//! Invariant: a row whose number of GPUs is not certain has none; figures per GPU need none.

use serde_json::Value;

use super::field::{count, first_text, number, text};
use super::{ImportError, add_identity, with_figures};
use crate::schema::Metric;
use crate::subject::{Source, Subject, latency_key};

const LATENCIES: [(&str, Metric); 3] = [
    ("ttft", Metric::Ttft),
    ("tpot", Metric::Tpot),
    ("e2el", Metric::E2e),
];

pub(super) fn subject(value: &Value) -> Result<Subject, ImportError> {
    let hardware = first_text(value, &["/hw", "/hardware"]);
    let model = first_text(value, &["/model", "/infmax_model_prefix"]);
    let concurrency = count(value, "/conc");
    let mut names: Vec<String> = [hardware.clone(), model.clone(), text(value, "/framework")]
        .into_iter()
        .flatten()
        .collect();
    names.extend(text(value, "/precision"));
    names.extend(count(value, "/tp").map(|tp| format!("tp{tp}")));
    names.extend(concurrency.map(|users| format!("conc {users}")));
    let mut subject = Subject::new(Source::Inferencex, names.join(" "));
    subject.device = hardware;
    subject.devices = devices(value);
    subject.model.name = model;
    subject.model.weights = text(value, "/precision");
    subject.workload.concurrency = concurrency;
    subject.workload.input_tokens_mean = number(value, "/isl");
    subject.workload.output_tokens_mean = number(value, "/osl");
    let rates = [
        ("total_tokens_per_s_per_device", "/tput_per_gpu"),
        ("output_tokens_per_s_per_device", "/output_tput_per_gpu"),
    ];
    for (ours, theirs) in rates {
        subject.put(ours, number(value, theirs), None);
    }
    for (name, metric) in LATENCIES {
        for (ours, theirs) in super::vllm::STATISTICS {
            let seconds = number(value, &format!("/{theirs}_{name}"));
            subject.put(&latency_key(metric, ours), seconds, None);
        }
    }
    if let Some(method) = text(value, "/spec_decoding").filter(|method| method != "none") {
        subject
            .notes
            .push(format!("speculative decoding: {method}"));
    }
    add_identity(&mut subject, value);
    with_figures(subject, "InferenceX")
}

/// GPUs of a row: stated one by one for prefill and decode, else the tensor parallelism of a node.
fn devices(value: &Value) -> Option<u32> {
    let split = (
        count(value, "/num_prefill_gpu"),
        count(value, "/num_decode_gpu"),
    );
    let found = match split {
        (Some(prefill), Some(decode)) => prefill.checked_add(decode),
        _ if value["is_multinode"] == true => None,
        _ => count(value, "/tp"),
    };
    found.and_then(|found| u32::try_from(found).ok())
}
