//! Does a generated load fit its specification? What `workloads check` runs.
//!
//! A [`Sample`] is made by the very code that makes a run's schedule, text aside; the tests know
//! the specification alone. Gaps are tested in operational time, lengths by randomised probability
//! integral transforms: a value is replaced by a uniform draw from the probability it stands for,
//! so that rounding and clipping, which would fail any naive test, are part of the law. All samples
//! of all seeds are tested together.
//!
//! Invariant: a check is a function of (specification, samples); its own randomness has a stream of
//! its own. What it does not do: judge whether the specification is like anything real.

mod arrivals;
mod lengths;
mod replayed;
mod structure;

use rand_chacha::ChaCha8Rng;
use reports::fit::{Check, Fact, Fit};

use super::rate::RateCurve;
use super::schedule::{OpenLoad, Pace, curve, session_starts};
use super::session::{
    PromptPlan, SessionPlan, TemplateOverhead, TurnPlan, held_tokens, plan_prompts, plan_session,
};
use super::spec::WorkloadSpec;
use crate::arrivals::Arrivals;
use crate::random::{Purpose, stream};

pub use replayed::check_replay;

/// The specification counts 8 tokens of chat template for each message.
const OVERHEAD: TemplateOverhead = TemplateOverhead {
    without_system: 8,
    with_system: 16,
    exchange: 16,
};

/// How large samples are made.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// A sample for each.
    pub seeds: Vec<u64>,
    /// Sessions in all samples together.
    pub sessions: u64,
    /// Requests per second.
    pub rate: f64,
    /// The process of session arrivals.
    pub arrivals: Arrivals,
}

/// What a generator made of a specification and a seed.
#[derive(Debug)]
pub struct Sample {
    /// The rate that it was to follow.
    pub curve: RateCurve,
    /// The span of the arrivals in seconds.
    pub span_s: (f64, f64),
    /// When sessions begin, in order.
    pub starts_s: Vec<f64>,
    /// The sessions, before any prompt is cut to fit.
    pub sessions: Vec<SessionPlan>,
}

impl Sample {
    /// The schedule of `sessions` sessions, more or less, as a run would have it.
    pub fn generate(spec: &WorkloadSpec, options: &CheckOptions, seed: u64) -> Self {
        // A check has no use for sessions that began before it.
        let spec = &WorkloadSpec {
            start_in_steady_state: false,
            ..spec.clone()
        };
        let share = options.sessions as f64 / options.seeds.len().max(1) as f64;
        let end_s = (share * spec.mean_turns() / options.rate).max(1.0);
        let curve = curve(spec, seed, spec.warmup_s, end_s);
        let load = OpenLoad {
            pace: Pace::Process {
                arrivals: options.arrivals,
                rate: options.rate,
            },
            curve: &curve,
            window_s: spec.warmup_s,
            end_s,
            max_requests: None,
        };
        let process = (options.arrivals, options.rate);
        let starts_s: Vec<f64> = session_starts(spec, seed, process, &load).collect();
        let numbers = 0..starts_s.len() as u64;
        let sessions = numbers
            .map(|index| plan_session(spec, seed, index))
            .collect();
        Self {
            span_s: (curve.start_s(), end_s),
            curve,
            starts_s,
            sessions,
        }
    }
}

/// Checks what the generator makes of a specification.
pub fn check_spec(spec: &WorkloadSpec, options: &CheckOptions) -> Fit {
    let make = |&seed: &u64| Sample::generate(spec, options, seed);
    let samples: Vec<Sample> = options.seeds.iter().map(make).collect();
    check_samples(spec, options, &samples)
}

/// Checks samples, whoever made them.
pub fn check_samples(spec: &WorkloadSpec, options: &CheckOptions, samples: &[Sample]) -> Fit {
    let mut rng = stream(
        options.seeds.first().copied().unwrap_or(0),
        Purpose::Check,
        0,
    );
    let arrivals = arrivals::Arrived::new(spec, options, samples, &mut rng);
    let lengths = lengths::transforms(spec, samples, &mut rng);
    let prompts = Prompts::new(spec, samples);
    let mut checks = arrivals.checks();
    checks.extend(lengths::checks(&lengths));
    checks.extend(structure::checks(spec, samples));
    checks.extend(structure::aggregates(spec, samples, &prompts));
    let sessions: usize = samples.iter().map(|sample| sample.sessions.len()).sum();
    let of = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let sample = format!(
        "{} of {}, {} at {} requests/s",
        of(sessions, "session"),
        of(samples.len(), "seed"),
        options.arrivals,
        options.rate
    );
    let mut fit = Fit::new(spec.name.clone(), sample, checks);
    fit.facts = prompts.facts(sessions);
    fit.plots = arrivals.plots();
    fit.plots.push(lengths::plot(&lengths));
    fit.plots.push(structure::turns_plot(spec, samples));
    fit.plots.push(prompts.plot());
    fit
}

/// A uniform draw from the probability between `below` and `upto`: the transform of a value whose
/// law has steps.
fn randomised(below: f64, upto: f64, rng: &mut ChaCha8Rng) -> f64 {
    use rand::Rng as _;
    below + (upto - below) * rng.random::<f64>()
}

/// The prompts of all samples.
struct Prompts {
    /// By session: mean values need to know who belongs together.
    sessions: Vec<Vec<(PromptPlan, u32)>>,
    held: Vec<u64>,
}

impl Prompts {
    fn new(spec: &WorkloadSpec, samples: &[Sample]) -> Self {
        let (mut sessions, mut held) = (Vec::new(), Vec::new());
        for session in samples.iter().flat_map(|sample| &sample.sessions) {
            let mut session = session.clone();
            let prompts = plan_prompts(spec, &mut session, OVERHEAD);
            let received = session.turns.iter().map(TurnPlan::received_tokens);
            let turns: Vec<_> = prompts.into_iter().zip(received).collect();
            held.push(held_tokens(spec, &turns));
            sessions.push(turns);
        }
        Self { sessions, held }
    }

    fn sorted(&self, value: fn(&(PromptPlan, u32)) -> u32) -> Vec<u64> {
        let turns = self.sessions.iter().flatten();
        let mut values: Vec<u64> = turns.map(|turn| u64::from(value(turn))).collect();
        values.sort_unstable();
        values
    }

    fn facts(&self, sessions: usize) -> Vec<Fact> {
        use reports::stats::{Quantile, nearest_rank};
        let (prompts, answers) = (self.sorted(|t| t.0.prompt_tokens), self.sorted(|t| t.1));
        let cut = self
            .sessions
            .iter()
            .flatten()
            .filter(|turn| turn.0.truncated)
            .count();
        let at = |values: &[u64], quantile| nearest_rank(values, quantile).unwrap_or_default();
        let three = |values: &[u64]| {
            let marks = [Quantile::P50, Quantile::P95, Quantile::P99];
            marks
                .map(|quantile| at(values, quantile).to_string())
                .join(" / ")
        };
        let held = self.held.iter().sum::<u64>() as f64 / prompts.iter().sum::<u64>() as f64;
        let fact = |name, value| Fact { name, value };
        vec![
            fact("sessions", sessions.to_string()),
            fact("requests", prompts.len().to_string()),
            fact("prompt tokens, p50 / p95 / p99", three(&prompts)),
            fact("answer tokens, p50 / p95 / p99", three(&answers)),
            fact("prompts cut to fit the context", cut.to_string()),
            fact("ideal prefix hit", format!("{held:.3}")),
        ]
    }

    fn plot(&self) -> reports::fit::FitPlot {
        use reports::fit::{FitPlot, FitScale, FitShape};
        let curve = |values: Vec<u64>| -> Vec<(f64, f64)> {
            let n = values.len();
            let place = |step: usize| (step * n.saturating_sub(1)) / 200;
            let point = |at: usize| (values[at].max(1) as f64, (at + 1) as f64 / n as f64);
            (0..=200)
                .map(place)
                .filter(|&at| at < n)
                .map(point)
                .collect()
        };
        FitPlot {
            id: "tokens",
            title: "Tokens of a request",
            caption: "Share of requests with at most so many tokens.".to_owned(),
            scales: (FitScale::Log, FitScale::Linear),
            series: vec![
                (
                    "prompt",
                    FitShape::Line,
                    curve(self.sorted(|t| t.0.prompt_tokens)),
                ),
                ("answer", FitShape::Line, curve(self.sorted(|t| t.1))),
            ],
        }
    }
}

/// Figures with an uncertainty, as a table has them.
fn plus_minus(value: f64, spread: f64) -> String {
    format!("{value:.3} ± {spread:.3}")
}

/// Checks in which a test of a law is the evidence.
fn law(group: &'static str, what: String, test: reports::goodness::Test, name: &str) -> Check {
    let found = format!("{name} = {:.4}", test.statistic);
    let evidence = reports::fit::Evidence::P(test.p);
    Check::new(group, what, (found, "the law".to_owned()), evidence)
}

#[cfg(test)]
mod tests;
