//! The shapes of answers: OpenAI's, with vLLM's additions.
//!
//! It is plain data; who fills it in decides what is said.

use backends::{FinishReason, Usage};
use serde::Serialize;
use serde_json::{Value, json};

use super::ask::Endpoint;
use super::metrics::finish_word;

/// What every part of one answer repeats.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) endpoint: Endpoint,
    pub(super) id: String,
    pub(super) created_unix_s: i64,
    pub(super) model: String,
}

/// What a part of the answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// Who speaks; nothing yet.
    Role,
    /// More text.
    Text(&'a str),
    /// Nothing more, and why.
    End(FinishReason),
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Spoken<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Spoken<'a>>,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Spoken<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl Head {
    /// One event of a stream. `usage` is left out unless it is `Some`.
    pub(super) fn event(&self, index: usize, said: Said<'_>, usage: Option<Value>) -> Vec<u8> {
        let (role, content) = match said {
            Said::Role => (Some("assistant"), Some("")),
            Said::Text(text) => (None, Some(text)),
            Said::End(_) => (None, None),
        };
        let (text, delta) = match self.endpoint {
            Endpoint::Chat => (None, Some(Spoken { role, content })),
            Endpoint::Completions => (content.or(Some("")), None),
        };
        let choice = Choice {
            index,
            text,
            delta,
            message: None,
            logprobs: None,
            finish_reason: match said {
                Said::End(reason) => Some(finish_word(reason)),
                Said::Role | Said::Text(_) => None,
            },
        };
        data(&self.envelope(vec![choice], usage))
    }

    /// The event that only counts tokens.
    pub(super) fn usage_event(&self, usage: Value) -> Vec<u8> {
        data(&self.envelope(Vec::new(), Some(usage)))
    }

    /// The whole answer at once.
    pub(super) fn whole(&self, texts: &[(String, FinishReason)], usage: Value) -> Vec<u8> {
        let is_chat = self.endpoint == Endpoint::Chat;
        let choices = texts
            .iter()
            .enumerate()
            .map(|(index, (text, reason))| Choice {
                index,
                text: (!is_chat).then_some(text),
                delta: None,
                message: is_chat.then_some(Spoken {
                    role: Some("assistant"),
                    content: Some(text),
                }),
                logprobs: None,
                finish_reason: Some(finish_word(*reason)),
            });
        let mut envelope = self.envelope(choices.collect(), Some(usage));
        if is_chat {
            envelope.object = "chat.completion";
        }
        to_json(&envelope)
    }

    fn envelope<'a>(&'a self, choices: Vec<Choice<'a>>, usage: Option<Value>) -> Envelope<'a> {
        Envelope {
            id: &self.id,
            object: match self.endpoint {
                Endpoint::Chat => "chat.completion.chunk",
                Endpoint::Completions => "text_completion",
            },
            created: self.created_unix_s,
            model: &self.model,
            choices,
            usage,
        }
    }
}

/// Token counts of one answer or of several together.
pub(super) fn usage(counts: impl Iterator<Item = Usage>) -> Value {
    let mut total = Usage {
        input_tokens: 0,
        cached_tokens: None,
        output_tokens: 0,
    };
    for count in counts {
        total.input_tokens += count.input_tokens;
        total.output_tokens += count.output_tokens;
        total.cached_tokens = match (total.cached_tokens, count.cached_tokens) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }
    json!({
        "prompt_tokens": total.input_tokens,
        "completion_tokens": total.output_tokens,
        "total_tokens": total.input_tokens + total.output_tokens,
        "prompt_tokens_details": { "cached_tokens": total.cached_tokens.unwrap_or(0) },
    })
}

/// One server-sent event.
pub(super) fn data(value: &impl Serialize) -> Vec<u8> {
    let mut event = b"data: ".to_vec();
    event.extend_from_slice(&to_json(value));
    event.extend_from_slice(b"\n\n");
    event
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(endpoint: Endpoint) -> Head {
        Head {
            endpoint,
            id: "x-1".into(),
            created_unix_s: 5,
            model: "m".into(),
        }
    }

    #[test]
    fn events_have_openai_s_shape() {
        let chat = head(Endpoint::Chat);
        let plain = head(Endpoint::Completions);
        let begin = r#"data: {"id":"x-1","object":"chat.completion.chunk","created":5,"model":"m","choices":["#;
        let text =
            r#"data: {"id":"x-1","object":"text_completion","created":5,"model":"m","choices":["#;
        let end = "]}\n\n";
        for (event, expected) in [
            (
                chat.event(0, Said::Role, None),
                format!(
                    r#"{begin}{{"index":0,"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}{end}"#
                ),
            ),
            (
                chat.event(0, Said::Text("汉\n"), None),
                format!(
                    r#"{begin}{{"index":0,"delta":{{"content":"汉\n"}},"logprobs":null,"finish_reason":null}}{end}"#
                ),
            ),
            (
                chat.event(0, Said::End(FinishReason::Length), None),
                format!(
                    r#"{begin}{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"length"}}{end}"#
                ),
            ),
            (
                plain.event(3, Said::End(FinishReason::Stop), None),
                format!(
                    r#"{text}{{"index":3,"text":"","logprobs":null,"finish_reason":"stop"}}{end}"#
                ),
            ),
            (
                chat.usage_event(Value::Null),
                format!("{begin}],\"usage\":null}}\n\n"),
            ),
        ] {
            assert_eq!(String::from_utf8_lossy(&event), expected);
        }
    }

    #[test]
    fn counts_of_several_prompts_add_up() {
        let count = |input_tokens, cached_tokens, output_tokens| Usage {
            input_tokens,
            cached_tokens,
            output_tokens,
        };
        let all = [count(3, None, 1), count(40, Some(32), 2)];
        let expected = json!({
            "prompt_tokens": 43,
            "completion_tokens": 3,
            "total_tokens": 46,
            "prompt_tokens_details": { "cached_tokens": 32 },
        });
        assert_eq!(usage(all.into_iter()), expected);
    }
}
