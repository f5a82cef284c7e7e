//! Runs what a gate compares, or reads what was stored, and hands the figures to
//! [`reports::gate`], which judges them.
//!
//! - [`metric`]: what is compared, and where a run's figure is found.
//! - [`command`]: one command line, run once, as a process of its own.
//! - [`paired`]: two commands in pairs, in random order.
//! - [`stored`]: result folders of earlier runs; when they may be compared.
//! - [`exact`]: results in virtual time, which must be equal; instruction counts.
//!
//! **Invariant.** A run that fails or is INVALID is never left out: the first ends the gate with an
//! error, the second leaves its verdict inconclusive.

pub mod command;
pub mod exact;
pub mod metric;
pub mod paired;
pub mod stored;
