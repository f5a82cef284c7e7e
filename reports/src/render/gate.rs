//! What a gate found, for a terminal and for a pull request.
//!
//! Invariant: both are functions of the [`GateReport`] alone; reasons and weaknesses are always
//! shown, whatever the verdict. What it does not do: decide.

use std::fmt::Write as _;

use crate::gate::{Change, GateReport, MetricResult, Side, Tier, Verdict};

use super::Style;
use super::format::{duration, significant};
use super::markdown::{cell, code};
use super::terminal::{Paint, one_line, wrapped};

/// Changes that are shown; the JSON has all of them.
const SHOWN_CHANGES: usize = 20;
/// Columns of a metric's name.
const NAME: usize = 20;

pub(super) fn terminal(report: &GateReport, style: Style) -> String {
    let paint = Paint(style);
    let colour = match report.verdict.passes() {
        Some(true) => "1;32",
        Some(false) => "1;31",
        None => "1;33",
    };
    let word = report.verdict.words().to_uppercase();
    let mut lines = vec![format!("{}  {}", paint.with(colour, &word), about(report))];
    for reason in &report.reasons {
        lines.extend(wrapped(reason, "  - "));
    }
    lines.push(String::new());
    if !report.metrics.is_empty() {
        lines.push(paint.dim(&head(report)));
        lines.extend(report.metrics.iter().map(row));
        lines.push(String::new());
    }
    if !report.changes.is_empty() {
        lines.extend(report.changes.iter().take(SHOWN_CHANGES).map(change_line));
        lines.extend(left_out(report).map(|rest| format!("  {rest}")));
        lines.push(String::new());
    }
    for (name, side) in sides(report) {
        lines.extend(wrapped(&side.source, &format!("  {name}  ")));
    }
    lines.extend(
        report
            .weakness
            .iter()
            .flat_map(|weakness| wrapped(weakness, "  ! ")),
    );
    lines.join("\n") + "\n"
}

/// The terms of the comparison, in a line.
pub(super) fn about(report: &GateReport) -> String {
    let mut text = report.tier.words().to_owned();
    let (baseline, candidate) = (report.baseline.runs, report.candidate.runs);
    match report.tier {
        Tier::Paired => {
            let _ = write!(text, " · {baseline} of A, {candidate} of B");
        }
        Tier::StoredRuns => {
            let _ = write!(text, " · {baseline} and {candidate}");
        }
        Tier::VirtualTime | Tier::Instructions | Tier::StoredSingle => {}
    }
    if report.tier != Tier::VirtualTime {
        let _ = write!(text, " · margin {} %", rounded(report.margin * 100.0));
    }
    if matches!(report.tier, Tier::Paired | Tier::StoredRuns) {
        let _ = write!(text, " · alpha {}", report.alpha);
    }
    text
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn head(report: &GateReport) -> String {
    let interval = interval_head(report);
    format!(
        "  {:NAME$} {:>11} {:>11} {:>9} {interval:>20} {:>8}  verdict",
        "metric", "A", "B", "B vs A", "p"
    )
}

fn interval_head(report: &GateReport) -> String {
    let level = match report.tier {
        Tier::StoredSingle => 0.95,
        _ => 1.0 - report.alpha,
    };
    format!("{} % interval", rounded(level * 100.0))
}

fn row(metric: &MetricResult) -> String {
    let verdict = if metric.decides {
        metric.verdict.words().to_owned()
    } else {
        format!("({})", metric.verdict.words())
    };
    let text = format!(
        "  {:NAME$} {:>11} {:>11} {:>9} {:>20} {:>8}  {verdict}",
        shortened(&metric.name),
        figure(metric, metric.baseline),
        figure(metric, metric.candidate),
        change(metric.ratio),
        interval(metric),
        p_value(metric)
    );
    text.trim_end().to_owned()
}

/// The end of a name says most.
fn shortened(name: &str) -> String {
    let name = one_line(name);
    let length = name.chars().count();
    if length <= NAME {
        return name;
    }
    let kept: String = name.chars().skip(length - NAME + 1).collect();
    format!("…{kept}")
}

fn figure(metric: &MetricResult, value: f64) -> String {
    match metric.unit.as_deref() {
        Some("s") => duration(value),
        _ => significant(value),
    }
}

/// `+7.8 %`; counts differ by less than that.
fn change(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    if percent != 0.0 && percent.abs() < 0.05 {
        format!("{percent:+.3} %")
    } else {
        format!("{percent:+.1} %")
    }
}

fn interval(metric: &MetricResult) -> String {
    metric
        .ratio_interval
        .map_or_else(String::new, |(low, high)| {
            format!("{} to {}", change(low), change(high))
        })
}

fn p_value(metric: &MetricResult) -> String {
    match metric.p_holm {
        None => String::new(),
        Some(p) if p < 1e-4 => "<0.0001".to_owned(),
        Some(p) => format!("{p:.4}"),
    }
}

fn change_line(change: &Change) -> String {
    let text = |value: &Option<String>| one_line(value.as_deref().unwrap_or("none"));
    let ratio = change
        .ratio
        .map_or_else(String::new, |ratio| format!("  ({})", self::change(ratio)));
    format!(
        "  {}: {} -> {}{ratio}",
        one_line(&change.place),
        text(&change.baseline),
        text(&change.candidate)
    )
}

fn left_out(report: &GateReport) -> Option<String> {
    let rest = report.changes.len().checked_sub(SHOWN_CHANGES)?;
    (rest > 0).then(|| format!("and {rest} more; the JSON has all"))
}

fn sides(report: &GateReport) -> [(&'static str, &Side); 2] {
    [("A", &report.baseline), ("B", &report.candidate)]
}

pub(super) fn markdown(report: &GateReport) -> String {
    let mark = match report.verdict.passes() {
        Some(true) => "pass",
        Some(false) => "fail",
        None => "not decided",
    };
    let mut text = format!(
        "### weighbridge gate: {} ({mark})\n\n{}\n",
        report.verdict.words(),
        cell(&about(report))
    );
    for reason in &report.reasons {
        let _ = write!(text, "\n- {}", cell(reason));
    }
    if !report.reasons.is_empty() {
        text.push('\n');
    }
    if !report.metrics.is_empty() {
        let _ = writeln!(
            text,
            "\n| metric | A | B | B vs A | {} | p | verdict |\n|---|---:|---:|---:|---:|---:|---|",
            interval_head(report)
        );
        text.extend(report.metrics.iter().map(markdown_row));
    }
    if !report.changes.is_empty() {
        text.push_str("\n```text\n");
        for change in report.changes.iter().take(SHOWN_CHANGES) {
            let _ = writeln!(text, "{}", code(change_line(change).trim_start()));
        }
        text.push_str("```\n");
        text.extend(left_out(report).map(|rest| format!("\n{rest}\n")));
    }
    text.push_str("\n```text\n");
    for (name, side) in sides(report) {
        let _ = writeln!(text, "{name}  {}", code(&side.source));
    }
    text.push_str("```\n");
    text.extend(
        report
            .weakness
            .iter()
            .map(|weakness| format!("\n> {}\n", cell(weakness))),
    );
    text
}

fn markdown_row(metric: &MetricResult) -> String {
    let verdict = match (metric.decides, metric.verdict) {
        (false, verdict) => format!("({})", verdict.words()),
        (true, verdict @ (Verdict::Worse | Verdict::Better)) => format!("**{}**", verdict.words()),
        (true, verdict) => verdict.words().to_owned(),
    };
    format!(
        "| {} | {} | {} | {} | {} | {} | {verdict} |\n",
        cell(&metric.name),
        figure(metric, metric.baseline),
        figure(metric, metric.candidate),
        change(metric.ratio),
        interval(metric),
        p_value(metric).replace('<', "&lt;")
    )
}
