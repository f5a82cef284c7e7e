//! The executor that runs the reference model on the CPU through candle.
//!
//! Invariant: the executor keeps nothing of a request between steps but what is in the KV cache;
//! the scheduler's block tables say what that is. A panic inside the model is a device error, not
//! the end of the engine.

use std::panic::{AssertUnwindSafe, catch_unwind};

use models::{KvCache, Llama, SequenceStep, sample};

use crate::engine::{Batch, Capacity, DeviceError, Executor, Sample, StepOutput};

/// The model, its cache, and how much of a step it takes at once.
#[derive(Debug)]
pub struct CandleExecutor {
    model: Llama,
    cache: KvCache,
    capacity: Capacity,
}

impl CandleExecutor {
    /// Holds `capacity.blocks` blocks of keys and values, in memory of their own from here on.
    pub fn new(model: Llama, capacity: Capacity) -> Self {
        let cache = KvCache::new(model.config(), capacity.blocks as usize);
        let max_context = capacity.max_context.min(model.config().context);
        Self {
            model,
            cache,
            capacity: Capacity {
                max_context,
                ..capacity
            },
        }
    }

    fn run(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        let steps: Vec<_> = batch
            .rows
            .iter()
            .map(|row| SequenceStep {
                tokens: &batch.tokens[row.tokens.clone()],
                start: row.start,
                blocks: &batch.blocks[row.blocks.clone()],
                logits: row.sample.is_some(),
            })
            .collect();
        let logits = self
            .model
            .forward(&mut self.cache, &steps)
            .map_err(|error| DeviceError(error.to_string()))?;
        let samples = batch.rows.iter().filter_map(|row| row.sample.as_ref());
        let tokens = samples
            .enumerate()
            .map(|(index, wanted)| draw(logits.row(index), wanted))
            .collect();
        Ok(StepOutput { tokens })
    }
}

fn draw(logits: &[f32], wanted: &Sample) -> u32 {
    let Some(forbidden) = &wanted.forbidden else {
        return sample(logits, &wanted.params, wanted.output_index);
    };
    let mut allowed = logits.to_vec();
    for &token in forbidden.iter() {
        if let Some(logit) = allowed.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    sample(&allowed, &wanted.params, wanted.output_index)
}

impl Executor for CandleExecutor {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    async fn step(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        catch_unwind(AssertUnwindSafe(|| self.run(batch))).unwrap_or_else(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(DeviceError(format!(
                "the model panicked: {}",
                words.unwrap_or("no message")
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::SamplingParams;
    use std::sync::Arc;

    #[test]
    fn forbidden_tokens_are_not_drawn() {
        let params = SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
        };
        let drawn = |forbidden: Option<&[u32]>| {
            let sample = Sample {
                params,
                output_index: 0,
                forbidden: forbidden.map(Arc::from),
            };
            draw(&[1.0, 3.0, 2.0], &sample)
        };
        assert_eq!(drawn(None), 1);
        assert_eq!(drawn(Some(&[1, 99])), 2);
        assert_eq!(drawn(Some(&[1, 2])), 0);
    }
}
