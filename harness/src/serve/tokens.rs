//! `/tokenize` and `/detokenize`, as vLLM has them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Value, json};

use super::Server;
use super::ask::{self, ServedModel};
use super::error::ApiError;
use super::fields::{Fields, show};

/// The tokens of a text, or of a conversation in the model's template.
pub(super) async fn tokenize(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let model = &server.model;
    let body = request.into_body();
    let tokenized = server.bodies.read(body, |bytes| tokens(model, bytes));
    tokenized.await.map(Json)
}

fn tokens(model: &ServedModel, bytes: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    model.check_model(&mut fields)?;
    let with_texts = fields.flag("return_token_strs")?;
    let tokens = if let Some(text) = fields.string("prompt")? {
        model.encode("prompt", &text)?
    } else {
        let messages = ask::messages(&mut fields)?;
        model.encode("messages", &model.render(&messages)?)?
    };
    fields.finish()?;
    let text = |id: &u32| String::from_utf8_lossy(&model.tokenizer.token_bytes(*id)).into_owned();
    let texts: Option<Vec<String>> = with_texts.then(|| tokens.iter().map(text).collect());
    Ok(json!({
        "count": tokens.len(),
        "max_model_len": model.context_limit,
        "tokens": tokens,
        "token_strs": texts,
    }))
}

/// The text of tokens.
pub(super) async fn detokenize(
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let model = &server.model;
    let body = request.into_body();
    let text = server.bodies.read(body, |bytes| text(model, bytes));
    text.await.map(Json)
}

fn text(model: &ServedModel, bytes: &[u8]) -> Result<Value, ApiError> {
    let mut fields = Fields::parse(bytes)?;
    model.check_model(&mut fields)?;
    let tokens = fields.need("tokens", "a list of token ids")?;
    fields.finish()?;
    let Value::Array(ids) = &tokens else {
        let found = show(&tokens);
        let message = format!("`tokens` is {found}; accepted is a list of token ids");
        return Err(ApiError::field("tokens", message));
    };
    let ids = model.ids("tokens", ids)?;
    Ok(json!({ "prompt": model.tokenizer.decode(&ids) }))
}
