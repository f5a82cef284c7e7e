//! Batching and paging change nothing: bit for bit on the small reference model.

use crate::cpu;
use models::{
    BLOCK_TOKENS, ForwardError, KvCache, KvFormat, Model, ModelSource, ReferenceModel,
    SamplingParams, SequenceStep, WeightsDtype, sample,
};
use proptest::prelude::*;
use std::sync::LazyLock;

static TINY: LazyLock<Model> = LazyLock::new(|| {
    Model::load(
        &ModelSource::Reference(ReferenceModel::RefTiny),
        WeightsDtype::AsStored,
    )
    .unwrap()
});

const BLOCKS: usize = 64;

fn tokens(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32)
        .map(|i| (i * 2_654_435 + seed * 40_503 + 17) % 8192)
        .collect()
}

/// The logits after a whole sequence, run alone and in one piece.
fn whole(tokens: &[u32]) -> Vec<f32> {
    let mut cache = KvCache::new(TINY.llama.config(), BLOCKS, KvFormat::F16).unwrap();
    let blocks: Vec<u32> = (0..BLOCKS as u32).collect();
    let step = SequenceStep {
        tokens,
        start: 0,
        blocks: &blocks,
        logits: true,
    };
    TINY.llama
        .forward(&mut cpu(1), &mut cache, &[step])
        .unwrap()
        .row(0)
        .to_vec()
}

/// Logits after each of several sequences, run together in chunks of the given lengths.
fn chunked(sequences: &[Vec<u32>], chunks: &[usize], reverse_blocks: bool) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new(TINY.llama.config(), BLOCKS, KvFormat::F16).unwrap();
    let mut cpu = cpu(2);
    let per_sequence = BLOCKS / sequences.len();
    let mut tables: Vec<u32> = (0..BLOCKS as u32).collect();
    if reverse_blocks {
        tables.reverse();
    }
    let mut done = vec![0; sequences.len()];
    let mut results = vec![Vec::new(); sequences.len()];
    for turn in 0.. {
        let mut batch = Vec::new();
        let mut finishing = Vec::new();
        for (index, sequence) in sequences.iter().enumerate() {
            let start = done[index];
            if start == sequence.len() {
                continue;
            }
            let length = chunks[(turn + index) % chunks.len()].min(sequence.len() - start);
            done[index] = start + length;
            let logits = done[index] == sequence.len();
            if logits {
                finishing.push(index);
            }
            let blocks = &tables[index * per_sequence..(index + 1) * per_sequence];
            batch.push(SequenceStep {
                tokens: &sequence[start..start + length],
                start,
                blocks,
                logits,
            });
        }
        if batch.is_empty() {
            return results;
        }
        let logits = TINY.llama.forward(&mut cpu, &mut cache, &batch).unwrap();
        assert_eq!(logits.rows(), finishing.len());
        for (row, index) in finishing.into_iter().enumerate() {
            results[index] = logits.row(row).to_vec();
        }
    }
    unreachable!("the loop ends when every sequence is done")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn any_batching_gives_the_same_bits(
        lengths in prop::collection::vec(1..120_usize, 1..4),
        chunks in prop::collection::vec(1..50_usize, 1..5),
        reverse_blocks: bool,
        seed in 0..1000_u32,
    ) {
        let sequences: Vec<Vec<u32>> =
            (seed..).zip(&lengths).map(|(seed, length)| tokens(seed, *length)).collect();
        let together = chunked(&sequences, &chunks, reverse_blocks);
        for (sequence, found) in sequences.iter().zip(together) {
            prop_assert_eq!(found, whole(sequence));
        }
    }
}

#[test]
fn generation_one_token_at_a_time_equals_prefill() {
    let prompt = tokens(3, BLOCK_TOKENS - 3);
    let mut cache = KvCache::new(TINY.llama.config(), 4, KvFormat::F16).unwrap();
    let mut cpu = cpu(2);
    let params = SamplingParams {
        temperature: 0.8,
        top_k: Some(50),
        top_p: Some(0.9),
        seed: 1,
    };
    let mut sequence = prompt.clone();
    let mut start = 0;
    for index in 0..8 {
        let step = SequenceStep {
            tokens: &sequence[start..],
            start,
            blocks: &[2, 0, 3],
            logits: true,
        };
        let logits = TINY.llama.forward(&mut cpu, &mut cache, &[step]).unwrap();
        assert_eq!(
            logits.row(0),
            whole(&sequence),
            "after {} tokens",
            sequence.len()
        );
        start = sequence.len();
        sequence.push(sample(logits.row(0), &params, index));
    }
    assert_eq!(sequence.len(), prompt.len() + 8);
}

#[test]
fn the_reference_model_is_always_the_same_and_sane() {
    let again = Model::load(
        &ModelSource::parse("ref-tiny").unwrap(),
        WeightsDtype::AsStored,
    );
    assert_eq!(again.unwrap().info, TINY.info);
    assert_eq!(TINY.info.identity, "random weights, seed 135");
    let logits = whole(&tokens(1, 50));
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    let deviation = logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / logits.len() as f32;
    assert!(
        (1.0..3.0).contains(&deviation.sqrt()),
        "spread {}",
        deviation.sqrt()
    );
    assert_ne!(whole(&tokens(1, 50)), whole(&tokens(2, 50)));
}

#[test]
fn the_135m_reference_model_has_the_shape_it_promises() {
    let model = Model::load(
        &ModelSource::parse("ref-135m").unwrap(),
        WeightsDtype::AsStored,
    )
    .unwrap();
    assert_eq!(
        (model.info.parameters, model.info.weights.as_str()),
        (134_515_008, "Q4_1")
    );
    assert_eq!(
        model.info.weight_bytes,
        30_081_024 + 106_168_320 / 32 * 20 + 61 * 576 * 4
    );
    let mut cache = KvCache::new(model.llama.config(), 1, KvFormat::F16).unwrap();
    let mut cpu = cpu(2);
    let prompt = model.chat.encode("今天天气很好", models::Special::Plain);
    let step = SequenceStep {
        tokens: &prompt,
        start: 0,
        blocks: &[0],
        logits: true,
    };
    let logits = model.llama.forward(&mut cpu, &mut cache, &[step]).unwrap();
    let square = logits.row(0).iter().map(|x| x * x).sum::<f32>() / 49_152.0;
    assert!(
        (1.0..3.0).contains(&square.sqrt()),
        "spread {}",
        square.sqrt()
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of mistakes")]
fn unusable_batches_are_refused() {
    let config = TINY.llama.config();
    let mut cache = KvCache::new(config, 2, KvFormat::F16).unwrap();
    let mut cpu = cpu(2);
    let blocks = [0, 1];
    let good = SequenceStep {
        tokens: &[1, 2],
        start: 0,
        blocks: &blocks,
        logits: false,
    };
    let mut refusal = |step| {
        let refused = TINY.llama.forward(&mut cpu, &mut cache, &[good, step]);
        refused.unwrap_err()
    };
    let long = vec![0; config.context + 1];
    assert!(matches!(
        refusal(SequenceStep {
            tokens: &[],
            ..good
        }),
        ForwardError::NoTokens { step: 1 }
    ));
    assert!(matches!(
        refusal(SequenceStep {
            tokens: &[8192],
            ..good
        }),
        ForwardError::UnknownToken {
            step: 1,
            token: 8192,
            vocab: 8192
        }
    ));
    assert!(matches!(
        refusal(SequenceStep {
            tokens: &long,
            ..good
        }),
        ForwardError::ContextExceeded { .. }
    ));
    assert!(matches!(
        refusal(SequenceStep { start: 63, ..good }),
        ForwardError::TableTooShort {
            step: 1,
            blocks: 2,
            tokens: 65
        }
    ));
    assert!(matches!(
        refusal(SequenceStep {
            blocks: &[2],
            ..good
        }),
        ForwardError::UnknownBlock {
            step: 1,
            block: 2,
            blocks: 2
        }
    ));
    assert!(matches!(
        refusal(SequenceStep {
            start: usize::MAX,
            ..good
        }),
        ForwardError::ContextExceeded { .. }
    ));
    assert!(matches!(
        refusal(SequenceStep { start: 1, ..good }),
        ForwardError::SharedBlock { step: 1, block: 0 }
    ));
    for batch in [&[][..], &[good]] {
        let logits = TINY.llama.forward(&mut cpu, &mut cache, batch).unwrap();
        assert_eq!(logits.rows(), 0);
    }
    let mut other = config.clone();
    other.layers += 1;
    let mut foreign = KvCache::new(&other, 2, KvFormat::F16).unwrap();
    let refused = TINY.llama.forward(&mut cpu, &mut foreign, &[good]);
    assert!(matches!(refused, Err(ForwardError::ForeignCache)));
}
