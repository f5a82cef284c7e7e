//! A device that computes nothing and takes the time a real one would, in virtual time.
//!
//! A step takes `max(arithmetic, memory traffic) + overhead`: arithmetic is two operations for each
//! parameter and token plus attention; traffic is all weights once plus the cache that attention
//! reads. The device's figures come from `backends/devices/*.toml`, each with its source.
//!
//! Invariant: a step's time is a pure function of the batch, the device and the model, so a run is
//! the same on every machine. The tokens are drawn from a hash of the request's seed, and mean
//! nothing. It is a roofline, not a calibrated simulator: no figure of it is a claim about a
//! device.

use std::collections::BTreeMap;

use models::ModelInfo;

use crate::clock::{Clock, Nanos};
use crate::devices::{self, DeviceFacts, Fact, Simulation};
use crate::engine::{Batch, Capacity, DeviceError, Executor, Sample, StepOutput};

/// A device's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// As price sheets call it.
    pub id: String,
    /// In words.
    pub name: String,
    /// Dense 16-bit arithmetic.
    pub tflops: Fact,
    /// Memory bandwidth, decimal GB/s.
    pub memory_gb_per_s: Fact,
    /// Device memory, decimal GB.
    pub memory_gb: Fact,
    /// What else the simulation assumes.
    pub assumed: Simulation,
}

/// Names of the devices that [`Device::builtin`] knows.
pub fn device_names() -> Vec<String> {
    let simulated = devices::known().into_iter();
    simulated
        .filter_map(|device| Some(device.simulation?.name))
        .collect()
}

impl Device {
    /// A device by name; `None` for one that is not known.
    pub fn builtin(name: &str) -> Option<Self> {
        let by_name = |device: &DeviceFacts| {
            let simulation = device.simulation.as_ref();
            simulation.is_some_and(|simulation| simulation.name == name)
        };
        let mut device = devices::known().into_iter().find(by_name)?;
        Some(Self {
            tflops: device.facts.remove("fp16_tflops")?,
            memory_gb_per_s: device.facts.remove("memory_gb_per_s")?,
            memory_gb: device.facts.remove("memory_gb")?,
            assumed: device.simulation?,
            id: device.id,
            name: device.name,
        })
    }

    /// The figures, for the report.
    pub fn details(&self) -> BTreeMap<String, String> {
        let assumed = &self.assumed;
        let all = [
            ("tflops", &self.tflops),
            ("memory_gb_per_s", &self.memory_gb_per_s),
            ("memory_gb", &self.memory_gb),
            ("compute_efficiency", &assumed.compute_efficiency),
            ("memory_efficiency", &assumed.memory_efficiency),
            ("step_overhead_us", &assumed.step_overhead_us),
        ];
        let shown = all.map(|(name, fact)| (name.to_owned(), fact.show_whole("")));
        shown.into()
    }
}

/// Takes a device's time.
#[derive(Debug)]
pub struct SimulatedExecutor {
    clock: Clock,
    capacity: Capacity,
    vocab_size: u32,
    cost: StepCost,
}

/// The roofline of one model on one device.
#[derive(Debug, Clone, Copy)]
struct StepCost {
    flop_per_s: f64,
    bytes_per_s: f64,
    overhead_s: f64,
    flop_per_token: f64,
    flop_per_token_and_context: f64,
    weight_bytes: f64,
    kv_bytes_per_token: f64,
}

impl SimulatedExecutor {
    /// A device that serves `model`.
    pub fn new(device: &Device, model: &ModelInfo, capacity: Capacity, clock: Clock) -> Self {
        let assumed = &device.assumed;
        let figure = |fact: &Fact| {
            fact.value
                .expect("the figures of simulated devices are tested")
        };
        let cost = StepCost {
            flop_per_s: figure(&device.tflops) * 1e12 * figure(&assumed.compute_efficiency),
            bytes_per_s: figure(&device.memory_gb_per_s) * 1e9 * figure(&assumed.memory_efficiency),
            overhead_s: figure(&assumed.step_overhead_us) / 1e6,
            flop_per_token: 2.0 * model.parameters as f64,
            flop_per_token_and_context: 4.0 * (model.hidden * model.layers) as f64,
            weight_bytes: model.weight_bytes as f64,
            kv_bytes_per_token: model.kv_bytes_per_token as f64,
        };
        Self {
            clock,
            capacity,
            vocab_size: model.vocab_size as u32,
            cost,
        }
    }
}

impl StepCost {
    fn step(&self, batch: &Batch) -> Nanos {
        let (mut flop, mut bytes) = (0.0, self.weight_bytes);
        for row in &batch.rows {
            let (tokens, start) = (row.tokens.len() as f64, row.start as f64);
            let context = tokens * (start + f64::midpoint(tokens, 1.0));
            flop += tokens * self.flop_per_token + context * self.flop_per_token_and_context;
            bytes += (start + 2.0 * tokens) * self.kv_bytes_per_token;
        }
        let busy = (flop / self.flop_per_s).max(bytes / self.bytes_per_s);
        Nanos::from_secs_f64(busy + self.overhead_s)
    }
}

impl Executor for SimulatedExecutor {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    async fn step(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        self.clock.sleep(self.cost.step(batch)).await;
        let draw = |sample: &Sample| {
            // Skips the ids below 16, among which the special tokens are.
            let mixed = mix(sample.params.seed ^ mix(sample.output_index));
            let words = u64::from(self.vocab_size.max(17) - 16);
            let allowed = |token: &u32| {
                let forbidden = sample.forbidden.as_ref();
                forbidden.is_none_or(|tokens| !tokens.contains(token))
            };
            let mut tokens = (0..words).map(|step| 16 + (mixed.wrapping_add(step) % words) as u32);
            tokens.find(allowed).unwrap_or(16)
        };
        let tokens = batch
            .rows
            .iter()
            .filter_map(|row| row.sample.as_ref().map(draw))
            .collect();
        Ok(StepOutput { tokens })
    }
}

/// The finaliser of `SplitMix64`: a fixed, portable hash.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_devices_are_well_formed() {
        let names = device_names();
        assert_eq!(names, ["h100", "h20", "ascend-910b3"]);
        for name in names {
            let device = Device::builtin(&name).expect("it is listed");
            let value = |fact: &Fact| fact.value.expect("simulated devices have figures");
            assert!(
                value(&device.tflops) > 1.0 && value(&device.memory_gb_per_s) > 10.0,
                "{name}"
            );
            let assumed = &device.assumed;
            assert!(value(&assumed.step_overhead_us) > 0.0);
            for share in [&assumed.compute_efficiency, &assumed.memory_efficiency] {
                assert!((0.05..=1.0).contains(&value(share)), "{name}");
            }
        }
        assert_eq!(Device::builtin("abacus"), None);
    }

    #[test]
    fn decode_is_bound_by_memory_and_prefill_by_arithmetic() {
        let cost = StepCost {
            flop_per_s: 1e12,
            bytes_per_s: 1e11,
            overhead_s: 1e-3,
            flop_per_token: 2e9,
            flop_per_token_and_context: 0.0,
            weight_bytes: 1e9,
            kv_bytes_per_token: 0.0,
        };
        let batch_of = |tokens: usize| {
            let mut batch = Batch {
                tokens: vec![0; tokens],
                ..Batch::default()
            };
            batch.rows.push(crate::engine::Row {
                sequence: crate::engine::SequenceId(0),
                tokens: 0..tokens,
                blocks: 0..0,
                start: 0,
                sample: None,
            });
            batch
        };
        assert_eq!(
            cost.step(&batch_of(1)),
            Nanos(11_000_000),
            "10 ms of weights + 1 ms"
        );
        assert_eq!(
            cost.step(&batch_of(100)),
            Nanos(201_000_000),
            "200 ms of arithmetic + 1 ms"
        );
    }
}
