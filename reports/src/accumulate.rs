//! Folds request records into the figures of a report, one at a time and in any order.
//!
//! Invariant: the result does not depend on the order of the records, and memory does not grow with
//! tokens: a request leaves at most a dozen numbers and some counts by histogram bucket and second.
//!
//! # Which requests count
//! - *Population*: requests whose **intended** instant lies in the window `[start, end)`. Counts by
//!   outcome, goodput and every latency are of these, however late they were sent or finished.
//! - *Send lag* and *queue*: every request of the population that was sent, or admitted.
//! - *TTFT*, *ITL*, *chunk gap*: every request of the population that produced content, unless the
//!   system failed it. Cancelled and unfinished requests did receive what they received. A failed
//!   request has no latency that a user would accept, so it is a failure, not a fast or a slow one.
//! - *TPOT*, *E2E*: outcome `ok` only; the others have no last token.
//! - *Throughput*: completions (outcome `ok`) and output tokens whose own instant lies in the
//!   window, whatever the intended instant and the outcome of their request.
//! - *Goodput*: `ok` and within every limit, over the whole population except those cancelled by
//!   the user as the workload planned. Failed and unfinished requests stay in the denominator. A
//!   request without a TPOT (all tokens in one chunk) passes the limit on TPOT.
//!
//! Quantiles of per-request metrics are of the raw values; those of ITL and chunk gap are read
//! from histograms (highest value of the bucket, but never over the maximum). Means and maxima are
//! exact. Blocks, intervals of the log and `cells` are by intended instant, so the sum of the log
//! is the report's histogram.

mod cells;
mod series;

use std::collections::{BTreeMap, BTreeSet};

use crate::capacity::GoodBlock;
use crate::drift::{Drift, drift};
use crate::histogram::IntervalLog;
use crate::lengths::Lengths;
use crate::record::{Outcome, RequestRecord, TokenCountSource};
use crate::schema::{
    ClientError, EncodedHistogram, LONG_PROMPT, Metric, MetricSummary, Rate, RequestCounts,
    SHORT_ANSWER, SecondPoint, Served, Slo, Summary,
};
use crate::stats::{Quantile, nearest_rank};

use cells::{Grid, MetricCells, RateCells};
use series::Series;

/// Nanoseconds in a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// Blocks of time in which TTFT is taken to be independent: queues come and go in some of them.
const QUEUE_BLOCK_NS: u64 = 10 * SECOND_NS;
/// The same of TPOT, which follows the size of the batch.
const STEP_BLOCK_NS: u64 = 4 * SECOND_NS;

/// The measured window, in nanoseconds since the start of the run: `[start_ns, end_ns)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First instant inside.
    pub start_ns: u64,
    /// First instant after.
    pub end_ns: u64,
}

impl Window {
    /// True for an instant inside.
    pub fn contains(self, instant_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&instant_ns)
    }

    /// Length in seconds.
    pub fn seconds(self) -> f64 {
        seconds(self.end_ns.saturating_sub(self.start_ns))
    }
}

/// What an [`Accumulator`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurements {
    /// The figures.
    pub summary: Summary,
    /// Latency distributions of the window.
    pub histograms: BTreeMap<Metric, EncodedHistogram>,
    /// What happened each second, warm-up and drain included.
    pub series: Vec<SecondPoint>,
    /// The bytes of `latency.hlog`.
    pub interval_log: Vec<u8>,
    /// The generator's own error; timers, CPU and coalescing are left to the caller.
    pub client_error: ClientError,
    /// TTFT p50 over whatever samples there are, seconds: the yardstick of the send lag.
    pub ttft_p50_any_s: Option<f64>,
    /// `ok` requests of the window whose output is not as long as was asked.
    pub length_mismatches: u64,
    /// Values over an hour, recorded as an hour in the histograms.
    pub clamped_values: u64,
    /// Requests of each block of time, and how many of them met the SLO; empty without an SLO.
    pub good_blocks: Vec<GoodBlock>,
    /// TTFT and TPOT of `ok` requests of the window, where they drift in the order of completion.
    pub drifts: Vec<MetricDrift>,
}

/// A metric that drifts through the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricDrift {
    /// Which.
    pub metric: Metric,
    /// How.
    pub drift: Drift,
    /// Seconds from the start of the window to the completion with which the steady part begins.
    pub from_s: f64,
}

/// Folds records; see the module for what counts.
#[derive(Debug)]
pub struct Accumulator {
    window: Window,
    slo: Option<Slo>,
    run_start_unix_ns: u64,
    grid: Grid,
    metrics: BTreeMap<Metric, MetricCells>,
    rates: RateCells,
    series: Series,
    requests: RequestCounts,
    served: Served,
    prompt_lengths: Lengths,
    answer_lengths: Lengths,
    failures: BTreeMap<String, u64>,
    input_tokens: u64,
    cached_input_tokens: Option<u64>,
    sources: BTreeSet<TokenCountSource>,
    pushed_turns: u64,
    length_mismatches: u64,
    unfinished_without_content: u64,
    completions: Vec<Completed>,
}

/// A request that finished, for the order of completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::struct_field_names, reason = "units are part of names")]
struct Completed {
    end_ns: u64,
    ttft_ns: u64,
    /// 0 where there is none.
    tpot_ns: u64,
}

impl Accumulator {
    /// Starts with no records.
    pub fn new(window: Window, slo: Option<Slo>) -> Self {
        let grid = Grid::new(window);
        let cells = |metric: Metric| (metric, MetricCells::new(metric, grid));
        Self {
            window,
            slo,
            run_start_unix_ns: 0,
            grid,
            metrics: Metric::ALL.into_iter().map(cells).collect(),
            rates: RateCells::new(grid),
            series: Series::default(),
            requests: RequestCounts::default(),
            served: Served::default(),
            prompt_lengths: Lengths::default(),
            answer_lengths: Lengths::default(),
            failures: BTreeMap::new(),
            input_tokens: 0,
            cached_input_tokens: None,
            sources: BTreeSet::new(),
            pushed_turns: 0,
            length_mismatches: 0,
            unfinished_without_content: 0,
            completions: Vec::new(),
        }
    }

    /// Sets the start of the run for the header of the interval log; without it, the Unix epoch.
    #[must_use]
    pub fn with_run_start(mut self, unix_ns: u64) -> Self {
        self.run_start_unix_ns = unix_ns;
        self
    }

    /// Requests of the window so far, by outcome.
    pub fn requests(&self) -> RequestCounts {
        self.requests
    }

    /// Adds one request, once.
    pub fn record(&mut self, record: &RequestRecord) {
        self.series.record(record);
        self.record_throughput(record);
        if self.window.contains(record.intended_ns) {
            self.record_outcome(record);
            self.record_latencies(record);
        }
    }

    fn record_throughput(&mut self, record: &RequestRecord) {
        for (instant_ns, tokens) in delivered_tokens(record) {
            self.rates.output_tokens.add(self.grid, instant_ns, tokens);
        }
        if let (Outcome::Ok, Some(end_ns)) = (record.outcome, ended_ns(record)) {
            self.rates.completed.add(self.grid, end_ns, 1);
        }
        if record
            .chunk_ns
            .first()
            .is_some_and(|&first| self.window.contains(first))
        {
            self.input_tokens += record.input_tokens;
            if let Some(cached) = record.cached_input_tokens {
                *self.cached_input_tokens.get_or_insert(0) += cached;
            }
        }
    }

    fn record_outcome(&mut self, record: &RequestRecord) {
        self.requests.total += 1;
        self.prompt_lengths.add(record.input_tokens);
        match record.outcome {
            Outcome::Ok => self.requests.ok += 1,
            Outcome::Cancelled => self.requests.cancelled += 1,
            Outcome::Unfinished => self.requests.unfinished += 1,
            failure => {
                self.requests.failed += 1;
                *self.failures.entry(failure_cause(failure)).or_default() += 1;
            }
        }
        if record.outcome == Outcome::Ok {
            self.sources.insert(record.token_count_source);
            self.answer_lengths.add(record.output_tokens);
            self.completions
                .extend(record.ttft_ns().map(|ttft_ns| Completed {
                    end_ns: ended_ns(record).unwrap_or(record.intended_ns),
                    ttft_ns,
                    tpot_ns: record.tpot_ns().unwrap_or(0),
                }));
        }
        if record.outcome == Outcome::Unfinished && record.chunk_ns.is_empty() {
            self.unfinished_without_content += 1;
        }
        self.length_mismatches += u64::from(record.is_off_length());
        self.pushed_turns += u64::from(record.pushed_ns > 0);
        self.rates.arrived.add(self.grid, record.intended_ns, 1);
        if record.outcome != Outcome::Cancelled {
            self.rates.judged.add(self.grid, record.intended_ns, 1);
        }
        let met = self.slo.map(|slo| meets(record, slo));
        if met == Some(true) {
            self.rates.good.add(self.grid, record.intended_ns, 1);
        }
        if met.unwrap_or(record.outcome == Outcome::Ok) {
            self.record_served(record);
        }
    }

    fn record_served(&mut self, record: &RequestRecord) {
        let served = &mut self.served;
        served.requests += 1;
        served.input_tokens += record.input_tokens;
        if let Some(cached) = record.cached_input_tokens {
            *served.cached_input_tokens.get_or_insert(0) += cached;
        }
        served.output_tokens += record.output_tokens;
        if record.output_tokens <= SHORT_ANSWER {
            served.short_output_tokens += record.output_tokens;
        }
        served.long_prompts += u64::from(record.input_tokens > LONG_PROMPT);
    }

    fn record_latencies(&mut self, record: &RequestRecord) {
        let at_ns = record.intended_ns;
        let grid = self.grid;
        let mut add = |metric: Metric, value: Option<u64>| {
            if let (Some(value_ns), Some(cells)) = (value, self.metrics.get_mut(&metric)) {
                cells.record(grid, at_ns, value_ns);
            }
        };
        add(Metric::SendLag, record.send_lag_ns());
        add(Metric::Queue, record.queue_ns());
        if record.outcome.is_failure() {
            return;
        }
        add(Metric::Ttft, record.ttft_ns());
        add(Metric::TtftFromSend, record.ttft_from_send_ns());
        if record.outcome == Outcome::Ok {
            add(Metric::Tpot, record.tpot_ns());
            add(Metric::E2e, record.e2e_ns());
        }
        if let Some(cells) = self.metrics.get_mut(&Metric::Itl) {
            cells.record_gaps(grid, at_ns, record.gaps_ns());
        }
        if let Some(cells) = self.metrics.get_mut(&Metric::ChunkGap) {
            cells.record_gaps(grid, at_ns, record.gaps_ns().map(|(gap_ns, _)| (gap_ns, 1)));
        }
    }

    /// All figures.
    pub fn finish(mut self) -> Measurements {
        let summaries: BTreeMap<Metric, MetricSummary> = self
            .metrics
            .iter_mut()
            .map(|(&metric, cells)| (metric, cells.summary(self.grid)))
            .collect();
        let send_lags = self.metrics[&Metric::SendLag].sorted();
        let ttfts = self.metrics[&Metric::Ttft].sorted();
        let at = |values: &[u64], quantile| nearest_rank(values, quantile).map(seconds);
        let client_error = ClientError {
            send_lag_p50_s: at(send_lags, Quantile::P50),
            send_lag_p99_s: at(send_lags, Quantile::P99),
            send_lag_max_s: send_lags.last().copied().map(seconds),
            timer_p50_s: None,
            timer_p99_s: None,
            pushed_turns: self.pushed_turns,
            cpu_cores_used: None,
            cpu_s: None,
            coalesced_share: None,
            preflight: None,
            preflight_skipped: None,
        };
        let ttft_p50_any_s = at(ttfts, Quantile::P50);
        let log = IntervalLog {
            base_unix_ns: self.run_start_unix_ns,
            start_ns: self.window.start_ns,
            interval_ns: self.grid.cell_ns,
            cells: self
                .metrics
                .iter()
                .map(|(&metric, cells)| (metric, cells.counts()))
                .collect(),
        };
        let interval_log = log.to_bytes();
        let drifts = self.drifts();
        let good_blocks = self.slo.map(|_| self.rates.good_blocks(self.grid));
        let encode = |(&metric, cells): (&Metric, &MetricCells)| (metric, cells.histogram.encode());
        Measurements {
            histograms: self.metrics.iter().map(encode).collect(),
            series: self.series.points(self.window),
            interval_log,
            good_blocks: good_blocks.unwrap_or_default(),
            drifts,
            client_error,
            ttft_p50_any_s,
            length_mismatches: self.length_mismatches,
            clamped_values: self
                .metrics
                .values()
                .map(|cells| cells.histogram.clamped())
                .sum(),
            summary: self.summary(summaries),
        }
    }

    /// The metrics that drift. In the order of completion the last requests of the window are those
    /// with long answers, and the first are those with short ones, which TTFT and TPOT do not mind.
    fn drifts(&mut self) -> Vec<MetricDrift> {
        self.completions.sort_unstable();
        let of = |metric, block_ns, value: fn(&Completed) -> u64| {
            let both = self
                .completions
                .iter()
                .map(|done| (done.end_ns, value(done)));
            let values: Vec<(u64, u64)> = both.filter(|value| value.1 > 0).collect();
            let drift = drift(&values, block_ns)?;
            let at_ns = values.get(drift.from)?.0;
            Some(MetricDrift {
                metric,
                drift,
                from_s: seconds(at_ns.saturating_sub(self.window.start_ns)),
            })
        };
        let ttft = of(Metric::Ttft, QUEUE_BLOCK_NS, |done| done.ttft_ns);
        let tpot = of(Metric::Tpot, STEP_BLOCK_NS, |done| done.tpot_ns);
        ttft.into_iter().chain(tpot).collect()
    }

    fn summary(self, mut metrics: BTreeMap<Metric, MetricSummary>) -> Summary {
        let window_s = self.window.seconds();
        let rate = |cells: &cells::Counter| Rate {
            per_s: if window_s > 0.0 {
                cells.total() as f64 / window_s
            } else {
                0.0
            },
            ci95: cells.interval(self.grid),
        };
        for (metric, missing) in [
            (Metric::Ttft, self.unfinished_without_content),
            (Metric::TtftFromSend, self.unfinished_without_content),
            (Metric::E2e, self.requests.unfinished),
        ] {
            if let Some(summary) = metrics.get_mut(&metric) {
                cells::censor(summary, missing);
            }
        }
        let judged = self.requests.judged();
        let good = self.rates.good.total();
        let share = (judged > 0).then(|| good as f64 / judged as f64);
        let mut take = |metric| metrics.remove(&metric).unwrap_or_default();
        Summary {
            window_s,
            requests: self.requests,
            failures: self.failures,
            input_tokens: self.input_tokens,
            cached_input_tokens: self.cached_input_tokens,
            output_tokens: self.rates.output_tokens.total(),
            request_rate: rate(&self.rates.completed),
            output_tokens_per_s: rate(&self.rates.output_tokens),
            goodput_rate: self.slo.map(|_| rate(&self.rates.good)),
            goodput_share: self.slo.and(share),
            served: Some(self.served),
            prompt_lengths: self.prompt_lengths.bins(),
            answer_lengths: self.answer_lengths.bins(),
            token_count_source: self.sources.into_iter().collect(),
            ttft_s: take(Metric::Ttft),
            ttft_from_send_s: take(Metric::TtftFromSend),
            itl_s: take(Metric::Itl),
            chunk_gap_s: take(Metric::ChunkGap),
            tpot_s: take(Metric::Tpot),
            e2e_s: take(Metric::E2e),
            send_lag_s: take(Metric::SendLag),
            queue_s: take(Metric::Queue),
        }
    }
}

/// Did the request finish within every limit? A missing TPOT passes.
pub fn meets(record: &RequestRecord, slo: Slo) -> bool {
    let within = |value: Option<u64>, limit: Option<f64>, missing: bool| match (value, limit) {
        (_, None) => true,
        (None, Some(_)) => missing,
        (Some(value_ns), Some(limit_s)) => seconds(value_ns) <= limit_s,
    };
    record.outcome == Outcome::Ok
        && within(record.ttft_ns(), slo.ttft_s, false)
        && within(record.tpot_ns(), slo.tpot_s, true)
        && within(record.e2e_ns(), slo.e2e_s, false)
}

/// The name of a failure in `summary.failures`.
pub fn failure_cause(outcome: Outcome) -> String {
    match outcome {
        Outcome::Ok => "ok".to_owned(),
        Outcome::HttpStatus(code) => format!("http_status({code})"),
        Outcome::Connect => "connect".to_owned(),
        Outcome::Timeout => "timeout".to_owned(),
        Outcome::Reset => "reset".to_owned(),
        Outcome::Truncated => "truncated".to_owned(),
        Outcome::BadStream => "bad_stream".to_owned(),
        Outcome::Rejected => "rejected".to_owned(),
        Outcome::Engine => "engine".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Unfinished => "unfinished".to_owned(),
    }
}

/// Nanoseconds as seconds.
fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND_NS as f64
}

/// When the request ended: as recorded, else with its last content.
fn ended_ns(record: &RequestRecord) -> Option<u64> {
    record.end_ns.or_else(|| record.chunk_ns.last().copied())
}

/// `(instant, tokens)` of every chunk, adding up to `output_tokens`.
///
/// The number of output tokens is the server's or the tokenizer's, never a sum over chunks. Where
/// the chunks add up to something else, the known number is spread over them in proportion.
fn delivered_tokens(record: &RequestRecord) -> impl Iterator<Item = (u64, u64)> + '_ {
    let seen: u64 = record
        .chunk_tokens
        .iter()
        .map(|&tokens| u64::from(tokens))
        .sum();
    let weigh = move |tokens: u32| if seen == 0 { 1 } else { u64::from(tokens) };
    let all = if seen == 0 {
        record.chunk_tokens.len() as u64
    } else {
        seen
    };
    let mut weight = 0;
    let mut given = 0;
    record
        .chunk_ns
        .iter()
        .zip(&record.chunk_tokens)
        .map(move |(&instant_ns, &tokens)| {
            weight += weigh(tokens);
            let until =
                (u128::from(record.output_tokens) * u128::from(weight) / u128::from(all)) as u64;
            let tokens = until - given;
            given = until;
            (instant_ns, tokens)
        })
}
