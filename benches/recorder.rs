//! What a finished request costs: its line in `requests.jsonl` and its way into the figures.
//!
//! Budget: under a microsecond for each token.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harness::recorder::Recorder;
use reports::{Accumulator, Finish, Outcome, RequestRecord, TokenCountSource, Window};

const TOKENS: u64 = 256;

fn record(id: u64) -> RequestRecord {
    let intended_ns = id * 3_000_000;
    let token = |i: u64| intended_ns + 180_000_000 + i * (20_000_000 + (id * 7 + i * 13) % 900_000);
    RequestRecord {
        id,
        session: id / 3,
        turn: (id % 3) as u32,
        class: "casual_chat".to_owned(),
        intended_ns,
        pushed_ns: 0,
        sent_ns: Some(intended_ns + 40_000),
        admitted_ns: Some(intended_ns + 90_000),
        chunk_ns: (0..TOKENS).map(token).collect(),
        chunk_tokens: vec![1; TOKENS as usize],
        bare_ns: Vec::new(),
        usage_ns: None,
        end_ns: Some(token(TOKENS - 1)),
        outcome: Outcome::Ok,
        finish: Some(Finish::Length),
        input_tokens: 512,
        planned_input_tokens: 512,
        cached_input_tokens: Some(256),
        output_tokens: TOKENS,
        planned_output_tokens: TOKENS,
        token_count_source: TokenCountSource::Engine,
        error: None,
    }
}

fn accumulator() -> Accumulator {
    Accumulator::new(
        Window {
            start_ns: 0,
            end_ns: 600_000_000_000,
        },
        None,
    )
}

fn bench(criterion: &mut Criterion) {
    let records: Vec<RequestRecord> = (0..512).map(record).collect();
    let mut group = criterion.benchmark_group("record_request");
    group.throughput(Throughput::Elements(TOKENS));
    let mut next = (0..records.len()).cycle();
    let mut take = || &records[next.next().expect("it cycles")];
    group.bench_function("figures", |bencher| {
        let mut accumulator = accumulator();
        bencher.iter(|| accumulator.record(black_box(take())));
    });
    group.bench_function("figures_and_file", |bencher| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("requests.jsonl");
        let recorder = Recorder::create(&path, accumulator()).expect("writable");
        bencher.iter(|| recorder.record(black_box(take()), 0));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
