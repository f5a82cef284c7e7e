//! `weighbridge gate`: did it get worse? For CI.
//!
//! Invariant: exit code 0 only when a difference for the worse beyond the margin is excluded (or,
//! of exact comparisons, absent); 1 when there is one; 3 when that is not decided; 2 when nothing
//! was compared. Reports are written before the exit code is given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use backends::Clock;
use clap::{ArgGroup, Args};
use reports::gate::{GateReport, MAX_VALUES, Rule};
use reports::render;

use super::{Ending, interrupt, print, print_json, style};
use crate::gate::command::Program;
use crate::gate::metric::{self, GateMetric};
use crate::gate::{exact, paired, stored};
use crate::units::{parse_duration, parse_share};

/// Margin of figures, and of counted instructions.
const MARGIN: f64 = 0.05;
const MARGIN_OF_COUNTS: f64 = 0.01;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["ab", "baseline", "instructions"]))]
#[command(
    after_help = "Exit codes: 0 better, equivalent, not worse or identical; 1 worse or \
    changed; 3 inconclusive; 2 nothing was compared."
)]
pub(super) struct GateArgs {
    /// Run two command lines in pairs, in random order: baseline and candidate
    #[arg(long, num_args = 2, value_names = ["CMD_A", "CMD_B"])]
    ab: Vec<String>,
    /// Result folders or report.json of the baseline
    #[arg(long, num_args = 1.., value_name = "REPORT", requires = "candidate")]
    baseline: Vec<PathBuf>,
    /// Result folders or report.json of the candidate
    #[arg(long, num_args = 1.., value_name = "REPORT", requires = "baseline")]
    candidate: Vec<PathBuf>,
    /// Compare instruction counts: baseline and candidate
    #[arg(long, num_args = 2, value_names = ["JSON_A", "JSON_B"])]
    instructions: Vec<PathBuf>,
    /// What decides: a figure of a report (`ttft_p50`, `output_tokens_per_s` …), `wall_s`, or a key
    /// or JSON pointer of what the command prints; :more or :less says which is better [default:
    /// `e2e_p50` of reports, else `wall_s`]
    #[arg(long, value_name = "NAME")]
    metric: Vec<String>,
    /// Largest difference that does not matter [default: 5%, of instructions 1%]
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    margin: Option<f64>,
    /// Chance of an error of the two-sided test
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = parse_alpha)]
    alpha: f64,
    /// Pairs of runs with --ab
    #[arg(long, value_name = "N", default_value_t = 10)]
    pairs: usize,
    /// Of the order of runs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// For one run
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    /// Compare results though load, model, target or machine differ
    #[arg(long)]
    allow_different: bool,
    /// Write `JUnit` XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write Markdown, for a pull request
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Print JSON, with the figures of every run
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &GateArgs) -> Result<Ending> {
    let usual = if args.instructions.is_empty() {
        MARGIN
    } else {
        MARGIN_OF_COUNTS
    };
    let rule = Rule {
        margin: args.margin.unwrap_or(usual),
        alpha: args.alpha,
    };
    let report = if let [one, other] = args.ab.as_slice() {
        let programs = [one, other].map(|text| Program::parse(text).context("`--ab`"));
        let [one, other] = programs;
        let clock = Clock::wall();
        let plan = plan(args, [one?, other?], rule)?;
        let done = clock.block_on(async {
            tokio::select! {
                biased;
                () = interrupt() => None,
                done = paired::run(&plan, &clock) => Some(done),
            }
        });
        match done {
            Some(done) => done?,
            None => return Ok(Ending::Interrupted),
        }
    } else if let [one, other] = args.instructions.as_slice() {
        exact::counts(one, other, rule)?
    } else {
        let metrics = metrics(args, true)?;
        let (baseline, candidate) = (
            stored::read_all(&args.baseline)?,
            stored::read_all(&args.candidate)?,
        );
        stored::judge(&baseline, &candidate, &metrics, rule, args.allow_different)?
    };
    write(args, &report)?;
    show(args, &report)?;
    Ok(match report.verdict.passes() {
        Some(true) => Ending::Done,
        Some(false) => Ending::Regression,
        None => Ending::Inconclusive,
    })
}

fn plan(args: &GateArgs, programs: [Program; 2], rule: Rule) -> Result<paired::Plan> {
    ensure!(
        (1..=MAX_VALUES).contains(&args.pairs),
        "`--pairs` is {}; accepted is 1 to {MAX_VALUES}, and at least 6 to find a difference",
        args.pairs
    );
    let gives = [&programs[0], &programs[1]].map(Program::gives_report);
    let metrics = metrics(args, gives == [true, true])?;
    Ok(paired::Plan {
        programs,
        metrics,
        pairs: args.pairs,
        rule,
        seed: args.seed,
        timeout: args.timeout,
    })
}

/// What decides, each once.
fn metrics(args: &GateArgs, of_reports: bool) -> Result<Vec<GateMetric>> {
    let usual = if of_reports {
        metric::DEFAULT_OF_REPORTS
    } else {
        metric::WALL
    };
    let named: Vec<&str> = if args.metric.is_empty() {
        vec![usual]
    } else {
        args.metric.iter().map(String::as_str).collect()
    };
    let mut metrics: Vec<GateMetric> = Vec::new();
    for text in named {
        let metric = metric::parse(text).map_err(|message| anyhow!("`--metric` {message}"))?;
        ensure!(
            metrics.iter().all(|other| other.name != metric.name),
            "`--metric` {} is given twice",
            metric.name
        );
        if args.ab.is_empty() && metric.name == metric::WALL {
            bail!("`--metric wall_s` needs `--ab`; a report does not have it");
        }
        metrics.push(metric);
    }
    Ok(metrics)
}

fn write(args: &GateArgs, report: &GateReport) -> Result<()> {
    let write = |flag: &str, path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("`{flag}` {}", path.display()))
    };
    if let Some(path) = &args.junit {
        write("--junit", path, render::gate_junit(report))?;
    }
    if let Some(path) = &args.markdown {
        write("--markdown", path, render::gate_markdown(report))?;
    }
    Ok(())
}

fn show(args: &GateArgs, report: &GateReport) -> Result<()> {
    if args.json {
        return print_json(report);
    }
    Ok(print(&render::gate(report, style()))?)
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let wrong =
        || format!("`{text}` is not a margin; accepted is a percentage such as `5%`, below 100%");
    parse_share(text)
        .filter(|share| (0.0..1.0).contains(share))
        .ok_or_else(wrong)
}

fn parse_alpha(text: &str) -> Result<f64, String> {
    let alpha = text
        .parse::<f64>()
        .ok()
        .filter(|alpha| (1e-6..=0.5).contains(alpha));
    alpha.ok_or_else(|| {
        format!("`{text}` is not a chance of error; accepted is 0.000001 to 0.5, usually 0.05")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_read_or_refused() {
        for (text, share) in [("5%", 0.05), ("2.5 %", 0.025), ("0.1", 0.1), ("0%", 0.0)] {
            assert!(
                parse_percent(text).is_ok_and(|read| (read - share).abs() < 1e-12),
                "{text}"
            );
        }
        for text in ["", "5", "-1%", "100%", "NaN", "five"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
        for text in ["0", "1", "NaN", "-0.05"] {
            assert!(parse_alpha(text).is_err(), "{text}");
        }
    }
}
