//! What comes of a request: events into a record.
//!
//! Invariant: instants are taken over as they are; tokens are counted when no instant is being
//! taken any more. It waits for nothing.

use std::ops::ControlFlow;
use std::sync::Arc;

use backends::{EventKind, FailureCause, FinishReason, Nanos, Usage};
use models::{ChatTokenizer, Message, Special};
use reports::{Finish, Outcome, RequestRecord, TokenCountSource};

use crate::plan::TokenizerKind;
use crate::workload::conversation::Reply;

/// What has come of a request.
pub(super) struct Answer {
    pub(super) record: RequestRecord,
    /// The prompt, while its tokens were not counted: the server says how many they are, or they
    /// are counted when all is over.
    uncounted: Option<Arc<[Message]>>,
    pub(super) reply: Reply,
    /// Bytes of each content event of a server.
    texts: Vec<usize>,
    pub(super) coalesced: u64,
}

impl Answer {
    pub(super) fn new(record: RequestRecord, uncounted: Option<Arc<[Message]>>) -> Self {
        Self {
            // Mostly one for each token.
            texts: Vec::with_capacity(record.chunk_ns.capacity()),
            record,
            uncounted,
            reply: Reply::default(),
            coalesced: 0,
        }
    }

    pub(super) fn take(&mut self, at: Nanos, kind: EventKind) -> ControlFlow<()> {
        match kind {
            EventKind::Sent => self.record.sent_ns = Some(at.0),
            EventKind::Admitted { cached_tokens } => {
                self.record.admitted_ns = Some(at.0);
                self.record.cached_input_tokens = Some(u64::from(cached_tokens));
            }
            EventKind::Token(id) => {
                self.record.chunk_ns.push(at.0);
                self.record.chunk_tokens.push(1);
                self.reply.ids.push(id);
            }
            EventKind::Text { text, coalesced } => {
                self.record.chunk_ns.push(at.0);
                self.texts.push(text.len());
                self.coalesced += u64::from(coalesced);
                self.reply.text.push_str(&text);
            }
            EventKind::Bare => self.record.bare_ns.push(at.0),
            EventKind::UsageOnly => self.record.usage_ns = Some(at.0),
            EventKind::Finished { reason, usage } => {
                self.record.finish = Some(finish_of(reason));
                self.note_usage(usage);
                self.end(at, Outcome::Ok, None);
                return ControlFlow::Break(());
            }
            EventKind::Failed(failure) => {
                self.end(at, outcome_of(failure.cause), Some(failure.message));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Output tokens so far: an engine's own, or those of a server's text.
    pub(super) fn tokens_so_far(&self, tokenizer: &ChatTokenizer) -> usize {
        if self.texts.is_empty() {
            self.reply.ids.len()
        } else {
            tokenizer.encode(&self.reply.text, Special::Plain).len()
        }
    }

    fn note_usage(&mut self, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        self.uncounted = None;
        self.record.input_tokens = usage.input_tokens;
        self.record.cached_input_tokens = usage.cached_tokens.or(self.record.cached_input_tokens);
        if self.record.chunk_tokens.is_empty() {
            self.record.output_tokens = usage.output_tokens;
            self.record.token_count_source = TokenCountSource::Usage;
        }
    }

    pub(super) fn end(&mut self, at: Nanos, outcome: Outcome, error: Option<String>) {
        self.record.end_ns = Some(at.0);
        self.record.outcome = outcome;
        self.record.error = error;
    }

    /// Counts the tokens, now that no instant is being taken. An engine's tokens are known; those
    /// of a server are its own count, else the text's, spread over the events by their length.
    pub(super) fn settle(&mut self, tokenizer: &ChatTokenizer, kind: TokenizerKind) {
        let record = &mut self.record;
        let tokens = self
            .uncounted
            .take()
            .map(|prompt| tokenizer.encode_chat(&prompt));
        if let Some(Ok(tokens)) = tokens {
            record.input_tokens = tokens.len() as u64;
        }
        if record.outcome == Outcome::Ok && record.chunk_ns.is_empty() {
            record.outcome = Outcome::BadStream;
            record.error = Some("the answer finished without any content".to_owned());
        }
        if self.texts.is_empty() {
            if record.token_count_source == TokenCountSource::Engine {
                record.output_tokens = record.chunk_tokens.len() as u64;
            }
            return;
        }
        if record.token_count_source != TokenCountSource::Usage {
            (record.output_tokens, record.token_count_source) = match kind {
                TokenizerKind::Exact => {
                    self.reply.ids = tokenizer.encode(&self.reply.text, Special::Plain);
                    (self.reply.ids.len() as u64, TokenCountSource::Tokenized)
                }
                // Another model's tokenizer would give a number that looks like knowledge.
                TokenizerKind::StandIn => (self.texts.len() as u64, TokenCountSource::Chunks),
            };
        }
        record.chunk_tokens = spread(record.output_tokens, &self.texts);
    }
}

/// Shares `tokens` out over chunks of the given lengths: one each, and what is left in proportion.
/// Where there are more chunks than tokens, some get none.
fn spread(tokens: u64, lengths: &[usize]) -> Vec<u32> {
    let each = u64::from(tokens >= lengths.len() as u64);
    let surplus = tokens - each * lengths.len() as u64;
    let total: u64 = lengths.iter().map(|&length| length as u64).sum();
    let (mut length_so_far, mut given) = (0, 0);
    lengths
        .iter()
        .map(|&length| {
            length_so_far += length as u64;
            let due = surplus * length_so_far / total.max(1);
            let share = each + due - given;
            given = due;
            share as u32
        })
        .collect()
}

fn finish_of(reason: FinishReason) -> Finish {
    match reason {
        FinishReason::Stop => Finish::Stop,
        FinishReason::Length => Finish::Length,
        FinishReason::Other => Finish::Other,
    }
}

fn outcome_of(cause: FailureCause) -> Outcome {
    match cause {
        FailureCause::Connect => Outcome::Connect,
        FailureCause::Timeout => Outcome::Timeout,
        FailureCause::HttpStatus(status) => Outcome::HttpStatus(status),
        FailureCause::Reset => Outcome::Reset,
        FailureCause::Truncated => Outcome::Truncated,
        FailureCause::BadStream => Outcome::BadStream,
        FailureCause::Rejected => Outcome::Rejected,
        FailureCause::Engine => Outcome::Engine,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{begin, new_record};
    use super::*;
    use crate::workload::schedule::{Session, SessionMaker};
    use backends::PromptForm;
    use proptest::prelude::*;
    use reports::dialect::Dialect;

    #[test]
    fn tokens_are_spread_by_length() {
        assert_eq!(spread(3, &[5, 1, 9]), [1, 1, 1]);
        assert_eq!(spread(6, &[3, 6, 9]), [1, 2, 3]);
        assert_eq!(spread(4, &[3, 6, 9]), [1, 1, 2]);
        assert_eq!(spread(9, &[3, 6, 9]), [2, 3, 4]);
        assert_eq!(spread(1, &[3, 3]), [0, 1]);
        assert_eq!(spread(0, &[3]), [0]);
    }

    /// The stream of `metrics.md` as servers write it: each event at its instant in
    /// milliseconds, role at 40, content at 100 to 180, usage at 190, end at 191.
    const GOLDEN: [(&str, &[u8], &[u64]); 10] = [
        (
            "vllm",
            include_bytes!("../../../backends/corpus/vllm.sse"),
            &[40, 100, 120, 140, 160, 180, 180, 190, 191],
        ),
        (
            "vllm-reasoning",
            include_bytes!("../../../backends/corpus/vllm-reasoning.sse"),
            &[40, 100, 120, 140, 160, 180, 185, 190, 191],
        ),
        (
            "sglang",
            include_bytes!("../../../backends/corpus/sglang.sse"),
            &[40, 100, 120, 140, 160, 180, 190, 190, 191],
        ),
        (
            "mindie",
            include_bytes!("../../../backends/corpus/mindie.sse"),
            &[40, 100, 120, 140, 160, 180, 191],
        ),
        (
            "lmdeploy",
            include_bytes!("../../../backends/corpus/lmdeploy.sse"),
            &[40, 100, 120, 140, 160, 180, 181, 190, 191],
        ),
        // Its role comes together with the first token.
        (
            "xllm",
            include_bytes!("../../../backends/corpus/xllm.sse"),
            &[100, 100, 120, 140, 160, 180, 190, 190, 191],
        ),
        (
            "llama-cpp",
            include_bytes!("../../../backends/corpus/llama-cpp.sse"),
            &[40, 100, 120, 140, 160, 180, 180, 190, 191],
        ),
        // A ping comes between two tokens.
        (
            "llama-cpp-python",
            include_bytes!("../../../backends/corpus/llama-cpp-python.sse"),
            &[40, 100, 120, 140, 150, 160, 180, 185, 190, 191],
        ),
        (
            "tensorrt-llm",
            include_bytes!("../../../backends/corpus/tensorrt-llm.sse"),
            &[40, 100, 120, 140, 160, 180, 190, 190, 191],
        ),
        // Every chunk has the role, and the last of content the reason.
        (
            "tgi",
            include_bytes!("../../../backends/corpus/tgi.sse"),
            &[100, 120, 140, 160, 180, 190, 191],
        ),
    ];

    /// A question of 64 tokens, and whose tokens.
    fn asked() -> (Arc<ChatTokenizer>, Session) {
        let source = models::ModelSource::parse("ref-tiny").expect("built in");
        let tokenizer = models::load_tokenizer(&source).expect("made in memory").1;
        let workload = crate::workload::spec::load("random:64/10").expect("a shape");
        let maker = SessionMaker::new(workload, 1, Arc::clone(&tokenizer)).expect("it renders");
        let session = maker.make_closed(0);
        (tokenizer, session)
    }

    fn golden_record(body: &[u8], instants_ms: &[u64]) -> RequestRecord {
        let text = std::str::from_utf8(body).expect("the corpus is UTF-8");
        let end = if text.contains("\r\n") {
            "\r\n\r\n"
        } else {
            "\n\n"
        };
        let events: Vec<&str> = text.split_inclusive(end).collect();
        assert_eq!(events.len(), instants_ms.len());
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let (mut reader, mut seen) = (backends::http::AnswerReader::default(), Vec::new());
        reader.read(Nanos(1), head.as_bytes(), &mut seen);
        for (event, ms) in events.iter().zip(instants_ms) {
            reader.read(Nanos(ms * 1_000_000), event.as_bytes(), &mut seen);
        }
        reader.close(Nanos(192_000_000), None, &mut seen);
        let (tokenizer, session) = asked();
        let record = new_record(0, &session, &session.turns[0], Nanos::ZERO);
        let mut answer = Answer::new(record, None);
        answer.record.sent_ns = Some(0);
        for event in seen {
            if answer.take(event.at, event.kind).is_break() {
                break;
            }
        }
        answer.settle(&tokenizer, TokenizerKind::StandIn);
        answer.record
    }

    #[test]
    fn the_golden_stream_gives_its_figures_from_every_server() {
        for (name, body, instants) in GOLDEN {
            let record = golden_record(body, instants);
            assert_eq!(record.outcome, Outcome::Ok, "{name}: {:?}", record.error);
            assert_eq!(
                (record.input_tokens, record.output_tokens),
                (31, 10),
                "{name}"
            );
            assert_eq!(record.chunk_tokens, [2; 5], "{name}");
            let figures = (record.ttft_ns(), record.tpot_ns(), record.e2e_ns());
            let ms = |ms: u64| Some(ms * 1_000_000);
            assert_eq!(figures, (ms(100), ms(10), ms(180)), "{name}");
            let gaps: Vec<(u64, u32)> = record.gaps_ns().collect();
            assert_eq!(
                gaps,
                [(20_000_000, 2); 4],
                "{name}: ITL is 10 ms for each token"
            );
            assert_eq!(record.end_ns, ms(191), "{name}");
        }
    }

    /// What `metrics.md` has for it in other tools' words: mean milliseconds, to a tenth.
    const IN_OTHER_WORDS: [(Dialect, &[(&str, f64)]); 4] = [
        (
            Dialect::Vllm,
            &[
                ("TTFT", 40.0),
                ("TPOT", 15.6),
                ("ITL", 28.0),
                ("E2EL", 180.0),
            ],
        ),
        (
            Dialect::Aiperf,
            &[
                ("time to first token", 100.0),
                ("inter token latency", 8.9),
                ("request latency", 180.0),
            ],
        ),
        (
            Dialect::Guidellm,
            &[
                ("TTFT", 100.0),
                ("ITL", 8.9),
                ("TPOT", 18.0),
                ("request latency", 191.0),
            ],
        ),
        (
            Dialect::Sglang,
            &[
                ("TTFT", 100.0),
                ("TPOT", 10.1),
                ("ITL", 20.0),
                ("E2E latency", 191.0),
            ],
        ),
    ];

    fn assert_in_words(
        name: &str,
        record: &RequestRecord,
        dialect: Dialect,
        listed: &[(&str, f64)],
    ) {
        let window = reports::Window {
            start_ns: 0,
            end_ns: 1_000_000_000,
        };
        let figures = reports::dialect::figures(dialect, std::iter::once(record), window);
        for &(figure, listed_ms) in listed {
            let mut metrics = figures.metrics.iter();
            let found = metrics.find(|metric| metric.name == figure);
            let mean_s = found.and_then(|metric| metric.mean_s).expect(figure);
            let tenths = |ms: f64| (ms * 10.0).round() as u64;
            let (found, listed) = (tenths(mean_s * 1e3), tenths(listed_ms));
            assert_eq!(found, listed, "{name} in {dialect}'s words: {figure}");
        }
    }

    #[test]
    fn the_golden_stream_gives_other_tools_theirs_from_its_bytes() {
        // Where role, reason and usage come, and when, is the server's affair, and some tools count
        // them; here they are as `metrics.md` has them.
        let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
        let content = ["你好", "，今", "天天", "气很", "好。"].map(|text| {
            let reason = if text == "好。" {
                "\"length\""
            } else {
                "null"
            };
            format!(
                r#"{{"choices":[{{"delta":{{"content":"{text}"}},"finish_reason":{reason}}}]}}"#
            )
        });
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":31,"completion_tokens":10}}"#;
        let all = [role]
            .into_iter()
            .chain(content.iter().map(String::as_str))
            .chain([usage, "[DONE]"]);
        let body: Vec<String> = all.map(|data| format!("data: {data}\n\n")).collect();
        let body = body.concat();
        let as_defined = golden_record(body.as_bytes(), &[40, 100, 120, 140, 160, 180, 190, 191]);
        for (dialect, listed) in IN_OTHER_WORDS {
            assert_in_words("as defined", &as_defined, dialect, listed);
        }
        // Tools that count content alone say the same of every server.
        for (name, body, instants) in GOLDEN {
            let record = golden_record(body, instants);
            for (dialect, listed) in &IN_OTHER_WORDS[1..] {
                assert_in_words(name, &record, *dialect, listed);
            }
        }
    }

    #[test]
    fn a_prompt_that_the_server_does_not_count_is_counted_in_the_end() {
        let (tokenizer, session) = asked();
        let turn = &session.turns[0];
        let prompt = begin(&tokenizer, &session)
            .prompt(0, "", &turn.user, PromptForm::Messages)
            .expect("it renders");
        let usage = Usage {
            input_tokens: 7,
            cached_tokens: None,
            output_tokens: 1,
        };
        for (usage, counted) in [(None, 64), (Some(usage), 7)] {
            let mut record = new_record(0, &session, turn, Nanos::ZERO);
            record.input_tokens = 0;
            let mut answer = Answer::new(record, Some(Arc::clone(&prompt.messages)));
            let text = EventKind::Text {
                text: "好".into(),
                coalesced: false,
            };
            let reason = FinishReason::Stop;
            assert!(answer.take(Nanos(1), text).is_continue());
            let end = EventKind::Finished { reason, usage };
            assert!(answer.take(Nanos(2), end).is_break());
            answer.settle(&tokenizer, TokenizerKind::StandIn);
            assert_eq!(answer.record.input_tokens, counted);
        }
    }

    proptest! {
        #[test]
        fn spreading_loses_no_token(
            tokens in 0..500_u64,
            weights in prop::collection::vec(1..40_usize, 1..60),
        ) {
            let shares = spread(tokens, &weights);
            prop_assert_eq!(shares.iter().map(|&s| u64::from(s)).sum::<u64>(), tokens);
            prop_assert_eq!(shares.len(), weights.len());
        }
    }
}
