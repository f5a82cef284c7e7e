//! The built-in engine behind an OpenAI-compatible HTTP server.
//!
//! # Layout
//! - [`Server`]: what is served and to how many at once; [`run`] serves it on a socket.
//! - `listen`, `patience`, `crowd`: connections, how long a peer may keep one waiting, and the
//!   memory that many of them leave.
//! - `routes`, `body`: paths, and a request's bytes up to a limit.
//! - `fields`, `ask`: from JSON to requests that the engine can run, or an `error`.
//! - `answer`, `stop`: from the engine's tokens to text, up to a stop string.
//! - `events`, `wire`: from text to events and objects in OpenAI's shape.
//! - `tokens`, `metrics`: the tokenizer and the server's own figures, for who asks.
//!
//! Invariants: everything a client can make grow has a limit (connections by the system's files,
//! bodies, requests in flight, the answer's tokens), and at the limit it is refused, in words; the
//! engine waits for no reader; a client that goes away takes its request with it. It speaks plain
//! HTTP/1.1 and knows no users: for more, put a proxy in front.

mod answer;
mod ask;
mod body;
mod crowd;
mod error;
mod events;
mod fields;
mod listen;
mod metrics;
mod patience;
mod routes;
mod stop;
mod tokens;
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use backends::{Backend, Clock, Request, TokenStream};
use models::ChatTokenizer;
use rand::Rng;

use crate::random::{self, Purpose};
use ask::{Endpoint, ServedModel};
use body::BodyLimits;
use error::ApiError;
pub use listen::{Ending, run};
use metrics::Metrics;
use wire::Head;

/// What a server is told once, at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// What clients call the model.
    pub model_name: String,
    /// Requests in the engine at most, running and waiting; more are refused.
    pub max_in_flight: u32,
    /// Bytes of one request body.
    pub max_body_bytes: usize,
    /// Seeds of requests that bring none come from it.
    pub seed: u64,
}

/// A backend, and what is needed to serve it.
pub struct Server {
    backend: Arc<dyn Backend>,
    model: ServedModel,
    options: ServerOptions,
    bodies: BodyLimits,
    metrics: Arc<Metrics>,
    /// Held from the count of requests in flight until one more is among them.
    admission: Mutex<()>,
    asked: AtomicU64,
    started_unix_s: i64,
    /// Nothing new is taken any more.
    draining: AtomicBool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("Server");
        shown
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server of `backend`, whose prompts and answers are in the tokens of `tokenizer`.
    /// `context_limit` is what the model takes; the engine's memory may allow less.
    pub fn new(
        backend: Arc<dyn Backend>,
        tokenizer: Arc<ChatTokenizer>,
        context_limit: usize,
        options: ServerOptions,
    ) -> Self {
        let blocks = backend.gauges().total_blocks;
        let held = blocks.map_or(usize::MAX, |blocks| blocks as usize * models::BLOCK_TOKENS);
        let name = options.model_name.clone();
        Self {
            metrics: Arc::new(Metrics::new(&name)),
            model: ServedModel::new(name, tokenizer, context_limit.min(held)),
            bodies: BodyLimits::new(options.max_body_bytes, backend.clock().clone()),
            backend,
            options,
            admission: Mutex::new(()),
            asked: AtomicU64::new(0),
            started_unix_s: jiff::Timestamp::now().as_second(),
            draining: AtomicBool::new(false),
        }
    }

    /// Requests that have not had their last token.
    pub fn in_flight(&self) -> u32 {
        self.backend.gauges().in_flight.unwrap_or(0)
    }

    fn clock(&self) -> &Clock {
        self.backend.clock()
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Refuses when the server is about to end.
    fn check_open(&self) -> Result<(), ApiError> {
        if self.draining.load(Ordering::Relaxed) {
            let message = "the server is shutting down";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message));
        }
        Ok(())
    }

    /// Hands requests to the engine, all or none.
    fn submit(&self, requests: Vec<Request>) -> Result<Vec<TokenStream>, ApiError> {
        let (asked, limit) = (requests.len(), self.options.max_in_flight);
        if asked > limit as usize {
            let message = format!("`prompt` has {asked} prompts; accepted are up to {limit}");
            return Err(ApiError::field("prompt", message));
        }
        let _turn = self
            .admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let in_flight = self.in_flight();
        if in_flight as usize + asked > limit as usize {
            let message =
                format!("{in_flight} requests are running or waiting, of {limit} at most");
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, message);
            return Err(error.with_code("queue_full"));
        }
        let submit = |request| self.backend.submit(request);
        Ok(requests.into_iter().map(submit).collect())
    }

    /// What all parts of the next answer repeat, and its seeds.
    fn next_answer(&self, endpoint: Endpoint) -> (Head, impl Fn(usize) -> u64) {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let kind = match endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions => "cmpl",
        };
        let head = Head {
            endpoint,
            id: format!("{kind}-{:x}-{number}", self.started_unix_s),
            created_unix_s: jiff::Timestamp::now().as_second(),
            model: self.model.name.clone(),
        };
        let seed = self.options.seed;
        let seed_of = move |index: usize| {
            let mut stream = random::stream(seed, Purpose::ServedSeed, number);
            stream.set_word_pos(2 * index as u128);
            stream.random()
        };
        (head, seed_of)
    }
}
