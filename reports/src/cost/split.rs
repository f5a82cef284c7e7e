//! How a bill is shared between input and output tokens.
//!
//! Invariant: the shares add up to one. The share of input is, in this order of preference,
//! measured: device seconds of prefill over those of prefill and decode; solved: the one `a·input +
//! b·output` that explains the busy windows of several runs with different ratios; assumed: one
//! output token costs so many input tokens, as on a price list. Which one is said.
//! What it does not do: price the memory that a cached token occupies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::{Quantity, World};
use crate::schema::{DeviceTime, Served};

/// Where the split comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitMethod {
    /// Device time of prefill and decode, as the engine measured it.
    DeviceTime,
    /// Solved from runs with different ratios of input to output.
    Solved,
    /// An assumed ratio of token prices.
    Assumed,
}

/// The share of input tokens in the bill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Split {
    /// Where it comes from.
    pub method: SplitMethod,
    /// Of the whole bill; output has the rest.
    pub input_share: f64,
    /// In words.
    pub detail: String,
}

/// Seconds of the device for one token, solved from several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenTimes {
    /// For an input token that no cache held.
    pub input_s: f64,
    /// For an output token.
    pub output_s: f64,
    /// Runs behind it.
    pub runs: u32,
}

/// Why the times cannot be solved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsolvable(String);

/// Least squares of `input·x + output·y = seconds` over runs `(input, output, seconds)`, relative
/// to each run's seconds. The device must have been busy for all of them.
pub fn solve(runs: &[(f64, f64, f64)]) -> Result<TokenTimes, Unsolvable> {
    let mut sums = [0.0; 5];
    for &(input, output, seconds) in runs {
        if !(seconds > 0.0 && input >= 0.0 && output >= 0.0) {
            return Err(Unsolvable("a run served nothing".to_owned()));
        }
        let (x, y) = (input / seconds, output / seconds);
        for (sum, value) in sums.iter_mut().zip([x * x, x * y, y * y, x, y]) {
            *sum += value;
        }
    }
    let [xx, xy, yy, x, y] = sums;
    let determinant = xx * yy - xy * xy;
    // Two runs whose ratios differ by a tenth give a relative determinant of about 0.0025.
    if runs.len() < 2 || determinant < 2.5e-3 * xx * yy {
        let why = "the runs need different ratios of input to output: at least two, well apart";
        return Err(Unsolvable(why.to_owned()));
    }
    let input_s = (x * yy - y * xy) / determinant;
    let output_s = (y * xx - x * xy) / determinant;
    if input_s < 0.0 || output_s < 0.0 {
        let why = format!(
            "the runs contradict each other ({input_s:.3e} s for an input token, {output_s:.3e} s \
             for an output token): was the device busy in all of them?"
        );
        return Err(Unsolvable(why));
    }
    Ok(TokenTimes {
        input_s,
        output_s,
        runs: runs.len() as u32,
    })
}

/// What a split is made from.
#[derive(Debug)]
pub(super) struct Basis<'a> {
    pub(super) device_time: Option<&'a DeviceTime>,
    pub(super) solved: Option<TokenTimes>,
    pub(super) output_weight: &'a Quantity,
    pub(super) cached_weight: &'a Quantity,
}

impl Basis<'_> {
    pub(super) fn method(&self) -> SplitMethod {
        match (self.device_time, self.solved) {
            (Some(time), _) if time.prefill_s + time.decode_s > 0.0 => SplitMethod::DeviceTime,
            (_, Some(_)) => SplitMethod::Solved,
            _ => SplitMethod::Assumed,
        }
    }

    /// `(share of input, price of a cached token over that of another input token)` in one world.
    pub(super) fn shares(&self, served: &Served, world: &mut World) -> (f64, f64) {
        let cached = served.cached_input_tokens.unwrap_or(0) as f64;
        let fresh = served.input_tokens as f64 - cached;
        let output = served.output_tokens as f64;
        let share = |input: f64, output: f64| {
            let sum = input + output;
            if sum > 0.0 { input / sum } else { 0.0 }
        };
        match (self.method(), self.device_time, self.solved) {
            (SplitMethod::DeviceTime, Some(time), _) => (share(time.prefill_s, time.decode_s), 0.0),
            (SplitMethod::Solved, _, Some(times)) => {
                (share(times.input_s * fresh, times.output_s * output), 0.0)
            }
            _ => {
                let weight = world.value(self.output_weight);
                let cached_weight = world.value(self.cached_weight);
                (
                    share(fresh + cached_weight * cached, weight * output),
                    cached_weight,
                )
            }
        }
    }

    pub(super) fn describe(&self, served: &Served) -> Split {
        let (input_share, _) = self.shares(served, &mut World::Mid);
        let detail = match (self.method(), self.device_time, self.solved) {
            (SplitMethod::DeviceTime, Some(time), _) => format!(
                "measured: {:.3} s of prefill and {:.3} s of decode on the device",
                time.prefill_s, time.decode_s
            ),
            (SplitMethod::Solved, _, Some(times)) => format!(
                "solved from {} runs: {:.3e} s for an input token, {:.3e} s for an output token",
                times.runs, times.input_s, times.output_s
            ),
            _ => format!(
                "assumed: an output token costs {} input tokens ({}, {})",
                self.output_weight.mid, self.output_weight.source, self.output_weight.date
            ),
        };
        Split {
            method: self.method(),
            input_share,
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_give_back_the_times_that_made_them() {
        let run = |input: f64, output: f64| (input, output, 2e-5 * input + 3e-3 * output);
        let times = solve(&[run(1e6, 1e3), run(2e5, 5e4), run(3e5, 2e4)]).expect("it is solvable");
        assert!((times.input_s / 2e-5 - 1.0).abs() < 1e-9);
        assert!((times.output_s / 3e-3 - 1.0).abs() < 1e-9);
        for (runs, expected) in [
            (vec![run(1e6, 1e4)], "different ratios"),
            (vec![run(1e6, 1e4), run(2e6, 2e4)], "different ratios"),
            (vec![(1e6, 1e3, 1.0), (1e3, 1e3, 2.0)], "contradict"),
            (vec![(0.0, 0.0, 0.0), run(1.0, 1.0)], "served nothing"),
        ] {
            let error = solve(&runs).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
