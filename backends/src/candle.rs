//! The executor that runs the reference model through candle's kernels, on any device of candle's.
//!
//! Invariant: as for [`crate::cpu`], nothing of a request is kept between steps but what is in the
//! KV cache, and a panic inside the model is a device error. When a step is over the device is
//! idle, also when nothing was sampled: what is timed is the work, not its launch.

use models::{ForwardError, KvFormat, TensorCache, TensorLlama};

use crate::engine::{Batch, Capacity, DeviceError, Executor, StepOutput};

/// The model and its cache on their device, and how much of a step they take at once.
#[derive(Debug)]
pub struct CandleExecutor {
    model: TensorLlama,
    cache: TensorCache,
    capacity: Capacity,
}

impl CandleExecutor {
    /// Holds `capacity.blocks` blocks of keys and values, in memory of the device from here on.
    pub fn new(model: TensorLlama, capacity: Capacity) -> Result<Self, DeviceError> {
        let cache = model.cache(capacity.blocks as usize, KvFormat::F16);
        let cache = cache.map_err(|error| {
            let (blocks, error) = (capacity.blocks, explain(&error));
            DeviceError(format!("no memory for {blocks} blocks of cache: {error}"))
        })?;
        let max_context = capacity.max_context.min(model.config().context);
        Ok(Self {
            model,
            cache,
            capacity: Capacity {
                max_context,
                ..capacity
            },
        })
    }

    fn run(&mut self, batch: &Batch) -> Result<StepOutput, ForwardError> {
        let logits = self.model.forward(&mut self.cache, &batch.steps())?;
        let tokens = logits.sample(&batch.draws())?;
        self.model.finish()?;
        Ok(StepOutput { tokens })
    }
}

impl Executor for CandleExecutor {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    async fn step(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        DeviceError::catch(|| {
            self.run(batch)
                .map_err(|error| DeviceError(explain(&error)))
        })
    }
}

/// The error with its causes.
fn explain(error: &ForwardError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
