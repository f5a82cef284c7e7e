//! What users ask, and when: from a workload file to conversations in exact token counts.
//!
//! - [`spec`]: the file. [`distribution`]: its laws.
//! - [`session`]: a conversation as lengths and instants, a function of `(seed, index)`.
//! - `corpus`, [`text`]: Chinese text of an exact number of tokens.
//! - [`conversation`]: the prompt of each turn, as messages and as token ids.
//! - [`schedule`]: all conversations of a run. [`rate`]: how the rate changes over it.
//! - [`trace`]: recorded load. `blocks`, [`replay`]: how it is asked again.
//! - [`source`]: the one or the other.
//! - [`check`]: does a schedule fit its specification?

mod blocks;
pub mod check;
pub mod conversation;
mod corpus;
pub mod distribution;
mod distribution_cdf;
pub mod rate;
pub mod replay;
pub mod schedule;
pub mod session;
pub mod source;
pub mod spec;
pub mod text;
pub mod trace;
