//! The server's paths, and what is done for each.
//!
//! Invariant: every answer but a stream that has begun is complete when its head is sent, so the
//! status tells the truth. A handler that is dropped, because its client went away, drops the
//! answers it was waiting for.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Server;
use super::answer::{Answer, AnswerParts, Piece};
use super::ask::{Ask, Endpoint};
use super::error::ApiError;
use super::events::EventStream;
use super::fields::Fields;
use super::metrics;
use super::tokens;
use super::wire::{Head, usage};

type Shared = State<Arc<Server>>;

/// All paths.
pub(super) fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(complete))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::map_response_with_state(
            Arc::clone(&server),
            count,
        ))
        .with_state(server)
}

async fn chat(State(server): Shared, request: Request) -> Result<Response, ApiError> {
    answer(&server, Endpoint::Chat, request.into_body()).await
}

async fn complete(State(server): Shared, request: Request) -> Result<Response, ApiError> {
    answer(&server, Endpoint::Completions, request.into_body()).await
}

async fn answer(
    server: &Arc<Server>,
    endpoint: Endpoint,
    body: Body,
) -> Result<Response, ApiError> {
    server.check_open()?;
    let (head, seed_of) = server.next_answer(endpoint);
    let parse = |bytes: &[u8]| {
        let fields = Fields::parse(bytes)?;
        server.model.ask(endpoint, fields, seed_of)
    };
    let Ask {
        requests,
        stops,
        stream,
    } = server.bodies.read(body, parse).await?;
    let parts: Vec<_> = requests
        .iter()
        .map(|request| AnswerParts {
            detokenizer: server.model.tokenizer.detokenizer(),
            stops: stops.clone(),
            min_tokens: request.min_tokens,
            input_tokens: request.prompt.tokens.len() as u64,
        })
        .collect();
    let streams = server.submit(requests)?;
    let answers = streams
        .into_iter()
        .zip(parts)
        .map(|(stream, parts)| Answer::new(stream, parts, Arc::clone(&server.metrics)))
        .collect();
    match stream {
        Some(options) => Ok(events(EventStream::new(head, options, answers))),
        None => whole(&head, answers).await,
    }
}

fn events(stream: EventStream) -> Response {
    let mut response = Response::new(Body::new(stream));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    let fresh = HeaderValue::from_static("no-cache");
    headers.insert(header::CACHE_CONTROL, fresh);
    response
}

/// Waits for all answers to one request, which run side by side.
async fn whole(head: &Head, mut answers: Vec<Answer>) -> Result<Response, ApiError> {
    let mut texts = Vec::with_capacity(answers.len());
    for answer in &mut answers {
        let mut text = String::new();
        loop {
            match answer.next().await {
                Some(Piece::Started) => {}
                Some(Piece::Text(piece)) => text += &piece,
                Some(Piece::Ended(reason)) => break texts.push((text, reason)),
                Some(Piece::Failed(failure)) => return Err(ApiError::from(&failure)),
                None => unreachable!("an answer ends with its last piece"),
            }
        }
    }
    let body = head.whole(&texts, usage(answers.iter().map(Answer::usage)));
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, body).into_response())
}

async fn models(State(server): Shared) -> Json<Value> {
    Json(json!({ "object": "list", "data": [card(&server)] }))
}

async fn model(State(server): Shared, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    if name == server.model.name {
        Ok(Json(card(&server)))
    } else {
        Err(server.model.no_such_model(&name))
    }
}

fn card(server: &Server) -> Value {
    let system = server.backend.describe();
    json!({
        "id": server.model.name,
        "object": "model",
        "created": server.started_unix_s,
        "owned_by": "weighbridge",
        "root": server.model.name,
        "parent": null,
        "max_model_len": server.model.context_limit,
        "device": { "kind": system.kind, "name": system.device },
    })
}

async fn health(State(server): Shared) -> Result<(), ApiError> {
    server.check_open()
}

async fn show_metrics(State(server): Shared) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    (kind, server.metrics.text(server.backend.gauges()))
}

async fn no_such_path(request: Request) -> ApiError {
    let path = request.uri().path();
    let message = format!(
        "there is no `{path}` here; accepted are `/v1/chat/completions`, `/v1/completions`, \
         `/v1/models`, `/tokenize`, `/detokenize`, `/health` and `/metrics`"
    );
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn no_such_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!("`{path}` does not take {method}; the header `allow` says what it takes");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn count(State(server): Shared, response: Response) -> Response {
    server.metrics.answered(response.status());
    response
}
