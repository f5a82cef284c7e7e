//! Small GGUF files written by the tests.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A model file in the making; tests change parts of it before it is written.
pub(crate) struct ModelFile {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, QTensor>,
}

/// The shape of the test files: 2 layers, 2 query heads, 1 key/value head.
pub(crate) const LAYERS: usize = 2;
pub(crate) const HEADS: usize = 2;
pub(crate) const VOCAB: usize = 300;

/// The GPT-2 stand-ins for all bytes, in byte order.
fn byte_symbols() -> Vec<String> {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut stand_in = 0x100;
    (0..256)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                stand_in += 1;
                stand_in - 1
            };
            char::from_u32(code).unwrap().to_string()
        })
        .collect()
}

impl ModelFile {
    /// A complete model whose matrices have the format `dtype` and rows of `hidden` elements.
    pub(crate) fn new(dtype: GgmlDType, hidden: usize, tied: bool) -> Self {
        let mut file = Self {
            metadata: metadata(hidden),
            tensors: BTreeMap::new(),
        };
        let (head_dim, feed_forward) = (hidden / HEADS, hidden * 2);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut matrix = |name: &str, rows: usize, columns: usize| {
            let scale = 2.0 / (columns as f32).sqrt();
            let data = (0..rows * columns)
                .map(|_| scale * (rng.random::<f32>() - 0.5))
                .collect();
            file.add(name, data, &[rows, columns], dtype);
        };
        matrix("token_embd.weight", VOCAB, hidden);
        if !tied {
            matrix("output.weight", VOCAB, hidden);
        }
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            matrix(&name("attn_q"), hidden, hidden);
            matrix(&name("attn_k"), head_dim, hidden);
            matrix(&name("attn_v"), head_dim, hidden);
            matrix(&name("attn_output"), hidden, hidden);
            matrix(&name("ffn_gate"), feed_forward, hidden);
            matrix(&name("ffn_up"), feed_forward, hidden);
            matrix(&name("ffn_down"), hidden, feed_forward);
        }
        let norms = (0..LAYERS)
            .flat_map(|layer| ["attn_norm", "ffn_norm"].map(|n| format!("blk.{layer}.{n}.weight")));
        for (index, name) in norms.chain(["output_norm.weight".to_owned()]).enumerate() {
            let data = (0..hidden)
                .map(|i| 1.0 + 0.1 * ((i + index) as f32).sin())
                .collect();
            file.add(&name, data, &[hidden], GgmlDType::F32);
        }
        file
    }

    pub(crate) fn add(&mut self, name: &str, data: Vec<f32>, shape: &[usize], dtype: GgmlDType) {
        let tensor = Tensor::from_vec(data, shape, &Device::Cpu).unwrap();
        self.tensors
            .insert(name.to_owned(), QTensor::quantize(&tensor, dtype).unwrap());
    }

    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    /// Writes the file into a fresh folder.
    pub(crate) fn write(&self) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.gguf");
        self.write_to(&path);
        (folder, path)
    }

    fn write_to(&self, path: &Path) {
        let metadata: Vec<(&str, &Value)> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<(&str, &QTensor)> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    /// The weights of a tensor as the file holds them, dequantised.
    pub(crate) fn weights(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors[name].dequantize(&Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }
}

fn metadata(hidden: usize) -> BTreeMap<String, Value> {
    let mut tokens = vec!["<|im_start|>".to_owned(), "<|im_end|>".to_owned()];
    tokens.extend(byte_symbols());
    tokens.extend((tokens.len()..VOCAB).map(|id| format!("word{id}")));
    let mut types = vec![Value::I32(1); VOCAB];
    types[..2].fill(Value::I32(3));
    let strings = |items: Vec<String>| Value::Array(items.into_iter().map(Value::String).collect());
    let number = |value: usize| Value::U32(value as u32);
    let text = |text: &str| Value::String(text.to_owned());
    let entries = [
        ("general.architecture", text("llama")),
        ("general.name", text("Test")),
        ("llama.block_count", number(LAYERS)),
        ("llama.context_length", number(256)),
        ("llama.embedding_length", number(hidden)),
        ("llama.feed_forward_length", number(hidden * 2)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types)),
        ("tokenizer.ggml.merges", strings(vec!["a b".to_owned()])),
        ("tokenizer.ggml.eos_token_id", number(1)),
    ];
    let mut metadata: BTreeMap<String, Value> = entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    // the merge needs its result
    if let Some(Value::Array(tokens)) = metadata.get_mut("tokenizer.ggml.tokens") {
        tokens[VOCAB - 1] = text("ab");
    }
    metadata
}
