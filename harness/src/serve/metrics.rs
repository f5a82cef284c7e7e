//! What the server tells about itself, in the Prometheus way.
//!
//! Names are vLLM's where the meaning is the same, so that dashboards and scrapers made for it read
//! this server too; the rest begins with `weighbridge_`. Invariant: latencies are differences of
//! the engine's own instants, so a slow reader does not show in them. It counts and decides
//! nothing.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;
use backends::{FinishReason, Gauges, Nanos};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How a served request ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    finished_reason: &'static str,
}

/// Status of an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    code: u16,
}

/// Everything that is counted.
pub(super) struct Metrics {
    /// Held while figures kept elsewhere are copied.
    scrape: Mutex<()>,
    registry: Registry,
    running: Gauge,
    waiting: Gauge,
    kv_cache_usage: Gauge<f64, AtomicU64>,
    preemptions: Counter,
    resident_bytes: Gauge,
    cpu_s: Counter<f64, AtomicU64>,
    finished: Family<Finished, Counter>,
    answered: Family<Answered, Counter>,
    /// Connections that are open.
    pub(super) connections: Gauge,
    /// Prompt tokens computed or found in the prefix cache.
    pub(super) prompt_tokens: Counter,
    /// Output tokens.
    pub(super) generation_tokens: Counter,
    /// Prompt tokens looked up in the prefix cache.
    pub(super) prefix_queries: Counter,
    /// Prompt tokens found there.
    pub(super) prefix_hits: Counter,
    pub(super) ttft_s: Histogram,
    pub(super) itl_s: Histogram,
    pub(super) tpot_s: Histogram,
    pub(super) e2e_s: Histogram,
    pub(super) queue_s: Histogram,
    pub(super) input_length: Histogram,
    pub(super) output_length: Histogram,
}

/// The media type of [`Metrics::text`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Nothing counted yet; `model` becomes a label of every metric.
    pub(super) fn new(model: &str) -> Self {
        let labels = [("engine", "0".to_owned()), ("model_name", model.to_owned())];
        let labels = labels.map(|(name, value)| (Cow::from(name), Cow::from(value)));
        let mut metrics = Self {
            scrape: Mutex::new(()),
            registry: Registry::with_labels(labels.into_iter()),
            running: Gauge::default(),
            waiting: Gauge::default(),
            kv_cache_usage: Gauge::default(),
            preemptions: Counter::default(),
            resident_bytes: Gauge::default(),
            cpu_s: Counter::default(),
            finished: Family::default(),
            answered: Family::default(),
            connections: Gauge::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            prefix_queries: Counter::default(),
            prefix_hits: Counter::default(),
            ttft_s: seconds(),
            itl_s: seconds(),
            tpot_s: seconds(),
            e2e_s: seconds(),
            queue_s: seconds(),
            input_length: tokens(),
            output_length: tokens(),
        };
        metrics.register_engine();
        metrics.register_requests();
        metrics.register_server();
        metrics
    }

    fn register_engine(&mut self) {
        let registry = &mut self.registry;
        let (name, help) = ("vllm:num_requests_running", "Requests in the batch");
        registry.register(name, help, self.running.clone());
        let (name, help) = (
            "vllm:num_requests_waiting",
            "Requests waiting for the batch",
        );
        registry.register(name, help, self.waiting.clone());
        let (name, help) = ("vllm:kv_cache_usage_perc", "Used KV blocks; 1 is all");
        registry.register(name, help, self.kv_cache_usage.clone());
        let (name, help) = ("vllm:num_preemptions", "Preemptions");
        registry.register(name, help, self.preemptions.clone());
        let name = "vllm:prefix_cache_queries";
        let help = "Prompt tokens looked up in the prefix cache";
        registry.register(name, help, self.prefix_queries.clone());
        let (name, help) = ("vllm:prefix_cache_hits", "Prompt tokens found there");
        registry.register(name, help, self.prefix_hits.clone());
        let (name, help) = ("vllm:prompt_tokens", "Prompt tokens processed");
        registry.register(name, help, self.prompt_tokens.clone());
        let (name, help) = ("vllm:generation_tokens", "Output tokens");
        registry.register(name, help, self.generation_tokens.clone());
    }

    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        let name = "vllm:request_success";
        let help = "Requests by how they ended: stop, length, or abort when nobody waited";
        registry.register(name, help, self.finished.clone());
        for (name, help, histogram) in [
            (
                "vllm:time_to_first_token_seconds",
                "From arrival to the first token",
                &self.ttft_s,
            ),
            (
                "vllm:inter_token_latency_seconds",
                "From one token to the next",
                &self.itl_s,
            ),
            (
                "vllm:request_time_per_output_token_seconds",
                "Mean of a request's gaps between tokens",
                &self.tpot_s,
            ),
            (
                "vllm:e2e_request_latency_seconds",
                "From arrival to the last token",
                &self.e2e_s,
            ),
            (
                "vllm:request_queue_time_seconds",
                "From arrival to admission",
                &self.queue_s,
            ),
            (
                "vllm:request_prompt_tokens",
                "Prompt tokens of a request",
                &self.input_length,
            ),
            (
                "vllm:request_generation_tokens",
                "Output tokens of a request",
                &self.output_length,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
    }

    fn register_server(&mut self) {
        let registry = &mut self.registry;
        let (name, help) = ("weighbridge_http_responses", "HTTP answers by status");
        registry.register(name, help, self.answered.clone());
        let (name, help) = ("weighbridge_connections", "Open connections");
        registry.register(name, help, self.connections.clone());
        let (name, help) = ("process_resident_memory_bytes", "Memory of this process");
        registry.register(name, help, self.resident_bytes.clone());
        let (name, help) = ("process_cpu_seconds", "CPU time of this process");
        registry.register(name, help, self.cpu_s.clone());
    }

    /// A request ended as it should.
    pub(super) fn finished(&self, reason: FinishReason) {
        self.ended(finish_word(reason));
    }

    /// Nobody waited for the rest of an answer.
    pub(super) fn aborted(&self) {
        self.ended("abort");
    }

    fn ended(&self, finished_reason: &'static str) {
        self.finished
            .get_or_create(&Finished { finished_reason })
            .inc();
    }

    /// An HTTP answer began.
    pub(super) fn answered(&self, status: StatusCode) {
        let code = status.as_u16();
        self.answered.get_or_create(&Answered { code }).inc();
    }

    /// Everything as text.
    pub(super) fn text(&self, gauges: Gauges) -> String {
        let _turn = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        let running = gauges.running.unwrap_or(0);
        let in_flight = gauges.in_flight.unwrap_or(0);
        self.running.set(i64::from(running));
        self.waiting
            .set(i64::from(in_flight.saturating_sub(running)));
        if let (Some(used), Some(total)) = (gauges.used_blocks, gauges.total_blocks) {
            self.kv_cache_usage
                .set(f64::from(used) / f64::from(total.max(1)));
        }
        let so_far = self.preemptions.get();
        let preemptions = gauges.preemptions.unwrap_or(0);
        self.preemptions.inc_by(preemptions.saturating_sub(so_far));
        let used = crate::host::process_use().unwrap_or_default();
        self.resident_bytes.set(used.resident_bytes.cast_signed());
        self.cpu_s.inc_by((used.cpu_s - self.cpu_s.get()).max(0.0));
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string takes all text");
        text
    }
}

/// As OpenAI calls it.
pub(super) fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop | FinishReason::Other => "stop",
    }
}

/// From one instant to another, in seconds.
pub(super) fn seconds_between(earlier: Nanos, later: Nanos) -> f64 {
    later.since(earlier).as_secs_f64()
}

/// From 100 µs to 1000 s, three bounds in each decade.
fn seconds() -> Histogram {
    let decades = (-4..3).map(|power| 10_f64.powi(power));
    Histogram::new(
        decades
            .flat_map(|unit| [unit, 2.0 * unit, 5.0 * unit])
            .chain([1e3]),
    )
}

/// From 1 to 100,000, three bounds in each decade.
fn tokens() -> Histogram {
    let decades = (0..5).map(|power| 10_f64.powi(power));
    Histogram::new(
        decades
            .flat_map(|unit| [unit, 2.0 * unit, 5.0 * unit])
            .chain([1e5]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_and_counters_come_out_under_their_names() {
        let metrics = Metrics::new("a\"b");
        metrics.finished(FinishReason::Length);
        metrics.aborted();
        metrics.answered(StatusCode::TOO_MANY_REQUESTS);
        metrics.ttft_s.observe(0.03);
        let gauges = Gauges {
            in_flight: Some(7),
            running: Some(4),
            used_blocks: Some(1),
            total_blocks: Some(4),
            preemptions: Some(3),
            ..Gauges::default()
        };
        metrics.text(gauges);
        let text = metrics.text(gauges);
        let labels = r#"engine="0",model_name="a\"b""#;
        for line in [
            format!("vllm:num_requests_running{{{labels}}} 4"),
            format!("vllm:num_requests_waiting{{{labels}}} 3"),
            format!("vllm:kv_cache_usage_perc{{{labels}}} 0.25"),
            format!("vllm:num_preemptions_total{{{labels}}} 3"),
            format!(r#"vllm:request_success_total{{{labels},finished_reason="abort"}} 1"#),
            format!(r#"vllm:request_success_total{{{labels},finished_reason="length"}} 1"#),
            format!(r#"vllm:time_to_first_token_seconds_bucket{{{labels},le="0.05"}} 1"#),
            format!(r#"weighbridge_http_responses_total{{{labels},code="429"}} 1"#),
            "# EOF".into(),
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no `{line}` in:\n{text}"
            );
        }
    }
}
