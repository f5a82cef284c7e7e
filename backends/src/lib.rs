//! Everything that yields timed tokens, and the contract it fulfils.
//!
//! # Layout
//! - [`contract`]: [`Backend`], [`Request`], [`TokenStream`] and the events in it.
//! - [`clock`]: real and virtual time; [`alarm`] waits for sockets until an instant of it.
//! - [`stamp`]: reads with the instant at which the bytes came.
//! - [`engine`]: continuous batching over any device ([`engine::Executor`]).
//! - [`cpu`]: the executor that runs the reference model on the CPU.
//! - [`candle`]: the executor that runs it through candle's kernels, on any device.
//! - [`sim`]: the executor that only takes the time a device would take.
//! - [`plugin`]: the executor that calls a device through a C interface.
//! - [`http`]: any server that speaks the OpenAI API.
//! - [`devices`]: what is known of devices, with sources.
//! - [`priority`]: how the threads of this process share a processor.
//! - [`probe`]: what accelerators and processors draw.
//! - [`prometheus`]: lines of the text format that servers and exporters tell about themselves in.
//!
//! A backend never sees a report, and knows nothing of workloads.

pub mod alarm;
pub mod candle;
pub mod clock;
pub mod contract;
pub mod cpu;
pub mod devices;
pub mod engine;
pub mod http;
pub mod plugin;
pub mod priority;
pub mod probe;
pub mod prometheus;
mod segments;
pub mod sim;
pub mod stamp;

pub use clock::{Clock, Nanos};
pub use contract::{
    Backend, Delivery, Event, EventKind, Failure, FailureCause, FinishReason, Gauges, Prompt,
    PromptForm, Request, SystemInfo, Ticket, TokenStream, Usage,
};
