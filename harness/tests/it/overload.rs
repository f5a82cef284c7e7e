//! `weighbridge serve` under ten times what it can do, with readers that sleep, clients that
//! vanish, bodies that are no requests, and a crowd of open connections.
//!
//! Everyone who asks properly gets a whole answer or a proper refusal; nothing is left behind
//! after. The short form runs with the tests. The long one is
//! `WEIGHBRIDGE_OVERLOAD=60s cargo test --workspace --test it overload -- --nocapture`, with
//! 10,000 connections, for which `ulimit -n 16000` is needed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use backends::{Clock, Nanos};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::served::{Reply, Serving};

/// Eight at a time, each some 260 ms: about 30 requests a second. The prefix cache is small, so
/// that its index is full soon and does not look like a leak.
const FLAGS: &str = "--target sim:h100 --model ref-135m --max-sequences 8 --max-queue 24 \
                     --max-body 64KiB --kv-memory 256MiB";
const ANSWER_TOKENS: u32 = 400;
const RATE_PER_S: f64 = 300.0;

/// A round in which all of it happens.
const SHORTEST: Duration = Duration::from_secs(1);

/// How much of everything.
struct Crowd {
    duration: Duration,
    connections: usize,
    sleepers: usize,
    /// What the allocator may keep beyond 5 % of what there was before.
    slack_mb: f64,
}

fn crowd() -> Crowd {
    match std::env::var("WEIGHBRIDGE_OVERLOAD") {
        Ok(text) => Crowd {
            duration: humantime::parse_duration(&text).expect("WEIGHBRIDGE_OVERLOAD is like 60s"),
            connections: 10_000,
            sleepers: 200,
            slack_mb: 0.0,
        },
        Err(_) => Crowd {
            duration: Duration::from_secs(2),
            connections: 200,
            sleepers: 20,
            // A small server, and rounds too short for it to come to rest.
            slack_mb: 2.0,
        },
    }
}

/// What became of one who asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Answered,
    Refused(u16),
    Broken(String),
}

fn request(body: &str) -> Vec<u8> {
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\n";
    format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn question(stream: bool) -> Vec<u8> {
    let body = json!({
        "messages": [{ "role": "user", "content": "讲个故事" }],
        "max_tokens": ANSWER_TOKENS, "ignore_eos": true, "stream": stream,
    });
    request(&body.to_string())
}

/// The fate of a request whose whole answer is here.
fn fate(read: io::Result<Vec<u8>>) -> Fate {
    let bytes = match read {
        Ok(bytes) if bytes.is_empty() => return Fate::Broken("closed without a word".into()),
        Ok(bytes) => bytes,
        Err(error) => return Fate::Broken(error.to_string()),
    };
    let reply = Reply::read(&bytes, true);
    match reply.status {
        200 if reply.complete && !reply.body.starts_with("data: ") => Fate::Answered,
        200 if reply.complete && reply.body.ends_with("data: [DONE]\n\n") => Fate::Answered,
        status @ (400 | 413) if reply.body.contains("\"error\"") => Fate::Refused(status),
        429 if reply.head.contains("retry-after") => Fate::Refused(429),
        status => Fate::Broken(format!("{status}: {}", reply.body)),
    }
}

async fn ask(address: SocketAddr, bytes: Vec<u8>) -> Fate {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    fate(exchange.await)
}

/// Reads a little now and then until `end`, then the rest.
async fn ask_slowly(address: SocketAddr, clock: Clock, end: Nanos) -> Fate {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&question(true)).await?;
        let (mut answer, mut some) = (Vec::new(), [0; 100]);
        while clock.now() < end {
            let count = stream.read(&mut some).await?;
            answer.extend_from_slice(&some[..count]);
            if count == 0 {
                return Ok(answer);
            }
            clock.sleep(Nanos(50_000_000)).await;
        }
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    fate(exchange.await)
}

/// Asks, reads up to so many bytes, and goes away.
async fn vanish(address: SocketAddr, bytes: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&question(bytes.is_multiple_of(2))).await?;
    let mut some = vec![0; bytes.max(1)];
    if bytes > 0 {
        stream.read_exact(&mut some).await?;
    }
    Ok(())
}

/// Opens a connection, asks for the server's health at `end`, and says whether it is well. It does
/// not wait so long that the server may take it for forgotten (75 s).
async fn idle(address: SocketAddr, clock: Clock, end: Nanos) -> Fate {
    let patience = clock.now().plus(Nanos(30_000_000_000));
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        clock.sleep_until(end.min(patience)).await;
        let head = b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    fate(exchange.await)
}

/// Everything at once, for as long as the crowd wants; the fates of all who could expect an answer.
async fn round(
    address: SocketAddr,
    clock: &Clock,
    crowd: &Crowd,
    duration: Duration,
) -> Vec<(&'static str, Fate)> {
    let start = clock.now();
    let end = start.plus(Nanos(duration.as_nanos() as u64));
    let mut asked = JoinSet::new();
    let mut gone = JoinSet::new();
    for index in 0..crowd.connections {
        let idle = idle(address, clock.clone(), end);
        asked.spawn(async { ("connection", idle.await) });
        // Not faster than a listener's queue empties.
        if index % 500 == 499 {
            clock.sleep(Nanos(20_000_000)).await;
        }
    }
    for _ in 0..crowd.sleepers {
        let slow = ask_slowly(address, clock.clone(), end);
        asked.spawn(async { ("slow reader", slow.await) });
    }
    for index in 0_usize.. {
        let due = start.plus(Nanos::from_secs_f64(index as f64 / RATE_PER_S));
        if due > end {
            break;
        }
        clock.sleep_until(due).await;
        let stream = index.is_multiple_of(2);
        asked.spawn(async move { ("request", ask(address, question(stream)).await) });
        match index % 20 {
            0 => drop(gone.spawn(vanish(address, 0))),
            5 => drop(gone.spawn(vanish(address, 300 + index / 20 % 2))),
            10 => {
                let large = request(&"x".repeat(200_000));
                asked.spawn(async move { ("oversized", ask(address, large).await) });
            }
            15 => {
                let malformed = request("{\"messages\": [");
                asked.spawn(async move { ("malformed", ask(address, malformed).await) });
            }
            _ => {}
        }
    }
    gone.join_all().await;
    asked.join_all().await
}

/// As many as the server takes at once, again and again, and nobody else.
async fn calm(address: SocketAddr) {
    const USERS: usize = 8;
    let mut users = JoinSet::new();
    for _ in 0..USERS {
        users.spawn(async move {
            for index in 0..USERS {
                let stream = index.is_multiple_of(2);
                assert_eq!(ask(address, question(stream)).await, Fate::Answered);
            }
        });
    }
    users.join_all().await;
}

/// Memory at rest: the least of some looks, since what was freed goes back a little later.
fn resident_mb(server: &Serving, clock: &Clock) -> f64 {
    let looks = (0..100).map(|_| {
        clock.block_on(clock.sleep(Nanos(20_000_000)));
        server.metric("process_resident_memory_bytes") / 1e6
    });
    looks.fold(f64::INFINITY, f64::min)
}

/// One round; everyone must have been answered or refused, and nothing may be left. What happened,
/// in words.
fn endure(server: &Serving, clock: &Clock, crowd: &Crowd, duration: Duration) -> String {
    let mut fates = clock.block_on(round(server.address, clock, crowd, duration));
    fates.sort();
    let same = fates.chunk_by(|one, other| one == other);
    let words = same.map(|same| format!("\n  {} × {:?}", same.len(), same[0]));
    let words = format!("round of {duration:?}:{}", words.collect::<String>());
    let broken = fates
        .iter()
        .filter(|(_, fate)| matches!(fate, Fate::Broken(_)));
    assert_eq!(broken.count(), 0, "{words}");
    let count = |kind, wanted: &Fate| {
        let found = fates
            .iter()
            .filter(|(one, fate)| *one == kind && fate == wanted);
        found.count()
    };
    assert_eq!(count("connection", &Fate::Answered), crowd.connections);
    assert!(count("request", &Fate::Answered) > 5, "it went on serving");
    assert!(
        count("request", &Fate::Refused(429)) > 50,
        "it was too much"
    );
    assert!(count("oversized", &Fate::Refused(413)) > 5);
    assert!(count("malformed", &Fate::Refused(400)) > 5);
    assert!(count("slow reader", &Fate::Answered) > 0);
    server.wait_for("vllm:num_requests_waiting", 0.0);
    server.wait_for("vllm:num_requests_running", 0.0);
    server.wait_for("vllm:kv_cache_usage_perc", 0.0);
    server.wait_for("weighbridge_connections", 1.0);
    words
}

#[test]
fn overload_is_answered_or_refused_and_leaves_nothing_behind() {
    const WARM_UPS: usize = 8;
    let crowd = crowd();
    let server = Serving::start(FLAGS);
    let clock = Clock::wall();
    let fresh = resident_mb(&server, &clock);
    clock.block_on(calm(server.address));
    let mut mb = vec![resident_mb(&server, &clock)];
    let grown = |mb: &[f64]| mb[mb.len() - 1] > mb[mb.len() - 2] * 1.05 + crowd.slack_mb;
    // Tables grow once, the prefix cache fills, the allocator spreads out. A leak would go on.
    for _ in 0..WARM_UPS {
        let short = crowd.duration.div_f64(12.0).max(SHORTEST);
        println!("{}", endure(&server, &clock, &crowd, short));
        mb.push(resident_mb(&server, &clock));
        if !grown(&mb) {
            break;
        }
    }
    println!("{}", endure(&server, &clock, &crowd, crowd.duration));
    mb.push(resident_mb(&server, &clock));
    println!("resident MB: fresh {fresh:.1}, after calm use and after each round {mb:.1?}");
    assert!(!grown(&mb), "memory grows: {mb:.1?} MB");
    let (before, after) = (mb[0], mb[mb.len() - 1]);
    assert!(
        after <= before * 1.05 + crowd.slack_mb,
        "the crowd's memory is still held: {mb:.1?} MB"
    );
    assert!(after < 1.5 * fresh, "fresh {fresh:.1}, then {mb:.1?} MB");
    assert!(server.metric("vllm:request_success_total{finished_reason=\"abort\"}") > 0.5);
}
