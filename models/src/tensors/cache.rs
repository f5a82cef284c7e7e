//! The paged key/value cache as tensors: for each layer one of keys and one of values, a row for
//! every token slot of every block.
//!
//! Slots are written and read by index on the device. **Invariant.** Slot `s` of block `b` is row
//! `b * BLOCK_TOKENS + s` in every layer. Which blocks are in use, and by whom, is the caller's
//! affair, as with [`crate::KvCache`].

use crate::config::LlamaConfig;
use crate::cpu::attention::QueryRow;
use crate::kv::{BLOCK_TOKENS, KvFormat};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use half::f16;
use std::ops::Range;

/// Keys and values of every layer, on a device.
#[derive(Debug)]
pub struct TensorCache {
    pub(super) layers: Vec<LayerCache>,
    blocks: usize,
}

impl TensorCache {
    /// An empty cache. As in [`crate::KvCache`] all memory is committed here, and a slot that is
    /// read before it is written gives NaN.
    pub(super) fn new(
        config: &LlamaConfig,
        blocks: usize,
        format: KvFormat,
        device: &Device,
    ) -> Result<Self> {
        let shape = (blocks * BLOCK_TOKENS, config.kv_heads, config.head_dim);
        let empty = || match format {
            KvFormat::F16 => Tensor::full(f16::NAN, shape, device),
            KvFormat::F32 => Tensor::full(f32::NAN, shape, device),
        };
        let layer = |_| {
            Ok(LayerCache {
                keys: empty()?,
                values: empty()?,
            })
        };
        let layers = (0..config.layers).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, blocks })
    }

    /// Bytes of one block over all layers.
    pub fn bytes_per_block(config: &LlamaConfig, format: KvFormat) -> usize {
        let row = config.kv_heads * config.head_dim * format.bytes();
        2 * config.layers * row * BLOCK_TOKENS
    }

    /// Blocks of the cache.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn fits(&self, config: &LlamaConfig) -> bool {
        let row = &[config.kv_heads, config.head_dim];
        let mut layers = self.layers.iter();
        self.layers.len() == config.layers && layers.all(|layer| layer.keys.dims()[1..] == *row)
    }
}

/// The slots of some tokens.
pub(super) fn slots<'a>(
    rows: impl Iterator<Item = QueryRow<'a>>,
    device: &Device,
) -> Result<Tensor> {
    let slot = |row: QueryRow<'_>| {
        let block = row.blocks[row.position / BLOCK_TOKENS] as usize;
        i64::try_from(block * BLOCK_TOKENS + row.position % BLOCK_TOKENS)
            .expect("a cache has fewer slots")
    };
    let slots: Vec<i64> = rows.map(slot).collect();
    let count = slots.len();
    Tensor::from_vec(slots, count, device)
}

/// Queries that see the same keys: a range of rows, all of one sequence.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) rows: Range<usize>,
    /// Slots of the keys, in the order of their positions.
    slots: Tensor,
    /// What is added to the scores, where not every query sees every key.
    mask: Option<Tensor>,
}

impl Span {
    /// `rows` of the batch are the last positions of a sequence of `tokens` tokens.
    pub(super) fn new(
        rows: Range<usize>,
        tokens: usize,
        blocks: &[u32],
        device: &Device,
    ) -> Result<Self> {
        let keys = (0..tokens).map(|position| QueryRow { position, blocks });
        let first = tokens - rows.len();
        let mask = if rows.len() == 1 {
            None
        } else {
            let hidden = |seen| move |key| if key > seen { f32::NEG_INFINITY } else { 0.0 };
            let mask: Vec<f32> = (first..tokens)
                .flat_map(|position| (0..tokens).map(hidden(position)))
                .collect();
            Some(Tensor::from_vec(mask, (rows.len(), tokens), device)?)
        };
        Ok(Self {
            rows,
            slots: slots(keys, device)?,
            mask,
        })
    }

    /// The last query alone, as row `row`.
    pub(super) fn last(&self, row: usize) -> Self {
        Self {
            rows: row..row + 1,
            slots: self.slots.clone(),
            mask: None,
        }
    }
}

/// The cache of one layer: `[slots, kv_heads, head_dim]` each.
#[derive(Debug)]
pub(super) struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

impl LayerCache {
    /// Stores keys and values, `[rows, kv_heads, head_dim]`, each row in its slot. `slots` has the
    /// shape of both, the same slot all over a row.
    pub(super) fn store(&self, slots: &Tensor, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (cache, rows) in [(&self.keys, keys), (&self.values, values)] {
            cache.scatter_set(slots, &rows.to_dtype(cache.dtype())?, 0)?;
        }
        Ok(())
    }

    /// Attention of the span's queries, `[rows, heads, head_dim]`, already scaled; gives
    /// `[rows, heads * head_dim]`. Heads that share keys are rows of one product.
    pub(super) fn attend(&self, span: &Span, queries: &Tensor) -> Result<Tensor> {
        let (rows, heads, head_dim) = queries.dims3()?;
        let (tokens, kv_heads) = (span.slots.dim(0)?, self.keys.dim(1)?);
        let grouped = (kv_heads, heads / kv_heads * rows, head_dim);
        let queries = queries.transpose(0, 1)?.reshape(grouped)?;
        let scores = queries.matmul(&read(&self.keys, &span.slots)?.t()?)?;
        let scores = match &span.mask {
            Some(mask) => {
                let shape = scores.shape().clone();
                let by_head = scores.reshape((heads, rows, tokens))?;
                by_head.broadcast_add(mask)?.reshape(shape)?
            }
            None => scores,
        };
        let attended = softmax_last_dim(&scores)?.matmul(&read(&self.values, &span.slots)?)?;
        attended
            .reshape((heads, rows, head_dim))?
            .transpose(0, 1)?
            .reshape((rows, heads * head_dim))
    }
}

/// Rows of the cache as `[kv_heads, slots, head_dim]`, in f32.
fn read(cache: &Tensor, slots: &Tensor) -> Result<Tensor> {
    let rows = cache.index_select(slots, 0)?.transpose(0, 1)?;
    rows.to_dtype(DType::F32)?.contiguous()
}
