//! The executor that runs the reference model on the CPU.
//!
//! Invariant: the executor keeps nothing of a request between steps but what is in the KV cache;
//! the scheduler's block tables say what that is. A panic inside the model is a device error, not
//! the end of the engine.

use std::io;

use models::{Cpu, CpuOptions, KvCache, KvFormat, Llama};

use crate::engine::{Batch, Capacity, DeviceError, Executor, StepOutput};

/// The model, its cache, the processor, and how much of a step it takes at once.
#[derive(Debug)]
pub struct CpuExecutor {
    model: Llama,
    cache: KvCache,
    cpu: Cpu,
    capacity: Capacity,
}

impl CpuExecutor {
    /// Starts the threads and holds `capacity.blocks` blocks of keys and values, in memory of
    /// their own from here on.
    pub fn new(model: Llama, capacity: Capacity, options: CpuOptions) -> io::Result<Self> {
        let cache = KvCache::new(model.config(), capacity.blocks as usize, KvFormat::F16)?;
        let max_context = capacity.max_context.min(model.config().context);
        Ok(Self {
            model,
            cache,
            cpu: Cpu::new(options),
            capacity: Capacity {
                max_context,
                ..capacity
            },
        })
    }

    fn run(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        self.model
            .forward(&mut self.cpu, &mut self.cache, &batch.steps())
            .map_err(|error| DeviceError(error.to_string()))?;
        let mut output = StepOutput::default();
        self.cpu.sample(&batch.draws(), &mut output.tokens);
        Ok(output)
    }
}

impl Executor for CpuExecutor {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    async fn step(&mut self, batch: &Batch) -> Result<StepOutput, DeviceError> {
        DeviceError::catch(|| self.run(batch))
    }
}
