//! One request's answer: from the engine's tokens to pieces of text that can be sent.
//!
//! Invariant: the pieces, put together, are the decoding of the tokens up to the end or the first
//! stop string; no piece ends inside a character. Dropping an answer that has not ended cancels its
//! request. Nothing is gathered ahead of the reader but the engine's own events, of which there are
//! no more than tokens were asked for; so a slow reader costs a bounded amount of memory, and the
//! engine never waits for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use backends::{EventKind, Failure, FailureCause, FinishReason, Nanos, TokenStream, Usage};
use models::Detokenizer;

use super::metrics::{Metrics, seconds_between};
use super::stop::Stops;

/// The next part of an answer.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    /// The engine took the request up.
    Started,
    /// Text of one token or more; never empty.
    Text(String),
    /// The answer is complete.
    Ended(FinishReason),
    /// It will not be.
    Failed(Failure),
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    /// `None` once the last event was read or nobody wants it any more.
    stream: Option<TokenStream>,
    /// `None` once its last bytes were taken.
    detokenizer: Option<Detokenizer>,
    stops: Stops,
    /// Stop strings do not count before this many tokens.
    min_tokens: u32,
    usage: Usage,
    sent: Nanos,
    first: Option<Nanos>,
    last: Nanos,
    /// What comes after the text that was given last.
    ending: Option<Piece>,
    metrics: Arc<Metrics>,
}

/// What an answer needs beside its stream.
#[derive(Debug)]
pub(super) struct AnswerParts {
    pub(super) detokenizer: Detokenizer,
    pub(super) stops: Vec<String>,
    pub(super) min_tokens: u32,
    pub(super) input_tokens: u64,
}

impl Answer {
    pub(super) fn new(stream: TokenStream, parts: AnswerParts, metrics: Arc<Metrics>) -> Self {
        Self {
            stream: Some(stream),
            detokenizer: Some(parts.detokenizer),
            stops: Stops::new(parts.stops),
            min_tokens: parts.min_tokens,
            usage: Usage {
                input_tokens: parts.input_tokens,
                cached_tokens: None,
                output_tokens: 0,
            },
            sent: Nanos::ZERO,
            first: None,
            last: Nanos::ZERO,
            ending: None,
            metrics,
        }
    }

    /// Tokens so far.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// The next piece; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Piece> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The same, for a reader that is polled itself.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        loop {
            if let Some(ending) = self.ending.take() {
                return Poll::Ready(Some(ending));
            }
            let Some(stream) = &mut self.stream else {
                return Poll::Ready(None);
            };
            let Poll::Ready(event) = stream.poll_next(context) else {
                return Poll::Pending;
            };
            let stopped = || Failure::new(FailureCause::Engine, "the engine has stopped");
            let piece = match event {
                Some(event) => self.take(event.kind, event.at),
                None => Some(self.fail(stopped())),
            };
            if let Some(piece) = piece {
                return Poll::Ready(Some(piece));
            }
        }
    }

    fn take(&mut self, event: EventKind, at: Nanos) -> Option<Piece> {
        match event {
            EventKind::Sent => {
                self.sent = at;
                None
            }
            EventKind::Admitted { cached_tokens } => {
                self.usage.cached_tokens = Some(u64::from(cached_tokens));
                self.metrics.queue_s.observe(seconds_between(self.sent, at));
                self.metrics.prefix_queries.inc_by(self.usage.input_tokens);
                self.metrics.prefix_hits.inc_by(u64::from(cached_tokens));
                Some(Piece::Started)
            }
            EventKind::Token(token) => {
                self.count(at);
                let text = self.detokenizer.as_mut()?.push(token)?;
                self.say(&text)
            }
            EventKind::Text { text, .. } => {
                self.count(at);
                self.say(&text)
            }
            EventKind::Finished { reason, .. } => {
                let rest = self
                    .detokenizer
                    .take()
                    .map_or_else(String::new, Detokenizer::finish);
                let mut decided = self.stops.push(&rest);
                if decided.stopped {
                    self.end(FinishReason::Stop);
                } else {
                    decided.text += &self.stops.finish();
                    self.end(reason);
                }
                self.with_ending(decided.text)
            }
            EventKind::Failed(failure) => Some(self.fail(failure)),
            // of servers only
            EventKind::Bare | EventKind::UsageOnly => None,
        }
    }

    fn say(&mut self, text: &str) -> Option<Piece> {
        if self.usage.output_tokens < u64::from(self.min_tokens) {
            let text = self.stops.pass(text);
            return (!text.is_empty()).then_some(Piece::Text(text));
        }
        let decided = self.stops.push(text);
        if decided.stopped {
            self.end(FinishReason::Stop);
        }
        self.with_ending(decided.text)
    }

    /// The text if there is any, else what follows it.
    fn with_ending(&mut self, text: String) -> Option<Piece> {
        if text.is_empty() {
            self.ending.take()
        } else {
            Some(Piece::Text(text))
        }
    }

    fn count(&mut self, at: Nanos) {
        self.usage.output_tokens += 1;
        self.metrics.generation_tokens.inc();
        if self.first.is_none() {
            self.first = Some(at);
            self.metrics.prompt_tokens.inc_by(self.usage.input_tokens);
            self.metrics.ttft_s.observe(seconds_between(self.sent, at));
        } else {
            self.metrics.itl_s.observe(seconds_between(self.last, at));
        }
        self.last = at;
    }

    /// Complete: by the engine's word, or because a stop string came.
    fn end(&mut self, reason: FinishReason) {
        self.stream = None;
        self.ending = Some(Piece::Ended(reason));
        let metrics = &self.metrics;
        metrics.finished(reason);
        metrics.e2e_s.observe(seconds_between(self.sent, self.last));
        metrics.input_length.observe(self.usage.input_tokens as f64);
        metrics
            .output_length
            .observe(self.usage.output_tokens as f64);
        if let (Some(first), 2..) = (self.first, self.usage.output_tokens) {
            let gaps = (self.usage.output_tokens - 1) as f64;
            metrics
                .tpot_s
                .observe(seconds_between(first, self.last) / gaps);
        }
    }

    fn fail(&mut self, failure: Failure) -> Piece {
        self.stream = None;
        Piece::Failed(failure)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        // The engine has worked for these, whether or not anyone has read them.
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(event)) = stream.poll_next(&mut context) {
            if matches!(event.kind, EventKind::Token(_) | EventKind::Text { .. }) {
                self.count(event.at);
            }
        }
        self.metrics.aborted();
    }
}
