//! One thread that owns the sockets: it sends each request at its instant and stamps what comes.
//!
//! Reading comes first. A read is put aside with the instant at which its bytes arrived (see
//! [`crate::stamp`]); where reading is late, events that wait are told apart (`apart`). Parsing is
//! done in small slices while no socket is ready, so a burst of answers is not read late because
//! one of them is being parsed. What nobody waits for is parsed some reads at a time (`backlog`).
//! Where much comes, the thread rests between reads (`rest`), unless it has to write or to connect,
//! and has the kernel acknowledge less, if that cannot slow the server (`acks`).
//!
//! With TLS a read is stamped before it is decrypted, which is part of parsing; a request is
//! stamped before it is encrypted.
//!
//! Invariants: instants are taken with the read, or right before the first write; those of one
//! connection never decrease; its reads are parsed in their order; every request ends in exactly
//! one last event, or its stream was dropped. Connections are kept and reused, never shared by two
//! requests at a time; nothing is sent twice.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use mio::event::Event as Readiness;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use crate::alarm::Alarm;
use crate::clock::{Clock, Nanos};
use crate::contract::{Delivery, Event, EventKind, Failure, FailureCause};
use crate::priority::take_short_turns;
use crate::stamp::{Came, Stamper, ask_for_stamps};

use super::acks::Acks;
use super::answer::Connection as Then;
use super::apart::{self, Firsts};
use super::backlog::{self, Backlog, ReadResult, Unparsed};
use super::connection::{Connection, HOLD, State};
use super::counts::Counts;
use super::link::Link;
use super::rest::Rest;
use super::tls::TlsClient;

const WAKE: Token = Token(0);
const ALARM: Token = Token(1);
const FIRST_CONNECTION: usize = 2;
/// Requests that are sent before the sockets are looked at again: many that are late at once must
/// not keep answers from being read, nor the connections of those from being used again.
const SEND_SLICE: usize = 32;
/// Reads, or pieces of parsing, between two looks at what is to be sent.
const WORK_SLICE: usize = 16;
/// Connections that are looked at in one go, whether they have been made.
const SETTLE_SLICE: usize = 8;
/// Connections that are looked after in one go.
const TEND_SLICE: usize = 32;
/// All connections are looked after once in this time, or in twice this time where nothing comes
/// that the thread wakes for: streams that were dropped, events that still wait, answers whose end
/// has come but not that of their body.
const TEND_EVERY: Nanos = Nanos(250_000_000);
/// So long an event waits in the worst case, with some room for a busy machine.
pub(super) const LONGEST_HOLD: Nanos = Nanos(HOLD.0 + 3 * TEND_EVERY.0 + backlog::LONGEST_WAIT.0);
/// Where bytes waited for longer than this, the events of a read are told apart.
const LATE: Nanos = Nanos(5_000_000);
/// A request that is due so soon is to find a connection.
const SOON: Nanos = Nanos(20_000_000);

/// A request ready to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Not before this instant.
    pub(super) due: Nanos,
    /// How soon its events are wanted.
    pub(super) delivery: Delivery,
    /// Head and body.
    pub(super) bytes: Vec<u8>,
    /// Where its events go.
    pub(super) events: mpsc::UnboundedSender<Event>,
}

enum Command {
    Send(Outgoing),
    Warm(usize),
}

/// Who is connected to.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    /// With TLS: how, and the name that the server has to have.
    pub(super) tls: Option<(TlsClient, String)>,
}

impl Server {
    /// Begins a connection.
    fn connect(&self) -> io::Result<Link> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        ask_for_stamps(&stream);
        let tls = self.tls.as_ref().map(|(tls, name)| tls.connection(name));
        Ok(Link::new(
            stream,
            tls.transpose().map_err(io::Error::other)?,
        ))
    }
}

/// The way to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Reactor {
    commands: Option<Sender<Command>>,
    waker: Arc<Waker>,
    pub(super) counts: Arc<Counts>,
}

impl Reactor {
    /// Starts the thread for one server.
    pub(super) fn start(clock: Clock, server: Server) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let alarm = Alarm::new(poll.registry(), ALARM, clock.clone())?;
        let (commands, inbox) = channel();
        let counts = Arc::new(Counts::default());
        let sockets = Sockets::new(poll, clock, server, Arc::clone(&counts));
        std::thread::Builder::new()
            .name("sockets".into())
            .spawn(move || {
                take_short_turns();
                sockets.run(alarm, &inbox);
            })?;
        Ok(Self {
            commands: Some(commands),
            waker,
            counts,
        })
    }

    /// Hands a request over. A thread that has died drops it, and with it its stream.
    pub(super) fn send(&self, outgoing: Outgoing) {
        self.command(Command::Send(outgoing));
    }

    /// Makes connections ahead of their use, until so many are open.
    pub(super) fn warm(&self, connections: usize) {
        self.command(Command::Warm(connections));
    }

    fn command(&self, command: Command) {
        if let Some(commands) = &self.commands {
            drop(commands.send(command));
            self.wake();
        }
    }

    fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the thread of the sockets cannot be woken");
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.commands = None;
        self.wake();
    }
}

struct Sockets {
    poll: Poll,
    clock: Clock,
    stamper: Stamper,
    server: Server,
    counts: Arc<Counts>,
    connections: Slab<Connection>,
    /// Keys of connections without a request; the last one used is used first.
    idle: Vec<usize>,
    due: BinaryHeap<Reverse<Due>>,
    next_serial: u64,
    backlog: Backlog,
    /// How long the bytes of the last read had waited for it.
    late: Nanos,
    rest: Rest,
    /// Keys of connections that may still be made, or have something to write.
    unsettled: Vec<usize>,
    acks: Acks,
    /// What one read says, decrypted.
    plain: Vec<u8>,
    scratch: Vec<u8>,
    tend_next: usize,
    /// From when on some connections are looked after beside other things, and when at the latest.
    tend_at: Nanos,
    tend_by: Nanos,
}

/// By instant, then by the order in which they came.
struct Due(Nanos, u64, Outgoing);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

impl Sockets {
    fn new(poll: Poll, clock: Clock, server: Server, counts: Arc<Counts>) -> Self {
        Self {
            poll,
            stamper: Stamper::new(clock.clone()),
            clock,
            server,
            counts,
            connections: Slab::new(),
            idle: Vec::new(),
            due: BinaryHeap::new(),
            next_serial: 0,
            backlog: Backlog::default(),
            late: Nanos::ZERO,
            rest: Rest::default(),
            unsettled: Vec::new(),
            acks: Acks::default(),
            plain: Vec::new(),
            scratch: vec![0; 64 << 10],
            tend_next: 0,
            tend_at: Nanos::ZERO,
            tend_by: Nanos::ZERO,
        }
    }

    fn run(mut self, mut alarm: Alarm, inbox: &Receiver<Command>) {
        let mut events = Events::with_capacity(1024);
        loop {
            let rest = self.rest();
            if !self.take_commands(inbox, rest) {
                return;
            }
            let now = self.clock.now();
            self.send_due(now);
            let is_busy = self.backlog.is_due(now);
            // There is a time for it, or it is overdue.
            if !is_busy || now > self.tend_at.plus(TEND_EVERY) {
                self.tend(now);
            }
            let until = if is_busy {
                Some(now)
            } else {
                self.next_instant()
            };
            if let Err(error) = alarm.wait(&mut self.poll, &mut events, until) {
                tracing::error!(%error, "the sockets cannot be polled; the client stops");
                return;
            }
            if events.is_empty() {
                self.late = Nanos::ZERO;
            }
            for (done, ready) in events.iter().enumerate() {
                if let Some(key) = ready.token().0.checked_sub(FIRST_CONNECTION) {
                    self.ready(key, ready);
                }
                self.send_between(done);
            }
            let now = self.clock.now();
            if self.backlog.is_due(now) {
                let late = if self.wants_connections(now) {
                    Nanos::ZERO
                } else {
                    self.late
                };
                for done in 0..self.backlog.slice(late, now) {
                    self.parse_one();
                    self.send_between(done);
                }
            }
        }
    }

    /// How long to rest from here, if nobody asks for anything.
    fn rest(&mut self) -> Option<Nanos> {
        let connections = &self.connections;
        let is_unsettled = |key: &usize| {
            let connection = connections.get(*key);
            connection.is_some_and(|one| one.state != State::Open || one.link.is_behind())
        };
        // Whether or not there is a rest: the list is not to grow.
        self.unsettled.retain(is_unsettled);
        let now = self.clock.now();
        let until = self.next_instant();
        let rest = self.rest.length(now, until)?;
        (self.unsettled.is_empty() && !self.backlog.is_due(now)).then_some(rest)
    }

    /// Waits so long for the first. False when nobody is left who could ask for anything.
    fn take_commands(&mut self, inbox: &Receiver<Command>, rest: Option<Nanos>) -> bool {
        let mut next = match rest {
            Some(Nanos(rest_ns)) => match inbox.recv_timeout(Duration::from_nanos(rest_ns)) {
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
                Ok(command) => Ok(command),
            },
            None => inbox.try_recv(),
        };
        loop {
            match next {
                Ok(Command::Send(outgoing)) => {
                    let serial = self.serial();
                    self.due.push(Reverse(Due(outgoing.due, serial, outgoing)));
                }
                Ok(Command::Warm(wanted)) => self.warm(wanted),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
            next = inbox.try_recv();
        }
    }

    fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    fn next_instant(&self) -> Option<Nanos> {
        let due = self.due.peek().map(|Reverse(due)| due.0);
        let busy = self.connections.len() > self.idle.len();
        let tend = busy.then_some(self.tend_by);
        let parse = self.backlog.due_by();
        [due, tend, parse].into_iter().flatten().min()
    }

    /// A request that is due soon will need a connection which parsing may give back.
    fn wants_connections(&self, now: Nanos) -> bool {
        let soon = now.plus(SOON);
        self.idle.is_empty() && self.due.peek().is_some_and(|Reverse(due)| due.0 <= soon)
    }

    /// After each slice of other work: a request cannot be stamped by the kernel, and has to go out
    /// at its instant, or as soon as its connection has been made.
    fn send_between(&mut self, done: usize) {
        if done % WORK_SLICE == WORK_SLICE - 1 {
            self.settle();
            self.send_due(self.clock.now());
        }
    }

    /// Looks whether connections for which requests wait have been made. That they are ready to be
    /// written to is told only after all that came before.
    fn settle(&mut self) {
        let connections = &self.connections;
        let is_waited_for = |key: &usize| {
            let connection = connections.get(*key);
            connection.is_some_and(|one| one.state == State::Connecting && one.request.is_some())
        };
        let keys = self.unsettled.iter().copied().filter(is_waited_for);
        let keys: SmallVec<[usize; SETTLE_SLICE]> = keys.take(SETTLE_SLICE).collect();
        for key in keys {
            self.go_on_connecting(key);
        }
    }

    fn send_due(&mut self, now: Nanos) {
        for _ in 0..SEND_SLICE {
            if self.due.peek().is_none_or(|Reverse(due)| due.0 > now) {
                return;
            }
            let Some(Reverse(Due(_, _, outgoing))) = self.due.pop() else {
                return;
            };
            if !outgoing.events.is_closed() {
                self.start(outgoing);
            }
        }
    }

    /// Writes a request, on a kept connection or a new one.
    fn start(&mut self, outgoing: Outgoing) {
        let Outgoing {
            delivery,
            bytes,
            events,
            ..
        } = outgoing;
        let before = self.clock.now();
        let key = match self.idle.pop() {
            Some(key) => key,
            None => match self.connect() {
                Ok(key) => key,
                Err(error) => {
                    let failed = EventKind::Failed(self.connect_failure(&error));
                    for (at, kind) in [(before, EventKind::Sent), (self.clock.now(), failed)] {
                        drop(events.send(Event { at, kind }));
                    }
                    return;
                }
            },
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.link.put(bytes);
        // Making a connection counts; what is done here does not.
        let at = match connection.state {
            State::Open => self.clock.now(),
            State::Connecting | State::ShakingHands => before,
        };
        connection.begin(at, delivery, events);
        if connection.state == State::Open {
            connection.link.write();
            if connection.link.is_behind() {
                self.unsettled.push(key);
            }
        }
    }

    fn connect(&mut self) -> io::Result<usize> {
        let mut link = self.server.connect()?;
        let serial = self.serial();
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let token = Token(key + FIRST_CONNECTION);
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut link.stream, token, both)?;
        entry.insert(Connection::new(link, serial, self.clock.now()));
        self.unsettled.push(key);
        Ok(key)
    }

    fn connect_failure(&self, error: &io::Error) -> Failure {
        let message = format!("{}: {error}", self.server.address);
        Failure::new(FailureCause::Connect, message)
    }

    fn ready(&mut self, key: usize, ready: &Readiness) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.state == State::Connecting {
            if !self.go_on_connecting(key) {
                return;
            }
        } else if ready.is_writable() {
            connection.link.write();
        }
        if ready.is_readable() || ready.is_read_closed() || ready.is_error() {
            self.read(key, ready.is_read_closed() || ready.is_error());
        }
    }

    /// True when a connection has been made.
    fn go_on_connecting(&mut self, key: usize) -> bool {
        let connection = self.connections.get_mut(key);
        // A key that was used again may be listed twice.
        let Some(connection) = connection.filter(|one| one.state == State::Connecting) else {
            return false;
        };
        match connection.link.is_connected() {
            Ok(true) => self.connected(key),
            Ok(false) => return false,
            Err(error) => {
                self.refused(key, &error);
                return false;
            }
        }
        true
    }

    fn connected(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.link.is_sealed() {
            connection.state = State::ShakingHands;
            connection.link.write();
        } else {
            self.opened(key);
        }
    }

    /// A connection can be used.
    fn opened(&mut self, key: usize) {
        let open = self.connections.len() as u64;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.state = State::Open;
        self.counts.made.fetch_add(1, Ordering::Relaxed);
        self.counts.peak.fetch_max(open, Ordering::Relaxed);
        if connection.request.is_some() {
            connection.link.write();
        } else {
            self.counts.ahead.fetch_add(1, Ordering::Relaxed);
            self.idle.push(key);
        }
    }

    fn refused(&mut self, key: usize, error: &io::Error) {
        let at = self.clock.now();
        let failure = self.connect_failure(error);
        if let Some(mut request) = self.remove(key).and_then(|connection| connection.request) {
            request.fail(at, failure);
        }
    }

    /// Reads until the socket is empty, each time with the instant of what came.
    fn read(&mut self, key: usize, to_the_end: bool) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.request.is_none() && !connection.link.is_sealed() {
            // Nothing was asked on it, so this is its end; TLS has things of its own to say.
            drop(self.remove(key));
            return;
        }
        loop {
            let Some(connection) = self.connections.get_mut(key) else {
                return;
            };
            let (socket, last) = (&connection.link.stream, connection.last);
            let (stamper, into) = (&mut self.stamper, &mut self.scratch);
            if self.rest.is_worth_it() {
                let (serial, reads) = (connection.serial, connection.reads);
                let changed = self.acks.before_read(serial, reads, &self.clock, socket);
                self.counts.acks(changed);
            }
            connection.reads += 1;
            let read = if self.late > LATE && !connection.link.is_sealed() {
                apart::read(stamper, socket, into, last)
            } else {
                let read = stamper.read(socket, into, last);
                read.map(|came| (Firsts::new(), came))
            };
            let (firsts, at, mut what) = match read {
                Ok((firsts, Came { bytes: 0, at, .. })) => (firsts, at, ReadResult::End(None)),
                Ok((firsts, Came { bytes, at, waited })) => {
                    self.counts.read(waited);
                    self.rest.read(waited);
                    self.late = waited.unwrap_or_default();
                    let bytes = self.backlog.keep(&self.scratch[..bytes]);
                    (firsts, at, ReadResult::Bytes(bytes))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let end = ReadResult::End(Some(error));
                    (Firsts::new(), self.clock.now(), end)
                }
            };
            connection.last = at;
            if connection.request.is_none() && matches!(what, ReadResult::End(_)) {
                drop(self.remove(key));
                return;
            }
            // A short read leaves nothing behind, unless the end is waiting there.
            let mut more = false;
            if let ReadResult::Bytes(bytes) = &mut what {
                if self.rest.is_worth_it() {
                    let (serial, socket) = (connection.serial, &connection.link.stream);
                    let changed = self.acks.after_read(serial, connection.reads, at, socket);
                    self.counts.acks(changed);
                }
                more = to_the_end || bytes.len() == self.scratch.len();
                let all = bytes.len();
                for (end, at) in firsts {
                    let taken = all - bytes.len();
                    let first = bytes.split_to(end - taken);
                    self.put_aside(key, at, ReadResult::Bytes(first));
                }
            }
            self.put_aside(key, at, what);
            if !more {
                return;
            }
        }
    }

    fn put_aside(&mut self, key: usize, at: Nanos, what: ReadResult) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.unparsed += 1;
        self.backlog.push(Unparsed {
            key,
            serial: connection.serial,
            at,
            is_urgent: connection.is_urgent(&what),
            what,
        });
    }

    fn parse_one(&mut self) {
        let Some(next) = self.backlog.pop() else {
            return;
        };
        let Unparsed {
            key,
            serial,
            at,
            what,
            ..
        } = next;
        let connection = self.connections.get_mut(key);
        if let Some(connection) = connection.filter(|connection| connection.serial == serial) {
            connection.unparsed -= 1;
            let then = match what {
                ReadResult::Bytes(sealed) if connection.link.is_sealed() => {
                    self.plain.clear();
                    let name = self
                        .server
                        .tls
                        .as_ref()
                        .map_or("", |(_, name)| name.as_str());
                    connection.take_sealed(at, &sealed, &mut self.plain, name)
                }
                ReadResult::Bytes(bytes) => connection.take(at, &bytes),
                ReadResult::End(None) if connection.link.is_sealed() => {
                    // TLS has an end of its own; without it something may be missing.
                    let message = "the server closed the connection without ending TLS";
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, message);
                    connection.end(at, Some(&error))
                }
                ReadResult::End(error) => connection.end(at, error.as_ref()),
            };
            let shook = connection.state == State::ShakingHands;
            let opens = shook && !connection.link.is_shaking_hands();
            match then {
                Then::Read if opens => self.opened(key),
                Then::Read => {}
                // What has come since can only be its end.
                Then::Keep if connection.unparsed == 0 => {
                    self.idle.push(key);
                }
                Then::Keep | Then::Close => drop(self.remove(key)),
            }
        }
    }

    fn remove(&mut self, key: usize) -> Option<Connection> {
        let mut connection = self.connections.try_remove(key)?;
        if connection.request.is_none() {
            self.idle.retain(|&idle| idle != key);
        }
        let registry = self.poll.registry();
        drop(registry.deregister(&mut connection.link.stream));
        Some(connection)
    }

    /// Looks after some of the connections.
    fn tend(&mut self, now: Nanos) {
        if now < self.tend_at {
            return;
        }
        let slots = self.connections.capacity().max(1);
        for _ in 0..TEND_SLICE.min(slots) {
            self.tend_next = (self.tend_next + 1) % slots;
            let connection = self.connections.get_mut(self.tend_next);
            let request = connection.and_then(|connection| connection.request.as_mut());
            if request.is_some_and(|request| request.is_over(now)) {
                drop(self.remove(self.tend_next));
            }
        }
        let rounds = slots.div_ceil(TEND_SLICE) as u64;
        let interval = TEND_EVERY.0 / rounds;
        self.tend_at = now.plus(Nanos(interval));
        self.tend_by = now.plus(Nanos(2 * interval));
    }

    /// Makes connections until `wanted` are open.
    fn warm(&mut self, wanted: usize) {
        for _ in self.connections.len()..wanted {
            if let Err(error) = self.connect() {
                // Those that are missing are made when they are needed, and fail then.
                tracing::warn!(%error, "a connection could not be made ahead of use");
                return;
            }
        }
    }
}

// Elsewhere a connection to the same machine may take a moment.
#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    /// Sockets for a server, and the server.
    fn sockets() -> (Sockets, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = Server {
            address: listener.local_addr().expect("it is bound"),
            tls: None,
        };
        let poll = Poll::new().expect("it can be polled");
        let sockets = Sockets::new(poll, Clock::wall(), server, Arc::default());
        (sockets, listener)
    }

    /// Starts a request; its events.
    fn ask(sockets: &mut Sockets) -> mpsc::UnboundedReceiver<Event> {
        let (events, received) = mpsc::unbounded_channel();
        sockets.start(Outgoing {
            due: Nanos::ZERO,
            delivery: Delivery::Lazy,
            bytes: REQUEST.to_vec(),
            events,
        });
        received
    }

    fn open(sockets: &Sockets) -> usize {
        let states = sockets.connections.iter().map(|(_, one)| one.state);
        states.filter(|&state| state == State::Open).count()
    }

    #[test]
    fn a_request_goes_out_once_its_connection_is_made_without_a_look_at_all_sockets() {
        let (mut sockets, listener) = sockets();
        for _ in 0..=SETTLE_SLICE {
            ask(&mut sockets);
        }
        sockets.warm(SETTLE_SLICE + 3);
        assert_eq!(open(&sockets), 0);
        for done in 0..WORK_SLICE - 1 {
            sockets.send_between(done);
        }
        assert_eq!(open(&sockets), 0, "not in the midst of a slice");
        sockets.send_between(WORK_SLICE - 1);
        assert_eq!(open(&sockets), SETTLE_SLICE, "so many at a time");
        let waits = sockets.unsettled[SETTLE_SLICE];
        sockets.unsettled.push(waits);
        sockets.settle();
        let wanted = SETTLE_SLICE + 1;
        assert_eq!(open(&sockets), wanted, "none that nobody waits for");
        let made = sockets.counts.made.load(Ordering::Relaxed);
        assert_eq!(made, wanted as u64, "each once, though one is listed twice");
        let (mut first, _) = listener.accept().expect("a connection");
        let mut request = [0; REQUEST.len()];
        first.read_exact(&mut request).expect("a whole request");
        assert_eq!(request, REQUEST);
    }

    #[test]
    fn a_connection_that_is_refused_is_given_up() {
        let (mut sockets, listener) = sockets();
        drop(listener);
        let mut received = ask(&mut sockets);
        sockets.settle();
        assert!(sockets.connections.is_empty());
        let kinds = std::iter::from_fn(|| received.try_recv().ok()).map(|event| event.kind);
        let failed = kinds.last();
        let is_refused = |failure: &Failure| failure.cause == FailureCause::Connect;
        assert!(
            matches!(&failed, Some(EventKind::Failed(failure)) if is_refused(failure)),
            "{failed:?}"
        );
    }
}
