//! Engines without load: `llama-bench -o json` and `weighbridge speed --json`.
//!
//! A row is one test; rows of one model, device and thread count make one subject. Repeats are
//! independent, so each speed has the t interval of its mean. Invariant: prompt processing and
//! generation are told apart by which of the two numbers of tokens is zero; mixed tests are left
//! out.

use std::collections::BTreeMap;

use serde_json::Value;
use statrs::distribution::{ContinuousCDF as _, StudentsT};

use super::field::{count, first_text, number, text};
use super::{ImportError, with_figures};
use crate::subject::{Source, Subject, SubjectFigure};

/// The subjects of the rows of `llama-bench`.
pub(super) fn subjects(rows: &[Value]) -> Result<Vec<Subject>, ImportError> {
    let mut found: BTreeMap<String, Subject> = BTreeMap::new();
    for row in rows {
        let device = first_text(row, &["/gpu_info", "/cpu_info"]);
        let model = first_text(row, &["/model_type", "/model_filename"]);
        let threads = count(row, "/n_threads");
        let layers = count(row, "/n_gpu_layers").filter(|_| text(row, "/gpu_info").is_some());
        let mut names: Vec<String> = model.iter().cloned().collect();
        names.extend(device.clone());
        names.extend(threads.map(|threads| format!("{threads} threads")));
        names.extend(layers.map(|layers| format!("{layers} layers on it")));
        names.extend(
            count(row, "/n_depth")
                .filter(|&d| d > 0)
                .map(|d| format!("depth {d}")),
        );
        let label = names.join(", ");
        let subject = found.entry(label.clone()).or_insert_with(|| {
            let mut subject = Subject::new(Source::LlamaBench, label);
            subject.device = device;
            subject.tool_version = text(row, "/build_commit");
            subject.model.parameters = count(row, "/model_n_params");
            subject.model.name = model;
            subject
        });
        let (prompt, generated) = (count(row, "/n_prompt"), count(row, "/n_gen"));
        let (key, tokens) = match (prompt, generated) {
            (Some(tokens), Some(0)) if tokens > 0 => ("prefill_tokens_per_s", tokens),
            (Some(0), Some(tokens)) if tokens > 0 => ("decode_tokens_per_s", tokens),
            _ => {
                subject.notes.push("mixed tests are left out".to_owned());
                continue;
            }
        };
        put_speed(
            subject,
            key,
            number(row, "/avg_ts"),
            &samples(&row["samples_ts"]),
        );
        let load = &mut subject.workload;
        let mean = if key.starts_with("prefill") {
            &mut load.input_tokens_mean
        } else {
            &mut load.output_tokens_mean
        };
        *mean = Some(tokens as f64);
    }
    for subject in found.values_mut() {
        subject.notes.dedup();
    }
    found
        .into_values()
        .map(|subject| with_figures(subject, "llama-bench"))
        .collect()
}

/// The subjects of the rows of `weighbridge speed`.
pub(super) fn speed(rows: &[Value]) -> Result<Vec<Subject>, ImportError> {
    let each = rows.iter().map(|row| {
        let part = |name: &str| count(row, &format!("/{name}"));
        let mut names: Vec<String> = first_text(row, &["/model"]).into_iter().collect();
        names.extend(part("threads").map(|threads| format!("{threads} threads")));
        names.extend(
            part("batch")
                .filter(|&batch| batch > 1)
                .map(|batch| format!("batch {batch}")),
        );
        names.extend(
            part("depth")
                .filter(|&depth| depth > 0)
                .map(|depth| format!("depth {depth}")),
        );
        let mut subject = Subject::new(Source::Speed, names.join(", "));
        subject.model.name = text(row, "/model");
        subject.model.weights = text(row, "/weights");
        subject.workload.concurrency = part("batch").filter(|&batch| batch > 1);
        subject.workload.input_tokens_mean = number(row, "/prompt_tokens");
        subject.workload.output_tokens_mean = number(row, "/gen_tokens");
        for phase in ["prefill", "decode"] {
            let samples = samples(&row[format!("{phase}_samples")]);
            let mean = samples.iter().sum::<f64>() / samples.len() as f64;
            put_speed(
                &mut subject,
                &format!("{phase}_tokens_per_s"),
                Some(mean),
                &samples,
            );
        }
        with_figures(subject, "weighbridge speed")
    });
    each.collect()
}

fn samples(value: &Value) -> Vec<f64> {
    let samples = value.as_array().into_iter().flatten();
    samples
        .filter_map(Value::as_f64)
        .filter(|s| *s > 0.0)
        .collect()
}

/// A mean speed with the t interval of its repeats.
fn put_speed(subject: &mut Subject, key: &str, mean: Option<f64>, samples: &[f64]) {
    let Some(value) = mean.filter(|mean| mean.is_finite() && *mean > 0.0) else {
        return;
    };
    let n = samples.len() as f64;
    let spread = || {
        let centre = samples.iter().sum::<f64>() / n;
        let squares: f64 = samples.iter().map(|sample| (sample - centre).powi(2)).sum();
        let t = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.975);
        Some(t * (squares / (n - 1.0) / n).sqrt())
    };
    let half = if samples.len() > 1 { spread() } else { None };
    let figure = SubjectFigure {
        value,
        ci95: half
            .map(|half| (value - half, value + half))
            .filter(|ends| ends.0 > 0.0),
        n: (!samples.is_empty()).then_some(samples.len() as u64),
    };
    subject.figures.insert(key.to_owned(), figure);
}
