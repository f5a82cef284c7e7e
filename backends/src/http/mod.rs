//! Any server that speaks the OpenAI API, over HTTP/1.1 with streaming.
//!
//! Each body frame is stamped when it was read, before it is parsed. Connections are kept and
//! reused; making one counts as part of the request, since the server is a party to it. There are
//! no retries: a request that fails has failed.
//!
//! Invariant: every submitted request ends in exactly one [`EventKind::Finished`] or
//! [`EventKind::Failed`], whatever the server does, as long as it does anything; how long to wait
//! for it is the caller's to say, by dropping the stream.

mod openai;
mod sse;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, SERVER, USER_AGENT};
use hyper::{Method, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::clock::{Clock, Nanos};
use crate::contract::{
    Backend, Event, EventKind, Failure, FailureCause, FinishReason, Request, SystemInfo,
    TokenStream, Usage,
};
use sse::SseReader;

/// How a server is reached and asked.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Base address, up to and including `/v1`.
    pub base: Uri,
    /// `model` field of each request; empty for the first that the server lists.
    pub model: String,
    /// Sent as `Authorization: Bearer …`; never shown.
    pub api_key: Option<String>,
    /// Merged into each request body.
    pub extra_body: Map<String, Value>,
}

/// A base address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// Not a URI.
    #[error("`{0}` is not an address; accepted is `http://HOST:PORT/v1`")]
    NotAnAddress(String),
    /// Encrypted, which this build cannot do.
    #[error("`{0}`: this version speaks plain http only; accepted is `http://HOST:PORT/v1`")]
    Encrypted(String),
}

/// Reads a base address such as `http://127.0.0.1:8000/v1`.
pub fn parse_base(text: &str) -> Result<Uri, BaseError> {
    if text.starts_with("https://") {
        return Err(BaseError::Encrypted(text.into()));
    }
    let uri: Uri = text
        .parse()
        .map_err(|_| BaseError::NotAnAddress(text.into()))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err(BaseError::NotAnAddress(text.into()));
    }
    Ok(uri)
}

/// A server as a backend.
#[derive(Debug)]
pub struct HttpBackend {
    shared: Arc<Shared>,
    info: SystemInfo,
}

#[derive(Debug)]
struct Shared {
    config: HttpConfig,
    clock: Clock,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// How long a server may take to list its models before the run.
const PREFLIGHT_LIMIT: Nanos = Nanos(10_000_000_000);

impl HttpBackend {
    /// Asks the server for its models, so that one that is not there is found before the run.
    pub async fn connect(config: HttpConfig, clock: Clock) -> Result<Self, Failure> {
        let base = config.base.to_string();
        let mut shared = Shared {
            config,
            clock,
            idle: Mutex::new(Vec::new()),
        };
        let deadline = shared.clock.now().plus(PREFLIGHT_LIMIT);
        let listed = shared.clock.timeout(deadline, shared.list_models()).await;
        let (server, models) = listed.map_err(|_| {
            let message = "GET /models: no answer within 10 s";
            Failure::new(FailureCause::Timeout, message)
        })??;
        if let Some(first) = models.first().filter(|_| shared.config.model.is_empty()) {
            first.clone_into(&mut shared.config.model);
        }
        let models = match models.as_slice() {
            [] => "not listed".to_owned(),
            models => models.join(", "),
        };
        let shared = Arc::new(shared);
        let details = BTreeMap::from([
            ("server".into(), server.unwrap_or_else(|| "not told".into())),
            ("models".into(), models),
            ("served_model".into(), shared.config.model.clone()),
        ]);
        let info = SystemInfo {
            kind: "http".into(),
            device: base,
            details,
        };
        Ok(Self { shared, info })
    }
}

impl Backend for HttpBackend {
    fn describe(&self) -> SystemInfo {
        self.info.clone()
    }

    fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    fn submit(&self, request: Request) -> TokenStream {
        let (events, stream) = TokenStream::channel();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let gone = events.clone();
            tokio::select! {
                biased;
                // A dropped stream drops the connection with it, which is how a server learns.
                () = gone.closed() => {}
                () = shared.exchange(&request, &events) => {}
            }
        });
        stream
    }
}

impl Shared {
    async fn exchange(self: &Arc<Self>, request: &Request, events: &mpsc::UnboundedSender<Event>) {
        let body = openai::request_body(request, &self.config.model, &self.config.extra_body);
        let at = self.clock.now();
        drop(events.send(Event {
            at,
            kind: EventKind::Sent,
        }));
        let mut answer = Answer::new(events);
        let outcome = self.stream(body, &mut answer).await;
        let at = answer.done_at.unwrap_or_else(|| self.clock.now());
        let kind = match outcome {
            Err(failure) => EventKind::Failed(failure),
            Ok(()) => match answer.finish {
                Some(reason) => EventKind::Finished {
                    reason,
                    usage: answer.usage,
                },
                None => EventKind::Failed(Failure::new(
                    FailureCause::Truncated,
                    "the stream ended without a finish reason",
                )),
            },
        };
        drop(events.send(Event { at, kind }));
    }

    async fn stream(
        self: &Arc<Self>,
        body: Vec<u8>,
        answer: &mut Answer<'_>,
    ) -> Result<(), Failure> {
        let call = Call {
            method: Method::POST,
            path: "/chat/completions",
            body: body.into(),
        };
        let (connection, response) = self.call(call).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let text = read_text(response.into_body(), 16 << 10).await;
            let cause = FailureCause::HttpStatus(status.as_u16());
            return Err(Failure::new(cause, format!("{status}: {text}")));
        }
        let kind = response.headers().get(CONTENT_TYPE).cloned();
        if !kind
            .as_ref()
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
        {
            let message = format!("expected content type `text/event-stream`, got {kind:?}");
            return Err(Failure::new(FailureCause::BadStream, message));
        }
        let mut body = response.into_body();
        let mut reader = SseReader::default();
        while let Some(frame) = body.frame().await {
            let at = self.clock.now();
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    return Err(Failure::new(FailureCause::Reset, describe_error(&error)));
                }
            };
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            answer.start_read(at);
            let mut result = Ok(());
            reader.read(&bytes, |data| {
                if result.is_ok() {
                    result = answer.event(data);
                }
            });
            result?;
            if answer.done_at.is_some() {
                tokio::spawn(Arc::clone(self).keep_when_ended(connection, body));
                return Ok(());
            }
        }
        if reader.pending() > 0 && answer.finish.is_none() {
            let message = "the stream ended within an event";
            return Err(Failure::new(FailureCause::Truncated, message));
        }
        self.keep(connection);
        Ok(())
    }

    /// The server's name for itself, and its models.
    async fn list_models(&self) -> Result<(Option<String>, Vec<String>), Failure> {
        let call = Call {
            method: Method::GET,
            path: "/models",
            body: Bytes::new(),
        };
        let (_, response) = self.call(call).await?;
        let server = response
            .headers()
            .get(SERVER)
            .and_then(|value| value.to_str().ok());
        let server = server.map(ToOwned::to_owned);
        let status = response.status();
        let text = read_text(response.into_body(), 4 << 20).await;
        let refused = status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN;
        let unnamed = self.config.model.is_empty();
        if refused || (unnamed && status != StatusCode::OK) {
            let cause = FailureCause::HttpStatus(status.as_u16());
            let shown: String = text.chars().take(200).collect();
            return Err(Failure::new(
                cause,
                format!("GET /models: {status}: {shown}"),
            ));
        }
        let listed: Value = serde_json::from_str(&text).unwrap_or_default();
        let ids: Vec<String> = listed["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|model| Some(model["id"].as_str()?.to_owned()))
            .collect();
        if unnamed && ids.is_empty() {
            let message = "the server lists no models; name one (--model or --served-model)";
            return Err(Failure::new(FailureCause::BadStream, message));
        }
        Ok((server, ids))
    }

    async fn call(
        &self,
        call: Call,
    ) -> Result<(SendRequest<Full<Bytes>>, hyper::Response<Incoming>), Failure> {
        let mut connection = self.connection().await?;
        let base = &self.config.base;
        let path = format!("{}{}", base.path().trim_end_matches('/'), call.path);
        let mut request = hyper::Request::builder()
            .method(call.method)
            .uri(path)
            .header(
                HOST,
                base.authority().map_or("", |authority| authority.as_str()),
            )
            .header(
                USER_AGENT,
                concat!("weighbridge/", env!("CARGO_PKG_VERSION")),
            )
            .header(ACCEPT, "text/event-stream, application/json")
            .header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.config.api_key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| {
                Failure::new(
                    FailureCause::Connect,
                    "the API key holds a character no header may",
                )
            })?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(call.body)).map_err(|error| {
            Failure::new(
                FailureCause::Connect,
                format!("the request cannot be formed: {error}"),
            )
        })?;
        let response = connection.send_request(request).await;
        let response =
            response.map_err(|error| Failure::new(FailureCause::Reset, describe_error(&error)))?;
        Ok((connection, response))
    }

    /// An idle connection, or a new one.
    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        while let Some(connection) = self.idle().pop() {
            if connection.is_ready() {
                return Ok(connection);
            }
        }
        let base = &self.config.base;
        let (host, port) = (
            base.host().unwrap_or_default(),
            base.port_u16().unwrap_or(80),
        );
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let connect = |error: &dyn std::fmt::Display| {
            Failure::new(FailureCause::Connect, format!("{host}:{port}: {error}"))
        };
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| connect(&error))?;
        stream.set_nodelay(true).map_err(|error| connect(&error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|error| connect(&error))?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection ended");
            }
        });
        Ok(sender)
    }

    /// Keeps a connection once the rest of its answer is read; the mark of the end has come, so it
    /// is a matter of moments, and a server that leaves the body open is not waited for.
    async fn keep_when_ended(
        self: Arc<Self>,
        connection: SendRequest<Full<Bytes>>,
        mut body: Incoming,
    ) {
        const PATIENCE: Nanos = Nanos(1_000_000_000);
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let deadline = self.clock.now().plus(PATIENCE);
        if self.clock.timeout(deadline, rest).await.is_ok() {
            self.keep(connection);
        }
    }

    fn keep(&self, connection: SendRequest<Full<Bytes>>) {
        if !connection.is_closed() {
            self.idle().push(connection);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Call {
    method: Method,
    path: &'static str,
    body: Bytes,
}

/// What has come of an answer so far.
struct Answer<'a> {
    events: &'a mpsc::UnboundedSender<Event>,
    read_at: Nanos,
    /// Content has come with the present read already.
    content_in_read: bool,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    /// When the mark of the end came.
    done_at: Option<Nanos>,
}

impl<'a> Answer<'a> {
    fn new(events: &'a mpsc::UnboundedSender<Event>) -> Self {
        Self {
            events,
            read_at: Nanos::ZERO,
            content_in_read: false,
            finish: None,
            usage: None,
            done_at: None,
        }
    }

    fn start_read(&mut self, at: Nanos) {
        self.read_at = at;
        self.content_in_read = false;
    }

    fn event(&mut self, data: &[u8]) -> Result<(), Failure> {
        if data == b"[DONE]" {
            self.done_at = Some(self.read_at);
            return Ok(());
        }
        let chunk = openai::parse_chunk(data).map_err(|error| {
            let shown = String::from_utf8_lossy(&data[..data.len().min(120)]).into_owned();
            Failure::new(FailureCause::BadStream, format!("{error} in `{shown}`"))
        })?;
        if let Some(message) = chunk.error {
            return Err(Failure::new(FailureCause::Engine, message));
        }
        self.finish = self.finish.or(chunk.finish);
        // Some servers count along in every chunk; the last count is the whole.
        self.usage = chunk.usage.or(self.usage);
        if !chunk.text.is_empty() {
            let coalesced = std::mem::replace(&mut self.content_in_read, true);
            let kind = EventKind::Text {
                text: chunk.text,
                coalesced,
            };
            self.send(kind);
        } else if chunk.has_choice {
            self.send(EventKind::Bare);
        } else if chunk.usage.is_some() {
            self.send(EventKind::UsageOnly);
        }
        Ok(())
    }
}

impl Answer<'_> {
    /// Sends an event with the instant of the present read.
    fn send(&self, kind: EventKind) {
        let at = self.read_at;
        drop(self.events.send(Event { at, kind }));
    }
}

/// The beginning of a body, up to `limit` bytes.
async fn read_text(mut body: Incoming, limit: usize) -> String {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if bytes.len() > limit {
            break;
        }
    }
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)])
        .trim()
        .to_owned()
}

fn describe_error(error: &hyper::Error) -> String {
    use std::error::Error as _;
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests;
