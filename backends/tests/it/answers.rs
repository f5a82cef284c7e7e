//! A request's answer does not depend on what else the engine does: batched with others, cut into
//! chunks, taken from the prefix cache or preempted and resumed, it is what it is alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use backends::cpu::CpuExecutor;
use backends::engine::{
    Batch, Capacity, Executor, NewSequence, PrefixCache, Progress, Scheduler, SequenceId,
};
use models::{CpuOptions, Model, ModelSource, SamplingParams, WeightsDtype};
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Ask {
    prompt: Arc<[u32]>,
    max_tokens: u32,
    params: SamplingParams,
}

fn executor(capacity: Capacity) -> CpuExecutor {
    let source = ModelSource::parse("ref-tiny").expect("built in");
    let model = Model::load(&source, WeightsDtype::AsStored).expect("made in memory");
    let threads = 2.try_into().expect("not zero");
    let started = CpuExecutor::new(model.llama, capacity, CpuOptions::new(threads));
    started.expect("memory")
}

/// Answers all requests in one engine; also how often it preempted.
fn answer(asks: &[Ask], capacity: Capacity, cache: PrefixCache) -> (Vec<Vec<u32>>, u64) {
    let mut executor = executor(capacity);
    let mut scheduler = Scheduler::new(executor.capacity(), cache);
    for (id, ask) in (0..).zip(asks) {
        let new = NewSequence {
            id: SequenceId(id),
            prompt: Arc::clone(&ask.prompt),
            max_tokens: ask.max_tokens,
            end_tokens: Arc::from([]),
            min_tokens: 0,
            params: ask.params,
        };
        scheduler.add(new).expect("it fits");
    }
    let (mut batch, mut answers) = (Batch::default(), BTreeMap::<u64, Vec<u32>>::new());
    loop {
        scheduler.plan(&mut batch);
        if batch.rows.is_empty() {
            return (answers.into_values().collect(), scheduler.preemptions());
        }
        let output = ready(executor.step(&batch)).expect("the model runs");
        scheduler.apply(&output, |SequenceId(id), progress| {
            if let Progress::Token(token) = progress {
                answers.entry(id).or_default().push(token);
            }
        });
    }
}

/// The CPU executor is done when it returns.
pub(crate) fn ready<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => unreachable!("a CPU step does not wait"),
    }
}

/// Answers of requests asked alone, remembered: they are the same in every case.
fn alone(ask: &Ask) -> Vec<u32> {
    static KNOWN: Mutex<BTreeMap<String, Vec<u32>>> = Mutex::new(BTreeMap::new());
    let key = format!("{ask:?}");
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(answer) = known().get(&key) {
        return answer.clone();
    }
    let roomy = Capacity {
        blocks: 64,
        max_sequences: 1,
        max_batch_tokens: 2048,
        max_context: 2048,
    };
    let (answers, preemptions) = answer(std::slice::from_ref(ask), roomy, PrefixCache::Off);
    assert_eq!((answers.len(), preemptions), (1, 0));
    known().insert(key, answers[0].clone());
    answers[0].clone()
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = (0..3_u32, 1..80_u32, 1..24_u32, 0..4_u64).prop_map(|(shared, own, max, kind)| {
        // Prompts share their first 0, 50 or 100 tokens.
        let prefix = (0..shared * 50).map(|i| 300 + i * 7 % 3000);
        let own = (0..own).map(|i| 400 + (own * 31 + i * 13) % 5000);
        let params = match kind {
            0 | 1 => SamplingParams {
                temperature: 0.0,
                top_k: None,
                top_p: None,
                seed: 0,
            },
            2 => SamplingParams {
                temperature: 0.8,
                top_k: Some(40),
                top_p: None,
                seed: 7,
            },
            _ => SamplingParams {
                temperature: 1.2,
                top_k: None,
                top_p: Some(0.9),
                seed: 8,
            },
        };
        Ask {
            prompt: prefix.chain(own).collect(),
            max_tokens: max,
            params,
        }
    });
    prop::collection::vec(ask, 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn company_changes_no_answer(
        asks in asks(),
        max_batch_tokens in 3..150_usize,
        max_sequences in 1..6_usize,
        blocks in 7..30_u32,
        cache in prop::bool::ANY,
    ) {
        let capacity = Capacity { blocks, max_sequences, max_batch_tokens, max_context: 2048 };
        let cache = if cache { PrefixCache::On } else { PrefixCache::Off };
        let (answers, _) = answer(&asks, capacity, cache);
        prop_assert_eq!(answers.len(), asks.len());
        for (ask, found) in asks.iter().zip(answers) {
            prop_assert_eq!(found, alone(ask), "{:?}", ask);
        }
    }
}

#[test]
fn a_preempted_answer_is_the_same_answer() {
    let params = SamplingParams {
        temperature: 0.9,
        top_k: None,
        top_p: None,
        seed: 3,
    };
    let asks: Vec<Ask> = (0..3)
        .map(|id| Ask {
            prompt: (0..90).map(|i| 300 + id * 100 + i).collect(),
            max_tokens: 60,
            params,
        })
        .collect();
    let tight = Capacity {
        blocks: 11,
        max_sequences: 4,
        max_batch_tokens: 64,
        max_context: 2048,
    };
    for cache in [PrefixCache::On, PrefixCache::Off] {
        let (answers, preemptions) = answer(&asks, tight, cache);
        assert!(preemptions > 0, "the pool was meant to be too small");
        for (ask, found) in asks.iter().zip(answers) {
            assert_eq!(found, alone(ask));
        }
    }
}
