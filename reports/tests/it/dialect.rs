//! One stream in the words of every tool: the golden stream of `metrics.md`, and its figures.

use reports::dialect::{Dialect, DialectFigures, figures};
use reports::{Outcome, RequestRecord, Window, render};

use crate::accumulate::golden;
use crate::synthetic::SECOND;

const WINDOW: Window = Window {
    start_ns: 0,
    end_ns: 10 * SECOND,
};

fn of(dialect: Dialect) -> DialectFigures {
    figures(dialect, [golden(0)].iter(), WINDOW)
}

/// Means in milliseconds, to a hundredth.
fn means(dialect: Dialect) -> Vec<(&'static str, f64)> {
    let round = |s: f64| (s * 1e5).round() / 1e2;
    let metrics = of(dialect).metrics.into_iter();
    metrics
        .map(|m| (m.name, round(m.mean_s.expect("there is a value"))))
        .collect()
}

/// What each tool would say of the golden stream, in milliseconds.
const GOLDEN: [(Dialect, &[(&str, f64)]); 9] = [
    (
        Dialect::Vllm,
        &[
            ("TTFT", 40.0),
            ("TPOT", 15.56),
            ("ITL", 28.0),
            ("E2EL", 180.0),
        ],
    ),
    (
        Dialect::Sglang,
        &[
            ("TTFT", 100.0),
            ("TPOT", 10.11),
            ("ITL", 20.0),
            ("E2E latency", 191.0),
        ],
    ),
    (
        Dialect::Aiperf,
        &[
            ("time to first token", 100.0),
            ("inter token latency", 8.89),
            ("request latency", 180.0),
        ],
    ),
    (
        Dialect::Guidellm,
        &[
            ("TTFT", 100.0),
            ("ITL", 8.89),
            ("TPOT", 18.0),
            ("request latency", 191.0),
        ],
    ),
    (
        Dialect::GenaiPerf,
        &[
            ("time to first token", 100.0),
            ("inter token latency", 8.89),
            ("request latency", 180.0),
        ],
    ),
    (
        Dialect::Llmperf,
        &[
            ("ttft", 100.0),
            ("inter token latency", 18.0),
            ("end to end latency", 191.0),
        ],
    ),
    (
        Dialect::InferencePerf,
        &[
            ("time to first token", 100.0),
            ("time per output token", 8.89),
            ("inter token latency", 8.89),
            ("normalized time per output token", 19.1),
            ("request latency", 191.0),
        ],
    ),
    (
        Dialect::Evalscope,
        &[
            ("TTFT", 40.0),
            ("TPOT", 16.67),
            ("ITL", 28.0),
            ("latency", 190.0),
        ],
    ),
    (
        Dialect::Aisbench,
        &[
            ("TTFT", 40.0),
            ("TPOT", 16.67),
            ("ITL", 25.0),
            ("E2EL", 190.0),
        ],
    ),
];

#[test]
fn the_golden_stream_has_the_figures_that_each_tool_would_give() {
    for (dialect, expected) in GOLDEN {
        assert_eq!(means(dialect), expected, "{dialect}");
    }
    let gaps = &of(Dialect::InferencePerf).metrics[2];
    assert_eq!(gaps.count, 9);
    assert_eq!(gaps.p50_s, Some(0.0));
    assert!((gaps.p99_s.expect("there are gaps") - 0.02).abs() < 1e-12);
}

#[test]
fn throughput_is_over_the_tool_s_own_time_and_its_own_requests() {
    let rate = |dialect| of(dialect).output_tokens_per_s;
    assert!((rate(Dialect::Vllm) - 10.0 / 0.191).abs() < 1e-9);
    assert!((rate(Dialect::Aiperf) - 10.0 / 0.180).abs() < 1e-9);
    let failed = RequestRecord {
        outcome: Outcome::Timeout,
        ..golden(0)
    };
    let late = golden(11 * SECOND);
    let records = [golden(0), failed, late];
    let with = |dialect| figures(dialect, records.iter(), WINDOW);
    let vllm = with(Dialect::Vllm);
    assert_eq!((vllm.finished, vllm.requests), (1, 2));
    assert!((vllm.request_rate - 1.0 / 0.191).abs() < 1e-9);
    assert!((with(Dialect::GenaiPerf).request_rate - 2.0 / 0.180).abs() < 1e-9);
}

#[test]
fn a_run_without_answers_has_no_figures_and_no_panic() {
    for dialect in Dialect::ALL {
        let found = figures(dialect, [].iter(), WINDOW);
        assert!(found.metrics.iter().all(|metric| metric.mean_s.is_none()));
        assert!(render::dialect(&found).contains(dialect.name()));
    }
}

#[test]
fn the_table_reads_well() {
    insta::assert_snapshot!(render::dialect(&of(Dialect::Vllm)));
}
