//! The engine with the reference model in it.

mod answers;
mod plugin;
