//! The numbers that define a llama model, read from GGUF metadata and checked.
//!
//! **Invariant.** A [`LlamaConfig`] that exists is usable: no zero sizes, heads divide evenly,
//! every size is below a limit that keeps products of two of them far from overflow.
//! It does not read tensors; it only says which ones there must be.

use candle_core::quantized::gguf_file::Value;
use std::ops::RangeInclusive;

/// The shape of a llama model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward part.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Leading dimensions of a head that are rotated; even.
    pub rope_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Epsilon of the RMS norms.
    pub norm_epsilon: f32,
    /// Most tokens of one sequence, prompt and output together.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
}

/// Why the metadata of a file is no usable llama configuration.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// A key that has no default is absent.
    #[error("metadata key `{key}` is missing")]
    Missing {
        /// The absent key.
        key: String,
    },
    /// A value has the wrong type or lies outside its limits.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    Invalid {
        /// The key.
        key: String,
        /// Its value, as far as it can be shown.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// Two values contradict each other.
    #[error("`{left}` = {left_value} does not fit `{right}` = {right_value}: {rule}")]
    Contradiction {
        /// First key.
        left: &'static str,
        /// Its value.
        left_value: usize,
        /// Second key.
        right: &'static str,
        /// Its value.
        right_value: usize,
        /// The rule they break.
        rule: &'static str,
    },
    /// The file asks for something this implementation lacks.
    #[error("`{key}` = {found} is not supported; accepted: {accepted}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is accepted.
        accepted: &'static str,
    },
}

/// One tensor a model must have: its GGUF name and shape (rows first).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

impl LlamaConfig {
    /// Reads and checks the configuration; `lookup` finds a metadata value by key.
    pub(crate) fn from_metadata<'a>(
        lookup: impl Fn(&str) -> Option<&'a Value>,
    ) -> Result<Self, ConfigError> {
        let keys = Keys { lookup: &lookup };
        keys.refuse_unsupported()?;
        let heads = keys.required("llama.attention.head_count", 1..=1024)?;
        let kv_heads = keys.optional("llama.attention.head_count_kv", 1..=1024, heads)?;
        let hidden = keys.required("llama.embedding_length", 1..=1 << 17)?;
        contradiction_unless(
            heads.is_multiple_of(kv_heads),
            ("llama.attention.head_count", heads),
            ("llama.attention.head_count_kv", kv_heads),
            "the second must divide the first",
        )?;
        let key_length = keys.number("llama.attention.key_length", 1..=1024)?;
        contradiction_unless(
            key_length.is_some() || hidden.is_multiple_of(heads),
            ("llama.embedding_length", hidden),
            ("llama.attention.head_count", heads),
            "the second must divide the first",
        )?;
        let head_dim = key_length.unwrap_or(hidden / heads);
        let value_dim = keys.optional("llama.attention.value_length", 1..=1024, head_dim)?;
        contradiction_unless(
            value_dim == head_dim,
            ("llama.attention.value_length", value_dim),
            ("llama.attention.key_length", head_dim),
            "they must be equal",
        )?;
        let rope_dim = keys.optional("llama.rope.dimension_count", 2..=1024, head_dim)?;
        contradiction_unless(
            rope_dim <= head_dim && rope_dim.is_multiple_of(2),
            ("llama.rope.dimension_count", rope_dim),
            ("llama.attention.key_length", head_dim),
            "the first must be even and no larger than the second",
        )?;
        Ok(Self {
            layers: keys.required("llama.block_count", 1..=1024)?,
            hidden,
            feed_forward: keys.required("llama.feed_forward_length", 1..=1 << 20)?,
            heads,
            kv_heads,
            head_dim,
            rope_dim,
            rope_base: keys.positive("llama.rope.freq_base", Some(10_000.0))?,
            norm_epsilon: keys.positive("llama.attention.layer_norm_rms_epsilon", None)?,
            context: keys.required("llama.context_length", 1..=1 << 27)?,
            vocab: keys.vocabulary()?,
        })
    }

    /// The tensors a model of this shape has; `tied` leaves out the separate output matrix.
    pub(crate) fn tensors(&self, tied: bool) -> Vec<TensorSpec> {
        let (hidden, feed_forward) = (self.hidden, self.feed_forward);
        let query = self.heads * self.head_dim;
        let key = self.kv_heads * self.head_dim;
        let mut specs = vec![spec("token_embd.weight", &[self.vocab, hidden])];
        for layer in 0..self.layers {
            let part = |name: &str| format!("blk.{layer}.{name}.weight");
            specs.extend([
                spec(part("attn_norm"), &[hidden]),
                spec(part("attn_q"), &[query, hidden]),
                spec(part("attn_k"), &[key, hidden]),
                spec(part("attn_v"), &[key, hidden]),
                spec(part("attn_output"), &[hidden, query]),
                spec(part("ffn_norm"), &[hidden]),
                spec(part("ffn_gate"), &[feed_forward, hidden]),
                spec(part("ffn_up"), &[feed_forward, hidden]),
                spec(part("ffn_down"), &[hidden, feed_forward]),
            ]);
        }
        specs.push(spec("output_norm.weight", &[hidden]));
        if !tied {
            specs.push(spec("output.weight", &[self.vocab, hidden]));
        }
        specs
    }
}

fn spec(name: impl Into<String>, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        shape: shape.to_vec(),
    }
}

fn contradiction_unless(
    holds: bool,
    left: (&'static str, usize),
    right: (&'static str, usize),
    rule: &'static str,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Contradiction {
        left: left.0,
        left_value: left.1,
        right: right.0,
        right_value: right.1,
        rule,
    })
}

/// Typed access to metadata; every refusal names the key.
struct Keys<'f, F> {
    lookup: &'f F,
}

impl<'a, F: Fn(&str) -> Option<&'a Value>> Keys<'_, F> {
    fn number(
        &self,
        key: &str,
        limits: RangeInclusive<usize>,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = (self.lookup)(key) else {
            return Ok(None);
        };
        let number = whole_number(value).filter(|number| limits.contains(number));
        number.map(Some).ok_or_else(|| ConfigError::Invalid {
            key: key.to_owned(),
            found: show(value),
            expected: format!("a whole number from {} to {}", limits.start(), limits.end()),
        })
    }

    fn required(&self, key: &str, limits: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let found = self.number(key, limits)?;
        found.ok_or_else(|| ConfigError::Missing {
            key: key.to_owned(),
        })
    }

    fn optional(
        &self,
        key: &str,
        limits: RangeInclusive<usize>,
        default: usize,
    ) -> Result<usize, ConfigError> {
        Ok(self.number(key, limits)?.unwrap_or(default))
    }

    fn positive(&self, key: &str, default: Option<f32>) -> Result<f32, ConfigError> {
        let value = match ((self.lookup)(key), default) {
            (Some(value), _) => value,
            (None, Some(default)) => return Ok(default),
            (None, None) => {
                return Err(ConfigError::Missing {
                    key: key.to_owned(),
                });
            }
        };
        let number = match value {
            Value::F32(number) => Some(*number),
            Value::F64(number) => Some(*number as f32),
            _ => None,
        };
        number
            .filter(|number| number.is_finite() && *number > 0.0)
            .ok_or_else(|| ConfigError::Invalid {
                key: key.to_owned(),
                found: show(value),
                expected: "a positive number".to_owned(),
            })
    }

    fn vocabulary(&self) -> Result<usize, ConfigError> {
        let key = "tokenizer.ggml.tokens";
        match (self.lookup)(key) {
            Some(Value::Array(tokens)) if (1..=1 << 22).contains(&tokens.len()) => Ok(tokens.len()),
            Some(other) => Err(ConfigError::Invalid {
                key: key.to_owned(),
                found: show(other),
                expected: "an array of 1 to 4194304 tokens".to_owned(),
            }),
            None => Err(ConfigError::Missing {
                key: key.to_owned(),
            }),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        let refuse = |key: &str, value: &Value, accepted| ConfigError::Unsupported {
            key: key.to_owned(),
            found: show(value),
            accepted,
        };
        let scaling = "llama.rope.scaling.type";
        match (self.lookup)(scaling) {
            None => {}
            Some(Value::String(kind)) if kind == "none" => {}
            Some(other) => return Err(refuse(scaling, other, "none")),
        }
        let experts = "llama.expert_count";
        match (self.lookup)(experts) {
            None => {}
            Some(value) if whole_number(value) == Some(0) => {}
            Some(other) => return Err(refuse(experts, other, "0 (dense models)")),
        }
        Ok(())
    }
}

/// Any of the integer types of GGUF as a size; negative numbers are none.
pub(crate) fn whole_number(value: &Value) -> Option<usize> {
    match value {
        Value::U8(number) => Some(usize::from(*number)),
        Value::U16(number) => Some(usize::from(*number)),
        Value::U32(number) => usize::try_from(*number).ok(),
        Value::U64(number) => usize::try_from(*number).ok(),
        Value::I8(number) => usize::try_from(*number).ok(),
        Value::I16(number) => usize::try_from(*number).ok(),
        Value::I32(number) => usize::try_from(*number).ok(),
        Value::I64(number) => usize::try_from(*number).ok(),
        Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// A value for an error message; long ones are cut.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("an array of {} values", items.len()),
        Value::String(text) => format!("\"{}\"", text.chars().take(60).collect::<String>()),
        Value::U8(number) => number.to_string(),
        Value::I8(number) => number.to_string(),
        Value::U16(number) => number.to_string(),
        Value::I16(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn metadata() -> BTreeMap<&'static str, Value> {
        BTreeMap::from([
            ("llama.block_count", Value::U32(2)),
            ("llama.embedding_length", Value::U32(192)),
            ("llama.feed_forward_length", Value::U32(480)),
            ("llama.attention.head_count", Value::U32(3)),
            ("llama.attention.head_count_kv", Value::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.context_length", Value::U32(2048)),
            (
                "tokenizer.ggml.tokens",
                Value::Array(vec![Value::String("a".to_owned()); 40]),
            ),
        ])
    }

    fn check(key: &'static str, value: Option<Value>, expected: &str) {
        let mut metadata = metadata();
        match value {
            Some(value) => metadata.insert(key, value),
            None => metadata.remove(key),
        };
        let error = LlamaConfig::from_metadata(|key| metadata.get(key)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn reads_a_small_configuration_with_defaults() {
        let metadata = metadata();
        let config = LlamaConfig::from_metadata(|key| metadata.get(key)).unwrap();
        assert_eq!(
            (config.head_dim, config.rope_dim, config.vocab),
            (64, 64, 40)
        );
        assert!((config.rope_base - 10_000.0).abs() < f32::EPSILON);
        assert_eq!(config.tensors(true).len(), 2 + 2 * 9);
        assert_eq!(config.tensors(false).len(), 3 + 2 * 9);
    }

    #[test]
    fn refuses_unusable_configurations() {
        let heads = "llama.attention.head_count";
        check(heads, None, "`llama.attention.head_count` is missing");
        check(
            heads,
            Some(Value::U32(0)),
            "is 0, expected a whole number from 1 to 1024",
        );
        check(heads, Some(Value::U32(5)), "must divide");
        check(
            heads,
            Some(Value::String("9".to_owned())),
            "is \"9\", expected",
        );
        check(heads, Some(Value::Array(vec![])), "an array of 0 values");
        check(
            "llama.attention.head_count_kv",
            Some(Value::U32(2)),
            "must divide",
        );
        check(
            "llama.block_count",
            Some(Value::U32(u32::MAX)),
            "from 1 to 1024",
        );
        check("llama.block_count", Some(Value::I32(-1)), "is -1");
        check(
            "llama.embedding_length",
            Some(Value::U64(u64::MAX)),
            "from 1 to 131072",
        );
        check(
            "llama.rope.dimension_count",
            Some(Value::U32(63)),
            "must be even",
        );
        check(
            "llama.rope.freq_base",
            Some(Value::F32(f32::NAN)),
            "a positive number",
        );
        check(
            "llama.attention.layer_norm_rms_epsilon",
            Some(Value::F32(0.0)),
            "positive",
        );
        check(
            "llama.rope.scaling.type",
            Some(Value::String("yarn".to_owned())),
            "not supported",
        );
        check("llama.expert_count", Some(Value::U32(8)), "dense models");
        check(
            "tokenizer.ggml.tokens",
            Some(Value::Array(vec![])),
            "an array of 1 to",
        );
        check(
            "llama.attention.value_length",
            Some(Value::U32(32)),
            "they must be equal",
        );
    }
}
