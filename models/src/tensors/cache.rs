//! The paged key/value cache as tensors: for each layer one of keys and one of values, a row for
//! every token slot of every block.
//!
//! Slots are written and read by index on the device, where attention gathers the keys it needs.
//! **Invariant.** Slot `s` of block `b` is row `b * BLOCK_TOKENS + s` in every layer, and only
//! slots that were written are read. Which blocks are in use, and by whom, is the caller's affair,
//! as with [`crate::KvCache`].

use super::groups::{Span, groups};
use crate::config::LlamaConfig;
use crate::cpu::attention::QueryRow;
use crate::kv::{BLOCK_TOKENS, KvFormat};
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use half::f16;

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

/// What some rows of a batch attend to, on the device.
#[derive(Debug)]
pub(super) enum Plan {
    Groups(GroupPlan),
    #[cfg(feature = "flash-attn")]
    Flash(super::flash::FlashPlan),
}

impl Plan {
    /// Of spans that are the batch's rows one after another.
    pub(super) fn new<'a>(
        cache: &TensorCache,
        spans: impl Iterator<Item = Span<'a>>,
        device: &Device,
    ) -> Result<Self> {
        #[cfg(feature = "flash-attn")]
        if cache.layers.iter().all(LayerCache::suits_flash) {
            return super::flash::FlashPlan::new(spans, device).map(Self::Flash);
        }
        let _ = cache;
        GroupPlan::new(spans, device).map(Self::Groups)
    }

    /// Attention of the plan's rows, `[rows, heads, head_dim]`, already scaled; gives
    /// `[rows, heads * head_dim]`.
    pub(super) fn attend(&self, cache: &LayerCache, queries: &Tensor) -> Result<Tensor> {
        match self {
            Self::Groups(plan) => plan.attend(cache, queries),
            #[cfg(feature = "flash-attn")]
            Self::Flash(plan) => plan.attend(cache, queries),
        }
    }
}

/// Groups of rows, one after another.
#[derive(Debug)]
pub(super) struct GroupPlan {
    /// The batch's rows in the order of the groups, and the way back; none where that is their own.
    order: Option<(Tensor, Tensor)>,
    groups: Vec<GroupTensors>,
}

/// A group's sequences, padded to equal length.
#[derive(Debug)]
struct GroupTensors {
    sequences: usize,
    queries: usize,
    keys: usize,
    /// Slots of the keys of each sequence, in the order of their positions.
    slots: Tensor,
    /// What is added to the scores, `[sequences, 1, queries, keys]`, where not every query sees
    /// every key.
    mask: Option<Tensor>,
}

impl GroupPlan {
    pub(super) fn new<'a>(spans: impl Iterator<Item = Span<'a>>, device: &Device) -> Result<Self> {
        let groups = groups(spans);
        let rows = groups.iter().flatten().flat_map(|span| span.rows.clone());
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        let order = if rows.is_sorted() {
            None
        } else {
            let mut back = vec![0_u32; rows.len()];
            for (place, row) in (0..).zip(&rows) {
                back[*row as usize] = place;
            }
            let count = rows.len();
            let back = Tensor::from_vec(back, count, device)?;
            Some((Tensor::from_vec(rows, count, device)?, back))
        };
        let groups = groups.iter().map(|group| GroupTensors::new(group, device));
        Ok(Self {
            order,
            groups: groups.collect::<Result<_>>()?,
        })
    }

    /// As [`Plan::attend`].
    pub(super) fn attend(&self, cache: &LayerCache, queries: &Tensor) -> Result<Tensor> {
        let queries = match &self.order {
            Some((order, _)) => &queries.index_select(order, 0)?,
            None => queries,
        };
        let mut attended = Vec::with_capacity(self.groups.len());
        let mut start = 0;
        for group in &self.groups {
            let rows = group.sequences * group.queries;
            attended.push(group.attend(cache, &queries.narrow(0, start, rows)?)?);
            start += rows;
        }
        let attended = Tensor::cat(&attended, 0)?;
        match &self.order {
            Some((_, back)) => attended.index_select(back, 0),
            None => Ok(attended),
        }
    }
}

impl GroupTensors {
    fn new(group: &[Span<'_>], device: &Device) -> Result<Self> {
        let queries = group[0].rows.len();
        let keys = group.iter().map(|span| span.tokens).max().unwrap_or(0);
        let places = group.iter().flat_map(|span| {
            // a place beyond the sequence is read, not seen: it has to hold numbers
            let known = move |position| if position < span.tokens { position } else { 0 };
            (0..keys).map(move |position| QueryRow {
                position: known(position),
                blocks: span.blocks,
            })
        });
        let sees_all = |span: &Span<'_>| span.rows.len() == 1 && span.tokens == keys;
        let mask = if group.iter().all(sees_all) {
            None
        } else {
            let mask = group.iter().flat_map(|span| mask(span, keys)).collect();
            let shape = (group.len(), 1, queries, keys);
            Some(Tensor::from_vec(mask, shape, device)?)
        };
        Ok(Self {
            sequences: group.len(),
            queries,
            keys,
            slots: slots(places, device)?,
            mask,
        })
    }

    /// Heads that share keys are rows of one product.
    fn attend(&self, cache: &LayerCache, queries: &Tensor) -> Result<Tensor> {
        let (rows, heads, head_dim) = queries.dims3()?;
        let (sequences, kv_heads) = (self.sequences, cache.keys.dim(1)?);
        let sharing = heads / kv_heads;
        let product = (sequences * kv_heads, sharing * self.queries);
        let queries = queries
            .reshape((sequences, self.queries, kv_heads, sharing, head_dim))?
            .permute((0, 2, 3, 1, 4))?
            .reshape((product.0, product.1, head_dim))?;
        let scores = queries.matmul(&self.read(&cache.keys)?.t()?)?;
        let scores = match &self.mask {
            Some(mask) => scores
                .reshape((sequences, heads, self.queries, self.keys))?
                .broadcast_add(mask)?
                .reshape((product.0, product.1, self.keys))?,
            None => scores,
        };
        softmax_last_dim(&scores)?
            .matmul(&self.read(&cache.values)?)?
            .reshape((sequences, kv_heads, sharing, self.queries, head_dim))?
            .permute((0, 3, 1, 2, 4))?
            .reshape((rows, heads * head_dim))
    }

    /// The group's part of the cache as `[sequences * kv_heads, keys, head_dim]`, in f32.
    fn read(&self, cache: &Tensor) -> Result<Tensor> {
        let (_, kv_heads, head_dim) = cache.dims3()?;
        cache
            .index_select(&self.slots, 0)?
            .reshape((self.sequences, self.keys, kv_heads, head_dim))?
            .transpose(1, 2)?
            .to_dtype(DType::F32)?
            .reshape((self.sequences * kv_heads, self.keys, head_dim))
    }
}

/// For each query of the span and each of so many keys: nothing, or that it is not seen.
fn mask(span: &Span<'_>, keys: usize) -> impl Iterator<Item = f32> {
    let first = span.tokens - span.rows.len();
    (first..span.tokens).flat_map(move |position| {
        let hidden = move |key| {
            if key > position {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        };
        (0..keys).map(hidden)
    })
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

    /// Can `FlashAttention` read it?
    #[cfg(feature = "flash-attn")]
    fn suits_flash(&self) -> bool {
        let head_dim = self.keys.dims()[2];
        let half = self.keys.dtype() == DType::F16;
        half && self.keys.device().is_cuda() && head_dim.is_multiple_of(8) && head_dim <= 512
    }

    /// Keys and values as `[blocks, BLOCK_TOKENS, kv_heads, head_dim]`, the same memory.
    #[cfg(any(test, feature = "flash-attn"))]
    pub(super) fn pages(&self) -> Result<(Tensor, Tensor)> {
        let (slots, kv_heads, head_dim) = self.keys.dims3()?;
        let pages = (slots / BLOCK_TOKENS, BLOCK_TOKENS, kv_heads, head_dim);
        Ok((self.keys.reshape(pages)?, self.values.reshape(pages)?))
    }

    #[cfg(test)]
    pub(super) fn of(keys: Tensor, values: Tensor) -> Self {
        Self { keys, values }
    }
}
