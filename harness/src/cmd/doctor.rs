//! `weighbridge doctor`: what is compiled in, what the system allows, and what would make
//! measurements here unreliable.

use anyhow::Result;
use backends::Clock;
use clap::Args;

use super::{Ending, print, print_json};
use crate::doctor::{Places, State, examine};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs) -> Result<Ending> {
    let clock = Clock::wall();
    let found = clock.block_on(examine(&clock, &Places::default()));
    if args.json {
        print_json(&found)?;
        return Ok(Ending::Done);
    }
    let mut text = String::new();
    for finding in &found {
        let mark = match finding.state {
            State::Good => " ",
            State::Note => "·",
            State::Bad => "!",
            State::Unknown => "?",
        };
        text.push_str(&format!("{mark} {:<20} {}\n", finding.name, finding.value));
        if !finding.advice.is_empty() {
            text.push_str(&format!("    {}\n", finding.advice));
        }
    }
    let bad = found
        .iter()
        .filter(|finding| finding.state == State::Bad)
        .count();
    text.push_str(&match bad {
        0 => "\nNothing here makes measurements unreliable.\n".to_owned(),
        1 => "\nOne thing (!) makes measurements here unreliable.\n".to_owned(),
        more => format!("\n{more} things (!) make measurements here unreliable.\n"),
    });
    print(&text)?;
    Ok(Ending::Done)
}
