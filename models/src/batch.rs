//! A batch of steps, as every forward pass takes it.
//!
//! **Invariant.** A batch that passes [`check`] and [`Rows::pack`] names only tokens, positions
//! and blocks that exist, and writes no place twice: a pass need not look again. Who owns a block
//! is not checked.

use crate::config::LlamaConfig;
use crate::kv::{BLOCK_TOKENS, Clash, Placement};

/// What one sequence adds to a batch. A sequence may add several steps that follow each other:
/// all keys and values of a batch are in the cache before anything attends.
#[derive(Clone, Copy, Debug)]
pub struct SequenceStep<'a> {
    /// New tokens, at least one.
    pub tokens: &'a [u32],
    /// Tokens of this sequence already in the cache.
    pub start: usize,
    /// Block table: covers at least `start + tokens.len()` tokens.
    pub blocks: &'a [u32],
    /// Whether the logits after the last of the new tokens are wanted.
    pub logits: bool,
}

/// Why a batch was refused or failed. A refused batch has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The cache was made for another model.
    #[error("the KV cache was made for a model of another shape")]
    ForeignCache,
    /// A step brings no tokens.
    #[error("step {step} has no tokens")]
    NoTokens {
        /// Index of the step in the batch.
        step: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("step {step}: token {token} is not in the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// Index of the step in the batch.
        step: usize,
        /// The token id.
        token: u32,
        /// Tokens of the vocabulary.
        vocab: usize,
    },
    /// The sequence would grow beyond the model's context.
    #[error("step {step}: {tokens} tokens exceed the context of {context}")]
    ContextExceeded {
        /// Index of the step in the batch.
        step: usize,
        /// Tokens the sequence would have.
        tokens: usize,
        /// The limit.
        context: usize,
    },
    /// The block table is shorter than the sequence.
    #[error("step {step}: {blocks} blocks cannot hold {tokens} tokens")]
    TableTooShort {
        /// Index of the step in the batch.
        step: usize,
        /// Blocks in the table.
        blocks: usize,
        /// Tokens to hold.
        tokens: usize,
    },
    /// A block id lies outside the cache.
    #[error("step {step}: block {block} lies outside the cache of {blocks} blocks")]
    UnknownBlock {
        /// Index of the step in the batch.
        step: usize,
        /// The block id.
        block: u32,
        /// Blocks in the cache.
        blocks: usize,
    },
    /// Two new tokens would be stored in the same place.
    #[error("step {step}: block {block} is written by another step too")]
    SharedBlock {
        /// Index of the step in the batch.
        step: usize,
        /// The block id.
        block: u32,
    },
    /// The device failed, or the tensor library refused an operation.
    #[error("the device cannot run the step")]
    Device(#[source] Box<candle_core::Error>),
}

impl From<candle_core::Error> for ForwardError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(Box::new(error))
    }
}

/// The new tokens of a batch, packed into rows.
pub(crate) struct Rows<'a> {
    pub(crate) tokens: Vec<u32>,
    pub(crate) placement: Placement<'a>,
    /// Rows whose logits are wanted.
    pub(crate) sampled: Vec<usize>,
}

impl<'a> Rows<'a> {
    pub(crate) fn pack(batch: &[SequenceStep<'a>]) -> Result<Self, ForwardError> {
        let mut tokens = Vec::new();
        let mut sampled = Vec::new();
        for step in batch {
            tokens.extend_from_slice(step.tokens);
            if step.logits {
                sampled.push(tokens.len() - 1);
            }
        }
        let steps = batch.iter();
        let places = steps.map(|step| (step.start..step.start + step.tokens.len(), step.blocks));
        let placement = Placement::new(places)
            .map_err(|Clash { step, block }| ForwardError::SharedBlock { step, block })?;
        Ok(Self {
            tokens,
            placement,
            sampled,
        })
    }
}

/// Refuses what would be wrong: `blocks` is how many the cache has.
pub(crate) fn check(
    config: &LlamaConfig,
    blocks: usize,
    batch: &[SequenceStep<'_>],
) -> Result<(), ForwardError> {
    let (vocab, context) = (config.vocab, config.context);
    let unknown = |token: &&u32| **token as usize >= vocab;
    for (step, sequence) in batch.iter().enumerate() {
        if sequence.tokens.is_empty() {
            return Err(ForwardError::NoTokens { step });
        }
        if let Some(&token) = sequence.tokens.iter().find(unknown) {
            return Err(ForwardError::UnknownToken { step, token, vocab });
        }
        let tokens = sequence.start.saturating_add(sequence.tokens.len());
        if tokens > context {
            return Err(ForwardError::ContextExceeded {
                step,
                tokens,
                context,
            });
        }
        let needed = tokens.div_ceil(BLOCK_TOKENS);
        if sequence.blocks.len() < needed {
            let blocks = sequence.blocks.len();
            return Err(ForwardError::TableTooShort {
                step,
                blocks,
                tokens,
            });
        }
        let used = &sequence.blocks[..needed];
        if let Some(&block) = used.iter().find(|&&block| block as usize >= blocks) {
            return Err(ForwardError::UnknownBlock {
                step,
                block,
                blocks,
            });
        }
    }
    Ok(())
}
