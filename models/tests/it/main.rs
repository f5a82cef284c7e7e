//! Models from files and from memory, end to end. No network, no clock.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use models::{Cpu, CpuOptions};

mod files;
mod forward;
mod golden;
mod naive;
mod support;
mod tensors;

/// A processor with so many threads.
fn cpu(threads: usize) -> Cpu {
    Cpu::new(CpuOptions::new(threads.try_into().unwrap()))
}
