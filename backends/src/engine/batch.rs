//! What an executor is given and what it gives back: plain integers, no tensors.
//!
//! Invariant: the rows of a batch cover `tokens` and `blocks` in order and without gaps; `outputs`
//! has one token for each row that samples, in row order.

use std::ops::Range;
use std::sync::Arc;

use models::{Draw, SamplingParams, SequenceStep};

/// A request as the engine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// One step of the device: chunks of prompts and single tokens of many sequences together.
/// Reused from step to step.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// One for each sequence in the step.
    pub rows: Vec<Row>,
    /// Token ids of all rows.
    pub tokens: Vec<u32>,
    /// Block tables of all rows.
    pub blocks: Vec<u32>,
}

/// One sequence's share of a step.
#[derive(Debug, Clone)]
pub struct Row {
    /// Whose it is.
    pub sequence: SequenceId,
    /// Its tokens, in [`Batch::tokens`].
    pub tokens: Range<usize>,
    /// Its block table, in [`Batch::blocks`]; covers `start + tokens.len()`.
    pub blocks: Range<usize>,
    /// Tokens of the sequence already in the cache.
    pub start: usize,
    /// Present when this step computes the sequence's last known token, so that a new one follows.
    pub sample: Option<Sample>,
}

/// How the next token of a row is drawn.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Parameters of the request.
    pub params: SamplingParams,
    /// How many tokens the request has put out already.
    pub output_index: u64,
    /// Tokens that may not be drawn: those that would end the answer too early.
    pub forbidden: Option<Arc<[u32]>>,
}

impl Batch {
    /// Empties it, keeping the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
        self.blocks.clear();
    }

    /// Rows that sample.
    pub fn samples(&self) -> usize {
        self.rows.iter().filter(|row| row.sample.is_some()).count()
    }

    /// The rows as the model's forward pass takes them.
    pub(crate) fn steps(&self) -> Vec<SequenceStep<'_>> {
        let step = |row: &Row| SequenceStep {
            tokens: &self.tokens[row.tokens.clone()],
            start: row.start,
            blocks: &self.blocks[row.blocks.clone()],
            logits: row.sample.is_some(),
        };
        self.rows.iter().map(step).collect()
    }

    /// What is drawn, for each row that samples.
    pub(crate) fn draws(&self) -> Vec<Draw<'_>> {
        let samples = self.rows.iter().filter_map(|row| row.sample.as_ref());
        let draws = samples.map(|sample| Draw {
            params: sample.params,
            output_index: sample.output_index,
            forbidden: sample.forbidden.as_deref().unwrap_or_default(),
        });
        draws.collect()
    }

    pub(super) fn push(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        blocks: impl Iterator<Item = u32>,
        start: usize,
        sample: Option<Sample>,
    ) {
        let (first_token, first_block) = (self.tokens.len(), self.blocks.len());
        self.tokens.extend_from_slice(tokens);
        self.blocks.extend(blocks);
        self.rows.push(Row {
            sequence,
            tokens: first_token..self.tokens.len(),
            blocks: first_block..self.blocks.len(),
            start,
            sample,
        });
    }
}

/// What a step gave.
#[derive(Debug, Default, Clone)]
pub struct StepOutput {
    /// The drawn token of each sampling row, in row order.
    pub tokens: Vec<u32>,
}
