//! Matrix products: packed weights times tiles of activations.
//!
//! One kernel serves decode and prefill: it walks a panel of 16 weight rows block by block,
//! unpacks the codes in registers and multiplies them with every column of a tile, so that the
//! unpacking is shared by up to 12 columns and nothing is expanded in memory. **Invariant.** Each
//! element of the product is summed in the order of the columns, whatever the tile, the thread or
//! the level; a row's result does not depend on the rows beside it.

#![expect(unsafe_code, reason = "threads fill disjoint columns of one output")]
#![expect(
    clippy::inline_always,
    reason = "compiled for the level of the caller, with everything in registers"
)]

use super::input::{Columns, Input, Tiles};
use super::pack::{Block, Format, Matrix};
use super::pool::{Pool, Shared};
use super::simd::{Job, Level, ROWS, Simd};
use crate::kv::Element;
use std::marker::PhantomData;

/// Activations of one group of tiles: what fits in a core's second-level cache with room to
/// spare.
const GROUP_BYTES: usize = 384 << 10;

/// Columns up to which a tile waits for memory.
const NARROW: usize = 2;
/// Rows of 16 weights for which memory is asked at once.
const LINES_AHEAD: usize = 2;

/// What becomes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is stored.
    Store,
    /// It is added to what is there.
    Add,
    /// Panels alternate between gate and up; `silu(gate) * up` is stored.
    Gate,
}

/// Where a product goes: rows of `stride` elements, from column `first` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output<'a> {
    pub(crate) data: Shared<'a, f32>,
    pub(crate) stride: usize,
    pub(crate) first: usize,
    pub(crate) ending: Ending,
}

/// Multiplies: `output[row][r] = sum over c of weights[r][c] * input[row][c]`.
pub(crate) fn multiply(
    pool: &mut Pool,
    level: Level,
    matrix: &Matrix,
    weights: &[u8],
    input: &Input,
    output: Output<'_>,
) {
    assert_eq!(matrix.columns, input.columns, "the shapes must agree");
    let widest = if matrix.format.is_integer() {
        level.int_columns()
    } else {
        level.float_columns()
    };
    let tiles = Tiles::new(input.rows, widest);
    let per_group = (GROUP_BYTES / (matrix.columns * 2 * widest)).max(1);
    let groups = tiles.count().div_ceil(per_group);
    // One panel alone does not hide the latency of floating-point sums when columns are few.
    let narrow = !matrix.format.is_integer() && input.rows <= NARROW;
    let per_unit = 1 + usize::from(narrow || output.ending == Ending::Gate);
    let units = matrix.panels.div_ceil(per_unit);
    let work = matrix.rows * matrix.columns * input.rows;
    pool.run(groups * units, work, |_, items| {
        let product = Product {
            matrix,
            weights,
            input,
            output,
            tiles,
            per_group,
            per_unit,
            units,
            items,
        };
        if matrix.format == Format::Bf16 {
            level.run_bf16(BrainProduct(product));
        } else {
            level.run(product);
        }
    });
}

/// Some of the items of a product; an item is one unit of one or two panels and one group of
/// tiles.
struct Product<'a> {
    matrix: &'a Matrix,
    weights: &'a [u8],
    input: &'a Input,
    output: Output<'a>,
    tiles: Tiles,
    per_group: usize,
    per_unit: usize,
    units: usize,
    items: std::ops::Range<usize>,
}

impl Job for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.matrix.format {
            Format::Int4 => self.walk::<S, Int<4, 1, 0>>(simd),
            Format::Int4Min => self.walk::<S, Int<4, 1, 1>>(simd),
            Format::Int5 => self.walk::<S, Int<5, 1, 0>>(simd),
            Format::Int5Min => self.walk::<S, Int<5, 1, 1>>(simd),
            Format::Int6 => self.walk::<S, Int<6, 2, 0>>(simd),
            Format::Int8 => self.walk::<S, Int<8, 1, 0>>(simd),
            Format::F16 => self.walk::<S, Floats<u16>>(simd),
            Format::F32 => self.walk::<S, Floats<f32>>(simd),
            Format::Bf16 => unreachable!("it has a job of its own"),
        }
    }
}

/// The same for bf16 weights, which have a level of their own.
struct BrainProduct<'a>(Product<'a>);

impl Job for BrainProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.walk::<S, Brain>(simd);
    }
}

impl Product<'_> {
    #[inline(always)]
    fn walk<S: Simd, K: Kernel>(&self, simd: S) {
        for item in self.items.clone() {
            let (group, unit) = (item / self.units, item % self.units);
            let first = group * self.per_group;
            let last = self.tiles.count().min(first + self.per_group);
            for tile in first..last {
                let rows = self.tiles.tile(tile);
                match rows.len() {
                    12 if K::columns::<S>() >= 12 => self.tile::<S, K, 12>(simd, unit, rows.start),
                    8 if K::columns::<S>() >= 8 => self.tile::<S, K, 8>(simd, unit, rows.start),
                    4 => self.tile::<S, K, 4>(simd, unit, rows.start),
                    2 => self.tile::<S, K, 2>(simd, unit, rows.start),
                    _ => self.tile::<S, K, 1>(simd, unit, rows.start),
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, K: Kernel, const W: usize>(&self, simd: S, unit: usize, row: usize) {
        let panel_bytes = self.matrix.format.panel_bytes(self.matrix.columns);
        let first = unit * self.per_unit;
        let count = self.per_unit.min(self.matrix.panels - first);
        let (panels, next) = self.weights[first * panel_bytes..].split_at(count * panel_bytes);
        let mut results = [[[0.0_f32; ROWS]; W]; 2];
        if K::PAIRS && W <= NARROW {
            let last = (count - 1) * panel_bytes;
            let pair = [&panels[..panel_bytes], &panels[last..]];
            K::tile::<S, W, 2>(simd, pair, next, self.input, row, &mut results);
        } else {
            for (index, panel) in panels.chunks_exact(panel_bytes).enumerate() {
                let ahead = &self.weights[(first + index + 1) * panel_bytes..];
                let result: &mut [_; 1] = (&mut results[index..=index])
                    .try_into()
                    .expect("a slice of one");
                K::tile::<S, W, 1>(simd, [panel], ahead, self.input, row, result);
            }
        }
        if self.output.ending == Ending::Gate {
            let [gate, up] = &mut results;
            silu_times(simd, gate, up);
            self.put(unit, row, self.matrix.rows / 2, gate);
        } else {
            for (index, result) in results[..count].iter().enumerate() {
                self.put(first + index, row, self.matrix.rows, result);
            }
        }
    }

    /// Writes the rows of one panel, of `rows` in all.
    #[inline(always)]
    fn put<const W: usize>(
        &self,
        panel: usize,
        row: usize,
        rows: usize,
        result: &[[f32; ROWS]; W],
    ) {
        let columns = panel * ROWS..rows.min((panel + 1) * ROWS);
        for (index, values) in result.iter().enumerate() {
            let start = (row + index) * self.output.stride + self.output.first;
            let range = start + columns.start..start + columns.end;
            // SAFETY: this panel's columns of this row belong to this item, which one thread has.
            let out = unsafe { self.output.data.part(range) };
            if self.output.ending == Ending::Add {
                for (out, value) in out.iter_mut().zip(values) {
                    *out += *value;
                }
            } else {
                out.copy_from_slice(&values[..out.len()]);
            }
        }
    }
}

/// `gate = silu(gate) * up`
#[inline(always)]
fn silu_times<S: Simd>(simd: S, gate: &mut [[f32; ROWS]], up: &[[f32; ROWS]]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        for part in 0..ROWS / S::LANES {
            let (g, u) = (simd.load(gate, part), simd.load(up, part));
            let negative = simd.sub(simd.splat(0.0), g);
            let below = simd.add(simd.splat(1.0), simd.exp(negative));
            simd.store(simd.mul(simd.div(g, below), u), gate, part);
        }
    }
}

/// Multiplies one or two panels with one tile of the input.
///
/// `next` is what follows the panels in memory; a narrow tile waits for memory more than it
/// computes, so it asks for that early.
trait Kernel {
    /// Whether a narrow tile takes two panels at once.
    const PAIRS: bool;

    /// Columns of the widest tile.
    fn columns<S: Simd>() -> usize;

    fn tile<S: Simd, const W: usize, const P: usize>(
        simd: S,
        panels: [&[u8]; P],
        next: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[[f32; ROWS]; W]; P],
    );
}

/// Integer codes times integer codes, block by block.
struct Int<const BITS: usize, const SCALES: usize, const MINS: usize>;

impl<const BITS: usize, const SCALES: usize, const MINS: usize> Kernel for Int<BITS, SCALES, MINS> {
    const PAIRS: bool = false;

    #[inline(always)]
    fn columns<S: Simd>() -> usize {
        S::INT_COLUMNS
    }

    #[inline(always)]
    fn tile<S: Simd, const W: usize, const P: usize>(
        simd: S,
        panels: [&[u8]; P],
        next: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[[f32; ROWS]; W]; P],
    ) {
        for (panel, result) in panels.into_iter().zip(results) {
            let panel: &[Block<BITS, SCALES, MINS>] = bytemuck::cast_slice(panel);
            let words = panel.len() * size_of::<Columns<1>>() / 4;
            let tile = &input.integers[row * words..(row + W) * words];
            let tile: &[Columns<W>] = bytemuck::cast_slice(tile);
            for part in 0..ROWS / S::LANES {
                let mut sums = [simd.splat(0.0); W];
                for (index, (block, columns)) in panel.iter().zip(tile).enumerate() {
                    if W <= NARROW {
                        ask_for::<S, Block<BITS, SCALES, MINS>>(simd, next, index);
                    }
                    integer_block(simd, part, block, columns, &mut sums);
                }
                for (result, sum) in result.iter_mut().zip(&sums) {
                    simd.store(*sum, result, part);
                }
            }
        }
    }
}

#[inline(always)]
fn integer_block<
    S: Simd,
    const BITS: usize,
    const SCALES: usize,
    const MINS: usize,
    const W: usize,
>(
    simd: S,
    part: usize,
    block: &Block<BITS, SCALES, MINS>,
    columns: &Columns<W>,
    sums: &mut [S::F; W],
) {
    let offset = Block::<BITS, SCALES, MINS>::OFFSET;
    for (index, scales) in block.scales.iter().enumerate() {
        let mut dots = [simd.splat_i32(0); W];
        if MINS == 0 {
            for (c, dot) in dots.iter_mut().enumerate() {
                let negative = if SCALES == 2 {
                    columns.negative[index][c]
                } else {
                    columns.negative[0][c] + columns.negative[1][c]
                };
                *dot = simd.splat_i32(negative * offset);
            }
        }
        let pairs = 4 / SCALES;
        for pair in index * pairs..(index + 1) * pairs {
            let [low, high] = block.codes(simd, pair, part);
            for (codes, x) in [
                (low, &columns.codes[2 * pair]),
                (high, &columns.codes[2 * pair + 1]),
            ] {
                for (dot, x) in dots.iter_mut().zip(x) {
                    *dot = if BITS == 8 {
                        simd.dot_wide(*dot, codes, *x)
                    } else {
                        simd.dot(*dot, codes, *x)
                    };
                }
            }
        }
        let scales = simd.load_f16(scales, part);
        for (c, sum) in sums.iter_mut().enumerate() {
            let scale = simd.mul(scales, simd.splat(columns.scale[c]));
            *sum = simd.fma(simd.to_f32(dots[c]), scale, *sum);
        }
    }
    for minima in &block.minima {
        let minima = simd.load_f16(minima, part);
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = simd.fma(minima, simd.splat(columns.sum[c]), *sum);
        }
    }
}

/// Asks the memory for the `index`-th `T` of the bytes that follow a panel.
#[inline(always)]
fn ask_for<S: Simd, T>(simd: S, next: &[u8], index: usize) {
    let start = index * size_of::<T>();
    if let Some(bytes) = next.get(start..start + size_of::<T>()) {
        simd.prefetch_all(bytes);
    }
}

/// Half or single precision weights, single precision activations.
struct Floats<E>(PhantomData<E>);

impl<E: Element> Kernel for Floats<E> {
    const PAIRS: bool = true;

    #[inline(always)]
    fn columns<S: Simd>() -> usize {
        S::FLOAT_COLUMNS
    }

    #[inline(always)]
    fn tile<S: Simd, const W: usize, const P: usize>(
        simd: S,
        panels: [&[u8]; P],
        next: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[[f32; ROWS]; W]; P],
    ) {
        let panels = panels.map(|panel| bytemuck::cast_slice::<u8, E>(panel).as_chunks().0);
        let lines = panels[0].len();
        let panels: [&[[E; ROWS]]; P] = panels.map(|panel| &panel[..lines]);
        let tile = &input.floats[row * lines..(row + W) * lines];
        let tile = &tile.as_chunks::<W>().0[..lines];
        for part in 0..ROWS / S::LANES {
            let mut sums = [[simd.splat(0.0); W]; P];
            for line in 0..lines {
                if W <= NARROW && line % LINES_AHEAD == 0 {
                    ask_for::<S, [[[E; ROWS]; LINES_AHEAD]; P]>(simd, next, line / LINES_AHEAD);
                }
                for (panel, sums) in panels.iter().zip(&mut sums) {
                    let weights = E::load(simd, &panel[line], part);
                    for (sum, x) in sums.iter_mut().zip(&tile[line]) {
                        *sum = simd.fma(weights, simd.splat(*x), *sum);
                    }
                }
            }
            put_sums(simd, part, &sums, results);
        }
    }
}

#[inline(always)]
fn put_sums<S: Simd, const W: usize, const P: usize>(
    simd: S,
    part: usize,
    sums: &[[S::F; W]; P],
    results: &mut [[[f32; ROWS]; W]; P],
) {
    for (result, sums) in results.iter_mut().zip(sums) {
        for (result, sum) in result.iter_mut().zip(sums) {
            simd.store(*sum, result, part);
        }
    }
}

/// bf16 weights; bf16 activations where the processor multiplies them, else single precision.
struct Brain;

impl Kernel for Brain {
    const PAIRS: bool = true;

    #[inline(always)]
    fn columns<S: Simd>() -> usize {
        S::FLOAT_COLUMNS
    }

    #[inline(always)]
    fn tile<S: Simd, const W: usize, const P: usize>(
        simd: S,
        panels: [&[u8]; P],
        next: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[[f32; ROWS]; W]; P],
    ) {
        let panels = panels.map(|panel| panel.as_chunks::<{ 4 * ROWS }>().0);
        let lines = panels[0].len();
        let panels = panels.map(|panel| &panel[..lines]);
        if !S::HAS_BF16 {
            let width = input.columns;
            let tile = &input.floats[row * width..(row + W) * width];
            let tile = tile.as_chunks::<W>().0;
            for part in 0..ROWS / S::LANES {
                let mut sums = [[simd.splat(0.0); W]; P];
                for (line, columns) in tile.chunks(2).enumerate() {
                    for (panel, sums) in panels.iter().zip(&mut sums) {
                        let pairs = simd.bytes(&panel[line], part);
                        let weights = [simd.bf16_even(pairs), simd.bf16_odd(pairs)];
                        for (weights, columns) in weights.into_iter().zip(columns) {
                            for (sum, x) in sums.iter_mut().zip(columns) {
                                *sum = simd.fma(weights, simd.splat(*x), *sum);
                            }
                        }
                    }
                }
                put_sums(simd, part, &sums, results);
            }
            return;
        }
        let tile = &input.halves[row * lines..(row + W) * lines];
        let tile = &tile.as_chunks::<W>().0[..lines];
        for part in 0..ROWS / S::LANES {
            let mut sums = [[simd.splat(0.0); W]; P];
            for line in 0..lines {
                if W <= NARROW {
                    ask_for::<S, [[u8; 4 * ROWS]; P]>(simd, next, line);
                }
                for (panel, sums) in panels.iter().zip(&mut sums) {
                    let pairs = simd.bytes(&panel[line], part);
                    for (sum, x) in sums.iter_mut().zip(&tile[line]) {
                        *sum = simd.dot_bf16(*sum, pairs, *x);
                    }
                }
            }
            put_sums(simd, part, &sums, results);
        }
    }
}
