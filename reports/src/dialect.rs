//! A run in the words of another tool: the same instants, that tool's definitions.
//!
//! Tools agree on few of their names: whether an empty role chunk is a first token, whether the
//! usage chunk or the end of the stream ends a request, whether a gap is one of chunks or of
//! tokens. Here each tool is a row of such choices, made from its source; the formulas are shared.
//! All of them count from the send, take finished requests alone and interpolate percentiles
//! linearly.
//!
//! Invariant: nothing here is a metric of ours, and nothing of ours depends on it. What a tool's
//! *client* would have measured (its own lateness, lost reads) cannot be had from our instants.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::accumulate::{SECOND_NS, Window};
use crate::record::{Outcome, RequestRecord};

use Formula::{Gaps, Span, SpanPerLaterToken, SpanPerToken, TokenGaps};
use Mark::{End, FirstChoice, FirstContent, LastChoice, LastContent, LastData, Sent};

/// Another tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// `vllm bench serve`, in Python and in Rust.
    Vllm,
    /// `SGLang`'s `bench_serving`.
    Sglang,
    /// NVIDIA `AIPerf`.
    Aiperf,
    /// `GuideLLM`.
    Guidellm,
    /// NVIDIA `GenAI-Perf`.
    GenaiPerf,
    /// Ray's `LLMPerf`.
    Llmperf,
    /// Kubernetes' inference-perf.
    InferencePerf,
    /// `EvalScope` perf.
    Evalscope,
    /// `AISBench`.
    Aisbench,
}

/// Not a tool whose definitions are known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a dialect; accepted are {accepted}")]
pub struct DialectError {
    name: String,
    accepted: String,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Vllm,
        Self::Sglang,
        Self::Aiperf,
        Self::Guidellm,
        Self::GenaiPerf,
        Self::Llmperf,
        Self::InferencePerf,
        Self::Evalscope,
        Self::Aisbench,
    ];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Aiperf => "aiperf",
            Self::Guidellm => "guidellm",
            Self::GenaiPerf => "genai-perf",
            Self::Llmperf => "llmperf",
            Self::InferencePerf => "inference-perf",
            Self::Evalscope => "evalscope",
            Self::Aisbench => "aisbench",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = DialectError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| DialectError {
            name: text.to_owned(),
            accepted: Self::ALL.map(|known| format!("`{known}`")).join(", "),
        })
    }
}

/// An instant in the life of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The send.
    Sent,
    /// First event with output.
    FirstContent,
    /// First event with a choice, an empty role chunk included.
    FirstChoice,
    /// Last event with output.
    LastContent,
    /// Last event with a choice, a bare finish reason included.
    LastChoice,
    /// Last event with data, usage included.
    LastData,
    /// The end of the stream.
    End,
}

/// Which events have gaps between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Events {
    Content,
    Choices,
    Data,
}

/// How a figure is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Formula {
    /// From one instant to another.
    Span(Mark, Mark),
    /// The same over all output tokens.
    SpanPerToken(Mark, Mark),
    /// The same over all but one of them; none for a single token.
    SpanPerLaterToken(Mark, Mark),
    /// Each gap between two events, as it is.
    Gaps(Events),
    /// Each gap between two tokens, where the tokens of a chunk have none.
    TokenGaps,
}

/// A figure under the name the tool gives it.
type Named = (&'static str, Formula);

/// What requests per second are requests of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Finished,
    All,
}

/// The choices of a tool.
struct Definition {
    figures: &'static [Named],
    /// Where the run ends that throughput is over.
    until: Mark,
    requests: Counted,
}

const VLLM: &[Named] = &[
    ("TTFT", Span(Sent, FirstChoice)),
    ("TPOT", SpanPerLaterToken(FirstChoice, LastChoice)),
    ("ITL", Gaps(Events::Choices)),
    ("E2EL", Span(Sent, LastChoice)),
];
const SGLANG: &[Named] = &[
    ("TTFT", Span(Sent, FirstContent)),
    ("TPOT", SpanPerLaterToken(FirstContent, End)),
    ("ITL", Gaps(Events::Content)),
    ("E2E latency", Span(Sent, End)),
];
const AIPERF: &[Named] = &[
    ("time to first token", Span(Sent, FirstContent)),
    (
        "inter token latency",
        SpanPerLaterToken(FirstContent, LastContent),
    ),
    ("request latency", Span(Sent, LastContent)),
];
const GUIDELLM: &[Named] = &[
    ("TTFT", Span(Sent, FirstContent)),
    ("ITL", SpanPerLaterToken(FirstContent, LastContent)),
    ("TPOT", SpanPerToken(Sent, LastContent)),
    ("request latency", Span(Sent, End)),
];
const LLMPERF: &[Named] = &[
    ("ttft", Span(Sent, FirstContent)),
    ("inter token latency", SpanPerToken(Sent, LastContent)),
    ("end to end latency", Span(Sent, End)),
];
const INFERENCE_PERF: &[Named] = &[
    ("time to first token", Span(Sent, FirstContent)),
    (
        "time per output token",
        SpanPerLaterToken(FirstContent, LastContent),
    ),
    ("inter token latency", TokenGaps),
    ("normalized time per output token", SpanPerToken(Sent, End)),
    ("request latency", Span(Sent, End)),
];
const EVALSCOPE: &[Named] = &[
    ("TTFT", Span(Sent, FirstChoice)),
    ("TPOT", SpanPerLaterToken(FirstChoice, LastData)),
    ("ITL", Gaps(Events::Choices)),
    ("latency", Span(Sent, LastData)),
];
const AISBENCH: &[Named] = &[
    ("TTFT", Span(Sent, FirstChoice)),
    ("TPOT", SpanPerLaterToken(FirstChoice, LastData)),
    ("ITL", Gaps(Events::Data)),
    ("E2EL", Span(Sent, LastData)),
];

impl Dialect {
    fn definition(self) -> Definition {
        let (figures, until) = match self {
            Self::Vllm => (VLLM, End),
            Self::Sglang => (SGLANG, End),
            Self::Aiperf | Self::GenaiPerf => (AIPERF, LastContent),
            Self::Guidellm => (GUIDELLM, End),
            Self::Llmperf => (LLMPERF, End),
            Self::InferencePerf => (INFERENCE_PERF, End),
            Self::Evalscope => (EVALSCOPE, End),
            Self::Aisbench => (AISBENCH, End),
        };
        let requests = match self {
            Self::GenaiPerf => Counted::All,
            _ => Counted::Finished,
        };
        Definition {
            figures,
            until,
            requests,
        }
    }
}

fn mark_ns(record: &RequestRecord, mark: Mark) -> Option<u64> {
    let first = |list: &[u64]| list.first().copied();
    let last = |list: &[u64]| list.last().copied();
    let (content, bare) = (&record.chunk_ns, &record.bare_ns);
    match mark {
        Mark::Sent => record.sent_ns,
        Mark::FirstContent => first(content),
        Mark::FirstChoice => first(content).into_iter().chain(first(bare)).min(),
        Mark::LastContent => last(content),
        Mark::LastChoice => last(content).max(last(bare)),
        Mark::LastData => mark_ns(record, Mark::LastChoice).max(record.usage_ns),
        Mark::End => record.end_ns.or_else(|| mark_ns(record, Mark::LastData)),
    }
}

/// Instants of events, in order.
fn events_ns(record: &RequestRecord, events: Events) -> Vec<u64> {
    let mut instants = record.chunk_ns.clone();
    if events != Events::Content {
        instants.extend(&record.bare_ns);
    }
    if events == Events::Data {
        instants.extend(record.usage_ns);
    }
    instants.sort_unstable();
    instants
}

/// Adds the values of one request, in nanoseconds.
fn add_values(record: &RequestRecord, formula: Formula, values: &mut Vec<f64>) {
    let span = |from, to| {
        let (from, to) = (mark_ns(record, from)?, mark_ns(record, to)?);
        Some(to.saturating_sub(from) as f64)
    };
    let tokens = record.output_tokens as f64;
    match formula {
        Span(from, to) => values.extend(span(from, to)),
        SpanPerToken(from, to) if tokens > 0.0 => {
            values.extend(span(from, to).map(|span| span / tokens));
        }
        SpanPerLaterToken(from, to) if tokens > 1.0 => {
            values.extend(span(from, to).map(|span| span / (tokens - 1.0)));
        }
        SpanPerToken(..) | SpanPerLaterToken(..) => {}
        Gaps(events) => {
            let instants = events_ns(record, events);
            values.extend(instants.windows(2).map(|pair| (pair[1] - pair[0]) as f64));
        }
        TokenGaps => {
            let mut before = None;
            for (&at, &tokens) in record.chunk_ns.iter().zip(&record.chunk_tokens) {
                let gap = before.map(|before| at.saturating_sub(before) as f64);
                values.extend(gap.filter(|_| tokens > 0));
                values.extend((1..tokens).map(|_| 0.0));
                before = Some(at);
            }
        }
    }
}

/// A figure of a tool over a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DialectMetric {
    /// The tool's name for it.
    pub name: &'static str,
    /// Values there are.
    pub count: u64,
    /// Mean in seconds.
    pub mean_s: Option<f64>,
    /// Median in seconds.
    pub p50_s: Option<f64>,
    /// 90th percentile in seconds.
    pub p90_s: Option<f64>,
    /// 95th percentile in seconds.
    pub p95_s: Option<f64>,
    /// 99th percentile in seconds.
    pub p99_s: Option<f64>,
}

/// A run in the words of a tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DialectFigures {
    /// Whose words.
    pub dialect: Dialect,
    /// Requests of the measured window that finished.
    pub finished: u64,
    /// All requests of the measured window.
    pub requests: u64,
    /// From the first send to the end of the last request, in seconds.
    pub duration_s: f64,
    /// Requests per second.
    pub request_rate: f64,
    /// Output tokens per second.
    pub output_tokens_per_s: f64,
    /// Latencies.
    pub metrics: Vec<DialectMetric>,
}

/// What a tool would say of the requests that were intended in the window.
pub fn figures<'a>(
    dialect: Dialect,
    records: impl Iterator<Item = &'a RequestRecord>,
    window: Window,
) -> DialectFigures {
    let definition = dialect.definition();
    let mut values = vec![Vec::new(); definition.figures.len()];
    let (mut finished, mut all, mut tokens) = (0_u64, 0_u64, 0_u64);
    let (mut from_ns, mut until_ns) = (u64::MAX, 0);
    for record in records.filter(|record| window.contains(record.intended_ns)) {
        all += 1;
        if record.outcome != Outcome::Ok {
            continue;
        }
        finished += 1;
        tokens += record.output_tokens;
        from_ns = from_ns.min(record.sent_ns.unwrap_or(u64::MAX));
        until_ns = until_ns.max(mark_ns(record, definition.until).unwrap_or(0));
        for (&(_, formula), values) in definition.figures.iter().zip(&mut values) {
            add_values(record, formula, values);
        }
    }
    let duration_s = until_ns.saturating_sub(from_ns) as f64 / SECOND_NS as f64;
    let rate = |count: u64| {
        if duration_s > 0.0 {
            count as f64 / duration_s
        } else {
            0.0
        }
    };
    let names = definition.figures.iter().map(|&(name, _)| name);
    DialectFigures {
        dialect,
        finished,
        requests: all,
        duration_s,
        request_rate: rate(match definition.requests {
            Counted::Finished => finished,
            Counted::All => all,
        }),
        output_tokens_per_s: rate(tokens),
        metrics: names
            .zip(values)
            .map(|(name, values)| metric(name, values))
            .collect(),
    }
}

/// The values of one request in seconds, by the tool's name of the figure.
pub(crate) fn values_s(
    dialect: Dialect,
    record: &RequestRecord,
) -> impl Iterator<Item = (&'static str, Vec<f64>)> {
    let figures = dialect.definition().figures;
    figures.iter().map(|&(name, formula)| {
        let mut values = Vec::new();
        add_values(record, formula, &mut values);
        for value in &mut values {
            *value /= SECOND_NS as f64;
        }
        (name, values)
    })
}

fn metric(name: &'static str, mut values: Vec<f64>) -> DialectMetric {
    values.sort_unstable_by(f64::total_cmp);
    let seconds = |ns: f64| ns / SECOND_NS as f64;
    let at = |quantile| linear(&values, quantile).map(seconds);
    let count = values.len() as u64;
    DialectMetric {
        name,
        count,
        mean_s: (count > 0).then(|| seconds(values.iter().sum::<f64>() / count as f64)),
        p50_s: at(0.5),
        p90_s: at(0.9),
        p95_s: at(0.95),
        p99_s: at(0.99),
    }
}

/// A quantile between the two nearest ranks, as numpy's default has it.
pub(crate) fn linear(sorted: &[f64], quantile: f64) -> Option<f64> {
    let place = quantile * (sorted.len().checked_sub(1)?) as f64;
    let low = sorted[place.floor() as usize];
    let high = sorted[place.ceil() as usize];
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated() {
        assert_eq!(linear(&[], 0.5), None);
        assert_eq!(linear(&[3.0], 0.99), Some(3.0));
        assert_eq!(linear(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
        assert_eq!(linear(&[0.0, 10.0], 0.9), Some(9.0));
    }

    #[test]
    fn names_are_read_and_written() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.name().parse(), Ok(dialect));
        }
        let error = "wrk".parse::<Dialect>().expect_err("unknown").to_string();
        assert!(error.contains("accepted are `vllm`, `sglang`"), "{error}");
    }
}
