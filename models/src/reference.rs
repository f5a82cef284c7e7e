//! Models with random weights, made in memory from a fixed seed.
//!
//! They have the shape, the formats and so the cost of real models, and need no download. Their
//! quantised blocks are filled with random bytes directly. **Invariant.** A tensor depends on the
//! seed, its name and its format only.

use crate::config::{LlamaConfig, TensorSpec};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Result, bail};
use half::f16;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// The reference models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceModel {
    /// The shape of SmolLM2-135M.
    Ref135m,
    /// Small enough for tests.
    RefTiny,
}

/// How the weights of a reference model are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) seed: u64,
    /// Format of the matrices in the layers.
    pub(crate) layers: GgmlDType,
    /// Width of the residual stream, for the scales.
    pub(crate) hidden: usize,
}

impl ReferenceModel {
    pub(crate) const ALL: [Self; 2] = [Self::Ref135m, Self::RefTiny];

    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ref135m => "ref-135m",
            Self::RefTiny => "ref-tiny",
        }
    }

    /// The shape.
    pub(crate) fn config(self) -> LlamaConfig {
        match self {
            Self::Ref135m => LlamaConfig {
                layers: 30,
                hidden: 576,
                feed_forward: 1536,
                heads: 9,
                kv_heads: 3,
                head_dim: 64,
                rope_dim: 64,
                rope_base: 100_000.0,
                norm_epsilon: 1e-5,
                context: 8192,
                vocab: 49_152,
            },
            Self::RefTiny => LlamaConfig {
                layers: 4,
                hidden: 192,
                feed_forward: 480,
                heads: 3,
                kv_heads: 1,
                head_dim: 64,
                rope_dim: 64,
                rope_base: 10_000.0,
                norm_epsilon: 1e-5,
                context: 2048,
                vocab: 8192,
            },
        }
    }

    pub(crate) fn recipe(self) -> Recipe {
        Recipe {
            seed: 135,
            layers: match self {
                // as the real model's file has them
                Self::Ref135m => GgmlDType::Q4_1,
                Self::RefTiny => GgmlDType::Q8_0,
            },
            hidden: self.config().hidden,
        }
    }
}

impl Recipe {
    /// The format of a tensor.
    pub(crate) fn format(&self, spec: &TensorSpec) -> GgmlDType {
        match spec.name.as_str() {
            name if name.ends_with("norm.weight") => GgmlDType::F32,
            "token_embd.weight" => GgmlDType::Q8_0,
            _ => self.layers,
        }
    }

    /// Makes a tensor.
    pub(crate) fn tensor(&self, spec: &TensorSpec) -> Result<QTensor> {
        let mut rng = self.rng(spec);
        let elements: usize = spec.shape.iter().product();
        let format = self.format(spec);
        let bytes = if spec.shape.len() == 1 {
            floats(elements, |_| 1.0 + 0.1 * (rng.random::<f32>() - 0.5))
        } else {
            let deviation = self.deviation(spec);
            match format {
                // uniform on [-1, 1] has a standard deviation of 1/sqrt(3)
                GgmlDType::F32 => {
                    let width = deviation * 3.0_f32.sqrt();
                    floats(elements, |_| width * (2.0 * rng.random::<f32>() - 1.0))
                }
                GgmlDType::Q8_0 => q8_0(elements, deviation, &mut rng),
                GgmlDType::Q4_1 => q4_1(elements, deviation, &mut rng),
                GgmlDType::Q4_0 => q4_0(elements, deviation, &mut rng),
                other => bail!("reference weights cannot be made in {other:?}"),
            }
        };
        let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, format)?;
        QTensor::new(storage, spec.shape.as_slice())
    }

    /// Every tensor has a stream of its own, named by it.
    fn rng(&self, spec: &TensorSpec) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let digest = Sha256::digest(spec.name.as_bytes());
        let mut stream = [0; 8];
        stream.copy_from_slice(&digest[..8]);
        rng.set_stream(u64::from_le_bytes(stream));
        rng
    }

    /// Standard deviations that keep activations near 1 and spread the logits by about 2. The
    /// embedding starts small, so that the residual stream is what the layers put into it and
    /// the model does not simply repeat its input.
    fn deviation(&self, spec: &TensorSpec) -> f32 {
        let inputs = (spec.shape[1] as f32).sqrt();
        match spec.name.as_str() {
            "token_embd.weight" => 2.0 / (self.hidden as f32).sqrt(),
            name if name.ends_with("attn_output.weight") => 0.5 / inputs,
            name if name.ends_with("ffn_down.weight") => 0.5 / inputs,
            _ => 1.0 / inputs,
        }
    }
}

fn floats(elements: usize, mut next: impl FnMut(usize) -> f32) -> Vec<u8> {
    (0..elements)
        .flat_map(|index| next(index).to_le_bytes())
        .collect()
}

/// Blocks of a scale and 32 signed bytes.
fn q8_0(elements: usize, deviation: f32, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let scale = f16::from_f32(deviation / 73.9);
    blocks(elements, 34, &scale.to_le_bytes(), rng)
}

/// Blocks of a scale, a minimum and 32 nibbles: `w = scale * nibble + minimum`.
fn q4_1(elements: usize, deviation: f32, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let scale = f16::from_f32(deviation / 4.61);
    let minimum = f16::from_f32(scale.to_f32() * -7.5);
    blocks(
        elements,
        20,
        &[scale.to_le_bytes(), minimum.to_le_bytes()].concat(),
        rng,
    )
}

/// Blocks of a scale and 32 nibbles: `w = scale * (nibble - 8)`.
fn q4_0(elements: usize, deviation: f32, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let scale = f16::from_f32(deviation / 4.61);
    blocks(elements, 18, &scale.to_le_bytes(), rng)
}

/// Random blocks of 32 weights that all begin with `head`.
fn blocks(elements: usize, size: usize, head: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = vec![0; elements / 32 * size];
    rng.fill_bytes(&mut bytes);
    for block in bytes.chunks_exact_mut(size) {
        block[..head.len()].copy_from_slice(head);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(layers: GgmlDType) {
        let recipe = Recipe {
            layers,
            ..ReferenceModel::RefTiny.recipe()
        };
        let spec = TensorSpec {
            name: "blk.0.attn_q.weight".to_owned(),
            shape: vec![192, 192],
        };
        let tensor = recipe.tensor(&spec).unwrap();
        assert_eq!(
            (tensor.dtype(), tensor.shape().dims()),
            (layers, &[192, 192][..])
        );
        let data = tensor
            .dequantize(&Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap();
        let data = data.to_vec1::<f32>().unwrap();
        let mean = data.iter().sum::<f32>() / data.len() as f32;
        let variance = data.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / data.len() as f32;
        let ratio = variance.sqrt() * 192.0_f32.sqrt();
        assert!((ratio - 1.0).abs() < 0.02, "{layers:?}: {ratio}");
        assert!(
            mean.abs() * 192.0_f32.sqrt() < 0.15,
            "{layers:?}: mean {mean}"
        );
        let again = recipe.tensor(&spec).unwrap();
        assert_eq!(tensor.data().unwrap(), again.data().unwrap());
        let other = TensorSpec {
            name: "blk.1.attn_q.weight".to_owned(),
            ..spec
        };
        assert_ne!(
            tensor.data().unwrap(),
            recipe.tensor(&other).unwrap().data().unwrap()
        );
    }

    #[test]
    fn weights_are_repeatable_and_have_the_intended_spread() {
        for format in [
            GgmlDType::Q4_1,
            GgmlDType::Q8_0,
            GgmlDType::F32,
            GgmlDType::Q4_0,
        ] {
            check(format);
        }
    }
}
