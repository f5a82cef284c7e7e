//! The llama forward pass over a paged cache.
//!
//! A batch is any mix of prefill chunks and decode rows of different sequences; their rows are
//! packed one after another and every matrix sees all of them at once. Keys and values of new
//! tokens are written to the cache before anything attends. **Invariant.** The caller's block
//! tables are checked against the cache before the first write; who owns a block is not.

use crate::attention::{self, Queries, QueryRow};
use crate::config::{LlamaConfig, TensorSpec};
use crate::kv::{BLOCK_TOKENS, KvCache, LayerCache};
use crate::linear::{self, Linear};
use crate::parallel;
use crate::rope::{self, Rope};
use crate::vector;
use candle_core::quantized::{QMatMul, QTensor};

/// The weights of a llama model, ready to run.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    embedding: QMatMul,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    head: Linear,
    rope: Rope,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values side by side.
    projections: Linear,
    attention_output: Linear,
    feed_forward_norm: Vec<f32>,
    /// Gate and up side by side.
    gate_up: Linear,
    down: Linear,
}

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

/// Logits of the steps that asked for them, in batch order.
#[derive(Clone, Debug)]
pub struct Logits {
    data: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.vocab
    }

    /// The logits of row `i`, one per token of the vocabulary.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.vocab..(i + 1) * self.vocab]
    }
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
    /// A matrix kernel failed.
    #[error("matrix kernel failed")]
    Kernel(#[from] candle_core::Error),
}

/// The new tokens of a batch, packed into rows.
struct Rows<'a> {
    tokens: Vec<u32>,
    queries: Vec<QueryRow<'a>>,
    angles: Vec<[f32; 2]>,
    /// Rows whose logits are wanted.
    sampled: Vec<usize>,
}

impl Llama {
    /// Builds a model; `read` yields each tensor once, already checked against its spec.
    pub(crate) fn build<E: From<candle_core::Error>>(
        config: LlamaConfig,
        tied: bool,
        rope_factors: Option<&[f32]>,
        mut read: impl FnMut(&TensorSpec) -> Result<QTensor, E>,
    ) -> Result<Self, E> {
        let specs = config.tensors(tied);
        let mut specs = specs.iter();
        let mut next = || {
            read(
                specs
                    .next()
                    .expect("the loop below mirrors the list of tensors"),
            )
        };
        let embedding = next()?;
        let embedding = if tied {
            QMatMul::from_qtensor(embedding)?
        } else {
            linear::table(embedding)
        };
        let mut layers = Vec::with_capacity(config.layers);
        for _ in 0..config.layers {
            layers.push(Layer {
                attention_norm: vector_of(&next()?)?,
                projections: Linear::stack(vec![next()?, next()?, next()?])?,
                attention_output: Linear::stack(vec![next()?])?,
                feed_forward_norm: vector_of(&next()?)?,
                gate_up: Linear::stack(vec![next()?, next()?])?,
                down: Linear::stack(vec![next()?])?,
            });
        }
        let output_norm = vector_of(&next()?)?;
        let head = if tied {
            Linear::shared(embedding.clone(), config.vocab, config.hidden)
        } else {
            Linear::stack(vec![next()?])?
        };
        let rope = Rope::new(&config, rope_factors);
        Ok(Self {
            config,
            embedding,
            layers,
            output_norm,
            head,
            rope,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Runs the new tokens of every step and stores their keys and values in the cache.
    pub fn forward(
        &self,
        cache: &mut KvCache,
        batch: &[SequenceStep<'_>],
    ) -> Result<Logits, ForwardError> {
        self.check(cache, batch)?;
        let rows = self.pack(batch);
        let vocab = self.config.vocab;
        if rows.tokens.is_empty() {
            return Ok(Logits {
                data: Vec::new(),
                vocab,
            });
        }
        let mut hidden = linear::gather(&self.embedding, &rows.tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.attention_part(layer, cache.layer(index), &rows, &mut hidden)?;
            self.feed_forward_part(layer, &mut hidden)?;
        }
        if rows.sampled.is_empty() {
            return Ok(Logits {
                data: Vec::new(),
                vocab,
            });
        }
        let width = self.config.hidden;
        let mut wanted = Vec::with_capacity(rows.sampled.len() * width);
        for row in &rows.sampled {
            wanted.extend_from_slice(&hidden[row * width..(row + 1) * width]);
        }
        let data = self.head.forward(self.norm(&wanted, &self.output_norm))?;
        Ok(Logits { data, vocab })
    }

    fn check(&self, cache: &KvCache, batch: &[SequenceStep<'_>]) -> Result<(), ForwardError> {
        if !cache.fits(&self.config) {
            return Err(ForwardError::ForeignCache);
        }
        let (vocab, context) = (self.config.vocab, self.config.context);
        for (step, sequence) in batch.iter().enumerate() {
            if sequence.tokens.is_empty() {
                return Err(ForwardError::NoTokens { step });
            }
            if let Some(&token) = sequence
                .tokens
                .iter()
                .find(|&&token| token as usize >= vocab)
            {
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
            let blocks = cache.blocks();
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

    fn pack<'a>(&self, batch: &[SequenceStep<'a>]) -> Rows<'a> {
        let mut tokens = Vec::new();
        let mut queries = Vec::new();
        let mut sampled = Vec::new();
        for step in batch {
            tokens.extend_from_slice(step.tokens);
            let positions = step.start..step.start + step.tokens.len();
            queries.extend(positions.map(|position| QueryRow {
                position,
                blocks: step.blocks,
            }));
            if step.logits {
                sampled.push(tokens.len() - 1);
            }
        }
        let angles = self.rope.angles(queries.iter().map(|row| row.position));
        Rows {
            tokens,
            queries,
            angles,
            sampled,
        }
    }

    fn attention_part(
        &self,
        layer: &Layer,
        cache: &mut LayerCache,
        rows: &Rows<'_>,
        hidden: &mut [f32],
    ) -> Result<(), ForwardError> {
        let config = &self.config;
        let query_width = config.heads * config.head_dim;
        let key_width = config.kv_heads * config.head_dim;
        let stride = layer.projections.outputs();
        let normed = self.norm(hidden, &layer.attention_norm);
        let mut projected = layer.projections.forward(normed)?;
        let pairs = self.rope.pairs();
        for (index, row) in projected.chunks_exact_mut(stride).enumerate() {
            let angles = &rows.angles[index * pairs..(index + 1) * pairs];
            let (rotated, values) = row.split_at_mut(query_width + key_width);
            rope::rotate(rotated, config.head_dim, angles);
            let QueryRow { position, blocks } = rows.queries[index];
            let block = blocks[position / BLOCK_TOKENS];
            cache.write(
                block,
                position % BLOCK_TOKENS,
                &rotated[query_width..],
                values,
            );
        }
        let mut attended = vec![0.0; rows.tokens.len() * query_width];
        let queries = Queries {
            data: &projected,
            stride,
            heads: config.heads,
        };
        attention::attend(cache, queries, &rows.queries, &mut attended);
        vector::add_assign(hidden, &layer.attention_output.forward(attended)?);
        Ok(())
    }

    fn feed_forward_part(&self, layer: &Layer, hidden: &mut [f32]) -> Result<(), ForwardError> {
        let width = self.config.feed_forward;
        let normed = self.norm(hidden, &layer.feed_forward_norm);
        let gate_up = layer.gate_up.forward(normed)?;
        let mut activated = vec![0.0; gate_up.len() / 2];
        parallel::for_each_chunk(&mut activated, width, width * 20, |row, out| {
            let (gate, up) = gate_up[row * 2 * width..(row + 1) * 2 * width].split_at(width);
            vector::silu_times(gate, up, out);
        });
        vector::add_assign(hidden, &layer.down.forward(activated)?);
        Ok(())
    }

    fn norm(&self, rows: &[f32], weight: &[f32]) -> Vec<f32> {
        let width = self.config.hidden;
        let mut out = vec![0.0; rows.len()];
        for (out, row) in out.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
            vector::rms_norm(row, weight, self.config.norm_epsilon, out);
        }
        out
    }
}

fn vector_of(tensor: &QTensor) -> candle_core::Result<Vec<f32>> {
    tensor
        .dequantize(&candle_core::Device::Cpu)?
        .flatten_all()?
        .to_vec1()
}
