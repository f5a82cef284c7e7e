//! Flags and scenario files: what the user asks for, still as written.
//!
//! A scenario file has the flags' names as keys; a flag beats the file. Invariant: nothing is
//! interpreted here; [`crate::plan`] turns a [`Scenario`] into a checked plan and names the flag or
//! the file and key of every mistake.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

/// Everything that shapes a run. Every field may be left out.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What to measure: cpu, cuda:N (in a build with `cuda`), http://HOST:PORT/v1, ascend=http://…
    /// or cambricon=http://… for a server on devices of that maker, plugin:FILE, sim:DEVICE
    /// [default: cpu]
    #[arg(long, value_name = "T")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Model: ref-135m, ref-tiny, smollm2-135m-instruct or a path ending in .gguf; for a server
    /// also its own name for one [default: ref-135m]
    #[arg(long, value_name = "M")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Workload: smoke, doubao-chat, doubao-chat-8k, doubao-chat-lite, doubao-peak-hour,
    /// doubao-day, burst, long-context, random:IN/OUT, a trace (mooncake:FILE, azure:FILE,
    /// burstgpt:FILE, bailian:FILE, sharegpt:FILE), or a .toml or .json file [default: smoke]
    #[arg(long, value_name = "W")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Open loop: requests per second, sent at their instants whatever the target does [default:
    /// the workload's]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Closed loop: users who each wait for an answer, think, and ask again
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<i64>,
    /// Process of session arrivals: poisson, constant, gamma:CV, or a trace's own instants: trace
    /// [default: the workload's]
    #[arg(long, value_name = "A")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<String>,
    /// Measured window [default: the workload's]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// Before the window, not measured [default: the workload's, at most a sixth of the window]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<String>,
    /// After the window, for answers that are still running [default: 60s]
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<String>,
    /// End after this many requests
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<i64>,
    /// Everything random comes from it [default: 1]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Limits of goodput, such as ttft=2s,tpot=100ms, or none [default: the workload's]
    #[arg(long, value_name = "LIMITS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<String>,
    /// Price sheet: a file, or rental, china, us, malaysia, thailand (see `prices`) [default:
    /// rental]
    #[arg(long, value_name = "SHEET")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<PathBuf>,
    /// Device to look up in the price sheet [default: the target's]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_device: Option<String>,
    /// Devices, or vCPUs, that the price is multiplied by [default: 1 device, or the vCPUs of this
    /// host]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_units: Option<i64>,
    /// Multiplies think times
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think_scale: Option<f64>,
    /// Multiplies the time of a trace, or of a workload's day; not think times
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_scale: Option<f64>,
    /// Part of a trace, or of a workload's day, in its own time: FROM..TO, such as 10m..30m or
    /// 20h..21h
    #[arg(long, value_name = "FROM..TO")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// Tokens of a request at most: generated histories are cut to fit, requests of a trace left
    /// out, both counted [default: the workload's, or the model's for a trace]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_limit: Option<i64>,
    /// Sampling temperature; 0 takes the likeliest token [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Engine: memory for keys and values [default: 1GiB, at most a quarter of the memory; on a GPU
    /// what is free, less a tenth]
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_memory: Option<String>,
    /// Engine: tokens in one step [default: 128 on the CPU, 2048 on a GPU, 8192 simulated]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_tokens: Option<i64>,
    /// Engine: sequences in one step [default: 32 on the CPU, 256 on a GPU and simulated]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sequences: Option<i64>,
    /// Engine: keep computed prefixes for later requests: on or off [default: on]
    #[arg(long, value_name = "ON|OFF")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_cache: Option<String>,
    /// Engine: whose kernels run the model on the CPU: own or candle [default: own]
    #[arg(long, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Engine: weights as stored, or expanded to f32: stored or f32 [default: stored]
    #[arg(long, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Engine: threads [default: all processors]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<i64>,
    /// Engine: bind each thread to a core: on or off [default: off]
    #[arg(long, value_name = "ON|OFF")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// Engine: instruction set of the kernels, such as avx2 [default: the best there is]
    #[arg(long, value_name = "SET")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Server: `model` field of each request [default: --model, else the first the server lists]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_model: Option<String>,
    /// Server: its software, which decides what a request may carry and where it tells about
    /// itself: auto, openai, vllm, sglang, mindie, xllm, lmdeploy, tgi [default: auto, by what it
    /// says; else mindie for ascend=, vllm for cambricon=]
    #[arg(long, value_name = "STACK")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Server: JSON object merged into each request body
    #[arg(long, value_name = "JSON")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_body: Option<String>,
    /// Server: environment variable that holds the API key [default: `OPENAI_API_KEY`]
    #[arg(long, value_name = "VAR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Server: file with the authorities (PEM) that may have signed its certificate [default: the
    /// system's]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// Server: the client's own certificate (PEM), for servers that ask for one
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Server: its private key (PEM, without a password)
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Server: do not check who it is; the report says so
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_insecure: Option<bool>,
    /// Telemetry of devices on this host: auto, none, or a probe that `weighbridge devices` lists,
    /// such as nvml, dcmi:0,1, cndev or rapl [default: auto]
    #[arg(long, value_name = "PROBE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// Server: batches of short requests before the run, for servers that compile or capture
    /// something for each size: sizes such as 1,2,4,8, none, or auto [default: auto, powers of two
    /// up to what the load needs at once, for ascend= and cambricon=]
    #[arg(long, value_name = "SIZES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_up_batches: Option<String>,
    /// Server: address of its own metrics [default: /metrics beside its API; for mindie port 1027
    /// first]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_url: Option<String>,
    /// Server: do not read its own metrics beside the run
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_scrape: Option<bool>,
    /// Server: do not measure the client's own error before the run
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_preflight: Option<bool>,
    /// Let answers end where the model ends them, not at the planned length
    #[arg(long, num_args = 0, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_at_eos: Option<bool>,
}

/// A scenario file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Cannot be read.
    #[error("scenario file `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong kind.
    #[error("scenario file `{}`: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and what is accepted.
        message: String,
    },
}

impl Scenario {
    /// Reads a scenario file.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Read {
            path: path.into(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ScenarioError::Parse {
            path: path.into(),
            message: error.to_string(),
        })
    }

    /// `self`, and `file` for what it leaves out.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            target: self.target.or(file.target),
            model: self.model.or(file.model),
            workload: self.workload.or(file.workload),
            // One beats the other kind of load as well.
            rate: if self.users.is_some() {
                self.rate
            } else {
                self.rate.or(file.rate)
            },
            users: if self.rate.is_some() {
                self.users
            } else {
                self.users.or(file.users)
            },
            arrivals: self.arrivals.or(file.arrivals),
            duration: self.duration.or(file.duration),
            warmup: self.warmup.or(file.warmup),
            drain: self.drain.or(file.drain),
            requests: self.requests.or(file.requests),
            seed: self.seed.or(file.seed),
            slo: self.slo.or(file.slo),
            price: self.price.or(file.price),
            price_device: self.price_device.or(file.price_device),
            price_units: self.price_units.or(file.price_units),
            think_scale: self.think_scale.or(file.think_scale),
            time_scale: self.time_scale.or(file.time_scale),
            window: self.window.or(file.window),
            context_limit: self.context_limit.or(file.context_limit),
            temperature: self.temperature.or(file.temperature),
            kv_memory: self.kv_memory.or(file.kv_memory),
            max_batch_tokens: self.max_batch_tokens.or(file.max_batch_tokens),
            max_sequences: self.max_sequences.or(file.max_sequences),
            prefix_cache: self.prefix_cache.or(file.prefix_cache),
            engine: self.engine.or(file.engine),
            weights: self.weights.or(file.weights),
            threads: self.threads.or(file.threads),
            pin: self.pin.or(file.pin),
            instructions: self.instructions.or(file.instructions),
            served_model: self.served_model.or(file.served_model),
            server: self.server.or(file.server),
            extra_body: self.extra_body.or(file.extra_body),
            api_key_env: self.api_key_env.or(file.api_key_env),
            tls_ca: self.tls_ca.or(file.tls_ca),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            tls_insecure: self.tls_insecure.or(file.tls_insecure),
            probe: self.probe.or(file.probe),
            warm_up_batches: self.warm_up_batches.or(file.warm_up_batches),
            metrics_url: self.metrics_url.or(file.metrics_url),
            no_scrape: self.no_scrape.or(file.no_scrape),
            no_preflight: self.no_preflight.or(file.no_preflight),
            stop_at_eos: self.stop_at_eos.or(file.stop_at_eos),
        }
    }
}
