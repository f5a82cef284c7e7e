//! Reads a server's own metrics once a second beside a run, on a thread of its own.
//!
//! Invariant: it never makes a run wait, and a server without such a page is asked no second time.
//! Metrics are known by their exact names; several series of one name (engines, ranks) are added,
//! or averaged where they are shares. What it does not do: judge.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backends::Clock;
use backends::http::MetricsPage;
use backends::prometheus::Metric;
use reports::server_metrics::{Look, Scraped, ServerFigure};

/// Time between two looks.
const PERIOD_NS: u64 = 1_000_000_000;

/// The names of each figure: vLLM (with those of its plugins and of `serve`) before and after its
/// renaming, SGLang, LMDeploy, MindIE, TGI, llama.cpp. The first that is on a page counts.
const NAMES: [(ServerFigure, &[&str]); 9] = [
    (
        ServerFigure::Running,
        &[
            "vllm:num_requests_running",
            "sglang:num_running_reqs",
            "lmdeploy:num_requests_running",
            "num_requests_running",
            "tgi_batch_current_size",
            "llamacpp:requests_processing",
        ],
    ),
    (
        ServerFigure::Waiting,
        &[
            "vllm:num_requests_waiting",
            "sglang:num_queue_reqs",
            "lmdeploy:num_requests_waiting",
            "num_requests_waiting",
            "tgi_queue_size",
            "llamacpp:requests_deferred",
        ],
    ),
    (
        ServerFigure::KvUsage,
        &[
            "vllm:kv_cache_usage_perc",
            "vllm:gpu_cache_usage_perc",
            "sglang:token_usage",
            "lmdeploy:gpu_cache_usage_perc",
            "npu_cache_usage_perc",
            "llamacpp:kv_cache_usage_ratio",
        ],
    ),
    (
        ServerFigure::PrefixHitShare,
        &["sglang:cache_hit_rate", "npu_prefix_cache_hit_rate"],
    ),
    (
        ServerFigure::PrefixQueries,
        &[
            "vllm:prefix_cache_queries_total",
            "vllm:prefix_cache_queries",
            "vllm:gpu_prefix_cache_queries_total",
        ],
    ),
    (
        ServerFigure::PrefixHits,
        &[
            "vllm:prefix_cache_hits_total",
            "vllm:prefix_cache_hits",
            "vllm:gpu_prefix_cache_hits_total",
        ],
    ),
    (
        ServerFigure::Preemptions,
        &[
            "vllm:num_preemptions_total",
            "vllm:num_preemptions",
            "sglang:num_retracted_requests_total",
            "num_preemptions_total",
        ],
    ),
    (
        ServerFigure::PromptTokens,
        &[
            "vllm:prompt_tokens_total",
            "sglang:prompt_tokens_total",
            "lmdeploy:prompt_tokens_total",
            "prompt_tokens_total",
            "llamacpp:prompt_tokens_total",
        ],
    ),
    (
        ServerFigure::OutputTokens,
        &[
            "vllm:generation_tokens_total",
            "sglang:generation_tokens_total",
            "lmdeploy:generation_tokens_total",
            "generation_tokens_total",
            "llamacpp:tokens_predicted_total",
        ],
    ),
];

/// What a page says: each figure, and the metric it is from.
fn figures(page: &str) -> BTreeMap<ServerFigure, (f64, &'static str)> {
    let mut series: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for metric in page.lines().filter_map(Metric::parse) {
        let mut known = NAMES.iter().flat_map(|(_, names)| *names);
        let name = known.find(|name| **name == metric.name);
        if let Some(name) = name.filter(|_| metric.value.is_finite()) {
            series.entry(name).or_default().push(metric.value);
        }
    }
    let figure = |(figure, names): &(ServerFigure, &[&'static str])| {
        let name = names.iter().find(|name| series.contains_key(**name))?;
        let values = &series[*name];
        let sum: f64 = values.iter().sum();
        let engines = if figure.is_share() { values.len() } else { 1 };
        Some((*figure, (sum / engines as f64, *name)))
    };
    NAMES.iter().filter_map(figure).collect()
}

/// A page that is being read.
#[derive(Debug)]
pub struct Scraper {
    scraped: Arc<Mutex<Scraped>>,
    /// The thread ends when this goes.
    _stop: Sender<()>,
}

impl Scraper {
    /// Begins to read.
    pub fn start(page: MetricsPage, clock: &Clock) -> std::io::Result<Self> {
        let scraped = Arc::new(Mutex::new(Scraped {
            url: page.url(),
            period_ns: PERIOD_NS,
            ..Scraped::default()
        }));
        let (stop, stopped) = channel();
        let (clock, shared) = (clock.clone(), Arc::clone(&scraped));
        std::thread::Builder::new()
            .name("scrape".into())
            .spawn(move || look_each_second(page, &clock, &shared, &stopped))?;
        Ok(Self {
            scraped,
            _stop: stop,
        })
    }

    /// Ends it, without waiting for an answer that is on its way.
    pub fn finish(self) -> Scraped {
        let scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        scraped.clone()
    }
}

fn look_each_second(
    mut page: MetricsPage,
    clock: &Clock,
    scraped: &Mutex<Scraped>,
    stopped: &Receiver<()>,
) {
    let now_ns = || clock.monotonic_ns(clock.now());
    let mut next_ns = now_ns();
    loop {
        let before = now_ns();
        let found = page.read().and_then(|text| {
            let found = figures(&text);
            let why = || format!("{}: no metric of a known name", page.url());
            if found.is_empty() {
                Err(why())
            } else {
                Ok(found)
            }
        });
        let at_ns = u64::midpoint(before, now_ns());
        let is_over = {
            let mut scraped = scraped.lock().unwrap_or_else(PoisonError::into_inner);
            keep(&mut scraped, at_ns, &page.url(), found);
            scraped.looks.is_empty()
        };
        if is_over {
            return;
        }
        // A look that was missed is not made up for.
        next_ns = (next_ns + PERIOD_NS).max(now_ns());
        let wait = Duration::from_nanos(next_ns - now_ns().min(next_ns));
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn keep(
    scraped: &mut Scraped,
    at_ns: u64,
    url: &str,
    found: Result<BTreeMap<ServerFigure, (f64, &'static str)>, String>,
) {
    match found {
        Ok(found) => {
            url.clone_into(&mut scraped.url);
            let mut values = BTreeMap::new();
            for (figure, (value, name)) in found {
                values.insert(figure, value);
                scraped
                    .sources
                    .entry(figure)
                    .or_insert_with(|| name.to_owned());
            }
            scraped.looks.push(Look { at_ns, values });
        }
        Err(why) => {
            scraped.failed += 1;
            scraped.last_failure = Some(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VLLM: &str = "\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 12.0
vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 10.0
vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 3.0
vllm:num_requests_waiting{engine=\"1\",model_name=\"m\"} 0.0
vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.5
vllm:kv_cache_usage_perc{engine=\"1\",model_name=\"m\"} 0.25
vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"m\"} 1.2e+06
vllm:prefix_cache_queries_created{engine=\"0\",model_name=\"m\"} 1.7e+09
vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"m\"} 900000.0
vllm:num_preemptions_total{engine=\"0\",model_name=\"m\"} 2.0
vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 1.3e+06
vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 81920.0
vllm:time_to_first_token_seconds_bucket{le=\"0.001\"} 0.0
";
    const OLD_VLLM: &str = "\
vllm:num_requests_running{model_name=\"m\"} 4.0
vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.125
";
    const SGLANG: &str = "\
sglang:num_running_reqs{model_name=\"m\"} 162.0
sglang:num_running_reqs_offline_batch{model_name=\"m\"} 7.0
sglang:num_queue_reqs{model_name=\"m\"} 2826.0
sglang:token_usage{model_name=\"m\"} 0.28
sglang:cache_hit_rate{model_name=\"m\"} 0.007
sglang:generation_tokens_total{model_name=\"m\"} 7557572.0
";
    const LMDEPLOY: &str = "\
lmdeploy:num_requests_running{engine=\"0\",model_name=\"m\"} 5.0
lmdeploy:num_requests_waiting{engine=\"0\",model_name=\"m\"} 1.0
lmdeploy:gpu_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.75
lmdeploy:generation_tokens_total{engine=\"0\",model_name=\"m\"} 100.0
";
    const MINDIE: &str = "\
# TYPE num_requests_running gauge
num_requests_running{model_name=\"m\"} 8
num_requests_waiting{model_name=\"m\"} 2
num_requests_swapped{model_name=\"m\"} 1
num_preemptions_total{model_name=\"m\"} 6
npu_cache_usage_perc{model_name=\"m\"} 0.5
cpu_cache_usage_perc{model_name=\"m\"} 0
npu_prefix_cache_hit_rate{model_name=\"m\"} 0.25
prompt_tokens_total{model_name=\"m\"} 9922
generation_tokens_total{model_name=\"m\"} 16384
";
    const TGI: &str = "tgi_queue_size 3\ntgi_batch_current_size 17\n";

    #[test]
    fn every_server_s_names_are_known() {
        use ServerFigure as Is;
        let cases: [(&str, &[(Is, f64)]); 6] = [
            (
                VLLM,
                &[
                    (Is::Running, 22.0),
                    (Is::Waiting, 3.0),
                    (Is::KvUsage, 0.375),
                    (Is::PrefixQueries, 1.2e6),
                    (Is::PrefixHits, 9e5),
                    (Is::Preemptions, 2.0),
                    (Is::PromptTokens, 1.3e6),
                    (Is::OutputTokens, 81_920.0),
                ],
            ),
            (OLD_VLLM, &[(Is::Running, 4.0), (Is::KvUsage, 0.125)]),
            (
                SGLANG,
                &[
                    (Is::Running, 162.0),
                    (Is::Waiting, 2826.0),
                    (Is::KvUsage, 0.28),
                    (Is::PrefixHitShare, 0.007),
                    (Is::OutputTokens, 7_557_572.0),
                ],
            ),
            (
                LMDEPLOY,
                &[
                    (Is::Running, 5.0),
                    (Is::Waiting, 1.0),
                    (Is::KvUsage, 0.75),
                    (Is::OutputTokens, 100.0),
                ],
            ),
            (
                MINDIE,
                &[
                    (Is::Running, 8.0),
                    (Is::Waiting, 2.0),
                    (Is::KvUsage, 0.5),
                    (Is::PrefixHitShare, 0.25),
                    (Is::Preemptions, 6.0),
                    (Is::PromptTokens, 9922.0),
                    (Is::OutputTokens, 16_384.0),
                ],
            ),
            (TGI, &[(Is::Running, 17.0), (Is::Waiting, 3.0)]),
        ];
        for (page, expected) in cases {
            let found = figures(page).into_iter();
            let found: Vec<(Is, f64)> = found.map(|(figure, (value, _))| (figure, value)).collect();
            assert_eq!(found, expected, "{page}");
        }
        assert_eq!(
            figures(OLD_VLLM)[&Is::KvUsage].1,
            "vllm:gpu_cache_usage_perc"
        );
        for strange in [
            "",
            "<html>",
            "vllm:num_requests_running NaN\n",
            "tgi_queue_size",
        ] {
            assert!(figures(strange).is_empty(), "{strange}");
        }
    }
}
