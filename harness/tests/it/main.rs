//! The real binary, end to end: what a user sees, what lands on disk, and what goes wrong.

mod command;
mod compare;
mod cost;
mod energy;
#[path = "../../../backends/tests/it/fakes.rs"]
mod fakes;
mod faults;
mod gate;
mod load;
mod mock;
mod overload;
mod page;
mod plugin;
mod runs;
#[path = "../../../backends/tests/it/sealed.rs"]
mod sealed;
mod serve;
mod served;
mod server;
mod targets;
mod tidy;
