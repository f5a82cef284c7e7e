//! The forward pass through candle's kernels against the project's own: two implementations that
//! share the files, the recipe and the angles, but no kernel, no cache and no attention.
//!
//! Each test runs on the processor, and on the first GPU where this build has one.

use crate::cpu;
use crate::support::ModelFile;
use candle_core::quantized::GgmlDType;
use models::{
    Draw, ForwardError, KvCache, KvFormat, Model, ModelSource, ReferenceModel, SamplingParams,
    SequenceStep, TensorDevice, TensorLlama, WeightsDtype, sample,
};

const BLOCKS: usize = 24;

/// The same model for both passes, and an empty cache for each.
struct Pair {
    own: Model,
    other: Model<TensorLlama>,
    format: KvFormat,
}

/// Chunks of some sequences, one batch after another: sequence, first token, tokens, and whether
/// logits are wanted.
type Batches = Vec<Vec<(usize, usize, usize, bool)>>;

/// The processor, and in a build with `cuda` the first GPU, if it answers.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn devices() -> Vec<TensorDevice> {
    let gpu = TensorDevice::Cuda(0);
    match gpu.facts() {
        Ok(_) => vec![TensorDevice::Cpu, gpu],
        Err(missing) => {
            if cfg!(feature = "cuda") {
                println!("skipped on a GPU: {missing}");
            }
            vec![TensorDevice::Cpu]
        }
    }
}

/// The same model for both passes, on each device.
fn pairs(source: &ModelSource, dtype: WeightsDtype, format: KvFormat) -> Vec<Pair> {
    let pair = |device| Pair {
        own: Model::load(source, dtype).unwrap(),
        other: Model::load_on(device, source, dtype).unwrap(),
        format,
    };
    devices().into_iter().map(pair).collect()
}

const TINY: ModelSource = ModelSource::Reference(ReferenceModel::RefTiny);

impl Pair {
    /// Runs the batches through both; the largest difference of two logits, as a part of the
    /// spread of their row.
    fn difference(&self, sequences: &[Vec<u32>], tables: &[Vec<u32>], batches: &Batches) -> f32 {
        let config = self.own.llama.config();
        let mut cache = KvCache::new(config, BLOCKS, self.format).unwrap();
        let mut tensors = self.other.llama.cache(BLOCKS, self.format).unwrap();
        let (mut cpu, mut largest, mut compared) = (cpu(2), 0.0_f32, 0);
        for batch in batches {
            let step =
                |&(sequence, start, count, logits): &(usize, usize, usize, bool)| SequenceStep {
                    tokens: &sequences[sequence][start..start + count],
                    start,
                    blocks: &tables[sequence],
                    logits,
                };
            let steps: Vec<_> = batch.iter().map(step).collect();
            let own = self
                .own
                .llama
                .forward(&mut cpu, &mut cache, &steps)
                .unwrap();
            let other = self.other.llama.forward(&mut tensors, &steps).unwrap();
            assert_eq!(own.rows(), other.rows());
            for (index, other) in other.to_rows().unwrap().iter().enumerate() {
                largest = largest.max(row_difference(own.row(index), other));
                compared += 1;
            }
        }
        assert!(compared > 0, "nothing was compared");
        largest
    }
}

fn row_difference(own: &[f32], other: &[f32]) -> f32 {
    assert_eq!(own.len(), other.len());
    let largest = own.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let smallest = own.iter().copied().fold(f32::INFINITY, f32::min);
    let differences = own
        .iter()
        .zip(other)
        .map(|(own, other)| (own - other).abs());
    // what is not a number must not get lost in a maximum
    assert!(other.iter().all(|logit| logit.is_finite()));
    differences.fold(0.0, f32::max) / (largest - smallest)
}

fn tokens(seed: u32, length: usize, vocab: u32) -> Vec<u32> {
    (0..length as u32)
        .map(|i| (i * 2_654_435 + seed * 40_503 + 17) % vocab)
        .collect()
}

/// Whole prompts, mixed batches, chunked prefill, several steps of one sequence in a batch, decode
/// rows, a batch without logits, reversed tables, and blocks shared by two sequences.
fn cases() -> Vec<(&'static str, Vec<Vec<u32>>, Batches)> {
    let up: Vec<u32> = (0..8).collect();
    let down: Vec<u32> = (8..16).rev().collect();
    let shared: Vec<u32> = [0, 1, 20, 21].into();
    vec![
        ("whole", vec![up.clone()], vec![vec![(0, 0, 90, true)]]),
        (
            "mixed",
            vec![up.clone(), down.clone()],
            vec![
                vec![(0, 0, 40, true)],
                vec![(0, 40, 1, true), (1, 0, 33, false)],
                vec![(1, 33, 31, true), (0, 41, 1, true)],
            ],
        ),
        (
            "chunks of one sequence in one batch",
            vec![down.clone()],
            vec![vec![(0, 0, 31, true), (0, 31, 2, true), (0, 33, 57, true)]],
        ),
        (
            "decode, and a batch that wants nothing",
            vec![down],
            vec![
                vec![(0, 0, 30, false)],
                vec![(0, 30, 1, true)],
                vec![(0, 31, 1, true)],
                vec![(0, 32, 1, true)],
            ],
        ),
        (
            "sequences of all lengths in one batch",
            [3_u32, 1, 2, 3, 1]
                .iter()
                .scan(0, |next, blocks| {
                    *next += blocks;
                    Some((*next - blocks..*next).collect())
                })
                .collect(),
            vec![
                vec![
                    (0, 0, 90, false),
                    (1, 0, 3, false),
                    (2, 0, 40, true),
                    (3, 0, 70, false),
                    (4, 0, 4, true),
                ],
                (0..5)
                    .map(|index| (index, [90, 3, 40, 70, 4][index], 1, true))
                    .collect(),
                vec![(3, 71, 1, true), (1, 4, 20, true), (4, 5, 1, true)],
            ],
        ),
        (
            "shared blocks",
            vec![up, shared],
            vec![
                vec![(0, 0, 64, false)],
                vec![(0, 64, 9, true), (1, 64, 5, true)],
                vec![(1, 69, 1, true), (0, 73, 2, true)],
            ],
        ),
    ]
}

fn check(pairs: &[Pair], limit: f32) {
    for pair in pairs {
        check_pair(pair, limit);
    }
}

fn check_pair(pair: &Pair, limit: f32) {
    let vocab = pair.own.llama.config().vocab as u32;
    for (name, tables, batches) in cases() {
        // sequences that share blocks begin alike
        let sequence = |seed| [tokens(1, 64, vocab), tokens(seed, 32, vocab)].concat();
        let sequences: Vec<_> = (5..).take(tables.len()).map(sequence).collect();
        let found = pair.difference(&sequences, &tables, &batches);
        assert!(
            found <= limit,
            "{name}: {found} of the spread, limit {limit}"
        );
    }
}

#[test]
fn with_f32_weights_both_passes_give_the_same_logits() {
    check(&pairs(&TINY, WeightsDtype::F32, KvFormat::F32), 1e-3);
}

#[test]
fn with_stored_weights_they_differ_by_rounding() {
    check(&pairs(&TINY, WeightsDtype::AsStored, KvFormat::F16), 0.05);
}

#[test]
fn files_of_every_precision_are_read_alike() {
    for (format, hidden, tied, limit) in [
        (GgmlDType::F32, 64, false, 1e-3),
        (GgmlDType::F16, 64, true, 0.01),
        (GgmlDType::BF16, 64, false, 0.05),
        (GgmlDType::Q8_0, 64, true, 0.05),
        (GgmlDType::Q4K, 256, false, 0.05),
    ] {
        let (_folder, path) = ModelFile::new(format, hidden, tied).write();
        let source = ModelSource::File(path);
        check(
            &pairs(&source, WeightsDtype::AsStored, KvFormat::F32),
            limit,
        );
    }
}

#[test]
fn partly_rotated_heads_keep_their_tail() {
    let mut file = ModelFile::new(GgmlDType::F32, 64, true);
    let rotated = candle_core::quantized::gguf_file::Value::U32(20);
    file.set("llama.rope.dimension_count", rotated);
    let (_folder, path) = file.write();
    let source = ModelSource::File(path);
    check(&pairs(&source, WeightsDtype::AsStored, KvFormat::F32), 1e-3);
}

#[test]
fn tokens_are_chosen_as_the_host_would() {
    for device in devices() {
        let model = Model::load_on(device, &TINY, WeightsDtype::AsStored).unwrap();
        check_choices(&model.llama);
    }
}

fn check_choices(llama: &TensorLlama) {
    let mut cache = llama.cache(BLOCKS, KvFormat::F16).unwrap();
    let sequences: Vec<_> = (0..4).map(|seed| tokens(seed, 5, 8192)).collect();
    let blocks = [0, 1, 2, 3];
    let step = |(index, tokens): (usize, &'_ Vec<u32>)| SequenceStep {
        tokens: Vec::leak(tokens.clone()),
        start: 0,
        blocks: &blocks[index..=index],
        logits: true,
    };
    let steps: Vec<_> = sequences.iter().enumerate().map(step).collect();
    let logits = llama.forward(&mut cache, &steps).unwrap();
    let params = |temperature, top_k| SamplingParams {
        temperature,
        top_k,
        top_p: None,
        seed: 11,
    };
    let rows = logits.to_rows().unwrap();
    // in half of the cases the most probable tokens may not be drawn
    let best = |row: &Vec<f32>| sample(row, &params(0.0, None), 0);
    let best: Vec<_> = rows.iter().map(best).collect();
    for wanted in [
        [(0.0, None), (0.9, None), (1.5, Some(1)), (0.7, Some(20))],
        [(0.0, None); 4],
        [(0.8, None); 4],
    ] {
        for forbidden in [&[][..], &best[..2], &best] {
            let draws = wanted.map(|(temperature, top_k)| Draw {
                params: params(temperature, top_k),
                output_index: 3,
                forbidden,
            });
            let expected = |(row, draw): (&Vec<f32>, &Draw<'_>)| {
                let mut row = row.clone();
                for id in forbidden {
                    row[*id as usize] = f32::NEG_INFINITY;
                }
                sample(&row, &draw.params, draw.output_index)
            };
            let expected: Vec<_> = rows.iter().zip(&draws).map(expected).collect();
            assert_eq!(logits.sample(&draws).unwrap(), expected);
        }
    }
    let nothing = llama.forward(&mut cache, &[]).unwrap();
    assert_eq!((nothing.rows(), nothing.sample(&[]).unwrap()), (0, vec![]));
}

#[test]
fn unusable_batches_are_refused_and_a_missing_device_is_named() {
    let model = Model::load_on(TensorDevice::Cpu, &TINY, WeightsDtype::AsStored).unwrap();
    let llama = &model.llama;
    let mut cache = llama.cache(2, KvFormat::F16).unwrap();
    let good = SequenceStep {
        tokens: &[1, 2],
        start: 0,
        blocks: &[0, 1],
        logits: true,
    };
    let mut refused = |step| llama.forward(&mut cache, &[step]).unwrap_err();
    let tokens: &[u32] = &[8192];
    assert!(matches!(
        refused(SequenceStep { tokens, ..good }),
        ForwardError::UnknownToken { step: 0, .. }
    ));
    let blocks: &[u32] = &[2];
    assert!(matches!(
        refused(SequenceStep { blocks, ..good }),
        ForwardError::UnknownBlock { block: 2, .. }
    ));
    let (_folder, path) = ModelFile::new(GgmlDType::F32, 64, true).write();
    let source = ModelSource::File(path);
    let file = Model::load_on(TensorDevice::Cpu, &source, WeightsDtype::AsStored).unwrap();
    let refused = file.llama.forward(&mut cache, &[good]);
    assert!(matches!(refused, Err(ForwardError::ForeignCache)));
    let error = Model::load_on(TensorDevice::Cuda(4096), &source, WeightsDtype::F32).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("device `cuda:4096`: "), "{error}");
}
