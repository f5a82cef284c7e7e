//! A ground-truth server: it speaks the OpenAI API, and the instant of every token is known.
//!
//! Each answer is planned when its request has been read: how it ends, how many tokens come when,
//! all from (seed, number of the request). One thread keeps the plan to within tens of
//! microseconds, stamps each chunk right before it is written, puts the stamp into the chunk and
//! remembers it, so that a client's own error can be told from what it reports.
//!
//! Instants are nanoseconds of the system's monotonic clock, which all processes of a machine
//! share. Invariant: the record says what was really done, not what was planned. What it does not
//! do: look at the prompt, or resemble the load behaviour of any engine.

pub mod law;
mod metrics;
pub mod plan;
pub mod record;
mod server;
mod stream;

use backends::http::Stack;
use law::Law;
use plan::{Faults, Stall};

pub use server::{Handle, serve};

/// How the server behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct MockConfig {
    /// Everything random comes from it and the number of the request.
    pub seed: u64,
    /// From the request to the first chunk.
    pub ttft: Law,
    /// From token to token.
    pub itl: Law,
    /// Tokens of an answer to a request that does not say.
    pub tokens: u32,
    /// Tokens in one chunk.
    pub chunk_tokens: u32,
    /// When the usage chunk comes.
    pub usage: UsageChunk,
    /// A chunk with the role alone comes at once, before any content.
    pub role_chunk: bool,
    /// Lines end in CR LF.
    pub crlf: bool,
    /// Each write is cut at this many bytes drawn at random.
    pub cuts: u32,
    /// All streams stand still from time to time.
    pub stall: Option<Stall>,
    /// What goes wrong.
    pub faults: Faults,
    /// Whose habits it has.
    pub stack: Stack,
}

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            ttft: Law::Constant(50_000_000),
            itl: Law::Constant(20_000_000),
            tokens: 64,
            chunk_tokens: 1,
            usage: UsageChunk::Asked,
            role_chunk: true,
            crlf: false,
            cuts: 0,
            stall: None,
            faults: Faults::default(),
            stack: Stack::OpenAi,
        }
    }
}

/// When the usage chunk comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum UsageChunk {
    /// When the request asks for it.
    Asked,
    /// Always.
    Always,
    /// Never.
    Never,
}
