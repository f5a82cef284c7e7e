//! Does a replay keep what its trace says?
//!
//! There is no law to fit: the trace is the specification. What can be wrong is what this project
//! adds, the content of prompts, so a part of the prompts is made and held against the block ids.

use std::collections::BTreeSet;

use reports::fit::{Check, Evidence, Fact, Fit, FitPlot, FitScale, FitShape};

use sha2::{Digest as _, Sha256};

use super::super::rate::RateCurve;
use super::super::replay::Replay;
use super::super::schedule::{OpenLoad, Pace, Schedule, Turn};
use super::super::source::Workload;
use crate::arrivals::Arrivals;

/// Prompts that are made, from the first on.
const MADE: usize = 300;
/// Tokens of made prompts together at most.
const MADE_TOKENS: usize = 3_000_000;
/// Tokens by which made prompts are compared.
const STRIDE: usize = 16;
/// The shares of shared tokens may differ by this: blocks are no multiple of the stride.
const SLACK: f64 = 0.02;

/// Checks the replay of a workload that is a trace.
pub fn check_replay(workload: &Workload, replay: &Replay) -> Fit {
    let end_s = f64::MAX;
    let pace = if replay.has_instants() {
        Pace::Trace { time_scale: 1.0 }
    } else {
        // Conversations come when they are told to; a second apart will do.
        let arrivals = Arrivals::Constant;
        Pace::Process {
            arrivals,
            rate: replay.mean_turns(),
        }
    };
    let end_s = if replay.has_instants() {
        end_s
    } else {
        replay.len() as f64
    };
    let curve = RateCurve::flat((0.0, 1.0));
    let schedule = replay.open(&OpenLoad {
        pace,
        curve: &curve,
        window_s: 0.0,
        end_s,
        max_requests: None,
    });
    let mut checks = vec![in_order(&schedule)];
    checks.extend(made(replay, &schedule));
    let sample = workload.description();
    let mut fit = Fit::new(workload.name(), sample, checks);
    fit.facts = facts(&schedule);
    fit.plots = vec![rate_plot(&schedule)];
    fit
}

fn turns(schedule: &Schedule) -> impl Iterator<Item = &Turn> {
    schedule.sessions.iter().flat_map(|session| &session.turns)
}

fn in_order(schedule: &Schedule) -> Check {
    let starts = schedule
        .sessions
        .iter()
        .map(|session| session.turns[0].nominal);
    let sorted = starts.is_sorted();
    let words = (schedule.sessions.len().to_string(), "by instant".to_owned());
    Check::new(
        "replay",
        "sessions in order",
        words,
        Evidence::Within(sorted),
    )
}

/// Makes the first prompts and looks at their lengths and at what they share.
fn made(replay: &Replay, schedule: &Schedule) -> Vec<Check> {
    let mut seen = BTreeSet::new();
    let (mut held, mut all, mut exact, mut count) = (0, 0, 0, 0);
    for turn in turns(schedule).take(MADE) {
        let Some(fixed) = turn.fixed.filter(|_| all < MADE_TOKENS) else {
            break;
        };
        let tokens = replay.prompt(fixed).tokens;
        exact += usize::from(tokens.len() as u32 == turn.prompt.prompt_tokens);
        let prefixes = prefixes(&tokens);
        held += STRIDE
            * prefixes
                .iter()
                .take_while(|prefix| seen.contains(*prefix))
                .count();
        all += tokens.len();
        count += 1;
        seen.extend(prefixes);
    }
    if count == 0 {
        return Vec::new();
    }
    let lengths = (format!("{exact} of {count}"), "all".to_owned());
    let mut checks = vec![Check::new(
        "replay",
        "prompts of the trace's length",
        lengths,
        Evidence::Within(exact == count),
    )];
    let sessions = &schedule.sessions[..count];
    if let Some(expected) = replay.ideal_hit(sessions) {
        let found = held as f64 / all as f64;
        let words = (format!("{found:.3}"), format!("{expected:.3} ± {SLACK}"));
        let inside = (found - expected).abs() <= SLACK;
        let what = format!("tokens shared by the first {count} prompts");
        checks.push(Check::new("replay", what, words, Evidence::Within(inside)));
    }
    checks
}

/// Digests of the beginnings of a prompt, a stride of tokens longer each.
fn prefixes(tokens: &[u32]) -> Vec<[u8; 32]> {
    let mut digest = Sha256::new();
    let longer = tokens.chunks_exact(STRIDE).map(|stride| {
        for token in stride {
            digest.update(token.to_le_bytes());
        }
        digest.clone().finalize().into()
    });
    longer.collect()
}

fn facts(schedule: &Schedule) -> Vec<Fact> {
    let found = &schedule.realised;
    let fact = |name, value: String| Fact { name, value };
    let number = |value: f64| format!("{value:.3}");
    let end_s = turns(schedule)
        .map(|turn| turn.nominal.as_secs_f64())
        .fold(0.0, f64::max);
    let mut facts = vec![
        fact("requests", found.requests.to_string()),
        fact("sessions", found.sessions.to_string()),
        fact(
            "requests per second",
            number(found.requests as f64 / end_s.max(1e-9)),
        ),
        fact(
            "CV of gaps",
            found.arrival_cv.map_or_else(|| "–".into(), number),
        ),
        fact(
            "prompt tokens, mean / p50 / p95",
            format!(
                "{:.0} / {} / {}",
                found.prompt_tokens_mean, found.prompt_tokens_p50, found.prompt_tokens_p95
            ),
        ),
        fact(
            "answer tokens, mean",
            format!("{:.0}", found.output_tokens_mean),
        ),
        fact(
            "ideal prefix hit",
            found.ideal_prefix_hit.map_or_else(|| "–".into(), number),
        ),
        fact(
            "prompts made longer for the template",
            found.lengthened.to_string(),
        ),
    ];
    let left_out: u64 = found.left_out.values().sum();
    facts.push(fact("records left out", left_out.to_string()));
    facts
}

fn rate_plot(schedule: &Schedule) -> FitPlot {
    let instants: Vec<f64> = turns(schedule)
        .map(|turn| turn.nominal.as_secs_f64())
        .collect();
    let end_s = instants.iter().copied().fold(1.0, f64::max);
    let width = end_s / 120.0;
    let mut counts = [0.0; 120];
    for instant in instants {
        counts[((instant / width) as usize).min(119)] += 1.0 / width;
    }
    let points = counts.iter().enumerate();
    let points = points
        .map(|(bin, rate)| ((bin as f64 + 0.5) * width, *rate))
        .collect();
    FitPlot {
        id: "rate",
        title: "Requests per second",
        caption: "In 120 parts of the trace.".to_owned(),
        scales: (FitScale::Seconds, FitScale::Linear),
        series: vec![("requests", FitShape::Line, points)],
    }
}
