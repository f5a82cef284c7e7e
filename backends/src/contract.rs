//! The request-level seam: what a backend is asked, and what it answers.
//!
//! Invariant: a stream carries at most one [`EventKind::Sent`], then at most one
//! [`EventKind::Admitted`], then content and events without any, then exactly one
//! [`EventKind::Finished`] or [`EventKind::Failed`]; instants never decrease. A stream that ends
//! without its last event means that the backend died, and the reader must count it as failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use compact_str::CompactString;
use models::{Message, SamplingParams};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::clock::{Clock, Nanos};
use crate::engine::StepTimes;
use crate::http::MetricsPage;

/// Anything that turns a prompt into a stream of timed tokens.
pub trait Backend: Send + Sync {
    /// What is under test; copied into the report. Called once, before the run.
    fn describe(&self) -> SystemInfo;
    /// The clock its events are stamped with. The harness runs on this clock.
    fn clock(&self) -> &Clock;
    /// Starts a request. Never blocks and never fails: every failure is an event. Dropping the
    /// stream cancels the request.
    fn submit(&self, request: Request) -> TokenStream;
    /// How long before its instant a request may be handed over with [`Backend::submit_at`]. One
    /// that says zero takes requests at their instants, and leaves the waiting to the caller.
    fn lead(&self) -> Nanos {
        Nanos::ZERO
    }
    /// How long after its instant an event may be handed over at most.
    fn delivery_delay(&self) -> Nanos {
        Nanos::ZERO
    }
    /// Starts a request at its instant, which is up to [`Backend::lead`] ahead.
    fn submit_at(&self, request: Request, _: Ticket) -> TokenStream {
        self.submit(request)
    }
    /// So many requests at once are likely; called before a run.
    fn prepare(&self, _: usize) {}
    /// What it reads of a prompt; the rest need not be made.
    fn reads(&self) -> PromptForm {
        PromptForm::Tokens
    }
    /// For live progress, a few times a second.
    fn gauges(&self) -> Gauges {
        Gauges::default()
    }
    /// Where a server tells about itself, for servers; by default beside its API.
    fn metrics_page(&self) -> Option<MetricsPage> {
        None
    }
    /// Where the device's time went so far, for engines of ours.
    fn step_times(&self) -> Option<StepTimes> {
        None
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is to be answered.
    pub prompt: Prompt,
    /// Output tokens at most; exactly, with `ignore_eos`.
    pub max_tokens: u32,
    /// Go on past the end-of-sequence token.
    pub ignore_eos: bool,
    /// Output tokens before which no end-of-sequence token is drawn.
    pub min_tokens: u32,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
}

/// What a request is to its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Its number; servers are told, so that their logs can be held against the records.
    pub id: u64,
    /// It is sent at this instant, or as soon as possible after it.
    pub due: Nanos,
    /// How soon its events are wanted.
    pub delivery: Delivery,
}

/// How soon events are wanted. Their instants are the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As they come: somebody acts on them.
    AtOnce,
    /// When it costs least, within [`Backend::delivery_delay`].
    Lazy,
}

/// Which form of a prompt is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// The tokens, by an engine in this process.
    Tokens,
    /// The messages, by a server.
    Messages,
}

/// A prompt in both forms, or in the one that is read.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Token ids after the chat template; none where only the messages are read.
    pub tokens: Arc<[u32]>,
    /// The conversation.
    pub messages: Arc<[Message]>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct TokenStream(mpsc::UnboundedReceiver<Event>);

impl TokenStream {
    /// A stream and its sending end.
    pub fn channel() -> (mpsc::UnboundedSender<Event>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }

    /// Waits for an event and adds it to `events`, with all others that are there; none after the
    /// last.
    pub async fn next_all(&mut self, events: &mut Vec<Event>) {
        self.0.recv_many(events, usize::MAX).await;
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }

    /// The same, for a reader that is polled itself.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

/// Something happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When: after the socket read or the device step, before any parsing.
    pub at: Nanos,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// The first byte is about to be handed to the transport (in-process: to the engine).
    Sent,
    /// The engine took the request from its queue.
    Admitted {
        /// Prompt tokens found in the prefix cache.
        cached_tokens: u32,
    },
    /// One output token of an engine in this process.
    Token(u32),
    /// One content event of a server.
    Text {
        /// Content, reasoning or tool text.
        text: CompactString,
        /// It came with the same read as the content before it.
        coalesced: bool,
    },
    /// An event of a server that carried a choice without output: a role alone, a finish reason.
    Bare,
    /// An event of a server that carried its token counts and no choice.
    UsageOnly,
    /// The answer is complete.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// The backend's own token counts, if it gives them.
        usage: Option<Usage>,
    },
    /// The request failed.
    Failed(Failure),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End-of-sequence token or stop string.
    Stop,
    /// `max_tokens` or the context limit.
    Length,
    /// Anything else a server may say.
    Other,
}

/// Token counts of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Of these, found in a prefix cache, if told.
    pub cached_tokens: Option<u64>,
    /// Output tokens.
    pub output_tokens: u64,
}

/// A failed request. Failures are data: they are counted by cause and never end a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class it is counted under.
    pub cause: FailureCause,
    /// In words.
    pub message: String,
}

impl Failure {
    /// A failure and its description.
    pub fn new(cause: FailureCause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
        }
    }
}

/// The closed set of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureCause {
    /// No connection could be made.
    Connect,
    /// Not finished in time.
    Timeout,
    /// A status other than 200.
    HttpStatus(u16),
    /// The connection broke in mid-stream.
    Reset,
    /// The stream ended without a finish.
    Truncated,
    /// Not valid SSE, JSON or UTF-8.
    BadStream,
    /// Refused by an admission limit.
    Rejected,
    /// The engine failed.
    Engine,
}

/// What is under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemInfo {
    /// `engine`, `simulated` or `http`.
    pub kind: String,
    /// Device in words.
    pub device: String,
    /// Details that differ by backend.
    pub details: BTreeMap<String, String>,
}

/// What a backend can tell about itself while it runs. Unknown is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Requests submitted that have not had their last event; exact at every instant.
    pub in_flight: Option<u32>,
    /// Requests waiting for admission.
    pub waiting: Option<u32>,
    /// Sequences in the batch.
    pub running: Option<u32>,
    /// KV blocks in use.
    pub used_blocks: Option<u32>,
    /// KV blocks in all.
    pub total_blocks: Option<u32>,
    /// Preemptions so far.
    pub preemptions: Option<u64>,
}
