//! The reference chatbot: a llama forward pass over a paged KV cache, with the tokenizer, chat
//! template and sampler that belong to it.
//!
//! # Layout
//! - [`ModelSource`] names a model; [`Model::load`] turns it into weights and a tokenizer.
//! - `gguf`, `config`: the file format and the numbers read from it; every tensor is checked
//!   against the configuration before anything is allocated for it.
//! - `reference`: models with random weights made in memory, for runs that need no download.
//! - [`Llama::forward`] runs any mix of prefill chunks and decode rows; [`KvCache`] holds the
//!   keys and values in blocks of [`BLOCK_TOKENS`] tokens that the caller hands out.
//! - [`TensorLlama::forward`] takes the same batches through candle's own kernels, on any device
//!   that candle knows.
//! - [`ChatTokenizer`], [`Detokenizer`]: text to ids, ids to text, chat messages to a prompt.
//! - [`sample`]: logits to a token, a pure function.
//! - [`store`]: the catalogue of downloadable models and their cache.
//!
//! **Invariants.** No async, no scheduling, no requests: the crate sees token ids and block
//! tables. The result of a row does not depend on the other rows of the batch, as far as the
//! matrix kernels allow (exactly so for quantised weights whose row length is no multiple of 256).

mod batch;
mod chat;
mod config;
mod cpu;
mod detokenizer;
mod gguf;
#[doc(hidden)]
pub mod kernels;
mod kv;
mod linear;
mod llama;
mod model;
mod reference;
mod reference_vocab;
mod rope;
mod sampler;
mod source;
pub mod store;
mod tensors;
mod tokenizer;

pub use batch::{ForwardError, SequenceStep};
pub use chat::{Message, Role, TemplateError};
pub use config::{ConfigError, LlamaConfig};
pub use cpu::{Cpu, CpuOptions, Level, MachineProbe, Operation, Profile, Tally, Threads, probe};
pub use detokenizer::Detokenizer;
pub use kv::{BLOCK_TOKENS, KvCache, KvFormat};
pub use llama::{Llama, Logits};
pub use model::{LoadError, Model, ModelInfo, WeightsDtype, load_tokenizer};
pub use sampler::{Draw, SamplingParams, sample};
pub use source::{ModelSource, ReferenceModel, SourceError};
pub use store::CatalogueEntry;
pub use tensors::{DeviceFacts, NoDevice, TensorCache, TensorDevice, TensorLlama, TensorLogits};
pub use tokenizer::{ChatTokenizer, Special, TokenizerError};
