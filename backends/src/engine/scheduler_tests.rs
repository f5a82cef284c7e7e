//! The scheduler against random lives of random requests: a model executor that remembers what
//! each block holds checks that every token is computed once, in order, and in the right block.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 512;

fn capacity(blocks: u32, max_sequences: usize, max_batch_tokens: usize) -> Capacity {
    Capacity {
        blocks,
        max_sequences,
        max_batch_tokens,
        max_context: LIMIT,
    }
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        top_k: None,
        top_p: None,
        seed: 0,
    }
}

fn sequence(id: u64, prompt: Vec<u32>, max_tokens: u32) -> NewSequence {
    let (prompt, end_tokens) = (prompt.into(), Arc::from([END]));
    NewSequence {
        id: SequenceId(id),
        prompt,
        max_tokens,
        end_tokens,
        min_tokens: 0,
        params: greedy(),
    }
}

const END: u32 = 1;

/// A device whose next token is a function of all tokens before it, as a language model's is. It
/// reads them back from its blocks, so a wrong block table gives a wrong answer.
#[derive(Default)]
struct Device {
    memory: BTreeMap<u32, [u32; BLOCK_TOKENS]>,
}

fn next_token(history: &[u32]) -> u32 {
    let mix = history.iter().fold(17_u32, |hash, token| {
        hash.wrapping_mul(0x0100_0193)
            .wrapping_add(*token)
            .rotate_left(7)
    });
    if mix.is_multiple_of(40) {
        END
    } else {
        2 + mix % 1000
    }
}

impl Device {
    fn step(&mut self, batch: &Batch) -> StepOutput {
        let mut output = StepOutput::default();
        for row in &batch.rows {
            let tokens = &batch.tokens[row.tokens.clone()];
            let table = &batch.blocks[row.blocks.clone()];
            for (offset, &token) in tokens.iter().enumerate() {
                let position = row.start + offset;
                let block = self
                    .memory
                    .entry(table[position / BLOCK_TOKENS])
                    .or_default();
                block[position % BLOCK_TOKENS] = token;
            }
            if row.sample.is_some() {
                let history: Vec<u32> = (0..row.start + tokens.len())
                    .map(|at| self.memory[&table[at / BLOCK_TOKENS]][at % BLOCK_TOKENS])
                    .collect();
                output.tokens.push(next_token(&history));
            }
        }
        output
    }
}

/// What a request must answer, computed without any scheduler.
fn expected(prompt: &[u32], max_tokens: u32) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    while tokens.len() < prompt.len() + max_tokens as usize {
        tokens.push(next_token(&tokens));
        if tokens.last() == Some(&END) {
            break;
        }
    }
    tokens.split_off(prompt.len())
}

#[derive(Debug, Clone)]
struct Planned {
    /// Steps before it is added.
    delay: u8,
    shared_prefix: usize,
    own: usize,
    max_tokens: u32,
    cancel_after: Option<u8>,
}

fn planned() -> impl Strategy<Value = Planned> {
    (
        0..20_u8,
        0..4_usize,
        1..100_usize,
        1..60_u32,
        prop::option::weighted(0.2, 0..30_u8),
    )
        .prop_map(|(delay, prefix, own, max_tokens, cancel_after)| Planned {
            delay,
            shared_prefix: prefix * 40,
            own,
            max_tokens,
            cancel_after,
        })
}

fn prompt_of(id: usize, plan: &Planned) -> Vec<u32> {
    let own = (0..plan.own as u32).map(|i| 5000 + id as u32 * 200 + i);
    (0..plan.shared_prefix as u32)
        .map(|i| 100 + i)
        .chain(own)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_life_of_any_requests_conserves_blocks_and_answers_right(
        plans in prop::collection::vec(planned(), 1..24),
        blocks in 16..64_u32,
        max_sequences in 1..12_usize,
        max_batch_tokens in 2..200_usize,
        cache in prop::bool::ANY,
    ) {
        let cache = if cache { PrefixCache::On } else { PrefixCache::Off };
        let mut scheduler =
            Scheduler::new(capacity(blocks, max_sequences, max_batch_tokens), cache);
        let mut device = Device::default();
        let mut batch = Batch::default();
        let mut outputs: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        let mut finished: BTreeMap<u64, FinishReason> = BTreeMap::new();
        let mut cancelled = Vec::new();
        let work: usize = plans.iter().map(|p| 120 + p.own + p.max_tokens as usize).sum();
        // Generous: every token of every request alone in a step, several times over.
        for step in 0..4 * work {
            for (id, plan) in plans.iter().enumerate() {
                if usize::from(plan.delay) == step {
                    let prompt = prompt_of(id, plan);
                    scheduler.add(sequence(id as u64, prompt, plan.max_tokens)).expect("it fits");
                }
                let end = plan.cancel_after.map(|after| usize::from(plan.delay + after) + 1);
                if end == Some(step) && !finished.contains_key(&(id as u64)) {
                    scheduler.cancel(SequenceId(id as u64));
                    cancelled.push(id as u64);
                }
            }
            scheduler.plan(&mut batch);
            prop_assert!(batch.tokens.len() <= max_batch_tokens);
            prop_assert!(batch.rows.len() <= max_sequences);
            let pool = scheduler.pool();
            prop_assert_eq!(pool.used() + pool.free(), blocks as usize);
            if batch.rows.is_empty() && step > 60 {
                break;
            }
            let output = device.step(&batch);
            scheduler.apply(&output, |SequenceId(id), progress| match progress {
                Progress::Token(token) => outputs.entry(id).or_default().push(token),
                Progress::Finished(reason) => drop(finished.insert(id, reason)),
            });
        }
        prop_assert_eq!(scheduler.waiting() + scheduler.running(), 0, "someone starved");
        prop_assert_eq!(scheduler.pool().used(), 0, "blocks leaked");
        for (id, plan) in plans.iter().enumerate() {
            let want = expected(&prompt_of(id, plan), plan.max_tokens);
            let got = outputs.remove(&(id as u64)).unwrap_or_default();
            if cancelled.contains(&(id as u64)) {
                prop_assert!(want.starts_with(&got));
            } else {
                let reason = if want.last() == Some(&END) {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                };
                prop_assert_eq!(&got, &want, "request {}", id);
                prop_assert_eq!(finished.get(&(id as u64)), Some(&reason));
            }
        }
    }
}

/// Runs everything to its end; returns the number of steps.
fn drain(scheduler: &mut Scheduler, outputs: &mut BTreeMap<u64, Vec<u32>>) -> usize {
    let (mut device, mut batch) = (Device::default(), Batch::default());
    for step in 0.. {
        scheduler.plan(&mut batch);
        if batch.rows.is_empty() {
            return step;
        }
        let output = device.step(&batch);
        scheduler.apply(&output, |SequenceId(id), progress| {
            if let Progress::Token(token) = progress {
                outputs.entry(id).or_default().push(token);
            }
        });
    }
    unreachable!("the loop only ends by returning")
}

#[test]
fn preempted_requests_resume_and_repeat_nothing() {
    // Two requests of 3 + 4 blocks each in a pool of 8: they cannot both finish side by side.
    let mut scheduler = Scheduler::new(capacity(8, 4, 256), PrefixCache::Off);
    let prompts: Vec<Vec<u32>> = (0..2)
        .map(|id| (0..96).map(|i| 3000 + id * 500 + i).collect())
        .collect();
    let mut outputs = BTreeMap::new();
    let max_tokens = 120;
    for (id, prompt) in prompts.iter().enumerate() {
        let mut new = sequence(id as u64, prompt.clone(), max_tokens);
        new.end_tokens = Arc::from([]);
        scheduler.add(new).expect("it fits");
    }
    drain(&mut scheduler, &mut outputs);
    assert!(
        scheduler.preemptions() > 0,
        "the pool was meant to be too small"
    );
    for (id, prompt) in prompts.iter().enumerate() {
        let mut tokens = prompt.clone();
        for _ in 0..max_tokens {
            tokens.push(next_token(&tokens));
        }
        assert_eq!(outputs[&(id as u64)], tokens[96..], "request {id}");
    }
}

#[test]
fn a_cached_prefix_is_not_computed_again() {
    let mut scheduler = Scheduler::new(capacity(64, 4, 64), PrefixCache::On);
    let prompt: Vec<u32> = (100..300).collect();
    let mut batch = Batch::default();
    scheduler
        .add(sequence(0, prompt.clone(), 1))
        .expect("it fits");
    drain(&mut scheduler, &mut BTreeMap::new());
    scheduler.add(sequence(1, prompt, 1)).expect("it fits");
    scheduler.plan(&mut batch);
    assert_eq!(
        scheduler.admissions(),
        [Admission {
            id: SequenceId(1),
            cached_tokens: 192
        }]
    );
    assert_eq!(batch.tokens, (292..300).collect::<Vec<_>>());
}

#[test]
fn decodes_go_before_prompts_and_prompts_are_cut_to_the_budget() {
    let mut scheduler = Scheduler::new(capacity(64, 4, 50), PrefixCache::Off);
    let (mut device, mut batch) = (Device::default(), Batch::default());
    scheduler
        .add(sequence(0, vec![7; 10], 20))
        .expect("it fits");
    scheduler.plan(&mut batch);
    let output = device.step(&batch);
    scheduler.apply(&output, |_, _| {});
    scheduler
        .add(sequence(1, vec![8; 120], 5))
        .expect("it fits");
    scheduler.plan(&mut batch);
    let shape: Vec<_> = batch
        .rows
        .iter()
        .map(|r| (r.sequence.0, r.tokens.len()))
        .collect();
    assert_eq!(shape, [(0, 1), (1, 49)]);
    assert!(batch.rows[1].sample.is_none(), "the prompt is not complete");
}

#[test]
fn what_can_never_run_is_refused_with_its_numbers() {
    let mut scheduler = Scheduler::new(capacity(4, 4, 64), PrefixCache::Off);
    let cases = [
        (vec![], 1, "the prompt is empty"),
        (vec![5], 0, "max_tokens is 0; at least 1 is needed"),
        (
            vec![5; 100],
            29,
            "prompt of 100 and output of 29 tokens exceed the context of 128 tokens",
        ),
    ];
    for (prompt, max_tokens, message) in cases {
        let error = scheduler
            .add(sequence(0, prompt, max_tokens))
            .expect_err(message);
        assert_eq!(error.to_string(), message);
    }
    scheduler
        .add(sequence(0, vec![5; 100], 28))
        .expect("exactly the context fits");
}

#[test]
fn end_tokens_are_forbidden_until_the_answer_is_long_enough() {
    let mut scheduler = Scheduler::new(capacity(8, 4, 64), PrefixCache::Off);
    let mut new = sequence(1, vec![5; 10], 4);
    new.min_tokens = 2;
    scheduler.add(new).expect("it fits");
    let (mut batch, mut forbidden) = (Batch::default(), Vec::new());
    loop {
        scheduler.plan(&mut batch);
        let Some(row) = batch.rows.first() else { break };
        let sample = row.sample.as_ref().expect("it fits into one step");
        forbidden.push(sample.forbidden.as_deref() == Some(&[END][..]));
        scheduler.apply(&StepOutput { tokens: vec![7] }, |_, _| ());
    }
    assert_eq!(forbidden, [true, true, false, false]);
}
