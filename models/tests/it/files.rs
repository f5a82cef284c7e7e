//! GGUF files: every format runs, every kind of damage has its error.

use crate::cpu;
use crate::naive;
use crate::support::{ModelFile, VOCAB};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use models::{
    KvCache, KvFormat, LoadError, Model, ModelSource, SequenceStep, Special, WeightsDtype,
    load_tokenizer,
};
use std::error::Error;
use std::fs;
use std::path::Path;

fn load(path: &Path, dtype: WeightsDtype) -> Result<Model, LoadError> {
    Model::load(&ModelSource::File(path.to_owned()), dtype)
}

/// The error with all its causes, as `{:#}` of anyhow prints it.
fn complaint(path: &Path) -> String {
    let error = load(path, WeightsDtype::AsStored).unwrap_err();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

const TOKENS: [u32; 40] = {
    let mut tokens = [0; 40];
    let mut i = 0;
    while i < 40 {
        tokens[i] = (i as u32 * 37 + 11) % VOCAB as u32;
        i += 1;
    }
    tokens
};

/// Root mean square difference to the naive forward pass, relative to the spread of the logits.
fn deviation(file: &ModelFile, hidden: usize, dtype: WeightsDtype) -> f64 {
    let (_folder, path) = file.write();
    let model = load(&path, dtype).unwrap();
    let mut cache = KvCache::new(model.llama.config(), 2, KvFormat::F32).unwrap();
    let mut cpu = cpu(2);
    let expected = naive::forward(file, hidden, &TOKENS);
    let mut worst = 0.0_f64;
    let (first, second) = TOKENS.split_at(17);
    for (tokens, start) in [(first, 0), (second, 17)] {
        let step = SequenceStep {
            tokens,
            start,
            blocks: &[1, 0],
            logits: true,
        };
        let logits = model.llama.forward(&mut cpu, &mut cache, &[step]).unwrap();
        let expected = &expected[start + tokens.len() - 1];
        let spread: f64 = expected.iter().map(|x| x * x).sum();
        let differences = logits
            .row(0)
            .iter()
            .zip(expected)
            .map(|(x, y)| f64::from(*x) - y);
        let error: f64 = differences.map(|difference| difference * difference).sum();
        worst = worst.max((error / spread).sqrt());
    }
    worst
}

#[test]
fn every_format_agrees_with_the_naive_forward_pass() {
    use GgmlDType::{BF16, F16, F32, Q4_0, Q4_1, Q4K, Q5_0, Q6K, Q8_0};
    // activations are rounded to 8 bits by the quantised kernels, to bf16 by some processors'
    // bf16 products, else not at all
    for (dtype, hidden, tolerance) in [
        (F32, 64, 1e-4),
        (F16, 64, 1e-4),
        (BF16, 64, 0.01),
        (Q8_0, 64, 0.05),
        (Q5_0, 64, 0.05),
        (Q4_0, 64, 0.05),
        (Q4_1, 64, 0.05),
        (Q4K, 256, 0.05),
        (Q6K, 256, 0.05),
    ] {
        for tied in [true, false] {
            let file = ModelFile::new(dtype, hidden, tied);
            let found = deviation(&file, hidden, WeightsDtype::AsStored);
            assert!(found < tolerance, "{dtype:?} tied {tied}: {found}");
            let found = deviation(&file, hidden, WeightsDtype::F32);
            assert!(found < 1e-4, "{dtype:?} tied {tied} as F32: {found}");
        }
    }
}

#[test]
fn mixed_formats_within_a_layer_run() {
    let mut file = ModelFile::new(GgmlDType::Q4_0, 64, true);
    for name in ["blk.0.attn_v.weight", "blk.1.ffn_up.weight"] {
        let shape = file.tensors[name].shape().dims().to_vec();
        file.add(name, file.weights(name), &shape, GgmlDType::Q8_0);
    }
    let found = deviation(&file, 64, WeightsDtype::AsStored);
    assert!(found < 0.05, "{found}");
}

#[test]
fn a_loaded_model_describes_itself() {
    let (_folder, path) = ModelFile::new(GgmlDType::Q4_1, 64, true).write();
    let model = load(&path, WeightsDtype::AsStored).unwrap();
    let info = &model.info;
    assert_eq!(
        (info.name.as_str(), info.weights.as_str()),
        ("Test", "Q4_1")
    );
    let layer = 64 * 64 * 2 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64;
    let matrices = (layer - 2 * 64) * 2 + VOCAB * 64;
    assert_eq!(info.parameters, (matrices + 5 * 64) as u64);
    assert_eq!(info.weight_bytes, (matrices / 32 * 20 + 5 * 64 * 4) as u64);
    assert_eq!(info.identity.len(), 64);
    assert_eq!(info.kv_bytes_per_token, 2 * 2 * 32 * 2);
    let (same, chat) = load_tokenizer(&ModelSource::File(path)).unwrap();
    assert_eq!(&same, info);
    assert_eq!(chat.decode(&chat.encode("ab c", Special::Plain)), "ab c");
    assert!(chat.encode_chat(&[]).is_err(), "the file has no template");
}

#[test]
fn files_that_are_no_models_are_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, content: &[u8], expected: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let text = complaint(&path);
        assert!(text.contains(name) && text.contains(expected), "{text}");
    };
    check("empty.gguf", b"", "is empty");
    check("text.gguf", b"hello world", "begins with \"hell\"");
    check("short.gguf", b"GGUF\x03\0", "not a usable GGUF file");
    check("version.gguf", b"GGUF\x09\0\0\0\0\0\0\0\0\0\0\0", "version");
    let mut counts = b"GGUF\x03\0\0\0".to_vec();
    counts.extend([0xff; 16]);
    check("counts.gguf", &counts, "tensor_count");
    let text = complaint(&folder.path().join("absent.gguf"));
    assert!(
        text.contains("absent.gguf") && text.contains("cannot be read"),
        "{text}"
    );
    let text = complaint(folder.path());
    assert!(text.contains("is not a file"), "{text}");
}

#[test]
fn every_cut_of_a_file_is_an_error_and_never_a_panic() {
    let (folder, path) = ModelFile::new(GgmlDType::Q8_0, 64, true).write();
    let bytes = fs::read(&path).unwrap();
    let cut = folder.path().join("cut.gguf");
    let ends = (0..bytes.len() - 32).step_by(bytes.len() / 150);
    for end in ends {
        fs::write(&cut, &bytes[..end]).unwrap();
        assert!(!complaint(&cut).is_empty());
    }
    fs::write(&cut, &bytes[..bytes.len() * 3 / 4]).unwrap();
    assert!(
        complaint(&cut).contains("is cut short: tensor `"),
        "{}",
        complaint(&cut)
    );
}

#[test]
fn flipped_bytes_of_the_header_never_panic() {
    let (folder, path) = ModelFile::new(GgmlDType::Q8_0, 64, true).write();
    let bytes = fs::read(&path).unwrap();
    let changed = folder.path().join("changed.gguf");
    // the key-value pairs and the tensor directory, where lengths, types and offsets stand
    let directory = bytes
        .windows(10)
        .position(|window| window == b"blk.0.attn")
        .unwrap()
        - 8;
    for at in (4..700)
        .step_by(7)
        .chain((directory..directory + 900).step_by(7))
    {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xff;
        fs::write(&changed, &bytes).unwrap();
        // most changes are refused, some only rename things: both are fine
        let _ = load(&changed, WeightsDtype::AsStored);
    }
}

#[test]
fn contents_that_contradict_each_other_are_refused() {
    let check = |change: &dyn Fn(&mut ModelFile), expected: &[&str]| {
        let mut file = ModelFile::new(GgmlDType::Q8_0, 64, true);
        change(&mut file);
        let (_folder, path) = file.write();
        let text = complaint(&path);
        assert!(text.contains("test.gguf"), "{text}");
        for expected in expected {
            assert!(text.contains(expected), "{text}");
        }
    };
    let set =
        |key: &'static str, value: Value| move |file: &mut ModelFile| file.set(key, value.clone());
    let text = |text: &str| Value::String(text.to_owned());
    check(
        &set("general.architecture", text("qwen2")),
        &["`qwen2`", "accepted: `llama`"],
    );
    check(
        &set("general.alignment", Value::U32(0)),
        &["`general.alignment` is 0"],
    );
    check(
        &set("llama.attention.head_count", Value::U32(0)),
        &["head_count` is 0", "1 to 1024"],
    );
    check(
        &set("llama.block_count", Value::U32(3)),
        &["`blk.2.attn_norm.weight`", "is missing"],
    );
    check(
        &set("llama.embedding_length", Value::U32(128)),
        &["`token_embd.weight` has shape [300, 64], the configuration demands [300, 128]"],
    );
    check(
        &set("tokenizer.ggml.model", text("llama")),
        &["`tokenizer.ggml.model` is \"llama\""],
    );
    check(
        &set("tokenizer.ggml.pre", text("tekken")),
        &["\"tekken\"", "smollm"],
    );
    let merges = Value::Array(vec![text("x nosuchtoken")]);
    check(
        &set("tokenizer.ggml.merges", merges),
        &["do not fit together"],
    );
    check(
        &set("tokenizer.chat_template", text("{% for %}")),
        &["chat_template", "parsed"],
    );
    check(
        &set("tokenizer.ggml.eos_token_id", Value::U32(300)),
        &["is 300", "id of a token"],
    );
    check(
        &|file| drop(file.tensors.remove("output_norm.weight")),
        &["tensor `output_norm.weight` of shape [64] is missing"],
    );
    check(
        &|file| file.add("output_norm.weight", vec![1.0; 32], &[32], GgmlDType::F32),
        &["`output_norm.weight` has shape [32]", "demands [64]"],
    );
    check(
        &|file| drop(file.metadata.remove("llama.context_length")),
        &["`llama.context_length` is missing"],
    );
}
