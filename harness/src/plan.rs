//! From a scenario to a plan in which everything is checked and nothing is left open.
//!
//! Invariant: every mistake of the user is found here, before any work, and its message names the
//! flag or the file and key, the value, and what is accepted.

mod load;
mod server;

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use backends::engine::PrefixCache;
use backends::http::ApiKey;
use models::{
    CpuOptions, Level, ModelSource, ReferenceModel, SamplingParams, Threads, WeightsDtype,
};
use reports::cost::Priced;
use reports::schema::Slo;
use serde_json::{Map, Value};

use crate::arrivals::Arrivals;
use crate::prices;
use crate::scenario::Scenario;
use crate::target::{EngineOptions, HttpOptions, Kernels, Target};
use crate::telemetry::Choice;
use crate::units::{parse_bytes, parse_slo};
use crate::warm_up::Batches;
use crate::workload::source::Workload;

/// Requests of one open-loop run: their text is made and held before it starts.
const MAX_REQUESTS: f64 = 1e6;
/// Bytes of keys and values, also of a simulated device.
const MAX_KV_BYTES: u64 = 1 << 41;

/// A run, ready to be carried out.
#[derive(Debug)]
pub struct Plan {
    /// What is measured.
    pub target: Target,
    /// As the user calls the model.
    pub model_name: String,
    /// Where weights and tokenizer come from.
    pub model: ModelSource,
    /// Expand the weights?
    pub weights: WeightsDtype,
    /// Is the tokenizer that of the served model, or only a stand-in?
    pub tokenizer: TokenizerKind,
    /// What is asked.
    pub workload: Workload,
    /// Who asks.
    pub load: LoadKind,
    /// Measured window in seconds.
    pub duration_s: f64,
    /// Before it, in seconds.
    pub warmup_s: f64,
    /// After it at most, in seconds.
    pub drain_s: f64,
    /// Requests at most.
    pub max_requests: Option<u64>,
    /// Seed of everything.
    pub seed: u64,
    /// Limits of goodput.
    pub slo: Option<Slo>,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Ask for exactly the planned output length.
    pub ignore_eos: bool,
    /// Measure the client's own error first.
    pub preflight: bool,
    /// Telemetry that is taken along.
    pub probe: Choice,
    /// Read the server's own metrics beside the run.
    pub scrape: bool,
    /// What a server is warmed up with.
    pub warm_up_batches: Batches,
    /// For engines.
    pub engine: EngineOptions,
    /// For servers.
    pub http: HttpOptions,
    /// What the target costs, when a price is known.
    pub price: Option<Priced>,
    /// The scenario that the plan came from, for the report.
    pub scenario: Scenario,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LoadKind {
    /// Requests per second, and the process of session arrivals.
    Open(f64, Arrivals),
    /// A trace at its own instants, its time multiplied by this.
    Replay(f64),
    /// Users.
    Closed(u32),
}

/// How good the client's own token counts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenizerKind {
    /// The served model's.
    Exact,
    /// Another model's: prompts have about the planned length.
    StandIn,
}

/// Where a value came from, for messages.
struct Places<'a> {
    flags: &'a Scenario,
    file: Option<&'a Path>,
}

impl Places<'_> {
    fn of(&self, key: &str, flag: impl Fn(&Scenario) -> bool) -> String {
        match self.file {
            Some(file) if !flag(self.flags) => format!("{}: key `{key}`", file.display()),
            _ => format!("`--{}`", key.replace('_', "-")),
        }
    }
}

/// Checks a scenario: the flags, and the file if there is one.
pub fn resolve(flags: &Scenario, file: Option<&Path>) -> Result<Plan> {
    let scenario = match file {
        Some(path) => flags.clone().or(Scenario::read(path)?),
        None => flags.clone(),
    };
    let places = Places { flags, file };
    let target = Target::parse(scenario.target.as_deref().unwrap_or("cpu"))?;
    let (model_name, model, tokenizer) = resolve_model(&scenario, &target)?;
    let load::Resolved {
        workload,
        load,
        warmup_s,
        duration_s,
        drain_s,
    } = load::resolve(&scenario, &places)?;
    if let LoadKind::Open(rate, _) = load {
        let expected = rate * (warmup_s + duration_s);
        ensure!(
            expected <= MAX_REQUESTS,
            "{rate} requests per second for {} s are {expected:.0}; accepted are {MAX_REQUESTS:.0} in \
             one run",
            warmup_s + duration_s
        );
    }
    if let (Target::Http(_), LoadKind::Closed(users)) = (&target, load) {
        let place = places.of("users", |flags| flags.users.is_some());
        crate::limits::check_connections(u64::from(users), &place)?;
    }
    let temperature = scenario.temperature.unwrap_or(0.0);
    let place = places.of("temperature", |flags| flags.temperature.is_some());
    ensure!(
        (0.0..=10.0).contains(&temperature),
        "{place} is {temperature}; accepted is 0 to 10"
    );
    let max_requests = count(&places, "requests", scenario.requests, |f| {
        f.requests.is_some()
    })?;
    Ok(Plan {
        engine: resolve_engine(&scenario, &places, &target)?,
        http: resolve_http(&scenario, &places, &target)?,
        price: resolve_price(&scenario, &places, &target)?,
        sampling: SamplingParams {
            temperature,
            top_k: None,
            top_p: None,
            seed: 0,
        },
        ignore_eos: !scenario.stop_at_eos.unwrap_or(false),
        preflight: matches!(target, Target::Http(_)) && !scenario.no_preflight.unwrap_or(false),
        probe: resolve_probe(&scenario, &places, &target)?,
        scrape: !scenario.no_scrape.unwrap_or(false),
        warm_up_batches: server::warm_up_batches(&scenario, &places, &target)?,
        slo: resolve_slo(&scenario, &places, &workload)?,
        seed: scenario.seed.unwrap_or(1),
        max_requests: max_requests.map(|n| n as u64),
        target,
        model_name,
        model,
        weights: resolve_weights(&scenario, &places)?,
        tokenizer,
        workload,
        load,
        duration_s,
        warmup_s,
        drain_s,
        scenario,
    })
}

/// The part of a plan that says what answers, and with which model.
#[derive(Debug)]
pub struct EnginePlan {
    /// What answers.
    pub target: Target,
    /// As the user calls the model.
    pub model_name: String,
    /// Where weights and tokenizer come from.
    pub model: ModelSource,
    /// Expand the weights?
    pub weights: WeightsDtype,
    /// For engines.
    pub engine: EngineOptions,
    /// For servers.
    pub http: HttpOptions,
}

/// Checks the flags that concern the engine.
pub fn resolve_engine_plan(flags: &Scenario) -> Result<EnginePlan> {
    let places = Places { flags, file: None };
    let target = Target::parse(flags.target.as_deref().unwrap_or("cpu"))?;
    let (model_name, model, _) = resolve_model(flags, &target)?;
    Ok(EnginePlan {
        engine: resolve_engine(flags, &places, &target)?,
        http: resolve_http(flags, &places, &target)?,
        weights: resolve_weights(flags, &places)?,
        target,
        model_name,
        model,
    })
}

fn resolve_slo(
    scenario: &Scenario,
    places: &Places<'_>,
    workload: &Workload,
) -> Result<Option<Slo>> {
    let slo = match &scenario.slo {
        Some(text) => {
            let place = places.of("slo", |flags| flags.slo.is_some());
            Some(parse_slo(text).map_err(|message| anyhow!("{place}: {message}"))?)
        }
        None => workload.slo(),
    };
    Ok(slo.filter(|slo| slo.ttft_s.or(slo.tpot_s).or(slo.e2e_s).is_some()))
}

fn resolve_probe(scenario: &Scenario, places: &Places<'_>, target: &Target) -> Result<Choice> {
    let Some(text) = &scenario.probe else {
        return Ok(Choice::Auto);
    };
    let place = places.of("probe", |flags| flags.probe.is_some());
    let choice = Choice::parse(text).map_err(|message| anyhow!("{place} {message}"))?;
    let has_power = !matches!((&choice, target), (Choice::Named(..), Target::Sim(_)));
    ensure!(
        has_power,
        "{place} is `{text}`; a simulated device draws no power"
    );
    Ok(choice)
}

fn resolve_weights(scenario: &Scenario, places: &Places<'_>) -> Result<WeightsDtype> {
    match scenario.weights.as_deref() {
        None | Some("stored") => Ok(WeightsDtype::AsStored),
        Some("f32") => Ok(WeightsDtype::F32),
        Some(other) => {
            let place = places.of("weights", |flags| flags.weights.is_some());
            bail!("{place} is `{other}`; accepted are `stored` and `f32`")
        }
    }
}

fn resolve_model(
    scenario: &Scenario,
    target: &Target,
) -> Result<(String, ModelSource, TokenizerKind)> {
    let stand_in = ModelSource::Reference(ReferenceModel::Ref135m);
    match (&scenario.model, target) {
        (Some(name), Target::Http(_)) => Ok(match ModelSource::parse(name) {
            Ok(source) => (name.clone(), source, TokenizerKind::Exact),
            // The server's own name for a model that is not here.
            Err(_) => (name.clone(), stand_in, TokenizerKind::StandIn),
        }),
        (None, Target::Http(_)) => Ok(("served".into(), stand_in, TokenizerKind::StandIn)),
        (name, _) => {
            let name = name.as_deref().unwrap_or("ref-135m");
            Ok((name.into(), ModelSource::parse(name)?, TokenizerKind::Exact))
        }
    }
}

fn resolve_engine(
    scenario: &Scenario,
    places: &Places<'_>,
    target: &Target,
) -> Result<EngineOptions> {
    const DEFAULT_KV_BYTES: u64 = 1 << 30;
    let (tokens, sequences) = match target {
        Target::Sim(_) => (8192, 256),
        Target::Cuda(_) => (2048, 256),
        Target::Cpu | Target::Http(_) => (128, 32),
        Target::Plugin { .. } => (2048, 64),
    };
    let memory = crate::host::host_info().memory_bytes;
    let kv_memory_bytes = match &scenario.kv_memory {
        Some(text) => {
            let place = places.of("kv_memory", |flags| flags.kv_memory.is_some());
            let bytes = parse_bytes(text).map_err(|message| anyhow!("{place}: {message}"))?;
            ensure!(
                bytes <= MAX_KV_BYTES,
                "{place} is {text}; accepted is up to 2048GiB"
            );
            let fits = *target != Target::Cpu || bytes < memory;
            ensure!(
                fits,
                "{place} is {text}; this machine has {memory} bytes of memory"
            );
            Some(bytes)
        }
        // Virtual runs must not depend on the machine.
        None if matches!(target, Target::Sim(_)) => Some(DEFAULT_KV_BYTES * 16),
        None if matches!(target, Target::Cuda(_)) => None,
        None => Some(DEFAULT_KV_BYTES.min(memory / 4)),
    };
    let place = places.of("prefix_cache", |flags| flags.prefix_cache.is_some());
    let prefix_cache = if on_off(&place, scenario.prefix_cache.as_deref(), true)? {
        PrefixCache::On
    } else {
        PrefixCache::Off
    };
    let max_batch_tokens = count(places, "max_batch_tokens", scenario.max_batch_tokens, |f| {
        f.max_batch_tokens.is_some()
    })?;
    let max_sequences = count(places, "max_sequences", scenario.max_sequences, |f| {
        f.max_sequences.is_some()
    })?;
    Ok(EngineOptions {
        kv_memory_bytes,
        max_batch_tokens: max_batch_tokens.unwrap_or(tokens),
        max_sequences: max_sequences.unwrap_or(sequences),
        prefix_cache,
        kernels: resolve_kernels(scenario, places, target)?,
        cpu: resolve_cpu(scenario, places)?,
    })
}

/// Whose kernels; what only our own can do is refused with the others.
fn resolve_kernels(scenario: &Scenario, places: &Places<'_>, target: &Target) -> Result<Kernels> {
    let place = places.of("engine", |flags| flags.engine.is_some());
    let kernels = kernels(&place, scenario.engine.as_deref(), target)?;
    if kernels == Kernels::Candle {
        for (key, given) in [
            ("threads", scenario.threads.is_some()),
            ("pin", scenario.pin.is_some()),
            ("instructions", scenario.instructions.is_some()),
        ] {
            ensure!(
                !given,
                "`{key}` is given with candle's kernels; only engine `own` takes it\n\nhint: candle \
                 has as many threads as the environment variable `RAYON_NUM_THREADS` says"
            );
        }
    }
    Ok(kernels)
}

/// Whose kernels run the model on this target; `place` is where the user says so.
pub fn kernels(place: &str, engine: Option<&str>, target: &Target) -> Result<Kernels> {
    match (engine, target) {
        (Some("own"), Target::Cuda(_)) => {
            bail!("{place} is `own`; target `{target}` accepts `candle`")
        }
        (None, Target::Cuda(_)) | (Some("candle"), _) => Ok(Kernels::Candle),
        (None | Some("own"), _) => Ok(Kernels::Own),
        (Some(other), _) => bail!("{place} is `{other}`; accepted are `own` and `candle`"),
    }
}

/// Threads and instructions of an engine on the CPU.
fn resolve_cpu(scenario: &Scenario, places: &Places<'_>) -> Result<CpuOptions> {
    let threads = count(places, "threads", scenario.threads, |f| f.threads.is_some())?;
    let threads = threads.unwrap_or(crate::host::logical_cpus() as usize);
    let count = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    let place = places.of("pin", |flags| flags.pin.is_some());
    let pinned = on_off(&place, scenario.pin.as_deref(), false)?;
    let level = match scenario.instructions.as_deref() {
        None => Level::best(),
        Some(name) => {
            let place = places.of("instructions", |flags| flags.instructions.is_some());
            instructions(name).map_err(|message| anyhow!("{place} {message}"))?
        }
    };
    let threads = Threads { count, pinned };
    Ok(CpuOptions { threads, level })
}

/// The instruction set of this name, if this processor has it.
pub fn instructions(name: &str) -> Result<Level, String> {
    let available = || Level::ALL.into_iter().filter(|level| level.is_available());
    available()
        .find(|level| level.name() == name)
        .ok_or_else(|| {
            let names: Vec<_> = available().map(|level| format!("`{level}`")).collect();
            let names = names.join(", ");
            format!("is `{name}`; this processor and this build accept {names}")
        })
}

fn on_off(place: &str, value: Option<&str>, default: bool) -> Result<bool> {
    match value {
        None => Ok(default),
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => bail!("{place} is `{other}`; accepted are `on` and `off`"),
    }
}

fn count(
    places: &Places<'_>,
    key: &str,
    value: Option<i64>,
    flag: fn(&Scenario) -> bool,
) -> Result<Option<usize>> {
    let Some(value) = value else { return Ok(None) };
    let in_range = (1..=1_000_000_000).contains(&value);
    ensure!(
        in_range,
        "{} is {value}; accepted is a number from 1",
        places.of(key, flag)
    );
    Ok(Some(value as usize))
}

fn resolve_http(scenario: &Scenario, places: &Places<'_>, target: &Target) -> Result<HttpOptions> {
    let extra_body = match &scenario.extra_body {
        None => Map::new(),
        Some(text) => {
            let place = places.of("extra_body", |flags| flags.extra_body.is_some());
            let parsed: Value = serde_json::from_str(text)
                .with_context(|| format!("{place} is `{text}`; accepted is a JSON object"))?;
            match parsed {
                Value::Object(fields) => fields,
                _ => bail!("{place} is `{text}`; accepted is a JSON object"),
            }
        }
    };
    let variable = scenario.api_key_env.as_deref().unwrap_or("OPENAI_API_KEY");
    let api_key = std::env::var(variable).ok().map(ApiKey::new);
    ensure!(
        api_key.is_some() || scenario.api_key_env.is_none(),
        "{}: environment variable `{variable}` is not set",
        places.of("api_key_env", |flags| flags.api_key_env.is_some())
    );
    let named = scenario.served_model.as_ref().or(scenario.model.as_ref());
    Ok(HttpOptions {
        served_model: named.cloned().unwrap_or_default(),
        api_key,
        extra_body,
        stack: server::stack(scenario, places)?,
        tls: server::tls(scenario, places, target)?,
        metrics: server::metrics_url(scenario, places, target)?,
    })
}

fn resolve_price(
    scenario: &Scenario,
    places: &Places<'_>,
    target: &Target,
) -> Result<Option<Priced>> {
    let units = count(places, "price_units", scenario.price_units, |f| {
        f.price_units.is_some()
    })?;
    let asked = prices::Asked {
        sheet: scenario.price.as_deref(),
        device: scenario.price_device.as_deref(),
        units: units.map(|units| units as u32),
    };
    if asked.device.is_none() && matches!(target, Target::Http(server) if server.vendor.is_some()) {
        // Its devices are known when their telemetry has been opened; a mistake is found now.
        asked.sheet.map(prices::load).transpose()?;
        return Ok(None);
    }
    // vCPUs of this host for the CPU, one device for all else.
    let own_units = if *target == Target::Cpu {
        crate::host::logical_cpus()
    } else {
        1
    };
    let named = places.of("price_device", |flags| flags.price_device.is_some());
    prices::resolve(asked, target.price_device().as_deref(), own_units).context(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: &Scenario, expected: &str) {
        let error = resolve(flags, None).expect_err(expected);
        let message = format!("{error:#}");
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn with_nothing_given_it_is_the_readme_s_run() {
        let plan = resolve(&Scenario::default(), None).expect("the defaults work");
        assert_eq!(
            (plan.target, plan.model_name.as_str()),
            (Target::Cpu, "ref-135m")
        );
        assert_eq!(plan.workload.name(), "smoke");
        assert_eq!((plan.warmup_s, plan.seed, plan.ignore_eos), (2.0, 1, true));
    }

    #[test]
    fn mistakes_name_the_flag_the_value_and_what_is_accepted() {
        // Each line is a scenario file's, given as flags.
        for (toml, expected) in [
            ("rate = -1", "`--rate` is -1; accepted is"),
            ("users = 0", "`--users` is 0; accepted is 1 to"),
            ("rate = 1\nusers = 2", "both given"),
            ("duration = '60'", "`--duration`: `60` is not"),
            ("slo = 'ttft=fast'", "`--slo`: `fast` is not"),
            ("kv_memory = 'lots'", "`--kv-memory`: `lots`"),
            ("kv_memory = '900000GB'", "accepted is up to 2048GiB"),
            ("kv_memory = '2000GiB'", "this machine has"),
            (
                "rate = 1e5\nduration = '60s'",
                "accepted are 1000000 in one run",
            ),
            ("users = 3\narrivals = 'constant'", "belong to an open loop"),
            (
                "target = 'sim:h100'\nprice_device = 'abacus'",
                "has no device `abacus`",
            ),
            ("prefix_cache = 'maybe'", "accepted are `on` and `off`"),
            ("extra_body = '[1]'", "accepted is a JSON object"),
            ("arrivals = 'bursty'", "`bursty` is not"),
            ("model = 'gpt-9'", "gpt-9"),
            ("requests = 0", "`--requests` is 0"),
            ("think_scale = -1", "`--think-scale` is -1; accepted is"),
            ("time_scale = 2", "`doubao-day` has one"),
            (
                "workload = 'doubao-day'\ntime_scale = 0",
                "`--time-scale` is 0",
            ),
            (
                "workload = 'doubao-day'\nwindow = '20h'",
                "`20h` is not a window",
            ),
            (
                "workload = 'doubao-day'\nwindow = '30h..31h'",
                "not a part of a day",
            ),
            ("arrivals = 'trace'", "has no instants of its own"),
            ("workload = 'azure:no/such.csv'", "no/such.csv"),
            (
                "context_limit = 100",
                "`context_limit` is 100; the system prompt",
            ),
            (
                "workload = 'random:9/9'\ncontext_limit = 8",
                "has no effect",
            ),
            ("threads = -2", "`--threads` is -2"),
            (
                "probe = 'meter'",
                "`--probe` is `meter`; accepted are `auto`",
            ),
            ("probe = 'nvml:x'", "as in `nvml:0,1`"),
            (
                "probe = 'nvml'\ntarget = 'sim:h100'",
                "a simulated device draws no power",
            ),
            (
                "engine = 'fast'",
                "`--engine` is `fast`; accepted are `own` and `candle`",
            ),
            (
                "engine = 'candle'\nthreads = 1",
                "`threads` is given with candle's kernels",
            ),
            ("price = 'no/such.toml'", "no/such.toml"),
        ] {
            check(&toml::from_str(toml).expect(toml), expected);
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_messages_name_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.toml");
        std::fs::write(&path, "rate = -3.0\nworkload = \"random:8/4\"\n").expect("writable");
        let error = resolve(&Scenario::default(), Some(&path))
            .expect_err("negative")
            .to_string();
        assert!(error.contains("s.toml: key `rate` is -3"), "{error}");
        let flags = Scenario {
            rate: Some(2.5),
            ..Scenario::default()
        };
        let plan = resolve(&flags, Some(&path)).expect("the flag is good");
        assert_eq!(plan.load, LoadKind::Open(2.5, Arrivals::Poisson));
        assert_eq!(plan.workload.name(), "random:8/4");
        std::fs::write(&path, "raet = 3.0\n").expect("writable");
        let error = resolve(&Scenario::default(), Some(&path))
            .expect_err("typo")
            .to_string();
        assert!(
            error.contains("raet") && error.contains("line 1"),
            "{error}"
        );
    }
}
