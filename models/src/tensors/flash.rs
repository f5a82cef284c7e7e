//! Attention of a whole batch in one call, over the paged cache in place: `FlashAttention`, in a
//! build with the feature `flash-attn`, on a GPU.
//!
//! The kernel reads sequences of unequal length one after another, each through its row of a table
//! of blocks; a sequence's queries are its last tokens, and each sees the keys up to its own.
//! **Invariant.** The rows keep the batch's order, so nothing is gathered, padded or sorted. What
//! it does not do: caches in f32, heads of odd sizes; `groups` attends there.

use super::cache::LayerCache;
use super::groups::Span;
use crate::kv::BLOCK_TOKENS;
use candle_core::{Device, Result, Tensor};

/// Where each sequence's queries, keys and blocks are.
#[derive(Debug, Default, PartialEq)]
struct Layout {
    /// First row of each sequence, and the end of the last.
    query_starts: Vec<u32>,
    /// The same of the keys, as if they stood one after another.
    key_starts: Vec<u32>,
    /// Blocks of each sequence in order, filled up with block 0 to the length of the longest.
    table: Vec<u32>,
    /// Blocks in a row of the table.
    width: usize,
    most_queries: usize,
    most_keys: usize,
}

impl Layout {
    fn new<'a>(spans: impl Iterator<Item = Span<'a>>) -> Self {
        let spans: Vec<Span<'a>> = spans.collect();
        let starts = |length: &dyn Fn(&Span<'a>) -> usize| {
            let mut ends = vec![0_u32];
            for span in &spans {
                let end = ends[ends.len() - 1] + length(span) as u32;
                ends.push(end);
            }
            ends
        };
        let longest = |length: &dyn Fn(&Span<'a>) -> usize| spans.iter().map(length).max();
        let used = |span: &Span<'a>| span.tokens.div_ceil(BLOCK_TOKENS);
        let width = longest(&used).unwrap_or(0);
        let row = |span: &Span<'a>| {
            let used = span.blocks[..used(span)].to_vec();
            used.into_iter().chain(std::iter::repeat(0)).take(width)
        };
        Self {
            query_starts: starts(&|span| span.rows.len()),
            key_starts: starts(&|span| span.tokens),
            table: spans.iter().flat_map(row).collect(),
            width,
            most_queries: longest(&|span| span.rows.len()).unwrap_or(0),
            most_keys: longest(&|span| span.tokens).unwrap_or(0),
        }
    }
}

/// A layout on the device.
#[derive(Debug)]
pub(super) struct FlashPlan {
    query_starts: Tensor,
    key_starts: Tensor,
    table: Tensor,
    most_queries: usize,
    most_keys: usize,
}

impl FlashPlan {
    /// Of spans that are the batch's rows one after another.
    pub(super) fn new<'a>(spans: impl Iterator<Item = Span<'a>>, device: &Device) -> Result<Self> {
        let layout = Layout::new(spans);
        let sequences = layout.query_starts.len() - 1;
        let starts = |starts: Vec<u32>| Tensor::from_vec(starts, sequences + 1, device);
        Ok(Self {
            query_starts: starts(layout.query_starts)?,
            key_starts: starts(layout.key_starts)?,
            table: Tensor::from_vec(layout.table, (sequences, layout.width), device)?,
            most_queries: layout.most_queries,
            most_keys: layout.most_keys,
        })
    }

    /// Attention of the batch's rows, `[rows, heads, head_dim]`, already scaled; gives
    /// `[rows, heads * head_dim]`.
    #[cfg(feature = "flash-attn")]
    pub(super) fn attend(&self, cache: &LayerCache, queries: &Tensor) -> Result<Tensor> {
        let (rows, heads, head_dim) = queries.dims3()?;
        let (keys, values) = cache.pages()?;
        candle_flash_attn::flash_attn_varlen_paged_windowed(
            &queries.to_dtype(candle_core::DType::F16)?.contiguous()?,
            &keys,
            &values,
            &self.query_starts,
            &self.key_starts,
            &self.table,
            None,
            self.most_queries,
            self.most_keys,
            1.0,
            None,
            Some(0),
            BLOCK_TOKENS,
            None,
        )?
        .to_dtype(candle_core::DType::F32)?
        .reshape((rows, heads * head_dim))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::GroupPlan;
    use super::*;
    use candle_core::DType;
    use half::f16;
    use proptest::prelude::*;

    const KV_HEADS: usize = 2;
    const HEADS: usize = 6;
    const HEAD_DIM: usize = 8;

    /// Attention over pages as the kernel describes it: keys of sequence `s` are pages
    /// `table[s][..]`, its queries the last of its tokens.
    fn attend(plan: &FlashPlan, cache: &LayerCache, rows: &Tensor) -> Result<Tensor> {
        let (count, heads, head_dim) = rows.dims3()?;
        let (keys, values) = cache.pages()?;
        let kv_heads = keys.dim(2)?;
        let flat = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let (rows, keys, values) = (flat(rows)?, flat(&keys)?, flat(&values)?);
        let (query_starts, key_starts): (Vec<u32>, Vec<u32>) =
            (plan.query_starts.to_vec1()?, plan.key_starts.to_vec1()?);
        let table = plan.table.to_vec2::<u32>()?;
        let mut output = vec![0.0; rows.len()];
        for (sequence, blocks) in table.iter().enumerate() {
            let of = |starts: &[u32]| starts[sequence] as usize..starts[sequence + 1] as usize;
            let (queries, tokens) = (of(&query_starts), of(&key_starts).len());
            assert!(queries.len() <= plan.most_queries && tokens <= plan.most_keys);
            for (index, row) in queries.clone().enumerate() {
                let seen = tokens - queries.len() + index + 1;
                for head in 0..heads {
                    let query = &rows[(row * heads + head) * head_dim..][..head_dim];
                    let at = |position: usize| {
                        let block = blocks[position / BLOCK_TOKENS] as usize;
                        let slot = block * BLOCK_TOKENS + position % BLOCK_TOKENS;
                        (slot * kv_heads + head / (heads / kv_heads)) * head_dim
                    };
                    let score = |position: usize| -> f32 {
                        let key = &keys[at(position)..][..head_dim];
                        query.iter().zip(key).map(|(q, k)| q * k).sum()
                    };
                    let scores: Vec<f32> = (0..seen).map(score).collect();
                    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let weights: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
                    let sum: f32 = weights.iter().sum();
                    let into = &mut output[(row * heads + head) * head_dim..][..head_dim];
                    for (position, weight) in weights.iter().enumerate() {
                        let value = &values[at(position)..][..head_dim];
                        for (into, value) in into.iter_mut().zip(value) {
                            *into += weight / sum * value;
                        }
                    }
                }
            }
        }
        Tensor::from_vec(output, (count, heads * head_dim), &Device::Cpu)
    }

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let number = |index: usize| {
            let mixed = (index as u32 + 1).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503);
            f32::from((mixed >> 16) as u16 % 2001) / 1000.0 - 1.0
        };
        (0..count).map(number).collect()
    }

    #[test]
    fn a_layout_by_hand() {
        let span = |rows, tokens, blocks| Span {
            rows,
            tokens,
            blocks,
        };
        let spans = [
            span(0..1, 33, &[7, 2, 9][..]),
            span(1..41, 40, &[4, 1]),
            span(41..42, 65, &[3, 5, 6]),
        ];
        let expected = Layout {
            query_starts: vec![0, 1, 41, 42],
            key_starts: vec![0, 33, 73, 138],
            // Block 9 has no token yet.
            table: vec![7, 2, 0, 4, 1, 0, 3, 5, 6],
            width: 3,
            most_queries: 40,
            most_keys: 65,
        };
        assert_eq!(Layout::new(spans.into_iter()), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// What the kernel is told to compute is what the groups compute.
        #[test]
        fn it_is_told_what_the_groups_compute(
            lengths in prop::collection::vec((1_usize..40, 0_usize..90), 1..6),
            seed in any::<u32>(),
        ) {
            let used: Vec<usize> = lengths
                .iter()
                .map(|(rows, before)| (rows + before).div_ceil(BLOCK_TOKENS))
                .collect();
            let blocks: usize = used.iter().sum::<usize>() + 1;
            // Blocks of a sequence lie apart, and in no order.
            let mut free: Vec<u32> = (0..blocks as u32).rev().collect();
            free.sort_by_key(|block| block.wrapping_mul(2_654_435_761));
            let take = |used: &usize| free.drain(..used).collect();
            let tables: Vec<Vec<u32>> = used.iter().map(take).collect();
            let mut end = 0;
            let spans: Vec<Span<'_>> = lengths.iter().zip(&tables).map(|((rows, before), blocks)| {
                end += rows;
                Span { rows: end - rows..end, tokens: rows + before, blocks }
            }).collect();
            let shape = (blocks * BLOCK_TOKENS, KV_HEADS, HEAD_DIM);
            let half = |seed| {
                let numbers = numbers(shape.0 * shape.1 * shape.2, seed);
                Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(DType::F16)
            };
            let cache = LayerCache::of(half(seed).unwrap(), half(seed ^ 1).unwrap());
            let rows = numbers(end * HEADS * HEAD_DIM, seed ^ 2);
            let rows: Vec<f32> = rows.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
            let rows = Tensor::from_vec(rows, (end, HEADS, HEAD_DIM), &Device::Cpu).unwrap();
            let flash = FlashPlan::new(spans.iter().cloned(), &Device::Cpu).unwrap();
            let told = attend(&flash, &cache, &rows).unwrap();
            let groups = GroupPlan::new(spans.into_iter(), &Device::Cpu).unwrap();
            let found = groups.attend(&cache, &rows).unwrap();
            let apart = (told - found).unwrap().abs().unwrap().flatten_all().unwrap();
            let most = apart.max(0).unwrap().to_vec0::<f32>().unwrap();
            prop_assert!(most < 1e-4, "{most} apart");
        }
    }
}
