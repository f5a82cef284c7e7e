//! `weighbridge`: parse, dispatch, exit.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    harness::cmd::Cli::parse().run()
}
