//! The paged key/value cache: fixed blocks of [`BLOCK_TOKENS`] tokens, handed out by the caller.
//!
//! Within a block keys are stored dimension by dimension, so that the scores of all its tokens
//! are computed side by side; values are stored token by token, padded to whole vectors.
//! **Invariant.** A block holds the same token range in every layer. The cache does not know
//! which blocks are in use, by whom, or how full they are.

use crate::config::LlamaConfig;
use crate::vector::LANES;

/// Tokens per block of the cache.
pub const BLOCK_TOKENS: usize = 32;

/// Keys and values of every layer, in f32.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    shape: BlockShape,
    blocks: usize,
}

impl KvCache {
    /// An empty cache of `blocks` blocks. All its memory is committed here, not page by page in
    /// the middle of a measurement; a slot that is read before it is written gives NaN, not a
    /// plausible number.
    pub fn new(config: &LlamaConfig, blocks: usize) -> Self {
        let shape = BlockShape::of(config);
        let layer = || LayerCache {
            keys: vec![f32::NAN; blocks * shape.block_keys()],
            values: vec![f32::NAN; blocks * shape.block_values()],
            shape,
        };
        Self {
            layers: (0..config.layers).map(|_| layer()).collect(),
            shape,
            blocks,
        }
    }

    /// Bytes of one block over all layers.
    pub fn bytes_per_block(config: &LlamaConfig) -> usize {
        let shape = BlockShape::of(config);
        config.layers * (shape.block_keys() + shape.block_values()) * size_of::<f32>()
    }

    /// Blocks of the cache.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn fits(&self, config: &LlamaConfig) -> bool {
        self.layers.len() == config.layers && self.shape == BlockShape::of(config)
    }

    pub(crate) fn layer(&mut self, index: usize) -> &mut LayerCache {
        &mut self.layers[index]
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
            value_stride: config.head_dim.next_multiple_of(LANES),
        }
    }

    fn block_keys(self) -> usize {
        self.kv_heads * self.head_dim * BLOCK_TOKENS
    }

    fn block_values(self) -> usize {
        self.kv_heads * self.value_stride * BLOCK_TOKENS
    }
}

/// The keys and values of one layer.
#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    pub(crate) shape: BlockShape,
}

impl LayerCache {
    /// Stores the key and value rows (all heads) of one token.
    pub(crate) fn write(&mut self, block: u32, slot: usize, key: &[f32], value: &[f32]) {
        let shape = self.shape;
        let heads = key
            .chunks_exact(shape.head_dim)
            .zip(value.chunks_exact(shape.head_dim));
        for (head, (key, value)) in heads.enumerate() {
            let start = self.key_start(block, head);
            let target = &mut self.keys[start..start + shape.head_dim * BLOCK_TOKENS];
            for (row, element) in target.chunks_exact_mut(BLOCK_TOKENS).zip(key) {
                row[slot] = *element;
            }
            let start = self.value_start(block, head) + slot * shape.value_stride;
            self.values[start..start + shape.head_dim].copy_from_slice(value);
        }
    }

    /// Keys of one head of one block: `head_dim` rows of [`BLOCK_TOKENS`].
    pub(crate) fn keys(&self, block: u32, head: usize) -> &[f32] {
        let start = self.key_start(block, head);
        &self.keys[start..start + self.shape.head_dim * BLOCK_TOKENS]
    }

    /// Values of one head of one block: [`BLOCK_TOKENS`] rows of `value_stride`.
    pub(crate) fn values(&self, block: u32, head: usize) -> &[f32] {
        let start = self.value_start(block, head);
        &self.values[start..start + self.shape.value_stride * BLOCK_TOKENS]
    }

    fn key_start(&self, block: u32, head: usize) -> usize {
        (block as usize * self.shape.kv_heads + head) * self.shape.head_dim * BLOCK_TOKENS
    }

    fn value_start(&self, block: u32, head: usize) -> usize {
        (block as usize * self.shape.kv_heads + head) * self.shape.value_stride * BLOCK_TOKENS
    }
}
