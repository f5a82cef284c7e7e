//! Every reason, and what is not one.

use reports::accumulate::Measurements;
use reports::schema::{RequestCounts, SecondPoint};
use reports::validity::{
    Completion, Evenness, Inputs, LoadKind, OutputLength, Verdict, assess, backlog_growth,
};
use reports::{Outcome, TokenCountSource};

use crate::synthetic::{self, Story};

/// A complete open loop that asks for nothing special.
pub(crate) fn inputs(found: &Measurements) -> Inputs<'_> {
    Inputs {
        completion: Completion::Complete,
        load: LoadKind::Open,
        evenness: Evenness::Even,
        requested: None,
        drifts: &found.drifts,
        output_length: OutputLength::Exact,
        summary: &found.summary,
        client_error: &found.client_error,
        series: &found.series,
        ttft_p50_any_s: found.ttft_p50_any_s,
        length_mismatches: found.length_mismatches,
        lost_conversations: 0,
    }
}

fn steady() -> Measurements {
    synthetic::measured(Story::Steady)
}

/// Changes a good run and expects exactly one reason with this text.
fn invalid(change: impl Fn(&mut Measurements), text: &str) {
    let mut found = steady();
    change(&mut found);
    let (validity, _) = assess(inputs(&found));
    assert_eq!(validity.verdict, Verdict::Invalid, "{text}");
    assert_eq!(validity.reasons.len(), 1, "{:?}", validity.reasons);
    assert!(validity.reasons[0].contains(text), "{:?}", validity.reasons);
}

#[test]
fn a_good_run_is_valid_even_with_null_quantiles() {
    let found = steady();
    assert!(found.summary.ttft_s.p999.is_none());
    let (validity, warnings) = assess(inputs(&found));
    assert_eq!(
        (validity.verdict, validity.reasons.len()),
        (Verdict::Valid, 0)
    );
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn each_reason_has_its_figures() {
    invalid(
        |m| m.client_error.pushed_turns = m.summary.requests.total / 4,
        "The load was no open loop",
    );
    invalid(
        |m| m.client_error.send_lag_p50_s = Some(0.0012),
        "more than 1.20 ms",
    );
    invalid(
        |m| m.client_error.send_lag_p99_s = Some(0.05),
        "send lag p99 is 50.00 ms",
    );
    invalid(
        |m| m.summary.requests.unfinished = 60,
        "60 of 854 requests had not finished",
    );
    invalid(
        |m| m.length_mismatches = 30,
        "30 of 848 replies do not have the output length",
    );
    invalid(
        |m| m.summary.token_count_source = vec![TokenCountSource::Chunks],
        "tokens is unknown",
    );
    invalid(
        |m| m.summary.request_rate.per_s = 0.0,
        "No request finished",
    );
    invalid(
        |m| m.summary.requests.failed = 20,
        "20 of 854 requests failed (2.3 %",
    );
}

#[test]
fn interruption_and_total_failure() {
    let mut found = steady();
    let interrupted = Inputs {
        completion: Completion::Interrupted,
        ..inputs(&found)
    };
    assert!(assess(interrupted).0.reasons[0].contains("interrupted"));
    found.summary.requests = RequestCounts {
        total: 10,
        failed: 8,
        cancelled: 2,
        ..RequestCounts::default()
    };
    found.summary.failures.insert("connect".to_owned(), 8);
    let reasons = assess(inputs(&found)).0.reasons;
    assert!(
        reasons
            .iter()
            .any(|reason| reason.starts_with("Every request failed: 8 × connect"))
    );
}

#[test]
fn a_small_lag_is_a_warning() {
    let mut found = steady();
    found.client_error.send_lag_p99_s = Some(0.004);
    let (validity, warnings) = assess(inputs(&found));
    assert_eq!(validity.verdict, Verdict::Valid);
    assert!(
        warnings[0].contains("send lag p99 is 4.00 ms"),
        "{warnings:?}"
    );
}

#[test]
fn shorter_replies_are_fine_when_they_were_allowed() {
    let mut found = steady();
    found.length_mismatches = 500;
    let free = Inputs {
        output_length: OutputLength::UpTo,
        ..inputs(&found)
    };
    assert_eq!(assess(free).0.verdict, Verdict::Valid);
}

#[test]
fn overload_is_told_from_load() {
    let found = synthetic::measured(Story::Overloaded);
    let reasons = assess(inputs(&found)).0.reasons.join("\n");
    assert!(reasons.contains("Over-saturated"), "{reasons}");
    assert!(reasons.contains("The backlog grew from"), "{reasons}");
    assert!(reasons.contains("lower --rate"), "{reasons}");
    let closed = Inputs {
        load: LoadKind::Closed,
        ..inputs(&found)
    };
    assert!(!assess(closed).0.reasons.join("\n").contains("backlog"));
    assert!(
        synthetic::records(Story::Overloaded)
            .iter()
            .any(|r| r.outcome == Outcome::Unfinished)
    );
}

fn flying(values: impl IntoIterator<Item = u64>) -> Vec<SecondPoint> {
    let point = |(t_s, in_flight)| SecondPoint {
        t_s: t_s as u64,
        in_window: true,
        in_flight,
        ..SecondPoint::default()
    };
    values.into_iter().enumerate().map(point).collect()
}

#[test]
fn backlog_needs_lasting_growth() {
    let grows = |values: Vec<u64>| backlog_growth(&flying(values)).is_some();
    assert!(grows((0..60).map(|t| 4 + t / 2).collect()), "steady growth");
    assert!(
        grows((0..60).map(|t| 4 + t / 2 + (t % 7) * 2).collect()),
        "growth with noise"
    );
    assert!(!grows((0..60).map(|t| 10 + (t * 7) % 5).collect()), "noise");
    assert!(
        !grows((0..60).map(|t| if t < 50 { 5 } else { 40 }).collect()),
        "a burst at the end"
    );
    assert!(
        !grows((0..60).map(|t| if t < 5 { 5 } else { 9 }).collect()),
        "one step up"
    );
    assert!(
        !grows((0..60).map(|t| t / 20).collect()),
        "two more requests"
    );
    assert!(
        !grows((0..11).map(|t| t * 10).collect()),
        "too short to tell"
    );
}
