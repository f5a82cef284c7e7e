//! A load curve as a table: terminal and Markdown; its page is in `page`.

mod page;

use crate::capacity::Decision;
use crate::cost::Estimate;
use crate::load_curve::{LoadCurve, Point};

pub(super) use page::html;

use super::format::{duration, interval, percent, significant, usd};
use super::view::usd_figure;

const HEADS: [&str; 11] = [
    "load",
    "within SLO",
    "",
    "req/s",
    "tok/s",
    "TTFT p50",
    "TTFT p95",
    "TPOT p50",
    "TPOT p95",
    "$/query",
    "$/1M tokens",
];

fn cells(point: &Point) -> [String; 11] {
    let time = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), duration);
    let money =
        |value: Option<Estimate>| value.map_or_else(|| "–".to_owned(), |value| usd(value.mid));
    let verdict = match (point.decision, point.invalid.is_empty()) {
        (_, false) => "INVALID",
        (Some(Decision::Pass), _) => "pass",
        (Some(Decision::Fail), _) => "fail",
        (Some(Decision::Open), _) => "open",
        (None, _) => "VALID",
    };
    [
        significant(point.load),
        point.share.map_or_else(|| "–".to_owned(), percent),
        verdict.to_owned(),
        significant(point.request_rate.per_s),
        significant(point.output_tokens_per_s.per_s),
        time(point.ttft_p50_s),
        time(point.ttft_p95_s),
        time(point.tpot_p50_s),
        time(point.tpot_p95_s),
        money(point.usd_per_query),
        money(point.usd_per_million_total_tokens),
    ]
}

/// Rising loads; runs of one load in the order in which they were made.
fn rising(curve: &LoadCurve) -> Vec<&Point> {
    let mut points: Vec<&Point> = curve.points.iter().collect();
    points.sort_by(|a, b| a.load.total_cmp(&b.load));
    points
}

/// What a search found, in sentences.
pub(super) fn findings(curve: &LoadCurve) -> Vec<String> {
    let Some(found) = &curve.search else {
        return Vec::new();
    };
    let unit = curve.unit.name();
    let mut lines = Vec::new();
    let capacity = &found.capacity;
    if let (Some(load), Some(ends)) = (capacity.load, capacity.ci95) {
        lines.push(format!(
            "Capacity: {} {unit} {} with {} of requests within the SLO.",
            significant(load),
            interval(ends),
            percent(found.goal_share)
        ));
    }
    lines.extend(
        capacity
            .remarks
            .iter()
            .map(|remark| format!("Note: {remark}.")),
    );
    if let (Some(query), Some(cost)) = (found.usd_per_query, &found.cost) {
        let tokens = found.usd_per_million_total_tokens;
        let tokens = tokens.map(|tokens| format!(", {} for a million tokens", estimate(tokens)));
        lines.push(format!(
            "Cost there: {} for a query{} ({} × {}, sheet {}, confidence {}).",
            estimate(query),
            tokens.unwrap_or_default(),
            cost.units,
            cost.device,
            cost.sheet,
            cost.confidence.name()
        ));
    }
    lines
}

/// With its interval, where it has one.
fn estimate(value: Estimate) -> String {
    let figure = usd_figure(value);
    format!("{} {}", figure.value, figure.interval)
        .trim_end()
        .to_owned()
}

fn title(curve: &LoadCurve) -> String {
    format!("{} / {} / {}", curve.target, curve.model, curve.workload)
}

/// For a terminal.
pub(super) fn terminal(curve: &LoadCurve) -> String {
    let mut heads = HEADS.map(str::to_owned);
    curve.unit.name().clone_into(&mut heads[0]);
    let rows: Vec<[String; 11]> = rising(curve).into_iter().map(cells).collect();
    let width = |column: usize| {
        let all = std::iter::once(&heads).chain(&rows);
        all.map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let line = |row: &[String; 11]| {
        let cells = row.iter().enumerate();
        let padded = cells.map(|(column, cell)| {
            let missing = width(column) - cell.chars().count();
            format!("{}{cell}", " ".repeat(missing))
        });
        let text = padded.collect::<Vec<_>>().join("  ");
        format!("{}\n", text.trim_end())
    };
    let mut text = format!("{}\n{}\n\n{}", title(curve), curve.device, line(&heads));
    text.extend(rows.iter().map(line));
    let notes = findings(curve);
    if !notes.is_empty() {
        text.push_str(&format!("\n{}\n", notes.join("\n")));
    }
    for warning in &curve.warnings {
        text.push_str(&format!("! {warning}\n"));
    }
    text
}

/// For a pull request or a wiki.
pub(super) fn markdown(curve: &LoadCurve) -> String {
    let escape = |text: &str| text.replace('|', "\\|");
    let mut text = format!(
        "# {}\n\n{}\n\n",
        escape(&title(curve)),
        escape(&curve.device)
    );
    for finding in findings(curve) {
        text.push_str(&format!("{finding}\n\n"));
    }
    let mut heads = HEADS.map(str::to_owned);
    curve.unit.name().clone_into(&mut heads[0]);
    text.push_str(&format!(
        "| {} |\n|{}\n",
        heads.join(" | "),
        "--:|".repeat(heads.len())
    ));
    for point in rising(curve) {
        text.push_str(&format!(
            "| {} |\n",
            cells(point).map(|cell| escape(&cell)).join(" | ")
        ));
    }
    for warning in &curve.warnings {
        text.push_str(&format!("\n{}\n", escape(warning)));
    }
    let invalid = rising(curve)
        .into_iter()
        .filter(|point| !point.invalid.is_empty());
    let reasons: Vec<String> = invalid
        .map(|point| format!("- {}: {}\n", point.folder, escape(&point.invalid.join(" "))))
        .collect();
    if !reasons.is_empty() {
        text.push_str(&format!("\nINVALID runs:\n\n{}", reasons.concat()));
    }
    text
}
