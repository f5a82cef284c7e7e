//! Any server that speaks the OpenAI API, over HTTP/1.1 with streaming, with TLS or without.
//!
//! `reactor` owns the sockets and takes the instant of each read before anything is parsed;
//! `answer` turns bytes into events. Connections are kept and reused; making one counts as part of
//! the request, since the server is a party to it. There are no retries: a request that fails has
//! failed.
//!
//! Invariant: every submitted request ends in exactly one [`EventKind::Finished`] or
//! [`EventKind::Failed`], whatever the server does, as long as it does anything; how long to wait
//! for it is the caller's to say, by dropping the stream.
//!
//! [`EventKind::Finished`]: crate::EventKind::Finished
//! [`EventKind::Failed`]: crate::EventKind::Failed

mod acks;
mod answer;
mod apart;
mod backlog;
mod connection;
mod counts;
mod get;
mod link;
mod metrics;
mod openai;
mod reactor;
mod rest;
mod sse;
mod stack;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

pub use http::Uri;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use crate::clock::{Clock, Nanos};
use crate::contract::{
    Backend, Delivery, Failure, FailureCause, PromptForm, Request, SystemInfo, Ticket, TokenStream,
};
use counts::Counts;
use get::{Page, Place};
use reactor::{Outgoing, Reactor, Server};

pub use answer::{AnswerReader, Connection};
pub use metrics::{MetricsPage, parse_metrics_url};
pub use stack::{Stack, StackChoice};
pub use tls::{TlsClient, TlsError, TlsFile, TlsOptions};

/// How a server is reached and asked.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Base address, up to and including `/v1`.
    pub base: Uri,
    /// `model` field of each request; empty for the first that the server lists.
    pub model: String,
    /// Sent as `Authorization: Bearer …`.
    pub api_key: Option<ApiKey>,
    /// Merged into each request body.
    pub extra_body: Map<String, Value>,
    /// What answers there.
    pub stack: StackChoice,
    /// For `https`.
    pub tls: Option<TlsClient>,
    /// Where it tells about itself, if not at the usual place.
    pub metrics: Option<Uri>,
}

/// A bearer key; it is sent, and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// The key.
    pub fn new(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(not shown)")
    }
}

impl HttpConfig {
    /// A server of which only the address is known.
    pub fn new(base: Uri) -> Self {
        Self {
            base,
            model: String::new(),
            api_key: None,
            extra_body: Map::new(),
            stack: StackChoice::Recognised(Stack::OpenAi),
            tls: None,
            metrics: None,
        }
    }

    fn is_encrypted(&self) -> bool {
        self.base.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        let host = self.base.host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    fn place(&self) -> Result<Place, Failure> {
        let usual = if self.is_encrypted() { 443 } else { 80 };
        if self.is_encrypted() && self.tls.is_none() {
            let message = "`https` needs to know whom to trust";
            return Err(Failure::new(FailureCause::Connect, message));
        }
        Ok(Place {
            host: self.host().to_owned(),
            port: self.base.port_u16().unwrap_or(usual),
            tls: self.tls.clone().filter(|_| self.is_encrypted()),
        })
    }
}

/// A base address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseError {
    /// Not a URI.
    #[error("`{0}` is not an address; accepted is `http://HOST:PORT/v1` or `https://…`")]
    NotAnAddress(String),
}

/// Reads a base address such as `http://127.0.0.1:8000/v1`.
pub fn parse_base(text: &str) -> Result<Uri, BaseError> {
    let uri: Uri = text
        .parse()
        .map_err(|_| BaseError::NotAnAddress(text.into()))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
        return Err(BaseError::NotAnAddress(text.into()));
    }
    Ok(uri)
}

/// A server as a backend.
#[derive(Debug)]
pub struct HttpBackend {
    clock: Clock,
    reactor: Reactor,
    config: HttpConfig,
    stack: Stack,
    /// The head of each request, up to its length.
    head: String,
    /// Begins the identity of each request, so that those of two runs differ.
    run_id: String,
    info: SystemInfo,
}

/// How long a server may take to list its models before the run.
const PREFLIGHT_LIMIT: Nanos = Nanos(10_000_000_000);
/// How long before its instant a request is wanted: the tasks that prepare it give way to the
/// thread that reads, and on a busy machine get their turn late.
const LEAD: Nanos = Nanos(250_000_000);

impl HttpBackend {
    /// Asks the server for its models, so that one that is not there is found before the run.
    pub async fn connect(mut config: HttpConfig, clock: Clock) -> Result<Self, Failure> {
        let deadline = clock.now().plus(PREFLIGHT_LIMIT);
        let listed = clock.timeout(deadline, list_models(&config)).await;
        let listed = listed.map_err(|_| {
            let message = "GET /models: no answer within 10 s";
            Failure::new(FailureCause::Timeout, message)
        })??;
        if let Some(first) = listed.models.first().filter(|_| config.model.is_empty()) {
            first.clone_into(&mut config.model);
        }
        let models = match listed.models.as_slice() {
            [] => "not listed".to_owned(),
            models => models.join(", "),
        };
        let (stack, known_by) = listed.stack(config.stack);
        let server = listed.server.unwrap_or_else(|| "not told".into());
        let mut details = BTreeMap::from([
            ("server".into(), server),
            ("server_stack".into(), format!("{stack} ({known_by})")),
            ("models".into(), models),
            ("served_model".into(), config.model.clone()),
        ]);
        if let (Some(tls), Some(spoken)) = (&config.tls, &listed.tls) {
            details.insert("tls".into(), format!("{spoken}; server {}", tls.trust()));
        }
        let info = SystemInfo {
            kind: "http".into(),
            device: config.base.to_string(),
            details,
        };
        let tls = config.tls.clone().filter(|_| config.is_encrypted());
        let server = Server {
            address: listed.address,
            tls: tls.map(|tls| (tls, config.host().to_owned())),
        };
        let reactor = Reactor::start(clock.clone(), server)
            .map_err(|error| connect_failure(&config.base, &error))?;
        let started_ns = clock.monotonic_ns(clock.now());
        Ok(Self {
            head: head(&config, "POST", "/chat/completions")?,
            run_id: format!("wb-{:x}-{started_ns:x}", std::process::id()),
            clock,
            reactor,
            config,
            stack,
            info,
        })
    }
}

/// Where the instants of what came are from.
fn instants(counts: &Counts) -> String {
    let reads = counts.reads.load(Ordering::Relaxed);
    let waits = counts.waits();
    let ms = |ns: u64| ns as f64 / 1e6;
    if waits.is_empty() {
        return "after the read".into();
    }
    format!(
        "of arrival, stamped by the kernel, for {} of {reads} reads; these were read {:.3} ms later \
         (p50), {:.3} (p99), {:.3} (max)",
        waits.len(),
        ms(waits.value_at_quantile(0.5)),
        ms(waits.value_at_quantile(0.99)),
        ms(waits.max()),
    )
}

/// What was done about acknowledgements, if anything was.
fn acknowledgements(counts: &Counts) -> Option<String> {
    if counts.acks_put_off.load(Ordering::Relaxed) {
        let words = "put off to every second segment while much came, since the server does not \
                     wait for them";
        return Some(words.into());
    }
    match counts.acks_tried.load(Ordering::Relaxed) {
        0 => None,
        tried => Some(format!(
            "at once, but on {tried} connections for up to 0.1 s each, to see whether the server \
             waits for them"
        )),
    }
}

impl Backend for HttpBackend {
    fn describe(&self) -> SystemInfo {
        let mut info = self.info.clone();
        let counts = &self.reactor.counts;
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let connections = format!(
            "{} made, {} of them ahead of use, {} open at most",
            count(&counts.made),
            count(&counts.ahead),
            count(&counts.peak)
        );
        info.details.insert("connections".into(), connections);
        info.details.insert("instants".into(), instants(counts));
        if let Some(acks) = acknowledgements(counts) {
            info.details.insert("acknowledgements".into(), acks);
        }
        info
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn lead(&self) -> Nanos {
        LEAD
    }

    fn reads(&self) -> PromptForm {
        PromptForm::Messages
    }

    fn prepare(&self, at_once: usize) {
        self.reactor.warm(at_once);
    }

    fn delivery_delay(&self) -> Nanos {
        reactor::LONGEST_HOLD
    }

    fn metrics_page(&self) -> Option<MetricsPage> {
        MetricsPage::of(&self.config, self.stack).ok()
    }

    fn submit(&self, request: Request) -> TokenStream {
        let ticket = Ticket {
            id: 0,
            due: Nanos::ZERO,
            delivery: Delivery::AtOnce,
        };
        self.submit_at(request, ticket)
    }

    fn submit_at(&self, request: Request, ticket: Ticket) -> TokenStream {
        let (events, stream) = TokenStream::channel();
        let config = &self.config;
        let body = openai::request_body(&request, &config.model, self.stack, &config.extra_body);
        let rest = format!(
            "X-Request-Id: {}-{}\r\nContent-Length: {}\r\n\r\n",
            self.run_id,
            ticket.id,
            body.len()
        );
        self.reactor.send(Outgoing {
            due: ticket.due,
            delivery: ticket.delivery,
            bytes: [self.head.as_bytes(), rest.as_bytes(), &body].concat(),
            events,
        });
        stream
    }
}

/// The head of a request, without its length and the empty line.
fn head(config: &HttpConfig, method: &str, path: &str) -> Result<String, Failure> {
    let base = &config.base;
    let host = base.authority().map_or("", |authority| authority.as_str());
    let root = base.path().trim_end_matches('/');
    let version = env!("CARGO_PKG_VERSION");
    let mut head = format!(
        "{method} {root}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: weighbridge/{version}\r\n\
         Accept: text/event-stream, application/json\r\nContent-Type: application/json\r\n"
    );
    if let Some(ApiKey(key)) = &config.api_key {
        if key.chars().any(char::is_control) {
            let message = "the API key holds a character no header may";
            return Err(Failure::new(FailureCause::Connect, message));
        }
        head.extend(["Authorization: Bearer ", key, "\r\n"]);
    }
    Ok(head)
}

/// What a server says of itself.
struct Listed {
    address: SocketAddr,
    /// Version and cipher suite.
    tls: Option<String>,
    server: Option<String>,
    models: Vec<String>,
    /// Who owns the first model.
    owner: Option<String>,
}

impl Listed {
    /// What answers, and how that is known.
    fn stack(&self, choice: StackChoice) -> (Stack, &'static str) {
        let otherwise = match choice {
            StackChoice::Named(stack) => return (stack, "as given"),
            StackChoice::Recognised(otherwise) => otherwise,
        };
        let told = [&self.owner, &self.server];
        let mut told = told.into_iter().flatten();
        match told.find_map(|name| Stack::recognise(name)) {
            Some(stack) => (stack, "by what the server says of itself"),
            None => (otherwise, "assumed"),
        }
    }
}

fn connect_failure(base: &Uri, error: &dyn std::fmt::Display) -> Failure {
    let authority = base.authority().map_or("", |authority| authority.as_str());
    Failure::new(FailureCause::Connect, format!("{authority}: {error}"))
}

/// Asks the server what it has, on a thread of its own.
async fn list_models(config: &HttpConfig) -> Result<Listed, Failure> {
    let place = config.place()?;
    let request = format!(
        "{}Connection: close\r\n\r\n",
        head(config, "GET", "/models")?
    );
    let (answer, answered) = oneshot::channel();
    let ask = move || drop(answer.send(get::get(&place, &request)));
    let started = std::thread::Builder::new().name("models".into()).spawn(ask);
    started.map_err(|error| connect_failure(&config.base, &error))?;
    let page = answered.await;
    read_models(
        config,
        page.map_err(|error| connect_failure(&config.base, &error))??,
    )
}

fn read_models(config: &HttpConfig, page: Page) -> Result<Listed, Failure> {
    let Page {
        head,
        body,
        address,
        tls,
    } = page;
    let text = String::from_utf8_lossy(&body);
    let unnamed = config.model.is_empty();
    // A server need not list its models if the user names one; but a key it refuses is refused.
    let refused = matches!(head.status, 401 | 403);
    if refused || (unnamed && head.status != 200) {
        let cause = FailureCause::HttpStatus(head.status);
        let shown: String = text.trim().chars().take(200).collect();
        let message = format!("GET /models: {} {}: {shown}", head.status, head.reason);
        return Err(Failure::new(cause, message));
    }
    let listed: Value = serde_json::from_str(&text).unwrap_or_default();
    let models: Vec<String> = listed["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|model| Some(model["id"].as_str()?.to_owned()))
        .collect();
    if unnamed && models.is_empty() {
        let message = "the server lists no models; name one (--model or --served-model)";
        return Err(Failure::new(FailureCause::BadStream, message));
    }
    let owner = listed["data"][0]["owned_by"].as_str();
    Ok(Listed {
        address,
        tls,
        server: head.server,
        models,
        owner: owner.map(ToOwned::to_owned),
    })
}

#[cfg(test)]
mod tests;
