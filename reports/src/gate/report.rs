//! What a gate found: the verdict, what it rests on, and every figure that went into it.
//!
//! Invariant: the report has no timestamps; the same figures give the same bytes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the schema that this build writes.
pub const GATE_SCHEMA_VERSION: u32 = 1;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Significantly better, by more than the margin.
    Better,
    /// The difference is smaller than the margin.
    Equivalent,
    /// A difference for the worse beyond the margin is excluded.
    NotWorse,
    /// Of two results that must be equal: they are, to the byte.
    Identical,
    /// Significantly worse, by more than the margin.
    Worse,
    /// Of two results that must be equal: they are not.
    Changed,
    /// The figures do not decide it.
    Inconclusive,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Equivalent => "equivalent",
            Self::NotWorse => "not worse",
            Self::Identical => "identical",
            Self::Worse => "worse",
            Self::Changed => "changed",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// Does the gate open? `None` when that is not decided.
    pub fn passes(self) -> Option<bool> {
        match self {
            Self::Better | Self::Equivalent | Self::NotWorse | Self::Identical => Some(true),
            Self::Worse | Self::Changed => Some(false),
            Self::Inconclusive => None,
        }
    }
}

/// How the two sides were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Byte by byte, of runs in virtual time.
    VirtualTime,
    /// Counted instructions.
    Instructions,
    /// Run in pairs, in random order.
    Paired,
    /// Stored runs, several of each.
    StoredRuns,
    /// One stored run of each.
    StoredSingle,
}

impl Tier {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::VirtualTime => "virtual time, byte by byte",
            Self::Instructions => "instruction counts",
            Self::Paired => "paired runs",
            Self::StoredRuns => "stored runs",
            Self::StoredSingle => "one stored run each",
        }
    }
}

/// A gate's finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateReport {
    /// [`GATE_SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The verdict over all metrics that decide.
    pub verdict: Verdict,
    /// Why it is not another one, and what a reader must know.
    pub reasons: Vec<String>,
    /// How the sides were compared.
    pub tier: Tier,
    /// What this way of comparing cannot see.
    pub weakness: Option<String>,
    /// The side that is held to be right.
    pub baseline: Side,
    /// The side under test.
    pub candidate: Side,
    /// Largest difference that does not matter, as a share: 0.05 for 5 %.
    pub margin: f64,
    /// Two-sided chance of an error of the test.
    pub alpha: f64,
    /// Seed of the order of runs.
    pub seed: Option<u64>,
    /// Each metric.
    pub metrics: Vec<MetricResult>,
    /// What differs, for tiers that compare exactly.
    pub changes: Vec<Change>,
    /// Every run, in the order in which they were made.
    pub runs: Vec<Run>,
}

/// One side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Side {
    /// The command, or the files.
    pub source: String,
    /// Runs that count.
    pub runs: usize,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricResult {
    /// As it was asked for.
    pub name: String,
    /// Unit of the figures, where it is known: `s` for seconds.
    pub unit: Option<String>,
    /// Is more of it better?
    pub more_is_better: bool,
    /// Does it decide, or is it shown for information?
    pub decides: bool,
    /// Median of the baseline's runs.
    pub baseline: f64,
    /// Median of the candidate's runs.
    pub candidate: f64,
    /// Candidate over baseline, estimated.
    pub ratio: f64,
    /// Interval of the ratio, of level `1 - alpha`.
    pub ratio_interval: Option<(f64, f64)>,
    /// Two-sided p-value of "no difference"; null where no test was made.
    pub p: Option<f64>,
    /// The same, Holm-corrected over the metrics that decide, or over those that do not.
    pub p_holm: Option<f64>,
    /// Of this metric alone.
    pub verdict: Verdict,
}

/// A value that differs between two results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// Where it is: a JSON pointer, the name of a count, a file and line.
    pub place: String,
    /// As the baseline has it; null if it has none.
    pub baseline: Option<String>,
    /// As the candidate has it; null if it has none.
    pub candidate: Option<String>,
    /// Candidate over baseline, for numbers.
    pub ratio: Option<f64>,
}

/// One run of a paired gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// `A` is the baseline, `B` the candidate.
    pub side: String,
    /// Pair from 1; 0 is the warm-up, which does not count.
    pub pair: usize,
    /// Figures by the name of the metric.
    pub figures: BTreeMap<String, f64>,
    /// Why the run does not count, if it was found INVALID.
    pub invalid: Option<String>,
}
