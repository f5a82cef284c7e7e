//! The gate through the real binary: verdicts, exit codes, and what it does when a run goes wrong.

use serde_json::{Value, json};

use crate::command::{Ran, Sandbox};

/// A command that prints a prepared line in each of its runs, the warm-up's first.
fn prepared(sandbox: &Sandbox, name: &str, key: &str, values: &[f64]) -> String {
    let all = std::iter::once(&values[0]).chain(values);
    let lines: Vec<String> = all.map(|value| format!("{{\"{key}\": {value}}}")).collect();
    sandbox.write(name, lines.join("\n") + "\n");
    format!("sh -c 'head -n 1 {name}; sed -i 1d {name}'")
}

fn around(centre: f64, spread: f64) -> Vec<f64> {
    let steps = [0.3, -0.8, 0.1, 0.9, -0.4, -0.1, 0.6, -0.9, 0.2, -0.5];
    steps
        .iter()
        .map(|step| centre * (1.0 + spread * step))
        .collect()
}

/// Ten pairs of prepared figures.
fn ten_pairs(sandbox: &Sandbox, key: &str, sides: [&[f64]; 2], extra: &[&str]) -> Ran {
    let (one, other) = (
        prepared(sandbox, "a", key, sides[0]),
        prepared(sandbox, "b", key, sides[1]),
    );
    sandbox.run(&[&["gate", "--ab", &one, &other, "--metric", key], extra].concat())
}

#[test]
fn the_exit_code_is_the_verdict() {
    let base = around(2.0, 0.01);
    let other: Vec<f64> = base.iter().rev().copied().collect();
    let slower: Vec<f64> = other.iter().map(|value| value * 1.1).collect();
    let wild: Vec<f64> = around(2.0, 0.5).into_iter().rev().collect();
    for (key, candidate, code, verdict) in [
        ("x_s", &slower, 1, "WORSE"),
        ("x_per_s", &slower, 0, "BETTER"),
        ("x_s", &other, 0, "EQUIVALENT"),
        ("x_s", &wild, 3, "INCONCLUSIVE"),
    ] {
        let ran = ten_pairs(&Sandbox::new(), key, [&base, candidate], &[]).ends_with(code);
        assert!(ran.out.starts_with(verdict), "{key}\n{}", ran.out);
        assert!(ran.err.contains("pair 10/10"), "{}", ran.err);
    }
}

#[test]
fn the_report_is_written_for_people_pull_requests_and_ci() {
    let sandbox = Sandbox::new();
    let base = around(2.0, 0.01);
    let slower: Vec<f64> = base.iter().rev().map(|value| value * 1.1).collect();
    let files = ["--markdown", "gate.md", "--junit", "gate.xml", "--json"];
    let ran = ten_pairs(&sandbox, "x_s", [&base, &slower], &files).ends_with(1);
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(
        (&report["verdict"], &report["tier"]),
        (&json!("worse"), &json!("paired"))
    );
    let metric = &report["metrics"][0];
    let ratio = metric["ratio"].as_f64().expect("a ratio");
    assert!((ratio - 1.1).abs() < 0.01, "{ratio}");
    // Anybody can judge again: warm-ups and all runs are there, in the order in which they came.
    let runs = report["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 22);
    let pairs: Vec<u64> = runs.iter().filter_map(|run| run["pair"].as_u64()).collect();
    assert_eq!((pairs[0], pairs[1], pairs[2], pairs[21]), (0, 0, 1, 10));
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).expect(name);
    let (markdown, xml) = (read("gate.md"), read("gate.xml"));
    assert!(
        markdown.starts_with("### weighbridge gate: worse (fail)"),
        "{markdown}"
    );
    assert!(
        markdown.contains("| x\\_s | 2.00 s | 2.20 s |"),
        "{markdown}"
    );
    assert!(
        xml.contains("<failure") && xml.contains("failures=\"1\""),
        "{xml}"
    );
    let again = ten_pairs(&sandbox, "x_s", [&base, &slower], &files).ends_with(1);
    assert_eq!(again.out, ran.out, "the same figures give the same bytes");
}

#[test]
fn elapsed_time_is_compared_when_nothing_else_is_named() {
    let ran = Sandbox::new().run(&["gate", "--ab", "true", "sh -c 'sleep 0.1'", "--pairs", "6"]);
    let ran = ran.ends_with(1);
    assert!(ran.out.contains("wall_s"), "{}", ran.out);
}

#[test]
fn too_few_pairs_say_how_many_are_needed() {
    let ran = ten_pairs(
        &Sandbox::new(),
        "x_s",
        [&[1.0; 10], &[2.0; 10]],
        &["--pairs", "5"],
    );
    assert!(ran.ends_with(3).out.contains("better or worse needs 6"));
}

#[test]
fn a_run_that_fails_ends_the_gate_and_says_why() {
    let sandbox = Sandbox::new();
    let good = "echo '{\"x_s\": 1}'";
    for (a, b, extra, parts) in [
        (
            good,
            "sh -c 'echo no such engine >&2; exit 7'",
            "x_s",
            &["B (", "7", "no such engine"][..],
        ),
        ("false", good, "x_s", &["A (", "warm-up", "exit status: 1"]),
        (
            good,
            "echo hello",
            "x_s",
            &["B (", "not JSON", "hello", "wall_s"],
        ),
        (good, "true", "x_s", &["B (", "wrote nothing"]),
        (
            good,
            "echo '{\"y\": 2}'",
            "x_s",
            &["`x_s` is not in the JSON", "it has `y`"],
        ),
        (
            good,
            "echo '{\"x_s\": -2}'",
            "x_s",
            &["`x_s` is -2", "above 0"],
        ),
        (
            good,
            "no-such-program --fast",
            "x_s",
            &["`no-such-program` cannot be run"],
        ),
        (good, good, "score", &["is more of it better", "score:more"]),
        (good, "echo 'a", "x_s", &["quote that is not closed"]),
        (good, "weighbridge run --out here", "x_s", &["--out {out}"]),
    ] {
        let mut ran = sandbox
            .run(&["gate", "--ab", a, b, "--metric", extra])
            .ends_with(2);
        for part in parts {
            ran = ran.says(part);
        }
        assert_eq!(ran.out, "");
    }
    sandbox.run(&["gate"]).ends_with(2).says("--ab");
    sandbox
        .run(&["gate", "--baseline", "x"])
        .ends_with(2)
        .says("--candidate");
    let twice = [
        "gate", "--ab", good, good, "--metric", "x_s", "--metric", "x_s",
    ];
    sandbox.run(&twice).ends_with(2).says("given twice");
    sandbox
        .run(&["gate", "--ab", good, good, "--pairs", "0"])
        .ends_with(2)
        .says("`--pairs` is 0");
}

/// What a command left running in the background ends with it, too: the pipe would say so.
#[test]
fn a_run_that_hangs_is_ended_with_its_children() {
    let sandbox = Sandbox::new();
    let made = std::process::Command::new("mkfifo")
        .arg(sandbox.path("pipe"))
        .status();
    assert!(made.expect("mkfifo runs").success());
    let pipe = sandbox.path("pipe");
    let reader = std::thread::spawn(move || std::fs::read_to_string(pipe).expect("readable"));
    let hangs = "sh -c '(sleep 30; echo survived) > pipe & echo waiting >&2; wait'";
    let arguments = ["gate", "--ab", hangs, "true", "--timeout", "1s"];
    let ran = sandbox.run(&arguments).ends_with(2);
    ran.says("not done after 1s").says("waiting");
    assert_eq!(reader.join().expect("it ends"), "");
}

const SIM: &str =
    "run --target sim:h100 --model ref-tiny --workload smoke --rate 20 --duration 20s";

fn sim(extra: &str) -> String {
    let binary = assert_cmd::cargo::cargo_bin!("weighbridge");
    format!("{} {SIM} {extra}", binary.display())
}

#[test]
fn runs_in_virtual_time_must_be_equal_to_the_byte() {
    let sandbox = Sandbox::new();
    let ran = sandbox
        .run(&["gate", "--ab", &sim(""), &sim("")])
        .ends_with(0);
    assert!(ran.out.starts_with("IDENTICAL"), "{}", ran.out);
    assert!(ran.out.contains("every request"), "{}", ran.out);
    let ran = sandbox.run(&["gate", "--ab", &sim(""), &sim("--max-batch-tokens 64")]);
    let ran = ran.ends_with(1);
    assert!(ran.out.starts_with("CHANGED"), "{}", ran.out);
    assert!(ran.out.contains("/summary/"), "{}", ran.out);
}

/// A report of a simulated run, changed by `edit`.
fn stored(sandbox: &Sandbox, name: &str, edit: impl Fn(&mut Value)) {
    let source = sandbox.path("source");
    if !source.exists() {
        sandbox
            .run_line(&format!("{SIM} --out source"))
            .ends_with(0);
    }
    let text = std::fs::read_to_string(source.join("report.json")).expect("it was written");
    let mut report: Value = serde_json::from_str(&text).expect("JSON");
    edit(&mut report);
    sandbox.write(name, report.to_string());
}

fn gate_files(sandbox: &Sandbox, baseline: &[&str], candidate: &[&str], extra: &[&str]) -> Ran {
    let sides = [
        &["gate", "--baseline"],
        baseline,
        &["--candidate"],
        candidate,
    ]
    .concat();
    sandbox.run(&[&sides, extra].concat())
}

#[test]
fn stored_runs_in_virtual_time_are_compared_key_by_key() {
    let sandbox = Sandbox::new();
    stored(&sandbox, "same.json", |report| {
        report["run"]["host"]["cpu"] = json!("another");
    });
    stored(&sandbox, "other.json", |report| {
        report["summary"]["requests"]["ok"] = json!(1);
        report["summary"]["new"] = json!(2);
    });
    stored(&sandbox, "seed.json", |report| {
        report["run"]["seed"] = json!(2);
    });
    let ran = gate_files(&sandbox, &["source"], &["same.json"], &[]).ends_with(0);
    assert!(ran.out.starts_with("IDENTICAL"), "{}", ran.out);
    let ran = gate_files(&sandbox, &["source"], &["other.json"], &[]).ends_with(1);
    for part in ["/summary/requests/ok", "-> 1", "/summary/new: none -> 2"] {
        assert!(ran.out.contains(part), "{part}\n{}", ran.out);
    }
    let ran = gate_files(&sandbox, &["source"], &["seed.json"], &[]).ends_with(2);
    ran.says("not comparable")
        .says("seed: 1 / 2")
        .says("--allow-different");
    let ran = gate_files(
        &sandbox,
        &["source"],
        &["seed.json"],
        &["--allow-different"],
    );
    assert!(ran.ends_with(0).out.contains("not the same: seed: 1 / 2"));
}

/// Six reports of a side that look like runs in real time, TTFT times `factor`.
fn six(sandbox: &Sandbox, name: &str, factor: f64) -> Vec<String> {
    let write = |(index, step): (usize, f64)| {
        let file = format!("{name}-{index}.json");
        stored(sandbox, &file, |report| {
            report["target"]["virtual_time"] = json!(false);
            let ttft = &mut report["summary"]["ttft_s"];
            for key in ["p50", "mean"] {
                ttft[key] = json!(ttft[key].as_f64().expect("a figure") * factor * (1.0 + step));
            }
        });
        file
    };
    let steps = [0.0, 0.003, -0.004, 0.006, -0.002, 0.001];
    steps.into_iter().enumerate().map(write).collect()
}

#[test]
fn stored_runs_in_real_time_state_their_weakness() {
    let sandbox = Sandbox::new();
    let (base, slow) = (six(&sandbox, "base", 1.0), six(&sandbox, "slow", 1.1));
    let names = |side: &[String]| {
        side.iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let metric = ["--metric", "ttft_p50"];
    let gate = |one: &str, other: &str, extra: &[&str]| {
        let words = |names: &str| names.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
        let (one, other) = (words(one), words(other));
        let one: Vec<&str> = one.iter().map(String::as_str).collect();
        let other: Vec<&str> = other.iter().map(String::as_str).collect();
        gate_files(&sandbox, &one, &other, &[&metric, extra].concat())
    };
    let ran = gate(&names(&base), &names(&slow), &[]).ends_with(1);
    assert!(ran.out.contains("different times"), "{}", ran.out);
    let ran = gate(&names(&base[..3]), &names(&base[3..]), &[]).ends_with(3);
    assert!(ran.out.contains("needs 4 of each"), "{}", ran.out);
    let ran = gate(&base[0], &base[1], &[]);
    assert!(
        ran.out.contains("One run of each cannot tell"),
        "{}",
        ran.out
    );
    gate(&format!("{0} {0}", base[0]), &base[1], &[])
        .ends_with(2)
        .says("given twice");
    gate(&base[0], "no.json", &[]).ends_with(2).says("no.json");
    let wall = gate_files(&sandbox, &[&base[0]], &[&base[1]], &["--metric", "wall_s"]);
    wall.ends_with(2).says("needs `--ab`");
}

#[test]
fn invalid_runs_are_never_hidden() {
    let sandbox = Sandbox::new();
    let real = |report: &mut Value| report["target"]["virtual_time"] = json!(false);
    stored(&sandbox, "good.json", real);
    stored(&sandbox, "bad.json", |report| {
        real(report);
        report["validity"] = json!({"verdict": "INVALID", "reasons": ["the backlog grew"]});
    });
    let ran = gate_files(&sandbox, &["good.json"], &["bad.json"], &[]).ends_with(3);
    assert!(
        ran.out.contains("is INVALID: the backlog grew"),
        "{}",
        ran.out
    );
    let good = "sh -c 'mkdir {out} && cp good.json {out}/report.json'";
    let bad = "sh -c 'mkdir {out} && cp bad.json {out}/report.json; exit 1'";
    let ran = sandbox
        .run(&["gate", "--ab", good, good, "--pairs", "6"])
        .ends_with(0);
    assert!(ran.out.starts_with("EQUIVALENT"), "{}", ran.out);
    let ran = sandbox
        .run(&["gate", "--ab", good, bad, "--pairs", "6"])
        .ends_with(3);
    assert!(
        ran.out.contains("INVALID runs: 0 of A, 6 of B"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("the backlog grew"), "{}", ran.out);
    // A run that fails though its report is VALID, or that leaves no report.
    let odd = "sh -c 'mkdir {out} && cp good.json {out}/report.json; exit 1'";
    sandbox
        .run(&["gate", "--ab", good, odd])
        .ends_with(2)
        .says("though its report is VALID");
    sandbox
        .run(&["gate", "--ab", good, "echo {out}"])
        .ends_with(2)
        .says("report.json");
}

#[test]
fn instruction_counts_are_held_against_one_percent() {
    let sandbox = Sandbox::new();
    let counts = |name: &str, compiler: &str, first: u64| {
        let counts = json!({"compiler": compiler, "counts": {"multiply": first, "attend": 500}});
        sandbox.write(name, counts.to_string());
    };
    counts("base.json", "rustc 1", 100_000);
    counts("same.json", "rustc 1", 100_999);
    counts("more.json", "rustc 1", 101_001);
    counts("other.json", "rustc 2", 100_000);
    let gate = |name: &str| sandbox.run(&["gate", "--instructions", "base.json", name]);
    assert!(gate("same.json").ends_with(0).out.starts_with("EQUIVALENT"));
    assert!(
        gate("more.json")
            .ends_with(1)
            .out
            .contains("more instructions, beyond the margin: multiply")
    );
    gate("other.json")
        .ends_with(2)
        .says("one compiler is needed");
    gate("none.json").ends_with(2).says("none.json");
}
