//! Files of each tool, and what is no file of any.

use super::*;
use crate::subject::Source;

const VLLM: &str = r#"{"date":"20260401-101010","endpoint_type":"openai-chat","backend":"vllm",
"label":null,"model_id":"Qwen/Qwen3-8B","tokenizer_id":"Qwen/Qwen3-8B","num_prompts":200,
"request_rate":4.0,"burstiness":1.0,"max_concurrency":null,"duration":51.2,"completed":199,
"failed":1,"total_input_tokens":203776,"total_output_tokens":25472,"request_throughput":3.887,
"request_goodput":3.1,"output_throughput":497.5,"total_token_throughput":4477.5,
"mean_ttft_ms":81.5,"median_ttft_ms":74.25,"std_ttft_ms":20.0,"p99_ttft_ms":190.0,
"mean_tpot_ms":11.2,"median_tpot_ms":11.0,"std_tpot_ms":1.0,"p99_tpot_ms":14.5,
"mean_itl_ms":11.1,"median_itl_ms":10.9,"std_itl_ms":3.0,"p99_itl_ms":30.0,
"mean_e2el_ms":1500.0,"median_e2el_ms":1480.0,"std_e2el_ms":100.0,"p99_e2el_ms":1900.0}"#;

fn one(text: &str) -> Subject {
    let mut found = subjects(text).expect("it is known");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn value(subject: &Subject, key: &str) -> Option<f64> {
    subject.figures.get(key).map(|figure| figure.value)
}

#[test]
fn vllm_has_milliseconds_and_medians() {
    let subject = one(VLLM);
    assert_eq!(subject.source, Source::Vllm);
    assert_eq!(value(&subject, "ttft_s.p50"), Some(0.074_25));
    assert_eq!(value(&subject, "tpot_s.p99"), Some(0.014_5));
    assert_eq!(value(&subject, "goodput_rate"), Some(3.1));
    assert_eq!(
        value(&subject, "itl_s.p50"),
        None,
        "gaps of chunks are no ITL"
    );
    assert_eq!(subject.workload.input_tokens_mean, Some(1_024.0));
    assert_eq!(subject.notes, ["1 requests failed and are in no figure"]);
    let unlimited = VLLM.replace("\"request_rate\":4.0", "\"request_rate\":\"inf\"");
    assert_eq!(one(&unlimited).workload.target_rate, None);
    let twice = format!("{}\n{}\n", VLLM.replace('\n', ""), VLLM.replace('\n', ""));
    assert_eq!(subjects(&twice).expect("appended results").len(), 2);
}

#[test]
fn aiperf_s_itl_is_a_tpot_and_units_count() {
    let text = r#"{"schema_version":"1.4","aiperf_version":"0.13.0",
    "request_throughput":{"unit":"requests/sec","avg":3.9},
    "output_token_throughput":{"unit":"tokens/sec","avg":500.0},
    "request_count":{"unit":"requests","avg":100.0},
    "time_to_first_token":{"unit":"ms","avg":82.0,"p50":75.0,"p99":200.0},
    "inter_token_latency":{"unit":"us","avg":11000.0,"p50":10900.0},
    "request_latency":{"unit":"fortnights","avg":1.0},
    "input_config":{"models":{"items":[{"name":"qwen"}]},"tokenizer":{"name":"qwen-t"},
      "phases":[{"rate":4.0}]},"was_cancelled":true}"#;
    let subject = one(text);
    assert_eq!(subject.source, Source::Aiperf);
    assert_eq!(value(&subject, "ttft_s.p99"), Some(0.2));
    assert_eq!(value(&subject, "tpot_s.p50"), Some(0.010_9));
    assert_eq!(value(&subject, "e2e_s.mean"), None, "an unknown unit");
    assert_eq!(subject.model.tokenizer.as_deref(), Some("qwen-t"));
    assert_eq!(subject.workload.target_rate, Some(4.0));
    assert_eq!(subject.invalid, ["the run was cancelled"]);
}

#[test]
fn guidellm_gives_a_subject_for_each_benchmark() {
    let benchmark = r#"{"config":{"strategy":{"type_":"constant","rate":4.0},
      "backend":{"model":"qwen"}},"metrics":{
      "request_totals":{"successful":80,"incomplete":3,"errored":0,"total":83},
      "requests_per_second":{"successful":{"mean":3.9}},
      "output_tokens_per_second":{"successful":{"mean":498.0}},
      "time_to_first_token_ms":{"successful":{"mean":80.0,"median":75.0,
        "percentiles":{"p90":100.0,"p99":180.0}}},
      "request_latency":{"successful":{"mean":1.5,"median":1.4,"percentiles":{"p99":2.0}}}}}"#;
    let text = format!(r#"{{"metadata":{{"version":2}},"benchmarks":[{benchmark},{benchmark}]}}"#);
    let found = subjects(&text).expect("a report");
    assert_eq!(found.len(), 2);
    assert_eq!(value(&found[0], "ttft_s.p90"), Some(0.1));
    assert_eq!(value(&found[0], "e2e_s.p50"), Some(1.4));
    assert_eq!(found[0].label, "guidellm qwen constant 4");
    assert_eq!(
        found[0].notes,
        ["3 requests were cut off and are in no figure"]
    );
    let none = r#"{"metadata":{},"benchmarks":[]}"#;
    assert!(
        subjects(none)
            .expect_err("empty")
            .to_string()
            .contains("without benchmarks")
    );
}

#[test]
fn llama_bench_rows_of_one_engine_are_one_subject() {
    let row = |prompt: u64, generated: u64, speed: f64| {
        format!(
            r#"{{"build_commit":"abc","cpu_info":"EPYC","gpu_info":"","model_type":"llama 1B Q4_0",
            "model_n_params":1000,"n_threads":8,"n_gpu_layers":99,"n_prompt":{prompt},
            "n_gen":{generated},"n_depth":0,"avg_ts":{speed},"stddev_ts":1.0,
            "samples_ts":[{}, {}, {speed}]}}"#,
            speed - 1.0,
            speed + 1.0
        )
    };
    let text = format!(
        "[{},{},{}]",
        row(512, 0, 200.0),
        row(0, 128, 40.0),
        row(8, 8, 9.0)
    );
    let subject = one(&text);
    assert_eq!(subject.label, "llama 1B Q4_0, EPYC, 8 threads");
    let decode = subject.figures["decode_tokens_per_s"];
    // By hand: t(0.975, 2) = 4.3027 over the error of the mean, 1 / √3.
    let (low, high) = decode.ci95.expect("three repeats");
    assert!(
        (low - 37.516).abs() < 1e-3 && (high - 42.484).abs() < 1e-3,
        "{low} {high}"
    );
    assert_eq!(subject.workload.input_tokens_mean, Some(512.0));
    assert_eq!(subject.notes, ["mixed tests are left out"]);
}

#[test]
fn inferencex_rows_are_per_gpu_in_seconds() {
    let text = r#"[{"hw":"h200-nv","conc":64,"model":"openai/gpt-oss-120b","framework":"vllm",
      "precision":"fp4","isl":8192,"osl":1024,"is_multinode":false,"tp":8,"spec_decoding":"none",
      "tput_per_gpu":1800.5,"output_tput_per_gpu":200.0,"median_ttft":0.51,"p99_ttft":0.9,
      "median_tpot":0.0091,"median_intvty":109.9}]"#;
    let subject = one(text);
    assert_eq!(subject.devices, Some(8));
    assert_eq!(value(&subject, "ttft_s.p50"), Some(0.51));
    assert_eq!(
        value(&subject, "total_tokens_per_s_per_device"),
        Some(1_800.5)
    );
    assert_eq!(
        subject.label,
        "h200-nv openai/gpt-oss-120b vllm fp4 tp8 conc 64"
    );
}

#[test]
fn a_subject_is_read_as_it_was_written() {
    let subject = one(VLLM);
    let text = serde_json::to_string(&subject).expect("plain values");
    assert_eq!(one(&text), subject);
    let later = text.replace("\"schema_version\":1", "\"schema_version\":9");
    let error = subjects(&later).expect_err("another version").to_string();
    assert_eq!(error, "the subject has schema version 9; accepted is 1");
}

#[test]
fn what_is_no_result_is_an_error() {
    let cases = [
        ("", "not whole JSON"),
        (&VLLM[..200], "not whole JSON"),
        ("{\"a\": 1}\n{\"b\": ", "not whole JSON"),
        ("[]", "no known shape"),
        ("3", "no known shape"),
        ("{\"hello\": \"world\"}", "accepted are"),
        (
            r#"{"request_throughput":null,"output_throughput":"x"}"#,
            "without a figure",
        ),
        (
            r#"{"schema_version":3,"summary":{},"run":{},"validity":{}}"#,
            "schema version 3; accepted is 2",
        ),
    ];
    for (text, expected) in cases {
        let error = subjects(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// Made by the tools themselves, 20 requests each against `weighbridge serve` by the scripts in
/// `scripts/clients`; names of folders and hosts are out of both, and of the second the statistics of
/// characters and words and all but one request.
#[test]
fn exports_that_the_tools_wrote_are_read() {
    let aiperf = one(include_str!("fixtures/aiperf-0.13.0.json"));
    let guidellm = one(include_str!("fixtures/guidellm-0.8.1.json"));
    let near = |subject: &Subject, key: &str, expected: f64| {
        let found = value(subject, key).unwrap_or_else(|| panic!("{key} of {subject:?}"));
        assert!((found / expected - 1.0).abs() < 1e-9, "{key}: {found}");
    };
    // What each tool printed, in its own units.
    near(&aiperf, "ttft_s.p50", 2.143_624_5e-3);
    near(&aiperf, "ttft_s.p99", 14.983_931_459_999_987e-3);
    near(&aiperf, "tpot_s.p50", 0.665_564_145_161_290_3e-3);
    near(&aiperf, "e2e_s.mean", 25.815_949_5e-3);
    near(&aiperf, "request_rate", 4.957_780_709_514_026);
    near(&aiperf, "output_tokens_per_s", 158.648_982_704_448_83);
    near(&guidellm, "ttft_s.p50", 4.372_596_740_722_656e-3);
    near(&guidellm, "ttft_s.p99", 17.682_790_756_225_586e-3);
    near(&guidellm, "tpot_s.p50", 0.670_486_880_886_939_3e-3);
    near(&guidellm, "e2e_s.p50", 24.623_394_012_451_172e-3);
    near(&guidellm, "request_rate", 5.244_928_144_440_403);
    near(&guidellm, "output_tokens_per_s", 167.837_700_622_092_94);
    for subject in [&aiperf, &guidellm] {
        assert_eq!(subject.workload.target_rate, Some(5.0), "{subject:?}");
        assert!(subject.invalid.is_empty(), "{:?}", subject.invalid);
        assert!(subject.label.contains("ref-135m"), "{}", subject.label);
    }
    assert_eq!(aiperf.source, Source::Aiperf);
    assert_eq!(guidellm.source, Source::Guidellm);
}
