//! The paged key/value cache: fixed blocks of [`BLOCK_TOKENS`] tokens, handed out by the caller.
//!
//! Within a block keys are stored dimension by dimension, so that the scores of all its tokens
//! are computed side by side; values are stored token by token, padded to whole vectors. Keys
//! and values of one head of a block lie together. **Invariant.** A block holds the same token
//! range in every layer. The cache does not know which blocks are in use, by whom, or how full
//! they are.

use crate::config::LlamaConfig;
use crate::cpu::attention::QueryRow;
use crate::cpu::memory::{Memory, Span};
use crate::cpu::pool::{Pool, Shared};
use crate::cpu::simd::{ROWS, Simd};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::io;
use std::ops::Range;

/// Tokens per block of the cache.
pub const BLOCK_TOKENS: usize = 32;

/// In which format keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// Half precision, as servers keep them.
    #[default]
    F16,
    /// Single precision: twice the memory, and the reference for accuracy.
    F32,
}

/// Keys and values of every layer.
#[derive(Debug)]
pub struct KvCache {
    memory: Memory,
    layers: Vec<Span>,
    shape: BlockShape,
    format: KvFormat,
    blocks: usize,
}

impl KvCache {
    /// An empty cache of `blocks` blocks. All its memory is committed here, not page by page in
    /// the middle of a measurement; a slot that is read before it is written gives NaN, not a
    /// plausible number.
    pub fn new(config: &LlamaConfig, blocks: usize, format: KvFormat) -> io::Result<Self> {
        let shape = BlockShape::of(config);
        let bytes = blocks * shape.elements() * format.bytes();
        let mut memory = Memory::for_spans((0..config.layers).map(|_| bytes))?;
        let layers: Vec<_> = (0..config.layers).map(|_| memory.take(bytes)).collect();
        for span in &layers {
            // all bits set is NaN in every format
            memory.bytes_mut(*span).fill(0xff);
        }
        Ok(Self {
            memory,
            layers,
            shape,
            format,
            blocks,
        })
    }

    /// Bytes of one block over all layers.
    pub fn bytes_per_block(config: &LlamaConfig, format: KvFormat) -> usize {
        config.layers * BlockShape::of(config).elements() * format.bytes()
    }

    /// Blocks of the cache.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn format(&self) -> KvFormat {
        self.format
    }

    pub(crate) fn fits(&self, config: &LlamaConfig) -> bool {
        self.layers.len() == config.layers && self.shape == BlockShape::of(config)
    }

    pub(crate) fn layer<E: Element>(&mut self, index: usize) -> LayerCache<'_, E> {
        let elements = bytemuck::cast_slice_mut(self.memory.bytes_mut(self.layers[index]));
        LayerCache {
            elements,
            shape: self.shape,
        }
    }
}

impl KvFormat {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// The name a report uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "F16",
            Self::F32 => "F32",
        }
    }
}

/// A number as the cache keeps it.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    fn load<S: Simd>(simd: S, row: &[Self; ROWS], part: usize) -> S::F;
    fn convert(from: &[f32], to: &mut [Self]);
}

/// The bits of a half-precision number.
impl Element for u16 {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn load<S: Simd>(simd: S, row: &[Self; ROWS], part: usize) -> S::F {
        simd.load_f16(row, part)
    }

    fn convert(from: &[f32], to: &mut [Self]) {
        let to: &mut [f16] = bytemuck::cast_slice_mut(to);
        to.convert_from_f32_slice(from);
    }
}

impl Element for f32 {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn load<S: Simd>(simd: S, row: &[Self; ROWS], part: usize) -> S::F {
        simd.load(row, part)
    }

    fn convert(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

/// The extent of one block in one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BlockShape {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// `head_dim` rounded up to whole vectors: the distance between two values.
    pub(crate) value_stride: usize,
}

impl BlockShape {
    pub(crate) fn of(config: &LlamaConfig) -> Self {
        Self {
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            value_stride: config.head_dim.next_multiple_of(ROWS),
        }
    }

    fn keys(self) -> usize {
        self.head_dim * BLOCK_TOKENS
    }

    fn head(self) -> usize {
        self.keys() + self.value_stride * BLOCK_TOKENS
    }

    fn elements(self) -> usize {
        self.kv_heads * self.head()
    }
}

/// The keys and values of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache<'a, E> {
    elements: &'a mut [E],
    pub(crate) shape: BlockShape,
}

impl<E: Element> LayerCache<'_, E> {
    /// For threads that write different tokens.
    fn writer(&mut self) -> Writer<'_, E> {
        Writer {
            elements: Shared::new(self.elements),
            shape: self.shape,
        }
    }

    /// Keys of one head of one block, one row of tokens per dimension, and values, one row of
    /// `value_stride` per token.
    #[inline]
    pub(crate) fn head(&self, block: u32, head: usize) -> (&[[E; BLOCK_TOKENS]], &[E]) {
        let shape = self.shape;
        let start = block as usize * shape.elements() + head * shape.head();
        let (keys, values) = self.elements[start..start + shape.head()].split_at(shape.keys());
        (keys.as_chunks().0, values)
    }
}

/// Where the new tokens of a batch go: one row per token, and no two to the same place.
#[derive(Debug)]
pub(crate) struct Placement<'a> {
    rows: Vec<QueryRow<'a>>,
}

/// Two steps of a batch would write to one block.
#[derive(Debug, PartialEq)]
pub(crate) struct Clash {
    pub(crate) step: usize,
    pub(crate) block: u32,
}

impl<'a> Placement<'a> {
    /// Places the tokens of each step: positions and block table.
    pub(crate) fn new(
        steps: impl Iterator<Item = (Range<usize>, &'a [u32])> + Clone,
    ) -> Result<Self, Clash> {
        let mut written = Vec::new();
        for (step, (positions, blocks)) in steps.clone().enumerate() {
            let (start, end) = (positions.start, positions.end);
            let touched = start / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS);
            for (index, &block) in touched.clone().zip(&blocks[touched]) {
                let first = start.max(index * BLOCK_TOKENS) % BLOCK_TOKENS;
                let last = end.min((index + 1) * BLOCK_TOKENS) - index * BLOCK_TOKENS;
                written.push((block, first, last, step));
            }
        }
        written.sort_unstable();
        for pair in written.windows(2) {
            let ((block, _, end, _), (other, start, _, step)) = (pair[0], pair[1]);
            if block == other && start < end {
                return Err(Clash { step, block });
            }
        }
        let rows = steps.flat_map(|(positions, blocks)| {
            positions.map(move |position| QueryRow { position, blocks })
        });
        Ok(Self {
            rows: rows.collect(),
        })
    }

    /// One for each token of the batch.
    pub(crate) fn rows(&self) -> &[QueryRow<'a>] {
        &self.rows
    }
}

/// Which part of a row of activations is keys, and which values.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) keys: Range<usize>,
    pub(crate) values: Range<usize>,
}

impl<E: Element> LayerCache<'_, E> {
    /// Stores keys and values of every placed row, after `rotate(index, row)` has worked on it.
    #[expect(unsafe_code, reason = "threads write different tokens of one cache")]
    pub(crate) fn store(
        &mut self,
        pool: &mut Pool,
        placement: &Placement<'_>,
        activations: &mut [f32],
        parts: &Parts,
        rotate: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let rows = placement.rows();
        let stride = activations.len() / rows.len();
        let work = activations.len() * 4;
        let activations = Shared::new(activations);
        let writer = self.writer();
        pool.run(rows.len(), work, |_, range| {
            for index in range {
                // SAFETY: each row is one thread's.
                let row = unsafe { activations.part(index * stride..(index + 1) * stride) };
                rotate(index, row);
                let QueryRow { position, blocks } = rows[index];
                let (block, slot) = (blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
                let (key, value) = (&row[parts.keys.clone()], &row[parts.values.clone()]);
                // SAFETY: a placement has a place of its own for every row.
                unsafe { writer.write(block, slot, key, value) };
            }
        });
    }
}

/// Stores keys and values.
#[derive(Clone, Copy, Debug)]
struct Writer<'a, E> {
    elements: Shared<'a, E>,
    shape: BlockShape,
}

impl<E: Element> Writer<'_, E> {
    /// Stores the key and value rows (all heads) of one token.
    ///
    /// # Safety
    /// Nobody else writes the same slot of the same block at the same time, and nobody reads.
    #[expect(unsafe_code, reason = "threads write different tokens of one cache")]
    unsafe fn write(&self, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        let shape = self.shape;
        let mut converted = [E::zeroed(); 64];
        let heads = key
            .chunks_exact(shape.head_dim)
            .zip(value.chunks_exact(shape.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let start = block as usize * shape.elements() + head * shape.head();
            let mut at = start + slot;
            for part in key.chunks(converted.len()) {
                E::convert(part, &mut converted[..part.len()]);
                for element in &converted[..part.len()] {
                    // SAFETY: this element belongs to the slot.
                    unsafe { self.elements.set(at, *element) };
                    at += BLOCK_TOKENS;
                }
            }
            let first = start + shape.keys() + slot * shape.value_stride;
            // SAFETY: this part belongs to the slot.
            let target = unsafe { self.elements.part(first..first + shape.head_dim) };
            E::convert(value, target);
        }
    }
}
