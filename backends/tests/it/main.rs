//! The engine with the reference model in it, the probes with fake vendor libraries, TLS.

mod answers;
mod fakes;
mod kernels;
mod plugin;
mod probes;
mod sealed;
mod tls;
