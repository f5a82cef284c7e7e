//! Loading a model: weights, tokenizer, and what a report says about it.

use crate::config::{ConfigError, LlamaConfig, TensorSpec};
use crate::gguf::GgufFile;
use crate::kv::{BLOCK_TOKENS, KvCache, KvFormat};
use crate::llama::{BuildError, Llama};
use crate::reference::{self, ReferenceModel};
use crate::reference_vocab;
use crate::source::ModelSource;
use crate::store::{self, CatalogueEntry};
use crate::tensors::{NoDevice, TensorCache, TensorDevice, TensorLlama};
use crate::tokenizer::{ChatTokenizer, TokenizerError};
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// In which format weights are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsDtype {
    /// As the model has them.
    AsStored,
    /// Everything as f32: slower, and the reference for accuracy.
    F32,
}

impl WeightsDtype {
    /// The format in memory of a tensor stored in `format`.
    fn of(self, format: GgmlDType) -> GgmlDType {
        match self {
            Self::AsStored => format,
            Self::F32 => GgmlDType::F32,
        }
    }
}

/// A model that can run, with one of the forward passes: [`Llama`] or [`TensorLlama`].
#[derive(Debug)]
pub struct Model<L = Llama> {
    /// What a report says about it.
    pub info: ModelInfo,
    /// The forward pass.
    pub llama: L,
    /// Tokenizer and chat template.
    pub chat: Arc<ChatTokenizer>,
}

/// A description of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The name it was asked for, or the file's own name for itself.
    pub name: String,
    /// Always `llama` today.
    pub architecture: String,
    /// Weights, embedding included; a tied output matrix counts once.
    pub parameters: u64,
    /// The format that holds the most bytes, such as `Q4_1`.
    pub weights: String,
    /// Bytes of all weights in memory.
    pub weight_bytes: u64,
    /// Most tokens of one sequence.
    pub context_limit: u64,
    /// SHA-256 of the file, or the seed of random weights.
    pub identity: String,
    /// Tokens of the vocabulary.
    pub vocab_size: u64,
    /// Transformer layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width of the feed-forward part.
    pub feed_forward: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Bytes the cache needs per token.
    pub kv_bytes_per_token: u64,
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A model of the catalogue is not in the cache.
    #[error(
        "model `{name}` is not in the cache (`{path}`)\n\n\
         hint: run `weighbridge models pull {name}`",
        path = path.display()
    )]
    NotInCache {
        /// Name in the catalogue.
        name: &'static str,
        /// Where it would be.
        path: PathBuf,
    },
    /// A model of the catalogue is in the cache, but it is another file.
    #[error(
        "`{path}` has SHA-256 {found}, the catalogue says {expected}\n\n\
         hint: delete it and run `weighbridge models pull {name}`",
        path = path.display()
    )]
    Checksum {
        /// Name in the catalogue.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Its checksum.
        found: String,
        /// The catalogue's.
        expected: &'static str,
    },
    /// The file cannot be read.
    #[error("`{path}` cannot be read", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The path is a directory or a device.
    #[error("`{path}` is not a file; expected a GGUF file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The header is damaged, cut short, or not GGUF at all.
    #[error("`{path}` is not a usable GGUF file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is not a llama.
    #[error("`{path}` has architecture {found}; accepted: `llama`", path = path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// Its architecture.
        found: String,
    },
    /// The metadata is no usable configuration.
    #[error("`{path}`: unusable configuration", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Key, value and what is accepted.
        source: ConfigError,
    },
    /// The tokenizer cannot be built.
    #[error("`{path}`: unusable tokenizer", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Key, value and what is accepted.
        source: TokenizerError,
    },
    /// A tensor is absent.
    #[error("`{path}`: tensor `{name}` of shape {expected:?} is missing", path = path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration demands.
    #[error(
        "`{path}`: tensor `{name}` has shape {found:?}, the configuration demands {expected:?}",
        path = path.display()
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        found: Vec<usize>,
        /// What it should be.
        expected: Vec<usize>,
    },
    /// A tensor reaches beyond the end of the file.
    #[error(
        "`{path}` is cut short: tensor `{name}` ends at byte {end}, the file has {bytes}\n\n\
         hint: download it again",
        path = path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Where it would end.
        end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// A tensor is refused by the tensor library.
    #[error("`{path}`: tensor `{name}` cannot be read", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its reason.
        source: Box<candle_core::Error>,
    },
    /// Weights could not be prepared.
    #[error("weights cannot be prepared")]
    Prepare(#[source] Box<candle_core::Error>),
    /// The device is not there, or this build cannot use it.
    #[error(transparent)]
    Device(#[from] NoDevice),
    /// There is no memory for the weights.
    #[error("there is no memory for the weights")]
    Memory(#[source] io::Error),
}

impl From<BuildError> for LoadError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Memory(source) => Self::Memory(source),
            BuildError::Tensor(source) => source.into(),
        }
    }
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Prepare(Box::new(error))
    }
}

/// What a forward pass is built from.
struct Weights<'a> {
    config: LlamaConfig,
    tied: bool,
    rope_factors: Option<Vec<f32>>,
    /// The format in memory of each tensor.
    format: &'a dyn Fn(&TensorSpec) -> GgmlDType,
    /// Yields each tensor once, in order, already checked against its spec.
    read: &'a mut dyn FnMut(&TensorSpec) -> Result<QTensor, LoadError>,
}

impl Model {
    /// Loads weights and tokenizer.
    pub fn load(source: &ModelSource, dtype: WeightsDtype) -> Result<Self, LoadError> {
        load(source, dtype, build_llama)
    }

    /// A reference model with another layer format than its own, to compare formats.
    #[doc(hidden)]
    pub fn reference_with_layers(
        model: ReferenceModel,
        layers: GgmlDType,
        dtype: WeightsDtype,
    ) -> Result<Self, LoadError> {
        let recipe = reference::Recipe {
            layers,
            ..model.recipe()
        };
        from_recipe(model, &recipe, dtype, build_llama)
    }
}

impl Model<TensorLlama> {
    /// Loads weights, onto a device, and tokenizer.
    pub fn load_on(
        device: TensorDevice,
        source: &ModelSource,
        dtype: WeightsDtype,
    ) -> Result<Self, LoadError> {
        let opened = device.open()?;
        let mut model = load(source, dtype, |weights| {
            TensorLlama::build(
                opened,
                weights.config,
                weights.tied,
                weights.rope_factors.as_deref(),
                weights.format,
                weights.read,
            )
        })?;
        let per_block = TensorCache::bytes_per_block(model.llama.config(), KvFormat::F16);
        model.info.kv_bytes_per_token = (per_block / BLOCK_TOKENS) as u64;
        Ok(model)
    }
}

fn build_llama(weights: Weights<'_>) -> Result<Llama, LoadError> {
    Llama::build(
        weights.config,
        weights.tied,
        weights.rope_factors.as_deref(),
        weights.format,
        weights.read,
    )
}

fn load<L>(
    source: &ModelSource,
    dtype: WeightsDtype,
    build: impl FnOnce(Weights<'_>) -> Result<L, LoadError>,
) -> Result<Model<L>, LoadError> {
    let (mut file, identity) = match source {
        ModelSource::Reference(model) => {
            return from_recipe(*model, &model.recipe(), dtype, build);
        }
        ModelSource::Catalogue(entry) => open_entry(entry)?,
        ModelSource::File(path) => open_file(path)?,
    };
    let (info, config, chat) = describe_file(&file, source, identity, dtype)?;
    let rope_factors = file.rope_factors(&config)?;
    let tied = file.is_tied();
    let formats: BTreeMap<_, _> = config
        .tensors(tied)
        .into_iter()
        .map(|spec| Ok((spec.name.clone(), file.check(&spec)?)))
        .collect::<Result<_, LoadError>>()?;
    let llama = build(Weights {
        config,
        tied,
        rope_factors,
        format: &|spec| dtype.of(formats[&spec.name]),
        read: &mut |spec| file.read(spec),
    })?;
    Ok(Model { info, llama, chat })
}

fn from_recipe<L>(
    model: ReferenceModel,
    recipe: &reference::Recipe,
    dtype: WeightsDtype,
    build: impl FnOnce(Weights<'_>) -> Result<L, LoadError>,
) -> Result<Model<L>, LoadError> {
    let (info, chat) = describe_reference(model, recipe, dtype);
    let llama = build(Weights {
        config: model.config(),
        tied: true,
        rope_factors: None,
        format: &|spec| dtype.of(recipe.format(spec)),
        read: &mut |spec| Ok(recipe.tensor(spec)?),
    })?;
    Ok(Model { info, llama, chat })
}

/// Loads what is needed to turn text into tokens and back, without the weights.
pub fn load_tokenizer(source: &ModelSource) -> Result<(ModelInfo, Arc<ChatTokenizer>), LoadError> {
    let (file, identity) = match source {
        ModelSource::Reference(model) => {
            return Ok(describe_reference(
                *model,
                &model.recipe(),
                WeightsDtype::AsStored,
            ));
        }
        ModelSource::Catalogue(entry) => open_entry(entry)?,
        ModelSource::File(path) => open_file(path)?,
    };
    let (info, _, chat) = describe_file(&file, source, identity, WeightsDtype::AsStored)?;
    Ok((info, chat))
}

fn open_entry(entry: &'static CatalogueEntry) -> Result<(GgufFile, String), LoadError> {
    let path = store::path(entry);
    if !path.exists() {
        return Err(LoadError::NotInCache {
            name: entry.name,
            path,
        });
    }
    let (file, found) = open_file(&path)?;
    if found != entry.sha256 {
        let (name, expected) = (entry.name, entry.sha256);
        return Err(LoadError::Checksum {
            name,
            path,
            found,
            expected,
        });
    }
    Ok((file, found))
}

fn open_file(path: &Path) -> Result<(GgufFile, String), LoadError> {
    let file = GgufFile::open(path)?;
    let identity = file.sha256()?;
    Ok((file, identity))
}

type Described = (ModelInfo, LlamaConfig, Arc<ChatTokenizer>);

fn describe_file(
    file: &GgufFile,
    source: &ModelSource,
    identity: String,
    dtype: WeightsDtype,
) -> Result<Described, LoadError> {
    let config = file.config()?;
    let formats = config
        .tensors(file.is_tied())
        .into_iter()
        .map(|spec| Ok((file.check(&spec)?, spec)))
        .collect::<Result<Vec<_>, LoadError>>()?;
    let name = match (source, file.value("general.name")) {
        (ModelSource::Catalogue(entry), _) => entry.name.to_owned(),
        (_, Some(Value::String(name))) => name.clone(),
        (ModelSource::File(path), _) => path.display().to_string(),
        (ModelSource::Reference(model), _) => model.name().to_owned(),
    };
    let path = match source {
        ModelSource::File(path) => path.clone(),
        ModelSource::Catalogue(entry) => store::path(entry),
        ModelSource::Reference(_) => PathBuf::new(),
    };
    let chat = ChatTokenizer::new(file.vocabulary()?)
        .map_err(|source| LoadError::Tokenizer { path, source })?;
    Ok((
        describe(name, identity, &config, &formats, dtype),
        config,
        Arc::new(chat),
    ))
}

fn describe_reference(
    model: ReferenceModel,
    recipe: &reference::Recipe,
    dtype: WeightsDtype,
) -> (ModelInfo, Arc<ChatTokenizer>) {
    let config = model.config();
    let specs = config.tensors(true).into_iter();
    let formats: Vec<_> = specs.map(|spec| (recipe.format(&spec), spec)).collect();
    let identity = format!("random weights, seed {}", recipe.seed);
    let info = describe(model.name().to_owned(), identity, &config, &formats, dtype);
    let chat = ChatTokenizer::new(reference_vocab::vocabulary(config.vocab));
    (
        info,
        Arc::new(chat.expect("the reference vocabulary is well-formed")),
    )
}

fn describe(
    name: String,
    identity: String,
    config: &LlamaConfig,
    tensors: &[(GgmlDType, TensorSpec)],
    dtype: WeightsDtype,
) -> ModelInfo {
    let mut parameters = 0;
    let mut bytes_by_format = BTreeMap::new();
    for (format, spec) in tensors {
        let format = dtype.of(*format);
        let elements: usize = spec.shape.iter().product();
        parameters += elements as u64;
        let bytes = (elements / format.block_size() * format.type_size()) as u64;
        *bytes_by_format.entry(format_name(format)).or_insert(0) += bytes;
    }
    let weights = bytes_by_format.iter().max_by_key(|(_, bytes)| **bytes);
    ModelInfo {
        name,
        architecture: "llama".to_owned(),
        parameters,
        weights: weights.map_or("", |(format, _)| *format).to_owned(),
        weight_bytes: bytes_by_format.values().sum(),
        context_limit: config.context as u64,
        identity,
        vocab_size: config.vocab as u64,
        layers: config.layers as u64,
        hidden: config.hidden as u64,
        feed_forward: config.feed_forward as u64,
        heads: config.heads as u64,
        kv_heads: config.kv_heads as u64,
        head_dim: config.head_dim as u64,
        kv_bytes_per_token: (KvCache::bytes_per_block(config, KvFormat::F16) / BLOCK_TOKENS) as u64,
    }
}

/// The name llama.cpp gives a format.
fn format_name(format: GgmlDType) -> &'static str {
    match format {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}
