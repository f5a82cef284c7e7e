//! The golden stream of `metrics.md`, who counts, and order independence.

use proptest::prelude::*;
use reports::accumulate::{Accumulator, Measurements, Window};
use reports::histogram::LatencyHistogram;
use reports::schema::{Metric, Slo};
use reports::{Finish, Outcome, RequestRecord, TokenCountSource};

use crate::synthetic::{self, SECOND, Story};

const MS: u64 = 1_000_000;
const WINDOW: Window = Window {
    start_ns: 0,
    end_ns: 20 * SECOND,
};

/// The stream of `metrics.md`: content chunks of 2 tokens at 100, 120 … 180 ms after `intended_ns`;
/// the role-only chunk at 40 ms and the usage chunk at 190 ms are not content.
pub(crate) fn golden(intended_ns: u64) -> RequestRecord {
    RequestRecord {
        id: 0,
        session: 0,
        turn: 0,
        class: "golden".to_owned(),
        intended_ns,
        pushed_ns: 0,
        sent_ns: Some(intended_ns),
        admitted_ns: None,
        chunk_ns: [100, 120, 140, 160, 180]
            .map(|at| intended_ns + at * MS)
            .to_vec(),
        chunk_tokens: vec![2; 5],
        bare_ns: vec![intended_ns + 40 * MS],
        usage_ns: Some(intended_ns + 190 * MS),
        end_ns: Some(intended_ns + 191 * MS),
        outcome: Outcome::Ok,
        input_tokens: 30,
        planned_input_tokens: 30,
        cached_input_tokens: None,
        output_tokens: 10,
        planned_output_tokens: 10,
        token_count_source: TokenCountSource::Usage,
        error: None,
        finish: None,
    }
}

fn measure(slo: Option<Slo>, records: &[RequestRecord]) -> Measurements {
    let mut accumulator = Accumulator::new(WINDOW, slo);
    for record in records {
        accumulator.record(record);
    }
    accumulator.finish()
}

#[test]
fn golden_stream() {
    let record = golden(3 * SECOND);
    assert_eq!(record.ttft_ns(), Some(100 * MS));
    assert_eq!(record.tpot_ns(), Some(10 * MS));
    assert_eq!(record.e2e_ns(), Some(180 * MS));
    let found = measure(None, &vec![record; 60]).summary;
    for (metric, ms) in [
        (Metric::Ttft, 100.0),
        (Metric::Tpot, 10.0),
        (Metric::E2e, 180.0),
    ] {
        let summary = found.metric(metric);
        for figure in [
            summary.mean,
            summary.p50,
            summary.p90,
            summary.p95,
            summary.max,
        ] {
            assert_eq!(figure, Some(ms / 1e3), "{}", metric.name());
        }
        assert_eq!(summary.null_reasons["p99"], "needs 662 requests, has 60");
    }
    let itl = found.metric(Metric::Itl);
    assert_eq!(
        (itl.mean, itl.p50, itl.max),
        (Some(0.01), Some(0.01), Some(0.01))
    );
    assert_eq!((itl.count, itl.requests), (60 * 8, 60));
    let gap = found.metric(Metric::ChunkGap);
    assert_eq!(
        (gap.mean, gap.p50, gap.count),
        (Some(0.02), Some(0.02), 60 * 4)
    );
    assert_eq!((found.output_tokens, found.input_tokens), (600, 1_800));
    assert_eq!(found.queue_s.null_reasons["p50"], "no request gave a value");
}

#[test]
fn a_reply_in_one_chunk_has_no_tpot_and_passes_its_limit() {
    let mut record = golden(0);
    record.chunk_ns.truncate(1);
    record.chunk_tokens = vec![10];
    assert_eq!(record.tpot_ns(), None);
    let limit = |tpot_s, ttft_s| Slo {
        tpot_s,
        ttft_s,
        e2e_s: None,
    };
    let share = |slo| measure(Some(slo), &[record.clone()]).summary.goodput_share;
    assert_eq!(share(limit(Some(1e-9), Some(0.1))), Some(1.0));
    assert_eq!(share(limit(None, Some(0.099_999))), Some(0.0));
}

#[test]
fn who_counts() {
    let ended = |outcome| RequestRecord {
        outcome,
        ..golden(SECOND)
    };
    let failed = ended(Outcome::Reset);
    let cancelled = ended(Outcome::Cancelled);
    let unfinished = RequestRecord {
        end_ns: None,
        ..ended(Outcome::Unfinished)
    };
    let early = RequestRecord {
        chunk_ns: vec![21 * SECOND],
        ..golden(19 * SECOND)
    };
    let early = RequestRecord {
        chunk_tokens: vec![10],
        end_ns: Some(21 * SECOND),
        ..early
    };
    let outside = golden(20 * SECOND);
    let slo = Slo {
        ttft_s: Some(1.0),
        tpot_s: None,
        e2e_s: None,
    };
    let all = [
        golden(SECOND),
        failed,
        cancelled,
        unfinished,
        early,
        outside,
    ];
    let summary = measure(Some(slo), &all).summary;
    let requests = summary.requests;
    assert_eq!((requests.total, requests.ok, requests.failed), (5, 2, 1));
    assert_eq!((requests.cancelled, requests.unfinished), (1, 1));
    assert_eq!(summary.failures["reset"], 1);
    assert_eq!(
        summary.ttft_s.count, 4,
        "ok, late ok, cancelled, unfinished"
    );
    assert_eq!(summary.itl_s.requests, 3);
    assert_eq!((summary.tpot_s.count, summary.e2e_s.count), (1, 2));
    assert_eq!(summary.send_lag_s.count, 5);
    assert_eq!(
        summary.output_tokens, 40,
        "the tokens of four requests fell in the window"
    );
    assert_eq!(summary.completed(), 1, "one finished in it");
    assert_eq!(
        summary.goodput_share,
        Some(0.25),
        "one of ok, late ok, failed, unfinished"
    );
}

#[test]
fn tokens_are_the_servers_count_spread_over_the_chunks() {
    let record = RequestRecord {
        chunk_tokens: vec![1; 5],
        ..golden(0)
    };
    assert_eq!(measure(None, &[record]).summary.output_tokens, 10);
    let late = RequestRecord {
        chunk_ns: vec![19 * SECOND, 20 * SECOND - 1, 20 * SECOND, 21 * SECOND],
        chunk_tokens: vec![1; 4],
        output_tokens: 7,
        ..golden(0)
    };
    assert_eq!(
        measure(None, &[late]).summary.output_tokens,
        3,
        "7 × 2 / 4, rounded down"
    );
}

#[test]
fn series_counts_what_is_in_flight() {
    let long = RequestRecord {
        end_ns: Some(2 * SECOND + 5),
        ..golden(SECOND / 2)
    };
    let never = RequestRecord {
        end_ns: None,
        outcome: Outcome::Unfinished,
        ..golden(SECOND)
    };
    let points = measure(None, &[long, never, golden(3 * SECOND)]).series;
    let flying: Vec<u64> = points.iter().map(|point| point.in_flight).collect();
    assert_eq!(flying, [1, 2, 1, 1]);
    assert_eq!(points.iter().map(|point| point.completed).sum::<u64>(), 2);
    assert_eq!(points[3].ttft_p50_s, Some(0.1));
    assert_eq!(points[3].itl_p99_s, Some(0.01));
}

#[test]
fn nothing_recorded_is_no_panic() {
    for end_ns in [0, 1, 90 * 3_600 * SECOND] {
        let window = Window {
            start_ns: 0,
            end_ns,
        };
        let found = Accumulator::new(window, None).finish();
        assert_eq!(found.summary.ttft_s.mean, None);
        assert_eq!(found.summary.goodput_share, None);
        assert!(found.series.is_empty());
    }
    let window = Window {
        start_ns: 5,
        end_ns: 1,
    };
    let summary = Accumulator::new(window, None).finish().summary;
    assert_eq!(Some(summary.window_s), Some(0.0));
}

#[test]
fn intervals_hold_their_figure() {
    let summary = synthetic::measured(Story::Steady).summary;
    for metric in Metric::ALL {
        let figures = summary.metric(metric);
        for (key, value) in [
            ("mean", figures.mean),
            ("p50", figures.p50),
            ("p99", figures.p99),
        ] {
            let (value, (low, high)) = (value.expect("700 requests"), figures.ci95[key]);
            assert!(
                low <= value && value <= high,
                "{} {key}: {low} {value} {high}",
                metric.name()
            );
        }
        assert!(!figures.ci95.contains_key("max") && !figures.ci95.contains_key("p999"));
    }
    let (low, high) = summary.output_tokens_per_s.ci95.expect("120 seconds");
    let rate = summary.output_tokens_per_s.per_s;
    assert!(low < rate && rate < high, "{low} {rate} {high}");
}

#[test]
fn histogram_quantiles_match_the_summary() {
    let found = synthetic::measured(Story::Steady);
    for metric in Metric::ALL {
        let histogram = LatencyHistogram::decode(&found.histograms[&metric]).expect("ours");
        let p90 = histogram
            .value_at(reports::stats::Quantile::P90)
            .expect("not empty") as f64
            / 1e9;
        let stated = found.summary.metric(metric).p90.expect("700 requests");
        assert!(
            stated <= p90 && p90 - stated <= 1e-6_f64.max(stated * 1e-3),
            "{}",
            metric.name()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn order_does_not_matter(order in Just((0..150).collect::<Vec<usize>>()).prop_shuffle()) {
        let records = synthetic::records(Story::Steady);
        let records = &records[100..250];
        let shuffled: Vec<RequestRecord> = order.iter().map(|&at| records[at].clone()).collect();
        prop_assert_eq!(synthetic::measure(records), synthetic::measure(&shuffled));
    }
}

#[test]
fn an_answer_is_off_length_unless_its_count_is_exact_or_vouched_for() {
    use TokenCountSource::{Tokenized, Usage};
    for (source, finish, output_tokens, outcome, off) in [
        (Usage, Some(Finish::Length), 10, Outcome::Ok, false),
        (Usage, Some(Finish::Length), 11, Outcome::Ok, true),
        (Tokenized, Some(Finish::Length), 11, Outcome::Ok, false),
        (Tokenized, Some(Finish::Stop), 7, Outcome::Ok, true),
        (Usage, Some(Finish::Stop), 10, Outcome::Ok, false),
        (Usage, None, 7, Outcome::Ok, true),
        (Usage, None, 7, Outcome::Cancelled, false),
    ] {
        let record = RequestRecord {
            finish,
            output_tokens,
            outcome,
            token_count_source: source,
            ..golden(0)
        };
        assert_eq!(
            record.is_off_length(),
            off,
            "{source:?} {finish:?} {output_tokens} {outcome:?}"
        );
    }
}

#[test]
fn quantiles_do_not_forget_the_requests_that_never_answered() {
    let mut records: Vec<RequestRecord> = (0..1_000).map(|id| golden(id * 19 * MS)).collect();
    let silent = |record: &mut RequestRecord| {
        record.outcome = Outcome::Unfinished;
        record.chunk_ns.clear();
        record.chunk_tokens.clear();
        record.output_tokens = 0;
    };
    // Four of a hundred: the 95th percentile is still among the answered, the 99th is not.
    records.iter_mut().step_by(25).for_each(silent);
    let summary = measure(None, &records).summary;
    for metric in [&summary.ttft_s, &summary.e2e_s] {
        assert!(metric.p95.is_some());
        assert_eq!((metric.p99, metric.max), (None, None));
        let reason = &metric.null_reasons["p99"];
        assert!(reason.contains("40 of 1,000"), "{reason}");
    }
}
