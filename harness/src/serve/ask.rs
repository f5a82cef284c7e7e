//! From a request body to requests for the engine, checked in full.
//!
//! Invariant: what comes out of here the engine can run: every prompt is made of known tokens and
//! fits, with its answer, into the context. Nothing is cut to fit and no value is put right.

use std::sync::Arc;

use axum::http::StatusCode;
use backends::{Prompt, Request};
use models::{ChatTokenizer, Message, Role, SamplingParams, Special};
use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, show};

/// The model that is served, as far as requests need to know it.
#[derive(Debug)]
pub(super) struct ServedModel {
    /// As clients call it.
    pub(super) name: String,
    pub(super) tokenizer: Arc<ChatTokenizer>,
    /// Tokens of prompt and answer together.
    pub(super) context_limit: usize,
    /// Bytes of the longest token.
    longest_token: usize,
}

/// The two ways to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
}

/// A checked request body.
#[derive(Debug)]
pub(super) struct Ask {
    /// One for each prompt.
    pub(super) requests: Vec<Request>,
    pub(super) stops: Vec<String>,
    /// Events as they come, and what of usage they tell; `None` for one answer at the end.
    pub(super) stream: Option<StreamOptions>,
}

/// What a stream tells beside the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamOptions {
    /// Token counts in an event of their own at the end.
    pub(super) include_usage: bool,
    /// Token counts so far in every event.
    pub(super) continuous_usage: bool,
}

/// How answers are drawn and where they end.
struct Rules {
    max_tokens: Option<u32>,
    min_tokens: u32,
    ignore_eos: bool,
    sampling: SamplingParams,
    /// The request brought a seed.
    seeded: bool,
}

impl ServedModel {
    pub(super) fn new(name: String, tokenizer: Arc<ChatTokenizer>, context_limit: usize) -> Self {
        let ids = 0..tokenizer.vocab_size() as u32;
        let longest = ids.map(|id| tokenizer.token_bytes(id).len()).max();
        Self {
            name,
            context_limit,
            // Special tokens stand for no bytes; none has a longer name than this.
            longest_token: longest.unwrap_or(0).max(64),
            tokenizer,
        }
    }

    /// Reads a request. `seed_of` gives seeds to the prompts of a request without one.
    pub(super) fn ask(
        &self,
        endpoint: Endpoint,
        mut fields: Fields,
        seed_of: impl Fn(usize) -> u64,
    ) -> Result<Ask, ApiError> {
        self.check_model(&mut fields)?;
        let rules = Rules::read(&mut fields)?;
        let stops = stops(&mut fields)?;
        let stream = stream_options(&mut fields)?;
        let prompts = match endpoint {
            Endpoint::Chat => vec![self.chat_prompt(&mut fields)?],
            Endpoint::Completions => self.completion_prompts(&mut fields)?,
        };
        fields.finish()?;
        let request = |(index, prompt): (usize, Prompt)| -> Result<Request, ApiError> {
            let max_tokens = self.room(endpoint, &prompt, &rules)?;
            let mut sampling = rules.sampling;
            if !rules.seeded {
                sampling.seed = seed_of(index);
            }
            Ok(Request {
                prompt,
                max_tokens,
                ignore_eos: rules.ignore_eos,
                min_tokens: rules.min_tokens,
                sampling,
            })
        };
        let requests = prompts.into_iter().enumerate().map(request);
        Ok(Ask {
            requests: requests.collect::<Result<_, _>>()?,
            stops,
            stream,
        })
    }

    /// Refuses a request for another model.
    pub(super) fn check_model(&self, fields: &mut Fields) -> Result<(), ApiError> {
        match fields.string("model")? {
            Some(name) if name != self.name => Err(self.no_such_model(&name)),
            _ => Ok(()),
        }
    }

    /// The answer to a request for another model.
    pub(super) fn no_such_model(&self, name: &str) -> ApiError {
        let message = format!(
            "model `{name}` is not served here; accepted is `{}`",
            self.name
        );
        ApiError {
            status: StatusCode::NOT_FOUND,
            ..ApiError::field("model", message).with_code("model_not_found")
        }
    }

    fn chat_prompt(&self, fields: &mut Fields) -> Result<Prompt, ApiError> {
        let messages = messages(fields)?;
        let text = self.render(&messages)?;
        Ok(Prompt {
            tokens: self.encode("messages", &text)?.into(),
            messages: messages.into(),
        })
    }

    /// The prompt text of a conversation.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String, ApiError> {
        let rendered = self.tokenizer.render(messages, true);
        rendered.map_err(|error| ApiError::field("messages", error.to_string()))
    }

    /// Text, token ids, or a list of either.
    fn completion_prompts(&self, fields: &mut Fields) -> Result<Vec<Prompt>, ApiError> {
        const ACCEPTED: &str = "a text, a list of token ids, or a list of texts or of such lists";
        let value = fields.need("prompt", ACCEPTED)?;
        let wrong = |value: &Value| {
            let message = format!("`prompt` is {}; accepted is {ACCEPTED}", show(value));
            ApiError::field("prompt", message)
        };
        let is_ids = |items: &[Value]| items.first().is_some_and(Value::is_number);
        let one = |value: &Value| match value {
            Value::String(text) => self.encode("prompt", text),
            Value::Array(ids) if is_ids(ids) => self.ids("prompt", ids),
            other => Err(wrong(other)),
        };
        let token_lists = match &value {
            Value::Array(items) if items.is_empty() => return Err(wrong(&value)),
            Value::Array(items) if !is_ids(items) => {
                items.iter().map(one).collect::<Result<Vec<_>, _>>()?
            }
            value => vec![one(value)?],
        };
        let prompt = |tokens: Vec<u32>| Prompt {
            tokens: tokens.into(),
            messages: Arc::from([]),
        };
        Ok(token_lists.into_iter().map(prompt).collect())
    }

    /// Token ids as given, if there are such tokens.
    pub(super) fn ids(&self, name: &str, ids: &[Value]) -> Result<Vec<u32>, ApiError> {
        let known = self.tokenizer.vocab_size() as u64;
        let id = |value: &Value| {
            let id = value.as_u64().filter(|id| *id < known).map(|id| id as u32);
            id.ok_or_else(|| {
                let last = known.saturating_sub(1);
                let found = show(value);
                let message =
                    format!("`{name}` holds {found}; accepted are token ids from 0 to {last}");
                ApiError::field(name, message)
            })
        };
        ids.iter().map(id).collect()
    }

    /// Text to tokens, special tokens included. A text that cannot fit is not looked at.
    pub(super) fn encode(&self, name: &str, text: &str) -> Result<Vec<u32>, ApiError> {
        // Others go on while a longer text is cut up.
        const LONG: usize = 16 << 10;
        let least = text.len().div_ceil(self.longest_token);
        if least > self.context_limit {
            return Err(self.too_long(name, &format!("at least {least}")));
        }
        Ok(if text.len() > LONG {
            tokio::task::block_in_place(|| self.tokenizer.encode(text, Special::Parse))
        } else {
            self.tokenizer.encode(text, Special::Parse)
        })
    }

    /// Output tokens for a prompt: as asked for, or what its endpoint gives by default.
    fn room(&self, endpoint: Endpoint, prompt: &Prompt, rules: &Rules) -> Result<u32, ApiError> {
        const COMPLETION_DEFAULT: u32 = 16;
        let name = match endpoint {
            Endpoint::Chat => "messages",
            Endpoint::Completions => "prompt",
        };
        let used = prompt.tokens.len();
        if used == 0 {
            let message = format!("`{name}` has no tokens; at least 1 is needed");
            return Err(ApiError::field(name, message));
        }
        let room = self.context_limit.saturating_sub(used) as u32;
        if room == 0 {
            return Err(self.too_long(name, &used.to_string()));
        }
        let default = match endpoint {
            Endpoint::Chat => room,
            Endpoint::Completions => COMPLETION_DEFAULT.min(room),
        };
        let wanted = rules.max_tokens.unwrap_or(default);
        if wanted > room {
            let limit = self.context_limit;
            let message = format!(
                "`max_tokens` is {wanted}; the prompt of {used} tokens leaves {room} of the \
                 context of {limit}"
            );
            let error = ApiError::field("max_tokens", message);
            return Err(error.with_code("context_length_exceeded"));
        }
        if rules.min_tokens > wanted {
            let least = rules.min_tokens;
            let message =
                format!("`min_tokens` is {least}; accepted is up to `max_tokens`, {wanted}");
            return Err(ApiError::field("min_tokens", message));
        }
        Ok(wanted)
    }

    fn too_long(&self, name: &str, tokens: &str) -> ApiError {
        let limit = self.context_limit;
        let message = format!(
            "`{name}` has {tokens} tokens; the context takes {limit}, at least one of them for \
             the answer"
        );
        ApiError::field(name, message).with_code("context_length_exceeded")
    }
}

impl Rules {
    fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        const MOST: i64 = u32::MAX as i64;
        let older = fields.whole("max_tokens", 1..=MOST)?;
        let max_tokens = fields.whole("max_completion_tokens", 1..=MOST)?.or(older);
        let seed = fields.whole("seed", i64::MIN..=i64::MAX)?;
        let top_k = fields.whole("top_k", -1..=MOST)?;
        Ok(Self {
            max_tokens: max_tokens.map(|tokens| tokens as u32),
            min_tokens: fields.whole("min_tokens", 0..=MOST)?.unwrap_or(0) as u32,
            ignore_eos: fields.flag("ignore_eos")?,
            sampling: SamplingParams {
                temperature: fields.number("temperature", 0.0..=10.0)?.unwrap_or(1.0) as f32,
                top_k: top_k.filter(|k| *k > 0).map(|k| k as u32),
                top_p: fields.number("top_p", 0.0..=1.0)?.map(|p| p as f32),
                seed: seed.unwrap_or(0) as u64,
            },
            seeded: seed.is_some(),
        })
    }
}

/// `stop`: a string or a list of strings.
fn stops(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    const MOST: usize = 16;
    const LONGEST: usize = 1024;
    let Some(value) = fields.take("stop") else {
        return Ok(Vec::new());
    };
    let strings = match &value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(ToOwned::to_owned))
            .collect(),
        _ => None,
    };
    let good = |stop: &String| (1..=LONGEST).contains(&stop.len());
    let strings = strings.filter(|all: &Vec<String>| all.len() <= MOST && all.iter().all(good));
    strings.ok_or_else(|| {
        let found = show(&value);
        let message = format!(
            "`stop` is {found}; accepted is a string or a list of up to {MOST}, each of 1 to \
             {LONGEST} bytes"
        );
        ApiError::field("stop", message)
    })
}

fn stream_options(fields: &mut Fields) -> Result<Option<StreamOptions>, ApiError> {
    let stream = fields.flag("stream")?;
    let given = fields.object("stream_options")?;
    let asked = given.is_some();
    let mut options = StreamOptions {
        include_usage: false,
        continuous_usage: false,
    };
    if let Some(mut inner) = given {
        options.include_usage = inner.flag("include_usage")?;
        options.continuous_usage = inner.flag("continuous_usage_stats")?;
        inner.take("include_obfuscation");
        inner.finish()?;
    }
    if asked && !stream {
        let message = "`stream_options` is given without `stream`; accepted is with `stream: true`";
        return Err(ApiError::field("stream_options", message));
    }
    Ok(stream.then_some(options))
}

/// `messages`: who said what, in text.
pub(super) fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    const ACCEPTED: &str = "a list of at least one {\"role\": …, \"content\": …}";
    let value = fields.need("messages", ACCEPTED)?;
    let Value::Array(items) = &value else {
        let message = format!("`messages` is {}; accepted is {ACCEPTED}", show(&value));
        return Err(ApiError::field("messages", message));
    };
    if items.is_empty() {
        let message = format!("`messages` is empty; accepted is {ACCEPTED}");
        return Err(ApiError::field("messages", message));
    }
    items.iter().enumerate().map(read_message).collect()
}

fn read_message((index, value): (usize, &Value)) -> Result<Message, ApiError> {
    let wrong = |name: &str, value: &Value, accepted: &str| {
        let name = format!("messages[{index}].{name}");
        let message = format!("`{name}` is {}; accepted is {accepted}", show(value));
        ApiError::field(&name, message)
    };
    let role = match value["role"].as_str() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => {
            let accepted = "`system`, `developer`, `user` or `assistant`";
            return Err(wrong("role", &value["role"], accepted));
        }
    };
    let accepted = "a text, or a list of {\"type\": \"text\", \"text\": …}";
    let content = &value["content"];
    let text = match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part_text).collect(),
        _ => None,
    };
    let content = text.ok_or_else(|| wrong("content", content, accepted))?;
    Ok(Message { role, content })
}

fn part_text(part: &Value) -> Option<&str> {
    (part["type"] == "text").then(|| part["text"].as_str())?
}
