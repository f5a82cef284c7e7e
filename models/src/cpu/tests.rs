//! Every level gives the bits of the scalar reference, and the reference the right numbers.

use super::attention::{Queries, QueryRow, Scratch, attend};
use super::input::{Forms, Input};
use super::memory::Memory;
use super::pack::{Format, Matrix};
use super::pool::{Pool, Shared};
use super::product::{Ending, Output, multiply};
use super::{Level, Threads};
use crate::config::LlamaConfig;
use crate::kv::{BLOCK_TOKENS, KvCache, KvFormat, Parts, Placement};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::bf16;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DTYPES: [GgmlDType; 11] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::F32,
];

fn pool(threads: usize) -> Pool {
    Pool::new(Threads {
        count: threads.try_into().unwrap(),
        pinned: false,
    })
}

fn random(rng: &mut ChaCha8Rng, length: usize, scale: f32) -> Vec<f32> {
    (0..length)
        .map(|_| (rng.random::<f32>() - 0.5) * scale)
        .collect()
}

/// A matrix, packed, and the values that its tensor stands for.
struct Packed {
    matrix: Matrix,
    memory: Memory,
    values: Vec<f32>,
}

fn tensor(dtype: GgmlDType, rows: usize, columns: usize, seed: u64) -> QTensor {
    let data = random(&mut ChaCha8Rng::seed_from_u64(seed), rows * columns, 2.0);
    quantised(dtype, rows, columns, data)
}

/// bf16 numbers of up to 1 with a dozen exponents, some of them zero, and among them, once in
/// `rare`, larger ones of eight exponents.
fn brains(dtype: GgmlDType, rows: usize, columns: usize, rare: usize) -> QTensor {
    let mut data = random(&mut ChaCha8Rng::seed_from_u64(5), rows * columns, 2.0);
    for (index, value) in data.iter_mut().enumerate() {
        let large = 1 << (3 + index / rare % 8);
        *value = match index {
            _ if index % rare == rare - 1 => (1.0 + value.abs()).copysign(*value) * large as f32,
            _ if index.is_multiple_of(97) => 0.0,
            _ => *value / (1 << (index % 10)) as f32,
        };
        *value = bf16::from_f32(*value).to_f32();
    }
    quantised(dtype, rows, columns, data)
}

fn quantised(dtype: GgmlDType, rows: usize, columns: usize, data: Vec<f32>) -> QTensor {
    let tensor = Tensor::from_vec(data, (rows, columns), &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, dtype).unwrap()
}

fn values(tensor: &QTensor) -> Vec<f32> {
    let tensor = tensor.dequantize(&Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn packed(dtype: GgmlDType, rows: usize, columns: usize) -> Packed {
    pack(&[tensor(dtype, rows, columns, 7)], dtype, false)
}

fn pack(tensors: &[QTensor], dtype: GgmlDType, interleave: bool) -> Packed {
    let format = Format::of(dtype);
    let bytes = tensors.iter().map(|tensor| {
        let (rows, columns) = tensor.shape().dims2().unwrap();
        Matrix::most_bytes(format, rows, columns)
    });
    let mut memory = Memory::for_spans([bytes.sum()]).unwrap();
    let matrix = Matrix::pack(tensors, format, interleave, &mut memory).unwrap();
    Packed {
        matrix,
        memory,
        values: values(&tensors[0]),
    }
}

fn product(
    packed: &Packed,
    level: Level,
    threads: usize,
    input: &[f32],
    ending: Ending,
) -> Vec<f32> {
    let matrix = &packed.matrix;
    let rows = input.len() / matrix.columns;
    let outputs = if ending == Ending::Gate {
        matrix.rows / 2
    } else {
        matrix.rows
    };
    let mut pool = pool(threads);
    let mut tiles = Input::default();
    let forms = Forms::of([matrix.format], level);
    tiles.take(&mut pool, level, forms, matrix.columns, input);
    let mut out = vec![1.0; rows * outputs];
    let output = Output {
        data: Shared::new(&mut out),
        stride: outputs,
        first: 0,
        ending,
    };
    let weights = packed.memory.bytes(matrix.span);
    multiply(&mut pool, level, matrix, weights, &tiles, output);
    out
}

fn check_rows(packed: &Packed, dtype: GgmlDType) {
    let columns = packed.matrix.columns;
    let mut row = vec![0.0; columns];
    for index in 0..packed.matrix.rows {
        packed
            .matrix
            .row(packed.memory.bytes(packed.matrix.span), index, &mut row);
        for (column, value) in row.iter().enumerate() {
            let expected = packed.values[index * columns + column];
            // the product of two scales is rounded to 11 bits
            let tolerance = match dtype {
                GgmlDType::Q4K | GgmlDType::Q5K | GgmlDType::Q6K => 2.0 / 1024.0,
                _ => 0.0,
            };
            assert!(
                (value - expected).abs() <= tolerance,
                "{dtype:?} {index} {column}: {value} {expected}"
            );
        }
    }
}

#[test]
fn packing_keeps_every_weight() {
    for dtype in DTYPES {
        check_rows(&packed(dtype, 37, 512), dtype);
    }
}

#[test]
fn bf16_numbers_take_12_bits_whatever_they_are_written_in() {
    use Format::{Bf16, Bf16Wide, F16, F32};
    let (rows, columns) = (37, 256);
    for (dtype, rare, expected) in [
        (GgmlDType::BF16, 5000, Bf16),
        (GgmlDType::BF16, 100, Bf16),
        // too many outliers
        (GgmlDType::BF16, 20, F32),
        (GgmlDType::F16, 100, Bf16Wide),
        (GgmlDType::F16, 20, F16),
        (GgmlDType::F32, 5000, Bf16Wide),
        (GgmlDType::F32, 20, F32),
    ] {
        let tensor = brains(dtype, rows, columns, rare);
        let packed = pack(&[tensor], dtype, false);
        let matrix = &packed.matrix;
        assert_eq!(matrix.format, expected, "{dtype:?}, one in {rare}");
        if matches!(expected, Bf16 | Bf16Wide) {
            let bits = matrix.span.bytes() as f64 * 8.0 / (matrix.panels * 16 * columns) as f64;
            assert!((12.0..13.5).contains(&bits), "{bits} bits");
        }
        check_rows(&packed, dtype);
    }
    // what is no bf16 number, and what is no group of columns
    assert_eq!(packed(GgmlDType::F16, 16, 256).matrix.format, F16);
    assert_eq!(packed(GgmlDType::F32, 16, 256).matrix.format, F32);
    let odd = pack(
        &[brains(GgmlDType::BF16, 16, 36, 100)],
        GgmlDType::BF16,
        false,
    );
    assert_eq!(odd.matrix.format, F32);
    check_rows(&odd, GgmlDType::BF16);
}

#[test]
fn outliers_count_at_every_level() {
    let (rows, columns, batch) = (40, 256, 15);
    let mut input = random(&mut ChaCha8Rng::seed_from_u64(9), batch * columns, 4.0);
    // exact in bf16, so that no level rounds it
    for x in &mut input {
        *x = bf16::from_f32(*x).to_f32();
    }
    for dtype in [GgmlDType::BF16, GgmlDType::F16, GgmlDType::F32] {
        let packed = pack(&[brains(dtype, rows, columns, 100)], dtype, false);
        let panels = packed.matrix.panels * packed.matrix.format.panel_bytes(columns);
        assert!(
            packed.matrix.span.bytes() > panels + 8 * rows,
            "an outlier in most rows"
        );
        let reference = product(&packed, Level::Scalar, 1, &input, Ending::Store);
        for (index, found) in reference.iter().enumerate() {
            let (row, output) = (index / rows, index % rows);
            let weights = &packed.values[output * columns..][..columns];
            let products = weights.iter().zip(&input[row * columns..][..columns]);
            let products = products.map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size): (f64, f64), product| {
                (sum + product, size + product.abs())
            });
            let error = (f64::from(*found) - sum).abs();
            assert!(error < 1e-6 * size, "{dtype:?} {index}: {found} {sum}");
        }
        for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
            let found = product(&packed, level, 2, &input, Ending::Store);
            if dtype == GgmlDType::BF16 && level == Level::Avx512Bf16 {
                // its products are added in another order
                for (a, b) in found.iter().zip(&reference) {
                    assert!((a - b).abs() < 1e-3 * columns as f32, "{a} {b}");
                }
            } else {
                assert_eq!(found, reference, "{dtype:?} {level}");
            }
        }
    }
}

#[test]
fn the_reference_is_the_textbook_product() {
    for dtype in DTYPES {
        let (rows, columns, batch) = (40, 512, 3);
        let packed = packed(dtype, rows, columns);
        let input = random(&mut ChaCha8Rng::seed_from_u64(1), batch * columns, 4.0);
        let found = product(&packed, Level::Scalar, 1, &input, Ending::Store);
        // 8-bit activations: each product is off by at most half a step
        let rounding = if packed.matrix.format.is_integer() {
            0.02
        } else {
            1e-4
        };
        for (index, found) in found.iter().enumerate() {
            let (row, output) = (index / rows, index % rows);
            let weights = &packed.values[output * columns..][..columns];
            let x = &input[row * columns..][..columns];
            let products = weights
                .iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x));
            let expected: f64 = products.sum();
            let spread = (columns as f64).sqrt() * 2.0 / 12.0_f64.sqrt() * 4.0 / 12.0_f64.sqrt();
            let error = (f64::from(*found) - expected).abs() / spread;
            assert!(
                error < rounding * 4.0,
                "{dtype:?} {index}: {found} {expected}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn levels_threads_and_tiles_change_no_bit(
        dtype in prop::sample::select(DTYPES.to_vec()),
        rows in 1..70_usize,
        superblocks in 1..3_usize,
        batch in 1..40_usize,
        brain: bool,
        threads in 1..4_usize,
        ending in prop::sample::select(vec![Ending::Store, Ending::Add]),
        seed: u64,
    ) {
        let columns = superblocks * 256;
        let packed = if brain {
            pack(&[brains(dtype, rows, columns, 300)], dtype, false)
        } else {
            packed(dtype, rows, columns)
        };
        let mut input = random(&mut ChaCha8Rng::seed_from_u64(seed), batch * columns, 6.0);
        input[..columns / 2].fill(0.0);
        let alone: Vec<f32> = input
            .chunks(columns)
            .flat_map(|row| product(&packed, Level::Scalar, 1, row, ending))
            .collect();
        for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
            let found = product(&packed, level, threads, &input, ending);
            if dtype == GgmlDType::BF16 && level == Level::Avx512Bf16 {
                // activations are rounded to 8 bits of mantissa: each product is off by 1 in 256
                // at most, and those of even weights by far less in sum
                let scale = (columns as f32).sqrt() * 2.0;
                for (index, (a, b)) in found.iter().zip(&alone).enumerate() {
                    let (row, output) = (index / rows, index % rows);
                    let weights = &packed.values[output * columns..][..columns];
                    let products = weights.iter().zip(&input[row * columns..][..columns]);
                    let size: f32 = products.map(|(w, x)| (w * x).abs()).sum();
                    let bound = if brain { size / 250.0 } else { scale / 128.0 };
                    prop_assert!((a - b).abs() < bound.max(f32::MIN_POSITIVE), "{} {}", a, b);
                }
            } else {
                prop_assert_eq!(&found, &alone, "{}", level);
            }
        }
    }
}

#[test]
fn gate_and_up_alternate_and_are_joined() {
    let (rows, columns, batch) = (24, 64, 5);
    for dtype in [GgmlDType::Q4_1, GgmlDType::F32] {
        let pair = [
            tensor(dtype, rows, columns, 1),
            tensor(dtype, rows, columns, 2),
        ];
        let [gate, up] = [values(&pair[0]), values(&pair[1])];
        let packed = pack(&pair, dtype, true);
        let input = random(&mut ChaCha8Rng::seed_from_u64(3), batch * columns, 2.0);
        let reference = product(&packed, Level::Scalar, 1, &input, Ending::Gate);
        for (index, found) in reference.iter().enumerate() {
            let x = &input[index / rows * columns..][..columns];
            let dot = |weights: &[f32]| -> f64 {
                let weights = &weights[index % rows * columns..][..columns];
                weights
                    .iter()
                    .zip(x)
                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
                    .sum()
            };
            let (gate, up) = (dot(&gate), dot(&up));
            let expected = gate / (1.0 + (-gate).exp()) * up;
            assert!(
                (f64::from(*found) - expected).abs() < 0.3,
                "{found} {expected}"
            );
        }
        for level in Level::ALL {
            assert_eq!(
                product(&packed, level, 2, &input, Ending::Gate),
                reference,
                "{level}"
            );
        }
    }
}

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
        context: 4096,
        vocab: 8,
    }
}

/// A sequence of random queries, keys and values, the latter two in a cache.
struct Sequence {
    config: LlamaConfig,
    cache: KvCache,
    blocks: Vec<u32>,
    /// Query heads, key heads and value heads of every token.
    activations: Vec<f32>,
}

impl Sequence {
    fn new(config: LlamaConfig, tokens: usize, format: KvFormat) -> Self {
        let key_width = config.kv_heads * config.head_dim;
        let query_width = config.heads * config.head_dim;
        let mut rng = ChaCha8Rng::seed_from_u64(tokens as u64);
        let mut activations = random(&mut rng, tokens * (query_width + 2 * key_width), 4.0);
        let needed = tokens.div_ceil(BLOCK_TOKENS) as u32;
        let blocks: Vec<u32> = (0..needed).rev().map(|block| block * 2 + 1).collect();
        let mut cache = KvCache::new(&config, needed as usize * 2 + 1, format).unwrap();
        let placement = Placement::new([(0..tokens, &blocks[..])].into_iter()).unwrap();
        let parts = Parts {
            keys: query_width..query_width + key_width,
            values: query_width + key_width..query_width + 2 * key_width,
        };
        let mut pool = pool(2);
        match format {
            KvFormat::F16 => cache.layer::<u16>(0).store(
                &mut pool,
                &placement,
                &mut activations,
                &parts,
                |_, _| {},
            ),
            KvFormat::F32 => cache.layer::<f32>(0).store(
                &mut pool,
                &placement,
                &mut activations,
                &parts,
                |_, _| {},
            ),
        }
        Self {
            config,
            cache,
            blocks,
            activations,
        }
    }

    fn stride(&self) -> usize {
        (self.config.heads + 2 * self.config.kv_heads) * self.config.head_dim
    }

    /// The given positions, attended together.
    fn attend(&mut self, level: Level, threads: usize, positions: &[usize]) -> Vec<f32> {
        let stride = self.stride();
        let rows: Vec<_> = positions
            .iter()
            .map(|position| QueryRow {
                position: *position,
                blocks: &self.blocks,
            })
            .collect();
        let data: Vec<f32> = positions
            .iter()
            .flat_map(|position| &self.activations[position * stride..(position + 1) * stride])
            .copied()
            .collect();
        let queries = Queries {
            data: &data,
            stride,
            heads: self.config.heads,
        };
        let mut out = vec![0.0; rows.len() * self.config.heads * self.config.head_dim];
        let (mut pool, mut scratch) = (pool(threads), Scratch::default());
        let (pool, scratch) = (&mut pool, &mut scratch);
        match self.cache.format() {
            KvFormat::F16 => {
                let cache = self.cache.layer::<u16>(0);
                attend(pool, level, scratch, &cache, queries, &rows, &mut out);
            }
            KvFormat::F32 => {
                let cache = self.cache.layer::<f32>(0);
                attend(pool, level, scratch, &cache, queries, &rows, &mut out);
            }
        }
        out
    }

    /// The textbook formula in f64.
    fn naive(&self, position: usize) -> Vec<f64> {
        let (dim, stride) = (self.config.head_dim, self.stride());
        let group = self.config.heads / self.config.kv_heads;
        let row = |token: usize| &self.activations[token * stride..(token + 1) * stride];
        let mut out = Vec::new();
        for head in 0..self.config.heads {
            let query = &row(position)[head * dim..(head + 1) * dim];
            let key_at = (self.config.heads + head / group) * dim;
            let value_at = key_at + self.config.kv_heads * dim;
            let scores: Vec<f64> = (0..=position)
                .map(|token| {
                    let key = &row(token)[key_at..key_at + dim];
                    let dot = query
                        .iter()
                        .zip(key)
                        .map(|(q, k)| f64::from(*q) * f64::from(*k));
                    dot.sum::<f64>() / (dim as f64).sqrt()
                })
                .collect();
            let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - maximum).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let weighted = weights.iter().enumerate();
                let sum: f64 = weighted
                    .map(|(token, weight)| weight * f64::from(row(token)[value_at + d]))
                    .sum();
                out.push(sum / total);
            }
        }
        out
    }
}

fn check_attention(shape: [usize; 3], tokens: usize, format: KvFormat) {
    let [heads, kv_heads, head_dim] = shape;
    let mut sequence = Sequence::new(config(heads, kv_heads, head_dim), tokens, format);
    let all: Vec<usize> = (0..tokens).collect();
    let reference = sequence.attend(Level::Scalar, 1, &all);
    let width = heads * head_dim;
    let tolerance = if format == KvFormat::F32 { 5e-5 } else { 5e-3 };
    for position in [0, tokens / 2, tokens - 1] {
        let found = &reference[position * width..(position + 1) * width];
        for (found, expected) in found.iter().zip(sequence.naive(position)) {
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error < tolerance,
                "{shape:?} {position}: {found} {expected}"
            );
        }
        for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
            let alone = sequence.attend(level, 3, &[position]);
            assert_eq!(alone, found, "{shape:?} {position} alone, {level}");
        }
    }
    for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
        assert_eq!(
            sequence.attend(level, 2, &all),
            reference,
            "{shape:?} {level}"
        );
    }
}

#[test]
fn attention_matches_the_formula_and_is_the_same_at_every_level() {
    check_attention([3, 1, 64], 1, KvFormat::F32);
    check_attention([9, 3, 64], 100, KvFormat::F32);
    check_attention([9, 3, 64], 100, KvFormat::F16);
    check_attention([4, 4, 8], 33, KvFormat::F16);
    check_attention([4, 2, 20], 70, KvFormat::F32);
    check_attention([14, 1, 16], 40, KvFormat::F32);
    // longer than a segment
    check_attention([3, 1, 16], 600, KvFormat::F32);
}

#[test]
fn slots_after_the_last_visible_token_are_not_read() {
    let mut sequence = Sequence::new(config(1, 1, 16), 40, KvFormat::F16);
    // the cache is made of NaN; only 40 of its 64 slots are written
    let out = sequence.attend(Level::best(), 1, &[39]);
    assert!(out.iter().all(|x| x.is_finite()), "{out:?}");
}

#[test]
fn places_that_overlap_are_refused() {
    static TABLE: [u32; 2] = [4, 5];
    static OTHER: [u32; 2] = [6, 5];
    let blocks = [4, 5];
    let place = |steps: Vec<(std::ops::Range<usize>, &'static [u32])>| {
        Placement::new(steps.into_iter()).map(|placement| placement.rows().len())
    };
    assert_eq!(place(vec![(0..40, &TABLE), (40..50, &TABLE)]), Ok(50));
    let clash = place(vec![(0..40, &TABLE), (39..50, &TABLE)]).unwrap_err();
    assert_eq!((clash.step, clash.block), (1, blocks[1]));
    assert!(place(vec![(0..33, &TABLE), (0..33, &OTHER)]).is_err());
    assert_eq!(place(vec![(0..33, &TABLE), (0..32, &OTHER)]), Ok(65));
}

#[test]
fn a_pool_does_every_item_once_and_passes_panics_on() {
    for threads in [1, 2, 5] {
        let mut pool = pool(threads);
        for items in [0, 1, 2, 7, 1000] {
            let counts: Vec<_> = (0..items)
                .map(|_| std::sync::atomic::AtomicU32::new(0))
                .collect();
            pool.run(items, usize::MAX, |thread, range| {
                assert!(thread < threads);
                for item in range {
                    counts[item].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
            assert!(
                counts
                    .iter()
                    .all(|count| count.load(std::sync::atomic::Ordering::Relaxed) == 1)
            );
        }
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(100, usize::MAX, |_, range| {
                assert!(!range.contains(&99), "item 99");
            });
        }));
        assert!(failed.is_err());
        let mut done = vec![0_u8; 10];
        let shared = Shared::new(&mut done);
        // SAFETY: each item is done once.
        #[expect(unsafe_code, reason = "items set their own elements")]
        pool.run(10, usize::MAX, |_, range| {
            range.for_each(|item| unsafe { shared.set(item, 1) });
        });
        assert_eq!(done, [1; 10], "the pool still works");
    }
}
