//! `weighbridge workloads`: what there is, in a line each or as a file to start from, and whether
//! what is generated from it fits.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use models::{ModelSource, load_tokenizer};
use reports::fit::Fit;
use reports::render;
use serde_json::json;

use super::{Ending, print, print_json, style};
use crate::arrivals::Arrivals;
use crate::workload::check::{CheckOptions, check_replay, check_spec};
use crate::workload::replay::{Replay, ReplayOptions};
use crate::workload::source::Workload;
use crate::workload::spec;
use crate::workload::trace::{self, TraceKind};

/// Seeds of a check when the user names none.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=8;

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
    /// Does a generated schedule fit its specification? Exit code 1 when it does not
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// A built-in name, random:IN/OUT, a file or a trace
    workload: String,
    /// Seed of a sample; may be given more than once [default: 1 to 8]
    #[arg(long, value_name = "N")]
    seed: Vec<u64>,
    /// Sessions in all samples together
    #[arg(long, value_name = "N", default_value_t = 16_000)]
    sessions: u64,
    /// Requests per second [default: the workload's]
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Process of session arrivals [default: the workload's]
    #[arg(long, value_name = "A")]
    arrivals: Option<Arrivals>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &WorkloadsArgs) -> Result<Ending> {
    match &args.action {
        Action::List { json } => list(*json)?,
        Action::Describe { name } => print(&toml::to_string(&spec::load(name)?)?)?,
        Action::Check(args) => return check(args),
    }
    Ok(Ending::Done)
}

fn list(json: bool) -> Result<()> {
    let names = spec::builtin_names();
    let specs = names
        .iter()
        .map(|name| spec::load(name))
        .collect::<Result<Vec<_>, _>>()?;
    if json {
        let rows: Vec<_> = specs
            .iter()
            .map(|spec| json!({ "name": spec.name, "description": spec.description }))
            .collect();
        print_json(&rows)?;
        return Ok(());
    }
    let line = |spec: &spec::WorkloadSpec| format!("{:18} {}\n", spec.name, spec.description);
    print(&specs.iter().map(line).collect::<String>())?;
    print("random:IN/OUT      prompts and answers of fixed lengths\n")?;
    for name in TraceKind::NAMES {
        print(&format!(
            "{:18} replay of a trace\n",
            format!("{name}:FILE")
        ))?;
    }
    Ok(())
}

fn check(args: &CheckArgs) -> Result<Ending> {
    let fit = match TraceKind::split(&args.workload) {
        Some((kind, file)) => fit_of_trace(kind, file, args)?,
        None => fit_of_spec(args)?,
    };
    if let Some(path) = &args.html {
        let place = || format!("`--html` {}", path.display());
        std::fs::write(path, render::fit_html(&fit)).with_context(place)?;
    }
    if args.json {
        print_json(&fit)?;
    } else {
        print(&render::fit(&fit, style()))?;
    }
    Ok(if fit.passed {
        Ending::Done
    } else {
        Ending::Invalid
    })
}

fn fit_of_spec(args: &CheckArgs) -> Result<Fit> {
    let spec = spec::load(&args.workload)?;
    let options = CheckOptions {
        seeds: if args.seed.is_empty() {
            SEEDS.collect()
        } else {
            args.seed.clone()
        },
        sessions: args.sessions,
        rate: args.rate.unwrap_or(spec.rate),
        arrivals: args.arrivals.unwrap_or(spec.arrivals),
    };
    let (rate, sessions) = (options.rate, options.sessions);
    let in_range = rate.is_finite() && rate > 0.0;
    ensure!(in_range, "`--rate` is {rate}; accepted is a number above 0");
    let least = 500 * options.seeds.len() as u64;
    ensure!(
        (least..=10_000_000).contains(&sessions),
        "`--sessions` is {sessions}; accepted is {least} (500 for each seed) to 10000000"
    );
    Ok(check_spec(&spec, &options))
}

fn fit_of_trace(kind: TraceKind, file: &str, args: &CheckArgs) -> Result<Fit> {
    let trace = Arc::new(trace::read(kind, file, None)?);
    let (_, tokenizer) = load_tokenizer(&ModelSource::parse("ref-135m")?)?;
    let options = ReplayOptions {
        seed: args.seed.first().copied().unwrap_or(1),
        think_scale: 1.0,
        context_limit: None,
    };
    let replay = Replay::new(Arc::clone(&trace), &tokenizer, options)?;
    let workload = Workload::Replayed {
        trace,
        think_scale: 1.0,
        context_limit: None,
    };
    Ok(check_replay(&workload, &replay))
}
