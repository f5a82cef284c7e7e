//! The client against a raw socket that says exactly what each case wants, byte for byte.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use models::{Message, Role, SamplingParams};

use super::*;
use crate::contract::{EventKind, FinishReason, Prompt, Usage};

/// Serves each connection one scripted answer: writes the parts with a short pause between them,
/// then closes.
fn serve(parts: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            read_request(&mut stream).expect("a request");
            for part in &parts {
                stream.write_all(part).expect("the client listens");
                stream.flush().expect("the client listens");
                pause(3);
            }
        }
    });
    format!("http://{address}/v1")
}

#[expect(
    clippy::disallowed_methods,
    reason = "a scripted server paces itself in real time"
)]
fn pause_us(us: u64) {
    std::thread::sleep(std::time::Duration::from_micros(us));
}

fn pause(ms: u64) {
    pause_us(1000 * ms);
}

fn read_request(stream: &mut std::net::TcpStream) -> std::io::Result<()> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !request_is_complete(&seen) {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(&buffer[..count]);
    }
    Ok(())
}

fn request_is_complete(seen: &[u8]) -> bool {
    let text = String::from_utf8_lossy(seen).to_ascii_lowercase();
    let Some(head) = text.find("\r\n\r\n") else {
        return false;
    };
    let length = text
        .split("content-length: ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    seen.len() >= head + 4 + length.map_or(0, |value| value.trim().parse().expect("a length"))
}

/// Are events without output of interest?
#[derive(Clone, Copy, PartialEq)]
enum Bare {
    Kept,
    LeftOut,
}

fn ask(base: &str) -> Vec<EventKind> {
    ask_for(base, Bare::LeftOut)
}

fn backend(base: &str) -> HttpBackend {
    let clock = Clock::wall();
    let config = HttpConfig {
        model: "m".into(),
        ..HttpConfig::new(parse_base(base).expect("an address"))
    };
    let server = config.base.authority().expect("it has one").as_str();
    let server = Server {
        address: server.parse().expect("an address in numbers"),
        tls: None,
    };
    HttpBackend {
        head: head(&config, "POST", "/chat/completions").expect("no key"),
        run_id: "test".into(),
        reactor: Reactor::start(clock.clone(), server).expect("a thread"),
        clock,
        config,
        stack: Stack::OpenAi,
        info: SystemInfo {
            kind: "http".into(),
            device: base.into(),
            details: BTreeMap::new(),
        },
    }
}

fn request() -> Request {
    let messages = [Message {
        role: Role::User,
        content: "你好".into(),
    }];
    Request {
        prompt: Prompt {
            tokens: Arc::from([1, 2, 3]),
            messages: Arc::from(messages),
        },
        max_tokens: 5,
        ignore_eos: true,
        min_tokens: 0,
        sampling: SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
        },
    }
}

fn ask_for(base: &str, with: Bare) -> Vec<EventKind> {
    let backend = backend(base);
    backend.clock.block_on(async {
        let mut stream = backend.submit(request());
        let (mut kinds, mut last) = (Vec::new(), Nanos::ZERO);
        while let Some(event) = stream.next().await {
            assert!(event.at >= last, "instants never decrease");
            last = event.at;
            let says_nothing = matches!(event.kind, EventKind::Bare | EventKind::UsageOnly);
            if !says_nothing || with == Bare::Kept {
                kinds.push(event.kind);
            }
        }
        kinds
    })
}

/// Answers all requests of one connection: so many tokens, 250 ms apart, and the end of the body
/// some time after the end of the stream.
fn serve_slowly(tokens: &'static [usize]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let answer = move |stream: &mut std::net::TcpStream, tokens: usize| -> std::io::Result<()> {
        read_request(stream)?;
        let head = HEAD.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut chunk = |text: &str| stream.write_all(&chunked(text));
        for _ in 0..tokens {
            chunk("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n")?;
            pause(250);
        }
        chunk("data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")?;
        pause(600);
        stream.write_all(b"0\r\n\r\n")
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let answered = tokens.iter().try_for_each(|&n| answer(&mut stream, n));
            drop(answered);
        }
    });
    format!("http://{address}/v1")
}

fn chunked(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

#[test]
fn a_long_answer_is_handed_over_in_time_and_its_connection_used_again() {
    let backend = backend(&serve_slowly(&[14, 1]));
    let clock = backend.clock.clone();
    clock.block_on(async {
        for (id, tokens) in [(0, 14), (1, 1)] {
            let ticket = Ticket {
                id,
                due: clock.now(),
                delivery: Delivery::Lazy,
            };
            let mut stream = backend.submit_at(request(), ticket);
            let (mut found, mut told) = (Vec::new(), Vec::new());
            loop {
                let mut events = Vec::new();
                stream.next_all(&mut events).await;
                let now = clock.now();
                let Some(first) = events.first() else { break };
                assert!(now.since(first.at) <= backend.delivery_delay(), "{first:?}");
                told.push(now);
                found.append(&mut events);
            }
            let texts = found
                .iter()
                .filter(|event| matches!(event.kind, EventKind::Text { .. }));
            assert_eq!(texts.count(), tokens);
            let [first, .., last] = &found[..] else {
                panic!("{found:?}");
            };
            assert!(matches!(last.kind, EventKind::Finished { .. }), "{last:?}");
            if tokens > 1 {
                // Not as they come, and not all at the end of an answer that takes longer than
                // they wait.
                assert!(told[0].since(first.at) >= Nanos(1_000_000_000));
                assert!(told[0] < last.at, "{told:?}, {last:?}");
            }
            // The end of the body comes later than that of the stream.
            clock.sleep(Nanos(900_000_000)).await;
        }
    });
    let connections = backend.describe().details["connections"].clone();
    assert!(connections.starts_with("1 made"), "{connections}");
}

/// An answer whose end does not look like one, on a connection that stays open.
fn serve_a_disguised_end() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = [0; 4096];
        assert!(stream.read(&mut buffer).expect("a request") > 0);
        let head = HEAD.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
        let body = chunked(&[NI, HAO, STOP, USAGE, DONE].concat());
        // Its mark is cut in two, and lines end in one way here and in another there.
        let whole = [head.as_bytes(), &body, b"0\n\r\n"].concat();
        let cut = whole.len() - 12;
        assert!(whole[cut..].starts_with(b"ONE]"));
        for part in [&whole[..head.len()], &whole[head.len()..cut], &whole[cut..]] {
            stream.write_all(part).expect("the client listens");
            pause(20);
        }
        // The client goes first.
        drop(stream.read(&mut buffer));
    });
    format!("http://{address}/v1")
}

#[test]
fn an_end_that_does_not_look_like_one_is_found_in_time() {
    let backend = backend(&serve_a_disguised_end());
    let clock = backend.clock.clone();
    clock.block_on(async {
        let ticket = Ticket {
            id: 0,
            due: clock.now(),
            delivery: Delivery::Lazy,
        };
        let mut stream = backend.submit_at(request(), ticket);
        let mut found = Vec::new();
        while let Some(event) = stream.next().await {
            let waited = clock.now().since(event.at);
            assert!(waited <= backend.delivery_delay());
            if matches!(event.kind, EventKind::Finished { .. }) {
                // Nobody saw that it was the end.
                assert!(waited.0 >= backlog::LONGEST_WAIT.0 / 2, "{waited:?}");
            }
            found.push(event.kind);
        }
        found.retain(|kind| !matches!(kind, EventKind::Bare | EventKind::UsageOnly));
        let words = [text("你", false), text("好", true), finished()];
        assert_eq!(found, [&[EventKind::Sent], &words[..]].concat());
    });
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
const NI: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"你\"}}]}\n\n";
const HAO: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"好\"}}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn parts(parts: &[&str]) -> Vec<Vec<u8>> {
    parts.iter().map(|part| part.as_bytes().to_vec()).collect()
}

fn text(text: &str, coalesced: bool) -> EventKind {
    EventKind::Text {
        text: text.into(),
        coalesced,
    }
}

fn finished() -> EventKind {
    let usage = Usage {
        input_tokens: 3,
        cached_tokens: None,
        output_tokens: 2,
    };
    EventKind::Finished {
        reason: FinishReason::Stop,
        usage: Some(usage),
    }
}

#[test]
fn a_stream_is_read_however_it_is_split() {
    let whole = [HEAD, ROLE, NI, HAO, STOP, USAGE, DONE].concat();
    let cut = whole.find("你").expect("it is there") + 1;
    let cases = [
        (parts(&[HEAD, ROLE, NI, HAO, STOP, USAGE, DONE]), false),
        (parts(&[&whole]), true),
        (
            vec![
                whole.as_bytes()[..cut].to_vec(),
                whole.as_bytes()[cut..].to_vec(),
            ],
            true,
        ),
    ];
    for (parts, coalesced) in cases {
        let events = ask(&serve(parts));
        let expected = [
            EventKind::Sent,
            text("你", false),
            text("好", coalesced),
            finished(),
        ];
        assert_eq!(events, expected);
    }
}

#[test]
fn an_end_without_done_is_fine_and_an_end_without_a_finish_is_not() {
    let events = ask(&serve(parts(&[HEAD, NI, STOP])));
    let finish = EventKind::Finished {
        reason: FinishReason::Stop,
        usage: None,
    };
    assert_eq!(events.last(), Some(&finish));
    let events = ask(&serve(parts(&[HEAD, NI, HAO])));
    assert_eq!(cause(&events), Some(FailureCause::Truncated));
    assert_eq!(events.len(), 4, "what came before is kept");
}

fn cause(events: &[EventKind]) -> Option<FailureCause> {
    match events.last() {
        Some(EventKind::Failed(failure)) => Some(failure.cause),
        _ => None,
    }
}

#[test]
fn every_fault_has_its_cause() {
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                   Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n";
    let cases: [(&[&str], FailureCause); 7] = [
        (
            &["HTTP/1.1 500 Internal Server Error\r\n\r\nboom"],
            FailureCause::HttpStatus(500),
        ),
        (
            &["HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n"],
            FailureCause::HttpStatus(429),
        ),
        (
            &["HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>"],
            FailureCause::BadStream,
        ),
        (&[HEAD, NI, "data: {not json}\n\n"], FailureCause::BadStream),
        (
            &[HEAD, NI, "data: {\"error\":{\"message\":\"oom\"}}\n\n"],
            FailureCause::Engine,
        ),
        (&[chunked], FailureCause::Reset),
        (&[""], FailureCause::Reset),
    ];
    for (script, expected) in cases {
        assert_eq!(
            cause(&ask(&serve(parts(script)))),
            Some(expected),
            "{script:?}"
        );
    }
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = nobody.local_addr().expect("an address");
    drop(nobody);
    assert_eq!(
        cause(&ask(&format!("http://{address}/v1"))),
        Some(FailureCause::Connect)
    );
}

#[test]
fn only_addresses_that_can_work_are_accepted() {
    assert!(parse_base("http://127.0.0.1:8000/v1").is_ok());
    assert!(parse_base("https://example.com/v1").is_ok());
    for (text, part) in [
        ("localhost:8000", "accepted is"),
        ("http://", "accepted is"),
        ("ftp://h/v1", "accepted is"),
    ] {
        let error = parse_base(text).expect_err(text).to_string();
        assert!(error.contains(part) && error.contains(text), "{error}");
    }
}

#[test]
fn events_without_output_are_told_apart() {
    let base = serve(parts(&[HEAD, ROLE, NI, STOP, USAGE, DONE]));
    let kinds = ask_for(&base, Bare::Kept);
    let expected = [
        EventKind::Sent,
        EventKind::Bare,
        text("你", false),
        EventKind::Bare,
        EventKind::UsageOnly,
    ];
    assert_eq!(kinds[..5], expected);
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

/// Sends each connection small events, one after the other and half a millisecond apart, until
/// the client goes away.
fn serve_for_ever() -> String {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            stream.set_nodelay(true).expect("a socket takes it");
            std::thread::spawn(move || -> std::io::Result<()> {
                read_request(&mut stream)?;
                stream.write_all(HEAD.as_bytes())?;
                for token in 0_u64.. {
                    let content =
                        format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{token} \"}}}}]}}");
                    stream.write_all(format!("data: {content}\n\n").as_bytes())?;
                    pause_us(500);
                }
                Ok(())
            });
        }
    });
    format!("http://{address}/v1")
}

/// Where so much comes that reads wait for each other, the text is whole, and a server that does not
/// wait for acknowledgements is found out.
#[cfg(target_os = "linux")]
#[test]
fn where_much_comes_nothing_is_lost_and_acknowledgements_are_put_off() {
    const STREAMS: usize = 16;
    const LIMIT: Nanos = Nanos(20_000_000_000);
    let base = serve_for_ever();
    let backend = backend(&base);
    let told = backend.clock.block_on(async {
        let mut streams: Vec<TokenStream> =
            (0..STREAMS).map(|_| backend.submit(request())).collect();
        let mut texts = vec![String::new(); STREAMS];
        let mut told = None;
        while told.is_none() && backend.clock.now() < LIMIT {
            for (stream, text) in streams.iter_mut().zip(&mut texts) {
                for _ in 0..20 {
                    let event = stream.next().await.expect("it never ends");
                    match event.kind {
                        EventKind::Text { text: piece, .. } => text.push_str(&piece),
                        EventKind::Failed(failure) => panic!("{failure:?}"),
                        _ => {}
                    }
                }
            }
            told = backend.describe().details.remove("acknowledgements");
            told = told.filter(|told| told.starts_with("put off"));
        }
        for text in texts {
            let tokens = text.split_whitespace();
            assert!(
                tokens
                    .zip(0_u64..)
                    .all(|(token, number)| token == number.to_string())
            );
        }
        told
    });
    let stamps = backend.describe().details["instants"].clone();
    if stamps == "after the read" {
        println!("skipped: this kernel does not stamp what arrives");
        return;
    }
    assert!(told.is_some(), "{stamps}");
}
