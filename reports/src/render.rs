//! Reports for people: terminal summary, Markdown, HTML.
//!
//! Invariant: every renderer is a function of the [`Report`] (or the [`Comparison`]) alone, and no
//! figure is shown that a script could not derive from its JSON. What it does not do: write files,
//! or find out whether there is a terminal; the caller does both.

mod axis;
mod bars;
mod compare;
mod curve;
mod definitions;
mod dialect;
mod drawn;
mod energy;
mod fit;
mod format;
mod gate;
mod junit;
mod markdown;
mod page;
mod plot;
mod run_page;
mod sections;
mod server_metrics;
mod svg;
mod terminal;
mod timeline;
mod view;

use crate::compare::Comparison;
use crate::dialect::DialectFigures;
use crate::fit::Fit;
use crate::gate::GateReport;
use crate::histogram::LatencyHistogram;
use crate::load_curve::LoadCurve;
use crate::schema::Report;

/// Whether the terminal summary may use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Plain text.
    Plain,
    /// ANSI colours.
    Ansi,
}

/// One screen for a terminal, at most 100 columns.
pub fn terminal(report: &Report, style: Style) -> String {
    terminal::terminal(report, style)
}

/// A run in the words of another tool, for a terminal.
pub fn dialect(figures: &DialectFigures) -> String {
    dialect::table(figures)
}

/// What the tests of a schedule found, for a terminal.
pub fn fit(fit: &Fit, style: Style) -> String {
    fit::terminal(fit, style)
}

/// The same as a page of its own, with plots.
pub fn fit_html(fit: &Fit) -> String {
    fit::html(fit)
}

/// What a gate found, for a terminal.
pub fn gate(report: &GateReport, style: Style) -> String {
    gate::terminal(report, style)
}

/// The same for a pull request, as Markdown.
pub fn gate_markdown(report: &GateReport) -> String {
    gate::markdown(report)
}

/// The same as `JUnit` XML: one test case for each metric.
pub fn gate_junit(report: &GateReport) -> String {
    junit::junit(report)
}

/// `report.md`.
pub fn markdown(report: &Report) -> String {
    markdown::markdown(report)
}

/// `report.html`: self-contained, fetches nothing.
pub fn html(report: &Report) -> String {
    run_page::html(report)
}

/// Subjects side by side, for a terminal.
pub fn comparison(comparison: &Comparison, style: Style) -> String {
    compare::terminal(comparison, style)
}

/// The same for a pull request or a wiki.
pub fn comparison_markdown(comparison: &Comparison) -> String {
    compare::markdown(comparison)
}

/// The same as a page of its own, with plots.
pub fn comparison_html(comparison: &Comparison) -> String {
    compare::html(comparison)
}

/// `(quantile, seconds)` as far into the tail as this many requests reach.
pub(crate) fn percentile_curve(histogram: &LatencyHistogram, requests: u64) -> Vec<(f64, f64)> {
    plot::curve(histogram, &axis::Axis::tail(requests))
}

/// A load curve for a terminal.
pub fn curve_terminal(curve: &LoadCurve) -> String {
    curve::terminal(curve)
}

/// A load curve for a pull request or a wiki.
pub fn curve_markdown(curve: &LoadCurve) -> String {
    curve::markdown(curve)
}

/// The same as a page of its own, with plots.
pub fn curve_html(curve: &LoadCurve) -> String {
    curve::html(curve)
}
