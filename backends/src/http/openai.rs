//! The chat-completions dialect: the request body, and what one streamed chunk says.
//!
//! Invariant: a chunk counts as content only if it carries text of any kind (content, reasoning or
//! tool arguments); a role alone or an empty string does not. It does no input or output.

use compact_str::CompactString;
use models::Message;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::contract::{FinishReason, Request, Usage};

use super::stack::Stack;

/// The JSON body of a streaming chat completion. `extra` is merged in last and wins.
pub(super) fn request_body(
    request: &Request,
    model: &str,
    stack: Stack,
    extra: &Map<String, Value>,
) -> Vec<u8> {
    let sampling = &request.sampling;
    let body = Body {
        model,
        messages: &request.prompt.messages,
        stream: true,
        stream_options: StreamOptions {
            include_usage: true,
        },
        max_tokens: request.max_tokens,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        seed: sampling.seed & 0x7FFF_FFFF,
        ignore_eos: Some(true).filter(|_| request.ignore_eos && stack.knows_ignore_eos()),
    };
    let least = stack.min_tokens_field().filter(|_| request.ignore_eos);
    let plain = serde_json::to_vec(&body).expect("a body is plain data");
    if least.is_none() && extra.is_empty() {
        return plain;
    }
    // From its text, in which 0.7 is 0.7 whatever the width of the number.
    let mut value: Value = serde_json::from_slice(&plain).expect("it was just written");
    if let Value::Object(fields) = &mut value {
        fields.extend(least.map(|name| (name.to_owned(), request.max_tokens.into())));
        fields.extend(extra.clone());
    }
    value.to_string().into_bytes()
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
    stream_options: StreamOptions,
    max_tokens: u32,
    temperature: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_eos: Option<bool>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// What one event of the stream says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Chunk {
    /// Output text, possibly empty.
    pub(super) text: CompactString,
    /// Set in the chunk that ends the answer.
    pub(super) finish: Option<FinishReason>,
    /// Set in the usage chunk.
    pub(super) usage: Option<Usage>,
    /// There is a choice, with output or without.
    pub(super) has_choice: bool,
    /// The server reports an error in the stream.
    pub(super) error: Option<String>,
}

/// An event that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChunkError {
    /// Not UTF-8.
    #[error("{0}")]
    Utf8(#[from] simdutf8::compat::Utf8Error),
    /// Not JSON, or not of the right form.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Reads one event.
pub(super) fn parse_chunk(data: &[u8]) -> Result<Chunk, ChunkError> {
    // All of it, not only the strings that are looked at.
    let raw: RawChunk<'_> = serde_json::from_str(simdutf8::compat::from_utf8(data)?)?;
    let mut chunk = Chunk {
        usage: raw.usage.and_then(RawUsage::read),
        ..Chunk::default()
    };
    chunk.error = raw.error.map(words);
    if raw.object.is_some_and(|object| object.get() == "\"error\"") {
        // The error is the whole event, in servers of a certain age.
        let message = raw.message.map(words);
        let message = message.unwrap_or_else(|| "the server does not say which".into());
        chunk.error = chunk.error.or(Some(message));
    }
    for choice in raw.choices.unwrap_or_default() {
        chunk.has_choice = true;
        if let Some(delta) = choice.delta {
            // Some servers send reasoning under its old and its new name at once.
            let reasoning = delta.reasoning_content.or(delta.reasoning);
            let texts = [delta.content, reasoning];
            texts
                .into_iter()
                .flatten()
                .for_each(|text| chunk.text.push_str(&text));
            for call in delta.tool_calls.unwrap_or_default() {
                let Some(function) = call.function else {
                    continue;
                };
                let texts = [function.name, function.arguments];
                texts
                    .into_iter()
                    .flatten()
                    .for_each(|text| chunk.text.push_str(&text));
            }
        }
        chunk.finish = chunk.finish.or(match choice.finish_reason.as_deref() {
            // Some servers say nothing in so many words.
            None | Some("" | "null") => None,
            Some("stop") => Some(FinishReason::Stop),
            Some("length") => Some(FinishReason::Length),
            Some(_) => Some(FinishReason::Other),
        });
    }
    Ok(chunk)
}

/// An error, in whatever form.
fn words(error: Value) -> String {
    match error {
        Value::String(message) => message,
        other => other
            .get("message")
            .and_then(Value::as_str)
            .map_or_else(|| other.to_string(), ToOwned::to_owned),
    }
}

#[derive(Deserialize)]
struct RawChunk<'a> {
    choices: Option<SmallVec<[RawChoice; 1]>>,
    usage: Option<RawUsage>,
    error: Option<Value>,
    /// Of any type, looked at as it is written.
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    message: Option<Value>,
}

#[derive(Deserialize)]
struct RawChoice {
    delta: Option<RawDelta>,
    finish_reason: Option<CompactString>,
}

#[derive(Deserialize)]
struct RawDelta {
    content: Option<CompactString>,
    reasoning_content: Option<CompactString>,
    reasoning: Option<CompactString>,
    tool_calls: Option<Vec<RawToolCall>>,
}

#[derive(Deserialize)]
struct RawToolCall {
    function: Option<RawFunction>,
}

#[derive(Deserialize)]
struct RawFunction {
    name: Option<CompactString>,
    arguments: Option<CompactString>,
}

#[derive(Deserialize)]
struct RawUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<RawDetails>,
}

#[derive(Deserialize)]
struct RawDetails {
    cached_tokens: Option<u64>,
}

impl RawUsage {
    /// Half a count is none.
    fn read(self) -> Option<Usage> {
        let details = self.prompt_tokens_details;
        Some(Usage {
            input_tokens: self.prompt_tokens?,
            cached_tokens: details.and_then(|details| details.cached_tokens),
            output_tokens: self.completion_tokens?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use models::SamplingParams;

    use super::*;
    use crate::contract::Prompt;

    #[test]
    fn a_request_has_only_fields_that_its_server_knows() {
        let request = |ignore_eos| Request {
            prompt: Prompt {
                tokens: Arc::from([1]),
                messages: Arc::from([]),
            },
            max_tokens: 5,
            ignore_eos,
            min_tokens: 3,
            sampling: SamplingParams {
                temperature: 0.0,
                top_k: None,
                top_p: None,
                seed: 7,
            },
        };
        let fields = [
            "ignore_eos",
            "min_tokens",
            "min_new_tokens",
            "stream_options",
        ];
        for (stack, expected) in [
            (Stack::OpenAi, "1001"),
            (Stack::Vllm, "1001"),
            (Stack::Sglang, "1001"),
            (Stack::MindIe, "1001"),
            (Stack::Xllm, "1001"),
            (Stack::LmDeploy, "1011"),
            (Stack::Tgi, "0001"),
        ] {
            let body = request_body(&request(true), "m", stack, &Map::new());
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let has = |field: &&str| if body.get(*field).is_some() { '1' } else { '0' };
            let found: String = fields.iter().map(has).collect();
            assert_eq!(found, expected, "{stack}");
            assert_eq!(body["max_tokens"], 5);
            // What the model may end is not to be forced.
            let body = request_body(&request(false), "m", stack, &Map::new());
            let body = String::from_utf8_lossy(&body);
            assert!(!body.contains("ignore_eos") && !body.contains("min_new_tokens"));
        }
        let mut warm = request(false);
        warm.sampling.temperature = 0.7;
        let other = Map::from_iter([("user".to_owned(), Value::from("u"))]);
        for extra in [Map::new(), other] {
            let body = request_body(&warm, "m", Stack::OpenAi, &extra);
            let body = String::from_utf8_lossy(&body);
            assert!(body.contains("\"temperature\":0.7,"), "{body}");
        }
        let extra = Map::from_iter([("ignore_eos".to_owned(), Value::Bool(true))]);
        let body = request_body(&request(false), "m", Stack::Tgi, &extra);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(body["ignore_eos"], true, "what the user adds wins");
    }

    fn text(text: &str) -> Chunk {
        Chunk {
            text: text.into(),
            has_choice: true,
            ..Chunk::default()
        }
    }

    #[test]
    fn errors_within_a_stream_are_known_by_any_of_their_forms() {
        for (json, message) in [
            (
                r#"{"error":{"message":"out of memory","code":500}}"#,
                "out of memory",
            ),
            (r#"{"error":"aborted"}"#, "aborted"),
            (r#"{"error":{"code":500}}"#, r#"{"code":500}"#),
            (
                r#"{"object":"error","message":"too long","type":"BadRequestError","code":400}"#,
                "too long",
            ),
            (r#"{"object":"error"}"#, "the server does not say which"),
            (
                r#"{"object":"error","message":{"code":7}}"#,
                r#"{"code":7}"#,
            ),
        ] {
            let expected = Chunk {
                error: Some(message.to_owned()),
                ..Chunk::default()
            };
            assert_eq!(
                parse_chunk(json.as_bytes()).expect(json),
                expected,
                "{json}"
            );
        }
    }

    #[test]
    fn chunks_say_what_they_say() {
        let usage = Usage {
            input_tokens: 3,
            cached_tokens: Some(2),
            output_tokens: 5,
        };
        let cases = [
            (r#"{"choices":[{"delta":{"role":"assistant"}}]}"#, text("")),
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
                text(""),
            ),
            (
                r#"{"choices":[{"delta":{"content":"你"},"finish_reason":null}]}"#,
                text("你"),
            ),
            (
                r#"{"choices":[{"delta":{"reasoning_content":"想"}}]}"#,
                text("想"),
            ),
            (
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\""}}]}}]}"#,
                text("{\""),
            ),
            (
                r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
                Chunk {
                    finish: Some(FinishReason::Length),
                    has_choice: true,
                    ..Chunk::default()
                },
            ),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":2}}}"#,
                Chunk {
                    usage: Some(usage),
                    ..Chunk::default()
                },
            ),
            (
                r#"{"choices":[{"delta":{"content":"你"},"finish_reason":""}],"usage":{"prompt_tokens":3}}"#,
                text("你"),
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(
                parse_chunk(json.as_bytes()).expect(json),
                expected,
                "{json}"
            );
        }
        for wrong in [
            &b"{\"choices\":"[..],
            b"[]x",
            b"{\"choices\":[{\"delta\":{\"content\":\"\xE4\xBD\"}}]}",
            b"{\"unknown\":\"\xFF\"}",
        ] {
            assert!(
                parse_chunk(wrong).is_err(),
                "{}",
                String::from_utf8_lossy(wrong)
            );
        }
    }
}
