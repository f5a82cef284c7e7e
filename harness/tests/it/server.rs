//! The HTTP target against servers that answer, refuse, fail and hang up.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use reports::{Outcome, TokenCountSource};

use crate::command::{Ran, Sandbox, records, report};

/// Starts a server that gives every chat completion to `answer`; returns its base address.
fn serve(answer: fn(&mut TcpStream, u64)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (served, stream) in (1..).zip(listener.incoming()) {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                if read_request(&mut stream).starts_with("GET") {
                    let body = r#"{"data":[{"id":"test-model"}]}"#;
                    let length = body.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n");
                    drop(write!(stream, "{head}Connection: close\r\n\r\n{body}"));
                } else {
                    answer(&mut stream, served);
                }
            });
        }
    });
    format!("http://{address}/v1")
}

fn read_request(stream: &mut TcpStream) -> String {
    let (mut seen, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        let count = stream.read(&mut buffer).unwrap_or(0);
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
        let head = text.find("\r\n\r\n").map(|at| at + 4);
        let length = text
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.lines().next());
        let body: usize = length.map_or(0, |length| length.trim().parse().expect("a number"));
        if count == 0 || head.is_some_and(|head| seen.len() >= head + body) {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
}

const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// Seven tokens in five chunks, then usage.
fn good(stream: &mut TcpStream, _: u64) {
    drop(write!(stream, "{HEAD}"));
    for text in ["你好", "，", "今天", "天气", "好"] {
        drop(write!(
            stream,
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
        ));
        drop(stream.flush());
    }
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":31,\"completion_tokens\":7}}";
    drop(write!(stream, "{finish}{usage}\n\ndata: [DONE]\n\n"));
}

/// Every third answer breaks off, every third is an error.
fn flaky(stream: &mut TcpStream, served: u64) {
    match served % 3 {
        0 => drop(write!(
            stream,
            "HTTP/1.1 500 Internal Server Error\r\n\r\nno memory"
        )),
        1 => {
            let content = "data: {\"choices\":[{\"delta\":{\"content\":\"半\"}}]}\n\n";
            drop(write!(stream, "{HEAD}{content}"));
        }
        _ => good(stream, served),
    }
}

fn measure(sandbox: &Sandbox, base: &str, workload: &str) -> Ran {
    let load = "--rate 20 --duration 4s --warmup 0s --drain 3s --no-preflight";
    sandbox.run_line(&format!(
        "run --target {base} --workload {workload} {load} --out out"
    ))
}

#[test]
fn a_server_is_measured_by_its_own_token_counts() {
    let sandbox = Sandbox::new();
    let ran = measure(&sandbox, &serve(good), "random:24/7");
    let found = report(&sandbox.path("out"));
    // Only the lateness of a busy test machine may make it INVALID.
    let lag = "send lag";
    assert!(
        found
            .validity
            .reasons
            .iter()
            .all(|reason| reason.contains(lag)),
        "{}",
        ran.out
    );
    assert_eq!(found.summary.requests.failed, 0);
    assert_eq!(found.model.name, "test-model");
    assert_eq!(found.summary.token_count_source, [TokenCountSource::Usage]);
    let records = records(&sandbox.path("out"));
    assert!(records.len() > 40, "{}", records.len());
    for record in &records {
        assert_eq!((record.input_tokens, record.output_tokens), (31, 7));
        assert_eq!(record.chunk_tokens.iter().sum::<u32>(), 7);
        assert_eq!(record.chunk_ns.len(), 5);
    }
    let html = std::fs::read_to_string(sandbox.path("out").join("report.html")).expect("written");
    assert!(html.contains("stand-in"), "the stand-in tokenizer is named");
}

#[test]
fn failures_are_counted_by_cause_and_none_is_hidden() {
    let sandbox = Sandbox::new();
    measure(&sandbox, &serve(flaky), "random:24/7").ends_with(1);
    let found = report(&sandbox.path("out"));
    let counts = found.summary.requests;
    assert_eq!(counts.ok + counts.failed + counts.unfinished, counts.total);
    assert!(counts.failed > counts.ok, "{counts:?}");
    assert!(
        found.summary.failures.len() == 2,
        "{:?}",
        found.summary.failures
    );
    let records = records(&sandbox.path("out"));
    let of = |outcome| {
        records
            .iter()
            .filter(|record| record.outcome == outcome)
            .count()
    };
    assert!(of(Outcome::HttpStatus(500)) > 5 && of(Outcome::Truncated) > 5);
    let broken = records
        .iter()
        .find(|record| record.outcome == Outcome::Truncated);
    assert_eq!(
        broken.map(|record| record.chunk_ns.len()),
        Some(1),
        "what came is kept"
    );
}

/// Content and a finish, but no usage: nobody knows the number of tokens.
fn countless(stream: &mut TcpStream, _: u64) {
    let content = "data: {\"choices\":[{\"delta\":{\"content\":\"好\"}}]}\n\n";
    let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n";
    drop(write!(stream, "{HEAD}{content}{finish}data: [DONE]\n\n"));
}

#[test]
fn tokens_that_nobody_counted_are_called_unknown() {
    let sandbox = Sandbox::new();
    let ran = measure(&sandbox, &serve(countless), "random:24/7").ends_with(1);
    assert!(
        ran.out.contains("number of output tokens is unknown"),
        "{}",
        ran.out
    );
}

#[test]
fn a_server_that_answers_with_nothing_has_failed() {
    let sandbox = Sandbox::new();
    let empty = |stream: &mut TcpStream, _| {
        let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n";
        drop(write!(stream, "{HEAD}{finish}data: [DONE]\n\n"));
    };
    measure(&sandbox, &serve(empty), "random:24/7").ends_with(1);
    let found = report(&sandbox.path("out"));
    assert_eq!(found.summary.requests.ok, 0);
    assert!(found.summary.requests.failed > 0);
}

#[test]
fn an_answer_shorter_than_asked_for_makes_the_run_invalid() {
    let sandbox = Sandbox::new();
    // Seven tokens come, nine were asked for; the server's own `length` does not excuse it.
    let ran = measure(&sandbox, &serve(good), "random:24/9").ends_with(1);
    assert!(ran.out.contains("output length asked for"), "{}", ran.out);
}

#[test]
fn a_server_that_is_not_there_is_found_before_the_run() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}/v1", nobody.local_addr().expect("an address"));
    drop(nobody);
    let sandbox = Sandbox::new();
    measure(&sandbox, &base, "random:24/7")
        .ends_with(2)
        .says("refused");
}

#[test]
fn every_request_failing_is_no_measurement() {
    let sandbox = Sandbox::new();
    let always = |stream: &mut TcpStream, _| {
        drop(write!(
            stream,
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        ));
    };
    let ran = measure(&sandbox, &serve(always), "random:24/7").ends_with(1);
    assert!(
        ran.out.contains("INVALID") && ran.out.contains("503"),
        "{}",
        ran.out
    );
}

#[test]
fn an_api_key_is_sent_and_never_shown() {
    let sandbox = Sandbox::new();
    let base = serve(good);
    let arguments = [
        "run",
        "--target",
        &base,
        "--workload",
        "random:24/7",
        "--duration",
        "2s",
    ];
    let rest = [
        "--warmup",
        "0s",
        "--out",
        "out",
        "--no-preflight",
        "--api-key-env",
        "TEST_KEY",
    ];
    let mut command = sandbox.command(&[&arguments[..], &rest].concat());
    let output = command
        .env("TEST_KEY", "sk-do-not-tell")
        .output()
        .expect("it runs");
    let shown = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&shown).contains("sk-do-not-tell"));
    for entry in std::fs::read_dir(sandbox.path("out")).expect("a folder") {
        let bytes = std::fs::read(entry.expect("an entry").path()).expect("readable");
        assert!(!String::from_utf8_lossy(&bytes).contains("sk-do-not-tell"));
    }
    sandbox
        .run(&["run", "--target", &base, "--api-key-env", "NOT_SET"])
        .ends_with(2)
        .says("`NOT_SET` is not set");
}
