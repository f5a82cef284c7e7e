//! Whole runs: on a simulated device in virtual time, and on the CPU with the tiny model.

use std::path::Path;

use reports::histogram::LatencyHistogram;
use reports::schema::Metric;
use reports::validity::Verdict;
use reports::{Accumulator, Outcome, Window};

use crate::command::{Sandbox, records, report};

const SIM: [&str; 9] = [
    "run",
    "--target",
    "sim:h100",
    "--model",
    "ref-tiny",
    "--workload",
    "smoke",
    "--rate",
    "20",
];

fn sim_run(sandbox: &Sandbox, extra: &[&str]) {
    sandbox
        .run(&[&SIM[..], extra, &["--out", "out"]].concat())
        .ends_with(0);
}

const FILES: [&str; 5] = [
    "report.json",
    "report.html",
    "report.md",
    "requests.jsonl",
    "latency.hlog",
];

#[test]
fn a_run_in_virtual_time_is_the_same_to_the_byte_also_under_load() {
    let first = Sandbox::new();
    sim_run(&first, &[]);
    // Both cores are kept busy while the second run goes on.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|_| {
            let stop = std::sync::Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut sum = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    sum = std::hint::black_box(sum.wrapping_mul(31) + 7);
                }
            })
        })
        .collect();
    let second = Sandbox::new();
    sim_run(&second, &[]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in busy {
        thread.join().expect("it ends");
    }
    for name in FILES {
        let read = |sandbox: &Sandbox| std::fs::read(sandbox.path("out").join(name)).expect(name);
        assert_eq!(read(&first), read(&second), "{name} differs");
    }
    let other = Sandbox::new();
    sim_run(&other, &["--seed", "2"]);
    let hash = |sandbox: &Sandbox| report(&sandbox.path("out")).run.schedule_hash;
    assert_eq!(hash(&first), hash(&second));
    assert_ne!(hash(&first), hash(&other));
}

#[test]
fn the_schedule_does_not_depend_on_the_target() {
    let hash = |target: &str| {
        let sandbox = Sandbox::new();
        let arguments = [
            "run", "--target", target, "--model", "ref-tiny", "--out", "out",
        ];
        sandbox
            .run(&[&arguments[..], &["--duration", "20s"]].concat())
            .ends_with(0);
        report(&sandbox.path("out")).run.schedule_hash
    };
    assert_eq!(hash("sim:h100"), hash("sim:ascend-910b3"));
}

/// Everything in the report that is a statistic, from `requests.jsonl` alone.
fn recompute(folder: &Path) {
    let report = report(folder);
    let ns = |seconds: f64| (seconds * 1e9).round() as u64;
    let (start, end) = report.run.window_s;
    let window = Window {
        start_ns: ns(start),
        end_ns: ns(end),
    };
    let mut accumulator = Accumulator::new(window, report.workload.slo);
    let records = records(folder);
    for record in &records {
        accumulator.record(record);
    }
    let measured = accumulator.finish();
    assert_eq!(measured.summary, report.summary);
    assert_eq!(measured.histograms, report.histograms);
    assert_eq!(measured.series, report.series);
    // And by hand, without the accumulator.
    let mut ttft: Vec<u64> = records
        .iter()
        .filter(|record| (window.start_ns..window.end_ns).contains(&record.intended_ns))
        .filter(|record| !record.outcome.is_failure())
        .filter_map(|record| Some(record.chunk_ns.first()? - record.intended_ns))
        .collect();
    ttft.sort_unstable();
    assert!(
        ttft.len() > 10,
        "{} requests are too few to show anything",
        ttft.len()
    );
    let histogram = LatencyHistogram::decode(&report.histograms[&Metric::Ttft]).expect("valid");
    assert_eq!(histogram.count(), ttft.len() as u64);
    let median = ttft[ttft.len().div_ceil(2) - 1] as f64 / 1e9;
    let stated = report.summary.ttft_s.p50.expect("enough requests");
    assert!(
        (stated / median - 1.0).abs() < 1e-9,
        "{stated} against {median}"
    );
    // On a busy machine a turn may come too late to be sent; what was answered is exact.
    let answered: Vec<_> = records
        .iter()
        .filter(|record| record.outcome == Outcome::Ok)
        .collect();
    assert!(answered.len() * 2 > records.len(), "{}", answered.len());
    for record in answered {
        assert_eq!(record.output_tokens, record.planned_output_tokens);
        assert_eq!(record.input_tokens, record.planned_input_tokens);
    }
}

#[test]
fn the_report_is_what_its_records_say() {
    let sandbox = Sandbox::new();
    sim_run(&sandbox, &[]);
    recompute(&sandbox.path("out"));
}

#[test]
fn the_tiny_model_on_the_cpu_is_measured_and_its_report_is_right() {
    let sandbox = Sandbox::new();
    let arguments = [
        "run",
        "--model",
        "ref-tiny",
        "--rate",
        "6",
        "--duration",
        "6s",
    ];
    // A busy test machine may be late, and then the verdict is INVALID: both are honest.
    let ran = sandbox.run(&[&arguments[..], &["--warmup", "1s", "--out", "out"]].concat());
    let folder = sandbox.path("out");
    let found = report(&folder);
    let valid = found.validity.verdict == Verdict::Valid;
    assert_eq!(ran.code, Some(i32::from(!valid)), "{}", ran.err);
    assert_eq!(valid, found.validity.reasons.is_empty());
    assert!(
        FILES
            .iter()
            .all(|name| folder.join(name).metadata().is_ok_and(|m| m.len() > 0))
    );
    assert!(
        ran.out.contains("TTFT") && ran.out.contains("Cost per query"),
        "{}",
        ran.out
    );
    assert!(
        found.summary.cached_input_tokens > Some(0),
        "the system prompt is shared"
    );
    assert_eq!(found.summary.requests.failed, 0);
    recompute(&folder);
}

#[test]
fn closed_loop_keeps_its_users_and_ends() {
    let sandbox = Sandbox::new();
    let line = "run --target sim:h20 --model ref-tiny --users 5 --duration 60s --out out";
    sandbox.run_line(line).ends_with(0);
    let folder = sandbox.path("out");
    let records = records(&folder);
    assert!(records.len() > 50, "{}", records.len());
    let in_flight = report(&folder)
        .series
        .iter()
        .map(|point| point.in_flight)
        .max();
    assert!(in_flight <= Some(5), "{in_flight:?}");
    recompute(&folder);
}

#[test]
fn requests_can_be_counted_and_prompts_be_exact() {
    let sandbox = Sandbox::new();
    let load = "--workload random:100/20 --rate 50 --requests 120 --warmup 0s";
    sandbox
        .run_line(&format!("run --target sim:h20 {load} --out out"))
        .ends_with(0);
    let records = records(&sandbox.path("out"));
    assert_eq!(records.len(), 120);
    assert!(
        records
            .iter()
            .all(|r| (r.input_tokens, r.output_tokens) == (100, 20))
    );
}

#[test]
fn a_closed_loop_that_is_done_early_is_measured_over_its_own_time() {
    let sandbox = Sandbox::new();
    let load = "--workload random:64/16 --users 4 --requests 400";
    sandbox
        .run_line(&format!("run --target sim:h20 {load} --out out"))
        .ends_with(0);
    let found = report(&sandbox.path("out"));
    let (start, end) = found.run.window_s;
    assert_eq!(records(&sandbox.path("out")).len(), 400);
    assert!(start == 0.0 && end < 10.0, "{start} to {end}");
    let rate = found.summary.request_rate.per_s;
    assert!(
        (rate * end / 400.0 - 1.0).abs() < 0.02,
        "{rate} over {end} s"
    );
}

#[test]
fn overload_is_called_by_its_name() {
    let sandbox = Sandbox::new();
    // One sequence at a time: about nine requests a second of the forty.
    let load = "--workload random:64/200 --rate 40 --max-sequences 1 --duration 20s --drain 1s";
    let ran = sandbox
        .run_line(&format!("run --target sim:h20 {load} --out out"))
        .ends_with(1);
    assert!(ran.out.contains("INVALID"), "{}", ran.out);
    let found = report(&sandbox.path("out"));
    let reasons = found.validity.reasons.join(" ");
    assert!(reasons.contains("backlog grew"), "{reasons}");
    let records = records(&sandbox.path("out"));
    assert_eq!(
        records.len() as u64,
        found.workload.realised.requests,
        "none is missing"
    );
    assert!(
        records
            .iter()
            .any(|record| record.outcome == Outcome::Unfinished)
    );
}

#[test]
fn a_result_folder_can_be_rendered_again() {
    let sandbox = Sandbox::new();
    sim_run(&sandbox, &[]);
    let folder = sandbox.path("out");
    let before = std::fs::read(folder.join("report.html")).expect("written");
    std::fs::remove_file(folder.join("report.html")).expect("removable");
    let ran = sandbox.run(&["report", "out"]).ends_with(0);
    assert!(ran.out.starts_with("VALID"), "{}", ran.out);
    assert_eq!(
        std::fs::read(folder.join("report.html")).expect("written again"),
        before
    );
    let ran = sandbox.run(&["report", "out", "--json"]).ends_with(0);
    let value: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON on standard output");
    let schema = include_str!("../../../reports/schema/report.schema.json");
    let schema: serde_json::Value = serde_json::from_str(schema).expect("a schema");
    let validator = jsonschema::validator_for(&schema).expect("a good schema");
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|e| e.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn candle_s_kernels_run_the_same_model() {
    let sandbox = Sandbox::new();
    let load = "--workload random:40/8 --users 2 --requests 6 --warmup 0s --duration 60s";
    let line = format!("run --engine candle --model ref-tiny {load} --out out");
    // The verdict of so few requests is open, and so is the machine's load.
    let ran = sandbox.run_line(&line);
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.err);
    let found = report(&sandbox.path("out"));
    let detail = |name: &str| found.target.details[name].clone();
    assert_eq!(
        [detail("engine"), detail("kernels")],
        ["candle", "candle"].map(ToOwned::to_owned)
    );
    let records = records(&sandbox.path("out"));
    let answered = |record: &reports::RequestRecord| {
        (record.outcome, record.output_tokens) == (Outcome::Ok, 8)
    };
    assert_eq!(records.len(), 6);
    assert!(records.iter().all(answered), "{records:?}");
    for (flags, message) in [
        ("--engine fast", "accepted are `own` and `candle`"),
        ("--engine candle --pin on", "only engine `own` takes it"),
    ] {
        sandbox
            .run_line(&format!("run {flags}"))
            .ends_with(2)
            .says(message);
    }
}

#[test]
fn a_gpu_that_cannot_be_had_is_named() {
    let line = "run --target cuda:4096 --model ref-tiny --workload smoke --out out";
    let sandbox = Sandbox::new();
    let ran = sandbox.run_line(line).ends_with(2).says("cuda:4096");
    if cfg!(feature = "cuda") {
        ran.says("NVIDIA");
    } else {
        ran.says("built without `cuda`; rebuild with `--features cuda`");
    }
    assert!(!sandbox.path("out").exists());
}

#[test]
fn generate_and_speed_take_either_engine() {
    let sandbox = Sandbox::new();
    let reply = |engine: &str| {
        let words = "--model ref-tiny --prompt hello --max-tokens 12 --f32 --json";
        let ran = sandbox.run_line(&format!("generate --engine {engine} {words}"));
        let reply: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
        reply["token_ids"].as_array().expect("ids").len()
    };
    assert_eq!([reply("own"), reply("candle")], [12, 12]);
    let sizes = "--model ref-tiny --prompt-tokens 40 --gen-tokens 4 --repeats 1 --batch 3 --json";
    let ran = sandbox.run_line(&format!("speed --engine candle {sizes}"));
    let rows: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(
        (&rows[0]["engine"], &rows[0]["target"]),
        (&"candle".into(), &"cpu".into())
    );
    assert!(rows[0]["decode_tokens_per_s"].as_f64().expect("a number") > 0.0);
    for (line, message) in [
        (
            "speed --engine candle --profile",
            "only engine `own` takes it",
        ),
        ("speed --target sim:h100", "accepted are `cpu` and `cuda:N`"),
        (
            "generate --prompt x --target sim:h100",
            "accepted are `cpu` and `cuda:N`",
        ),
    ] {
        sandbox.run_line(line).ends_with(2).says(message);
    }
}
