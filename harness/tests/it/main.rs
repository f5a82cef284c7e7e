//! The real binary, end to end: what a user sees, what lands on disk, and what goes wrong.

mod command;
mod energy;
#[path = "../../../backends/tests/it/fakes.rs"]
mod fakes;
mod faults;
mod load;
mod mock;
mod overload;
mod page;
mod runs;
mod serve;
mod served;
mod server;
mod tidy;
