//! The CPU engine: packed weights, vector kernels, attention in place, and the threads.
//!
//! # Layout
//! - [`simd`](Level): vectors of one processor behind one trait, chosen at run time. With
//!   `pool`, `memory` and a few lines that give threads their part of a buffer, all the unsafe
//!   code of the crate.
//! - `pack`: weights as panels of 16 rows, `short`: bf16 weights in 12 bits; `input`: activations
//!   as tiles of up to 12 rows.
//! - `product`: panel times tile; `attention`: tiles of queries over the paged cache; `vector`:
//!   the elementwise rest.
//! - `profile`: where the time of a step goes. `probe`: what the machine can do at most.
//!
//! **Invariant.** A row's result does not depend on the rows beside it, on the number of threads
//! nor (bf16 weights excepted) on the level: the same bits come out, and tests say so.

pub(crate) mod attention;
pub(crate) mod input;
pub(crate) mod memory;
pub(crate) mod pack;
pub(crate) mod pool;
mod probe;
pub(crate) mod product;
mod profile;
mod short;
pub(crate) mod simd;
pub(crate) mod vector;

#[cfg(test)]
mod tests;

pub use pool::Threads;
pub use probe::{MachineProbe, probe};
pub use profile::{Operation, Profile, Tally};
pub use simd::Level;

use pool::Pool;
use std::num::NonZeroUsize;

/// How the processor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute.
    pub threads: Threads,
    /// Instruction set; one that the processor lacks is replaced by the best it has.
    pub level: Level,
}

impl CpuOptions {
    /// `threads` threads with the best instructions of this processor.
    pub fn new(threads: NonZeroUsize) -> Self {
        Self {
            threads: Threads {
                count: threads,
                pinned: false,
            },
            level: Level::best(),
        }
    }
}

/// The processor as a forward pass uses it: threads, instruction set, and the buffers that are
/// kept from step to step.
#[derive(Debug)]
pub struct Cpu {
    pub(crate) pool: Pool,
    pub(crate) level: Level,
    pub(crate) buffers: Buffers,
    pub(crate) profile: Option<Profile>,
}

/// Activations between the operations of a step, one row per token.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) input: input::Input,
    pub(crate) attention: attention::Scratch,
    pub(crate) hidden: Vec<f32>,
    pub(crate) projected: Vec<f32>,
    pub(crate) attended: Vec<f32>,
    pub(crate) activated: Vec<f32>,
    pub(crate) angles: Vec<[f32; 2]>,
    pub(crate) logits: Vec<f32>,
    /// For sampling, one per thread.
    pub(crate) weights: Vec<Vec<f32>>,
}

impl Cpu {
    /// Starts the threads.
    pub fn new(options: CpuOptions) -> Self {
        let level = if options.level.is_available() {
            options.level
        } else {
            Level::best()
        };
        Self {
            pool: Pool::new(options.threads),
            level,
            buffers: Buffers::default(),
            profile: None,
        }
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Threads in use, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Starts to account for time, by a clock that gives nanoseconds.
    pub fn start_profile(&mut self, now: fn() -> u64) {
        self.profile = Some(Profile::new(now));
    }

    /// The account so far, if one was started; it ends here.
    pub fn take_profile(&mut self) -> Option<Profile> {
        self.profile.take()
    }
}
