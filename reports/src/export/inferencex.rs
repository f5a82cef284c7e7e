//! A row of `InferenceX`: vLLM's definitions, seconds, throughput for each GPU.
//!
//! Invariant: what a run does not state (image, precision beyond the weight format) is left out,
//! and `conc` is null in an open loop, which has none.

use serde_json::{Value, json};

use super::{Sample, Totals, figures, per_second};
use crate::cost::sheet::Per;
use crate::dialect::Dialect;
use crate::record::RequestRecord;
use crate::schema::Report;

const SUMMARIES: [(&str, &str); 4] = [
    ("ttft", "TTFT"),
    ("tpot", "TPOT"),
    ("itl", "ITL"),
    ("e2el", "E2EL"),
];

pub(super) fn row(report: &Report, records: &[&RequestRecord]) -> Value {
    let totals = Totals::new(records);
    let found = figures(Dialect::Vllm, report, records);
    // What is paid for by the vCPU is one host.
    let of_devices = report.cost.as_ref().filter(|cost| cost.per == Per::Device);
    let devices = of_devices.map_or(1, |cost| cost.units.max(1));
    let each = |tokens: u64| per_second(tokens, found.duration_s) / f64::from(devices);
    let mean = |tokens: u64| (tokens as f64 / totals.finished.max(1) as f64).round();
    let mut row = json!({
        "hw": report.target.name,
        "conc": report.workload.users,
        "model": report.model.name,
        "framework": "weighbridge",
        "precision": report.model.weights,
        "spec_decoding": "none",
        "disagg": false,
        "is_multinode": false,
        "isl": mean(totals.input),
        "osl": mean(totals.output),
        "tp": devices,
        "ep": 1,
        "dp_attention": false,
        "tput_per_gpu": each(totals.input + totals.output),
        "output_tput_per_gpu": each(totals.output),
        "input_tput_per_gpu": each(totals.input),
        "weighbridge": super::identity(report),
    });
    let fields = row.as_object_mut().expect("an object was made");
    for (key, name) in SUMMARIES {
        let sample = Sample::of(Dialect::Vllm, name, records);
        let statistics = [
            ("mean", sample.mean()),
            ("median", sample.at(0.5)),
            ("std", sample.deviation()),
            ("p90", sample.at(0.9)),
            ("p95", sample.at(0.95)),
            ("p99", sample.at(0.99)),
        ];
        for (statistic, value) in statistics {
            fields.insert(format!("{statistic}_{key}"), json!(value));
            // Interactivity: tokens per second of one user.
            if let ("tpot", Some(value)) = (key, value.filter(|value| *value > 0.0)) {
                fields.insert(format!("{statistic}_intvty"), json!(1.0 / value));
            }
        }
    }
    row
}
