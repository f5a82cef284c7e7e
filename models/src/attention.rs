//! Causal attention over the paged cache, read in place.
//!
//! One work item is one query row and one key/value head with its group of query heads. It walks
//! the row's blocks in order with an online softmax. **Invariant.** The result depends only on
//! the query, the position and the cached keys and values before it: not on block numbers, other
//! rows, threads or the width of the processor's vectors.

#![expect(
    clippy::inline_always,
    reason = "a body must be inlined into the dispatching caller to get its vector width"
)]

use crate::kv::{BLOCK_TOKENS, LayerCache};
use crate::parallel;
use crate::vector::{LANES, exp, sum_lanes};
use pulp::Arch;

/// One query row: where it stands in its sequence and where that sequence is cached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryRow<'a> {
    /// Tokens of the sequence before this one.
    pub(crate) position: usize,
    /// Block table of the sequence.
    pub(crate) blocks: &'a [u32],
}

/// Where the queries lie within the rows of the projected activations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queries<'a> {
    /// Projected activations, `stride` elements a row; the query heads come first.
    pub(crate) data: &'a [f32],
    /// Elements of one row.
    pub(crate) stride: usize,
    /// Query heads per row.
    pub(crate) heads: usize,
}

/// Attends every row; `out` gets `heads * head_dim` elements per row.
pub(crate) fn attend(
    cache: &LayerCache,
    queries: Queries<'_>,
    rows: &[QueryRow<'_>],
    out: &mut [f32],
) {
    let shape = cache.shape;
    let group = queries.heads / shape.kv_heads;
    let longest = rows.iter().map(|row| row.position + 1).max().unwrap_or(0);
    let work = longest * shape.head_dim * group * 4;
    parallel::for_each_chunk(out, group * shape.head_dim, work, |index, out| {
        let (row, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
        let start = row * queries.stride + kv_head * group * shape.head_dim;
        let query = &queries.data[start..start + group * shape.head_dim];
        Arch::new().dispatch(
            #[inline(always)]
            || attend_group(cache, rows[row], kv_head, query, out),
        );
    });
}

/// The running softmax of one query head.
struct Online {
    maximum: f32,
    sum: f32,
}

#[inline(always)]
fn attend_group(
    cache: &LayerCache,
    row: QueryRow<'_>,
    kv_head: usize,
    query: &[f32],
    out: &mut [f32],
) {
    let shape = cache.shape;
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    let visible = row.position + 1;
    let mut sums = vec![0.0_f32; shape.value_stride];
    let heads = query
        .chunks_exact(shape.head_dim)
        .zip(out.chunks_exact_mut(shape.head_dim));
    for (query, out) in heads {
        let mut state = Online {
            maximum: f32::NEG_INFINITY,
            sum: 0.0,
        };
        sums.fill(0.0);
        for (index, block) in row.blocks[..visible.div_ceil(BLOCK_TOKENS)]
            .iter()
            .enumerate()
        {
            let tokens = (visible - index * BLOCK_TOKENS).min(BLOCK_TOKENS);
            let mut weights = scores(query, cache.keys(*block, kv_head), scale);
            let rescale = state.take(&mut weights, tokens);
            let values = cache.values(*block, kv_head);
            accumulate(&mut sums, rescale, &weights[..tokens], values);
        }
        let normaliser = 1.0 / state.sum;
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = *sum * normaliser;
        }
    }
}

/// Scores of all tokens of a block; those past the last visible one are meaningless.
#[inline(always)]
fn scores(query: &[f32], keys: &[f32], scale: f32) -> [f32; BLOCK_TOKENS] {
    let mut scores = [0.0_f32; BLOCK_TOKENS];
    let (rows, _) = keys.as_chunks::<BLOCK_TOKENS>();
    for (query, keys) in query.iter().zip(rows) {
        for (score, key) in scores.iter_mut().zip(keys) {
            *score += *query * *key;
        }
    }
    for score in &mut scores {
        *score *= scale;
    }
    scores
}

impl Online {
    /// Turns the scores of one block into weights relative to the new maximum and returns the
    /// factor by which everything summed before must be scaled.
    #[inline(always)]
    fn take(&mut self, scores: &mut [f32; BLOCK_TOKENS], tokens: usize) -> f32 {
        let mut maximum = self.maximum;
        for score in &scores[..tokens] {
            maximum = maximum.max(*score);
        }
        for (token, score) in scores.iter_mut().enumerate() {
            let weight = exp(*score - maximum);
            *score = if token < tokens { weight } else { 0.0 };
        }
        let rescale = exp(self.maximum - maximum);
        let mut lanes = [0.0_f32; LANES];
        for chunk in scores.as_chunks::<LANES>().0 {
            for (lane, weight) in lanes.iter_mut().zip(chunk) {
                *lane += *weight;
            }
        }
        self.sum = self.sum * rescale + sum_lanes(&lanes);
        self.maximum = maximum;
        rescale
    }
}

/// `sums = sums * rescale + weights · values`
#[inline(always)]
fn accumulate(sums: &mut [f32], rescale: f32, weights: &[f32], values: &[f32]) {
    let stride = sums.len();
    for (part, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut lanes = *sums;
        for lane in &mut lanes {
            *lane *= rescale;
        }
        for (weight, values) in weights.iter().zip(values.chunks_exact(stride)) {
            let values = &values.as_chunks::<LANES>().0[part];
            for (lane, value) in lanes.iter_mut().zip(values) {
                *lane += *weight * *value;
            }
        }
        *sums = lanes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LlamaConfig;
    use crate::kv::KvCache;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn config(heads: usize, kv_heads: usize, head_dim: usize) -> LlamaConfig {
        LlamaConfig {
            layers: 1,
            hidden: heads * head_dim,
            feed_forward: 8,
            heads,
            kv_heads,
            head_dim,
            rope_dim: head_dim,
            rope_base: 1e4,
            norm_epsilon: 1e-5,
            context: 1024,
            vocab: 8,
        }
    }

    fn random(rng: &mut ChaCha8Rng, length: usize, scale: f32) -> Vec<f32> {
        (0..length)
            .map(|_| (rng.random::<f32>() - 0.5) * scale)
            .collect()
    }

    /// The textbook formula in f64, over keys and values of `[token][kv_head][head_dim]`.
    fn naive(query: &[f32], keys: &[f32], values: &[f32], config: &LlamaConfig) -> Vec<f64> {
        let (dim, width) = (config.head_dim, config.kv_heads * config.head_dim);
        let mut out = Vec::new();
        for head in 0..config.heads {
            let query = &query[head * dim..(head + 1) * dim];
            let at = head / (config.heads / config.kv_heads) * dim;
            let dot = |key: &[f32]| -> f64 {
                query
                    .iter()
                    .zip(key)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k))
                    .sum()
            };
            let scores: Vec<f64> = keys
                .chunks(width)
                .map(|key| dot(&key[at..at + dim]) / (dim as f64).sqrt())
                .collect();
            let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - maximum).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let sum: f64 = weights
                    .iter()
                    .zip(values.chunks(width))
                    .map(|(weight, value)| weight * f64::from(value[at + d]))
                    .sum();
                out.push(sum / total);
            }
        }
        out
    }

    fn check(heads: usize, kv_heads: usize, head_dim: usize, tokens: usize) {
        let config = config(heads, kv_heads, head_dim);
        let mut rng = ChaCha8Rng::seed_from_u64(tokens as u64);
        let width = kv_heads * head_dim;
        let keys = random(&mut rng, tokens * width, 6.0);
        let values = random(&mut rng, tokens * width, 2.0);
        let queries = random(&mut rng, tokens * heads * head_dim, 6.0);
        let needed = tokens.div_ceil(BLOCK_TOKENS) as u32;
        let blocks: Vec<u32> = (0..needed).rev().map(|block| block * 2 + 1).collect();
        let mut cache = KvCache::new(&config, needed as usize * 2 + 1);
        for (token, (key, value)) in keys.chunks(width).zip(values.chunks(width)).enumerate() {
            let block = blocks[token / BLOCK_TOKENS];
            cache
                .layer(0)
                .write(block, token % BLOCK_TOKENS, key, value);
        }
        let rows: Vec<QueryRow<'_>> = (0..tokens)
            .map(|position| QueryRow {
                position,
                blocks: &blocks,
            })
            .collect();
        let mut out = vec![0.0; queries.len()];
        let packed = Queries {
            data: &queries,
            stride: heads * head_dim,
            heads,
        };
        attend(cache.layer(0), packed, &rows, &mut out);
        for token in 0..tokens {
            let row = token * heads * head_dim..(token + 1) * heads * head_dim;
            let seen = (token + 1) * width;
            let expected = naive(
                &queries[row.clone()],
                &keys[..seen],
                &values[..seen],
                &config,
            );
            for (out, expected) in out[row].iter().zip(expected) {
                assert!(
                    (f64::from(*out) - expected).abs() < 2e-5,
                    "{token}: {out} {expected}"
                );
            }
        }
    }

    #[test]
    fn matches_the_textbook_formula() {
        check(3, 1, 64, 1);
        check(3, 1, 64, 100);
        check(9, 3, 64, 65);
        check(4, 4, 8, 33);
        check(4, 2, 20, 70);
    }

    #[test]
    fn slots_after_the_last_visible_token_are_not_read() {
        let config = config(1, 1, 16);
        let mut cache = KvCache::new(&config, 1);
        cache.layer(0).write(0, 0, &[1.0; 16], &[2.0; 16]);
        cache.layer(0).write(0, 1, &[f32::NAN; 16], &[f32::NAN; 16]);
        let mut out = vec![0.0; 16];
        let queries = Queries {
            data: &[1.0; 16],
            stride: 16,
            heads: 1,
        };
        attend(
            cache.layer(0),
            queries,
            &[QueryRow {
                position: 0,
                blocks: &[0],
            }],
            &mut out,
        );
        assert_eq!(out, [2.0; 16]);
    }
}
