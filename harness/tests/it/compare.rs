//! `compare`, `import` and `export` through the real binary.

use crate::command::Sandbox;

/// Two devices under one load, in `a` and `b`, and one of them under another load, in `c`.
fn three_runs() -> Sandbox {
    let sandbox = Sandbox::new();
    let run = "run --model ref-tiny --duration 30s --warmup 5s --slo ttft=1s";
    for rest in [
        "--target sim:h100 --rate 8 --out a",
        "--target sim:h20 --rate 8 --out b",
        "--target sim:h20 --rate 9 --out c",
    ] {
        let ran = sandbox.run_line(&format!("{run} {rest}"));
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.err);
    }
    sandbox
}

#[test]
fn results_are_compared_exported_and_read_again() {
    let sandbox = three_runs();
    let compared = "compare a b --allow invalid --html c.html --markdown c.md";
    let ran = sandbox.run_line(compared).ends_with(0);
    assert!(
        ran.out.contains("TTFT p50") && ran.out.contains("B ÷ A"),
        "{}",
        ran.out
    );
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).expect("written");
    assert!(read("c.html").contains("<h2>Ratios</h2>"));
    assert!(read("c.md").contains("| **B** |"));

    let json = sandbox.run_line("compare a b --allow invalid --reference 2 --label one,two --json");
    let json: serde_json::Value = serde_json::from_str(&json.ends_with(0).out).expect("JSON");
    assert_eq!(json["reference"], 1);
    assert_eq!(json["subjects"][0]["label"], "one");
    assert_eq!(
        json["rows"][0]["entries"][1]["ratio"],
        serde_json::Value::Null
    );

    let other = sandbox.run_line("compare a c --allow invalid").ends_with(2);
    let other = other.says("workload: ").says("rate 8").says("rate 9");
    other.says("hint: `--allow workload` compares them in spite of that");
    let allowed = sandbox
        .run_line("compare a c --allow invalid,workload")
        .ends_with(0);
    assert!(
        allowed.out.contains("compared in spite of workload"),
        "{}",
        allowed.out
    );

    for format in ["vllm", "aiperf", "inferencex", "csv"] {
        let line = format!("export a --format {format} --out exported");
        sandbox.run_line(&line).ends_with(0);
    }
    assert!(read("exported/requests.csv").starts_with("id,session,turn"));
    sandbox
        .run_line("export b --format vllm --out b")
        .ends_with(0);
    let vllm = "compare exported/vllm.json b/vllm.json --allow invalid";
    let vllm = sandbox.run_line(vllm).ends_with(0);
    assert!(vllm.out.contains("simulated") || vllm.out.contains("TPOT p50"));
    let mixed = sandbox.run_line("compare a exported/vllm.json --allow invalid");
    mixed
        .ends_with(2)
        .says("definitions: ")
        .says("weighbridge export DIR --format vllm");
    let import = "import exported/profile_export_aiperf.json --out neutral.json";
    sandbox.run_line(import).ends_with(0).says("aiperf: ");
    let again = "compare neutral.json exported/profile_export_aiperf.json --allow invalid";
    sandbox.run_line(again).ends_with(0);
}

#[test]
fn what_cannot_be_read_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("cut.json", "{\"schema_version\": 1, \"summ");
    sandbox.write("hello.json", "{\"hello\": 1}");
    let rows = r#"[{"model_type":"m","cpu_info":"c","n_threads":1,"n_prompt":8,"n_gen":0,"avg_ts":9.0},
        {"model_type":"m","cpu_info":"c","n_threads":2,"n_prompt":8,"n_gen":0,"avg_ts":12.0}]"#;
    sandbox.write("bench.json", rows);
    let cases = [
        ("compare cut.json cut.json", "`cut.json`: not whole JSON"),
        (
            "compare hello.json cut.json",
            "accepted are a result folder",
        ),
        ("compare nowhere cut.json", "`nowhere`"),
        ("compare bench.json#3", "has 2 results"),
        ("compare bench.json#1", "1 to compare; two are needed"),
        ("compare bench.json --reference 3", "`--reference`"),
        (
            "compare bench.json --label a,b,c",
            "`--label` was given 3 times",
        ),
        (
            "compare bench.json --allow size",
            "`size` cannot be allowed",
        ),
        ("import hello.json --out x.json", "no known shape"),
        ("export nowhere --format vllm", "nowhere"),
        ("export nowhere --format pdf", "`pdf` is not a format"),
    ];
    for (line, expected) in cases {
        sandbox.run_line(line).ends_with(2).says(expected);
    }
    let ran = sandbox.run_line("compare bench.json").ends_with(0);
    assert!(ran.out.contains("×1.33 ?"), "{}", ran.out);
}
