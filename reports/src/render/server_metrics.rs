//! The server's own metrics in the report.
//!
//! Invariant: every figure stands beside the server's name for it.

use crate::schema::Report;
use crate::server_metrics::{ServerFigure, ServerMetrics, ServerValue};
use crate::stats::thousands;

use super::format::{duration, percent, significant};
use super::sections::{row, text};
use super::view::{Figure, Row, Section};

const ROWS: [(ServerFigure, &str); 7] = [
    (ServerFigure::Waiting, "Requests that wait"),
    (ServerFigure::Running, "Requests in the batch"),
    (ServerFigure::KvUsage, "Memory for keys and values in use"),
    (ServerFigure::PrefixHitShare, "Found in the prefix cache"),
    (ServerFigure::Preemptions, "Preemptions"),
    (ServerFigure::PromptTokens, "Prompt tokens"),
    (ServerFigure::OutputTokens, "Output tokens"),
];

/// The table; none where no server was asked.
pub(super) fn section(report: &Report) -> Option<Section> {
    let metrics = report.server_metrics.as_ref()?;
    let rows = if let Some(why) = metrics.null_reasons.get("all") {
        vec![row("Metrics", Figure::missing(why))]
    } else {
        let looked = format!(
            "{}, {} times in the window; counters over {}",
            metrics.url,
            metrics.looks,
            duration(metrics.covered_s)
        );
        let rows = ROWS.iter();
        let rows = rows.map(|(figure, label)| line(metrics, *figure, label));
        std::iter::once(text("Read at", looked))
            .chain(rows)
            .collect()
    };
    Some(Section {
        id: "server-metrics",
        title: "The server about itself",
        rows,
    })
}

fn line(metrics: &ServerMetrics, figure: ServerFigure, label: &str) -> Row {
    let Some(value) = metrics.figures.get(&figure) else {
        let why = metrics.null_reasons.get(figure.name());
        return row(
            label.to_owned(),
            Figure::missing(why.map_or("not told", String::as_str)),
        );
    };
    text(
        label.to_owned(),
        format!("{} ({})", words(figure, value), value.source),
    )
}

fn words(figure: ServerFigure, value: &ServerValue) -> String {
    if let Some(growth) = value.growth {
        return format!("{} more", thousands(growth as u64));
    }
    // A share over one is no share, whatever the server calls it: shown as it came.
    let shown = |number: f64| {
        if figure.is_share() && number <= 1.0 {
            percent(number)
        } else {
            significant(number)
        }
    };
    let mut words: Vec<String> = Vec::new();
    words.extend(value.mean.map(|mean| format!("{} on average", shown(mean))));
    words.extend(value.max.map(|max| format!("{} at most", shown(max))));
    words.join(", ")
}
