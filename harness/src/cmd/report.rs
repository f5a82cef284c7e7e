//! `weighbridge report`: everything that derives from `report.json`, once more.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use reports::schema::SCHEMA_VERSION;
use reports::{Report, render};

use super::{Ending, print, wants_colour};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Result folder
    dir: PathBuf,
    /// Print report.json instead of the summary
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ReportArgs) -> Result<Ending> {
    let report = read(&args.dir.join("report.json"))?;
    write_renderings(&report, &args.dir)?;
    show(&report, args.json)?;
    Ok(Ending::Done)
}

/// Reads a report of this schema.
fn read(path: &Path) -> Result<Report> {
    let place = || format!("`{}`", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    let value: serde_json::Value = serde_json::from_str(&text).with_context(place)?;
    let version = value["schema_version"].as_u64();
    if version != Some(u64::from(SCHEMA_VERSION)) {
        bail!(
            "{}: schema_version is {version:?}; accepted is {SCHEMA_VERSION}",
            place()
        );
    }
    serde_json::from_value(value).with_context(place)
}

/// Writes `report.md` and `report.html`.
pub(super) fn write_renderings(report: &Report, dir: &Path) -> Result<()> {
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("`{}`", path.display()))
    };
    write("report.md", render::markdown(report))?;
    write("report.html", render::html(report))
}

/// Prints a report to standard output.
pub(super) fn show(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        return Ok(print(&format!(
            "{}\n",
            serde_json::to_string_pretty(report)?
        ))?);
    }
    let style = if wants_colour() {
        render::Style::Ansi
    } else {
        render::Style::Plain
    };
    Ok(print(&render::terminal(report, style))?)
}
