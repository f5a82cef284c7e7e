//! The bytes of the mock server's answers.
//!
//! Invariant: each event is one chunk of the HTTP body, and its stamp is written last, into a place
//! of fixed width, right before the write. It does no input or output.

use std::fmt::{self, Display};
use std::io::Write as _;
use std::ops::Range;

use backends::http::Stack;

use super::MockConfig;

/// What tokens say, one character each.
const CHARACTERS: [&str; 8] = ["今", "天", "的", "云", "很", "好", "看", "。"];
/// Before and after the number of the request, in each object.
const COMMON: &str = r#"{"id":"mock-"#;
const KIND: &str = r#","object":"chat.completion.chunk","created":0,"model":"mock","#;
/// Digits of the length of a chunk.
const LENGTH_WIDTH: usize = 8;
/// Digits of the largest stamp.
const STAMP_WIDTH: usize = 20;

/// The end of a body in chunked coding.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Head of a stream.
pub(super) const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nServer: weighbridge-mock\r\n\
Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n\
Transfer-Encoding: chunked\r\n\r\n";

/// Writes the events of one answer.
#[derive(Debug)]
pub(super) struct EventWriter<'a> {
    config: &'a MockConfig,
    /// Number of the request.
    request: u64,
}

/// A chunk of content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    /// The first token in it.
    pub(super) first_token: u64,
    /// Tokens in it.
    pub(super) tokens: u32,
    /// When it was to be sent.
    pub(super) planned_ns: u64,
}

/// Prompt and output tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) prompt: u64,
    pub(super) output: u64,
}

/// What comes with or after the last token.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) usage: Option<Counts>,
    /// With the mark of the end.
    pub(super) done: bool,
}

impl<'a> EventWriter<'a> {
    pub(super) fn new(config: &'a MockConfig, request: usize) -> Self {
        Self {
            config,
            request: request as u64,
        }
    }

    /// The chunk that says who speaks.
    pub(super) fn role(&self, out: &mut Vec<u8>) {
        let delta = r#"{"role":"assistant","content":""}"#;
        self.choice(out, delta, "null", format_args!(""));
    }

    /// A chunk of tokens; where in `out` its stamp belongs. `end` is for the last.
    pub(super) fn content(
        &self,
        out: &mut Vec<u8>,
        content: Content,
        end: Option<End>,
    ) -> Range<usize> {
        let end = end.filter(|_| self.ends_with_content());
        let finish = if end.is_some() { r#""length""# } else { "null" };
        let usage = end.and_then(|end| end.usage);
        let usage = usage.filter(|_| self.config.stack == Stack::MindIe);
        let usage = usage.map(|counts| format!(",{}", usage_object(counts)));
        let usage = usage.unwrap_or_default();
        let Content {
            first_token,
            tokens,
            planned_ns,
        } = content;
        let (delta, blank) = (self.delta(text(first_token, tokens)), "");
        let more = format_args!(
            r#"{usage},"mock":{{"token":{first_token},"planned_ns":{planned_ns},"sent_ns":{blank:STAMP_WIDTH$}}}"#
        );
        self.choice(out, delta, finish, more);
        // After the stamp come `}}`, the ends of lines, and the end of the HTTP chunk.
        let line_end = self.line_end().len();
        let end = out.len() - 2 - 2 * line_end - 2;
        end - STAMP_WIDTH..end
    }

    /// What comes after the last token.
    pub(super) fn finish(&self, out: &mut Vec<u8>, end: End) {
        if !self.ends_with_content() {
            let (finish, more) = (r#""length""#, format_args!(""));
            match self.config.stack {
                Stack::OpenAi | Stack::Xllm => self.choice(out, "{}", finish, more),
                _ => self.choice(out, self.delta(""), finish, more),
            }
        }
        let usage = end.usage.filter(|_| self.config.stack != Stack::MindIe);
        if let Some(counts) = usage {
            let (id, usage) = (self.request, usage_object(counts));
            self.event(
                out,
                format_args!(r#"{COMMON}{id}"{KIND}"choices":[],{usage}}}"#),
            );
        }
        if end.done {
            self.event(out, format_args!("[DONE]"));
        }
        out.extend_from_slice(LAST_CHUNK);
    }

    /// Does the finish come with the last token, as these have it?
    fn ends_with_content(&self) -> bool {
        matches!(self.config.stack, Stack::MindIe | Stack::Tgi)
    }

    /// What a choice says, with the fields that a stack puts around it.
    fn delta<T: Display>(&self, text: T) -> Delta<T> {
        let (before, after) = match self.config.stack {
            Stack::OpenAi | Stack::Vllm | Stack::Xllm => (r#"{"content":""#, r#""}"#),
            Stack::MindIe | Stack::Tgi => (r#"{"role":"assistant","content":""#, r#""}"#),
            Stack::LmDeploy => (
                r#"{"role":"assistant","content":""#,
                r#"","gen_tokens":null}"#,
            ),
            Stack::Sglang => (
                r#"{"role":null,"content":""#,
                r#"","reasoning_content":null,"tool_calls":null}"#,
            ),
        };
        Delta {
            before,
            text,
            after,
        }
    }

    fn choice(
        &self,
        out: &mut Vec<u8>,
        delta: impl Display,
        finish: &str,
        more: fmt::Arguments<'_>,
    ) {
        let id = self.request;
        let data = format_args!(
            r#"{COMMON}{id}"{KIND}"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]{more}}}"#
        );
        self.event(out, data);
    }

    /// One event as one chunk of the body.
    fn event(&self, out: &mut Vec<u8>, data: fmt::Arguments<'_>) {
        let line_end = self.line_end();
        let length = out.len()..out.len() + LENGTH_WIDTH;
        out.resize(length.end, b'0');
        out.extend_from_slice(b"\r\n");
        let from = out.len();
        let wrote = write!(out, "data: {data}{line_end}{line_end}");
        wrote.expect("memory can be written to");
        let bytes = out.len() - from;
        let mut place = &mut out[length];
        write!(place, "{bytes:0LENGTH_WIDTH$x}").expect("the place is as wide as any length");
        out.extend_from_slice(b"\r\n");
    }

    fn line_end(&self) -> &'static str {
        if self.config.crlf { "\r\n" } else { "\n" }
    }
}

/// Puts a stamp in its place.
pub(super) fn stamp(out: &mut [u8], place: Range<usize>, sent_ns: u64) {
    let mut left = &mut out[place];
    write!(left, "{sent_ns:STAMP_WIDTH$}").expect("the place is as wide as any stamp");
}

/// A whole answer that is no stream.
pub(super) fn whole(request: u64, tokens: u32, counts: Counts) -> Vec<u8> {
    let text = text(0, tokens);
    let usage = usage_object(counts);
    let body = format!(
        r#"{{"id":"mock-{request}","object":"chat.completion","created":0,"model":"mock","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"length"}}],{usage}}}"#
    );
    answer("200 OK", "application/json", body.as_bytes())
}

/// An answer of known length.
pub(super) fn answer(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut out = format!(
        "HTTP/1.1 {status}\r\nServer: weighbridge-mock\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    out.extend_from_slice(body);
    out
}

/// An error in the form of the OpenAI API.
pub(super) fn refusal(status: &str, message: &str) -> Vec<u8> {
    let body = serde_json::json!({ "error": { "message": message, "type": "mock" } });
    answer(status, "application/json", body.to_string().as_bytes())
}

fn usage_object(counts: Counts) -> String {
    let Counts { prompt, output } = counts;
    let total = prompt + output;
    format!(
        r#""usage":{{"prompt_tokens":{prompt},"completion_tokens":{output},"total_tokens":{total}}}"#
    )
}

/// What so many tokens say.
fn text(first_token: u64, tokens: u32) -> impl Display {
    fmt::from_fn(move |out| {
        let mut tokens = first_token..first_token + u64::from(tokens);
        tokens.try_for_each(|token| {
            out.write_str(CHARACTERS[(token % CHARACTERS.len() as u64) as usize])
        })
    })
}

/// A text with the fields around it.
struct Delta<T> {
    before: &'static str,
    text: T,
    after: &'static str,
}

impl<T: Display> Display for Delta<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            before,
            text,
            after,
        } = self;
        write!(out, "{before}{text}{after}")
    }
}

#[cfg(test)]
mod tests {
    use backends::http::AnswerReader;
    use backends::{EventKind, FinishReason, Nanos};

    use super::*;

    /// The whole of a stream of five tokens in two chunks, and what the client makes of it.
    fn streamed(stack: Stack) -> (String, Vec<EventKind>) {
        let config = MockConfig {
            stack,
            ..MockConfig::default()
        };
        let writer = EventWriter {
            config: &config,
            request: 0,
        };
        let counts = Counts {
            prompt: 7,
            output: 5,
        };
        let end = End {
            usage: Some(counts),
            done: true,
        };
        let content = |first_token, tokens| Content {
            first_token,
            tokens,
            planned_ns: 0,
        };
        let mut out = STREAM_HEAD.to_vec();
        writer.role(&mut out);
        for (content, end) in [(content(0, 3), None), (content(3, 2), Some(end))] {
            let place = writer.content(&mut out, content, end);
            stamp(&mut out, place, 1);
        }
        writer.finish(&mut out, end);
        let (mut reader, mut events) = (AnswerReader::default(), Vec::new());
        reader.read(Nanos(1), &out, &mut events);
        let kinds = events.into_iter().map(|event| event.kind);
        (String::from_utf8(out).expect("UTF-8"), kinds.collect())
    }

    #[test]
    fn every_stack_s_stream_says_the_same_in_its_own_way() {
        for (stack, own, bare) in [
            (Stack::OpenAi, r#""delta":{},"finish_reason":"length""#, 2),
            (Stack::Vllm, r#"{"content":""},"finish_reason":"length""#, 2),
            (Stack::Sglang, r#""reasoning_content":null"#, 2),
            (
                Stack::MindIe,
                r#"{"role":"assistant","content":"云很"},"finish_reason":"length"}],"usage":{"#,
                1,
            ),
            (Stack::Xllm, r#""delta":{},"finish_reason":"length""#, 2),
            (Stack::LmDeploy, r#""gen_tokens":null"#, 2),
            (
                Stack::Tgi,
                r#"{"role":"assistant","content":"云很"},"finish_reason":"length"}],"mock""#,
                1,
            ),
        ] {
            let (bytes, kinds) = streamed(stack);
            assert!(bytes.contains(own), "{stack}: {bytes}");
            let text = kinds.iter().filter_map(|kind| match kind {
                EventKind::Text { text, .. } => Some(text.as_str()),
                _ => None,
            });
            assert_eq!(text.collect::<Vec<_>>(), ["今天的", "云很"], "{stack}");
            let of = |wanted: &EventKind| kinds.iter().filter(|kind| *kind == wanted).count();
            assert_eq!(of(&EventKind::Bare), bare, "{stack}");
            let alone = usize::from(stack != Stack::MindIe);
            assert_eq!(of(&EventKind::UsageOnly), alone, "{stack}");
            let Some(EventKind::Finished { reason, usage }) = kinds.last() else {
                panic!("{stack}: {kinds:?}");
            };
            assert_eq!(*reason, FinishReason::Length);
            let usage = usage.expect("it was asked for");
            assert_eq!((usage.input_tokens, usage.output_tokens), (7, 5));
        }
    }

    #[test]
    fn a_stamp_goes_where_it_belongs() {
        for crlf in [false, true] {
            let config = MockConfig {
                crlf,
                ..MockConfig::default()
            };
            let writer = EventWriter {
                config: &config,
                request: 3,
            };
            let mut out = b"before".to_vec();
            let content = Content {
                first_token: 6,
                tokens: 3,
                planned_ns: 5,
            };
            let place = writer.content(&mut out, content, None);
            stamp(&mut out, place, 12_345);
            let text = String::from_utf8(out).expect("UTF-8");
            let data = text.split("data: ").nth(1).expect("an event");
            let json = data.split(['\r', '\n']).next().expect("a line");
            let value: serde_json::Value = serde_json::from_str(json).expect(json);
            assert_eq!(value["mock"]["sent_ns"], 12_345);
            assert_eq!(value["mock"]["planned_ns"], 5);
            assert_eq!(value["choices"][0]["delta"]["content"], "看。今");
            let end = if crlf { "}\r\n\r\n\r\n" } else { "}\n\n\r\n" };
            assert!(data.ends_with(end), "{data:?}");
        }
        let mut widest = vec![0; STAMP_WIDTH];
        stamp(&mut widest, 0..STAMP_WIDTH, u64::MAX);
        assert_eq!(widest, u64::MAX.to_string().as_bytes());
    }
}
