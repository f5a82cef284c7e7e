//! What is measured: from `--target` to a running backend.
//!
//! Invariant: a target that cannot work is refused before anything is measured, and the message
//! says why and what else there is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use backends::candle::CandleExecutor;
use backends::cpu::CpuExecutor;
use backends::engine::{Capacity, Engine, Executor, PrefixCache, blocks_for};
use backends::http::{
    ApiKey, BaseError, HttpBackend, HttpConfig, Stack, StackChoice, TlsClient, Uri, parse_base,
};
use backends::plugin::{self, PluginExecutor, PluginOptions};
use backends::probe::Vendor;
use backends::sim::{self, Device, SimulatedExecutor};
use backends::{Backend, Clock, Failure, FailureCause, SystemInfo};
use models::{
    ChatTokenizer, CpuOptions, DeviceFacts, KvFormat, LoadError, Model, ModelInfo, ModelSource,
    TensorDevice, TensorLlama, WeightsDtype, load_tokenizer,
};
use serde_json::{Map, Value};

/// A target as given.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// The built-in engine on the CPU.
    Cpu,
    /// The built-in engine on an NVIDIA GPU, in a build that can.
    Cuda(u32),
    /// A server.
    Http(Server),
    /// The built-in scheduler on a simulated device.
    Sim(String),
    /// The built-in engine on a device behind the C interface.
    Plugin {
        /// The shared library.
        library: PathBuf,
        /// For the library alone.
        arguments: String,
    },
}

/// A server, and whose devices it runs on, where that was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Base address.
    pub base: String,
    /// Maker of the devices.
    pub vendor: Option<Vendor>,
}

/// Targets that name the maker of a server's devices.
const VENDORS: [Vendor; 2] = [Vendor::Ascend, Vendor::Cambricon];

impl Server {
    /// Reads `http://…`, `ascend=http://…` and the like; `None` for what is no server.
    fn parse(text: &str) -> Option<Result<Self, BaseError>> {
        let vendor_of = |text: &str| {
            let (name, _) = text.split_once('=')?;
            VENDORS.into_iter().find(|vendor| vendor.name() == name)
        };
        let vendor = vendor_of(text);
        let base = match vendor {
            Some(vendor) => &text[vendor.name().len() + 1..],
            None if text.starts_with("http://") || text.starts_with("https://") => text,
            None => return None,
        };
        let checked = parse_base(base);
        Some(checked.map(|_| Self {
            base: base.into(),
            vendor,
        }))
    }

    /// What is assumed to answer there if it does not say.
    pub fn likely_stack(&self) -> Stack {
        match self.vendor {
            Some(Vendor::Ascend) => Stack::MindIe,
            Some(Vendor::Cambricon) => Stack::Vllm,
            _ => Stack::OpenAi,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(vendor) = self.vendor {
            write!(formatter, "{}=", vendor.name())?;
        }
        formatter.write_str(&self.base)
    }
}

/// A target that this build cannot measure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not one of the forms.
    #[error(
        "target `{0}` is not known; accepted are `cpu`, `cuda:N`, `http://HOST:PORT/v1`, `ascend=http://HOST:PORT/v1`, `cambricon=http://HOST:PORT/v1`, `plugin:FILE` and `sim:DEVICE`"
    )]
    Unknown(String),
    /// A plugin without a file.
    #[error(
        "target `{0}` names no file; accepted is `plugin:/path/lib.so`, or with arguments for the plugin `plugin:/path/lib.so?device=1`"
    )]
    NoLibrary(String),
    /// A GPU, in a build that has no code for it.
    #[error(
        "target `{0}`: built without `cuda`; rebuild with `--features cuda`\n\nhint: or measure a server that runs on the GPU: `--target http://HOST:PORT/v1`"
    )]
    NoCuda(String),
    /// Not the number of a GPU.
    #[error("target `{0}`; accepted is `cuda:N` with the number of a GPU, from 0")]
    NoGpu(String),
    /// No such device.
    #[error("target `sim:{0}`: there is no such device; accepted are {1}")]
    NoDevice(String, String),
    /// A base address that does not work.
    #[error("target: {0}")]
    Base(#[from] BaseError),
}

impl Target {
    /// Reads `--target`.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if let Some(server) = Server::parse(text) {
            return Ok(Self::Http(server?));
        }
        match text {
            "cpu" => Ok(Self::Cpu),
            _ if let Some(ordinal) = text.strip_prefix("cuda:") => match ordinal.parse() {
                Ok(ordinal) if cfg!(feature = "cuda") => Ok(Self::Cuda(ordinal)),
                Ok(_) => Err(TargetError::NoCuda(text.into())),
                Err(_) => Err(TargetError::NoGpu(text.into())),
            },
            _ if text.starts_with("plugin:") => {
                let rest = text.trim_start_matches("plugin:");
                let (library, arguments) = rest.split_once('?').unwrap_or((rest, ""));
                if library.is_empty() {
                    return Err(TargetError::NoLibrary(text.into()));
                }
                Ok(Self::Plugin {
                    library: library.into(),
                    arguments: arguments.into(),
                })
            }
            _ => match text.strip_prefix("sim:") {
                Some(device) if Device::builtin(device).is_some() => Ok(Self::Sim(device.into())),
                Some(device) => {
                    let names: Vec<_> = sim::device_names()
                        .iter()
                        .map(|name| format!("`sim:{name}`"))
                        .collect();
                    Err(TargetError::NoDevice(device.into(), names.join(", ")))
                }
                None => Err(TargetError::Unknown(text.into())),
            },
        }
    }

    /// The clock that fits.
    pub fn clock(&self) -> Clock {
        match self {
            Self::Cpu | Self::Cuda(_) | Self::Http(_) | Self::Plugin { .. } => Clock::wall(),
            Self::Sim(_) => Clock::simulated(),
        }
    }

    /// Where candle's kernels run the model, if they do.
    pub fn tensor_device(&self) -> TensorDevice {
        match self {
            Self::Cuda(ordinal) => TensorDevice::Cuda(*ordinal as usize),
            _ => TensorDevice::Cpu,
        }
    }

    /// Device name for price files.
    pub fn price_device(&self) -> Option<String> {
        match self {
            Self::Cpu => Some("cpu".into()),
            Self::Sim(name) => Device::builtin(name).map(|device| device.id),
            Self::Cuda(_) => {
                let facts = self.tensor_device().facts().ok().flatten();
                facts.map(|facts| facts.name)
            }
            Self::Http(_) | Self::Plugin { .. } => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(ordinal) => write!(formatter, "cuda:{ordinal}"),
            Self::Http(server) => write!(formatter, "{server}"),
            Self::Sim(device) => write!(formatter, "sim:{device}"),
            Self::Plugin { library, arguments } if arguments.is_empty() => {
                write!(formatter, "plugin:{}", library.display())
            }
            Self::Plugin { library, arguments } => {
                write!(formatter, "plugin:{}?{arguments}", library.display())
            }
        }
    }
}

/// Whose kernels run the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// This project's, for the CPU.
    Own,
    /// candle's, for any device it knows.
    Candle,
}

impl Kernels {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Candle => "candle",
        }
    }
}

/// Settings of the engine, for targets that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Bytes of keys and values; none: most of what the device has left beside the weights.
    pub kv_memory_bytes: Option<u64>,
    /// Tokens in one step.
    pub max_batch_tokens: usize,
    /// Sequences in one step.
    pub max_sequences: usize,
    /// Keep prefixes for later requests?
    pub prefix_cache: PrefixCache,
    /// Which forward pass.
    pub kernels: Kernels,
    /// For an engine on the CPU with our own kernels.
    pub cpu: CpuOptions,
}

/// Settings of the client, for servers.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// `model` field of each request.
    pub served_model: String,
    /// Bearer key.
    pub api_key: Option<ApiKey>,
    /// Merged into each request.
    pub extra_body: Map<String, Value>,
    /// What answers, if the user says.
    pub stack: Option<Stack>,
    /// For `https`.
    pub tls: Option<TlsClient>,
    /// Where the server tells about itself, if the user says.
    pub metrics: Option<Uri>,
}

/// What `connect` needs of a model: all of it, or what can be known without its weights.
#[derive(Debug)]
pub enum Served {
    /// For the CPU.
    Loaded(Box<Model>),
    /// On the device of the target, for candle's kernels; what the device says once they are there.
    Tensors(Box<Model<TensorLlama>>, Option<DeviceFacts>),
    /// For a simulated device or a server.
    Described(ModelInfo, Arc<ChatTokenizer>),
    /// For a plugin: the same, and where it finds the weights.
    Filed(ModelInfo, Arc<ChatTokenizer>, Option<PathBuf>),
}

impl Served {
    /// Loads what the target needs of a model.
    pub fn load(
        target: &Target,
        kernels: Kernels,
        model: &ModelSource,
        weights: WeightsDtype,
    ) -> Result<Self, LoadError> {
        let device = match target {
            Target::Cpu if kernels == Kernels::Own => {
                return Ok(Self::Loaded(Box::new(Model::load(model, weights)?)));
            }
            Target::Cpu | Target::Cuda(_) => target.tensor_device(),
            Target::Http(_) | Target::Sim(_) => {
                let (info, tokenizer) = load_tokenizer(model)?;
                return Ok(Self::Described(info, tokenizer));
            }
            Target::Plugin { .. } => {
                let (info, tokenizer) = load_tokenizer(model)?;
                return Ok(Self::Filed(info, tokenizer, model.file()));
            }
        };
        let model = Model::load_on(device, model, weights)?;
        Ok(Self::Tensors(Box::new(model), device.facts()?))
    }

    /// Bytes of keys and values: as many as are wanted, or most of what the device has left. A
    /// tenth of its memory is for activations.
    pub fn kv_memory_bytes(&self, engine: &EngineOptions) -> u64 {
        let left = match self {
            Self::Tensors(_, Some(facts)) => {
                facts.free_bytes.saturating_sub(facts.memory_bytes / 10)
            }
            _ => 0,
        };
        engine.kv_memory_bytes.unwrap_or(left)
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        match self {
            Self::Loaded(model) => &model.info,
            Self::Tensors(model, _) => &model.info,
            Self::Described(info, _) | Self::Filed(info, ..) => info,
        }
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> Arc<ChatTokenizer> {
        match self {
            Self::Loaded(model) => Arc::clone(&model.chat),
            Self::Tensors(model, _) => Arc::clone(&model.chat),
            Self::Described(_, tokenizer) | Self::Filed(_, tokenizer, _) => Arc::clone(tokenizer),
        }
    }
}

fn http_config(server: &Server, http: &HttpOptions) -> HttpConfig {
    let likely = StackChoice::Recognised(server.likely_stack());
    HttpConfig {
        model: http.served_model.clone(),
        api_key: http.api_key.clone(),
        extra_body: http.extra_body.clone(),
        stack: http.stack.map_or(likely, StackChoice::Named),
        tls: http.tls.clone(),
        metrics: http.metrics.clone(),
        ..HttpConfig::new(parse_base(&server.base).expect("the target was checked"))
    }
}

/// Starts an engine or reaches a server. Runs inside the clock's runtime.
pub async fn connect(
    target: &Target,
    clock: &Clock,
    served: Served,
    engine: &EngineOptions,
    http: &HttpOptions,
) -> Result<Arc<dyn Backend>, Failure> {
    if let Target::Http(server) = target {
        let config = http_config(server, http);
        return Ok(Arc::new(HttpBackend::connect(config, clock.clone()).await?));
    }
    let info = served.info();
    let kv_memory_bytes = served.kv_memory_bytes(engine);
    let capacity = Capacity {
        blocks: blocks_for(kv_memory_bytes, info),
        max_sequences: engine.max_sequences,
        max_batch_tokens: engine.max_batch_tokens,
        max_context: info.context_limit as usize,
    };
    let end_tokens: Arc<[u32]> = served.tokenizer().eos_ids().into();
    let (clock, cache) = (clock.clone(), engine.prefix_cache);
    let mut details = engine_details(engine, capacity, kv_memory_bytes);
    let backend = match (target, served) {
        (Target::Sim(name), served) => {
            let device = Device::builtin(name).expect("the target was checked");
            details.extend(device.details());
            let system = SystemInfo {
                kind: "simulated".into(),
                device: device.name.clone(),
                details,
            };
            let executor = SimulatedExecutor::new(&device, served.info(), capacity, clock.clone());
            Engine::start(executor, clock, cache, end_tokens, system)
        }
        (_, Served::Loaded(model)) => {
            let device = crate::host::host_info().cpu;
            details.extend(cpu_details(engine.cpu));
            let system = SystemInfo {
                kind: "engine".into(),
                device,
                details,
            };
            let executor = CpuExecutor::new(model.llama, capacity, engine.cpu)
                .map_err(|error| Failure::new(FailureCause::Engine, error.to_string()))?;
            Engine::start(executor, clock, cache, end_tokens, system)
        }
        (Target::Plugin { .. }, Served::Filed(info, _, gguf)) => {
            let executor = open_plugin(target, kv_memory_bytes, capacity, &info, gguf)?;
            details.extend(engine_details(engine, executor.capacity(), kv_memory_bytes));
            let system = SystemInfo {
                kind: "plugin".into(),
                device: executor.device().to_owned(),
                details,
            };
            Engine::start(executor, clock, cache, end_tokens, system)
        }
        (_, Served::Tensors(model, facts)) => {
            details.extend(candle_details(facts.as_ref()));
            let system = SystemInfo {
                kind: "engine".into(),
                device: facts.map_or_else(|| crate::host::host_info().cpu, |facts| facts.name),
                details,
            };
            let executor = CandleExecutor::new(model.llama, capacity)
                .map_err(|error| Failure::new(FailureCause::Engine, error.to_string()))?;
            Engine::start(executor, clock, cache, end_tokens, system)
        }
        (_, Served::Described(..) | Served::Filed(..)) => {
            unreachable!("an engine is given a loaded model")
        }
    };
    Ok(Arc::new(backend))
}

fn open_plugin(
    target: &Target,
    kv_memory_bytes: u64,
    wanted: Capacity,
    info: &ModelInfo,
    gguf: Option<PathBuf>,
) -> Result<PluginExecutor, Failure> {
    let Target::Plugin { library, arguments } = target else {
        unreachable!("only a plugin is opened");
    };
    let options = PluginOptions {
        path: library.clone(),
        arguments: arguments.clone(),
        gguf,
        wanted,
        kv_memory_bytes,
        step_limit: plugin::STEP_LIMIT,
    };
    PluginExecutor::open(&options, info)
        .map_err(|error| Failure::new(FailureCause::Engine, error.to_string()))
}

fn candle_details(device: Option<&DeviceFacts>) -> BTreeMap<String, String> {
    let mut details = BTreeMap::from([
        ("engine".into(), Kernels::Candle.name().into()),
        ("kernels".into(), "candle".into()),
        ("kv_format".into(), KvFormat::default().name().into()),
    ]);
    if let Some(facts) = device {
        let memory = crate::units::show_bytes(facts.memory_bytes);
        let capability = facts.compute_capability.clone();
        details.insert("compute_capability".into(), capability);
        details.insert("device_memory".into(), memory);
    } else {
        let threads = TensorDevice::cpu_threads().to_string();
        details.insert("threads".into(), threads);
    }
    details
}

fn cpu_details(cpu: CpuOptions) -> [(String, String); 5] {
    let pinned = if cpu.threads.pinned { "on" } else { "off" };
    [
        ("engine".into(), Kernels::Own.name().into()),
        ("threads".into(), cpu.threads.count.to_string()),
        ("pin".into(), pinned.into()),
        ("instructions".into(), cpu.level.to_string()),
        ("kv_format".into(), KvFormat::default().name().into()),
    ]
}

fn engine_details(
    engine: &EngineOptions,
    capacity: Capacity,
    kv_memory_bytes: u64,
) -> BTreeMap<String, String> {
    let on_off = if engine.prefix_cache == PrefixCache::On {
        "on"
    } else {
        "off"
    };
    BTreeMap::from([
        (
            "kv_memory".into(),
            crate::units::show_bytes(kv_memory_bytes),
        ),
        ("kv_blocks".into(), capacity.blocks.to_string()),
        ("kv_block_tokens".into(), models::BLOCK_TOKENS.to_string()),
        (
            "max_batch_tokens".into(),
            capacity.max_batch_tokens.to_string(),
        ),
        ("max_sequences".into(), capacity.max_sequences.to_string()),
        ("max_context".into(), capacity.max_context.to_string()),
        ("prefix_cache".into(), on_off.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written() {
        for text in [
            "cpu",
            "sim:h100",
            "http://127.0.0.1:8000/v1",
            "ascend=http://127.0.0.1:1025/v1",
            "https://example.com/v1",
            "cambricon=https://127.0.0.1:8000/v1",
            "plugin:/x.so?device=1",
        ] {
            assert_eq!(Target::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn targets_that_cannot_work_say_why() {
        for (text, part) in [
            ("gpu", "accepted are `cpu`"),
            ("cuda:first", "with the number of a GPU"),
            ("sim:abacus", "`sim:h100`"),
            ("plugin:", "names no file"),
            ("http:///v1", "accepted is"),
            ("ascend=", "accepted is"),
            ("ascend=127.0.0.1:1025", "accepted is"),
            ("nvidia=http://h/v1", "`ascend=http://HOST:PORT/v1`"),
        ] {
            let error = Target::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_gpu_is_a_target_of_builds_that_can_use_one() {
        let parsed = Target::parse("cuda:1");
        assert_eq!(parsed.is_ok(), cfg!(feature = "cuda"));
        match parsed {
            Ok(target) => {
                assert_eq!(target.to_string(), "cuda:1");
                assert_eq!(target, Target::Cuda(1));
            }
            Err(error) => {
                let words = "built without `cuda`; rebuild with `--features cuda`";
                assert!(error.to_string().contains(words), "{error}");
            }
        }
    }
}
