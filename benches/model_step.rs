//! One step of `ref-tiny`: a prompt of 128 tokens, and decodes of 1 and 8 sequences.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use models::{
    BLOCK_TOKENS, Cpu, CpuOptions, KvCache, KvFormat, Model, ModelSource, SequenceStep,
    WeightsDtype,
};

const CONTEXT: usize = 128;
const BLOCKS: usize = CONTEXT / BLOCK_TOKENS + 1;

fn bench(criterion: &mut Criterion) {
    let source = ModelSource::parse("ref-tiny").expect("built in");
    let model = Model::load(&source, WeightsDtype::AsStored)
        .expect("made in memory")
        .llama;
    let prompt: Vec<u32> = (300..300 + CONTEXT as u32).collect();
    let tables: Vec<Vec<u32>> = (0..8)
        .map(|s| {
            (0..BLOCKS)
                .map(|block| (s * BLOCKS + block) as u32)
                .collect()
        })
        .collect();
    let mut cache =
        KvCache::new(model.config(), 8 * BLOCKS, KvFormat::F16).expect("a few megabytes");
    let mut cpu = Cpu::new(CpuOptions::new(std::num::NonZeroUsize::MIN));
    let mut group = criterion.benchmark_group("ref_tiny_step");
    group.throughput(Throughput::Elements(CONTEXT as u64));
    group.bench_function(BenchmarkId::new("prefill", CONTEXT), |bencher| {
        let step = SequenceStep {
            tokens: &prompt,
            start: 0,
            blocks: &tables[0],
            logits: true,
        };
        bencher.iter(|| {
            black_box(
                model
                    .forward(&mut cpu, &mut cache, &[step])
                    .expect("it runs")
                    .rows(),
            )
        });
    });
    for sequences in [1, 8] {
        for table in &tables {
            let step = SequenceStep {
                tokens: &prompt,
                start: 0,
                blocks: table,
                logits: false,
            };
            model
                .forward(&mut cpu, &mut cache, &[step])
                .expect("it runs");
        }
        let steps: Vec<_> = tables[..sequences]
            .iter()
            .map(|blocks| SequenceStep {
                tokens: &[7],
                start: CONTEXT,
                blocks,
                logits: true,
            })
            .collect();
        group.throughput(Throughput::Elements(sequences as u64));
        group.bench_function(BenchmarkId::new("decode", sequences), |bencher| {
            bencher.iter(|| {
                black_box(
                    model
                        .forward(&mut cpu, &mut cache, &steps)
                        .expect("it runs")
                        .rows(),
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
