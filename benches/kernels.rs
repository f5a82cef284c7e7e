//! The kernels of the CPU engine, one by one, at the shapes of the reference model.
//!
//! `cargo bench --bench kernels`. With `WEIGHBRIDGE_ONCE=NAME` the named kernel runs once and
//! nothing is timed: that is what `scripts/instruction-counts` counts the instructions of.

use std::num::NonZeroUsize;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use models::kernels::{AttentionBench, ProductBench};
use models::{Cpu, CpuOptions, KvCache, KvFormat, Model, ModelSource, SequenceStep, WeightsDtype};

/// Gate and up of one layer: outputs and inputs.
const SHAPE: [usize; 2] = [3072, 576];

fn options() -> CpuOptions {
    CpuOptions::new(NonZeroUsize::MIN)
}

fn product(format: &str, batch: usize) -> ProductBench {
    let mut bench = ProductBench::new(format, [SHAPE[0], SHAPE[1], batch], options());
    bench.quantise();
    bench
}

fn kernels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    for format in ProductBench::FORMATS {
        // a row length that every format allows
        let columns = if format == "Q6_K" { 512 } else { SHAPE[1] };
        for batch in [1, 8, 128] {
            let mut bench = ProductBench::new(format, [SHAPE[0], columns, batch], options());
            bench.quantise();
            group.throughput(Throughput::Elements((SHAPE[0] * columns * batch) as u64));
            let id = BenchmarkId::new(format, batch);
            group.bench_function(id, |bencher| bencher.iter(|| bench.multiply()));
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("quantise");
    for (format, batch) in [("Q8_0", 1), ("Q8_0", 128), ("F16", 128), ("BF16", 128)] {
        let mut bench = product(format, batch);
        group.throughput(Throughput::Elements((SHAPE[1] * batch) as u64));
        let id = BenchmarkId::new(format, batch);
        group.bench_function(id, |bencher| bencher.iter(|| bench.quantise()));
    }
    group.finish();
    let mut group = criterion.benchmark_group("attention");
    for (tokens, rows) in [(128, 128), (512, 128), (512, 1), (2048, 1)] {
        let mut bench = AttentionBench::new([tokens, rows, 1], options());
        group.throughput(Throughput::Elements((tokens * rows) as u64));
        let id = BenchmarkId::new(format!("{rows} rows"), tokens);
        group.bench_function(id, |bencher| bencher.iter(|| bench.attend()));
    }
    // As in a decode step: what a layer reads comes from memory, where caches have less than 47 MB.
    for threads in [1, 2] {
        let threads = NonZeroUsize::new(threads).expect("not zero");
        let (tokens, layers) = (2048, 30);
        let mut bench = AttentionBench::new([tokens, 1, layers], CpuOptions::new(threads));
        group.throughput(Throughput::Elements(tokens as u64));
        let id = BenchmarkId::new(format!("1 row from memory, threads {threads}"), tokens);
        group.bench_function(id, |bencher| bencher.iter(|| bench.attend()));
    }
    group.finish();
}

/// Runs one kernel once.
fn once(name: &str) {
    let parts: Vec<_> = name.split('/').collect();
    match parts[..] {
        ["product", format, batch] => {
            product(format, batch.parse().expect("a number")).multiply();
        }
        ["quantise", format, batch] => {
            drop(product(format, batch.parse().expect("a number")));
        }
        ["attention", tokens, rows] => {
            let number = |text: &str| text.parse().expect("a number");
            AttentionBench::new([number(tokens), number(rows), 1], options()).attend();
        }
        ["step", "ref-tiny"] => {
            let source = ModelSource::parse("ref-tiny").expect("built in");
            let model = Model::load(&source, WeightsDtype::AsStored).expect("made in memory");
            let config = model.llama.config();
            let mut cache = KvCache::new(config, 4, KvFormat::F16).expect("memory");
            let step = SequenceStep {
                tokens: &[7; 100],
                start: 0,
                blocks: &[0, 1, 2, 3],
                logits: true,
            };
            let mut cpu = Cpu::new(options());
            model
                .llama
                .forward(&mut cpu, &mut cache, &[step])
                .expect("it runs");
        }
        _ => unreachable!("no kernel is called {name}"),
    }
}

criterion_group!(benches, kernels);

fn main() {
    if let Ok(name) = std::env::var("WEIGHBRIDGE_ONCE") {
        once(&name);
    } else {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}
