//! The llama forward pass through candle's kernels, on any device that candle knows.
//!
//! It takes the same batches as [`crate::Llama`] and gives the same logits, up to rounding: on the
//! CPU it is the baseline and the check of the kernels in `cpu`, elsewhere it is the engine. Rows
//! of all sequences pass through each matrix together, and attend in groups (`groups`), or in one
//! call of `FlashAttention` (`flash`).
//! **Invariant.** Between the upload of the batch and the reading of the logits nothing comes back
//! to the host. It does not promise the same bits in other company: kernels differ by batch size.

mod cache;
mod device;
#[cfg(any(test, feature = "flash-attn"))]
mod flash;
mod groups;
mod logits;
mod matrix;

pub use cache::TensorCache;
pub use device::{DeviceFacts, NoDevice, TensorDevice};
pub use logits::TensorLogits;

use crate::batch::{ForwardError, Rows, SequenceStep, check};
use crate::config::{LlamaConfig, TensorSpec};
use crate::kv::KvFormat;
use crate::rope::Rope;
use cache::{LayerCache, Plan, slots};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::rope_i;
use groups::Span;
use matrix::Matrix;

/// The weights of a llama model on a device, ready to run.
#[derive(Debug)]
pub struct TensorLlama {
    config: LlamaConfig,
    device: Device,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Tensor,
    head: Matrix,
    rope: Rope,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attention_output: Matrix,
    feed_forward_norm: Tensor,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// Tensors one after another, in the order of [`LlamaConfig::tensors`].
struct Reader<'a, I, F, R> {
    specs: I,
    format: F,
    read: R,
    device: &'a Device,
}

impl<'s, E, I, F, R> Reader<'_, I, F, R>
where
    E: From<candle_core::Error>,
    I: Iterator<Item = &'s TensorSpec>,
    F: Fn(&TensorSpec) -> GgmlDType,
    R: FnMut(&TensorSpec) -> Result<QTensor, E>,
{
    fn next(&mut self) -> Result<(QTensor, GgmlDType), E> {
        let spec = self.specs.next().expect("the configuration lists them all");
        Ok(((self.read)(spec)?, (self.format)(spec)))
    }

    fn matrix(&mut self) -> Result<Matrix, E> {
        let (tensor, format) = self.next()?;
        Ok(Matrix::new(tensor, format, self.device)?)
    }

    fn vector(&mut self) -> Result<Tensor, E> {
        let (tensor, _) = self.next()?;
        Ok(tensor.dequantize(&Device::Cpu)?.to_device(self.device)?)
    }
}

/// Rows that attend: the angles of their positions, and what each sees.
struct Queries {
    angles: Angles,
    plan: Plan,
}

/// Cosine and sine of every rotated pair, `[rows, 1, pairs]` each.
struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl TensorLlama {
    /// Builds a model on a device. `format` gives a tensor's format, `read` yields each tensor
    /// once, in order, already checked against its spec.
    pub(crate) fn build<E: From<candle_core::Error>>(
        device: Device,
        config: LlamaConfig,
        tied: bool,
        rope_factors: Option<&[f32]>,
        format: impl Fn(&TensorSpec) -> GgmlDType,
        read: impl FnMut(&TensorSpec) -> Result<QTensor, E>,
    ) -> Result<Self, E> {
        let specs = config.tensors(tied);
        let mut tensors = Reader {
            specs: specs.iter(),
            format,
            read,
            device: &device,
        };
        let embedding = tensors.matrix()?;
        let mut layers = Vec::with_capacity(config.layers);
        for _ in 0..config.layers {
            // fields are evaluated in the order they are written in, which is the specs' order
            layers.push(Layer {
                attention_norm: tensors.vector()?,
                query: tensors.matrix()?,
                key: tensors.matrix()?,
                value: tensors.matrix()?,
                attention_output: tensors.matrix()?,
                feed_forward_norm: tensors.vector()?,
                gate: tensors.matrix()?,
                up: tensors.matrix()?,
                down: tensors.matrix()?,
            });
        }
        let output_norm = tensors.vector()?;
        let head = if tied {
            embedding.clone()
        } else {
            tensors.matrix()?
        };
        let rope = Rope::new(&config, rope_factors);
        // another thread may run it
        device.synchronize()?;
        Ok(Self {
            config,
            device,
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

    /// An empty cache of `blocks` blocks on the model's device.
    pub fn cache(&self, blocks: usize, format: KvFormat) -> Result<TensorCache, ForwardError> {
        let cache = TensorCache::new(&self.config, blocks, format, &self.device)?;
        self.finish()?;
        Ok(cache)
    }

    /// Waits until the device has done all that this thread has asked for.
    pub fn finish(&self) -> Result<(), ForwardError> {
        Ok(self.device.synchronize()?)
    }

    /// Runs the new tokens of every step and stores their keys and values in the cache.
    pub fn forward(
        &self,
        cache: &mut TensorCache,
        batch: &[SequenceStep<'_>],
    ) -> Result<TensorLogits, ForwardError> {
        if !cache.fits(&self.config) {
            return Err(ForwardError::ForeignCache);
        }
        check(&self.config, cache.blocks(), batch)?;
        let rows = Rows::pack(batch)?;
        if rows.tokens.is_empty() {
            return Ok(TensorLogits(None));
        }
        // on the CPU, candle's threads stay awake between the operations of a step
        let run = || self.run(cache, batch, &rows);
        Ok(TensorLogits(self.device.with_context(run)?))
    }

    fn run(
        &self,
        cache: &TensorCache,
        batch: &[SequenceStep<'_>],
        rows: &Rows<'_>,
    ) -> candle_core::Result<Option<Tensor>> {
        let placed = rows.placement.rows();
        let count = placed.len();
        let (all, sampled) = self.queries(cache, batch, rows)?;
        let row = (count, self.config.kv_heads, self.config.head_dim);
        let slots = slots(placed.iter().copied(), &self.device)?;
        let slots = slots.reshape((count, 1, 1))?.expand(row)?.contiguous()?;
        let tokens = Tensor::from_slice(&rows.tokens, count, &self.device)?;
        let mut hidden = self.embedding.rows(&tokens)?;
        for (index, (layer, cache)) in self.layers.iter().zip(&cache.layers).enumerate() {
            let mut input = self.norm(&hidden, &layer.attention_norm)?;
            let keys = rotate(&layer.key.forward(&input)?.reshape(row)?, &all.angles)?;
            let values = layer.value.forward(&input)?.reshape(row)?;
            cache.store(&slots, &keys, &values)?;
            let mut queries = &all;
            if index + 1 == self.layers.len() {
                let Some((kept, last)) = &sampled else {
                    return Ok(None);
                };
                input = input.index_select(kept, 0)?;
                hidden = hidden.index_select(kept, 0)?;
                queries = last;
            }
            hidden = (hidden + self.attend(layer, cache, &input, queries)?)?;
            let input = self.norm(&hidden, &layer.feed_forward_norm)?;
            let gate = silu(&layer.gate.forward(&input)?)?;
            let activated = (gate * layer.up.forward(&input)?)?;
            hidden = (hidden + layer.down.forward(&activated)?)?;
        }
        let input = self.norm(&hidden, &self.output_norm)?;
        self.head.forward(&input).map(Some)
    }

    /// What attends in every layer but the last, and, if any, the rows that go on in the last one
    /// with what they see.
    fn queries(
        &self,
        cache: &TensorCache,
        batch: &[SequenceStep<'_>],
        rows: &Rows<'_>,
    ) -> candle_core::Result<(Queries, Option<(Tensor, Queries)>)> {
        let (mut spans, mut last, mut end) = (Vec::new(), Vec::new(), 0);
        for step in batch {
            let (start, tokens) = (end, step.start + step.tokens.len());
            end += step.tokens.len();
            let span = |rows| Span {
                rows,
                tokens,
                blocks: step.blocks,
            };
            spans.push(span(start..end));
            if step.logits {
                last.push(span(last.len()..last.len() + 1));
            }
        }
        let positions = rows.placement.rows().iter().map(|row| row.position);
        let positions: Vec<_> = positions.collect();
        let all = Queries {
            angles: self.angles(positions.iter().copied())?,
            plan: Plan::new(cache, spans.into_iter(), &self.device)?,
        };
        if last.is_empty() {
            return Ok((all, None));
        }
        let sampled = &rows.sampled;
        let kept: Vec<_> = sampled.iter().map(|row| *row as u32).collect();
        let kept = Tensor::from_vec(kept, sampled.len(), &self.device)?;
        let last = Queries {
            angles: self.angles(sampled.iter().map(|row| positions[*row]))?,
            plan: Plan::new(cache, last.into_iter(), &self.device)?,
        };
        Ok((all, Some((kept, last))))
    }

    fn angles(&self, positions: impl Iterator<Item = usize>) -> candle_core::Result<Angles> {
        let (mut angles, pairs) = (Vec::new(), self.rope.pairs());
        self.rope.angles(positions, &mut angles);
        let part = |index: usize| {
            let part: Vec<_> = angles.iter().map(|angle| angle[index]).collect();
            Tensor::from_vec(part, (angles.len() / pairs, 1, pairs), &self.device)
        };
        Ok(Angles {
            cos: part(0)?,
            sin: part(1)?,
        })
    }

    fn norm(&self, rows: &Tensor, weights: &Tensor) -> candle_core::Result<Tensor> {
        rms_norm(rows, weights, self.config.norm_epsilon)
    }

    fn attend(
        &self,
        layer: &Layer,
        cache: &LayerCache,
        input: &Tensor,
        queries: &Queries,
    ) -> candle_core::Result<Tensor> {
        let (heads, head_dim) = (self.config.heads, self.config.head_dim);
        let projected = layer.query.forward(input)?;
        let projected = projected.reshape((input.dim(0)?, heads, head_dim))?;
        let scale = 1.0 / (head_dim as f64).sqrt();
        let scaled = (rotate(&projected, &queries.angles)? * scale)?;
        let attended = queries.plan.attend(cache, &scaled)?;
        layer.attention_output.forward(&attended)
    }
}

/// Rotates every head, `[rows, heads, head_dim]`, by the angles of its row. To candle each row is
/// a sequence of one token with angles of its own.
fn rotate(rows: &Tensor, angles: &Angles) -> candle_core::Result<Tensor> {
    let shape = rows.dims3()?;
    let rotated = 2 * angles.cos.dim(2)?;
    let heads = rows.unsqueeze(2)?;
    let rotate = |heads: &Tensor| rope_i(heads, &angles.cos, &angles.sin);
    let heads = if rotated == shape.2 {
        rotate(&heads)?
    } else {
        let front = rotate(&heads.narrow(3, 0, rotated)?.contiguous()?)?;
        let tail = heads.narrow(3, rotated, shape.2 - rotated)?;
        Tensor::cat(&[front, tail], 3)?
    };
    heads.reshape(shape)
}
