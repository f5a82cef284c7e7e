//! A made-up run, the same on every machine: the input of snapshots and of the demo.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reports::accumulate::{Accumulator, Measurements, Window};
use reports::cost::{self, Cost, Measured, Priced, Sheet};
use reports::schema::{
    DeviceTime, HostInfo, ModelInfo, RealisedWorkload, Report, RunInfo, SCHEMA_VERSION, Slo,
    Summary, TargetInfo, WorkloadInfo,
};
use reports::validity::{self, Completion, Evenness, Inputs, LoadKind, OutputLength};
use reports::{Outcome, RequestRecord, TokenCountSource};

const MS: f64 = 1e6;
pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const WINDOW: Window = Window {
    start_ns: 10 * SECOND,
    end_ns: 130 * SECOND,
};
pub(crate) const SLO: Slo = Slo {
    ttft_s: Some(0.6),
    tpot_s: Some(0.04),
    e2e_s: None,
};

/// How the made-up run went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// All well.
    Steady,
    /// The server cannot keep up.
    Overloaded,
}

/// Roughly normal, and exactly reproducible: no transcendental functions.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
}

fn skewed(rng: &mut ChaCha8Rng, median: f64, spread: f64) -> f64 {
    median * (spread * normal(rng)).exp()
}

pub(crate) fn records(story: Story) -> Vec<RequestRecord> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut at = 0.0;
    let mut records = Vec::new();
    while at < 130e9 {
        let id = records.len() as u64;
        at += -(1.0 - rng.random::<f64>()).ln() * 1e9 / 7.0;
        let wave = 1.0 + 0.4 * (at / 11e9).sin();
        let queue = match story {
            Story::Steady => skewed(&mut rng, 8.0 * wave, 0.9),
            Story::Overloaded => at / MS * 0.4,
        };
        records.push(record(&mut rng, id, at as u64, queue, wave));
    }
    records
}

fn record(rng: &mut ChaCha8Rng, id: u64, intended: u64, queue_ms: f64, wave: f64) -> RequestRecord {
    let input = skewed(rng, 420.0, 0.8).clamp(8.0, 6_000.0) as u64;
    let output = skewed(rng, 90.0, 0.7).clamp(2.0, 700.0) as u64;
    let sent = intended + skewed(rng, 0.06 * MS, 0.5) as u64;
    let admitted = sent + (queue_ms * MS) as u64;
    let first = admitted + ((40.0 + 0.18 * input as f64) * wave * MS) as u64;
    let mut chunks = vec![first];
    for _ in 1..output {
        let stall = if rng.random::<f64>() < 0.012 {
            4.5
        } else {
            1.0
        };
        let gap = skewed(rng, 19.0 * wave * stall, 0.09) * MS;
        chunks.push(chunks[chunks.len() - 1] + gap as u64);
    }
    let mut outcome = match id % 290 {
        17 => Outcome::Timeout,
        101 => Outcome::HttpStatus(503),
        44 | 130 | 222 => Outcome::Cancelled,
        _ => Outcome::Ok,
    };
    if matches!(outcome, Outcome::Cancelled) {
        chunks.truncate(chunks.len().div_ceil(3));
    } else if outcome.is_failure() {
        chunks.clear();
    }
    let mut end = chunks.last().copied().unwrap_or(admitted) + 300_000;
    if end > 160 * SECOND {
        chunks.retain(|&at| at < 160 * SECOND);
        (outcome, end) = (Outcome::Unfinished, 160 * SECOND);
    }
    RequestRecord {
        id,
        session: id / 3,
        turn: (id % 3) as u32,
        class: ["casual_chat", "writing", "code"][id as usize % 3].to_owned(),
        intended_ns: intended,
        pushed_ns: if id % 197 == 5 { 40_000_000 } else { 0 },
        sent_ns: Some(sent),
        admitted_ns: Some(admitted),
        chunk_tokens: vec![1; chunks.len()],
        output_tokens: chunks.len() as u64,
        chunk_ns: chunks,
        bare_ns: Vec::new(),
        usage_ns: None,
        end_ns: (outcome != Outcome::Unfinished).then_some(end),
        outcome,
        input_tokens: input,
        planned_input_tokens: input,
        cached_input_tokens: Some(input / 3),
        planned_output_tokens: output,
        finish: None,
        token_count_source: TokenCountSource::Engine,
        error: outcome.is_failure().then(|| "made up".to_owned()),
    }
}

pub(crate) fn measure(records: &[RequestRecord]) -> Measurements {
    let mut accumulator = Accumulator::new(WINDOW, Some(SLO));
    for record in records {
        accumulator.record(record);
    }
    accumulator.finish()
}

/// What the accumulator finds in the made-up run; computed once.
pub(crate) fn measured(story: Story) -> Measurements {
    static RUNS: [OnceLock<Measurements>; 2] = [const { OnceLock::new() }; 2];
    RUNS[story as usize]
        .get_or_init(|| measure(&records(story)))
        .clone()
}

/// The report of the made-up run; `name` is the model's.
pub(crate) fn report(story: Story, name: &str) -> Report {
    let records = records(story);
    let found = measured(story);
    let mut client_error = found.client_error.clone();
    client_error.timer_p50_s = Some(0.000_052);
    client_error.timer_p99_s = Some(0.000_081);
    client_error.cpu_cores_used = Some(0.14);
    let (validity, mut warnings) = validity::assess(Inputs {
        completion: Completion::Complete,
        load: LoadKind::Open,
        evenness: Evenness::Even,
        requested: None,
        drifts: &found.drifts,
        output_length: OutputLength::Exact,
        summary: &found.summary,
        client_error: &client_error,
        series: &found.series,
        ttft_p50_any_s: found.ttft_p50_any_s,
        length_mismatches: found.length_mismatches,
        lost_conversations: 0,
    });
    warnings.push("No energy was measured: this target has no power telemetry.".to_owned());
    Report {
        schema_version: SCHEMA_VERSION,
        run: run_info(),
        target: target(),
        model: model(name),
        workload: workload(records.len() as u64),
        validity,
        client_error,
        server_metrics: None,
        device_time: Some(DEVICE_TIME),
        cost: Some(priced(&found.summary, "nvidia-h100-sxm", 1)),
        summary: found.summary,
        histograms: found.histograms,
        series: found.series,
        energy: None,
        warnings,
    }
}

/// What the story's engine would have measured.
pub(crate) const DEVICE_TIME: DeviceTime = DeviceTime {
    prefill_s: 21.5,
    decode_s: 64.5,
    idle_s: 34.0,
    steps: 9_120,
};

/// A run priced as rented hardware.
pub(crate) fn priced(summary: &Summary, device: &str, units: u32) -> Cost {
    let sheet = Sheet::builtin("rental").expect("it is built in");
    let priced = Priced::new(&sheet, device, units).expect("the sheet has it");
    cost::price(&measured_for(summary), &priced).expect("it can be priced")
}

/// A run of the chatbot, its device time measured.
pub(crate) fn measured_for(summary: &Summary) -> Measured<'_> {
    Measured {
        summary,
        energy: None,
        device_time: Some(&DEVICE_TIME),
        solved: None,
        characters_per_token: Some(0.62),
        chatbot: true,
        whole_day: false,
    }
}

fn run_info() -> RunInfo {
    let command = "weighbridge run --target sim:nvidia-h100-sxm --workload doubao-chat --rate 7 \
                   --warmup 10s --duration 120s --slo ttft=600ms,tpot=40ms";
    RunInfo {
        tool_version: "0.1.0".to_owned(),
        git_commit: Some("0f3c2a9d41".to_owned()),
        command: command.split_whitespace().map(str::to_owned).collect(),
        seed: 7,
        schedule_hash: "9b1c6f20d4aa73e1".to_owned(),
        start: "1970-01-01T00:00:00Z".to_owned(),
        end: "1970-01-01T00:02:40Z".to_owned(),
        window_s: (10.0, 130.0),
        incomplete: false,
        host_use: None,
        host: HostInfo {
            os: "Linux 6.8.0".to_owned(),
            arch: "x86_64".to_owned(),
            cpu: "AMD EPYC 9654 96-Core Processor".to_owned(),
            logical_cpus: 16,
            memory_bytes: 137_438_953_472,
        },
        environment: BTreeMap::from([
            ("threads".to_owned(), "16".to_owned()),
            ("features".to_owned(), "candle".to_owned()),
        ]),
    }
}

fn target() -> TargetInfo {
    TargetInfo {
        name: "sim:nvidia-h100-sxm".to_owned(),
        kind: "simulated".to_owned(),
        device: "NVIDIA H100 SXM5 80GB (simulated)".to_owned(),
        virtual_time: true,
        details: BTreeMap::from([
            ("kv_blocks".to_owned(), "28672".to_owned()),
            ("max_num_seqs".to_owned(), "256".to_owned()),
            ("max_num_batched_tokens".to_owned(), "8192".to_owned()),
        ]),
    }
}

fn model(name: &str) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        architecture: Some("llama".to_owned()),
        parameters: Some(134_515_008),
        weights: Some("Q4_1".to_owned()),
        weight_bytes: Some(91_727_040),
        context_limit: Some(8_192),
        identity: Some("seeded random weights, seed 1".to_owned()),
        tokenizer: "smollm2".to_owned(),
    }
}

fn workload(requests: u64) -> WorkloadInfo {
    WorkloadInfo {
        name: "doubao-chat".to_owned(),
        description: "Multi-turn chat in the proportions of a large consumer assistant.".to_owned(),
        load: "open".to_owned(),
        target_rate: Some(7.0),
        users: None,
        arrivals: "Poisson, 7 requests per second".to_owned(),
        warmup_s: 10.0,
        duration_s: 120.0,
        length_mode: "tokens".to_owned(),
        slo: Some(SLO),
        chatbot: true,
        whole_day: false,
        realised: RealisedWorkload {
            requests,
            sessions: requests / 3,
            prompt_tokens_mean: 571.2,
            prompt_tokens_p50: 418,
            prompt_tokens_p95: 1_620,
            output_tokens_mean: 114.9,
            output_tokens_p50: 90,
            truncated: 0,
            cancelled: 9,
            arrival_cv: Some(0.98),
            ideal_prefix_hit: Some(0.41),
            classes: BTreeMap::from([
                ("casual_chat".to_owned(), requests / 3),
                ("writing".to_owned(), requests / 3),
                ("code".to_owned(), requests - 2 * (requests / 3)),
            ]),
            ..RealisedWorkload::default()
        },
        scenario: serde_json::json!({ "workload": "doubao-chat", "rate": 7.0, "seed": 7 }),
    }
}
