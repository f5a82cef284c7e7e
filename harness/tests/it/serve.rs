//! `weighbridge serve`, by its wire: every path, every way to be refused, and who waits for whom.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::command::{Sandbox, records, report};
use crate::served::{Reply, Serving};

/// The engine itself, small; its answers are those of `weighbridge generate`.
const CPU: &str = "--target cpu --model ref-tiny --kv-memory 32MiB --threads 1";
/// A device of about 1,500 steps a second whose answers may have 8,000 tokens.
const SIM: &str = "--target sim:h100 --model ref-135m";

fn chat(words: &str, more: &Value) -> Value {
    let mut body = json!({
        "model": "ref-tiny",
        "messages": [{ "role": "user", "content": words }],
        "max_tokens": 24,
        "temperature": 0,
    });
    merge(&mut body, more);
    body
}

fn merge(body: &mut Value, more: &Value) {
    let fields = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
}

fn ask(server: &Serving, more: &Value) -> Reply {
    let body = chat("今天天气怎么样？", more);
    server.post("/v1/chat/completions", &body).has(200)
}

/// A stream that goes on for seconds on [`SIM`].
fn endless() -> String {
    let body = json!({
        "messages": [{ "role": "user", "content": "讲个长故事" }],
        "max_tokens": 8000, "stream": true, "ignore_eos": true,
    });
    body.to_string()
}

#[test]
fn every_path_answers_in_its_shape() {
    let server = Serving::start(CPU);
    assert_eq!(server.get("/health").has(200).body, "");
    let models = server.get("/v1/models").has(200).json();
    let card = &models["data"][0];
    assert_eq!(
        (&card["id"], &card["object"]),
        (&json!("ref-tiny"), &json!("model"))
    );
    assert_eq!(card["max_model_len"], 2048);
    assert_eq!(server.get("/v1/models/ref-tiny").has(200).json(), *card);

    let text = "汉字与emoji🙂";
    let tokens = json!({ "prompt": text, "return_token_strs": true });
    let tokens = server.post("/tokenize", &tokens).has(200).json();
    let ids = tokens["tokens"].as_array().expect("a list");
    assert_eq!(tokens["count"], ids.len());
    assert_eq!(tokens["max_model_len"], 2048);
    assert_eq!(tokens["token_strs"][0], "汉");
    let back = server
        .post("/detokenize", &json!({ "tokens": ids }))
        .has(200);
    assert_eq!(back.json(), json!({ "prompt": text }));
    let chat = json!({ "messages": [{ "role": "user", "content": "好" }] });
    let chat = server.post("/tokenize", &chat).has(200).json();
    let back = server
        .post("/detokenize", &json!({ "tokens": chat["tokens"] }))
        .json();
    assert_eq!(
        back["prompt"], "user\n好\nassistant\n",
        "specials have no text"
    );

    let whole = ask(&server, &json!({})).json();
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 24);
    assert_eq!(
        whole["usage"]["total_tokens"],
        json!(whole["usage"]["prompt_tokens"].as_u64().map(|n| n + 24))
    );

    server.wait_for("vllm:num_requests_running", 0.0);
    let metrics = server.get("/metrics").has(200);
    assert!(
        metrics.head.contains("openmetrics-text"),
        "{}",
        metrics.head
    );
    for (name, value) in [
        ("vllm:num_requests_running", 0.0),
        ("vllm:num_requests_waiting", 0.0),
        ("vllm:kv_cache_usage_perc", 0.0),
        ("vllm:generation_tokens_total", 24.0),
        (
            "vllm:prompt_tokens_total",
            whole["usage"]["prompt_tokens"].as_f64().expect("a count"),
        ),
        (
            "vllm:request_success_total{finished_reason=\"length\"}",
            1.0,
        ),
        ("vllm:time_to_first_token_seconds_count", 1.0),
        ("vllm:inter_token_latency_seconds_count", 23.0),
        ("vllm:e2e_request_latency_seconds_count", 1.0),
    ] {
        assert!(
            (metrics.metric(name) - value).abs() < 1e-9,
            "{name}:\n{}",
            metrics.body
        );
    }
}

#[test]
fn a_stream_says_the_same_as_an_answer_at_once_and_as_the_engine() {
    let server = Serving::start(CPU);
    let whole = ask(&server, &json!({ "max_tokens": 200 }));
    let options = json!({ "include_usage": true });
    let more = json!({ "max_tokens": 200, "stream": true, "stream_options": options });
    let stream = ask(&server, &more);
    assert!(
        stream.head.contains("content-type: text/event-stream"),
        "{}",
        stream.head
    );
    assert_eq!(stream.text(), whole.text());
    let generated = Sandbox::new().run(&[
        "generate",
        "--model",
        "ref-tiny",
        "--prompt",
        "今天天气怎么样？",
        "--max-tokens",
        "200",
        "--json",
    ]);
    let generated: Value = serde_json::from_str(&generated.ends_with(0).out).expect("JSON");
    assert_eq!(generated["text"], whole.text(), "characters come out whole");
    assert!(
        whole
            .text()
            .chars()
            .any(|c| ('\u{4e00}'..'\u{9fff}').contains(&c))
    );

    let events = stream.events();
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "" })
    );
    let (usage, rest) = events.split_last().expect("events");
    assert_eq!(usage["choices"], json!([]));
    // The prompt is in the prefix cache by now, which only its details tell.
    assert_eq!(usage["usage"]["completion_tokens"], 200);
    assert_eq!(
        usage["usage"]["prompt_tokens"],
        whole.json()["usage"]["prompt_tokens"]
    );
    assert!(
        rest.iter()
            .all(|event| event["usage"].is_null() && event["id"] == usage["id"])
    );
    let reasons: Vec<_> = rest
        .iter()
        .map(|event| &event["choices"][0]["finish_reason"])
        .collect();
    let (last, before) = reasons.split_last().expect("reasons");
    assert!(before.iter().all(|reason| reason.is_null()) && **last == "length");
    assert!(
        rest.len() > 150,
        "an event for each token with text: {}",
        rest.len()
    );

    let without = ask(&server, &json!({ "stream": true })).events();
    assert!(without.iter().all(|event| event.get("usage").is_none()));
    let counted = json!({ "stream": true, "stream_options": { "continuous_usage_stats": true } });
    let counted = ask(&server, &counted).events();
    let counts: Vec<_> = counted
        .iter()
        .map(|event| event["usage"]["completion_tokens"].as_u64())
        .collect();
    assert!(
        counts.is_sorted() && counts.last() == Some(&Some(24)),
        "{counts:?}"
    );
}

#[test]
fn a_stop_string_is_found_across_tokens_and_never_sent() {
    let server = Serving::start(CPU);
    let whole = ask(&server, &json!({ "max_tokens": 60 })).text();
    // Five characters from within: every token of this model has at most two.
    let characters: Vec<char> = whole.chars().collect();
    let stop: String = characters[9..14].iter().collect();
    let before = &whole[..whole.find(&stop).expect("it is from there")];
    for wanted in [json!(stop), json!(["不会出现的话", stop])] {
        for stream in [false, true] {
            let more = json!({ "max_tokens": 60, "stop": wanted, "stream": stream });
            let reply = ask(&server, &more);
            assert_eq!(reply.text(), before, "stream: {stream}");
            let last = if stream {
                reply.events().pop().expect("events")
            } else {
                reply.json()
            };
            assert_eq!(last["choices"][0]["finish_reason"], "stop");
            if !stream {
                let used = last["usage"]["completion_tokens"]
                    .as_u64()
                    .expect("a count");
                assert!(
                    used < 30,
                    "{used} tokens for {} characters",
                    before.chars().count()
                );
            }
        }
    }
    // Not before so many tokens.
    let more = json!({ "max_tokens": 60, "stop": stop, "min_tokens": 40 });
    assert!(
        ask(&server, &more)
            .text()
            .starts_with(&format!("{before}{stop}"))
    );
    server.wait_for("vllm:num_requests_running", 0.0);
}

#[test]
fn equal_seeds_repeat_and_others_differ() {
    let draw = |server: &Serving, seed: Value| {
        let more = json!({ "temperature": 1.0, "top_p": 0.95, "top_k": 500, "seed": seed });
        ask(server, &more).text()
    };
    let server = Serving::start(CPU);
    let first = draw(&server, json!(7));
    assert_eq!(first, draw(&server, json!(7)));
    assert_ne!(first, draw(&server, json!(-8)));
    let unseeded = draw(&server, Value::Null);
    assert_ne!(unseeded, draw(&server, Value::Null));
    // The whole server repeats itself, too.
    let again = Serving::start(CPU);
    assert_eq!(first, draw(&again, json!(7)));
    draw(&again, json!(7));
    draw(&again, json!(-8));
    assert_eq!(unseeded, draw(&again, Value::Null));
}

#[test]
fn completions_take_text_tokens_and_lists_of_either() {
    let server = Serving::start(CPU);
    let text = "从前有座山";
    let ids = server.post("/tokenize", &json!({ "prompt": text })).json()["tokens"].clone();
    let complete = |prompt: Value, more: Value| {
        let mut body = json!({ "prompt": prompt, "temperature": 0 });
        merge(&mut body, &more);
        server.post("/v1/completions", &body).has(200)
    };
    let one = complete(json!(text), json!({})).json();
    assert_eq!(one["object"], "text_completion");
    assert_eq!(one["usage"]["completion_tokens"], 16, "OpenAI's default");
    assert_eq!(
        one["usage"]["prompt_tokens"],
        json!(ids.as_array().map(Vec::len))
    );
    let answer = &one["choices"][0]["text"];
    assert_eq!(
        complete(ids.clone(), json!({})).json()["choices"][0]["text"],
        *answer
    );
    for prompts in [json!([text, "山里有座庙"]), json!([ids, [300, 301, 302]])] {
        let both = complete(prompts.clone(), json!({ "max_completion_tokens": 16 })).json();
        assert_eq!(both["choices"].as_array().map(Vec::len), Some(2));
        assert_eq!(both["choices"][0]["text"], *answer);
        assert_eq!(both["usage"]["completion_tokens"], 32);
        let events = complete(prompts, json!({ "stream": true })).events();
        let of = |index: u64| -> String {
            let texts = events
                .iter()
                .filter(|event| event["choices"][0]["index"] == index);
            texts
                .filter_map(|event| event["choices"][0]["text"].as_str())
                .collect()
        };
        assert_eq!(json!(of(0)), *answer);
        assert_eq!(json!(of(1)), both["choices"][1]["text"]);
    }
}

/// Status, field, part of the message, and what makes a good chat request a bad one.
const CHAT_MISTAKES: &str = r#"
400 | messages            | `messages` is missing | {"messages": null}
400 | messages            | is empty              | {"messages": []}
400 | messages            | accepted is a list    | {"messages": "好"}
400 | messages[0].role    | `system`              | {"messages": [{"role": "robot", "content": "x"}]}
400 | messages[0].content | null                  | {"messages": [{"role": "user"}]}
400 | messages[0].content | "type": "text"        | {"messages": [{"role": "user", "content": [{"type": "image"}]}]}
400 | temperature         | from 0 to 10          | {"temperature": -1}
400 | top_p               | from 0 to 1           | {"top_p": 1.5}
400 | top_k               | a whole number        | {"top_k": "many"}
400 | max_tokens          | from 1                | {"max_tokens": 0}
400 | max_tokens          | context of 2048       | {"max_tokens": 9000}
400 | max_tokens          | context of 2048       | {"max_completion_tokens": 9000}
400 | min_tokens          | up to `max_tokens`, 4 | {"max_tokens": 4, "min_tokens": 5}
400 | stop                | 1024 bytes            | {"stop": [""]}
400 | stop                | `stop` is 7           | {"stop": 7}
400 | seed                | a whole number        | {"seed": 1.5}
400 | stream              | true or false         | {"stream": "yes"}
400 | stream_options      | without `stream`      | {"stream_options": {}}
400 | stream_options.x    | not known             | {"stream": true, "stream_options": {"x": 1}}
400 | n                   | accepted is 1         | {"n": 2}
400 | logprobs            | accepted is false     | {"logprobs": true}
400 | tools               | accepted is []        | {"tools": [{}]}
400 | temprature          | not known             | {"temprature": 1}
404 | model               | accepted is `ref-tiny`| {"model": "gpt"}
"#;

/// The same for completions.
const COMPLETION_MISTAKES: &str = r#"
400 | prompt | from 0 to 8191    | {"prompt": [8192]}
400 | prompt | holds "a"         | {"prompt": [1, "a"]}
400 | prompt | accepted is a text| {"prompt": []}
400 | prompt | accepted is a text| {"prompt": [[]]}
400 | prompt | no tokens         | {"prompt": ""}
400 | echo   | accepted is false | {"echo": true}
"#;

#[test]
fn mistakes_are_refused_by_name() {
    let server = Serving::start(CPU);
    let good_chat = chat("好", &json!({}));
    let good_completion = json!({ "prompt": "好" });
    for (path, good, table) in [
        ("/v1/chat/completions", good_chat, CHAT_MISTAKES),
        ("/v1/completions", good_completion, COMPLETION_MISTAKES),
    ] {
        for line in table.trim().lines() {
            let cells: Vec<&str> = line.splitn(4, '|').map(str::trim).collect();
            let [status, param, part, more] = cells[..] else {
                panic!("not four cells: {line}")
            };
            let mut body = good.clone();
            merge(&mut body, &serde_json::from_str(more).expect(line));
            let reply = server.post(path, &body).has(status.parse().expect(line));
            let error = &reply.json()["error"];
            assert_eq!(error["param"], param, "{line}");
            assert_eq!(error["type"], "invalid_request_error", "{line}");
            let message = error["message"].as_str().expect("words");
            assert!(message.contains(part), "{line}: {message}");
        }
    }
    // None of this has reached the engine.
    assert!(server.metric("vllm:generation_tokens_total") < 0.5);
}

#[test]
fn what_does_not_fit_or_does_not_exist_is_refused() {
    let server = Serving::start(&format!("{CPU} --max-body 20KB"));
    let error = |reply: Reply| reply.json()["error"].clone();
    let long = chat(&"字".repeat(3000), &json!({}));
    let refused = error(server.post("/v1/chat/completions", &long).has(400));
    assert_eq!(
        (&refused["param"], &refused["code"]),
        (&json!("messages"), &json!("context_length_exceeded"))
    );
    let body = json!({ "prompt": vec!["a"; 400] });
    let refused = error(server.post("/v1/completions", &body).has(400));
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|words| words.contains("up to 288"))
    );
    let refused = error(server.get("/v1/models/gpt-5").has(404));
    assert_eq!(refused["code"], "model_not_found");
    let malformed = server
        .send("POST", "/v1/chat/completions", "{\"messages\": [")
        .has(400);
    assert!(
        malformed.body.contains("line 1 column 14"),
        "{}",
        malformed.body
    );
    assert!(
        server
            .get("/v1/chat")
            .has(404)
            .body
            .contains("/v1/chat/completions")
    );
    let wrong = server.get("/v1/completions").has(405);
    assert!(
        wrong.head.contains("allow: post") && wrong.body.contains("GET"),
        "{}",
        wrong.head
    );
    for length in [20_001, 300_000] {
        server
            .send("POST", "/v1/completions", &"x".repeat(length))
            .has(413);
    }
    assert!((server.metric("weighbridge_http_responses_total{code=\"413\"}") - 2.0).abs() < 0.1);
}

#[test]
fn a_full_queue_refuses_and_vanished_clients_make_room() {
    let server = Serving::start(&format!("{SIM} --max-sequences 1 --max-queue 1"));
    let mut first = server.begin("POST", "/v1/chat/completions", &endless());
    assert!(first.read_until("\"content\":\""));
    let second = server.begin("POST", "/v1/chat/completions", &endless());
    server.wait_for("vllm:num_requests_waiting", 1.0);
    assert!(server.metric("vllm:kv_cache_usage_perc") > 0.0);
    let refused = server
        .send("POST", "/v1/chat/completions", &endless())
        .has(429);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("rate_limit_error"), &json!("queue_full"))
    );
    // The one that runs and the one that waits go away; so does one that was not streamed.
    drop((first, second));
    server.wait_for("vllm:num_requests_waiting", 0.0);
    server.wait_for("vllm:num_requests_running", 0.0);
    server.wait_for("vllm:kv_cache_usage_perc", 0.0);
    let whole = endless().replace("\"stream\":true", "\"stream\":false");
    let silent = server.begin("POST", "/v1/chat/completions", &whole);
    server.wait_for("vllm:num_requests_running", 1.0);
    drop(silent);
    server.wait_for("vllm:num_requests_running", 0.0);
    server.wait_for("vllm:request_success_total{finished_reason=\"abort\"}", 3.0);
    let body = json!({ "prompt": "好", "max_tokens": 3, "ignore_eos": true });
    let whole = server.post("/v1/completions", &body).has(200).json();
    assert_eq!(whole["usage"]["completion_tokens"], 3);
}

#[test]
fn a_reader_that_sleeps_does_not_hold_the_engine_up() {
    let server = Serving::start(&format!("{SIM} --max-sequences 1"));
    let sleeper = server.begin("POST", "/v1/chat/completions", &endless());
    server.wait_for("vllm:num_requests_running", 1.0);
    // This one has to wait until all 8,000 tokens are made, though nobody has read one.
    let body = json!({ "prompt": "好", "max_tokens": 2, "ignore_eos": true });
    server.post("/v1/completions", &body).has(200);
    let reply = sleeper.finish();
    assert!(reply.complete);
    let last = reply.events().pop().expect("events");
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(
        reply.events().len() > 7_000,
        "each token has its event still"
    );
}

#[test]
fn our_own_run_measures_it() {
    let server = Serving::start("--target sim:h100 --model ref-tiny --served-model tiny");
    let sandbox = Sandbox::new();
    let base = format!("http://{}/v1", server.address);
    let load = "--rate 20 --duration 4s --warmup 0s --drain 5s --workload random:48/16";
    let ran = sandbox.run_line(&format!(
        "run --target {base} --model ref-tiny --served-model tiny {load} --out out"
    ));
    let found = report(&sandbox.path("out"));
    // Only the lateness of a busy test machine may make it INVALID.
    let busy = [
        "load generator was late",
        "The client is part of what was measured",
    ];
    assert!(
        found
            .validity
            .reasons
            .iter()
            .all(|reason| busy.iter().any(|busy| reason.contains(busy))),
        "{}",
        ran.out
    );
    assert_eq!(found.summary.requests.failed, 0);
    let records = records(&sandbox.path("out"));
    assert!(records.len() > 40, "{}", records.len());
    for record in &records {
        assert_eq!((record.input_tokens, record.output_tokens), (48, 16));
    }
    // The server has counted the same.
    let asked = records.len() as f64;
    assert!((server.metric("vllm:generation_tokens_total") - 16.0 * asked).abs() < 0.5);
    assert!((server.metric("vllm:request_prompt_tokens_sum") - 48.0 * asked).abs() < 0.5);
}

#[cfg(unix)]
#[test]
fn a_word_to_stop_lets_answers_finish_and_takes_no_more() {
    let mut server = Serving::start(&format!("{SIM} --grace 1h"));
    let body = endless().replace("8000", "3000");
    let mut running = server.begin("POST", "/v1/chat/completions", &body);
    assert!(running.read_until("\"content\":\""));
    server.signal("-TERM");
    while server.is_healthy() {
        std::thread::yield_now();
    }
    let refused = server
        .send("POST", "/v1/chat/completions", &endless())
        .has(503);
    assert!(refused.body.contains("shutting down") && refused.head.contains("retry-after"));
    let reply = running.finish();
    assert_eq!(
        reply.events().pop().expect("events")["choices"][0]["finish_reason"],
        "length"
    );
    assert_eq!(server.wait().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn patience_ends_with_the_grace_period_or_a_second_word() {
    for flags in ["--grace 100ms", "--grace 1h"] {
        let mut server = Serving::start(&format!("{SIM} {flags}"));
        let mut running = server.begin("POST", "/v1/chat/completions", &endless());
        assert!(running.read_until("\"content\":\""));
        server.signal("-INT");
        if flags.ends_with('h') {
            while server.is_healthy() {
                std::thread::yield_now();
            }
            server.signal("-INT");
        }
        assert_eq!(server.wait().code(), Some(130), "{flags}");
        let reply = running.finish();
        assert!(!reply.complete && !reply.body.contains("[DONE]"), "{flags}");
    }
}

#[test]
fn connections_are_kept_and_oddities_survived() {
    let server = Serving::start(SIM);
    // Two requests on one connection.
    let mut stream = TcpStream::connect(server.address).expect("it listens");
    let get = "GET /health HTTP/1.1\r\nHost: test\r\n";
    write!(stream, "{get}\r\n{get}Connection: close\r\n\r\n").expect("it can be sent");
    let mut both = String::new();
    std::io::Read::read_to_string(&mut stream, &mut both).expect("answers");
    assert_eq!(both.matches("200 OK").count(), 2, "{both}");
    // Nonsense, half a head, half a body, and nothing at all.
    let head = "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 900\r\n\r\n{";
    for bytes in ["\u{16}\u{3}\u{1}", "GET /hea", head, ""] {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        stream.write_all(bytes.as_bytes()).expect("it can be sent");
    }
    server.get("/health").has(200);
    server.wait_for("weighbridge_connections", 1.0);
}

#[test]
fn mistakes_on_the_command_line_are_named() {
    let sandbox = Sandbox::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken
        .local_addr()
        .map(|address| (taken, address.to_string()))
        .expect("an address");
    let cases: [(&[&str], &str); 6] = [
        (
            &["--target", "http://127.0.0.1:1/v1"],
            "is a server already",
        ),
        (&["--target", "sim:abacus"], "`sim:h100`"),
        (&["--listen", "nowhere"], "`--listen` is `nowhere`"),
        (&["--listen", &taken.1], "--listen"),
        (
            &[
                "--target",
                "sim:h100",
                "--kv-memory",
                "1KiB",
                "--listen",
                "127.0.0.1:0",
            ],
            "holds 0 tokens",
        ),
        (&["--max-sequences", "0"], "`--max-sequences` is 0"),
    ];
    for (flags, part) in cases {
        let ran = sandbox
            .run(&[&["serve"], flags].concat())
            .ends_with(2)
            .says(part);
        assert_eq!(ran.out, "", "{flags:?}");
    }
}
