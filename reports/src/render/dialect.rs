//! A run in the words of another tool, as a table.
//!
//! Invariant: the table names its tool, and figures are those of [`DialectFigures`] alone.

use std::fmt::Write as _;

use crate::dialect::DialectFigures;

use super::format::significant;

/// The table, at most 100 columns wide.
pub(super) fn table(figures: &DialectFigures) -> String {
    let mut text = format!(
        "In the definitions of {}: {} of {} requests finished in {} s\n\n",
        figures.dialect,
        figures.finished,
        figures.requests,
        significant(figures.duration_s)
    );
    let heads = ["mean", "p50", "p90", "p95", "p99"].map(|head| format!("{head:>11}"));
    let _ = writeln!(text, "{:32}{}", "", heads.concat());
    for metric in &figures.metrics {
        let values = [
            metric.mean_s,
            metric.p50_s,
            metric.p90_s,
            metric.p95_s,
            metric.p99_s,
        ];
        let cells = values.map(|value| {
            let shown = value.map_or_else(|| "–".to_owned(), |s| significant(s * 1e3));
            format!("{shown:>11}")
        });
        let name = format!("{} [ms]", metric.name);
        let _ = writeln!(text, "{name:<32}{}", cells.concat());
    }
    let rates = [
        ("requests [1/s]", figures.request_rate),
        ("output tokens [1/s]", figures.output_tokens_per_s),
    ];
    for (name, rate) in rates {
        let _ = writeln!(text, "{name:<32}{:>11}", significant(rate));
    }
    text
}
