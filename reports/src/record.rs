//! One request as it was measured: the line of `requests.jsonl` and the input of every statistic.
//!
//! Invariant: all instants are nanoseconds since the start of the run, taken from one clock, and
//! `chunk_ns` is non-decreasing. Nothing derived is stored here except what the metric methods
//! compute; they are the definitions of TTFT, ITL, TPOT and E2E used everywhere.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a request ended. The closed set of `metrics.md`; reports count by it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Finished with every token.
    Ok,
    /// The server answered with a status other than 200.
    HttpStatus(u16),
    /// No connection could be made.
    Connect,
    /// Not finished within the request's own time limit.
    Timeout,
    /// The connection was reset or closed with an error in mid-stream.
    Reset,
    /// The stream ended cleanly but without a finish.
    Truncated,
    /// The stream was not valid SSE, JSON or UTF-8.
    BadStream,
    /// Refused by an admission limit.
    Rejected,
    /// The engine failed.
    Engine,
    /// Cancelled by the user, as the workload planned.
    Cancelled,
    /// Still running when the drain time was over.
    Unfinished,
}

impl Outcome {
    /// Neither finished nor cancelled by the user, nor merely late: the system under test
    /// failed it.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Ok | Self::Cancelled | Self::Unfinished)
    }
}

/// Why the backend ended an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// End-of-sequence token or stop string.
    Stop,
    /// As long as was asked for.
    Length,
    /// Anything else a server may say.
    Other,
}

/// Where the number of output tokens comes from.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum TokenCountSource {
    /// The built-in engine counted its own tokens.
    Engine,
    /// The server's `usage` object.
    Usage,
    /// The whole text was tokenised after the run.
    Tokenized,
    /// Nothing better was known: one token for each content chunk.
    Chunks,
}

/// One request, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestRecord {
    /// Position in the schedule, from 0.
    pub id: u64,
    /// The conversation it belongs to.
    pub session: u64,
    /// The turn within the conversation, from 0.
    pub turn: u32,
    /// Workload class, for example `casual_chat`.
    pub class: String,
    /// The schedule's instant: what TTFT and E2E count from.
    pub intended_ns: u64,
    /// How far this turn was moved because the reply before it had not ended; 0 for most.
    pub pushed_ns: u64,
    /// First byte handed to the transport (in-process: handed to the engine).
    pub sent_ns: Option<u64>,
    /// Admitted by the engine, where the backend can tell.
    pub admitted_ns: Option<u64>,
    /// Instant of each event that carried output, in order.
    pub chunk_ns: Vec<u64>,
    /// Output tokens of each of those events; same length.
    pub chunk_tokens: Vec<u32>,
    /// Instant of each event of a server that carried a choice but no output, in order: a role
    /// alone, a finish reason. No metric of ours counts them; other tools' do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bare_ns: Vec<u64>,
    /// Instant of the event that carried the server's token counts and no choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_ns: Option<u64>,
    /// When the request ended, however it ended.
    pub end_ns: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why the backend says that the answer ended, if it finished.
    pub finish: Option<Finish>,
    /// Prompt tokens, by the server's count if it gave one, else by the plan.
    pub input_tokens: u64,
    /// Prompt tokens that the workload planned.
    pub planned_input_tokens: u64,
    /// Prompt tokens found in a prefix cache, where the backend can tell.
    pub cached_input_tokens: Option<u64>,
    /// Output tokens received.
    pub output_tokens: u64,
    /// Output tokens that the workload asked for.
    pub planned_output_tokens: u64,
    /// Where `output_tokens` comes from.
    pub token_count_source: TokenCountSource,
    /// What went wrong, in words; absent when nothing did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl RequestRecord {
    /// Finished, and not as long as was asked for.
    ///
    /// Text that is tokenised again may differ by a token or two from what was generated, so there
    /// a backend that says `length` is believed; against a count of its own it is not.
    pub fn is_off_length(&self) -> bool {
        let vouched = self.finish == Some(Finish::Length)
            && self.token_count_source == TokenCountSource::Tokenized;
        let equal = self.output_tokens == self.planned_output_tokens;
        self.outcome == Outcome::Ok && !vouched && !equal
    }

    /// First content instant − intended instant.
    pub fn ttft_ns(&self) -> Option<u64> {
        self.chunk_ns
            .first()
            .map(|first| first.saturating_sub(self.intended_ns))
    }

    /// First content instant − first byte sent.
    pub fn ttft_from_send_ns(&self) -> Option<u64> {
        Some(self.chunk_ns.first()?.saturating_sub(self.sent_ns?))
    }

    /// Last content instant − intended instant.
    pub fn e2e_ns(&self) -> Option<u64> {
        self.chunk_ns
            .last()
            .map(|last| last.saturating_sub(self.intended_ns))
    }

    /// `(t_m − t_1) / (n − n_1)` with `n` the output tokens and `n_1` those of the first chunk;
    /// absent when every token came with the first chunk.
    pub fn tpot_ns(&self) -> Option<u64> {
        let (first, last) = (self.chunk_ns.first()?, self.chunk_ns.last()?);
        let with_first = u64::from(*self.chunk_tokens.first()?);
        let later = self.output_tokens.checked_sub(with_first)?;
        last.saturating_sub(*first).checked_div(later)
    }

    /// `sent − intended`.
    pub fn send_lag_ns(&self) -> Option<u64> {
        self.sent_ns
            .map(|sent| sent.saturating_sub(self.intended_ns))
    }

    /// Engine admission − sent.
    pub fn queue_ns(&self) -> Option<u64> {
        Some(self.admitted_ns?.saturating_sub(self.sent_ns?))
    }

    /// Gaps between content events as `(gap, tokens in the later event)`.
    ///
    /// ITL records `gap / tokens`, `tokens` times; the raw gap is `chunk_gap`.
    pub fn gaps_ns(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let gaps = self
            .chunk_ns
            .windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]));
        gaps.zip(self.chunk_tokens.iter().skip(1).copied())
    }
}
