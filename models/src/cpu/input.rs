//! Activations as the kernels read them: tiles of a few rows, their columns side by side.
//!
//! A row of activations is a column of the product. A tile holds up to 12 of them interleaved,
//! so that a kernel reads it front to back at constant offsets. For integer weights each block
//! of 32 values is rounded to bytes with one scale. **Invariant.** What a row becomes does not
//! depend on the rows beside it, nor on the level (but for bf16 rounding, where the processor
//! multiplies bf16 numbers).

#![expect(unsafe_code, reason = "threads fill disjoint parts of one buffer")]

use super::pack::{BLOCK, Format};
use super::pool::{Pool, Shared};
use super::simd::{Job, Level, ROWS, Simd};
use std::ops::Range;

/// One block of 32 values of `W` rows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Columns<const W: usize> {
    /// Four values of each row, as signed bytes.
    pub(super) codes: [[i32; W]; BLOCK / 4],
    /// What the value 1 of a code stands for.
    pub(super) scale: [f32; W],
    /// Sum of the values.
    pub(super) sum: [f32; W],
    /// Minus the sum of the codes, for each half of the block.
    pub(super) negative: [[i32; W]; 2],
}

/// 32-bit words that a block of one row takes.
const WORDS: usize = size_of::<Columns<1>>() / 4;

/// Which forms of the activations a product needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    integers: bool,
    floats: bool,
    halves: bool,
}

impl Forms {
    /// What matrices of these formats need at a level.
    pub(crate) fn of(formats: impl IntoIterator<Item = Format>, level: Level) -> Self {
        let mut forms = Self::default();
        for format in formats {
            match format {
                Format::Bf16 if level.has_bf16() => forms.halves = true,
                Format::F16 | Format::F32 | Format::Bf16 | Format::Bf16Wide => {
                    forms.floats = true;
                }
                _ => forms.integers = true,
            }
        }
        forms
    }
}

/// How the rows of an input are grouped: tiles of the widest kind, then smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    rows: usize,
    widest: usize,
}

impl Tiles {
    pub(super) fn new(rows: usize, widest: usize) -> Self {
        Self { rows, widest }
    }

    pub(super) fn count(self) -> usize {
        self.rows / self.widest + (self.rows % self.widest).count_ones() as usize
    }

    /// The rows of a tile. Those that fill no whole tile are split by powers of two.
    pub(super) fn tile(self, index: usize) -> Range<usize> {
        let whole = self.rows / self.widest;
        if index < whole {
            return index * self.widest..(index + 1) * self.widest;
        }
        let mut start = whole * self.widest;
        let mut rest = self.rows - start;
        for _ in whole..index {
            let width = 1 << rest.ilog2();
            start += width;
            rest -= width;
        }
        start..start + (1 << rest.ilog2())
    }

    /// The tile that holds a row.
    fn of_row(self, row: usize) -> Range<usize> {
        let whole = self.rows / self.widest;
        let mut tile = self.tile((row / self.widest).min(whole));
        while !tile.contains(&row) {
            let rest = self.rows - tile.end;
            tile = tile.end..tile.end + (1 << rest.ilog2());
        }
        tile
    }
}

/// Activations of one product. Reused, so that a step allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) integers: Vec<i32>,
    pub(super) floats: Vec<f32>,
    pub(super) halves: Vec<u32>,
    scratch: Vec<f32>,
}

impl Input {
    /// Rows taken last.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// One column of the tile of `W` rows that begins at `row`, single precision.
    #[inline]
    pub(super) fn column<const W: usize>(&self, row: usize, column: usize) -> [f32; W] {
        let tile = &self.floats[row * self.columns..];
        tile.as_chunks().0[column]
    }

    /// The same where activations are rounded to bf16.
    #[inline]
    pub(super) fn rounded_column<const W: usize>(&self, row: usize, column: usize) -> [f32; W] {
        let tile = &self.halves[row * self.columns.div_ceil(2)..];
        let pairs: [u32; W] = tile.as_chunks().0[column / 2];
        pairs.map(|pair| f32::from_bits(pair >> (16 * (column % 2)) << 16))
    }

    /// Takes rows of `columns` values as they are.
    pub(crate) fn take(
        &mut self,
        pool: &mut Pool,
        level: Level,
        forms: Forms,
        columns: usize,
        data: &[f32],
    ) {
        let shape = [data.len() / columns, columns];
        self.fill(pool, level, forms, shape, |row, out| {
            out.copy_from_slice(&data[row * columns..(row + 1) * columns]);
        });
    }

    /// Takes `rows` rows of `columns` values; `compute(row, out)` gives one.
    pub(crate) fn fill(
        &mut self,
        pool: &mut Pool,
        level: Level,
        forms: Forms,
        [rows, columns]: [usize; 2],
        compute: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        let blocks = columns / BLOCK;
        let size = |wanted: bool, words: usize| if wanted { rows * words } else { 0 };
        self.integers
            .resize(size(forms.integers, blocks * WORDS), 0);
        self.floats.resize(size(forms.floats, columns), 0.0);
        self.halves
            .resize(size(forms.halves, columns.div_ceil(2)), 0);
        self.scratch.resize(pool.threads() * columns, 0.0);
        (self.rows, self.columns) = (rows, columns);
        let integers = Shared::new(&mut self.integers);
        let floats = Shared::new(&mut self.floats);
        let halves = Shared::new(&mut self.halves);
        let scratch = Shared::new(&mut self.scratch);
        let whole = Tiles::new(rows, level.int_columns());
        let real = Tiles::new(rows, level.float_columns());
        pool.run(rows, rows * columns * 8, |thread, range| {
            // SAFETY: each thread has a number of its own.
            let scratch = unsafe { scratch.part(thread * columns..(thread + 1) * columns) };
            for row in range {
                compute(row, scratch);
                if forms.integers {
                    let target = Target::new(integers, whole, row, blocks * WORDS);
                    level.run(Quantise(scratch, target));
                }
                if forms.floats {
                    let target = Target::new(floats, real, row, columns);
                    target.put_from(0, scratch);
                }
                if forms.halves {
                    let target = Target::new(halves, real, row, columns.div_ceil(2));
                    level.run(Round(scratch, target));
                }
            }
        });
    }
}

/// Where the words of one row go: every `width`-th of its tile.
#[derive(Clone, Copy)]
struct Target<'a, T> {
    shared: Shared<'a, T>,
    first: usize,
    width: usize,
    lines: usize,
}

impl<'a, T: Copy> Target<'a, T> {
    fn new(shared: Shared<'a, T>, tiles: Tiles, row: usize, lines: usize) -> Self {
        let tile = tiles.of_row(row);
        Self {
            shared,
            first: tile.start * lines + row - tile.start,
            width: tile.len(),
            lines,
        }
    }

    /// Sets the lines from `line` on, as many as there are values.
    #[inline]
    fn put_from(self, line: usize, values: &[T]) {
        assert!(
            line + values.len() <= self.lines,
            "a row has {} lines",
            self.lines
        );
        for (index, value) in values.iter().enumerate() {
            // SAFETY: a row is filled by one thread, and no other row has this word: lines of
            // a tile are `width` words long and each row has its own place in them.
            unsafe {
                self.shared
                    .set(self.first + (line + index) * self.width, *value);
            }
        }
    }
}

/// Rounds a row to pairs of bf16 numbers, to nearest, ties to even.
struct Round<'a>(&'a [f32], Target<'a, u32>);

impl Job for Round<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn run<S: Simd>(self, _simd: S) {
        let Self(row, target) = self;
        for (index, chunk) in row.chunks(BLOCK).enumerate() {
            let mut block = [0.0_f32; BLOCK];
            block[..chunk.len()].copy_from_slice(chunk);
            let bits = block.map(|value| {
                let bits = value.to_bits();
                bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
            });
            let words: [u32; BLOCK / 2] =
                std::array::from_fn(|pair| bits[2 * pair] | bits[2 * pair + 1] << 16);
            let pairs = chunk.len().div_ceil(2);
            target.put_from(index * BLOCK / 2, &words[..pairs]);
        }
    }
}

/// Rounds a row to bytes, block by block.
struct Quantise<'a>(&'a [f32], Target<'a, i32>);

impl Job for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn run<S: Simd>(self, simd: S) {
        let Self(row, target) = self;
        for (index, block) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
            target.put_from(index * WORDS, &quantise(simd, block));
        }
    }
}

/// The words of [`Columns`] for one row and block.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
fn quantise<S: Simd>(simd: S, block: &[f32; BLOCK]) -> [i32; WORDS] {
    let halves: [&[f32; ROWS]; 2] = std::array::from_fn(|half| &block.as_chunks().0[half]);
    let mut largest = simd.splat(0.0);
    for half in halves {
        for part in 0..ROWS / S::LANES {
            let value = simd.load(half, part);
            let negative = simd.sub(simd.splat(0.0), value);
            largest = simd.max(largest, simd.max(value, negative));
        }
    }
    let largest = simd.largest(largest);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let scale = largest / 127.0;
    let mut words = [0; WORDS];
    let mut sums = [0; 2];
    for (index, half) in halves.into_iter().enumerate() {
        let mut bytes = [0; ROWS];
        for part in 0..ROWS / S::LANES {
            let scaled = simd.mul(simd.load(half, part), simd.splat(inverse));
            sums[index] += simd.round_to_bytes(scaled, &mut bytes, part);
        }
        for (word, four) in words[4 * index..].iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = i32::from_le_bytes(*four);
        }
    }
    words[8] = scale.to_bits().cast_signed();
    words[9] = ((sums[0] + sums[1]) as f32 * scale).to_bits().cast_signed();
    (words[10], words[11]) = (-sums[0], -sums[1]);
    words
}

#[expect(unsafe_code, reason = "tiles are plain words")]
mod plain_old_data {
    use super::Columns;

    // SAFETY: all fields are arrays of 32-bit numbers, so any bytes are a block.
    unsafe impl<const W: usize> bytemuck::Zeroable for Columns<W> {}
    // SAFETY: `repr(C)` with only arrays of 32-bit numbers: no padding.
    unsafe impl<const W: usize> bytemuck::Pod for Columns<W> {}
}
