//! Matrix products: packed weights times tiles of activations.
//!
//! One kernel serves decode and prefill: it walks a panel of 16 weight rows block by block,
//! unpacks the codes in registers and multiplies them with every column of a tile, so that the
//! unpacking is shared by up to 12 columns and nothing is expanded in memory. **Invariant.** Each
//! element of the product is summed in one order, whatever the tile, the thread or the level; a
//! row's result does not depend on the rows beside it.

#![expect(unsafe_code, reason = "threads fill disjoint columns of one output")]
#![expect(
    clippy::inline_always,
    reason = "compiled for the level of the caller, with everything in registers"
)]

use super::input::{Columns, Input, Tiles};
use super::pack::{Block, Format, Matrix};
use super::pool::{Pool, Shared};
use super::short::{self, COLUMNS, Group, Tables};
use super::simd::{Job, Level, ROWS, Simd};
use crate::kv::Element;
use std::marker::PhantomData;

/// Activations of one group of tiles: what fits in a core's second-level cache with room to
/// spare.
const GROUP_BYTES: usize = 384 << 10;

/// Columns up to which a tile waits for memory.
const NARROW: usize = 2;
/// How far ahead of what it reads a narrow tile asks for memory.
const AHEAD_BYTES: usize = 4096;

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
    let per_unit = 1 + usize::from(output.ending == Ending::Gate);
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
            level.run_bf16(RoundedProduct(product));
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
            Format::Bf16Wide => self.walk::<S, Brains<false>>(simd),
            Format::Bf16 => unreachable!("it has a job of its own"),
        }
    }
}

/// The same for bf16 weights with activations rounded to bf16, which have a level of their own.
struct RoundedProduct<'a>(Product<'a>);

impl Job for RoundedProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.walk::<S, Brains<true>>(simd);
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
        let mut results = [[[0.0_f32; ROWS]; W]; 2];
        let results = &mut results[..count];
        for (panel, result) in (first..).zip(&mut *results) {
            let weights = &self.weights[panel * panel_bytes..];
            let ahead = weights.get(AHEAD_BYTES..).unwrap_or_default();
            K::tile(
                simd,
                &weights[..panel_bytes],
                ahead,
                self.input,
                row,
                result,
            );
            self.add_outliers::<S, W>(panel, row, result);
        }
        if self.output.ending == Ending::Gate {
            let [gate, up] = results else {
                unreachable!("panels of gate and up come in pairs")
            };
            silu_times(simd, gate, up);
            self.put(unit, row, self.matrix.rows / 2, gate);
        } else {
            for (panel, result) in (first..).zip(&*results) {
                self.put(panel, row, self.matrix.rows, result);
            }
        }
    }

    /// Adds the weights that the panel itself has not.
    #[inline(always)]
    fn add_outliers<S: Simd, const W: usize>(
        &self,
        panel: usize,
        row: usize,
        result: &mut [[f32; ROWS]; W],
    ) {
        let rounded = match self.matrix.format {
            Format::Bf16 => S::HAS_BF16,
            Format::Bf16Wide => false,
            _ => return,
        };
        let shape = [self.matrix.panels, self.matrix.columns];
        for [place, bits] in short::outliers(self.weights, shape, panel) {
            let (column, lane) = (*place as usize / ROWS, *place as usize % ROWS);
            let x: [f32; W] = if rounded {
                self.input.rounded_column(row, column)
            } else {
                self.input.column(row, column)
            };
            for (result, x) in result.iter_mut().zip(x) {
                result[lane] = f32::from_bits(*bits).mul_add(x, result[lane]);
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

/// Multiplies a panel with one tile of the input.
///
/// `ahead` is what lies [`AHEAD_BYTES`] after the panel's beginning; a narrow tile waits for memory
/// more than it computes, so it asks for that early. One stream of weights is read front to back:
/// two panels side by side would hide the latency of sums, but are slower to read.
trait Kernel {
    /// Columns of the widest tile.
    fn columns<S: Simd>() -> usize;

    fn tile<S: Simd, const W: usize>(
        simd: S,
        panel: &[u8],
        ahead: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[f32; ROWS]; W],
    );
}

/// Integer codes times integer codes, block by block.
struct Int<const BITS: usize, const SCALES: usize, const MINS: usize>;

impl<const BITS: usize, const SCALES: usize, const MINS: usize> Kernel for Int<BITS, SCALES, MINS> {
    #[inline(always)]
    fn columns<S: Simd>() -> usize {
        S::INT_COLUMNS
    }

    #[inline(always)]
    fn tile<S: Simd, const W: usize>(
        simd: S,
        panel: &[u8],
        ahead: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[f32; ROWS]; W],
    ) {
        let panel: &[Block<BITS, SCALES, MINS>] = bytemuck::cast_slice(panel);
        let words = panel.len() * size_of::<Columns<1>>() / 4;
        let tile = &input.integers[row * words..(row + W) * words];
        let tile: &[Columns<W>] = bytemuck::cast_slice(tile);
        for part in 0..ROWS / S::LANES {
            let mut sums = [simd.splat(0.0); W];
            for (index, (block, columns)) in panel.iter().zip(tile).enumerate() {
                if W <= NARROW && BITS == 8 {
                    ask_for::<2, S, Block<BITS, SCALES, MINS>>(simd, ahead, index);
                } else if W <= NARROW {
                    ask_for::<1, S, Block<BITS, SCALES, MINS>>(simd, ahead, index);
                }
                integer_block(simd, part, block, columns, &mut sums);
            }
            put_sums(simd, part, &sums, results);
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

/// Asks the memory for the `index`-th `T` of what is `ahead`: codes of 8 bits into the second-level
/// cache, others into the first, each as it was faster (`docs/cpu-engine.md`).
#[inline(always)]
fn ask_for<const LEVEL: i32, S: Simd, T>(simd: S, ahead: &[u8], index: usize) {
    let start = index * size_of::<T>();
    if let Some(bytes) = ahead.get(start..start + size_of::<T>()) {
        simd.prefetch_all::<LEVEL>(bytes);
    }
}

/// Half or single precision weights, single precision activations.
struct Floats<E>(PhantomData<E>);

impl<E: Element> Kernel for Floats<E> {
    #[inline(always)]
    fn columns<S: Simd>() -> usize {
        S::FLOAT_COLUMNS
    }

    #[inline(always)]
    fn tile<S: Simd, const W: usize>(
        simd: S,
        panel: &[u8],
        ahead: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[f32; ROWS]; W],
    ) {
        let lines: &[[E; ROWS]] = bytemuck::cast_slice(panel);
        let x = &input.floats[row * lines.len()..];
        let x = x.as_chunks::<W>().0[..lines.len()].as_chunks();
        let weights = lines.as_chunks();
        sum_up(simd, &Lines { weights, ahead, x }, results);
    }
}

/// A slice by eights, and what is left.
type Eights<'a, T> = (&'a [[T; COLUMNS]], &'a [T]);

/// Weights of 16 rows, line by line, and what they are multiplied with.
struct Lines<'a, E, const W: usize> {
    weights: Eights<'a, [E; ROWS]>,
    ahead: &'a [u8],
    x: Eights<'a, [f32; W]>,
}

impl<S: Simd, E: Element, const W: usize> Groups<S, W> for Lines<'_, E, W> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.weights.0.len() + usize::from(!self.weights.1.is_empty())
    }

    #[inline(always)]
    fn add(&self, simd: S, part: usize, index: usize, sums: &mut [S::F; W]) {
        if W <= NARROW {
            ask_for::<1, S, [[E; ROWS]; COLUMNS]>(simd, self.ahead, index);
        }
        match (self.weights.0.get(index), self.x.0.get(index)) {
            (Some(lines), Some(x)) => add_lines(simd, part, lines, x, sums),
            _ => add_lines(simd, part, self.weights.1, self.x.1, sums),
        }
    }
}

#[inline(always)]
fn add_lines<S: Simd, E: Element, const W: usize>(
    simd: S,
    part: usize,
    lines: &[[E; ROWS]],
    x: &[[f32; W]],
    sums: &mut [S::F; W],
) {
    for (weights, x) in lines.iter().zip(x) {
        let weights = E::load(simd, weights, part);
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = simd.fma(weights, simd.splat(*x), *sum);
        }
    }
}

/// A tile of a float kernel by groups of 8 columns.
trait Groups<S: Simd, const W: usize> {
    fn count(&self) -> usize;

    /// Adds the products of the `index`-th group.
    fn add(&self, simd: S, part: usize, index: usize, sums: &mut [S::F; W]);
}

/// Adds every other group to one sum and the rest to another: products of one sum wait for each
/// other, and a narrow tile has few others to do meanwhile. Where a wide one has no registers for
/// both, it takes one after the other.
#[inline(always)]
fn sum_up<S: Simd, const W: usize>(
    simd: S,
    tile: &impl Groups<S, W>,
    results: &mut [[f32; ROWS]; W],
) {
    let (evens, odds) = (tile.count().div_ceil(2), tile.count() / 2);
    for part in 0..ROWS / S::LANES {
        let mut sums = [simd.splat(0.0); W];
        let mut others = [simd.splat(0.0); W];
        if W <= NARROW || S::LANES == ROWS {
            for index in 0..odds {
                tile.add(simd, part, 2 * index, &mut sums);
                tile.add(simd, part, 2 * index + 1, &mut others);
            }
            if odds < evens {
                tile.add(simd, part, 2 * odds, &mut sums);
            }
        } else {
            for index in 0..evens {
                tile.add(simd, part, 2 * index, &mut sums);
            }
            for index in 0..odds {
                tile.add(simd, part, 2 * index + 1, &mut others);
            }
        }
        for (sum, other) in sums.iter_mut().zip(others) {
            *sum = simd.add(*sum, other);
        }
        put_sums(simd, part, &sums, results);
    }
}

#[inline(always)]
fn put_sums<S: Simd, const W: usize>(
    simd: S,
    part: usize,
    sums: &[S::F; W],
    results: &mut [[f32; ROWS]; W],
) {
    for (result, sum) in results.iter_mut().zip(sums) {
        simd.store(*sum, result, part);
    }
}

/// bf16 weights in 12 bits. Where they are to be `ROUNDED` and the processor multiplies bf16
/// numbers, so are the activations; else these are in single precision.
struct Brains<const ROUNDED: bool>;

impl<const ROUNDED: bool> Kernel for Brains<ROUNDED> {
    #[inline(always)]
    fn columns<S: Simd>() -> usize {
        S::FLOAT_COLUMNS
    }

    #[inline(always)]
    fn tile<S: Simd, const W: usize>(
        simd: S,
        panel: &[u8],
        ahead: &[u8],
        input: &Input,
        row: usize,
        results: &mut [[f32; ROWS]; W],
    ) {
        let (tables, panel) = short::parts(panel);
        let halves = input.halves.get(row * 4 * panel.len()..);
        let floats = input.floats.get(row * 8 * panel.len()..);
        let floats = floats.unwrap_or_default().as_chunks().0.as_chunks().0;
        let tile = Pairs::<'_, ROUNDED, W> {
            tables,
            panel,
            ahead,
            halves: halves.unwrap_or_default().as_chunks().0.as_chunks().0,
            floats: floats.as_chunks().0,
        };
        sum_up(simd, &tile, results);
    }
}

/// bf16 weights of 16 rows, in groups of four pairs of columns, and what they are multiplied with.
struct Pairs<'a, const ROUNDED: bool, const W: usize> {
    tables: &'a Tables,
    panel: &'a [Group],
    ahead: &'a [u8],
    halves: &'a [[[u32; W]; 4]],
    floats: &'a [[[[f32; W]; 2]; 4]],
}

impl<S: Simd, const ROUNDED: bool, const W: usize> Groups<S, W> for Pairs<'_, ROUNDED, W> {
    #[inline(always)]
    fn count(&self) -> usize {
        self.panel.len()
    }

    #[inline(always)]
    fn add(&self, simd: S, part: usize, index: usize, sums: &mut [S::F; W]) {
        if W <= NARROW {
            ask_for::<1, S, Group>(simd, self.ahead, index);
        }
        let pairs = simd.bf16_pairs(self.tables, &self.panel[index], part);
        for (pair, weights) in pairs.into_iter().enumerate() {
            if ROUNDED && S::HAS_BF16 {
                for (sum, x) in sums.iter_mut().zip(&self.halves[index][pair]) {
                    *sum = simd.dot_bf16(*sum, weights, *x);
                }
                continue;
            }
            let weights = [simd.bf16_even(weights), simd.bf16_odd(weights)];
            for (weights, column) in weights.into_iter().zip(&self.floats[index][pair]) {
                for (sum, x) in sums.iter_mut().zip(column) {
                    *sum = simd.fma(weights, simd.splat(*x), *sum);
                }
            }
        }
    }
}
