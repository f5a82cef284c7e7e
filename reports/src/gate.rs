//! Did it get worse? What a gate finds, and the rules by which it judges.
//!
//! A metric is judged by the ratio candidate over baseline, on a logarithmic scale, so that a
//! doubling and a halving weigh the same; a margin of 5 % is the range from 1/1.05 to 1.05. With
//! the ratio turned so that above 1 is bad:
//!
//! - **worse**: the test against "no difference" is significant (Holm-corrected over the metrics
//!   that decide) and the estimate is above the margin;
//! - **better**: the same, mirrored;
//! - **equivalent**: the interval lies within the margin;
//! - **not worse**: the interval ends below the margin, so a slowdown that matters is excluded;
//! - **inconclusive**: anything else.
//!
//! **Invariant.** Where there is no difference, *worse* comes with a chance of at most `alpha / 2`.
//! What it does not do: run anything, or read files.

mod changes;
mod judge;
mod report;
mod shift;

pub use changes::{CountsError, InstructionCounts, changed_values, instructions};
pub use judge::{Figures, Interval, Rule, judge_pairs, judge_runs, judge_single, overall};
pub use report::{Change, GATE_SCHEMA_VERSION, GateReport, MetricResult, Run, Side, Tier, Verdict};
pub use shift::{MAX_VALUES, Shift, paired, pairs_needed, runs_needed, unpaired};
