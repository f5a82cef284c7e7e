//! The mock server's one thread: sockets, timers, and the record.
//!
//! The thread wakes a little before the next chunk is due and watches the clock for the rest, so a
//! chunk is sent within microseconds of its instant as long as the thread has a processor.
//! Invariant: the instants of an answer are planned when its request has been read, count from when
//! that arrived (see [`backends::stamp`]), and never move; a chunk that is late does not make the
//! next one late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use backends::alarm::Alarm;
use backends::http::Stack;
use backends::priority::take_short_turns;
use backends::stamp::{Came, Stamper, ask_for_stamps};
use backends::{Clock, Nanos};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rand::Rng;
use reports::Outcome;
use serde::Deserialize;
use slab::Slab;
use socket2::{Domain, SockRef, Socket, Type};

use super::metrics::{self, Now};
use super::plan::{AnswerPlan, Ends, PlannedChunk, plan};
use super::record::{Record, RecordHead, Truth};
use super::stream::{
    self, Content, Counts, End, EventWriter, LAST_CHUNK, STREAM_HEAD, answer, refusal,
};
use super::{MockConfig, UsageChunk};
use crate::random;

const WAKE: Token = Token(0);
const ALARM: Token = Token(1);
const LISTENER: Token = Token(2);
const FIRST_CONNECTION: usize = 3;
/// The thread is awake so long before a chunk is due.
const EARLY: Nanos = Nanos(50_000);
/// Chunks that are sent before the sockets are looked at again.
const SEND_SLICE: u32 = 16;
/// One that could not be accepted is tried again after so long.
const ACCEPTED_AGAIN_AFTER: Nanos = Nanos(50_000_000);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8192;
const MOST_TOKENS: u32 = 1_000_000;
const LONGEST_REQUEST: usize = 64 << 20;

/// A server that runs.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: JoinHandle<io::Result<Record>>,
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `--target` takes.
    pub fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Ends it; what it did.
    pub fn stop(self) -> io::Result<Record> {
        self.stop.store(true, Ordering::Release);
        self.waker.wake()?;
        let died = |_| io::Error::other("the mock server's thread died");
        self.thread.join().map_err(died)?
    }
}

/// Starts a server; port 0 takes a free one.
pub fn serve(listen: SocketAddr, config: MockConfig) -> io::Result<Handle> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    // Those that are accepted inherit it.
    ask_for_stamps(&socket);
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(socket.into());
    let address = listener.local_addr()?;
    let poll = Poll::new()?;
    let registry = poll.registry();
    registry.register(&mut listener, LISTENER, Interest::READABLE)?;
    let clock = Clock::wall();
    let waker = Arc::new(Waker::new(registry, WAKE)?);
    let alarm = Alarm::new(registry, ALARM, clock.clone())?;
    let stop = Arc::new(AtomicBool::new(false));
    let started = clock.now();
    let server = Server {
        poll,
        stamper: Stamper::new(clock.clone()),
        clock,
        listener,
        config,
        started,
        connections: Slab::new(),
        accepted: 0,
        accept_failures: 0,
        accept_again: None,
        timers: BinaryHeap::new(),
        requests: Vec::new(),
        prompt_tokens: 0,
        output_tokens: 0,
        scratch: vec![0; 64 << 10],
        out: Vec::new(),
        stop: Arc::clone(&stop),
    };
    let thread = std::thread::Builder::new()
        .name("mock".into())
        .spawn(move || {
            take_short_turns();
            server.run(alarm)
        })?;
    Ok(Handle {
        address,
        stop,
        waker,
        thread,
    })
}

struct Server {
    poll: Poll,
    clock: Clock,
    stamper: Stamper,
    listener: TcpListener,
    config: MockConfig,
    started: Nanos,
    connections: Slab<Connection>,
    /// Connections so far; the number of the last is its serial.
    accepted: u64,
    /// How often one could not be accepted.
    accept_failures: u64,
    /// When to try again, since one could not be accepted.
    accept_again: Option<Nanos>,
    /// Instant, key and serial of the connection whose next chunk is due.
    timers: BinaryHeap<Reverse<(Nanos, usize, u64)>>,
    requests: Vec<Truth>,
    /// Of all requests so far.
    prompt_tokens: u64,
    output_tokens: u64,
    scratch: Vec<u8>,
    out: Vec<u8>,
    stop: Arc<AtomicBool>,
}

struct Connection {
    stream: TcpStream,
    serial: u64,
    input: Vec<u8>,
    /// When the last of it came.
    came: Nanos,
    /// What the client has not taken yet.
    backlog: Vec<u8>,
    answer: Option<Answer>,
}

/// An answer under way.
struct Answer {
    number: usize,
    plan: AnswerPlan,
    form: Form,
    received: Nanos,
    next: usize,
    head_is_out: bool,
    /// The chunk with the role comes with the first of content.
    role_is_due: bool,
    usage: bool,
    counts: Counts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Stream,
    Whole,
}

/// What a chat completion asks for.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    stream: bool,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl Asked {
    fn wants_usage(&self, config: &MockConfig) -> bool {
        let options = self.stream_options.as_ref();
        match config.usage {
            UsageChunk::Asked if config.stack.counts_unasked() => true,
            UsageChunk::Always => true,
            UsageChunk::Never => false,
            UsageChunk::Asked => options.and_then(|o| o.include_usage) == Some(true),
        }
    }
}

/// A request that has been read.
struct Request {
    method: String,
    path: String,
    id: Option<String>,
    body: Vec<u8>,
}

/// What is left to do with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Keep,
    Close,
}

impl Server {
    fn run(mut self, mut alarm: Alarm) -> io::Result<Record> {
        let mut events = Events::with_capacity(1024);
        let mut in_a_row = 0;
        while !self.stop.load(Ordering::Acquire) {
            let due = self.timers.peek().map(|Reverse((at, ..))| *at);
            let soon = self.clock.now().plus(EARLY);
            if let Some(at) = due.filter(|&at| at <= soon && in_a_row < SEND_SLICE) {
                while self.clock.now() < at {
                    std::hint::spin_loop();
                }
                in_a_row += 1;
                if let Some(Reverse((at, key, serial))) = self.timers.pop() {
                    self.on_time(at, key, serial);
                }
                continue;
            }
            in_a_row = 0;
            let chunk = due.map(|at| at.since(EARLY));
            let until = chunk.into_iter().chain(self.accept_again).min();
            alarm.wait(&mut self.poll, &mut events, until)?;
            if self.accept_again.is_some_and(|at| at <= self.clock.now()) {
                self.accept();
            }
            for ready in &events {
                match ready.token() {
                    WAKE | ALARM => {}
                    LISTENER => self.accept(),
                    Token(token) => self.ready(token - FIRST_CONNECTION, ready.is_writable()),
                }
            }
        }
        Ok(self.record())
    }

    fn record(&self) -> Record {
        Record {
            head: RecordHead {
                started_ns: self.clock.monotonic_ns(self.started),
                connections: self.accepted,
                accept_failures: self.accept_failures,
            },
            requests: self.requests.clone(),
        }
    }

    /// Takes all who wait. Where there are no files left, they wait on until there are.
    fn accept(&mut self) {
        let could_not_before = self.accept_again.take().is_some();
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if !could_not_before {
                        let open = self.connections.len();
                        tracing::warn!(%error, open, "a connection cannot be accepted now");
                        self.accept_failures += 1;
                    }
                    self.accept_again = Some(self.clock.now().plus(ACCEPTED_AGAIN_AFTER));
                    return;
                }
            };
            let entry = self.connections.vacant_entry();
            let token = Token(entry.key() + FIRST_CONNECTION);
            let both = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            let ready = stream
                .set_nodelay(true)
                .and_then(|()| registry.register(&mut stream, token, both));
            if let Err(error) = ready {
                tracing::warn!(%error, "a connection cannot be served");
                continue;
            }
            self.accepted += 1;
            entry.insert(Connection {
                stream,
                serial: self.accepted,
                input: Vec::new(),
                came: self.started,
                backlog: Vec::new(),
                answer: None,
            });
        }
    }

    fn ready(&mut self, key: usize, writable: bool) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if writable && !connection.backlog.is_empty() {
            let waiting = std::mem::take(&mut connection.backlog);
            if connection.write(&waiting) == Then::Close {
                self.close(key);
                return;
            }
        }
        let open = connection.read(&mut self.stamper, &mut self.scratch);
        let received = connection.came;
        if self.take_request(key, received) == Then::Close || open == Then::Close {
            self.close(key);
        }
    }

    /// Ends a connection; an answer that was under way has lost its client.
    fn close(&mut self, key: usize) {
        let Some(mut connection) = self.connections.try_remove(key) else {
            return;
        };
        drop(self.poll.registry().deregister(&mut connection.stream));
        if let Some(answer) = connection.answer.take() {
            self.end(answer.number, Outcome::Cancelled);
        }
    }

    fn end(&mut self, number: usize, outcome: Outcome) {
        let now = self.clock.now();
        let truth = &mut self.requests[number];
        truth.outcome = outcome;
        truth.ended_ns = Some(self.clock.monotonic_ns(now));
    }

    /// Takes the next request, unless an answer is under way.
    fn take_request(&mut self, key: usize, received: Nanos) -> Then {
        loop {
            let Some(connection) = self.connections.get_mut(key) else {
                return Then::Keep;
            };
            if connection.answer.is_some() {
                return Then::Keep;
            }
            let request = match next_request(&mut connection.input) {
                Ok(Some(request)) => request,
                Ok(None) => return Then::Keep,
                Err(message) => {
                    connection.write(&refusal("400 Bad Request", &message));
                    return Then::Close;
                }
            };
            if self.respond(key, request, received) == Then::Close {
                return Then::Close;
            }
        }
    }

    fn respond(&mut self, key: usize, request: Request, received: Nanos) -> Then {
        let path = request.path.split('?').next().unwrap_or_default();
        let bytes = match (request.method.as_str(), path) {
            ("POST", path) if path.ends_with("/chat/completions") => {
                match serde_json::from_slice::<Asked>(&request.body) {
                    Ok(asked) => return self.begin(key, &asked, request, received),
                    Err(error) => refusal("400 Bad Request", &error.to_string()),
                }
            }
            ("GET", path) if path.ends_with("/models") => {
                let owner = self.config.stack.owner();
                let list = format!(
                    r#"{{"object":"list","data":[{{"id":"mock","object":"model","owned_by":"{owner}"}}]}}"#
                );
                answer("200 OK", "application/json", list.as_bytes())
            }
            ("GET", "/metrics") => self.metrics(),
            ("GET", "/health") => answer("200 OK", "text/plain", b"ok"),
            ("GET", "/record") => answer("200 OK", "application/jsonl", &self.record().to_lines()),
            (method, path) => refusal("404 Not Found", &format!("no `{method} {path}` here")),
        };
        let connection = self.connections.get_mut(key);
        connection.map_or(Then::Close, |connection| connection.write(&bytes))
    }

    fn metrics(&self) -> Vec<u8> {
        let mut connections = self.connections.iter();
        let now = Now {
            running: connections
                .by_ref()
                .filter(|(_, one)| one.answer.is_some())
                .count(),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
        };
        match metrics::page(self.config.stack, now) {
            Some(page) => answer("200 OK", "text/plain; version=0.0.4", page.as_bytes()),
            None => refusal("404 Not Found", "this stack has no such page"),
        }
    }

    /// Plans an answer and sends what comes at once.
    fn begin(&mut self, key: usize, asked: &Asked, request: Request, received: Nanos) -> Then {
        let Some(connection) = self.connections.get_mut(key) else {
            return Then::Close;
        };
        let tokens = asked.max_completion_tokens.or(asked.max_tokens);
        let tokens = tokens.unwrap_or(self.config.tokens);
        if !(1..=MOST_TOKENS).contains(&tokens) {
            let message = format!("`max_tokens` is {tokens}; accepted is 1 to {MOST_TOKENS}");
            return connection.write(&refusal("400 Bad Request", &message));
        }
        let number = self.requests.len();
        let mut plan = plan(&self.config, number as u64, tokens);
        let form = if asked.stream {
            Form::Stream
        } else {
            plan.chunks = vec![PlannedChunk {
                work_ns: plan.chunks.last().map_or(0, |chunk| chunk.work_ns),
                tokens,
            }];
            Form::Whole
        };
        let at = |chunk: &PlannedChunk| instant(&self.config, self.started, received, chunk);
        let instants: Vec<Nanos> = plan.chunks.iter().map(at).collect();
        let monotonic = |at: &Nanos| self.clock.monotonic_ns(*at);
        self.requests.push(Truth {
            request: number as u64,
            id: request.id,
            outcome: Outcome::Unfinished,
            received_ns: monotonic(&received),
            planned_ns: instants.iter().map(monotonic).collect(),
            sent_ns: Vec::with_capacity(plan.chunks.len()),
            late_chunks: 0,
            tokens: Vec::with_capacity(plan.chunks.len()),
            ended_ns: None,
        });
        if let Ends::Status(status) = plan.ends {
            let refused = refusal(&format!("{status} Mock"), "as planned");
            let then = connection.write(&refused);
            self.end(number, Outcome::HttpStatus(status));
            return then;
        }
        let mut answer = Answer {
            number,
            form,
            received,
            next: 0,
            head_is_out: false,
            role_is_due: false,
            usage: asked.wants_usage(&self.config),
            counts: Counts {
                // Nothing is tokenised here; four bytes to a token is as good as any number.
                prompt: request.body.len() as u64 / 4,
                output: u64::from(tokens),
            },
            plan,
        };
        self.prompt_tokens += answer.counts.prompt;
        let mut then = Then::Keep;
        let has_role = self.config.role_chunk && form == Form::Stream;
        answer.role_is_due = has_role && self.config.stack == Stack::Xllm;
        if has_role && !answer.role_is_due {
            self.out.clear();
            self.out.extend_from_slice(STREAM_HEAD);
            let writer = EventWriter::new(&self.config, number);
            writer.role(&mut self.out);
            answer.head_is_out = true;
            then = connection.write(&self.out);
        }
        connection.answer = Some(answer);
        self.timers
            .push(Reverse((instants[0], key, connection.serial)));
        then
    }

    /// The next chunk of an answer is due.
    fn on_time(&mut self, planned: Nanos, key: usize, serial: u64) {
        let connection = self.connections.get_mut(key);
        let Some(connection) = connection.filter(|connection| connection.serial == serial) else {
            return;
        };
        let Some(answer) = &mut connection.answer else {
            return;
        };
        let number = answer.number;
        match answer.plan.ends {
            Ends::Reset(at) if at == answer.next => {
                connection.answer = None;
                let linger = SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
                self.close(key);
                let outcome = if linger.is_ok() {
                    Outcome::Reset
                } else {
                    Outcome::Truncated
                };
                self.end(number, outcome);
                return;
            }
            Ends::Truncated(at) if at == answer.next => {
                self.out.clear();
                answer.head(&mut self.out);
                self.out.extend_from_slice(LAST_CHUNK);
                connection.answer = None;
                let then = connection.write(&self.out);
                self.end(number, Outcome::Truncated);
                self.go_on(key, then);
                return;
            }
            _ => {}
        }
        let then = self.send_chunk(planned, key);
        self.go_on(key, then);
    }

    /// Closes a connection, or looks for the next request on it.
    fn go_on(&mut self, key: usize, then: Then) {
        let now = self.clock.now();
        if then == Then::Close || self.take_request(key, now) == Then::Close {
            self.close(key);
        }
    }

    /// Stamps and writes one chunk, with all that follows the last.
    fn send_chunk(&mut self, planned: Nanos, key: usize) -> Then {
        let Some(connection) = self.connections.get_mut(key) else {
            return Then::Keep;
        };
        let Some(mut answer) = connection.answer.take() else {
            return Then::Keep;
        };
        let PlannedChunk { tokens, .. } = answer.plan.chunks[answer.next];
        let is_last = answer.next + 1 == answer.plan.chunks.len();
        self.out.clear();
        let mut place = None;
        if answer.form == Form::Whole {
            self.out = stream::whole(answer.number as u64, tokens, answer.counts);
        } else {
            answer.head(&mut self.out);
            let writer = EventWriter::new(&self.config, answer.number);
            let content = Content {
                first_token: answer.next as u64 * u64::from(self.config.chunk_tokens),
                tokens,
                planned_ns: self.clock.monotonic_ns(planned),
            };
            if std::mem::take(&mut answer.role_is_due) {
                writer.role(&mut self.out);
            }
            let end = is_last.then_some(End {
                usage: answer.usage.then_some(answer.counts),
                done: answer.plan.ends != Ends::WithoutDone,
            });
            place = Some(writer.content(&mut self.out, content, end));
            if let Some(end) = end {
                writer.finish(&mut self.out, end);
            }
        }
        let sent_ns = self.clock.monotonic_ns(self.clock.now());
        if let Some(place) = place {
            stream::stamp(&mut self.out, place, sent_ns);
        }
        let then = match self.config.cuts {
            0 => connection.write(&self.out),
            cuts => connection.write_cut(&self.out, cuts, answer.plan.cut_seed, answer.next),
        };
        if then == Then::Close {
            connection.answer = Some(answer);
            return then;
        }
        let truth = &mut self.requests[answer.number];
        truth.sent_ns.push(sent_ns);
        truth.tokens.push(tokens);
        truth.late_chunks += u32::from(!connection.backlog.is_empty());
        self.output_tokens += u64::from(tokens);
        if is_last {
            self.end(answer.number, Outcome::Ok);
            return then;
        }
        answer.next += 1;
        let next = &answer.plan.chunks[answer.next];
        let at = instant(&self.config, self.started, answer.received, next);
        self.timers.push(Reverse((at, key, connection.serial)));
        connection.answer = Some(answer);
        then
    }
}

/// When a chunk is due.
fn instant(config: &MockConfig, started: Nanos, received: Nanos, chunk: &PlannedChunk) -> Nanos {
    match config.stall {
        None => received.plus(Nanos(chunk.work_ns)),
        Some(stall) => {
            let after = stall.after(received.since(started).0, chunk.work_ns);
            started.plus(Nanos(after))
        }
    }
}

impl Answer {
    /// The head of the stream, if it has not been sent.
    fn head(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.head_is_out, true) {
            out.extend_from_slice(STREAM_HEAD);
        }
    }
}

impl Connection {
    /// Reads all there is.
    fn read(&mut self, stamper: &mut Stamper, scratch: &mut [u8]) -> Then {
        loop {
            match stamper.read(&self.stream, scratch, self.came) {
                Ok(Came { bytes: 0, .. }) => return Then::Close,
                Ok(Came { bytes, at, .. }) => {
                    self.input.extend_from_slice(&scratch[..bytes]);
                    self.came = at;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Then::Keep,
                Err(_) => return Then::Close,
            }
        }
    }

    /// Writes what the socket takes, and keeps the rest until it takes more.
    fn write(&mut self, mut bytes: &[u8]) -> Then {
        while self.backlog.is_empty() && !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Then::Close,
            }
        }
        self.backlog.extend_from_slice(bytes);
        Then::Keep
    }

    /// The same in pieces.
    fn write_cut(&mut self, bytes: &[u8], cuts: u32, seed: u64, chunk: usize) -> Then {
        let mut rng = random::stream(seed, random::Purpose::Mock, chunk as u64);
        let mut ends: Vec<usize> = (0..cuts)
            .map(|_| rng.random_range(0..=bytes.len()))
            .collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut from = 0;
        for end in ends {
            if self.write(&bytes[from..end]) == Then::Close {
                return Then::Close;
            }
            from = end;
        }
        Then::Keep
    }
}

/// Takes a whole request out of what has been read, if there is one.
fn next_request(input: &mut Vec<u8>) -> Result<Option<Request>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let parsed = head.parse(input).map_err(|error| error.to_string())?;
    let httparse::Status::Complete(head_length) = parsed else {
        return Ok(None);
    };
    let find = |name: &str| {
        let mut found = head.headers.iter();
        let header = found.find(|header| header.name.eq_ignore_ascii_case(name))?;
        Some(String::from_utf8_lossy(header.value).into_owned())
    };
    if find("transfer-encoding").is_some() {
        return Err("a body in chunked coding is not taken here".into());
    }
    let length = match find("content-length") {
        None => 0,
        Some(text) => text
            .trim()
            .parse::<usize>()
            .ok()
            .filter(|&length| length <= LONGEST_REQUEST)
            .ok_or_else(|| format!("`Content-Length` is `{text}`"))?,
    };
    if input.len() < head_length + length {
        return Ok(None);
    }
    let request = Request {
        method: head.method.unwrap_or_default().into(),
        path: head.path.unwrap_or_default().into(),
        id: find("x-request-id"),
        body: input[head_length..head_length + length].to_vec(),
    };
    input.drain(..head_length + length);
    Ok(Some(request))
}
