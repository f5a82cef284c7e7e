//! The engine with the reference model in it, and the probes with fake vendor libraries.

mod answers;
mod fakes;
mod kernels;
mod plugin;
mod probes;
