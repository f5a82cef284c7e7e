//! Where the device's time goes: prompts or output tokens.
//!
//! Invariant: every nanosecond of a step is prefill or decode, none is both. A step of one kind
//! counts as that kind. Of a step with both, decode has what steps of as many sequences without
//! prompts take on average (of the nearest number seen), and prefill the rest: what the sequences
//! had to wait because of the prompts. What it does not do: count time between steps.

use std::collections::BTreeMap;

use super::Batch;
use crate::clock::Nanos;

/// Steps of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    steps: u64,
    ns: u64,
}

impl Tally {
    fn add(&mut self, took: Nanos) {
        self.steps += 1;
        self.ns += took.0;
    }

    fn less(self, other: Self) -> Self {
        Self {
            steps: self.steps - other.steps,
            ns: self.ns - other.ns,
        }
    }
}

/// Time of steps so far, by what they ran.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepTimes {
    prefill: Tally,
    /// By number of sequences.
    decode: BTreeMap<usize, Tally>,
    /// The same, of steps that ran prompts too.
    both: BTreeMap<usize, Tally>,
}

/// Device time by kind of work, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceSeconds {
    /// On prompts.
    pub prefill: f64,
    /// On output tokens.
    pub decode: f64,
    /// Steps.
    pub steps: u64,
}

impl StepTimes {
    /// Adds a step. Rows of one token continue an answer; a prompt's last single token is taken for
    /// one of them.
    pub(super) fn add(&mut self, batch: &Batch, took: Nanos) {
        let decodes = batch
            .rows
            .iter()
            .filter(|row| row.tokens.len() == 1)
            .count();
        if decodes == 0 {
            self.prefill.add(took);
        } else if decodes == batch.rows.len() {
            self.decode.entry(decodes).or_default().add(took);
        } else {
            self.both.entry(decodes).or_default().add(took);
        }
    }

    /// What came since an earlier state.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let less = |now: &BTreeMap<usize, Tally>, then: &BTreeMap<usize, Tally>| {
            let before = |sequences| then.get(sequences).copied().unwrap_or_default();
            now.iter()
                .map(|(sequences, tally)| (*sequences, tally.less(before(sequences))))
                .filter(|(_, tally)| tally.steps > 0)
                .collect()
        };
        Self {
            prefill: self.prefill.less(earlier.prefill),
            decode: less(&self.decode, &earlier.decode),
            both: less(&self.both, &earlier.both),
        }
    }

    /// Divided between prompts and output tokens.
    pub fn seconds(&self) -> DeviceSeconds {
        let (mut prefill, mut decode) = (self.prefill.ns as f64, 0.0);
        let mut steps = self.prefill.steps;
        for tally in self.decode.values() {
            decode += tally.ns as f64;
            steps += tally.steps;
        }
        for (&sequences, tally) in &self.both {
            let alone = self.decode_step_ns(sequences) * tally.steps as f64;
            let share = alone.min(tally.ns as f64);
            decode += share;
            prefill += tally.ns as f64 - share;
            steps += tally.steps;
        }
        DeviceSeconds {
            prefill: prefill / 1e9,
            decode: decode / 1e9,
            steps,
        }
    }

    /// Mean time of a step of so many sequences without prompts; of the nearest number seen.
    fn decode_step_ns(&self, sequences: usize) -> f64 {
        let nearest = self
            .decode
            .iter()
            .min_by_key(|(seen, _)| seen.abs_diff(sequences));
        nearest.map_or(0.0, |(_, tally)| tally.ns as f64 / tally.steps as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SequenceId;
    use super::*;

    fn batch(rows: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for (id, &tokens) in rows.iter().enumerate() {
            let id = SequenceId(id as u64);
            batch.push(id, &vec![1; tokens], [0].into_iter(), 0, None);
        }
        batch
    }

    #[test]
    fn mixed_steps_are_divided_by_what_decoding_takes_alone() {
        let mut times = StepTimes::default();
        times.add(&batch(&[64]), Nanos(1_000));
        let before = times.clone();
        times.add(&batch(&[64, 32]), Nanos(5_000));
        times.add(&batch(&[1, 1]), Nanos(300));
        times.add(&batch(&[1, 1]), Nanos(500));
        times.add(&batch(&[1, 1, 1]), Nanos(900));
        // Two decodes take 400 alone; four are nearest to three.
        times.add(&batch(&[1, 64, 1]), Nanos(2_400));
        times.add(&batch(&[1, 1, 1, 1, 8]), Nanos(1_000));
        // Faster with a prompt than without: decode has no more than all of it.
        times.add(&batch(&[1, 1, 1, 8]), Nanos(600));
        let found = times.since(&before).seconds();
        let ns = |seconds: f64| (seconds * 1e9).round() as u64;
        assert_eq!(ns(found.prefill), 5_000 + 2_000 + 100);
        assert_eq!(ns(found.decode), 300 + 500 + 900 + 400 + 900 + 600);
        assert_eq!(found.steps, 7);
        assert_eq!(times.seconds().steps, 8);
        assert_eq!(times.since(&times), StepTimes::default());
    }
}
