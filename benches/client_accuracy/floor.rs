//! The least a client can do: one thread that polls, reads, stamps, and counts one word.
//!
//! It is what the load generator is held against: no error of a client on the same machine can be
//! much smaller. It keeps to the same loads and writes the same records, but parses nothing, plans
//! nothing and reports nothing. Connections are made ahead of use.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::Result;
use backends::alarm::Alarm;
use backends::stamp::{Came, Stamper, ask_for_stamps};
use backends::{Clock, Nanos};
use harness::arrivals::Arrivals;
use harness::random::{Purpose, stream};
use harness::workload::rate::RateCurve;
use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use reports::{Outcome, RequestRecord, TokenCountSource};

use super::Load;

/// Comes once in every chunk of content.
const WORD: &[u8] = b"\"sent_ns\"";
/// Comes once in every answer, in its last event.
const END: &[u8] = b"[DONE]";

/// Which instant a token has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Instants {
    /// That after the read, as clients have it.
    AfterTheRead,
    /// That of its packet's arrival, as the load generator has it.
    OfTheKernel,
}

struct Stream {
    socket: TcpStream,
    /// The end of what was read, in which a word may have begun.
    tail: Vec<u8>,
    /// When the last of it came, or the question was asked.
    since: Nanos,
    record: Option<RequestRecord>,
}

struct Floor {
    clock: Clock,
    /// Asked for the kernel's instants; else they are those after the read.
    stamper: Option<Stamper>,
    streams: Vec<Stream>,
    idle: Vec<usize>,
    body: String,
    tokens: u32,
    next_id: u64,
    records: Vec<RequestRecord>,
}

/// Drives `load` for `seconds`; the records count from the origin of the monotonic clock. Also the
/// CPU seconds it took.
pub(super) fn run(
    server: SocketAddr,
    load: Load,
    instants: Instants,
    seconds: f64,
    tokens: u32,
) -> Result<(Vec<RequestRecord>, f64)> {
    let clock = Clock::wall();
    let stamper = match instants {
        Instants::AfterTheRead => None,
        Instants::OfTheKernel => Some(Stamper::new(clock.clone())),
    };
    let mut poll = Poll::new()?;
    let alarm_token = Token(usize::MAX);
    let mut alarm = Alarm::new(poll.registry(), alarm_token, clock.clone())?;
    let count = match load {
        Load::Closed(users) => users,
        // Answers take 1.3 s.
        Load::Open(rate) => (rate * 2.0) as usize + 16,
    };
    let connect = |key: usize| -> Result<Stream> {
        let socket = std::net::TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        if stamper.is_some() {
            ask_for_stamps(&socket);
        }
        let token = Token(key);
        poll.registry()
            .register(&mut socket, token, Interest::READABLE)?;
        Ok(Stream {
            socket,
            tail: Vec::new(),
            since: Nanos::ZERO,
            record: None,
        })
    };
    let question = "今天天气怎么样？我想出去走走，请给我一些建议。";
    let body = format!(
        r#"{{"model":"mock","messages":[{{"role":"user","content":"{question}"}}],"stream":true,"stream_options":{{"include_usage":true}},"max_tokens":{tokens}}}"#
    );
    let streams: Vec<Stream> = (0..count).map(connect).collect::<Result<_>>()?;
    let mut floor = Floor {
        idle: (0..streams.len()).collect(),
        streams,
        clock: clock.clone(),
        stamper,
        body,
        tokens,
        next_id: 0,
        records: Vec::new(),
    };
    let cpu_before = harness::host::process_cpu_s().unwrap_or_default();
    let start = clock.now();
    let end = start.plus(Nanos::from_secs_f64(seconds));
    let mut due = first_sends(load, start, seconds);
    let again = matches!(load, Load::Closed(_));
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 64 << 10];
    while !due.is_empty() || floor.idle.len() < floor.streams.len() {
        let now = clock.now();
        while let Some(intended) = due.front().copied().filter(|&at| at <= now) {
            due.pop_front();
            match floor.idle.pop() {
                Some(key) => floor.send(key, intended)?,
                None => floor.give_up(intended),
            }
        }
        alarm.wait(&mut poll, &mut events, due.front().copied())?;
        for event in &events {
            if event.token() != alarm_token {
                floor.read(event.token().0, &mut scratch, again.then_some(end))?;
            }
        }
    }
    let cpu_s = harness::host::process_cpu_s().unwrap_or_default() - cpu_before;
    Ok((floor.records, cpu_s))
}

/// When requests are due, as far as that is known before the run.
fn first_sends(load: Load, start: Nanos, seconds: f64) -> VecDeque<Nanos> {
    match load {
        // As in the load generator, users do not all begin at once.
        Load::Closed(users) => (0..users)
            .map(|user| start.plus(Nanos(1_330_000_000 * user as u64 / users as u64)))
            .collect(),
        Load::Open(rate) => Arrivals::Poisson
            .instants_s(
                rate,
                &RateCurve::flat((0.0, seconds)),
                seconds,
                stream(1, Purpose::Arrivals, 0),
            )
            .map(|at| start.plus(Nanos::from_secs_f64(at)))
            .collect(),
    }
}

impl Floor {
    fn send(&mut self, key: usize, intended: Nanos) -> Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: floor\r\nX-Request-Id: floor-{id}\r\n\
             Content-Length: {}\r\n\r\n{}",
            self.body.len(),
            self.body
        );
        let sent = self.clock.now();
        self.streams[key].socket.write_all(head.as_bytes())?;
        let record = RequestRecord {
            sent_ns: Some(self.clock.monotonic_ns(sent)),
            outcome: Outcome::Ok,
            ..self.record(id, intended)
        };
        let stream = &mut self.streams[key];
        stream.since = sent;
        stream.record = Some(record);
        Ok(())
    }

    /// A request for which there is no connection.
    fn give_up(&mut self, intended: Nanos) {
        let id = self.next_id;
        self.next_id += 1;
        self.records.push(self.record(id, intended));
    }

    /// Of a request that nothing has become of.
    fn record(&self, id: u64, intended: Nanos) -> RequestRecord {
        RequestRecord {
            id,
            session: id,
            turn: 0,
            class: "floor".into(),
            intended_ns: self.clock.monotonic_ns(intended),
            pushed_ns: 0,
            sent_ns: None,
            admitted_ns: None,
            chunk_ns: Vec::with_capacity(self.tokens as usize),
            chunk_tokens: vec![1; self.tokens as usize],
            end_ns: None,
            outcome: Outcome::Connect,
            finish: None,
            input_tokens: 0,
            planned_input_tokens: 0,
            cached_input_tokens: None,
            output_tokens: u64::from(self.tokens),
            planned_output_tokens: u64::from(self.tokens),
            token_count_source: TokenCountSource::Usage,
            bare_ns: Vec::new(),
            usage_ns: None,
            error: None,
        }
    }

    fn read(&mut self, key: usize, scratch: &mut [u8], again: Option<Nanos>) -> Result<()> {
        loop {
            let stream = &mut self.streams[key];
            let read = match &mut self.stamper {
                None => stream.socket.read(scratch).map(|bytes| (bytes, None)),
                Some(stamper) => {
                    let came = stamper.read(&stream.socket, scratch, stream.since);
                    came.map(|Came { bytes, at, .. }| (bytes, Some(at)))
                }
            };
            let (count, stamp) = match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
            let now = self.clock.now();
            stream.since = stamp.unwrap_or(now);
            let at_ns = self.clock.monotonic_ns(stream.since);
            stream.tail.extend_from_slice(&scratch[..count]);
            let Some(record) = &mut stream.record else {
                return Ok(());
            };
            let found = memmem::find_iter(&stream.tail, WORD).count();
            record.chunk_ns.extend(std::iter::repeat_n(at_ns, found));
            if memmem::find(&stream.tail, END).is_some() {
                record.end_ns = Some(at_ns);
                self.records.extend(stream.record.take());
                stream.tail.clear();
                if again.is_some_and(|end| now < end) {
                    self.send(key, now)?;
                } else {
                    self.idle.push(key);
                }
            } else {
                // A word that has been counted is not kept.
                let keep = match memmem::rfind(&stream.tail, WORD) {
                    Some(at) => stream.tail.len() - at - WORD.len(),
                    None => stream.tail.len(),
                };
                let keep = keep.min(WORD.len() - 1);
                stream.tail.drain(..stream.tail.len() - keep);
            }
            if count < scratch.len() {
                return Ok(());
            }
        }
    }
}
