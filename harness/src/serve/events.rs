//! The body of a streamed answer: one server-sent event for each piece, made when it is asked for.
//!
//! Invariant: a stream ends with `data: [DONE]`, after an end for each choice, or after an error.
//! Nothing is made ahead of the reader: while the connection takes no more, no event is formed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::Value;

use super::answer::{Answer, Piece};
use super::ask::{Endpoint, StreamOptions};
use super::error::ApiError;
use super::wire::{self, Head, Said};

/// Answers to one request, as events.
#[derive(Debug)]
pub(super) struct EventStream {
    head: Head,
    options: StreamOptions,
    answers: Vec<Answer>,
    ended: Vec<bool>,
    /// Whose turn it is, so that no choice waits for another.
    turn: usize,
    ready: VecDeque<Vec<u8>>,
    done: bool,
}

impl EventStream {
    pub(super) fn new(head: Head, options: StreamOptions, answers: Vec<Answer>) -> Self {
        Self {
            head,
            options,
            ended: vec![false; answers.len()],
            answers,
            turn: 0,
            ready: VecDeque::new(),
            done: false,
        }
    }

    /// The next piece of any choice.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<(usize, Piece)> {
        let count = self.answers.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if self.ended[index] {
                continue;
            }
            if let Poll::Ready(Some(piece)) = self.answers[index].poll_next(context) {
                self.turn = index + 1;
                return Poll::Ready((index, piece));
            }
        }
        Poll::Pending
    }

    fn say(&mut self, index: usize, piece: &Piece) {
        let said = match piece {
            // Only a chat has roles.
            Piece::Started if self.head.endpoint == Endpoint::Completions => return,
            Piece::Started => Said::Role,
            Piece::Text(text) => Said::Text(text),
            Piece::Ended(reason) => Said::End(*reason),
            Piece::Failed(failure) => {
                self.ready
                    .push_back(wire::data(&ApiError::from(failure).body()));
                return self.finish();
            }
        };
        let usage = if self.options.continuous_usage {
            Some(wire::usage(std::iter::once(self.answers[index].usage())))
        } else {
            self.options.include_usage.then_some(Value::Null)
        };
        self.ready.push_back(self.head.event(index, said, usage));
        if matches!(piece, Piece::Ended(_)) {
            self.ended[index] = true;
            if self.ended.iter().all(|ended| *ended) {
                if self.options.include_usage {
                    let usage = wire::usage(self.answers.iter().map(Answer::usage));
                    self.ready.push_back(self.head.usage_event(usage));
                }
                self.finish();
            }
        }
    }

    fn finish(&mut self) {
        self.ready.push_back(b"data: [DONE]\n\n".to_vec());
        self.done = true;
        // What is still running nobody reads.
        self.answers.clear();
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event.into()))));
            }
            if self.done {
                return Poll::Ready(None);
            }
            let Poll::Ready((index, piece)) = self.poll_piece(context) else {
                return Poll::Pending;
            };
            self.say(index, &piece);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.ready.is_empty()
    }
}
