//! The scheduler over candle's kernels gives the answers that the project's own kernels give.
//!
//! Two right implementations may part where two tokens are equally likely; answers are compared up
//! to the first such place, and most of every answer has to be.

use std::sync::Arc;

use backends::candle::CandleExecutor;
use backends::engine::{
    Batch, Capacity, Executor, NewSequence, PrefixCache, Progress, Scheduler, SequenceId,
};
use models::{
    Cpu, CpuOptions, KvCache, KvFormat, Model, ModelSource, SamplingParams, SequenceStep,
    TensorDevice, WeightsDtype,
};

use crate::answers::ready;

const GREEDY: SamplingParams = SamplingParams {
    temperature: 0.0,
    top_k: None,
    top_p: None,
    seed: 0,
};
/// Logits nearer to each other than this are equally likely: they spread over about 14.
const TIE: f32 = 0.02;

fn source() -> ModelSource {
    ModelSource::parse("ref-tiny").expect("built in")
}

/// Greedy answers of the project's own kernels, each up to the first tie.
fn expected(prompts: &[Arc<[u32]>], max_tokens: usize) -> Vec<Vec<u32>> {
    let model = Model::load(&source(), WeightsDtype::F32).expect("made in memory");
    let mut cpu = Cpu::new(CpuOptions::new(2.try_into().expect("not zero")));
    let blocks: Vec<u32> = (0..16).collect();
    let mut answer = |prompt: &Arc<[u32]>| {
        let mut cache = KvCache::new(model.llama.config(), 16, KvFormat::F16).expect("memory");
        let (mut sequence, mut start) = (prompt.to_vec(), 0);
        while sequence.len() < prompt.len() + max_tokens {
            let step = SequenceStep {
                tokens: &sequence[start..],
                start,
                blocks: &blocks,
                logits: true,
            };
            let logits = model.llama.forward(&mut cpu, &mut cache, &[step]);
            let logits = logits.expect("a good step").row(0);
            let token = models::sample(logits, &GREEDY, 0);
            let best = logits[token as usize];
            if logits.iter().filter(|logit| best - **logit < TIE).count() > 1 {
                break;
            }
            start = sequence.len();
            sequence.push(token);
        }
        sequence.split_off(prompt.len())
    };
    prompts.iter().map(&mut answer).collect()
}

#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn skipped(missing: &str) {
    if cfg!(feature = "cuda") {
        println!("skipped on a GPU: {missing}");
    }
}

#[test]
fn greedy_answers_are_those_of_the_own_kernels() {
    const TOKENS: usize = 12;
    // Prompts share their first 40 tokens; chunks are cut, and the pool is too small for all.
    let prompts: Vec<Arc<[u32]>> = (0..6_u32)
        .map(|id| {
            let shared = (0..40).map(|i| 300 + i * 7);
            shared.chain((0..10 + id * 9).map(move |i| 400 + (id * 31 + i * 13) % 5000))
        })
        .map(Iterator::collect)
        .collect();
    let expected = expected(&prompts, TOKENS);
    let compared: usize = expected.iter().map(Vec::len).sum();
    assert!(
        compared * 2 > prompts.len() * TOKENS,
        "only {compared} tokens have no tie"
    );
    // in a build with `cuda` also on the first GPU, if it answers
    let gpu = Some(TensorDevice::Cuda(0)).filter(|gpu| match gpu.facts() {
        Ok(_) => true,
        Err(missing) => {
            skipped(&missing.to_string());
            false
        }
    });
    let devices = [TensorDevice::Cpu].into_iter().chain(gpu);
    let caches = [PrefixCache::On, PrefixCache::Off];
    for (device, cache) in devices.flat_map(|device| caches.map(|cache| (device, cache))) {
        let model = Model::load_on(device, &source(), WeightsDtype::F32).expect("made in memory");
        let capacity = Capacity {
            blocks: 9,
            max_sequences: 4,
            max_batch_tokens: 37,
            max_context: 2048,
        };
        let mut executor = CandleExecutor::new(model.llama, capacity).expect("memory");
        let mut scheduler = Scheduler::new(executor.capacity(), cache);
        for (id, prompt) in (0..).zip(&prompts) {
            let new = NewSequence {
                id: SequenceId(id),
                prompt: Arc::clone(prompt),
                max_tokens: TOKENS as u32,
                end_tokens: Arc::from([]),
                min_tokens: 0,
                params: GREEDY,
            };
            scheduler.add(new).expect("it fits");
        }
        let mut answers = vec![Vec::new(); prompts.len()];
        let mut batch = Batch::default();
        loop {
            scheduler.plan(&mut batch);
            if batch.rows.is_empty() {
                break;
            }
            let output = ready(executor.step(&batch)).expect("the model runs");
            scheduler.apply(&output, |SequenceId(id), progress| {
                if let Progress::Token(token) = progress {
                    answers[id as usize].push(token);
                }
            });
        }
        for (answer, expected) in answers.iter().zip(&expected) {
            assert_eq!(answer.len(), TOKENS);
            assert_eq!(answer[..expected.len()], *expected);
        }
    }
}
