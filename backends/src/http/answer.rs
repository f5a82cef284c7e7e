//! What a server's answer to one streamed completion says, from its bytes.
//!
//! Invariant: the events do not depend on how the bytes were split into reads, but for instants
//! and for which content shared a read (property-tested over recorded streams of eight servers).
//! Every instant is the caller's, that of the read. It does no input or output and knows no time.

use std::io;

use crate::clock::Nanos;
use crate::contract::{Event, EventKind, Failure, FailureCause, FinishReason, Usage};

use super::openai;
use super::sse::SseReader;
use super::wire::{Head, Part, WireReader};

/// So much of an error's body is kept.
const ERROR_BYTES: usize = 16 << 10;
/// No event is longer.
const EVENT_LIMIT: usize = 16 << 20;

/// Reads one answer.
#[derive(Debug, Default)]
pub struct AnswerReader {
    wire: WireReader,
    content: Content,
}

/// What the caller does with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Reads on.
    Read,
    /// Keeps it for another request.
    Keep,
    /// Closes it.
    Close,
}

#[derive(Debug, Default)]
struct Content {
    body: Body,
    sse: SseReader,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    /// Content has come with the present read already.
    shares_read: bool,
    /// The last event is out.
    has_ended: bool,
}

/// What the body is, by the head.
#[derive(Debug, Default)]
enum Body {
    #[default]
    Unknown,
    Events,
    /// A status other than 200, and the beginning of what it says.
    Refusal {
        status: u16,
        reason: String,
        text: Vec<u8>,
    },
}

impl AnswerReader {
    /// Takes the bytes of one read at `at` and adds what they say to `events`.
    pub fn read(&mut self, at: Nanos, bytes: &[u8], events: &mut Vec<Event>) -> Connection {
        let content = &mut self.content;
        content.shares_read = false;
        let read = self.wire.read(bytes, |part| content.take(at, part, events));
        if let Err(error) = read {
            content.fail(at, FailureCause::BadStream, error.to_string(), events);
            return Connection::Close;
        }
        if self.wire.is_reusable() {
            Connection::Keep
        } else if content.has_ended && (content.is_broken() || self.wire.close()) {
            Connection::Close
        } else {
            Connection::Read
        }
    }

    /// The connection has ended, properly or with an error.
    pub fn close(&mut self, at: Nanos, error: Option<&io::Error>, events: &mut Vec<Event>) {
        if self.content.has_ended {
            return;
        }
        if error.is_none() && self.wire.close() {
            self.content.end_of_body(at, events);
            return;
        }
        let message = match error {
            Some(error) => error.to_string(),
            None if self.wire.is_untouched() => {
                "the server closed the connection without an answer".into()
            }
            None => "the server closed the connection in mid-answer".into(),
        };
        self.content.fail(at, FailureCause::Reset, message, events);
    }

    /// It is a stream of events, and the last one is not out.
    pub(super) fn is_among_events(&self) -> bool {
        !self.content.has_ended && matches!(self.content.body, Body::Events)
    }

    /// The last event is out; what may still come is the end of the body.
    pub fn has_ended(&self) -> bool {
        self.content.has_ended
    }
}

impl Content {
    fn take(&mut self, at: Nanos, part: Part<'_>, events: &mut Vec<Event>) {
        match part {
            Part::Head(head) => self.head(at, head, events),
            Part::Body(bytes) => self.bytes(at, bytes, events),
            Part::End => self.end_of_body(at, events),
        }
    }

    fn head(&mut self, at: Nanos, head: Head, events: &mut Vec<Event>) {
        let is_stream = head
            .content_type
            .as_ref()
            .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/event-stream"));
        if head.status != 200 {
            self.body = Body::Refusal {
                status: head.status,
                reason: head.reason,
                text: Vec::new(),
            };
        } else if is_stream {
            self.body = Body::Events;
        } else {
            let kind = head.content_type.as_deref().unwrap_or("none");
            let message = format!("expected content type `text/event-stream`, got `{kind}`");
            self.fail(at, FailureCause::BadStream, message, events);
        }
    }

    fn bytes(&mut self, at: Nanos, bytes: &[u8], events: &mut Vec<Event>) {
        if self.has_ended {
            return;
        }
        if let Body::Refusal { text, .. } = &mut self.body {
            let room = ERROR_BYTES - text.len();
            text.extend_from_slice(&bytes[..bytes.len().min(room)]);
            return;
        }
        let mut sse = std::mem::take(&mut self.sse);
        sse.read(bytes, |data| self.event(at, data, events));
        if sse.pending() > EVENT_LIMIT {
            let message = format!("an event is longer than {EVENT_LIMIT} bytes");
            self.fail(at, FailureCause::BadStream, message, events);
        }
        self.sse = sse;
    }

    fn event(&mut self, at: Nanos, data: &[u8], events: &mut Vec<Event>) {
        if self.has_ended {
            return;
        }
        let data = data.trim_ascii();
        if data.is_empty() {
            return;
        }
        if data == b"[DONE]" {
            self.finish(at, events);
            return;
        }
        let chunk = match openai::parse_chunk(data) {
            Ok(chunk) => chunk,
            Err(error) => {
                let shown = String::from_utf8_lossy(&data[..data.len().min(120)]).into_owned();
                let message = format!("{error} in `{shown}`");
                self.fail(at, FailureCause::BadStream, message, events);
                return;
            }
        };
        if let Some(message) = chunk.error {
            self.fail(at, FailureCause::Engine, message, events);
            return;
        }
        self.finish = self.finish.or(chunk.finish);
        // Some servers count along in every chunk; the last count is the whole.
        self.usage = chunk.usage.or(self.usage);
        if !chunk.text.is_empty() {
            let coalesced = std::mem::replace(&mut self.shares_read, true);
            let kind = EventKind::Text {
                text: chunk.text,
                coalesced,
            };
            events.push(Event { at, kind });
        } else if chunk.has_choice {
            let kind = EventKind::Bare;
            events.push(Event { at, kind });
        } else if chunk.usage.is_some() {
            let kind = EventKind::UsageOnly;
            events.push(Event { at, kind });
        }
    }

    /// The body is over; a stream may end so, without the mark of its end.
    fn end_of_body(&mut self, at: Nanos, events: &mut Vec<Event>) {
        if self.has_ended {
            return;
        }
        if let Body::Refusal {
            status,
            reason,
            text,
        } = &self.body
        {
            let text = String::from_utf8_lossy(text);
            let message = format!("{status} {reason}: {}", text.trim());
            let cause = FailureCause::HttpStatus(*status);
            self.fail(at, cause, message, events);
        } else {
            self.finish(at, events);
        }
    }

    fn finish(&mut self, at: Nanos, events: &mut Vec<Event>) {
        let message = match self.finish {
            Some(reason) => {
                self.has_ended = true;
                let usage = self.usage;
                let kind = EventKind::Finished { reason, usage };
                events.push(Event { at, kind });
                return;
            }
            None if self.sse.pending() > 0 => "the stream ended within an event",
            None => "the stream ended without a finish reason",
        };
        self.fail(at, FailureCause::Truncated, message.into(), events);
    }

    fn fail(&mut self, at: Nanos, cause: FailureCause, message: String, events: &mut Vec<Event>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let kind = EventKind::Failed(Failure::new(cause, message));
        events.push(Event { at, kind });
    }

    /// It failed in a way that leaves no use for the rest of the body.
    fn is_broken(&self) -> bool {
        self.finish.is_none() && matches!(self.body, Body::Events | Body::Unknown)
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
