//! Models from files and from memory, end to end. No network, no clock.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod files;
mod forward;
mod golden;
mod naive;
mod support;
