//! Workloads end to end: presets that change their rate, traces, checks, dialects.

use reports::RequestRecord;

use crate::command::{Sandbox, records, report};

/// A little trace with shared beginnings, 16 tokens to a block.
fn bailian(lines: u64) -> String {
    let line = |index: u64| {
        let (chat, parent) = (
            index + 1,
            if index.is_multiple_of(3) {
                -1
            } else {
                index.cast_signed()
            },
        );
        // A system prompt for all, then what the chat has said so far.
        let (root, turn) = (index - index % 3, index % 3 + 1);
        let mut ids = vec![0, 1];
        ids.extend((0..2 * turn).map(|block| 100 * root + block + 10));
        let input = 16 * ids.len() as u64;
        format!(
            "{{\"chat_id\":{chat},\"parent_chat_id\":{parent},\"timestamp\":{:.2},\
             \"input_length\":{input},\"output_length\":8,\"type\":\"text\",\"turn\":{turn},\
             \"hash_ids\":{ids:?}}}\n",
            index as f64 * 0.5
        )
    };
    (0..lines).map(line).collect()
}

#[test]
fn a_trace_is_replayed_at_its_instants_with_its_lengths_and_its_prefixes() {
    let sandbox = Sandbox::new();
    sandbox.write("chat.jsonl", bailian(60));
    let load = "--workload bailian:chat.jsonl --warmup 0s";
    sandbox
        .run_line(&format!(
            "run --target sim:h100 --model ref-tiny {load} --out out"
        ))
        .ends_with(0);
    let folder = sandbox.path("out");
    let mut found = records(&folder);
    found.sort_by_key(|record| record.intended_ns);
    assert_eq!(found.len(), 60);
    for (index, record) in (0..).zip(&found) {
        assert_eq!(record.intended_ns, index * 500_000_000);
        let blocks = 2 + 2 * (index % 3 + 1);
        assert_eq!(
            (record.input_tokens, record.output_tokens),
            (16 * blocks, 8)
        );
        assert_eq!(u64::from(record.turn), index % 3);
    }
    let found = report(&folder);
    assert_eq!(found.workload.name, "bailian:chat.jsonl");
    let hit = found
        .workload
        .realised
        .ideal_prefix_hit
        .expect("blocks are shared");
    assert!((0.3..0.7).contains(&hit), "{hit}");
    let cached = found.summary.cached_input_tokens.expect("the engine knows");
    let share = cached as f64 / found.summary.input_tokens as f64;
    // The engine's blocks are not the trace's, and the last block of a prompt is always computed.
    assert!(share > 0.2 && share < hit + 0.02, "{share} of {hit}");
}

#[test]
fn time_scale_window_and_rate_move_a_trace() {
    let sandbox = Sandbox::new();
    sandbox.write("chat.jsonl", bailian(60));
    let instants = |extra: &str| {
        let fixed = "run --target sim:h100 --model ref-tiny --workload bailian:chat.jsonl";
        let line = format!("{fixed} --warmup 0s {extra} --out out");
        sandbox.run_line(&line).ends_with(0);
        let mut all: Vec<u64> = records(&sandbox.path("out"))
            .iter()
            .map(|record| record.intended_ns / 1_000_000)
            .collect();
        all.sort_unstable();
        all
    };
    assert_eq!(instants("--time-scale 0.5")[..3], [0, 250, 500]);
    let part = instants("--window 10s..20s");
    assert_eq!((part.len(), part[0], part[19]), (20, 0, 9_500));
    let faster = instants("--rate 8");
    assert_eq!(faster.len(), 60);
    assert!((7_300..7_500).contains(&faster[59]), "{}", faster[59]);
    let shuffled = instants("--arrivals poisson --rate 20 --duration 4s");
    assert!(
        shuffled
            .windows(3)
            .any(|three| three[2] - three[1] != three[1] - three[0])
    );
}

#[test]
fn what_does_not_fit_the_model_is_left_out_and_counted() {
    let sandbox = Sandbox::new();
    let rows = "2023-11-16 18:15:46.1,300,20\n2023-11-16 18:15:47.5,9000,20\n\
                2023-11-16 18:15:49.0,3,20\n2023-11-16 18:15:50.0,400,20\n";
    sandbox.write(
        "azure.csv",
        format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}"),
    );
    let line = "run --target sim:h100 --model ref-tiny --workload azure:azure.csv --warmup 0s";
    sandbox
        .run_line(&format!("{line} --out out"))
        .ends_with(0)
        .says("left out of the trace: 1 longer than 2048 tokens");
    let found = report(&sandbox.path("out")).workload.realised;
    assert_eq!((found.requests, found.lengthened), (3, 1));
    assert_eq!(found.left_out["longer than 2048 tokens"], 1);
    sandbox
        .run_line(&format!("{line} --context-limit 350 --out out"))
        .ends_with(0)
        .says("2 longer than 350 tokens");
}

#[test]
fn conversations_keep_their_text_and_their_order() {
    let sandbox = Sandbox::new();
    let talk = |index: u32| {
        format!(
            r#"{{"id":"{index}","conversations":[{{"from":"human","value":"第{index}个问题"}},
            {{"from":"gpt","value":"一二三四"}},{{"from":"human","value":"再说一遍"}},
            {{"from":"gpt","value":"五六"}}]}}"#
        )
    };
    let all: Vec<String> = (0..40).map(talk).collect();
    sandbox.write("talks.json", format!("[{}]", all.join(",")));
    let line = "run --target sim:h100 --model ref-tiny --workload sharegpt:talks.json --rate 2";
    sandbox
        .run_line(&format!(
            "{line} --think-scale 0.01 --duration 20s --warmup 0s --out out"
        ))
        .ends_with(0);
    let found = records(&sandbox.path("out"));
    let second = |record: &&RequestRecord| record.turn == 1;
    let first_of = |session| found.iter().find(|r| r.session == session && r.turn == 0);
    assert!(found.iter().filter(second).count() > 5);
    for record in found.iter().filter(second) {
        let first = first_of(record.session).expect("it came before");
        assert!(record.intended_ns > first.intended_ns);
        assert!(record.input_tokens > first.input_tokens + first.output_tokens);
    }
}

#[test]
fn mistakes_in_traces_are_named_before_anything_is_measured() {
    let sandbox = Sandbox::new();
    sandbox.write("good.jsonl", bailian(3));
    sandbox.write(
        "bad.jsonl",
        bailian(3).replace("\"input_length\":", "\"inputs\":"),
    );
    for (line, part) in [
        (
            "run --workload bailian:bad.jsonl",
            "line 1: field `input_length` is missing",
        ),
        ("run --workload mooncake:no.jsonl", "no.jsonl"),
        (
            "run --workload bailian:good.jsonl --window 1h..2h",
            "no request in the window",
        ),
        (
            "run --workload bailian:good.jsonl --rate 1 --time-scale 2",
            "are both given",
        ),
        (
            "run --workload sharegpt:good.jsonl --window 1s..2s",
            "a `sharegpt` trace has none",
        ),
        ("run --dialect wrk", "accepted are `vllm`"),
        ("workloads check smok", "`smoke`"),
        (
            "workloads check smoke --sessions 10",
            "`--sessions` is 10; accepted is 4000",
        ),
        ("workloads check bailian:bad.jsonl", "field `input_length`"),
    ] {
        sandbox.run_line(line).ends_with(2).says(part);
    }
    assert!(!sandbox.path("results").exists(), "nothing was begun");
}

#[test]
fn workloads_with_a_changing_rate_run() {
    let sandbox = Sandbox::new();
    let sim = "run --target sim:h100 --model ref-tiny --out out";
    // The model's window is small: histories are cut, and counted.
    let day = "--workload doubao-day --context-limit 2048 --time-scale 0.001 --think-scale 0.001";
    let ran = sandbox.run_line(&format!("{sim} {day} --rate 3 --duration 86s --warmup 0s"));
    assert!(
        ran.code == Some(2) && ran.err.contains("`context_limit` is 2048"),
        "{}",
        ran.err
    );
    sandbox.write(
        "day.toml",
        "name = \"day\"\ndescription = \"a day of short questions\"\nrate = 5.0\n\
         duration_s = 86.4\nwarmup_s = 0.0\narrivals = \"poisson\"\ncontext_limit = 512\n\
         rate_shape = { time_scale = 0.001, day = { from_hour = 0.0 } }\n\
         [[class]]\nid = \"casual_chat\"\nsession_share = 1.0\n\
         turns = { q = 0.5, beta = 1.0, max = 1 }\n\
         user_first = { dist = \"fixed\", value = 30.0 }\n\
         user_next = { dist = \"fixed\", value = 30.0 }\n\
         output = { dist = \"fixed\", value = 8.0 }\nthink = { dist = \"fixed\", value = 0.0 }\n",
    );
    sandbox
        .run_line(&format!("{sim} --workload day.toml"))
        .ends_with(0);
    let series = report(&sandbox.path("out")).series;
    let in_hours = |from: u64, to: u64| {
        let range = (from * 36 / 10)..(to * 36 / 10);
        let inside = series.iter().filter(|point| range.contains(&point.t_s));
        inside.map(|point| point.intended).sum::<u64>()
    };
    // The evening has about six times the load of the small hours.
    assert!(
        in_hours(18, 23) > 3 * in_hours(2, 7),
        "{} {}",
        in_hours(18, 23),
        in_hours(2, 7)
    );
}

#[test]
fn checks_pass_and_fail_with_their_exit_code_and_write_a_page() {
    let sandbox = Sandbox::new();
    let ran = sandbox
        .run_line("workloads check smoke --seed 3 --sessions 3000 --html fit.html")
        .ends_with(0);
    assert!(
        ran.out.starts_with("PASS") && ran.out.contains("CV of gaps"),
        "{}",
        ran.out
    );
    let page = std::fs::read_to_string(sandbox.path("fit.html")).expect("written");
    assert!(page.contains("<svg ") && page.contains("Index of dispersion"));
    let ran = sandbox
        .run_line("workloads check smoke --seed 3 --sessions 3000 --json")
        .ends_with(0);
    let fit: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(fit["passed"], true);
    // A specification that expects what its own laws do not give.
    let ran = sandbox
        .run_line("workloads describe doubao-chat")
        .ends_with(0);
    let wrong = ran
        .out
        .replace("prompt_tokens = 2887.0", "prompt_tokens = 2000.0");
    assert_ne!(wrong, ran.out);
    sandbox.write("wrong.toml", wrong);
    let ran = sandbox
        .run_line("workloads check wrong.toml --seed 3 --sessions 4000")
        .ends_with(1);
    assert!(
        ran.out.starts_with("FAIL") && ran.out.contains("prompt tokens"),
        "{}",
        ran.out
    );
    sandbox.write("chat.jsonl", bailian(60));
    let ran = sandbox
        .run_line("workloads check bailian:chat.jsonl")
        .ends_with(0);
    assert!(
        ran.out.contains("tokens shared by the first 60 prompts"),
        "{}",
        ran.out
    );
}

#[test]
fn a_run_is_shown_in_another_tool_s_definitions() {
    let sandbox = Sandbox::new();
    let line = "run --target sim:h100 --model ref-tiny --rate 20 --out out --dialect vllm";
    let ran = sandbox.run_line(line).ends_with(0);
    assert!(
        ran.out.contains("definitions of vllm") && ran.out.contains("E2EL"),
        "{}",
        ran.out
    );
    let again = sandbox.run_line("report out --dialect vllm").ends_with(0);
    assert_eq!(again.out, ran.out);
    let ran = sandbox
        .run_line("report out --dialect guidellm --json")
        .ends_with(0);
    let value: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(value["dialect"], "guidellm");
    // By hand: GuideLLM's TPOT has the first token in it.
    let found = report(&sandbox.path("out"));
    let (start, end) = found.run.window_s;
    let inside = |r: &&RequestRecord| (start..end).contains(&(r.intended_ns as f64 / 1e9));
    let all = records(&sandbox.path("out"));
    let values: Vec<f64> = all
        .iter()
        .filter(inside)
        .filter(|record| record.outcome == reports::Outcome::Ok)
        .map(|r| {
            (r.chunk_ns[r.chunk_ns.len() - 1] - r.sent_ns.expect("sent")) as f64
                / r.output_tokens as f64
        })
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64 / 1e9;
    let stated = value["metrics"][2]["mean_s"].as_f64().expect("a number");
    assert!(
        (stated / mean - 1.0).abs() < 1e-9,
        "{stated} against {mean}"
    );
    std::fs::remove_file(sandbox.path("out/requests.jsonl")).expect("removable");
    sandbox
        .run_line("report out --dialect vllm")
        .ends_with(2)
        .says("needs the run's requests");
}
