//! `weighbridge workloads`: what there is, in a line each or as a file to start from.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Ending, print};
use crate::workload::spec;

#[derive(Debug, Args)]
pub(super) struct WorkloadsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The built-in workloads
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// One workload whole, as a file that `--workload` reads
    Describe {
        /// A built-in name, random:IN/OUT or a file
        name: String,
    },
}

pub(super) fn run(args: &WorkloadsArgs) -> Result<Ending> {
    match &args.action {
        Action::List { json } => {
            let names = spec::builtin_names();
            let specs = names
                .iter()
                .map(|name| spec::load(name))
                .collect::<Result<Vec<_>, _>>()?;
            if *json {
                let rows: Vec<_> = specs
                    .iter()
                    .map(|spec| json!({ "name": spec.name, "description": spec.description }))
                    .collect();
                print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
            } else {
                let line =
                    |spec: &spec::WorkloadSpec| format!("{:18} {}\n", spec.name, spec.description);
                print(&specs.iter().map(line).collect::<String>())?;
                print("random:IN/OUT      prompts and answers of fixed lengths\n")?;
            }
        }
        Action::Describe { name } => print(&toml::to_string(&spec::load(name)?)?)?,
    }
    Ok(Ending::Done)
}
