//! The llama forward pass over a paged cache.
//!
//! A batch is any mix of prefill chunks and decode rows of different sequences; their rows are
//! packed one after another and every matrix sees all of them at once. Keys and values of new
//! tokens are written to the cache before anything attends; in the last layer only the rows
//! whose logits are wanted go on. **Invariant.** The caller's block tables are checked before
//! the first write, and no two tokens of a batch go to the same place; who owns a block is not
//! checked.

use crate::batch::{ForwardError, Rows, SequenceStep, check};
use crate::config::{LlamaConfig, TensorSpec};
use crate::cpu::attention::{self, Queries, QueryRow};
use crate::cpu::memory::Memory;
use crate::cpu::pack::Format;
use crate::cpu::pool::Pool;
use crate::cpu::simd::Level;
use crate::cpu::vector::RmsNorm;
use crate::cpu::{Buffers, Cpu, Operation, Profile, Tally};
use crate::kv::{Element, KvCache, KvFormat, LayerCache, Parts, Placement};
use crate::linear::{Linear, Plan};
use crate::rope::{self, Rope};
use candle_core::quantized::{GgmlDType, QTensor};
use std::io;

/// The weights of a llama model, ready to run.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    memory: Memory,
    embedding: Linear,
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
    gate_up: Linear,
    down: Linear,
}

/// Logits of the steps that asked for them, in batch order.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    data: &'a [f32],
    vocab: usize,
}

impl<'a> Logits<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.vocab
    }

    /// The logits of row `i`, one per token of the vocabulary.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.vocab..(i + 1) * self.vocab]
    }
}

/// Why a model cannot be built.
#[derive(Debug)]
pub(crate) enum BuildError {
    Memory(io::Error),
    Tensor(candle_core::Error),
}

impl From<candle_core::Error> for BuildError {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(error)
    }
}

impl Llama {
    /// Builds a model. `format` gives a tensor's format, `read` yields each tensor once, in
    /// order, already checked against its spec.
    pub(crate) fn build<E: From<BuildError>>(
        config: LlamaConfig,
        tied: bool,
        rope_factors: Option<&[f32]>,
        format: impl Fn(&TensorSpec) -> GgmlDType,
        mut read: impl FnMut(&TensorSpec) -> Result<QTensor, E>,
    ) -> Result<Self, E> {
        let specs = config.tensors(tied);
        let plans = LayerPlan::all(&config, &specs, |spec| Format::of(format(spec)));
        let tables = [&specs[0]]
            .into_iter()
            .chain(specs.last().filter(|_| !tied));
        let tables: Vec<_> = tables
            .map(|spec| Plan::stack(&[(spec, Format::of(format(spec)))]))
            .collect();
        let planned = plans.iter().flat_map(LayerPlan::plans).chain(&tables);
        let memory = Memory::for_spans(planned.flat_map(Plan::spans));
        let mut memory = memory.map_err(BuildError::Memory)?;
        let embedding = tables[0].pack(&mut memory, &mut read)?;
        let layers = plans
            .iter()
            .map(|plan| plan.pack(&mut memory, &mut read))
            .collect::<Result<_, E>>()?;
        let norm = &specs[1 + LayerPlan::TENSORS * config.layers];
        let output_norm = vector_of(&read(norm)?).map_err(BuildError::Tensor)?;
        let head = match tables.get(1) {
            Some(table) => table.pack(&mut memory, &mut read)?,
            None => embedding.clone(),
        };
        let rope = Rope::new(&config, rope_factors);
        Ok(Self {
            config,
            memory,
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

    /// Runs the new tokens of every step and stores their keys and values in the cache. The
    /// logits stay in `cpu` until the next call.
    pub fn forward<'c>(
        &self,
        cpu: &'c mut Cpu,
        cache: &mut KvCache,
        batch: &[SequenceStep<'_>],
    ) -> Result<Logits<'c>, ForwardError> {
        if let Some(profile) = &mut cpu.profile {
            profile.begin();
        }
        if !cache.fits(&self.config) {
            return Err(ForwardError::ForeignCache);
        }
        check(&self.config, cache.blocks(), batch)?;
        let rows = Rows::pack(batch)?;
        cpu.buffers.logits.clear();
        if !rows.tokens.is_empty() {
            match cache.format() {
                KvFormat::F16 => self.run::<u16>(cpu, cache, &rows),
                KvFormat::F32 => self.run::<f32>(cpu, cache, &rows),
            }
        }
        Ok(Logits {
            data: &cpu.buffers.logits,
            vocab: self.config.vocab,
        })
    }

    fn run<E: Element>(&self, cpu: &mut Cpu, cache: &mut KvCache, rows: &Rows<'_>) {
        let Cpu {
            pool,
            level,
            buffers,
            profile,
        } = cpu;
        let width = self.config.hidden;
        buffers.hidden.resize(rows.tokens.len() * width, 0.0);
        for (out, token) in buffers.hidden.chunks_exact_mut(width).zip(&rows.tokens) {
            self.embedding.row(&self.memory, *token as usize, out);
        }
        let positions = rows.placement.rows().iter().map(|row| row.position);
        self.rope.angles(positions, &mut buffers.angles);
        let mut step = Step {
            model: self,
            pool,
            level: *level,
            buffers,
            profile,
        };
        lap(step.profile, Operation::Prepare, Tally::default);
        let sampled: Vec<_> = rows
            .sampled
            .iter()
            .map(|row| rows.placement.rows()[*row])
            .collect();
        for (index, layer) in self.layers.iter().enumerate() {
            let mut cache = cache.layer::<E>(index);
            step.project(layer, &mut cache, &rows.placement);
            let mut queries = rows.placement.rows();
            if index + 1 == self.layers.len() {
                step.keep(&rows.sampled);
                queries = &sampled;
            }
            if !queries.is_empty() {
                step.attend(layer, &cache, queries);
                step.feed_forward(layer);
            }
        }
        if !sampled.is_empty() {
            step.head();
        }
    }
}

/// Everything since the last lap was `operation` and did `work`, if somebody wants to know.
fn lap(profile: &mut Option<Profile>, operation: Operation, work: impl FnOnce() -> Tally) {
    if let Some(profile) = profile {
        profile.lap(operation, work());
    }
}

/// One forward pass under way.
struct Step<'a> {
    model: &'a Llama,
    pool: &'a mut Pool,
    level: Level,
    buffers: &'a mut Buffers,
    profile: &'a mut Option<Profile>,
}

impl Step<'_> {
    /// Rows in the residual stream.
    fn rows(&self) -> usize {
        self.buffers.hidden.len() / self.model.config.hidden
    }

    /// Norms the residual stream and brings it into the form `linear` reads.
    fn norm(&mut self, weight: &[f32], linear: &Linear) {
        let (width, epsilon) = (self.model.config.hidden, self.model.config.norm_epsilon);
        let (rows, level) = (self.rows(), self.level);
        let hidden = &self.buffers.hidden;
        let forms = linear.forms(level);
        let shape = [rows, width];
        self.buffers
            .input
            .fill(self.pool, level, forms, shape, |row, out| {
                let x = &hidden[row * width..(row + 1) * width];
                level.run(RmsNorm {
                    x,
                    weight,
                    epsilon,
                    out,
                });
            });
        lap(self.profile, Operation::Quantise, Tally::default);
    }

    /// Queries, keys and values of the new tokens; the latter two go to the cache.
    fn project<E: Element>(
        &mut self,
        layer: &Layer,
        cache: &mut LayerCache<'_, E>,
        placement: &Placement<'_>,
    ) {
        let config = &self.model.config;
        let (memory, rows) = (&self.model.memory, self.rows());
        self.norm(&layer.attention_norm, &layer.projections);
        let Buffers {
            input, projected, ..
        } = &mut *self.buffers;
        let cpu = (&mut *self.pool, self.level);
        layer.projections.store(cpu, memory, input, projected);
        lap(self.profile, Operation::Projections, || {
            layer.projections.work(rows)
        });

        let query_width = config.heads * config.head_dim;
        let key_width = config.kv_heads * config.head_dim;
        let values = query_width + key_width;
        let parts = Parts {
            keys: query_width..values,
            values: values..values + key_width,
        };
        let (pairs, head_dim) = (self.model.rope.pairs(), config.head_dim);
        let Buffers {
            projected, angles, ..
        } = &mut *self.buffers;
        cache.store(self.pool, placement, projected, &parts, |index, row| {
            let angles = &angles[index * pairs..(index + 1) * pairs];
            rope::rotate(&mut row[..values], head_dim, angles);
        });
        lap(self.profile, Operation::CacheWrite, Tally::default);
    }

    /// Drops the rows whose logits nobody wants.
    fn keep(&mut self, sampled: &[usize]) {
        let rows = self.rows();
        let Buffers {
            hidden, projected, ..
        } = &mut *self.buffers;
        for buffer in [hidden, projected] {
            let width = buffer.len() / rows;
            for (to, from) in sampled.iter().enumerate() {
                buffer.copy_within(from * width..(from + 1) * width, to * width);
            }
            buffer.truncate(sampled.len() * width);
        }
    }

    fn attend<E: Element>(
        &mut self,
        layer: &Layer,
        cache: &LayerCache<'_, E>,
        queries: &[QueryRow<'_>],
    ) {
        let config = &self.model.config;
        let memory = &self.model.memory;
        let width = config.heads * config.head_dim;
        let Buffers {
            input,
            attention,
            hidden,
            projected,
            attended,
            ..
        } = &mut *self.buffers;
        attended.resize(queries.len() * width, 0.0);
        let projections = Queries {
            data: projected,
            stride: layer.projections.outputs(),
            heads: config.heads,
        };
        let (pool, level) = (&mut *self.pool, self.level);
        attention::attend(
            pool,
            level,
            attention,
            cache,
            projections,
            queries,
            attended,
        );
        lap(self.profile, Operation::Attention, || {
            attention::work::<E>(config, queries)
        });
        let forms = layer.attention_output.forms(level);
        input.take(pool, level, forms, width, attended);
        lap(self.profile, Operation::Quantise, Tally::default);
        layer
            .attention_output
            .add((pool, level), memory, input, hidden);
        lap(self.profile, Operation::AttentionOutput, || {
            layer.attention_output.work(queries.len())
        });
    }

    fn feed_forward(&mut self, layer: &Layer) {
        let rows = self.rows();
        let memory = &self.model.memory;
        let width = self.model.config.feed_forward;
        self.norm(&layer.feed_forward_norm, &layer.gate_up);
        let Buffers {
            input,
            hidden,
            activated,
            ..
        } = &mut *self.buffers;
        let (pool, level) = (&mut *self.pool, self.level);
        layer.gate_up.store((pool, level), memory, input, activated);
        lap(self.profile, Operation::GateUp, || layer.gate_up.work(rows));
        input.take(pool, level, layer.down.forms(level), width, activated);
        lap(self.profile, Operation::Quantise, Tally::default);
        layer.down.add((pool, level), memory, input, hidden);
        lap(self.profile, Operation::Down, || layer.down.work(rows));
    }

    fn head(&mut self) {
        let (model, rows) = (self.model, self.rows());
        self.norm(&model.output_norm, &model.head);
        let Buffers { input, logits, .. } = &mut *self.buffers;
        let cpu = (&mut *self.pool, self.level);
        model.head.store(cpu, &model.memory, input, logits);
        lap(self.profile, Operation::Head, || model.head.work(rows));
    }
}

/// How the tensors of a layer are packed.
struct LayerPlan<'a> {
    norms: [&'a TensorSpec; 2],
    projections: Plan<'a>,
    attention_output: Plan<'a>,
    gate_up: Plan<'a>,
    down: Plan<'a>,
}

impl<'a> LayerPlan<'a> {
    /// Tensors of a layer.
    const TENSORS: usize = 9;

    fn all(
        config: &LlamaConfig,
        specs: &'a [TensorSpec],
        format: impl Fn(&TensorSpec) -> Format,
    ) -> Vec<Self> {
        let layers = specs[1..].chunks_exact(Self::TENSORS).take(config.layers);
        let plan = |tensors: &'a [TensorSpec]| {
            let with = |index: usize| (&tensors[index], format(&tensors[index]));
            Self {
                norms: [&tensors[0], &tensors[5]],
                projections: Plan::stack(&[with(1), with(2), with(3)]),
                attention_output: Plan::stack(&[with(4)]),
                gate_up: Plan::gate(with(6), with(7)),
                down: Plan::stack(&[with(8)]),
            }
        };
        layers.map(plan).collect()
    }

    fn plans(&self) -> [&Plan<'a>; 4] {
        [
            &self.projections,
            &self.attention_output,
            &self.gate_up,
            &self.down,
        ]
    }

    fn pack<E: From<BuildError>>(
        &self,
        memory: &mut Memory,
        mut read: impl FnMut(&TensorSpec) -> Result<QTensor, E>,
    ) -> Result<Layer, E> {
        let [attention_norm, feed_forward_norm] = self.norms;
        Ok(Layer {
            attention_norm: vector_of(&read(attention_norm)?).map_err(BuildError::Tensor)?,
            projections: self.projections.pack(memory, &mut read)?,
            attention_output: self.attention_output.pack(memory, &mut read)?,
            feed_forward_norm: vector_of(&read(feed_forward_norm)?).map_err(BuildError::Tensor)?,
            gate_up: self.gate_up.pack(memory, &mut read)?,
            down: self.down.pack(memory, &mut read)?,
        })
    }
}

fn vector_of(tensor: &QTensor) -> candle_core::Result<Vec<f32>> {
    tensor
        .dequantize(&candle_core::Device::Cpu)?
        .flatten_all()?
        .to_vec1()
}
