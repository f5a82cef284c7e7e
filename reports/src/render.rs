//! Reports for people: terminal summary, Markdown, HTML.
//!
//! Invariant: every renderer is a function of the [`Report`] alone, and no figure is shown that a
//! script could not derive from `report.json`. What it does not do: write files, or find out
//! whether there is a terminal; the caller does both.

mod axis;
mod dialect;
mod energy;
mod fit;
mod format;
mod html;
mod markdown;
mod plot;
mod sections;
mod svg;
mod terminal;
mod timeline;
mod view;

use crate::dialect::DialectFigures;
use crate::fit::Fit;
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

/// `report.md`.
pub fn markdown(report: &Report) -> String {
    markdown::markdown(report)
}

/// `report.html`: self-contained, fetches nothing.
pub fn html(report: &Report) -> String {
    html::html(report)
}
