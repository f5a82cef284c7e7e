//! `weighbridge compare` and `weighbridge import`: results side by side, ours and other tools'.

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use reports::compare::{Aspect, CompareError, compare};
use reports::render;

use super::{Ending, note, print, print_json, style, write_file};
use crate::subjects;

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Result folders, report.json or other tools' results; FILE#N for the N-th result of a file
    #[arg(required = true, value_name = "REPORT")]
    reports: Vec<String>,
    /// Hold the others against the N-th, counted from 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    reference: usize,
    /// Compare in spite of differences: workload, tokenizer, model, simulated, invalid,
    /// definitions, slo
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    allow: Vec<Aspect>,
    /// Names for the results, in their order
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    label: Vec<String>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write tables for a pull request or a wiki
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CompareArgs) -> Result<Ending> {
    let subjects = subjects::read_all(&args.reports, &args.label)?;
    ensure!(
        args.reference > 0,
        "`--reference` 0: results are counted from 1"
    );
    let found = compare(subjects, args.reference - 1, &args.allow).map_err(explained)?;
    if let Some(path) = &args.html {
        write_file(path, render::comparison_html(&found))?;
    }
    if let Some(path) = &args.markdown {
        write_file(path, render::comparison_markdown(&found))?;
    }
    if args.json {
        print_json(&found)?;
    } else {
        print(&render::comparison(&found, style()))?;
    }
    Ok(Ending::Done)
}

/// What was refused, one reason a line, and how to compare all the same.
fn explained(error: CompareError) -> anyhow::Error {
    match error {
        CompareError::Incomparable(found) => {
            let mut aspects: Vec<&str> = found.iter().map(|one| one.aspect.name()).collect();
            aspects.sort_unstable();
            aspects.dedup();
            let reasons: Vec<String> = found.iter().map(|one| format!("  {one}")).collect();
            let definitions = if aspects.contains(&"definitions") {
                "\n`weighbridge export DIR --format vllm` (or aiperf) says a run of ours in another \
                 tool's definitions"
            } else {
                ""
            };
            anyhow!(
                "these results cannot be compared\n{}\n\nhint: `--allow {}` compares them in spite \
                 of that, and says so{definitions}",
                reasons.join("\n"),
                aspects.join(",")
            )
        }
        CompareError::TooFew(_) => {
            anyhow!(
                "{error}\n\nhint: a file may hold several; accepted are {}",
                reports::import::ACCEPTED
            )
        }
        CompareError::Reference { .. } => anyhow!("`--reference`: {error}"),
        CompareError::NothingInCommon(..) => anyhow!("{error}"),
    }
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Another tool's result, or one of ours; FILE#N for the N-th result of a file
    file: String,
    /// Where to write the neutral JSON that `compare` reads
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn import(args: &ImportArgs) -> Result<Ending> {
    let found = subjects::read(&args.file)?;
    let text = match found.as_slice() {
        [only] => serde_json::to_string_pretty(only)?,
        several => serde_json::to_string_pretty(several)?,
    };
    write_file(&args.out, text + "\n")?;
    for subject in &found {
        note(&format!(
            "{}: {}, {} figures",
            subject.source,
            subject.label,
            subject.figures.len()
        ));
    }
    Ok(Ending::Done)
}
