//! How a load fits its specification, as a table and as a page with plots.
//!
//! Invariant: both are functions of the [`Fit`] alone, and every check is shown, passed or not.

use std::fmt::Write as _;

use serde::Serialize;

use crate::fit::{Evidence, Fit, FitPlot, FitScale, FitShape};

use super::Style;
use super::axis::{Axis, Kind, Scale};
use super::html::{Drawn, SCRIPT, STYLE, drawn, filled};
use super::plot::{Plot, Series, Shape};

const TEMPLATE: &str = include_str!("../../templates/fit.html.jinja");

/// A table for a terminal, at most 100 columns wide.
pub(super) fn terminal(fit: &Fit, style: Style) -> String {
    let paint = |passed: bool, text: &str| match (style, passed) {
        (Style::Plain, _) => text.to_owned(),
        (Style::Ansi, true) => format!("\u{1b}[1;32m{text}\u{1b}[0m"),
        (Style::Ansi, false) => format!("\u{1b}[1;31m{text}\u{1b}[0m"),
    };
    let mut text = format!(
        "{}  {} · {}\n\n",
        paint(fit.passed, verdict(fit.passed)),
        fit.workload,
        fit.sample
    );
    let mut group = "";
    for check in &fit.checks {
        if check.group != group {
            group = check.group;
            let _ = writeln!(text, "{group}");
        }
        let what: String = check.what.chars().take(38).collect();
        let _ = writeln!(
            text,
            "  {} {what:<38} {:>16} {:>18} {:>13}",
            paint(check.passed, if check.passed { "pass" } else { "FAIL" }),
            check.found,
            check.expected,
            evidence(check.evidence)
        );
    }
    text.push('\n');
    for fact in &fit.facts {
        let _ = writeln!(text, "  {:<44}{:>16}", fact.name, fact.value);
    }
    let _ = writeln!(
        text,
        "\nA test fails below p = {:.1e}; a right generator fails one check in a thousand.",
        fit.threshold
    );
    text
}

fn verdict(passed: bool) -> &'static str {
    if passed { "PASS" } else { "FAIL" }
}

fn evidence(evidence: Evidence) -> String {
    match evidence {
        Evidence::P(p) if p < 0.001 => format!("p = {p:.0e}"),
        Evidence::P(p) => format!("p = {p:.3}"),
        Evidence::Within(true) => "within".to_owned(),
        Evidence::Within(false) => "outside".to_owned(),
    }
}

#[derive(Serialize)]
struct Page<'a> {
    fit: &'a Fit,
    verdict: &'static str,
    rows: Vec<Row<'a>>,
    threshold: String,
    plots: Vec<Drawn>,
    style: &'static str,
    script: &'static str,
}

#[derive(Serialize)]
struct Row<'a> {
    group: &'static str,
    what: &'a str,
    found: &'a str,
    expected: &'a str,
    evidence: String,
    passed: bool,
}

/// A page of its own.
pub(super) fn html(fit: &Fit) -> String {
    let row = |check: &'_ crate::fit::Check| (check.group, evidence(check.evidence), check.passed);
    let rows = fit.checks.iter().map(|check| {
        let (group, evidence, passed) = row(check);
        Row {
            group,
            what: &check.what,
            found: &check.found,
            expected: &check.expected,
            evidence,
            passed,
        }
    });
    let page = Page {
        fit,
        verdict: verdict(fit.passed),
        rows: rows.collect(),
        threshold: format!("{:.1e}", fit.threshold),
        plots: fit.plots.iter().map(|plot| drawn(plotted(plot))).collect(),
        style: STYLE,
        script: SCRIPT,
    };
    filled("fit.html", TEMPLATE, page)
}

fn plotted(plot: &FitPlot) -> Plot {
    let values = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        let points = plot.series.iter().flat_map(|(_, _, points)| points);
        points.map(pick).collect()
    };
    let series = (1..)
        .zip(&plot.series)
        .map(|(slot, (name, shape, points))| Series {
            name,
            slot,
            shape: match shape {
                FitShape::Line => Shape::Line,
                FitShape::Bars => Shape::Bars,
            },
            points: points.clone(),
        });
    let bars = plot
        .series
        .iter()
        .any(|(_, shape, _)| *shape == FitShape::Bars);
    Plot {
        id: plot.id,
        title: plot.title,
        caption: plot.caption.clone(),
        x: axis(plot.scales.0, &values(|point| point.0), false),
        y: axis(plot.scales.1, &values(|point| point.1), bars),
        series: series.collect(),
        shades: Vec::new(),
        marks: Vec::new(),
    }
}

fn axis(scale: FitScale, values: &[f64], bars: bool) -> Axis {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (least, most) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match scale {
        FitScale::Log => Axis::log(Kind::Count, finite()),
        FitScale::LogSeconds => Axis::log(Kind::Latency, finite()),
        // Shares in bars are read out as such.
        FitScale::Linear if bars => Axis::from_zero(Kind::Share, finite()),
        _ if least > most => Axis::between(Kind::Count, 0.0, 1.0),
        FitScale::Linear => Axis::between(Kind::Count, least.min(0.0), most),
        FitScale::Seconds => Axis {
            scale: Scale::Linear,
            ..Axis::between(Kind::Elapsed, least, most)
        },
    }
}
