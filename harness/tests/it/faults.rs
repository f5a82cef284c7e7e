//! What goes wrong: every mistake gets a message that names it, exit code 2, and no panic; every
//! interrupted run keeps what it measured.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use reports::Outcome;

use crate::command::{Sandbox, records, report};
use crate::mock::Mock;

#[test]
fn mistakes_in_flags_and_files_are_named() {
    let sandbox = Sandbox::new();
    sandbox.write("typo.toml", "workload = \"smoke\"\nraet = 2.0\n");
    sandbox.write("empty.toml", "name = \"mine\"\nabout = \"nothing\"\n");
    sandbox.write(
        "tiny.json",
        r#"{"name":"t","description":"t","rate":1,"duration_s":9,"warmup_s":0,"arrivals":"poisson",
            "context_limit":10,"class":[{"id":"c","session_share":1,
            "turns":{"q":0.5,"beta":1,"max":1},"user_first":{"dist":"fixed","value":4},
            "user_next":{"dist":"fixed","value":4},"output":{"dist":"fixed","value":4},
            "think":{"dist":"fixed","value":0}}]}"#,
    );
    sandbox.write("negative.toml", "rate = -2.0\n");
    sandbox.write("wl.toml", "name = \"x\"\nrate = \"fast\"\n");
    sandbox.write("price.toml", "name = \"mine\"\nusd_per_hour = -4\n");
    let cases: [(&[&str], &str); 16] = [
        (&["run", "no.toml"], "no.toml"),
        (&["run", "typo.toml"], "raet"),
        (&["run", "negative.toml"], "negative.toml: key `rate` is -2"),
        (&["run", "--rate", "-1"], "`--rate` is -1"),
        (&["run", "--rate", "1", "--users", "2"], "both given"),
        (&["run", "--workload", "smok"], "`smoke`"),
        (&["run", "--workload", "wl.toml"], "wl.toml"),
        (&["run", "--workload", "random:5/3"], "too short"),
        (&["run", "--target", "sim:abacus"], "`sim:h100`"),
        (&["run", "--target", "cuda:x"], "with the number of a GPU"),
        (&["run", "--model", "gpt"], "gpt"),
        (&["run", "--price", "price.toml"], "price.toml"),
        (
            &["run", "--model", "ref-tiny", "--workload", "doubao-chat-8k"],
            "takes 2048",
        ),
        (&["run", "--price", "empty.toml"], "has no device `cpu`"),
        (&["run", "--workload", "tiny.json"], "`context_limit` is 10"),
        (&["report", "nowhere"], "report.json"),
    ];
    for (arguments, part) in cases {
        let ran = sandbox.run(arguments).ends_with(2).says(part);
        assert!(ran.err.contains("error:"), "{arguments:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{arguments:?}");
    }
    assert!(!sandbox.path("results").exists(), "nothing was begun");
}

#[test]
fn a_model_file_that_is_no_model_is_refused() {
    let sandbox = Sandbox::new();
    let mut cut = b"GGUF".to_vec();
    cut.extend_from_slice(&[3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    sandbox.write("empty.gguf", "");
    sandbox.write("text.gguf", "this is not a model");
    sandbox.write("cut.gguf", cut);
    for name in ["missing.gguf", "empty.gguf", "text.gguf", "cut.gguf"] {
        sandbox
            .run(&["run", "--model", name])
            .ends_with(2)
            .says(name);
        sandbox
            .run(&["generate", "--model", name, "--prompt", "好"])
            .ends_with(2)
            .says(name);
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_found_before_the_run() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    sandbox
        .run(&["run", "--target", "sim:h20", "--out", "file/below"])
        .ends_with(2)
        .says("file/below");
}

/// What `start_run` runs on the CPU.
#[cfg(unix)]
const ON_THE_CPU: &str = "--model ref-tiny --rate 8 --duration 300s";

/// Starts a run and waits until it has written `lines` records.
#[cfg(unix)]
fn start_run(sandbox: &Sandbox, what: &str, lines: usize) -> Child {
    let line = format!("run {what} --warmup 0s --out out");
    let mut child = sandbox
        .command(&line.split_whitespace().collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let path = sandbox.path("out").join("requests.jsonl");
    let written = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    while written() < lines {
        assert!(
            child.try_wait().expect("it can be asked").is_none(),
            "it ended early"
        );
        std::thread::yield_now();
    }
    child
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args([name, &id])
        .status()
        .expect("kill runs");
    assert!(sent.success());
}

#[cfg(unix)]
#[test]
fn ctrl_c_loses_nothing_of_the_answers_that_are_under_way() {
    /// Between two tokens, and much more.
    const GAP_NS: u64 = 700_000_000;
    let sandbox = Sandbox::new();
    let mock = Mock::start(&sandbox, "--ttft 50ms --itl 20ms");
    let what = format!(
        "--target {} --workload random:32/200 --rate 5 --duration 300s --no-preflight",
        mock.base
    );
    let mut child = start_run(&sandbox, &what, 12);
    signal(&child, "-INT");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    mock.finish(&sandbox);
    let records = records(&sandbox.path("out"));
    let cut: Vec<_> = records
        .iter()
        .filter(|record| record.outcome == Outcome::Unfinished)
        .collect();
    assert!(cut.len() >= 5, "{}", cut.len());
    for record in cut {
        let end_ns = record.end_ns.expect("that of the run");
        let last_ns = record.chunk_ns.last().copied().or(record.sent_ns);
        let last_ns = last_ns.unwrap_or(record.intended_ns);
        assert!(end_ns < last_ns + GAP_NS, "{record:?}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_what_was_measured_and_says_that_it_is_not_all() {
    let sandbox = Sandbox::new();
    let mut child = start_run(&sandbox, ON_THE_CPU, 12);
    signal(&child, "-INT");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let mut out = String::new();
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut out)
        .expect("UTF-8");
    assert!(
        out.contains("INVALID") && out.contains("interrupted"),
        "{out}"
    );
    let folder = sandbox.path("out");
    let found = report(&folder);
    assert!(found.run.incomplete);
    assert!(records(&folder).len() >= 12);
    for name in ["report.html", "report.md", "latency.hlog"] {
        assert!(
            folder
                .join(name)
                .metadata()
                .is_ok_and(|data| data.len() > 0),
            "{name}"
        );
    }
}

#[cfg(unix)]
#[test]
fn kill_9_loses_no_finished_request() {
    let sandbox = Sandbox::new();
    let mut child = start_run(&sandbox, ON_THE_CPU, 10);
    signal(&child, "-KILL");
    assert_eq!(child.wait().expect("it ends").code(), None);
    let records = records(&sandbox.path("out"));
    assert!(records.len() >= 10);
    assert!(records.iter().all(|record| record.end_ns.is_some()));
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    assert!(
        stderr
            .lines()
            .all(|line| !line.expect("UTF-8").contains("panicked"))
    );
}
