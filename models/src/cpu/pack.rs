//! Weights as the kernels read them: panels of 16 rows, blocks of 32 columns.
//!
//! Packing reorders the codes of a GGUF tensor and keeps their values: a block of any of the
//! integer formats becomes codes of 4, 5, 6 or 8 bits with one scale for each 32 or 16 of them
//! and, in some formats, a minimum; numbers that are bf16, whatever they are written in, take 12
//! bits (`short`). **Invariant.** A weight keeps its value exactly, except in the K formats:
//! those multiply two scales, and the product is rounded to half precision.
//!
//! Formats: block layouts as defined by ggml (`ggml-common.h`, `ggml-quants.c`).

use super::memory::{Memory, Span};
use super::short;
use super::simd::{ROWS, Simd};
use candle_core::quantized::{GgmlDType, QTensor};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use std::ops::Range;

/// Columns of a block.
pub(crate) const BLOCK: usize = 32;

/// 32 columns of 16 rows: codes of `BITS` bits, `SCALES` scales per row (each for as many
/// columns), and `MINS` (0 or 1) minima. Codes are unsigned; without a minimum the value of a
/// code is counted from `2^(BITS - 1)`.
///
/// Four columns of a row are the four bytes of a lane. A line of `codes` holds columns
/// `8 i .. 8 i + 4` in the low nibbles and the next four in the high ones; the lines after the
/// first four hold the bits above the nibble. With 8 bits each line holds four columns.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Block<const BITS: usize, const SCALES: usize, const MINS: usize> {
    pub(super) scales: [[u16; ROWS]; SCALES],
    pub(super) minima: [[u16; ROWS]; MINS],
    pub(super) codes: [[u8; 4 * ROWS]; BITS],
}

/// One of the packed layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `Block<4, 1, 0>`: `Q4_0`.
    Int4,
    /// `Block<4, 1, 1>`: `Q4_1`, `Q4_K`.
    Int4Min,
    /// `Block<5, 1, 0>`: `Q5_0`.
    Int5,
    /// `Block<5, 1, 1>`: `Q5_1`, `Q5_K`.
    Int5Min,
    /// `Block<6, 2, 0>`: `Q6_K`.
    Int6,
    /// `Block<8, 1, 0>`: `Q8_0`.
    Int8,
    /// Half precision, one row of 16 per column.
    F16,
    /// bf16 in 12 bits; activations are rounded to bf16 where the processor multiplies them.
    Bf16,
    /// The same, of a file in half or single precision: activations are not rounded.
    Bf16Wide,
    /// Single precision, one row of 16 per column.
    F32,
}

impl Format {
    /// The layout for a tensor's format; those without one of their own are expanded to f32. What
    /// floating-point numbers are packed as is known when they are ([`Matrix::pack`]).
    pub(crate) fn of(dtype: GgmlDType) -> Self {
        match dtype {
            GgmlDType::Q4_0 => Self::Int4,
            GgmlDType::Q4_1 | GgmlDType::Q4K => Self::Int4Min,
            GgmlDType::Q5_0 => Self::Int5,
            GgmlDType::Q5_1 | GgmlDType::Q5K => Self::Int5Min,
            GgmlDType::Q6K => Self::Int6,
            GgmlDType::Q8_0 => Self::Int8,
            GgmlDType::F16 => Self::F16,
            GgmlDType::BF16 => Self::Bf16,
            _ => Self::F32,
        }
    }

    /// Whether activations are quantised for it.
    pub(crate) fn is_integer(self) -> bool {
        !matches!(self, Self::F16 | Self::Bf16 | Self::Bf16Wide | Self::F32)
    }

    /// Bytes of one panel of `columns` columns.
    pub(crate) fn panel_bytes(self, columns: usize) -> usize {
        let blocks = columns.div_ceil(BLOCK);
        match self {
            Self::Int4 => blocks * size_of::<Block<4, 1, 0>>(),
            Self::Int4Min => blocks * size_of::<Block<4, 1, 1>>(),
            Self::Int5 => blocks * size_of::<Block<5, 1, 0>>(),
            Self::Int5Min => blocks * size_of::<Block<5, 1, 1>>(),
            Self::Int6 => blocks * size_of::<Block<6, 2, 0>>(),
            Self::Int8 => blocks * size_of::<Block<8, 1, 0>>(),
            Self::F16 => columns * ROWS * 2,
            Self::Bf16 | Self::Bf16Wide => short::panel_bytes(columns),
            Self::F32 => columns * ROWS * 4,
        }
    }
}

/// A packed matrix: where it lies and what shape it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Panels of 16 rows; the last of each tensor may be padded with rows of zeros.
    pub(crate) panels: usize,
    pub(crate) span: Span,
}

impl Matrix {
    /// Bytes a matrix takes at most when it is packed, by the format of its tensors.
    pub(crate) fn most_bytes(format: Format, rows: usize, columns: usize) -> usize {
        let format = match format {
            Format::Bf16 => Format::F32,
            other => other,
        };
        rows.div_ceil(ROWS) * format.panel_bytes(columns)
    }

    /// Packs `tensors`, which follow each other row by row, into the next bytes of `memory`.
    ///
    /// With `interleave` the panels of the tensors (all of one shape) alternate.
    pub(crate) fn pack(
        tensors: &[QTensor],
        format: Format,
        interleave: bool,
        memory: &mut Memory,
    ) -> candle_core::Result<Self> {
        let mut rows = 0;
        let mut panels = Vec::new();
        let mut sources = Vec::new();
        let (_, columns) = tensors[0].shape().dims2()?;
        for (index, tensor) in tensors.iter().enumerate() {
            let (more, _) = tensor.shape().dims2()?;
            rows += more;
            sources.push(Source::new(tensor, format)?);
            panels.extend((0..more).step_by(ROWS).map(|first| Panel {
                source: index,
                rows: first..more.min(first + ROWS),
            }));
        }
        if interleave {
            panels.sort_by_key(|panel| panel.rows.start);
        }
        let value = |panel: usize, row: usize, column: usize| {
            let Panel { source, rows } = &panels[panel];
            let row = rows.start + row;
            if row < rows.end {
                sources[*source].brain(row * columns + column)
            } else {
                Some(0)
            }
        };
        let short = short::Plan::new(panels.len(), columns, value);
        let format = match (format, &short) {
            (Format::F16 | Format::F32, Some(_)) => Format::Bf16Wide,
            (Format::Bf16, None) => Format::F32,
            (format, _) => format,
        };
        let panel_bytes = format.panel_bytes(columns);
        let bytes = short
            .as_ref()
            .map_or(panels.len() * panel_bytes, short::Plan::bytes);
        let span = memory.take(bytes);
        let target = memory.bytes_mut(span);
        if let Some(short) = short {
            let value = |panel, row, column| value(panel, row, column).unwrap_or_default();
            short.pack(value, target);
        } else {
            for (panel, target) in panels.iter().zip(target.chunks_exact_mut(panel_bytes)) {
                sources[panel.source].panel(panel.rows.clone(), columns, format, target);
            }
        }
        Ok(Self {
            format,
            rows,
            columns,
            panels: panels.len(),
            span,
        })
    }

    /// One row with its values.
    pub(crate) fn row(&self, bytes: &[u8], row: usize, out: &mut [f32]) {
        let panel_bytes = self.format.panel_bytes(self.columns);
        let at = row / ROWS * panel_bytes;
        let panel = &bytes[at..at + panel_bytes];
        let lane = row % ROWS;
        match self.format {
            Format::Int4 => expand::<4, 1, 0>(panel, lane, out),
            Format::Int4Min => expand::<4, 1, 1>(panel, lane, out),
            Format::Int5 => expand::<5, 1, 0>(panel, lane, out),
            Format::Int5Min => expand::<5, 1, 1>(panel, lane, out),
            Format::Int6 => expand::<6, 2, 0>(panel, lane, out),
            Format::Int8 => expand::<8, 1, 0>(panel, lane, out),
            Format::F16 => {
                let lines: &[[u16; ROWS]] = bytemuck::cast_slice(panel);
                for (out, line) in out.iter_mut().zip(lines) {
                    *out = f16::from_bits(line[lane]).to_f32();
                }
            }
            Format::Bf16 | Format::Bf16Wide => {
                short::row(bytes, [self.panels, self.columns], row, out);
            }
            Format::F32 => {
                let lines: &[[f32; ROWS]] = bytemuck::cast_slice(panel);
                for (out, line) in out.iter_mut().zip(lines) {
                    *out = line[lane];
                }
            }
        }
    }
}

/// 32 weights of one row: `scale * (code - offset) + minimum`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Plain {
    /// One for each half of the block.
    scales: [f32; 2],
    minimum: f32,
    codes: [u8; BLOCK],
}

/// 16 rows of one of several tensors, or what is left at its end.
struct Panel {
    source: usize,
    rows: Range<usize>,
}

/// A tensor on its way into panels.
enum Source {
    Blocks { bytes: Vec<u8>, dtype: GgmlDType },
    Halves(Vec<f16>),
    Brains(Vec<bf16>),
    Floats(Vec<f32>),
}

impl Source {
    fn new(tensor: &QTensor, format: Format) -> candle_core::Result<Self> {
        let pairs = |bytes: &[u8]| -> Vec<u16> {
            let pairs = bytes.as_chunks::<2>().0.iter();
            pairs.map(|pair| u16::from_le_bytes(*pair)).collect()
        };
        Ok(match format {
            Format::F16 => Self::Halves(pairs(&tensor.data()?).reinterpret_into()),
            Format::Bf16 => Self::Brains(pairs(&tensor.data()?).reinterpret_into()),
            Format::F32 => {
                let tensor = tensor.dequantize(&candle_core::Device::Cpu)?;
                Self::Floats(tensor.flatten_all()?.to_vec1()?)
            }
            _ => Self::Blocks {
                bytes: tensor.data()?.into_owned(),
                dtype: tensor.dtype(),
            },
        })
    }

    /// The bits of a number, if it is a bf16 number.
    fn brain(&self, index: usize) -> Option<u16> {
        let value = match self {
            Self::Blocks { .. } => return None,
            Self::Brains(data) => return Some(data[index].to_bits()),
            Self::Halves(data) => data[index].to_f32(),
            Self::Floats(data) => data[index],
        };
        let bits = value.to_bits();
        let [high, low] = [(bits >> 16) as u16, bits as u16];
        (low == 0).then_some(high)
    }

    fn panel(&self, rows: Range<usize>, columns: usize, format: Format, target: &mut [u8]) {
        target.fill(0);
        match self {
            Self::Blocks { bytes, dtype } => {
                for (lane, row) in rows.enumerate() {
                    for block in 0..columns / BLOCK {
                        let plain = plain(*dtype, bytes, row * columns / BLOCK + block);
                        match format {
                            Format::Int4 => put::<4, 1, 0>(target, block, lane, &plain),
                            Format::Int4Min => put::<4, 1, 1>(target, block, lane, &plain),
                            Format::Int5 => put::<5, 1, 0>(target, block, lane, &plain),
                            Format::Int5Min => put::<5, 1, 1>(target, block, lane, &plain),
                            Format::Int6 => put::<6, 2, 0>(target, block, lane, &plain),
                            _ => put::<8, 1, 0>(target, block, lane, &plain),
                        }
                    }
                }
            }
            Self::Halves(data) => {
                let bits = |index: usize| data[index].to_bits();
                spread(rows, columns, bits, bytemuck::cast_slice_mut(target));
            }
            Self::Brains(data) => {
                let value = |index: usize| data[index].to_f32();
                spread(rows, columns, value, bytemuck::cast_slice_mut(target));
            }
            Self::Floats(data) => {
                let value = |index: usize| data[index];
                spread(rows, columns, value, bytemuck::cast_slice_mut(target));
            }
        }
    }
}

/// Turns rows into columns of 16.
fn spread<T>(rows: Range<usize>, columns: usize, value: impl Fn(usize) -> T, target: &mut [T]) {
    for (lane, row) in rows.enumerate() {
        for column in 0..columns {
            target[column * ROWS + lane] = value(row * columns + column);
        }
    }
}

impl<const BITS: usize, const SCALES: usize, const MINS: usize> Block<BITS, SCALES, MINS> {
    /// What a code without a minimum is counted from.
    pub(super) const OFFSET: i32 = if MINS == 0 { 1 << (BITS - 1) } else { 0 };

    /// The codes of columns `8 pair .. 8 pair + 8`, four to a lane.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "inlined into the caller that enables the instructions"
    )]
    pub(super) fn codes<S: Simd>(&self, simd: S, pair: usize, part: usize) -> [S::B; 2] {
        if BITS == 8 {
            return [
                simd.bytes(&self.codes[2 * pair], part),
                simd.bytes(&self.codes[2 * pair + 1], part),
            ];
        }
        let line = simd.bytes(&self.codes[pair], part);
        let (low, high) = (simd.low_nibbles(line), simd.high_nibbles(line));
        if BITS == 5 {
            let bits = simd.bytes(&self.codes[4], part);
            let bits = match pair {
                0 => bits,
                1 => simd.right::<2>(bits),
                2 => simd.right::<4>(bits),
                _ => simd.right::<6>(bits),
            };
            let low = simd.merge_left::<4>(low, bits, 0x10);
            return [low, simd.merge_left::<3>(high, bits, 0x10)];
        }
        if BITS == 6 {
            let bits = simd.bytes(&self.codes[4 + pair / 2], part);
            let bits = if pair.is_multiple_of(2) {
                bits
            } else {
                simd.right::<4>(bits)
            };
            let low = simd.merge_left::<4>(low, bits, 0x30);
            return [low, simd.merge_left::<2>(high, bits, 0x30)];
        }
        [low, high]
    }

    /// Where the code of a column lies: its line and, in the lane, its byte.
    fn place(column: usize) -> (usize, usize) {
        if BITS == 8 {
            (column / 4, column % 4)
        } else {
            (column / 8, column % 4)
        }
    }

    fn set(&mut self, lane: usize, column: usize, code: u8) {
        let (line, byte) = Self::place(column);
        let byte = 4 * lane + byte;
        if BITS == 8 {
            self.codes[line][byte] = code;
            return;
        }
        let upper = column / 4 % 2;
        self.codes[line][byte] |= (code & 15) << (4 * upper);
        if BITS == 5 {
            self.codes[4][byte] |= (code >> 4) << (2 * line + upper);
        }
        if BITS == 6 {
            self.codes[4 + line / 2][byte] |= (code >> 4) << (4 * (line % 2) + 2 * upper);
        }
    }

    fn get(&self, lane: usize, column: usize) -> u8 {
        let (line, byte) = Self::place(column);
        let byte = 4 * lane + byte;
        if BITS == 8 {
            return self.codes[line][byte];
        }
        let upper = column / 4 % 2;
        let low = (self.codes[line][byte] >> (4 * upper)) & 15;
        let high = match BITS {
            5 => (self.codes[4][byte] >> (2 * line + upper)) & 1,
            6 => (self.codes[4 + line / 2][byte] >> (4 * (line % 2) + 2 * upper)) & 3,
            _ => 0,
        };
        low | high << 4
    }
}

fn put<const BITS: usize, const SCALES: usize, const MINS: usize>(
    panel: &mut [u8],
    block: usize,
    lane: usize,
    plain: &Plain,
) {
    let blocks: &mut [Block<BITS, SCALES, MINS>] = bytemuck::cast_slice_mut(panel);
    let block = &mut blocks[block];
    for (index, scales) in block.scales.iter_mut().enumerate() {
        scales[lane] = f16::from_f32(plain.scales[index]).to_bits();
    }
    for minima in &mut block.minima {
        minima[lane] = f16::from_f32(plain.minimum).to_bits();
    }
    for (column, code) in plain.codes.iter().enumerate() {
        block.set(lane, column, *code);
    }
}

fn expand<const BITS: usize, const SCALES: usize, const MINS: usize>(
    panel: &[u8],
    lane: usize,
    out: &mut [f32],
) {
    let blocks: &[Block<BITS, SCALES, MINS>] = bytemuck::cast_slice(panel);
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(BLOCK)) {
        for (column, out) in out.iter_mut().enumerate() {
            let scale = f16::from_bits(block.scales[column * SCALES / BLOCK][lane]).to_f32();
            let code = i32::from(block.get(lane, column));
            let minimum = block.minima.first();
            let minimum = minimum.map_or(0.0, |minima| f16::from_bits(minima[lane]).to_f32());
            let offset = Block::<BITS, SCALES, MINS>::OFFSET;
            *out = scale * (code - offset) as f32 + minimum;
        }
    }
}

/// The `index`-th group of 32 weights of a tensor's bytes.
#[expect(clippy::too_many_lines, reason = "one arm for each format")]
fn plain(dtype: GgmlDType, bytes: &[u8], index: usize) -> Plain {
    let number = |bytes: &[u8], at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
    let size = dtype.type_size();
    let per_block = dtype.block_size() / BLOCK;
    let block = &bytes[index / per_block * size..][..size];
    let group = index % per_block;
    let mut plain = Plain::default();
    let mut nibbles = |from: &[u8]| {
        for (i, byte) in from[..16].iter().enumerate() {
            plain.codes[i] = byte & 15;
            plain.codes[16 + i] = byte >> 4;
        }
    };
    let fifth_bits = |codes: &mut [u8; BLOCK], from: &[u8]| {
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= ((from[i / 8] >> (i % 8)) & 1) << 4;
        }
    };
    match dtype {
        GgmlDType::Q4_0 => {
            nibbles(&block[2..]);
            plain.scales = [number(block, 0); 2];
        }
        GgmlDType::Q4_1 => {
            nibbles(&block[4..]);
            plain.scales = [number(block, 0); 2];
            plain.minimum = number(block, 2);
        }
        GgmlDType::Q5_0 => {
            nibbles(&block[6..]);
            fifth_bits(&mut plain.codes, &block[2..6]);
            plain.scales = [number(block, 0); 2];
        }
        GgmlDType::Q5_1 => {
            nibbles(&block[8..]);
            fifth_bits(&mut plain.codes, &block[4..8]);
            plain.scales = [number(block, 0); 2];
            plain.minimum = number(block, 2);
        }
        GgmlDType::Q8_0 => {
            plain.scales = [number(block, 0); 2];
            for (code, byte) in plain.codes.iter_mut().zip(&block[2..]) {
                *code = byte ^ 0x80;
            }
        }
        GgmlDType::Q4K | GgmlDType::Q5K => {
            let (scale, minimum) = scale_and_minimum(&block[4..16], group);
            plain.scales = [number(block, 0) * f32::from(scale); 2];
            plain.minimum = -number(block, 2) * f32::from(minimum);
            let nibbles = if dtype == GgmlDType::Q4K { 16 } else { 48 };
            for i in 0..BLOCK {
                let byte = block[nibbles + group / 2 * BLOCK + i];
                plain.codes[i] = (byte >> (group % 2 * 4)) & 15;
                if dtype == GgmlDType::Q5K {
                    plain.codes[i] |= ((block[16 + i] >> group) & 1) << 4;
                }
            }
        }
        GgmlDType::Q6K => {
            let (half, quarter) = (group / 4, group % 4);
            let scale = |i: usize| f32::from(block[192 + half * 8 + quarter * 2 + i].cast_signed());
            let whole = number(block, 208);
            plain.scales = [whole * scale(0), whole * scale(1)];
            for i in 0..BLOCK {
                let low = block[half * 64 + quarter % 2 * BLOCK + i] >> (quarter / 2 * 4);
                let high = block[128 + half * BLOCK + i] >> (quarter * 2);
                plain.codes[i] = low & 15 | (high & 3) << 4;
            }
        }
        other => unreachable!("{other:?} is expanded before it is packed"),
    }
    plain
}

/// The 6-bit scale and minimum of a group in a `Q4_K` or `Q5_K` block.
fn scale_and_minimum(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let high = packed[group + 4];
        (
            high & 15 | packed[group - 4] >> 6 << 4,
            high >> 4 | packed[group] >> 6 << 4,
        )
    }
}

#[expect(unsafe_code, reason = "blocks are plain bytes")]
mod plain_old_data {
    use super::Block;
    use bytemuck::{Pod, Zeroable};

    // SAFETY: all fields are arrays of integers, so any bytes are a block.
    unsafe impl<const B: usize, const S: usize, const M: usize> Zeroable for Block<B, S, M> {}
    // SAFETY: `repr(C)` with only arrays of integers; the sizes used (4 to 8 lines of 64 bytes,
    // and 32 bytes for each scale and minimum) are multiples of the alignment, so there is no
    // padding, which the assertions below check.
    unsafe impl<const B: usize, const S: usize, const M: usize> Pod for Block<B, S, M> {}

    const _: () = assert!(size_of::<Block<4, 1, 0>>() == 288);
    const _: () = assert!(size_of::<Block<4, 1, 1>>() == 320);
    const _: () = assert!(size_of::<Block<5, 1, 0>>() == 352);
    const _: () = assert!(size_of::<Block<5, 1, 1>>() == 384);
    const _: () = assert!(size_of::<Block<6, 2, 0>>() == 448);
    const _: () = assert!(size_of::<Block<8, 1, 0>>() == 544);
}
