//! One step of the scheduler: plan and apply, with everything decoding, and with prompts under way.
//!
//! Budget: well under a millisecond at 512 sequences, against device steps of several.

use std::hint::black_box;
use std::sync::Arc;

use backends::engine::{
    Batch, Capacity, NewSequence, PrefixCache, Scheduler, SequenceId, StepOutput,
};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use models::SamplingParams;

const PROMPT_TOKENS: u32 = 256;

fn scheduler(sequences: u64) -> Scheduler {
    let capacity = Capacity {
        blocks: 32_768,
        max_sequences: 1024,
        max_batch_tokens: 2048,
        max_context: 8192,
    };
    let mut scheduler = Scheduler::new(capacity, PrefixCache::On);
    for id in 0..sequences {
        let prompt: Vec<u32> = (0..PROMPT_TOKENS).map(|i| id as u32 * 1000 + i).collect();
        let new = NewSequence {
            id: SequenceId(id),
            prompt: prompt.into(),
            max_tokens: 4096,
            end_tokens: Arc::from([]),
            min_tokens: 0,
            params: SamplingParams {
                temperature: 0.0,
                top_k: None,
                top_p: None,
                seed: 0,
            },
        };
        scheduler.add(new).expect("it fits");
    }
    scheduler
}

fn step(scheduler: &mut Scheduler, batch: &mut Batch) {
    scheduler.plan(batch);
    let output = StepOutput {
        tokens: vec![7; batch.samples()],
    };
    scheduler.apply(&output, |id, progress| {
        black_box((id, progress));
    });
}

fn decoding(sequences: u64) -> (Scheduler, Batch) {
    let (mut scheduler, mut batch) = (scheduler(sequences), Batch::default());
    while batch.samples() < sequences as usize {
        step(&mut scheduler, &mut batch);
    }
    (scheduler, batch)
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler_step");
    for sequences in [1, 64, 512] {
        group.throughput(Throughput::Elements(sequences));
        group.bench_function(BenchmarkId::new("decode", sequences), |bencher| {
            bencher.iter_batched_ref(
                || decoding(sequences),
                |(scheduler, batch)| (0..16).for_each(|_| step(scheduler, batch)),
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("prefill", sequences), |bencher| {
            bencher.iter_batched_ref(
                || (scheduler(sequences), Batch::default()),
                |(scheduler, batch)| step(scheduler, batch),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
