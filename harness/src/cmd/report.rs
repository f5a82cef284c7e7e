//! `weighbridge report` and `export`: everything that derives from `report.json`, once more, and
//! the run as other tools write theirs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use reports::cost;
use reports::dialect::{self, Dialect};
use reports::export::Format;
use reports::schema::SCHEMA_VERSION;
use reports::{Report, Window, export, render};

use super::{Ending, print, print_json, style, write_file};
use crate::prices;
use crate::recorder::read_records;
use crate::versioned;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Result folder
    dir: PathBuf,
    /// Print report.json instead of the summary
    #[arg(long)]
    json: bool,
    /// Print the run in another tool's definitions: vllm, sglang, aiperf, guidellm, genai-perf,
    /// llmperf, inference-perf, evalscope, aisbench
    #[arg(long, value_name = "TOOL")]
    dialect: Option<Dialect>,
    #[command(flatten)]
    price: PriceArgs,
}

/// The run at other prices; `report.json` is written again with them.
#[derive(Debug, Args)]
struct PriceArgs {
    /// Price the run again: a sheet's file, or rental, china, us, malaysia, thailand
    #[arg(long, value_name = "SHEET")]
    price: Option<PathBuf>,
    /// Device to look up in the price sheet [default: as the run was priced]
    #[arg(long, value_name = "NAME", requires = "price")]
    price_device: Option<String>,
    /// Devices, or vCPUs, that the price is multiplied by [default: as the run was priced]
    #[arg(long, value_name = "N", requires = "price")]
    price_units: Option<u32>,
    /// Share the bill by solving for the time of a token over this run and these, which had other
    /// ratios of input to output and kept the device busy too
    #[arg(long, value_name = "DIR", requires = "price", num_args = 1..)]
    split_from: Vec<PathBuf>,
}

impl PriceArgs {
    /// Prices a report again, if that was asked for.
    fn apply(&self, report: &mut Report) -> Result<bool> {
        let Some(sheet) = &self.price else {
            return Ok(false);
        };
        let before = report.cost.as_ref();
        let units = before.map_or(1, |cost| cost.units);
        let asked = prices::Asked {
            sheet: Some(sheet),
            device: self.price_device.as_deref(),
            units: self.price_units,
        };
        let own = before.map(|cost| cost.device.clone());
        let priced = prices::resolve(asked, own.as_deref(), units)?;
        let priced = priced.context("`--price` prices a device")?;
        let mut solved = None;
        if !self.split_from.is_empty() {
            let mut runs = vec![cost::tokens_and_seconds(&report.summary)];
            for dir in &self.split_from {
                let other = read(&dir.join("report.json"))?;
                runs.push(cost::tokens_and_seconds(&other.summary));
            }
            solved = Some(cost::solve(&runs).context("`--split-from`")?);
        }
        prices::bill(report, &priced, solved)?;
        Ok(true)
    }
}

pub(super) fn run(args: &ReportArgs) -> Result<Ending> {
    let curve = args.dir.join("curve.json");
    if curve.exists() {
        ensure!(
            args.price.price.is_none() && args.dialect.is_none(),
            "`{}` is a curve of several runs, and `--price` and `--dialect` are for one\n\nhint: each \
             run has a folder of its own under it",
            args.dir.display()
        );
        let curve = super::curve::read(&curve)?;
        super::curve::show(&curve, &args.dir, args.json)?;
        return Ok(Ending::Done);
    }
    let path = args.dir.join("report.json");
    let mut report = read(&path)?;
    if args.price.apply(&mut report)? {
        write_file(&path, serde_json::to_string_pretty(&report)?)?;
    }
    write_renderings(&report, &args.dir)?;
    match args.dialect {
        Some(dialect) => show_dialect(dialect, &report, &args.dir, args.json)?,
        None => show(&report, args.json)?,
    }
    Ok(Ending::Done)
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Result folder
    dir: PathBuf,
    /// vllm, aiperf, inferencex (each in its own definitions), csv or parquet (ours)
    #[arg(long, value_name = "FORMAT")]
    format: Format,
    /// Folder for the files [default: the result folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn export(args: &ExportArgs) -> Result<Ending> {
    let report = read(&args.dir.join("report.json"))?;
    let path = args.dir.join("requests.jsonl");
    let records = read_records(&path).with_context(|| format!("`{}`", path.display()))?;
    let folder = args.out.as_ref().unwrap_or(&args.dir);
    std::fs::create_dir_all(folder).with_context(|| format!("`{}`", folder.display()))?;
    for file in export::files(args.format, &report, &records) {
        let path = folder.join(file.name);
        write_file(&path, file.bytes)?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(Ending::Done)
}

/// Prints the requests of a run in another tool's definitions.
pub(super) fn show_dialect(
    dialect: Dialect,
    report: &Report,
    dir: &Path,
    as_json: bool,
) -> Result<()> {
    let path = dir.join("requests.jsonl");
    let place = || format!("`{}`: `--dialect` needs the run's requests", path.display());
    let records = read_records(&path).with_context(place)?;
    let ns = |seconds: f64| (seconds * 1e9).round() as u64;
    let (start_s, end_s) = report.run.window_s;
    let window = Window {
        start_ns: ns(start_s),
        end_ns: ns(end_s),
    };
    let figures = dialect::figures(dialect, records.iter(), window);
    if as_json {
        return print_json(&figures);
    }
    Ok(print(&render::dialect(&figures))?)
}

/// Reads a report of this schema.
pub(super) fn read(path: &Path) -> Result<Report> {
    Ok(versioned::read(path, SCHEMA_VERSION)?.0)
}

/// Writes `report.md` and `report.html`.
pub(super) fn write_renderings(report: &Report, dir: &Path) -> Result<()> {
    write_file(&dir.join("report.md"), render::markdown(report))?;
    write_file(&dir.join("report.html"), render::html(report))
}

/// Prints a report to standard output.
pub(super) fn show(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(report);
    }
    Ok(print(&render::terminal(report, style()))?)
}
