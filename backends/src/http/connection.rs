//! One connection, its request, and what has come of it.
//!
//! Events are handed over when an answer ends, and now and then before, since waking the readers
//! for every token would take the processor from the sockets; instants are in the events.
//!
//! Invariants: every request ends in exactly one last event, or its stream was dropped; a
//! connection is never shared by two requests at a time. It takes no time itself.

use std::io;

use tokio::sync::mpsc;

use crate::clock::Nanos;
use crate::contract::{Delivery, Event, EventKind, Failure, FailureCause};

use super::answer::{AnswerReader, Connection as Then};
use super::backlog::{self, ReadResult};
use super::link::Link;
use super::tls;

/// Events that are not wanted at once wait so long to be handed over, while their stream goes on.
pub(super) const HOLD: Nanos = Nanos(2_000_000_000);
/// Events of an answer that there is room for at first.
const HELD: usize = 64;
/// How long the end of a body may take after the mark of the end.
const PATIENCE: Nanos = Nanos(1_000_000_000);

pub(super) struct Connection {
    pub(super) link: Link,
    /// Tells it from others that had its key before.
    pub(super) serial: u64,
    pub(super) state: State,
    pub(super) request: Option<InFlight>,
    /// Its reads that are not parsed yet.
    pub(super) unparsed: u32,
    /// Its reads since its request was sent.
    pub(super) reads: u32,
    /// When the last bytes came, or the last request was sent.
    pub(super) last: Nanos,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Connecting,
    /// The handshake of TLS goes on.
    ShakingHands,
    /// It can carry a request.
    Open,
}

/// A request and what has come of it.
pub(super) struct InFlight {
    answer: AnswerReader,
    events: mpsc::UnboundedSender<Event>,
    held: Vec<Event>,
    delivery: Delivery,
    /// When the oldest event in `held` came, or the last one of all.
    since: Nanos,
}

impl Connection {
    /// One that is being made.
    pub(super) fn new(link: Link, serial: u64, now: Nanos) -> Self {
        Self {
            link,
            serial,
            state: State::Connecting,
            request: None,
            unparsed: 0,
            reads: 0,
            last: now,
        }
    }

    /// Gives it a request, which began at this instant.
    pub(super) fn begin(
        &mut self,
        at: Nanos,
        delivery: Delivery,
        events: mpsc::UnboundedSender<Event>,
    ) {
        let mut held = Vec::with_capacity(HELD);
        held.push(Event {
            at,
            kind: EventKind::Sent,
        });
        self.last = at;
        self.reads = 0;
        self.request = Some(InFlight {
            answer: AnswerReader::default(),
            events,
            held,
            delivery,
            since: at,
        });
    }

    /// Somebody may wait for what this read says.
    pub(super) fn is_urgent(&self, what: &ReadResult) -> bool {
        let is_lazy = |request: &InFlight| {
            request.delivery == Delivery::Lazy && request.answer.is_among_events()
        };
        match what {
            ReadResult::Bytes(bytes)
                if !self.link.is_sealed() && self.request.as_ref().is_some_and(is_lazy) =>
            {
                backlog::may_be_last(bytes)
            }
            _ => true,
        }
    }

    /// Takes a read of TLS.
    pub(super) fn take_sealed(
        &mut self,
        at: Nanos,
        sealed: &[u8],
        plain: &mut Vec<u8>,
        name: &str,
    ) -> Then {
        let unsealed = self.link.unseal(sealed, plain);
        // What came before the end, or before a fault, counts.
        let then = if plain.is_empty() {
            Then::Read
        } else {
            self.take(at, plain)
        };
        match unsealed {
            Ok(false) => then,
            _ if then != Then::Read => Then::Close,
            Ok(true) => self.end(at, None),
            Err(error) => {
                let failure = Failure::new(FailureCause::Connect, tls::words(&error, name));
                if let Some(request) = &mut self.request {
                    request.fail(at, failure);
                }
                Then::Close
            }
        }
    }

    /// Takes a read.
    pub(super) fn take(&mut self, at: Nanos, bytes: &[u8]) -> Then {
        let Some(request) = &mut self.request else {
            // Nothing was asked.
            return Then::Close;
        };
        if request.held.is_empty() {
            request.since = at;
        }
        let then = request.answer.read(at, bytes, &mut request.held);
        let wanted = match then {
            Then::Read if !request.answer.has_ended() => {
                let waits = request.delivery == Delivery::Lazy && at.since(request.since) < HOLD;
                waits || request.hand_over()
            }
            Then::Read | Then::Keep | Then::Close => request.hand_over(),
        };
        if !wanted {
            return Then::Close;
        }
        if request.answer.has_ended() {
            request.since = at;
        }
        if then == Then::Keep {
            self.request = None;
            // A server that answers before it has read all cannot be asked again.
            if self.link.is_behind() {
                return Then::Close;
            }
        }
        then
    }

    pub(super) fn end(&mut self, at: Nanos, error: Option<&io::Error>) -> Then {
        if let Some(request) = &mut self.request {
            request.answer.close(at, error, &mut request.held);
            request.hand_over();
        }
        Then::Close
    }
}

impl InFlight {
    /// Its last event: it has failed.
    pub(super) fn fail(&mut self, at: Nanos, failure: Failure) {
        let kind = EventKind::Failed(failure);
        self.held.push(Event { at, kind });
        self.hand_over();
    }

    /// Hands the events over; false when nobody wants them any more, though the answer goes on.
    pub(super) fn hand_over(&mut self) -> bool {
        for event in self.held.drain(..) {
            if self.events.send(event).is_err() {
                return self.answer.has_ended();
            }
        }
        true
    }

    /// Dropped by its reader, or without an end of its body for too long.
    pub(super) fn is_over(&mut self, now: Nanos) -> bool {
        if self.answer.has_ended() {
            return now.since(self.since) > PATIENCE;
        }
        if self.events.is_closed() {
            return true;
        }
        if now.since(self.since) >= HOLD && !self.held.is_empty() {
            self.hand_over();
        }
        false
    }
}
