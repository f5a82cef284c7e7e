//! Single kernels, for benches and instruction counts; not part of the crate's interface.

use crate::config::LlamaConfig;
use crate::cpu::attention::{Queries, QueryRow, attend};
use crate::cpu::input::Forms;
use crate::cpu::memory::Memory;
use crate::cpu::pack::{Format, Matrix};
use crate::cpu::pool::Shared;
use crate::cpu::product::{Ending, Output, multiply};
use crate::cpu::{Cpu, CpuOptions};
use crate::kv::{BLOCK_TOKENS, KvCache, KvFormat, Parts, Placement};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// A matrix product of a given shape.
#[derive(Debug)]
pub struct ProductBench {
    cpu: Cpu,
    matrix: Matrix,
    memory: Memory,
    input: Vec<f32>,
    out: Vec<f32>,
}

impl ProductBench {
    /// The names of the formats.
    pub const FORMATS: [&'static str; 7] = ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q6_K", "F16", "BF16"];

    /// A product of `rows` outputs, `columns` inputs and `batch` rows of activations.
    ///
    /// # Panics
    /// If the format is unknown or the columns do not suit it.
    pub fn new(format: &str, [rows, columns, batch]: [usize; 3], options: CpuOptions) -> Self {
        let dtype = match format {
            "Q4_0" => GgmlDType::Q4_0,
            "Q4_1" => GgmlDType::Q4_1,
            "Q5_0" => GgmlDType::Q5_0,
            "Q8_0" => GgmlDType::Q8_0,
            "Q6_K" => GgmlDType::Q6K,
            "F16" => GgmlDType::F16,
            "BF16" => GgmlDType::BF16,
            other => unreachable!("no kernel for {other}"),
        };
        let wave = |count: usize| {
            (0..count)
                .map(|i| (i as f32 * 0.37).sin())
                .collect::<Vec<_>>()
        };
        let tensor = Tensor::from_vec(wave(rows * columns), (rows, columns), &Device::Cpu)
            .and_then(|tensor| QTensor::quantize(&tensor, dtype))
            .expect("the shape suits the format");
        let format = Format::of(dtype);
        let bytes = Matrix::most_bytes(format, rows, columns);
        let mut memory = Memory::for_spans([bytes]).expect("memory");
        let matrix = Matrix::pack(&[tensor], format, false, &mut memory);
        Self {
            cpu: Cpu::new(options),
            matrix: matrix.expect("it was quantised"),
            memory,
            input: wave(batch * columns),
            out: vec![0.0; batch * rows],
        }
    }

    /// Brings the activations into the form the kernel reads.
    #[inline(never)]
    pub fn quantise(&mut self) {
        let Cpu {
            pool,
            level,
            buffers,
            ..
        } = &mut self.cpu;
        let forms = Forms::of([self.matrix.format], *level);
        let columns = self.matrix.columns;
        buffers
            .input
            .take(pool, *level, forms, columns, &self.input);
    }

    /// Multiplies; [`Self::quantise`] must have been called.
    #[inline(never)]
    pub fn multiply(&mut self) {
        let output = Output {
            data: Shared::new(&mut self.out),
            stride: self.matrix.rows,
            first: 0,
            ending: Ending::Store,
        };
        let weights = self.memory.bytes(self.matrix.span);
        let Cpu {
            pool,
            level,
            buffers,
            ..
        } = &mut self.cpu;
        multiply(pool, *level, &self.matrix, weights, &buffers.input, output);
    }
}

/// Attention of a few rows at the end of a long sequence, in the shape of the reference model.
#[derive(Debug)]
pub struct AttentionBench {
    cpu: Cpu,
    cache: KvCache,
    blocks: Vec<u32>,
    positions: Vec<usize>,
    projected: Vec<f32>,
    out: Vec<f32>,
    /// The next layer that attends, of so many.
    layer: usize,
    layers: usize,
}

const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const STRIDE: usize = (HEADS + 2 * KV_HEADS) * HEAD_DIM;

impl AttentionBench {
    /// The last `rows` of `tokens` tokens attend, in one of `layers` after the other: keys and
    /// values of many are not in the processor's caches.
    ///
    /// # Panics
    /// If there is no memory for the cache.
    pub fn new([tokens, rows, layers]: [usize; 3], options: CpuOptions) -> Self {
        let config = LlamaConfig {
            layers,
            hidden: HEADS * HEAD_DIM,
            feed_forward: 1,
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            rope_dim: HEAD_DIM,
            rope_base: 1e4,
            norm_epsilon: 1e-5,
            context: tokens,
            vocab: 1,
        };
        let blocks: Vec<u32> = (0..tokens.div_ceil(BLOCK_TOKENS) as u32).collect();
        let mut cache = KvCache::new(&config, blocks.len(), KvFormat::F16).expect("memory");
        let mut cpu = Cpu::new(options);
        let mut projected: Vec<f32> = (0..tokens * STRIDE)
            .map(|i| (i as f32 * 0.7).sin())
            .collect();
        let placement = Placement::new([(0..tokens, &blocks[..])].into_iter()).expect("one step");
        let keys = HEADS * HEAD_DIM;
        let values = keys + KV_HEADS * HEAD_DIM;
        let parts = Parts {
            keys: keys..values,
            values: values..STRIDE,
        };
        let pool = &mut cpu.pool;
        for layer in 0..layers {
            let mut layer = cache.layer::<u16>(layer);
            layer.store(pool, &placement, &mut projected, &parts, |_, _| {});
        }
        Self {
            cpu,
            cache,
            blocks,
            positions: (tokens - rows..tokens).collect(),
            projected: projected[..rows * STRIDE].to_vec(),
            out: vec![0.0; rows * HEADS * HEAD_DIM],
            layer: 0,
            layers,
        }
    }

    /// Attends in one layer.
    #[inline(never)]
    pub fn attend(&mut self) {
        let row = |position: &usize| QueryRow {
            position: *position,
            blocks: &self.blocks,
        };
        let rows: Vec<_> = self.positions.iter().map(row).collect();
        let queries = Queries {
            data: &self.projected,
            stride: STRIDE,
            heads: HEADS,
        };
        let cache = self.cache.layer::<u16>(self.layer);
        self.layer = (self.layer + 1) % self.layers;
        let Cpu {
            pool,
            level,
            buffers,
            ..
        } = &mut self.cpu;
        let scratch = &mut buffers.attention;
        attend(pool, *level, scratch, &cache, queries, &rows, &mut self.out);
    }
}
