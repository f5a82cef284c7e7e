//! Lengths, pauses and stops: each value as the probability its law gives it.
//!
//! Invariant: scaling, rounding to whole tokens, clipping and caps are part of the law, so a right
//! sample is exactly uniform.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use reports::fit::{Check, Evidence, FitPlot, FitScale, FitShape};
use reports::goodness::{Test, share_fit, uniform_ks};

use super::super::distribution::Distribution;
use super::super::session::TurnPlan;
use super::super::spec::{Class, WorkloadSpec};
use super::{Sample, randomised};

const GROUP: &str = "lengths and pauses";
/// Fewest values of a class that are tested by themselves.
const LEAST_VALUES: usize = 30;
/// Bars of the plot.
const BARS: usize = 20;

/// What is transformed, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    UserFirst,
    UserNext,
    Injected,
    Output,
    Think,
    StopPoint,
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::UserFirst => "first message",
            Self::UserNext => "later messages",
            Self::Injected => "injected material",
            Self::Output => "answers",
            Self::Think => "pauses",
            Self::StopPoint => "where answers are stopped",
        }
    }
}

/// Transforms by field and class, and the shares of what happens or not.
pub(super) struct Transforms {
    uniform: BTreeMap<Field, BTreeMap<String, Vec<f64>>>,
    /// Name, how often, of how many, and how likely.
    shares: Vec<(String, u64, u64, f64)>,
}

/// A law of whole tokens: a law of numbers, scaled, rounded and capped.
struct Tokens<'a> {
    law: &'a Distribution,
    scale: f64,
    cap: u32,
}

impl Tokens<'_> {
    /// Numbers that become fewer than or as many as `tokens` are below this.
    fn edge(&self, tokens: u32) -> f64 {
        (f64::from(tokens) + 0.5) / self.scale
    }

    /// The probability below and up to a value.
    fn bounds(&self, tokens: u32, cdf_below: impl Fn(f64) -> f64) -> (f64, f64) {
        let upto = |tokens: u32| match tokens {
            0 => 0.0,
            tokens if tokens >= self.cap => 1.0,
            tokens => cdf_below(self.edge(tokens)),
        };
        (upto(tokens - 1), upto(tokens))
    }
}

pub(super) fn transforms(
    spec: &WorkloadSpec,
    samples: &[Sample],
    rng: &mut ChaCha8Rng,
) -> Transforms {
    let mut uniform: BTreeMap<Field, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    let mut injected = BTreeMap::new();
    let mut stopped = BTreeMap::new();
    for session in samples.iter().flat_map(|sample| &sample.sessions) {
        let class = &spec.classes[session.class];
        for (number, turn) in session.turns.iter().enumerate() {
            for (field, (below, upto)) in of_turn(spec, class, turn, number == 0) {
                let values = uniform.entry(field).or_default();
                let values = values.entry(class.id.clone()).or_default();
                values.push(randomised(below, upto, rng));
            }
            let count = |counts: &mut BTreeMap<usize, (u64, u64)>, hit: bool| {
                let (hits, all) = counts.entry(session.class).or_default();
                (*hits, *all) = (*hits + u64::from(hit), *all + 1);
            };
            if class.injected.is_some() {
                count(&mut injected, turn.injected_tokens > 0);
            }
            if spec.cancel && turn.output_tokens > 1 {
                count(&mut stopped, turn.cancel_after.is_some());
            }
        }
    }
    let mut shares = Vec::new();
    for (class, (hits, all)) in injected {
        let class = &spec.classes[class];
        let share = class
            .injected
            .as_ref()
            .map_or(0.0, |injected| injected.probability);
        shares.push((format!("{} with material", class.id), hits, all, share));
    }
    for (class, (hits, all)) in stopped {
        let class = &spec.classes[class];
        shares.push((format!("{} stopped", class.id), hits, all, class.p_cancel));
    }
    Transforms { uniform, shares }
}

/// The probabilities below and up to each value of a turn.
fn of_turn(
    spec: &WorkloadSpec,
    class: &Class,
    turn: &TurnPlan,
    first: bool,
) -> Vec<(Field, (f64, f64))> {
    let tokens = |law| Tokens {
        law,
        scale: spec.length_scale,
        cap: u32::MAX,
    };
    let (field, law) = if first {
        (Field::UserFirst, &class.user_first)
    } else {
        (Field::UserNext, &class.user_next)
    };
    let user = tokens(law);
    let of_user = user.bounds(turn.user_tokens, |x| user.law.cdf_below(x));
    let mut found = vec![(field, of_user)];
    if let Some(injected) = class.injected.as_ref().filter(|_| turn.injected_tokens > 0) {
        let law = tokens(&injected.tokens);
        let bounds = law.bounds(turn.injected_tokens, |x| law.law.cdf_below(x));
        found.push((Field::Injected, bounds));
    }
    let output = Tokens {
        cap: spec.max_output.unwrap_or(u32::MAX),
        ..tokens(&class.output)
    };
    let of_output = if class.output.is_ratio() {
        // All that is known of the number behind the user's tokens is that it was rounded to them.
        let least = if turn.user_tokens == 1 {
            0.0
        } else {
            user.edge(turn.user_tokens - 1)
        };
        let within = (least.max(law.least() * 0.999), user.edge(turn.user_tokens));
        output.bounds(turn.output_tokens, |x| {
            output.law.ratio_cdf_below(x, law, within)
        })
    } else {
        output.bounds(turn.output_tokens, |x| output.law.cdf_below(x))
    };
    found.push((Field::Output, of_output));
    found.push((Field::Think, pause(spec, class, turn.think_s)));
    if let Some(after) = turn.cancel_after {
        found.push((Field::StopPoint, stop_point(after, turn.output_tokens)));
    }
    found
}

fn pause(spec: &WorkloadSpec, class: &Class, think_s: f64) -> (f64, f64) {
    // With a scale of 0 all pauses are the same.
    let scaled = if spec.think_scale > 0.0 {
        think_s / spec.think_scale
    } else {
        f64::INFINITY
    };
    let thought = (
        class.think.cdf_below(scaled * (1.0 - 1e-12)),
        class.think.cdf(scaled * (1.0 + 1e-12)),
    );
    let thought = if spec.think_scale > 0.0 {
        thought
    } else {
        (0.0, 1.0)
    };
    let Some(resume) = &spec.resume else {
        return thought;
    };
    let (share, law) = (resume.probability, &resume.pause);
    let mixed = |thought: f64, resumed: f64| (1.0 - share) * thought + share * resumed;
    let below = law.cdf_below(think_s * (1.0 - 1e-12));
    (
        mixed(thought.0, below),
        mixed(thought.1, law.cdf(think_s * (1.0 + 1e-12))),
    )
}

/// An answer is stopped at a uniform share between a tenth and nine tenths.
fn stop_point(after: u32, output: u32) -> (f64, f64) {
    let n = f64::from(output);
    let upto = |tokens: u32| match tokens {
        0 => 0.0,
        tokens if tokens + 1 >= output => 1.0,
        tokens => (((f64::from(tokens) + 1.0) / n - 0.1) / 0.8).clamp(0.0, 1.0),
    };
    (upto(after - 1), upto(after))
}

pub(super) fn checks(found: &Transforms) -> Vec<Check> {
    let mut checks = Vec::new();
    for (field, classes) in &found.uniform {
        let mut pooled: Vec<f64> = classes.values().flatten().copied().collect();
        if pooled.len() < LEAST_VALUES {
            continue;
        }
        let name = field.name();
        checks.push(fit(
            format!("{name}, all classes (KS)"),
            uniform_ks(&mut pooled),
        ));
        let worst = classes
            .iter()
            .filter(|(_, values)| values.len() >= LEAST_VALUES)
            .map(|(class, values)| (class, uniform_ks(&mut values.clone())))
            .min_by(|a, b| a.1.p.total_cmp(&b.1.p));
        if let Some((class, test)) = worst.filter(|_| classes.len() > 1) {
            // The worst of several is worse than one.
            let test = test.worst_of(classes.len());
            checks.push(fit(format!("{name}, worst: {class}"), test));
        }
    }
    let worst = found.shares.iter().map(|(name, hits, all, share)| {
        let test = share_fit(*hits, *all, *share);
        (name, test, share)
    });
    if let Some((name, test, share)) = worst.min_by(|a, b| a.1.p.total_cmp(&b.1.p)) {
        let p = test.worst_of(found.shares.len()).p;
        let figures = (format!("{:.4}", test.statistic), format!("{share}"));
        let what = format!("shares, worst: {name}");
        checks.push(Check::new(GROUP, what, figures, Evidence::P(p)));
    }
    checks
}

fn fit(what: String, test: Test) -> Check {
    super::law(GROUP, what, test, "D")
}

/// The transforms of the lengths in bars of equal width.
pub(super) fn plot(found: &Transforms) -> FitPlot {
    let shown = [
        ("first message", Field::UserFirst),
        ("answers", Field::Output),
    ];
    let bars = |field: Field| -> Vec<(f64, f64)> {
        let classes = found.uniform.get(&field);
        let values: Vec<f64> = classes
            .into_iter()
            .flat_map(|c| c.values().flatten().copied())
            .collect();
        let mut counts = [0.0; BARS];
        for value in &values {
            counts[((value * BARS as f64) as usize).min(BARS - 1)] += 1.0;
        }
        let share = |(bar, count): (usize, &f64)| {
            (bar as f64 / BARS as f64, count / values.len().max(1) as f64)
        };
        counts
            .iter()
            .enumerate()
            .map(share)
            .chain([(1.0, 0.0)])
            .collect()
    };
    FitPlot {
        id: "lengths",
        title: "Lengths by the quantile of their law",
        caption:
            "Share of values in each twentieth of their law; a right generator has 5 % in each."
                .to_owned(),
        scales: (FitScale::Linear, FitScale::Linear),
        series: vec![
            (
                shown[0].0,
                FitShape::Line,
                bars(shown[0].1)[..BARS].to_vec(),
            ),
            (shown[1].0, FitShape::Bars, bars(shown[1].1)),
        ],
    }
}
