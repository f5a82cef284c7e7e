//! `report.json`: the product of a run. Everything else is a function of it.
//!
//! Invariant: the top-level keys and the fields of `summary` are a contract with scripts outside
//! the project; a change that breaks them raises [`SCHEMA_VERSION`]. Times in keys that end in
//! `_s` are seconds, `_ns` nanoseconds. A quantile that cannot be trusted is `null`, and
//! `null_reasons` says why.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cost::Cost;
pub use crate::energy::{Energy, EnergyDevice};
use crate::lengths::LengthBin;
use crate::preflight::Preflight;
pub use crate::server_metrics::ServerMetrics;
use crate::validity::Validity;

/// Version of the schema that this build writes.
pub const SCHEMA_VERSION: u32 = 2;

/// A whole report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// When, where and how the run was made.
    pub run: RunInfo,
    /// What was measured.
    pub target: TargetInfo,
    /// The model it served.
    pub model: ModelInfo,
    /// The load it was given.
    pub workload: WorkloadInfo,
    /// Can the figures be trusted?
    pub validity: Validity,
    /// The load generator's own error.
    pub client_error: ClientError,
    /// The figures.
    pub summary: Summary,
    /// Latency distributions, mergeable without error.
    pub histograms: BTreeMap<Metric, EncodedHistogram>,
    /// What happened each second.
    pub series: Vec<SecondPoint>,
    /// Energy, when a probe was asked; its figures are null, with reasons, where that gave none.
    pub energy: Option<Energy>,
    /// What the server told about itself, when one was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_metrics: Option<ServerMetrics>,
    /// Device time by kind of work, when the engine is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_time: Option<DeviceTime>,
    /// Cost, when a price applies.
    pub cost: Option<Cost>,
    /// What a reader should know beside the verdict.
    pub warnings: Vec<String>,
}

/// When, where and how a run was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunInfo {
    /// Version of weighbridge.
    pub tool_version: String,
    /// Git commit of weighbridge, when built from a checkout.
    pub git_commit: Option<String>,
    /// The command line, with secrets left out.
    pub command: Vec<String>,
    /// Everything random comes from this.
    pub seed: u64,
    /// Hash of the schedule: equal for equal seed and workload on every machine and target.
    pub schedule_hash: String,
    /// RFC 3339; for a run in virtual time, the Unix epoch.
    pub start: String,
    /// RFC 3339.
    pub end: String,
    /// Measured window, in seconds from the start of the run.
    pub window_s: (f64, f64),
    /// True when the run was interrupted and its figures cover only a part.
    pub incomplete: bool,
    /// The machine that made the load.
    pub host: HostInfo,
    /// What was used of it; null in virtual time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_use: Option<HostUse>,
    /// Settings that change results: threads, KV memory, features.
    pub environment: BTreeMap<String, String>,
}

/// The machine that made the load (for in-process targets also the one under test).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostInfo {
    /// Operating system and kernel.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Processor name as the system reports it.
    pub cpu: String,
    /// Logical processors available.
    pub logical_cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// What all programs together used of the machine that made the load, looked at each second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostUse {
    /// Looks in the window.
    pub looks: u64,
    /// Mean busy share of all processors in the window, 0 to 1.
    pub cpu_busy_mean: f64,
    /// Of the busiest second.
    pub cpu_busy_max: f64,
    /// Most memory in use, bytes.
    pub memory_used_max_bytes: u64,
}

impl HostUse {
    /// Of looks: busy share and bytes; `None` without any.
    pub fn of(looks: &[(f64, u64)]) -> Option<Self> {
        let busy = || looks.iter().map(|look| look.0);
        (!looks.is_empty()).then(|| Self {
            looks: looks.len() as u64,
            cpu_busy_mean: busy().sum::<f64>() / looks.len() as f64,
            cpu_busy_max: busy().fold(0.0, f64::max),
            memory_used_max_bytes: looks.iter().map(|look| look.1).max().unwrap_or_default(),
        })
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetInfo {
    /// As given to `--target`.
    pub name: String,
    /// `engine`, `simulated` or `http`.
    pub kind: String,
    /// Device name in words.
    pub device: String,
    /// True when time was virtual.
    pub virtual_time: bool,
    /// Details that differ by target: KV blocks, batch limits, server headers.
    pub details: BTreeMap<String, String>,
}

/// The model that was served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelInfo {
    /// As given to `--model`.
    pub name: String,
    /// `llama` or what else the file says.
    pub architecture: Option<String>,
    /// Parameters.
    pub parameters: Option<u64>,
    /// Weight format, for example `Q4_1`.
    pub weights: Option<String>,
    /// Bytes of weights in memory.
    pub weight_bytes: Option<u64>,
    /// Longest context in tokens.
    pub context_limit: Option<u64>,
    /// SHA-256 of the file, or the seed of random weights in words.
    pub identity: Option<String>,
    /// Tokenizer used to count tokens on the client side.
    pub tokenizer: String,
}

/// The load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadInfo {
    /// Preset or file.
    pub name: String,
    /// In a sentence.
    pub description: String,
    /// `open` or `closed`.
    pub load: String,
    /// Requests per second asked for (open loop).
    pub target_rate: Option<f64>,
    /// Users (closed loop).
    pub users: Option<u32>,
    /// Arrival process in words.
    pub arrivals: String,
    /// Warm-up in seconds, outside the window.
    pub warmup_s: f64,
    /// Window in seconds.
    pub duration_s: f64,
    /// `tokens` or `text`: what the lengths are counted in.
    pub length_mode: String,
    /// Limits a request must meet to count as goodput.
    pub slo: Option<Slo>,
    /// Conversations of the chatbot whose users are known, not prompts of one length or a trace.
    #[serde(default)]
    pub chatbot: bool,
    /// The window holds a whole day's rise and fall.
    #[serde(default)]
    pub whole_day: bool,
    /// What the generated schedule is like.
    pub realised: RealisedWorkload,
    /// The resolved scenario, as a scenario file that repeats the run.
    pub scenario: serde_json::Value,
}

/// What the generated schedule is like, to be held against its specification.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RealisedWorkload {
    /// Requests in the schedule (open loop), or started (closed loop).
    pub requests: u64,
    /// Sessions they belong to.
    pub sessions: u64,
    /// Mean prompt tokens.
    pub prompt_tokens_mean: f64,
    /// Median prompt tokens.
    pub prompt_tokens_p50: u64,
    /// 95th percentile of prompt tokens.
    pub prompt_tokens_p95: u64,
    /// Mean requested output tokens.
    pub output_tokens_mean: f64,
    /// Median requested output tokens.
    pub output_tokens_p50: u64,
    /// Requests whose history was cut to fit the context.
    pub truncated: u64,
    /// Requests that the workload cancels.
    pub cancelled: u64,
    /// Coefficient of variation of the gaps between session arrivals.
    pub arrival_cv: Option<f64>,
    /// Share of prompt tokens that an unbounded prefix cache would hold.
    pub ideal_prefix_hit: Option<f64>,
    /// Characters of the text for a token of the model, where it is our Chinese text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub characters_per_token: Option<f64>,
    /// Requests by class.
    pub classes: BTreeMap<String, u64>,
    /// Records of a trace that were not replayed, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, u64>,
    /// Prompts of a trace that are shorter than the model's chat template, and were made longer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lengthened: u64,
    /// Sessions that come a second time, since a trace was used up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Latency limits per request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Limit on TTFT in seconds.
    pub ttft_s: Option<f64>,
    /// Limit on TPOT in seconds.
    pub tpot_s: Option<f64>,
    /// Limit on E2E in seconds.
    pub e2e_s: Option<f64>,
}

/// The load generator's own error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClientError {
    /// Median lateness of sends, seconds.
    pub send_lag_p50_s: Option<f64>,
    /// 99th percentile (nearest rank over all that there are), seconds.
    pub send_lag_p99_s: Option<f64>,
    /// Largest lateness, seconds.
    pub send_lag_max_s: Option<f64>,
    /// Lateness of the clock's own timers, measured before the run: median, seconds.
    pub timer_p50_s: Option<f64>,
    /// The same, 99th percentile.
    pub timer_p99_s: Option<f64>,
    /// Turns that waited for the reply before them, and so moved in the schedule.
    pub pushed_turns: u64,
    /// CPU seconds this process used in the run over wall seconds; in-process targets include
    /// the engine.
    pub cpu_cores_used: Option<f64>,
    /// The CPU seconds themselves, from before the first request was prepared to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// Content events that arrived with the same read as the one before.
    pub coalesced_share: Option<f64>,
    /// The client against the bundled ground truth, before a run over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
    /// Why there is none, though the run is over HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight_skipped: Option<String>,
}

/// The figures of the measured window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Length of the window, seconds.
    pub window_s: f64,
    /// Requests intended in the window, by how they ended.
    pub requests: RequestCounts,
    /// Failures by cause.
    pub failures: BTreeMap<String, u64>,
    /// Prompt tokens of requests whose first token fell in the window.
    pub input_tokens: u64,
    /// Of those, tokens found in a prefix cache, where known.
    pub cached_input_tokens: Option<u64>,
    /// Output tokens whose instant fell in the window.
    pub output_tokens: u64,
    /// Requests completed in the window per second.
    pub request_rate: Rate,
    /// Output tokens in the window per second.
    pub output_tokens_per_s: Rate,
    /// Requests intended in the window that met every SLO, per second; null without an SLO.
    pub goodput_rate: Option<Rate>,
    /// The same as a share of all requests intended in the window.
    pub goodput_share: Option<f64>,
    /// What was served: requests intended in the window that met every SLO (without an SLO: that
    /// finished).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Served>,
    /// Prompts of the requests intended in the window, by length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt_lengths: Vec<LengthBin>,
    /// Answers of those that finished, by length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer_lengths: Vec<LengthBin>,
    /// Where output token counts come from.
    pub token_count_source: Vec<crate::TokenCountSource>,
    /// Time to first token, from the intended instant.
    pub ttft_s: MetricSummary,
    /// Time to first token, from the first byte sent.
    pub ttft_from_send_s: MetricSummary,
    /// Inter-token latency, per token.
    pub itl_s: MetricSummary,
    /// Raw gaps between content events.
    pub chunk_gap_s: MetricSummary,
    /// Time per output token after the first chunk, per request.
    pub tpot_s: MetricSummary,
    /// End to end, from the intended instant to the last content.
    pub e2e_s: MetricSummary,
    /// Lateness of the load generator.
    pub send_lag_s: MetricSummary,
    /// Wait for admission by the engine.
    pub queue_s: MetricSummary,
}

/// Answers of at most so many tokens have a list price of their own at some services.
pub const SHORT_ANSWER: u64 = 200;
/// Prompts of more tokens than this have another list price.
pub const LONG_PROMPT: u64 = 32_768;

/// Requests that were served, and their tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Served {
    /// Requests.
    pub requests: u64,
    /// Their prompt tokens.
    pub input_tokens: u64,
    /// Of those, found in a prefix cache, where known.
    pub cached_input_tokens: Option<u64>,
    /// Their output tokens.
    pub output_tokens: u64,
    /// Of those, in answers of at most [`SHORT_ANSWER`] tokens.
    pub short_output_tokens: u64,
    /// Requests with more than [`LONG_PROMPT`] prompt tokens.
    pub long_prompts: u64,
}

/// Device time in the window by kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceTime {
    /// Seconds spent on prompts. Of a step with both, what it took longer than a step of the same
    /// sequences without prompts.
    pub prefill_s: f64,
    /// Seconds spent on output tokens.
    pub decode_s: f64,
    /// Seconds without a step.
    pub idle_s: f64,
    /// Steps.
    pub steps: u64,
}

/// Requests intended in the window, by how they ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RequestCounts {
    /// All of them.
    pub total: u64,
    /// Finished.
    pub ok: u64,
    /// Failed by the system under test.
    pub failed: u64,
    /// Cancelled by the user, as planned.
    pub cancelled: u64,
    /// Still running when the drain time was over.
    pub unfinished: u64,
}

impl RequestCounts {
    /// Those that goodput is a share of: all but the ones that users gave up as planned.
    pub fn judged(self) -> u64 {
        self.total - self.cancelled.min(self.total)
    }
}

/// A rate with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rate {
    /// Per second.
    pub per_s: f64,
    /// 95 % interval by resampling blocks of seconds; null when the window is too short.
    pub ci95: Option<(f64, f64)>,
}

/// One latency metric.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricSummary {
    /// Mean of the raw values.
    pub mean: Option<f64>,
    /// Median, nearest rank.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile; needs 662 requests.
    pub p99: Option<f64>,
    /// 99.9th percentile; needs 6,636 requests.
    pub p999: Option<f64>,
    /// Largest value.
    pub max: Option<f64>,
    /// Values recorded.
    pub count: u64,
    /// Requests they come from.
    pub requests: u64,
    /// 95 % interval of each figure above, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ci95: BTreeMap<String, (f64, f64)>,
    /// Why a figure above is null, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub null_reasons: BTreeMap<String, String>,
}

/// The latency metrics.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Time to first token.
    Ttft,
    /// Time to first token, from the send.
    TtftFromSend,
    /// Inter-token latency, per token.
    Itl,
    /// Raw gap between content events.
    ChunkGap,
    /// Time per output token, per request.
    Tpot,
    /// End to end.
    E2e,
    /// Lateness of the load generator.
    SendLag,
    /// Wait for admission.
    Queue,
}

impl Metric {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Ttft,
        Self::TtftFromSend,
        Self::Itl,
        Self::ChunkGap,
        Self::Tpot,
        Self::E2e,
        Self::SendLag,
        Self::Queue,
    ];

    /// Its key in `histograms` and its tag in `latency.hlog`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::TtftFromSend => "ttft_from_send",
            Self::Itl => "itl",
            Self::ChunkGap => "chunk_gap",
            Self::Tpot => "tpot",
            Self::E2e => "e2e",
            Self::SendLag => "send_lag",
            Self::Queue => "queue",
        }
    }
}

impl Metric {
    /// As people write it.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Ttft => "TTFT",
            Self::TtftFromSend => "TTFT from send",
            Self::Itl => "ITL",
            Self::ChunkGap => "Chunk gap",
            Self::Tpot => "TPOT",
            Self::E2e => "E2E",
            Self::SendLag => "Send lag",
            Self::Queue => "Queue",
        }
    }
}

impl Summary {
    /// The figures of one metric.
    pub fn metric(&self, metric: Metric) -> &MetricSummary {
        match metric {
            Metric::Ttft => &self.ttft_s,
            Metric::TtftFromSend => &self.ttft_from_send_s,
            Metric::Itl => &self.itl_s,
            Metric::ChunkGap => &self.chunk_gap_s,
            Metric::Tpot => &self.tpot_s,
            Metric::E2e => &self.e2e_s,
            Metric::SendLag => &self.send_lag_s,
            Metric::Queue => &self.queue_s,
        }
    }

    /// Requests completed in the window, whatever their intended instant.
    pub fn completed(&self) -> u64 {
        (self.request_rate.per_s * self.window_s).round() as u64
    }
}

/// An HDR histogram of nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EncodedHistogram {
    /// Always `hdr_v2_deflate_base64`.
    pub encoding: String,
    /// Always `ns`.
    pub unit: String,
    /// Values recorded.
    pub count: u64,
    /// The histogram.
    pub data: String,
}

/// One second of the run. Warm-up and drain are included, and marked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SecondPoint {
    /// Second since the start of the run; the point covers `[t_s, t_s + 1)`.
    pub t_s: u64,
    /// False in warm-up and drain.
    pub in_window: bool,
    /// Requests intended in this second.
    pub intended: u64,
    /// Requests finished in this second.
    pub completed: u64,
    /// Requests failed in this second.
    pub failed: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Requests between intended instant and end, at the end of the second.
    pub in_flight: u64,
    /// Median TTFT of requests intended in this second.
    pub ttft_p50_s: Option<f64>,
    /// Largest TTFT of requests intended in this second.
    pub ttft_max_s: Option<f64>,
    /// Median ITL of tokens in this second.
    pub itl_p50_s: Option<f64>,
    /// 99th percentile (nearest rank) of ITL of tokens in this second.
    pub itl_p99_s: Option<f64>,
    /// Mean power of the devices that `energy` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// Requests in the server's batch, at its last look in this second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_running: Option<f64>,
    /// Requests that waited for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_waiting: Option<f64>,
    /// Share of the server's memory for keys and values in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_kv_usage: Option<f64>,
}
