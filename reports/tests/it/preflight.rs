//! The client's own error against the figures of a run.

use reports::preflight::{Pairs, Preflight, Spread};
use reports::schema::{Metric, Slo};

use crate::synthetic::{self, Story};

/// The same error in every figure of every metric.
pub(crate) fn preflight(error_ns: u64) -> Preflight {
    let pairs = Pairs {
        reported_ns: vec![20_000_000 + error_ns; 120],
        true_ns: vec![20_000_000; 120],
    };
    let metrics = [Metric::Ttft, Metric::Itl, Metric::Tpot, Metric::E2e];
    Preflight {
        load: "open loop, 7 requests per second".to_owned(),
        duration_s: 3.0,
        requests: 120,
        tokens: 7680,
        receive_error_s: Spread::of(vec![error_ns; 120]),
        early_share: Some(0.0),
        server_late_s: None,
        send_lag_s: Spread::of(vec![30_000_u64; 120]),
        errors: metrics.map(|metric| (metric, pairs.errors())).into(),
        cpu_cores_used: Some(0.12),
        cpu_ms_per_1000_tokens: Some(9.5),
        marks: Vec::new(),
    }
}

fn judged(error_ns: u64, slo: Option<Slo>) -> (Vec<String>, Vec<String>) {
    let mut preflight = preflight(error_ns);
    preflight.mark(&synthetic::measured(Story::Steady).summary, slo);
    preflight.judge()
}

#[test]
fn a_small_error_marks_nothing() {
    assert_eq!(judged(100_000, None), (vec![], vec![]));
}

#[test]
fn an_error_counts_where_it_is_large_against_the_figure() {
    // 2 ms: over 5 % of an ITL or TPOT of about 20 ms, not of a TTFT of over 100 ms.
    let (reasons, warnings) = judged(2_000_000, None);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(
        reasons[0].contains("TPOT p50") && reasons[0].contains("own error 2.000 ms"),
        "{reasons:?}"
    );
    assert!(warnings.iter().any(|text| text.starts_with("ITL p50")));
    let slo = Slo {
        ttft_s: None,
        tpot_s: Some(0.05),
        e2e_s: None,
    };
    let (reasons, _) = judged(2_000_000, Some(slo));
    assert!(
        reasons.iter().any(|text| text.contains("TPOT p99")),
        "all of a metric with an SLO counts: {reasons:?}"
    );
    let (reasons, _) = judged(60_000_000, None);
    assert!(reasons.iter().any(|text| text.contains("TTFT p50")));
}

#[test]
fn quantiles_are_of_nearest_rank_and_empty_is_zero() {
    let spread = Spread::of((1..=100_u64).rev().collect());
    let ns = |seconds: f64| (seconds * 1e9).round() as u64;
    assert_eq!(
        [spread.p50, spread.p90, spread.p99, spread.max].map(ns),
        [50, 90, 99, 100]
    );
    let signed = Spread::of(vec![7_i64, -3, -9, 2]);
    let ns = |seconds: f64| (seconds * 1e9).round() as i64;
    assert_eq!(
        [signed.p50, signed.p99].map(ns),
        [-3, 7],
        "too early is not on time"
    );
    assert_eq!(signed.min.map(ns), Some(-9));
    assert_eq!(Spread::of::<u64>(vec![]), Spread::default());
    let few = Pairs {
        reported_ns: vec![1; 99],
        true_ns: vec![1; 99],
    };
    assert_eq!(few.errors().into_keys().collect::<Vec<_>>(), ["p50"]);
}
