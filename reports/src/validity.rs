//! VALID or INVALID, and why.
//!
//! Invariant: a reason is one plain sentence with the figures it rests on, and INVALID means that
//! at least one reason is given. A quantile that is null for want of requests is never a reason.
//! What it does not do: judge whether the system is fast. A slow system measured well is VALID.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::accumulate::MetricDrift;
use crate::record::TokenCountSource;
use crate::schema::{ClientError, Metric, SecondPoint, Summary};

/// Can the figures be trusted?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Yes.
    Valid,
    /// No; the reasons are beside it.
    Invalid,
}

/// The verdict and its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Validity {
    /// The verdict.
    pub verdict: Verdict,
    /// Empty exactly when the verdict is VALID.
    pub reasons: Vec<String>,
}

/// How requests were released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadKind {
    /// By the schedule, whatever the system does.
    Open,
    /// When an earlier request ends.
    Closed,
}

/// Whether the load was meant to stay the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evenness {
    /// It was: what changes is the system.
    Even,
    /// It rises and falls on purpose: a day, spikes, a trace.
    Uneven,
}

/// Requests that a window was to have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Requested {
    /// So many.
    pub requests: f64,
    /// Standard deviation of a right schedule.
    pub sd: f64,
}

/// Whether the workload asked for exact output lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputLength {
    /// End-of-text was to be ignored: every reply has the planned length.
    Exact,
    /// The model may stop earlier.
    UpTo,
}

/// Whether the run came to its planned end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// It did.
    Complete,
    /// It was interrupted.
    Interrupted,
}

/// What the verdict rests on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Did the run come to its end?
    pub completion: Completion,
    /// How requests were released.
    pub load: LoadKind,
    /// Was the load meant to stay the same?
    pub evenness: Evenness,
    /// Requests that the window was to have, where a rate was asked for.
    pub requested: Option<Requested>,
    /// Were exact lengths asked for?
    pub output_length: OutputLength,
    /// The figures.
    pub summary: &'a Summary,
    /// The generator's own error.
    pub client_error: &'a ClientError,
    /// Per second.
    pub series: &'a [SecondPoint],
    /// [`crate::Measurements::ttft_p50_any_s`].
    pub ttft_p50_any_s: Option<f64>,
    /// [`crate::Measurements::length_mismatches`].
    pub length_mismatches: u64,
    /// [`crate::Measurements::drifts`].
    pub drifts: &'a [MetricDrift],
    /// Conversations that a fault of the generator took out of the load.
    pub lost_conversations: u64,
}

/// A median send lag over this is the generator's fault.
const SEND_LAG_P50_S: f64 = 0.001;
/// A p99 send lag over this, and over [`SEND_LAG_TTFT_SHARE`] of the median TTFT, too.
const SEND_LAG_P99_S: f64 = 0.005;
const SEND_LAG_TTFT_SHARE: f64 = 0.10;
const SEND_LAG_WARN_SHARE: f64 = 0.01;
/// More turns than this that wait for the reply before them are no open loop any more.
const PUSHED_SHARE: f64 = 0.20;
const PUSHED_WARN_SHARE: f64 = 0.01;
const FAILED_SHARE: f64 = 0.01;
const UNFINISHED_SHARE: f64 = 0.05;
const LENGTH_SHARE: f64 = 0.01;
/// A load that is off by more, and by more than chance explains, is another load.
const REQUESTED_SHARE: f64 = 0.10;
const REQUESTED_SDS: f64 = 4.0;
/// The backlog test needs as many points in the window.
const BACKLOG_MIN_POINTS: usize = 12;

/// The verdict, and warnings that do not change it.
pub fn assess(inputs: Inputs<'_>) -> (Validity, Vec<String>) {
    let mut reasons = Vec::new();
    let mut warnings = Vec::new();
    if inputs.completion == Completion::Interrupted {
        reasons.push("The run was interrupted: the figures cover only a part of it.".to_owned());
    }
    if inputs.lost_conversations > 0 {
        reasons.push(format!(
            "{} conversations were lost to a fault of the load generator.",
            inputs.lost_conversations
        ));
    }
    served(inputs, &mut reasons);
    send_lag(inputs, &mut reasons, &mut warnings);
    requested(inputs, &mut reasons);
    let grows = match inputs.evenness {
        Evenness::Even => backlog_growth(inputs.series),
        Evenness::Uneven => uneven_growth(inputs.series),
    };
    if inputs.load == LoadKind::Open {
        reasons.extend(grows.map(|growth| growth.over_saturated(served_share(inputs))));
        pushed(inputs, &mut reasons, &mut warnings);
    } else {
        reasons.extend(grows.map(BacklogGrowth::still_rising));
    }
    // A queue that grows is reason enough, and latencies that drift are no news then.
    if grows.is_none() && inputs.evenness == Evenness::Even {
        reasons.extend(inputs.drifts.iter().map(unsteady));
    }
    lengths(inputs, &mut reasons);
    if let Some(preflight) = &inputs.client_error.preflight {
        let (against, doubts) = preflight.judge();
        reasons.extend(against);
        warnings.extend(doubts);
    }
    if let Some(why) = &inputs.client_error.preflight_skipped {
        warnings.push(format!("The client's own error was not measured ({why})."));
    }
    let verdict = if reasons.is_empty() {
        Verdict::Valid
    } else {
        Verdict::Invalid
    };
    (Validity { verdict, reasons }, warnings)
}

/// Turns that could not come at their instant, since the reply before them had not ended.
fn pushed(inputs: Inputs<'_>, reasons: &mut Vec<String>, warnings: &mut Vec<String>) {
    let (pushed, total) = (
        inputs.client_error.pushed_turns,
        inputs.summary.requests.total,
    );
    if total == 0 {
        return;
    }
    let share = pushed as f64 / total as f64;
    let figures = format!(
        "{pushed} of {total} turns ({}) had to wait for the reply before them, and count from then",
        percent(share)
    );
    if share > PUSHED_SHARE {
        reasons.push(format!(
            "The load was no open loop: {figures} (allowed {}); lower --rate or use --users.",
            percent(PUSHED_SHARE)
        ));
    } else if share > PUSHED_WARN_SHARE {
        warnings.push(format!("The load was not all open loop: {figures}."));
    }
}

/// The schedule that was asked for against the one that was made.
fn requested(inputs: Inputs<'_>, reasons: &mut Vec<String>) {
    let Some(Requested { requests, sd }) = inputs.requested else {
        return;
    };
    let intended = inputs.summary.requests.total as f64;
    let off = (intended - requests).abs();
    let whole = inputs.completion == Completion::Complete;
    if whole && off > REQUESTED_SHARE * requests && off > REQUESTED_SDS * sd {
        reasons.push(format!(
            "The load was not the one asked for: {intended} requests were intended in the window, \
             {requests:.0} were asked for ({}, allowed is a difference of {} or {:.0}).",
            percent(intended / requests),
            percent(REQUESTED_SHARE),
            REQUESTED_SDS * sd,
        ));
    }
}

/// Completions in the window over requests intended in it.
fn served_share(inputs: Inputs<'_>) -> f64 {
    inputs.summary.completed() as f64 / inputs.summary.requests.total.max(1) as f64
}

fn unsteady(found: &MetricDrift) -> String {
    let name = match found.metric {
        Metric::Tpot => "TPOT",
        _ => "TTFT",
    };
    let drift = found.drift;
    let (times, than) = if drift.ratio > 1.0 {
        (drift.ratio, "longer")
    } else {
        (1.0 / drift.ratio, "shorter")
    };
    if drift.is_endless() {
        return format!(
            "The window is not steady: {name} is {times:.2} times {than} in its first half than in \
             its second, and MSER-5 finds no part that is; measure for longer, or find out what \
             changes."
        );
    }
    format!(
        "The window is not steady: for its first {:.0} s ({} of the requests) {name} is {times:.2} \
         times {than} than for the rest (MSER-5); lengthen --warmup by as much.",
        found.from_s.ceil(),
        percent(drift.left_out),
    )
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn served(inputs: Inputs<'_>, reasons: &mut Vec<String>) {
    let summary = inputs.summary;
    let requests = summary.requests;
    let judged = requests.judged();
    if summary.completed() == 0 {
        reasons.push("No request finished in the measured window.".to_owned());
    }
    let share = |count: u64| {
        if judged == 0 {
            0.0
        } else {
            count as f64 / judged as f64
        }
    };
    let causes: Vec<String> = summary
        .failures
        .iter()
        .map(|(cause, count)| format!("{count} × {cause}"))
        .collect();
    if judged > 0 && requests.failed == judged {
        reasons.push(format!("Every request failed: {}.", causes.join(", ")));
    } else if share(requests.failed) > FAILED_SHARE {
        reasons.push(format!(
            "{} of {judged} requests failed ({}, allowed {}): {}.",
            requests.failed,
            percent(share(requests.failed)),
            percent(FAILED_SHARE),
            causes.join(", "),
        ));
    }
    if share(requests.unfinished) > UNFINISHED_SHARE {
        reasons.push(format!(
            "{} of {judged} requests had not finished at the end of the drain ({}, allowed {}): \
             the system is over-saturated; lower the load or give it a longer drain.",
            requests.unfinished,
            percent(share(requests.unfinished)),
            percent(UNFINISHED_SHARE),
        ));
    }
}

fn send_lag(inputs: Inputs<'_>, reasons: &mut Vec<String>, warnings: &mut Vec<String>) {
    let ms = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    let error = inputs.client_error;
    if let Some(p50) = error.send_lag_p50_s.filter(|&p50| p50 > SEND_LAG_P50_S) {
        reasons.push(format!(
            "The load generator was late: half of the requests were sent more than {} after their \
             intended instant (allowed {}).",
            ms(p50),
            ms(SEND_LAG_P50_S),
        ));
    }
    let (Some(p99), Some(ttft)) = (error.send_lag_p99_s, inputs.ttft_p50_any_s) else {
        return;
    };
    let figures = format!(
        "send lag p99 is {}, {} of TTFT p50 ({})",
        ms(p99),
        percent(p99 / ttft),
        ms(ttft)
    );
    if p99 > SEND_LAG_P99_S && p99 > SEND_LAG_TTFT_SHARE * ttft {
        reasons.push(format!(
            "The load generator was late: {figures}; allowed is {} or {}.",
            ms(SEND_LAG_P99_S),
            percent(SEND_LAG_TTFT_SHARE),
        ));
    } else if p99 > 0.0 && p99 >= SEND_LAG_WARN_SHARE * ttft {
        warnings.push(format!(
            "The load generator adds to the latencies: {figures}."
        ));
    }
}

fn lengths(inputs: Inputs<'_>, reasons: &mut Vec<String>) {
    let summary = inputs.summary;
    if summary
        .token_count_source
        .contains(&TokenCountSource::Chunks)
    {
        reasons.push(
            "The number of output tokens is unknown: the server gave no usage and no tokenizer was \
             at hand, so each chunk was taken for one token."
                .to_owned(),
        );
    }
    let ok = summary.requests.ok;
    let share = if ok == 0 {
        0.0
    } else {
        inputs.length_mismatches as f64 / ok as f64
    };
    if inputs.output_length == OutputLength::Exact && share > LENGTH_SHARE {
        reasons.push(format!(
            "{} of {ok} replies do not have the output length asked for ({}, allowed {}), although \
             end-of-text was to be ignored: the load was not the one described.",
            inputs.length_mismatches,
            percent(share),
            percent(LENGTH_SHARE),
        ));
    }
}

/// A queue that never settles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BacklogGrowth {
    /// Mean requests in flight in the first quarter of the window.
    pub first: f64,
    /// The same in the last quarter.
    pub last: f64,
    /// Theil-Sen slope, requests per second.
    pub slope: f64,
}

impl BacklogGrowth {
    fn over_saturated(self, served: f64) -> String {
        format!(
            "Over-saturated: demand exceeds capacity, {} of the requests asked for were completed. \
             The backlog grew from {:.1} to {:.1} requests in flight (by {:.2} per second), so the \
             latencies are those of a queue that never settles; lower --rate.",
            percent(served),
            self.first,
            self.last,
            self.slope,
        )
    }

    fn still_rising(self) -> String {
        format!(
            "The load was still rising: {:.1} requests were in flight in the first quarter of the \
             window and {:.1} in the last; lengthen --warmup until all users have come.",
            self.first, self.last,
        )
    }
}

/// Does the number of requests in flight keep growing through the window?
///
/// Yes when the mean of the last quarter is over that of the first by more than four of its square
/// roots and three (in flight varies at least like a Poisson number, and a busy server's queue
/// comes and goes within a window), the third quarter already lies above the first, and the
/// Theil-Sen slope (the median of the slopes between all pairs of points, which a burst cannot
/// move) explains at least half of the growth. Windows with fewer than twelve seconds are not
/// judged.
pub fn backlog_growth(series: &[SecondPoint]) -> Option<BacklogGrowth> {
    let inside: Vec<(f64, f64)> = series
        .iter()
        .filter(|point| point.in_window)
        .map(|point| (point.t_s as f64, point.in_flight as f64))
        .collect();
    if inside.len() < BACKLOG_MIN_POINTS {
        return None;
    }
    let mean = |points: &[(f64, f64)]| {
        points.iter().map(|&(_, flying)| flying).sum::<f64>() / points.len() as f64
    };
    let quarter = inside.len() / 4;
    let first = mean(&inside[..quarter]);
    let third = mean(&inside[inside.len() - 2 * quarter..inside.len() - quarter]);
    let last = mean(&inside[inside.len() - quarter..]);
    let slope = theil_sen(&thinned(&inside));
    let span = 0.75 * inside.len() as f64;
    let by = last - first;
    let grows = by > 4.0 * first.sqrt() + 3.0 && third > first && slope * span > 0.5 * by;
    grows.then_some(BacklogGrowth { first, last, slope })
}

/// The same for a load that rises and falls on purpose: does the time that requests spend in flight
/// (their number over their rate, by Little's law) keep growing?
///
/// Yes when it more than doubles from the first quarter of the window to the last, was longer in
/// the third already, and the last quarter has at least three requests more in flight than that
/// rate had at first. A queue that a peak leaves behind and a valley empties is what such a load is
/// for.
pub fn uneven_growth(series: &[SecondPoint]) -> Option<BacklogGrowth> {
    let inside: Vec<&SecondPoint> = series.iter().filter(|point| point.in_window).collect();
    if inside.len() < BACKLOG_MIN_POINTS {
        return None;
    }
    let quarter = inside.len() / 4;
    let of = |points: &[&SecondPoint]| {
        let flying: f64 = points.iter().map(|point| point.in_flight as f64).sum();
        let intended: f64 = points.iter().map(|point| point.intended as f64).sum();
        let n = points.len() as f64;
        (flying / n, flying / intended.max(1.0), intended / n)
    };
    let (first, first_s, _) = of(&inside[..quarter]);
    let (_, third_s, _) = of(&inside[inside.len() - 2 * quarter..inside.len() - quarter]);
    let (last, last_s, rate) = of(&inside[inside.len() - quarter..]);
    let grows = last_s > 2.0 * first_s && third_s > first_s && last > first_s * rate + 3.0;
    let slope = (last - first) / (0.75 * inside.len() as f64);
    grows.then_some(BacklogGrowth { first, last, slope })
}

/// At most 400 points, evenly taken: the slope is quadratic in their number.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points
        .iter()
        .copied()
        .step_by(points.len().div_ceil(400))
        .collect()
}

/// Median of the slopes between all pairs of points.
fn theil_sen(points: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::new();
    for (index, &(x0, y0)) in points.iter().enumerate() {
        for &(x1, y1) in points.iter().skip(index + 1) {
            slopes.push((y1 - y0) / (x1 - x0));
        }
    }
    slopes.sort_unstable_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(0.0)
}
