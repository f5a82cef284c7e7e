//! How long prompts and answers were, in bins that grow with the length.
//!
//! Invariant: bins are the same on every machine: single tokens up to 7, then four to an octave.
//! What it does not do: say what was asked for; `RealisedWorkload` does.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests whose length lies in a bin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LengthBin {
    /// Shortest length in tokens.
    pub from: u64,
    /// Longest.
    pub to: u64,
    /// Requests.
    pub requests: u64,
}

/// Counts lengths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lengths(BTreeMap<(u64, u64), u64>);

impl Lengths {
    pub(crate) fn add(&mut self, tokens: u64) {
        *self.0.entry(bin(tokens)).or_default() += 1;
    }

    /// The bins that hold something, rising.
    pub(crate) fn bins(&self) -> Vec<LengthBin> {
        let bin = |(&(from, to), &requests): (&(u64, u64), &u64)| LengthBin { from, to, requests };
        self.0.iter().map(bin).collect()
    }
}

/// First and last length of the bin of a length.
fn bin(tokens: u64) -> (u64, u64) {
    if tokens < 8 {
        return (tokens, tokens);
    }
    let shift = tokens.ilog2() - 2;
    let from = tokens >> shift << shift;
    (from, from + ((1_u64 << shift) - 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bins_are_a_quarter_of_an_octave() {
        let cases = [
            (0, (0, 0)),
            (7, (7, 7)),
            (8, (8, 9)),
            (9, (8, 9)),
            (10, (10, 11)),
            (15, (14, 15)),
            (16, (16, 19)),
            (1_000, (896, 1_023)),
            (1_024, (1_024, 1_279)),
        ];
        for (tokens, expected) in cases {
            assert_eq!(bin(tokens), expected, "{tokens}");
        }
    }

    proptest! {
        #[test]
        fn bins_hold_their_lengths_and_meet(tokens in 0..u64::MAX / 2) {
            let (from, to) = bin(tokens);
            prop_assert!(from <= tokens && tokens <= to);
            prop_assert_eq!(bin(from), bin(to));
            prop_assert_eq!(bin(to + 1).0, to + 1);
        }
    }
}
