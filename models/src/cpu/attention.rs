//! Causal attention over the paged cache, read in place.
//!
//! A tile is a few neighbouring query rows of one sequence with the query heads that share a
//! key/value head: up to 12 vectors that read each key and value once. The cache is walked in
//! segments of 256 tokens with an online softmax; segments are joined in order. When there are
//! few tiles (decode of a small batch) threads take segments, else tiles. What narrow tiles will
//! read next is asked for into the second-level cache: the first-level cache waits for too few
//! lines at a time to be fed from memory while it computes. **Invariant.** The result of a row
//! depends only on its query, its position and the cached keys and values before it: not on block
//! numbers, other rows, threads, nor the level.

#![expect(unsafe_code, reason = "threads fill disjoint parts of one output")]
#![expect(
    clippy::inline_always,
    reason = "compiled for the level of the caller, with everything in registers"
)]

use super::pool::{Pool, Shared};
use super::profile::Tally;
use super::simd::{Job, Level, ROWS, Simd};
use crate::config::LlamaConfig;
use crate::kv::{BLOCK_TOKENS, BlockShape, Element, LayerCache};
use std::ops::Range;

/// Tokens of a segment.
const SEGMENT: usize = 256;
/// Vectors of the widest tile.
const WIDEST: usize = 12;

/// Vectors up to which a tile waits for memory more than it computes, and asks for it early.
const NARROW: usize = 6;

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

/// Buffers that are kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    tiles: Vec<Tile>,
    states: Vec<f32>,
}

/// Query vectors that are computed together: `rows` times `heads` of the group.
#[derive(Clone, Debug)]
struct Tile {
    rows: Range<usize>,
    /// Among the query heads of one key/value head.
    heads: Range<usize>,
    /// Tokens the last row sees.
    visible: usize,
}

impl Tile {
    fn vectors(&self) -> usize {
        self.rows.len() * self.heads.len()
    }

    fn segments(&self) -> usize {
        self.visible.div_ceil(SEGMENT)
    }
}

/// Attends every row; `out` gets `heads * head_dim` elements per row.
#[expect(
    clippy::too_many_lines,
    reason = "two ways to share the same work, side by side"
)]
pub(crate) fn attend<E: Element>(
    pool: &mut Pool,
    level: Level,
    scratch: &mut Scratch,
    cache: &LayerCache<'_, E>,
    queries: Queries<'_>,
    rows: &[QueryRow<'_>],
    out: &mut [f32],
) {
    let shape = cache.shape;
    split(rows, queries.heads / shape.kv_heads, &mut scratch.tiles);
    let tiles = &scratch.tiles;
    let seen: usize = tiles.iter().map(|tile| tile.visible * tile.vectors()).sum();
    let work = seen * shape.head_dim * 4 * shape.kv_heads;
    let items = tiles.len() * shape.kv_heads;
    let most = tiles.iter().map(Tile::segments).max().unwrap_or(0);
    let state = state_floats(shape);
    let split_segments = items < 2 * pool.threads() && most > 1;
    let states = if split_segments {
        items * most
    } else {
        2 * pool.threads()
    };
    scratch.states.resize(states * state, 0.0);
    let shared = Shared::new(&mut scratch.states);
    let attention = Attention {
        cache,
        queries,
        rows,
        out: Shared::new(out),
    };
    if split_segments {
        pool.run(items * most, work, |_, range| {
            for index in range {
                let (item, segment) = (index / most, index % most);
                let tile = &tiles[item / shape.kv_heads];
                if segment < tile.segments() {
                    // SAFETY: this item's state is this thread's.
                    let state = unsafe { shared.part(index * state..(index + 1) * state) };
                    let head = item % shape.kv_heads;
                    level.run(Segment {
                        attention,
                        tile,
                        head,
                        number: segment,
                        state,
                    });
                }
            }
        });
        pool.run(items, items * state * most, |_, range| {
            for item in range {
                let tile = &tiles[item / shape.kv_heads];
                let first = item * most * state;
                // SAFETY: this item's states are this thread's.
                let states = unsafe { shared.part(first..first + tile.segments() * state) };
                let (total, others) = states.split_at_mut(state);
                let head = item % shape.kv_heads;
                level.run(Join {
                    attention,
                    tile,
                    head,
                    total,
                    others,
                });
            }
        });
        return;
    }
    pool.run(items, work, |thread, range| {
        // SAFETY: each thread has a number of its own.
        let states = unsafe { shared.part(2 * thread * state..2 * (thread + 1) * state) };
        let (total, next) = states.split_at_mut(state);
        for item in range {
            let (tile, head) = (&tiles[item / shape.kv_heads], item % shape.kv_heads);
            level.run(Segment {
                attention,
                tile,
                head,
                number: 0,
                state: total,
            });
            for segment in 1..tile.segments() {
                level.run(Segment {
                    attention,
                    tile,
                    head,
                    number: segment,
                    state: next,
                });
                level.run(Merge {
                    shape,
                    vectors: tile.vectors(),
                    total,
                    next,
                });
            }
            level.run(Join {
                attention,
                tile,
                head,
                total,
                others: &mut [],
            });
        }
    });
}

/// What attending does: keys and values of a sequence count once per tile.
pub(crate) fn work<E>(config: &LlamaConfig, rows: &[QueryRow<'_>]) -> Tally {
    let mut tiles = Vec::new();
    split(rows, config.heads / config.kv_heads, &mut tiles);
    let pairs: usize = rows.iter().map(|row| row.position + 1).sum();
    let read: usize = tiles.iter().map(|tile| tile.visible).sum();
    let token_bytes = 2 * config.kv_heads * config.head_dim * size_of::<E>();
    Tally {
        bytes: (read * token_bytes) as u64,
        float_operations: (4 * pairs * config.heads * config.head_dim) as u64,
        ..Tally::default()
    }
}

/// Groups neighbouring rows of the same sequence.
fn split(rows: &[QueryRow<'_>], group: usize, tiles: &mut Vec<Tile>) {
    tiles.clear();
    let per_tile = (WIDEST / group).max(1);
    let mut start = 0;
    while start < rows.len() {
        let first = &rows[start];
        let follows = |index: usize| {
            let row = &rows[index];
            std::ptr::eq(row.blocks, first.blocks)
                && row.position == first.position + (index - start)
        };
        let limit = rows.len().min(start + per_tile);
        let end = (start + 1..limit).find(|index| !follows(*index));
        let end = end.unwrap_or(limit);
        for head in (0..group).step_by(WIDEST) {
            tiles.push(Tile {
                rows: start..end,
                heads: head..group.min(head + WIDEST),
                visible: rows[end - 1].position + 1,
            });
        }
        start = end;
    }
}

/// The running softmax of a tile, for `WIDEST` vectors: the largest score and 16 partial sums of
/// the weights of each, then the weighted values, 16 dimensions of every vector at a time.
fn state_floats(shape: BlockShape) -> usize {
    WIDEST * (ROWS + ROWS + shape.value_stride)
}

/// A view of a state.
struct State<'a> {
    largest: &'a mut [f32],
    sums: &'a mut [[f32; ROWS]],
    values: &'a mut [[f32; ROWS]],
}

impl<'a> State<'a> {
    #[inline(always)]
    fn of(floats: &'a mut [f32]) -> Self {
        let (largest, rest) = floats.split_at_mut(WIDEST * ROWS);
        let (sums, values) = rest.split_at_mut(WIDEST * ROWS);
        Self {
            largest: &mut largest[..WIDEST],
            sums: sums.as_chunks_mut().0,
            values: values.as_chunks_mut().0,
        }
    }
}

#[derive(Debug)]
struct Attention<'a, E> {
    cache: &'a LayerCache<'a, E>,
    queries: Queries<'a>,
    rows: &'a [QueryRow<'a>],
    out: Shared<'a, f32>,
}

impl<E> Clone for Attention<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E> Copy for Attention<'_, E> {}

/// Attends one tile to one segment.
struct Segment<'a, E> {
    attention: Attention<'a, E>,
    tile: &'a Tile,
    head: usize,
    number: usize,
    state: &'a mut [f32],
}

impl<E: Element> Job for Segment<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.tile.vectors() {
            1 => self.attend::<S, 1, 2, 4>(simd),
            2..=3 => self.attend::<S, 3, 2, 4>(simd),
            4..=6 => self.attend::<S, 6, 2, 2>(simd),
            _ => self.attend::<S, WIDEST, 1, 1>(simd),
        }
    }
}

impl<E: Element> Segment<'_, E> {
    /// With registers for `W` vectors (some may be idle), `H` halves of a block's tokens and `C`
    /// times 16 dimensions of the values.
    #[inline(always)]
    #[expect(
        clippy::too_many_lines,
        reason = "one loop that keeps all in registers"
    )]
    fn attend<S: Simd, const W: usize, const H: usize, const C: usize>(self, simd: S) {
        let shape = self.attention.cache.shape;
        let tile = self.tile;
        let vectors = tile.vectors();
        let heads = tile.heads.len();
        let first = self.attention.rows[tile.rows.start];
        let mut queries = [[0.0_f32; W]; 256];
        let mut long = Vec::new();
        let queries: &mut [[f32; W]] = if shape.head_dim <= queries.len() {
            &mut queries[..shape.head_dim]
        } else {
            long.resize(shape.head_dim, [0.0; W]);
            &mut long
        };
        self.gather(queries);
        let state = State::of(self.state);
        state.largest.fill(f32::NEG_INFINITY);
        state.sums[..W].fill([0.0; ROWS]);
        let chunks = shape.value_stride / ROWS;
        state.values[..chunks * WIDEST].fill([0.0; ROWS]);
        let end = tile.visible.min((self.number + 1) * SEGMENT);
        let blocks = self.number * SEGMENT / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS);
        for index in blocks {
            let begin = index * BLOCK_TOKENS;
            let tokens = (tile.visible - begin).min(BLOCK_TOKENS);
            let (keys, values) = self.attention.cache.head(first.blocks[index], self.head);
            let next = first.blocks.get(index + 1).filter(|_| W <= NARROW);
            let (next_keys, next_values) = next.map_or((&[][..], &[][..]), |next| {
                self.attention.cache.head(*next, self.head)
            });
            let mut weights = [[0.0_f32; BLOCK_TOKENS]; W];
            scores::<S, E, W, H>(simd, queries, [keys, next_keys], &mut weights);
            for vector in 0..vectors {
                let row = self.attention.rows[tile.rows.start + vector / heads];
                let seen = (row.position + 1).saturating_sub(begin).min(BLOCK_TOKENS);
                let weights = &mut weights[vector];
                if seen == 0 {
                    weights.fill(0.0);
                    continue;
                }
                weights[seen..].fill(f32::NEG_INFINITY);
                let before = state.largest[vector];
                let mut largest = simd.splat(before);
                for half in weights.as_chunks::<ROWS>().0 {
                    for part in 0..ROWS / S::LANES {
                        largest = simd.max(largest, simd.load(half, part));
                    }
                }
                let largest = simd.largest(largest);
                if largest > before {
                    state.largest[vector] = largest;
                    let factor = exp_of(simd, before - largest);
                    scale(simd, &mut state.sums[vector], factor);
                    for chunk in 0..chunks {
                        scale(simd, &mut state.values[chunk * WIDEST + vector], factor);
                    }
                }
                for half in weights.as_chunks_mut::<ROWS>().0 {
                    for part in 0..ROWS / S::LANES {
                        let score = simd.sub(simd.load(half, part), simd.splat(largest));
                        simd.store(simd.exp(score), half, part);
                    }
                }
                weights[seen..].fill(0.0);
                for half in weights.as_chunks::<ROWS>().0 {
                    for part in 0..ROWS / S::LANES {
                        let sum = simd.load(&state.sums[vector], part);
                        let sum = simd.add(sum, simd.load(half, part));
                        simd.store(sum, &mut state.sums[vector], part);
                    }
                }
            }
            let values = [values, next_values];
            let (weights, sums) = (&weights, &mut *state.values);
            let mut chunk = 0;
            while chunk + C <= chunks {
                let place = [chunk, chunks];
                accumulate::<S, E, W, C>(simd, weights, tokens, values, place, sums);
                chunk += C;
            }
            while chunk < chunks {
                let place = [chunk, chunks];
                accumulate::<S, E, W, 1>(simd, weights, tokens, values, place, sums);
                chunk += 1;
            }
        }
    }

    /// The tile's queries, scaled, dimension by dimension; idle vectors stay zero.
    #[inline(always)]
    fn gather<const W: usize>(&self, target: &mut [[f32; W]]) {
        let (tile, queries) = (self.tile, self.attention.queries);
        let shape = self.attention.cache.shape;
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let group = queries.heads / shape.kv_heads;
        let mut vector = 0;
        for row in tile.rows.clone() {
            for head in tile.heads.clone() {
                let start = row * queries.stride + (self.head * group + head) * shape.head_dim;
                let query = &queries.data[start..start + shape.head_dim];
                for (target, value) in target.iter_mut().zip(query) {
                    target[vector] = value * scale;
                }
                vector += 1;
            }
        }
    }
}

/// Scores of all tokens of a block; those past the last visible one are meaningless.
#[inline(always)]
fn scores<S: Simd, E: Element, const W: usize, const H: usize>(
    simd: S,
    queries: &[[f32; W]],
    [keys, next]: [&[[E; BLOCK_TOKENS]]; 2],
    scores: &mut [[f32; BLOCK_TOKENS]; W],
) {
    for first in (0..BLOCK_TOKENS / ROWS).step_by(H) {
        for part in 0..ROWS / S::LANES {
            let mut sums = [[simd.splat(0.0); W]; H];
            for (index, (query, keys)) in queries.iter().zip(keys).enumerate() {
                if let Some(row) = next.get(index) {
                    simd.prefetch_all::<2>(bytemuck::cast_slice(row));
                }
                let halves = &keys.as_chunks::<ROWS>().0[first..first + H];
                for (sums, half) in sums.iter_mut().zip(halves) {
                    let keys = E::load(simd, half, part);
                    for (sum, query) in sums.iter_mut().zip(query) {
                        *sum = simd.fma(keys, simd.splat(*query), *sum);
                    }
                }
            }
            for (half, sums) in sums.iter().enumerate() {
                for (scores, sum) in scores.iter_mut().zip(sums) {
                    simd.store(*sum, &mut scores.as_chunks_mut().0[first + half], part);
                }
            }
        }
    }
}

/// Adds the weighted values of a block to `C` chunks of every vector.
#[inline(always)]
fn accumulate<S: Simd, E: Element, const W: usize, const C: usize>(
    simd: S,
    weights: &[[f32; BLOCK_TOKENS]; W],
    tokens: usize,
    [values, next]: [&[E]; 2],
    [first, chunks]: [usize; 2],
    state: &mut [[f32; ROWS]],
) {
    for part in 0..ROWS / S::LANES {
        let mut sums = [[simd.splat(0.0); W]; C];
        for (chunk, sums) in sums.iter_mut().enumerate() {
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = simd.load(&state[(first + chunk) * WIDEST + vector], part);
            }
        }
        let (lines, _) = values.as_chunks::<ROWS>();
        let next = next.as_chunks::<ROWS>().0;
        for (token, line) in lines.chunks_exact(chunks).enumerate().take(tokens) {
            if let Some(line) = next.get(token * chunks + first..token * chunks + first + C) {
                simd.prefetch_all::<2>(bytemuck::cast_slice(line));
            }
            for (sums, line) in sums.iter_mut().zip(&line[first..first + C]) {
                let values = E::load(simd, line, part);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = simd.fma(values, simd.splat(weights[token]), *sum);
                }
            }
        }
        for (chunk, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                simd.store(*sum, &mut state[(first + chunk) * WIDEST + vector], part);
            }
        }
    }
}

#[inline(always)]
fn scale<S: Simd>(simd: S, row: &mut [f32; ROWS], factor: f32) {
    for part in 0..ROWS / S::LANES {
        let scaled = simd.mul(simd.load(row, part), simd.splat(factor));
        simd.store(scaled, row, part);
    }
}

/// `e^x`, the same as in every lane of a vector.
#[inline(always)]
fn exp_of<S: Simd>(simd: S, x: f32) -> f32 {
    let mut row = [0.0; ROWS];
    simd.store(simd.exp(simd.splat(x)), &mut row, 0);
    row[0]
}

/// Adds the state of a later segment to that of the earlier ones.
struct Merge<'a> {
    shape: BlockShape,
    vectors: usize,
    total: &'a mut [f32],
    next: &'a mut [f32],
}

impl Job for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        merge(simd, self.shape, self.vectors, self.total, self.next);
    }
}

#[inline(always)]
fn merge<S: Simd>(simd: S, shape: BlockShape, vectors: usize, total: &mut [f32], next: &mut [f32]) {
    let (total, next) = (State::of(total), State::of(next));
    for vector in 0..vectors {
        let (a, b) = (total.largest[vector], next.largest[vector]);
        if b == f32::NEG_INFINITY {
            continue;
        }
        let largest = a.max(b);
        let (left, right) = (exp_of(simd, a - largest), exp_of(simd, b - largest));
        let join = |to: &mut [f32; ROWS], from: &[f32; ROWS]| {
            for part in 0..ROWS / S::LANES {
                let scaled = simd.mul(simd.load(to, part), simd.splat(left));
                let sum = simd.fma(simd.load(from, part), simd.splat(right), scaled);
                simd.store(sum, to, part);
            }
        };
        total.largest[vector] = largest;
        join(&mut total.sums[vector], &next.sums[vector]);
        for chunk in 0..shape.value_stride / ROWS {
            let at = chunk * WIDEST + vector;
            join(&mut total.values[at], &next.values[at]);
        }
    }
}

/// Joins what is left of a tile's segments and writes its rows.
struct Join<'a, E> {
    attention: Attention<'a, E>,
    tile: &'a Tile,
    head: usize,
    total: &'a mut [f32],
    others: &'a mut [f32],
}

impl<E: Element> Job for Join<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let shape = self.attention.cache.shape;
        let vectors = self.tile.vectors();
        for next in self.others.chunks_exact_mut(state_floats(shape)) {
            merge(simd, shape, vectors, self.total, next);
        }
        let state = State::of(self.total);
        let group = self.attention.queries.heads / shape.kv_heads;
        let width = self.attention.queries.heads * shape.head_dim;
        let heads = self.tile.heads.len();
        for vector in 0..vectors {
            let row = self.tile.rows.start + vector / heads;
            let head = self.head * group + self.tile.heads.start + vector % heads;
            let start = row * width + head * shape.head_dim;
            // SAFETY: this head of this row belongs to this tile, which one thread has.
            let out = unsafe { self.attention.out.part(start..start + shape.head_dim) };
            let normaliser = 1.0 / sum(&state.sums[vector]);
            for (chunk, out) in out.chunks_mut(ROWS).enumerate() {
                let mut values = state.values[chunk * WIDEST + vector];
                scale(simd, &mut values, normaliser);
                out.copy_from_slice(&values[..out.len()]);
            }
        }
    }
}

/// The sum of a row, pairwise, in a fixed order.
#[inline(always)]
pub(crate) fn sum(row: &[f32; ROWS]) -> f32 {
    let mut row = *row;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            row[i] += row[i + half];
        }
    }
    row[0]
}
