//! How a generated load fits its specification: what was tested, and what came of it.
//!
//! Invariant: a fit passes exactly when each of its checks does. Tests with a p-value share one
//! chance of a false alarm, [`FALSE_ALARM`], evenly (Bonferroni), so a right generator fails one
//! check of a thousand at most, however many tests there are.

use serde::Serialize;

/// Chance that a right generator fails.
pub const FALSE_ALARM: f64 = 0.001;

/// What a check rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// How likely a right generator is as far off.
    P(f64),
    /// Whether a figure is where it must be.
    Within(bool),
}

/// One thing that was tested.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// `arrivals`, `lengths` and the like.
    pub group: &'static str,
    /// What was tested.
    pub what: String,
    /// As it was found.
    pub found: String,
    /// As the specification has it.
    pub expected: String,
    /// What speaks for or against it.
    pub evidence: Evidence,
    /// Does it fit?
    pub passed: bool,
}

impl Check {
    /// A check that is judged with all others, by [`Fit::new`].
    pub fn new(
        group: &'static str,
        what: impl Into<String>,
        (found, expected): (String, String),
        evidence: Evidence,
    ) -> Self {
        Self {
            group,
            what: what.into(),
            found,
            expected,
            evidence,
            passed: false,
        }
    }
}

/// A fact about the sample that nothing expects.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    /// What.
    pub name: &'static str,
    /// How much.
    pub value: String,
}

/// How the points of a plot are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FitShape {
    /// A line.
    Line,
    /// Bars from each x to the next.
    Bars,
}

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FitScale {
    /// Any number, evenly.
    Linear,
    /// Any number, by its logarithm.
    Log,
    /// Seconds, by their logarithm.
    LogSeconds,
    /// Seconds since the start.
    Seconds,
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct FitPlot {
    /// Unique on the page.
    pub id: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// In a sentence.
    pub caption: String,
    /// The axes.
    pub scales: (FitScale, FitScale),
    /// Four at most.
    pub series: Vec<FitSeries>,
}

/// A series of a plot: its name, its shape and its points.
pub type FitSeries = (&'static str, FitShape, Vec<(f64, f64)>);

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// Which workload.
    pub workload: String,
    /// What was looked at.
    pub sample: String,
    /// Does all of it fit?
    pub passed: bool,
    /// A p-value below this fails.
    pub threshold: f64,
    /// One by one.
    pub checks: Vec<Check>,
    /// What else is known of the sample.
    pub facts: Vec<Fact>,
    /// For the page.
    #[serde(skip)]
    pub plots: Vec<FitPlot>,
}

impl Fit {
    /// Judges the checks.
    pub fn new(workload: String, sample: String, mut checks: Vec<Check>) -> Self {
        let tests = checks
            .iter()
            .filter(|check| matches!(check.evidence, Evidence::P(_)));
        let threshold = FALSE_ALARM / tests.count().max(1) as f64;
        for check in &mut checks {
            check.passed = match check.evidence {
                Evidence::P(p) => p >= threshold,
                Evidence::Within(inside) => inside,
            };
        }
        Self {
            workload,
            sample,
            passed: checks.iter().all(|check| check.passed),
            threshold,
            checks,
            facts: Vec::new(),
            plots: Vec::new(),
        }
    }
}
