//! The executor that runs the reference model on the CPU.
//!
//! Invariant: the executor keeps nothing of a request between steps but what is in the KV cache;
//! the scheduler's block tables say what that is. A panic inside the model is a device error, not
//! the end of the engine.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use models::{Cpu, CpuOptions, Draw, KvCache, KvFormat, Llama, SequenceStep};

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
        self.model
            .forward(&mut self.cpu, &mut self.cache, &steps)
            .map_err(|error| DeviceError(error.to_string()))?;
        let samples = batch.rows.iter().filter_map(|row| row.sample.as_ref());
        let draws: Vec<_> = samples
            .map(|wanted| Draw {
                params: wanted.params,
                output_index: wanted.output_index,
                forbidden: wanted.forbidden.as_deref().unwrap_or_default(),
            })
            .collect();
        let mut output = StepOutput::default();
        self.cpu.sample(&draws, &mut output.tokens);
        Ok(output)
    }
}

impl Executor for CpuExecutor {
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
