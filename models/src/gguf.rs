//! Reading GGUF files that nobody has checked yet.
//!
//! candle parses; this module stands in front of it. **Invariant.** Nothing is allocated because
//! a file says so: the header is parsed from a bounded prefix of the file, and tensors are read
//! only after their shapes equal what the configuration demands and their bytes lie in the file.

use crate::config::{LlamaConfig, TensorSpec};
use crate::model::LoadError;
use crate::tokenizer::Vocabulary;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

/// Headers are a few MiB, nearly all of it the vocabulary.
const HEADER_LIMIT: u64 = 64 << 20;
const MAGIC: &[u8; 4] = b"GGUF";

/// An opened file whose header has been parsed.
#[derive(Debug)]
pub(crate) struct GgufFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    content: Content,
}

impl GgufFile {
    pub(crate) fn open(path: &Path) -> Result<Self, LoadError> {
        let open = |source| LoadError::Open {
            path: path.to_owned(),
            source,
        };
        let metadata = std::fs::metadata(path).map_err(open)?;
        if !metadata.is_file() {
            return Err(LoadError::NotAFile {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(open)?;
        let mut header = Vec::new();
        (&file)
            .take(HEADER_LIMIT)
            .read_to_end(&mut header)
            .map_err(open)?;
        let content = parse(&header).map_err(|reason| LoadError::Header {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes: metadata.len(),
            content,
        })
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// The configuration, if this is a llama model.
    pub(crate) fn config(&self) -> Result<LlamaConfig, LoadError> {
        let found = match self.value("general.architecture") {
            Some(Value::String(architecture)) if architecture == "llama" => None,
            Some(Value::String(architecture)) => Some(format!("`{architecture}`")),
            _ => Some("unknown (no `general.architecture`)".to_owned()),
        };
        if let Some(found) = found {
            return Err(LoadError::Architecture {
                path: self.path.clone(),
                found,
            });
        }
        LlamaConfig::from_metadata(|key| self.value(key)).map_err(|source| LoadError::Config {
            path: self.path.clone(),
            source,
        })
    }

    pub(crate) fn vocabulary(&self) -> Result<Vocabulary, LoadError> {
        Vocabulary::from_metadata(|key| self.value(key)).map_err(|source| LoadError::Tokenizer {
            path: self.path.clone(),
            source,
        })
    }

    /// Whether the output matrix is the embedding.
    pub(crate) fn is_tied(&self) -> bool {
        !self.content.tensor_infos.contains_key("output.weight")
    }

    /// Checks that a tensor is there, has its shape, and lies inside the file.
    pub(crate) fn check(&self, spec: &TensorSpec) -> Result<GgmlDType, LoadError> {
        let info = self.info(spec)?;
        if info.shape.dims() != spec.shape {
            return Err(LoadError::TensorShape {
                path: self.path.clone(),
                name: spec.name.clone(),
                found: info.shape.dims().to_vec(),
                expected: spec.shape.clone(),
            });
        }
        let elements: usize = spec.shape.iter().product();
        let dtype = info.ggml_dtype;
        let needed = (elements / dtype.block_size() * dtype.type_size()) as u64;
        let start = self.content.tensor_data_offset.saturating_add(info.offset);
        if start.saturating_add(needed) > self.bytes {
            return Err(LoadError::Truncated {
                path: self.path.clone(),
                name: spec.name.clone(),
                end: start.saturating_add(needed),
                bytes: self.bytes,
            });
        }
        Ok(dtype)
    }

    /// Reads a tensor that [`Self::check`] has accepted.
    pub(crate) fn read(&mut self, spec: &TensorSpec) -> Result<QTensor, LoadError> {
        let info = self.info(spec)?;
        let offset = self.content.tensor_data_offset;
        info.read(&mut &self.file, offset, &Device::Cpu)
            .map_err(|source| LoadError::Tensor {
                path: self.path.clone(),
                name: spec.name.clone(),
                source: Box::new(source),
            })
    }

    /// The frequency factors of long-context models, if the file has them.
    pub(crate) fn rope_factors(
        &mut self,
        config: &LlamaConfig,
    ) -> Result<Option<Vec<f32>>, LoadError> {
        let spec = TensorSpec {
            name: "rope_freqs.weight".to_owned(),
            shape: vec![config.rope_dim / 2],
        };
        if !self.content.tensor_infos.contains_key(&spec.name) {
            return Ok(None);
        }
        self.check(&spec)?;
        let tensor = self.read(&spec)?;
        let factors = tensor.dequantize(&Device::Cpu).and_then(|tensor| {
            debug_assert_eq!(tensor.dtype(), DType::F32);
            tensor.to_vec1::<f32>()
        });
        factors.map(Some).map_err(LoadError::from)
    }

    /// The SHA-256 of the whole file, in hexadecimal.
    pub(crate) fn sha256(&self) -> Result<String, LoadError> {
        sha256(&self.path).map_err(|source| LoadError::Open {
            path: self.path.clone(),
            source,
        })
    }

    fn info(&self, spec: &TensorSpec) -> Result<&TensorInfo, LoadError> {
        self.content
            .tensor_infos
            .get(&spec.name)
            .ok_or_else(|| LoadError::MissingTensor {
                path: self.path.clone(),
                name: spec.name.clone(),
                expected: spec.shape.clone(),
            })
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}

/// Parses the header. The reason of a failure is for people.
fn parse(header: &[u8]) -> Result<Content, String> {
    if header.is_empty() {
        return Err("the file is empty".to_owned());
    }
    if !header.starts_with(MAGIC) {
        let start = String::from_utf8_lossy(&header[..header.len().min(4)]).into_owned();
        return Err(format!("it begins with {start:?} instead of \"GGUF\""));
    }
    if declares_zero_alignment(header) {
        return Err("`general.alignment` is 0".to_owned());
    }
    Content::read(&mut Cursor::new(header)).map_err(|error| error.to_string())
}

/// candle divides by the alignment without looking at it.
fn declares_zero_alignment(header: &[u8]) -> bool {
    let key = b"general.alignment";
    let after_key = |start: usize| &header[start + key.len()..];
    let mut starts = header
        .windows(key.len())
        .enumerate()
        .filter(|(_, window)| *window == key);
    starts.any(|(start, _)| {
        // a type tag of four bytes, then a number of one to four bytes
        let rest = after_key(start);
        let width = match rest.first() {
            Some(0 | 1) => 1,
            Some(2 | 3) => 2,
            Some(4 | 5) => 4,
            _ => return false,
        };
        rest.get(4..4 + width)
            .is_some_and(|value| value.iter().all(|byte| *byte == 0))
    })
}
