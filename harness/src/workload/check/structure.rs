//! What sessions are made of: turns, classes, role cards, independence, and aggregates.
//!
//! Invariant: sessions are the unit. Requests of one session belong together, so the error of a
//! mean over requests is that of a ratio of sums over sessions.

use std::collections::BTreeMap;

use reports::fit::{Check, Evidence, FitPlot, FitScale, FitShape};
use reports::goodness::{Test, chi_square_fit, spearman};

use super::super::session::TurnPlan;
use super::super::spec::WorkloadSpec;
use super::{Prompts, Sample, law, plus_minus};

const GROUP: &str = "structure";
/// Answers in proportion to the message are at least so well ranked by it.
const LEAST_RATIO_RANK: f64 = 0.8;
/// Fewest pairs that a correlation is judged by.
const LEAST_PAIRS: usize = 50;
/// Aggregates may be off by this share besides their own error: the specification's are rounded.
const ROUNDING: f64 = 0.01;

pub(super) fn checks(spec: &WorkloadSpec, samples: &[Sample]) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(shares(spec, samples));
    checks.push(turns(spec, samples));
    checks.extend(cards(spec, samples));
    checks.extend(dependence(spec, samples));
    checks
}

fn sessions(samples: &[Sample]) -> impl Iterator<Item = &super::SessionPlan> + Clone {
    samples.iter().flat_map(|sample| &sample.sessions)
}

/// Sessions by class.
fn shares(spec: &WorkloadSpec, samples: &[Sample]) -> Option<Check> {
    let mut counts = vec![0_u64; spec.classes.len()];
    sessions(samples).for_each(|session| counts[session.class] += 1);
    let total: f64 = spec.classes.iter().map(|class| class.session_share).sum();
    let n = counts.iter().sum::<u64>() as f64;
    let wanted = spec
        .classes
        .iter()
        .map(|class| n * class.session_share / total);
    let fit = chi_square_fit(&counts, &wanted.collect::<Vec<f64>>());
    (counts.len() > 1).then(|| law(GROUP, "class shares (χ²)".into(), fit, "χ²"))
}

/// Turns of a session, by class: the statistics of all classes together.
fn turns(spec: &WorkloadSpec, samples: &[Sample]) -> Check {
    let mut worst = Test {
        statistic: 0.0,
        p: 1.0,
    };
    for (number, class) in spec.classes.iter().enumerate() {
        let law = spec.turns_of(class);
        let mut counts = vec![0_u64; law.max as usize];
        for session in sessions(samples).filter(|session| session.class == number) {
            if let Some(count) = counts.get_mut(session.turns.len() - 1) {
                *count += 1;
            }
        }
        let n = counts.iter().sum::<u64>() as f64;
        let exactly = |k: u32| n * (law.at_least(k) - law.at_least(k + 1));
        let expected: Vec<f64> = (1..=law.max).map(exactly).collect();
        let fit = chi_square_fit(&counts, &expected);
        if fit.p < worst.p {
            worst = fit;
        }
    }
    let worst = worst.worst_of(spec.classes.len());
    law(GROUP, "turns of a session, worst class".into(), worst, "χ²")
}

/// Role cards by popularity.
fn cards(spec: &WorkloadSpec, samples: &[Sample]) -> Option<Check> {
    let number = spec
        .classes
        .iter()
        .position(|class| class.persona.is_some())?;
    let persona = spec.classes[number].persona.as_ref()?;
    let pool = persona.pool as usize;
    let mut counts = vec![0_u64; pool];
    for session in sessions(samples).filter(|session| session.class == number) {
        let card = session.persona.map_or(1, |(card, _)| card);
        counts[(card as usize).clamp(1, pool) - 1] += 1;
    }
    let weight = |card: u32| f64::from(card).powf(-persona.zipf_s);
    let total: f64 = (1..=persona.pool).map(weight).sum();
    let n = counts.iter().sum::<u64>() as f64;
    let expected: Vec<f64> = (1..=persona.pool)
        .map(|card| n * weight(card) / total)
        .collect();
    let fit = chi_square_fit(&counts, &expected);
    Some(law(
        GROUP,
        "popularity of role cards (χ²)".into(),
        fit,
        "χ²",
    ))
}

/// Message, answer and pause of a turn must not depend on each other, except where an answer is in
/// proportion to its message; nor an answer on the one before it.
fn dependence(spec: &WorkloadSpec, samples: &[Sample]) -> Vec<Check> {
    type Pick = fn(&TurnPlan) -> f64;
    let message: Pick = |turn| f64::from(turn.user_tokens);
    let answer: Pick = |turn| f64::from(turn.output_tokens);
    let think: Pick = |turn| turn.think_s;
    let pairs: [(&str, Pick, Pick); 3] = [
        ("message and answer", message, answer),
        ("message and pause", message, think),
        ("answer and pause", answer, think),
    ];
    let mut checks = Vec::new();
    for (name, first, second) in pairs {
        let mut worst: Option<(String, Test, usize)> = None;
        for (number, class) in spec.classes.iter().enumerate() {
            // First and later messages have laws of their own; they are not to be mixed.
            let turns = sessions(samples)
                .filter(|s| s.class == number)
                .map(|s| &s.turns[0]);
            let values: Vec<(f64, f64)> = turns.map(|turn| (first(turn), second(turn))).collect();
            if values.len() < LEAST_PAIRS {
                continue;
            }
            let found = spearman(&values);
            if name == "message and answer" && class.output.is_ratio() {
                let what = format!("{name}, {} (Spearman)", class.id);
                let figures = (
                    format!("{:.3}", found.statistic),
                    format!("≥ {LEAST_RATIO_RANK}"),
                );
                let inside = found.statistic >= LEAST_RATIO_RANK;
                checks.push(Check::new(GROUP, what, figures, Evidence::Within(inside)));
                continue;
            }
            if worst.as_ref().is_none_or(|(_, test, _)| found.p < test.p) {
                worst = Some((class.id.clone(), found, values.len()));
            }
        }
        checks.extend(worst.map(|(class, test, count)| {
            let p = test.worst_of(spec.classes.len()).p;
            let figures = (
                format!("{:.4}", test.statistic),
                plus_minus(0.0, 1.0 / (count as f64).sqrt()),
            );
            let what = format!("{name}, worst: {class}");
            Check::new(GROUP, what, figures, Evidence::P(p))
        }));
    }
    checks.extend(successive(spec, samples));
    checks
}

/// Answers of one session, one after the other: within a class they are as good as drawn apart.
fn successive(spec: &WorkloadSpec, samples: &[Sample]) -> Option<Check> {
    let mut by_class: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
    for session in sessions(samples) {
        let apart = !spec.classes[session.class].output.is_ratio();
        if let [first, second, ..] = session.turns[..]
            && apart
        {
            let pair = (
                f64::from(first.output_tokens),
                f64::from(second.output_tokens),
            );
            by_class.entry(session.class).or_default().push(pair);
        }
    }
    let tests = by_class
        .iter()
        .filter(|(_, pairs)| pairs.len() >= LEAST_PAIRS);
    let tests: Vec<_> = tests
        .map(|(class, pairs)| (*class, spearman(pairs), pairs.len()))
        .collect();
    let count = tests.len();
    let (class, test, pairs) = tests.into_iter().min_by(|a, b| a.1.p.total_cmp(&b.1.p))?;
    let p = test.worst_of(count).p;
    let figures = (
        format!("{:.4}", test.statistic),
        plus_minus(0.0, 1.0 / (pairs as f64).sqrt()),
    );
    let what = format!("answers in a row, worst: {}", spec.classes[class].id);
    Some(Check::new(GROUP, what, figures, Evidence::P(p)))
}

/// The figures that the specification expects.
pub(super) fn aggregates(spec: &WorkloadSpec, samples: &[Sample], prompts: &Prompts) -> Vec<Check> {
    let Some(expected) = spec.expected else {
        return Vec::new();
    };
    let turns = |session: &[(super::PromptPlan, u32)]| session.len() as f64;
    let tokens = |session: &[(super::PromptPlan, u32)]| -> f64 {
        session
            .iter()
            .map(|turn| f64::from(turn.0.prompt_tokens))
            .sum()
    };
    let list = || prompts.sessions.iter().map(Vec::as_slice);
    let answered = list().map(|s| (s.iter().map(|t| f64::from(t.1)).sum::<f64>(), turns(s)));
    let stopped = sessions(samples).map(|session| {
        let stopped = session
            .turns
            .iter()
            .filter(|turn| turn.cancel_after.is_some());
        (stopped.count() as f64, session.turns.len() as f64)
    });
    let held = prompts
        .held
        .iter()
        .zip(list())
        .map(|(&held, s)| (held as f64, tokens(s)));
    let mut figures = vec![
        (
            "turns per session",
            ratio(list().map(|s| (turns(s), 1.0))),
            expected.turns_per_session,
        ),
        (
            "prompt tokens",
            ratio(list().map(|s| (tokens(s), turns(s)))),
            expected.prompt_tokens,
        ),
        ("answer tokens", ratio(answered), expected.output_tokens),
        ("ideal prefix hit", ratio(held), expected.ideal_prefix_hit),
    ];
    if spec.cancel {
        figures.push(("stopped by the user", ratio(stopped), expected.cancelled));
    }
    figures
        .into_iter()
        .map(|(what, (found, error), expected)| {
            // Four standard errors, and what the specification's own sample of 40,000 may be off.
            let slack = 4.0 * error * 1.2 + ROUNDING * expected;
            let inside = (found - expected).abs() <= slack;
            let words = (format!("{found:.4}"), format!("{expected} ± {slack:.3}"));
            Check::new("aggregates", what, words, Evidence::Within(inside))
        })
        .collect()
}

/// A ratio of sums and its standard error, by the sessions it is made of.
fn ratio(parts: impl Iterator<Item = (f64, f64)> + Clone) -> (f64, f64) {
    let (above, below, n) = parts
        .clone()
        .fold((0.0, 0.0, 0.0), |(above, below, n), (a, b)| {
            (above + a, below + b, n + 1.0)
        });
    let found: f64 = above / below;
    let off: f64 = parts.map(|(a, b)| (a - found * b).powi(2)).sum();
    let mean: f64 = below / n;
    (found, (off / n).sqrt() / mean / f64::sqrt(n))
}

/// How many sessions reach a turn.
pub(super) fn turns_plot(spec: &WorkloadSpec, samples: &[Sample]) -> FitPlot {
    let shown = spec
        .classes
        .iter()
        .map(|class| spec.turns_of(class).max)
        .max();
    let shown = shown.unwrap_or(1).clamp(2, 20);
    let lengths: Vec<usize> = sessions(samples)
        .map(|session| session.turns.len())
        .collect();
    let total: f64 = spec.classes.iter().map(|class| class.session_share).sum();
    let reach = |k: u32| {
        let reached = lengths.iter().filter(|&&turns| turns >= k as usize).count();
        (
            f64::from(k),
            (reached as f64 / lengths.len().max(1) as f64).max(1e-6),
        )
    };
    let wanted = |k: u32| {
        let classes = spec.classes.iter();
        let share = classes
            .map(|c| c.session_share * spec.turns_of(c).at_least(k))
            .sum::<f64>();
        (f64::from(k), (share / total).max(1e-6))
    };
    FitPlot {
        id: "turns",
        title: "Turns of a session",
        caption: "Share of sessions with at least so many turns.".to_owned(),
        scales: (FitScale::Linear, FitScale::Log),
        series: vec![
            ("found", FitShape::Line, (1..=shown).map(reach).collect()),
            (
                "expected",
                FitShape::Line,
                (1..=shown).map(wanted).collect(),
            ),
        ],
    }
}
