//! A comparison for people: terminal, Markdown, page.
//!
//! Invariant: what was tolerated and what could not be checked is said before any figure. A ratio
//! stands with its interval, and what it shows is a word, not a colour alone.

mod page;

use std::fmt::Write as _;

use crate::compare::{BreakEven, Comparison, Entry, Finding, Ratio};
use crate::subject::{FigureKind, Subject, SubjectFigure, Unit, figures};

use super::Style;
use super::format::{duration, duration_interval, interval, percent, significant, usd};
use super::markdown::cell;
use super::terminal::{Paint, one_line, wrapped};

pub(super) use page::html;

/// Columns of the terminal: name of a figure, reference, and for each other a figure and a ratio.
const NAME: usize = 20;
const FIGURE: usize = 13;
const RATIO: usize = 26;
/// Others beside the reference in one table of at most 100 columns; each more has a table of its
/// own.
const OTHERS: usize = 1;
/// Figures that are shown in a terminal; the rest is in Markdown, the page and JSON.
const SHOWN: [&str; 18] = [
    "usd_per_query",
    "usd_per_million_output_tokens",
    "goodput_share",
    "goodput_rate",
    "request_rate",
    "output_tokens_per_s",
    "output_tokens_per_s_per_device",
    "total_tokens_per_s_per_device",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "ttft_s.p50",
    "ttft_s.p90",
    "ttft_s.p99",
    "tpot_s.p50",
    "tpot_s.p99",
    "itl_s.p99",
    "e2e_s.p50",
    "e2e_s.p99",
];

/// `A`, `B` … by position.
fn letter(index: usize) -> String {
    match u8::try_from(index) {
        Ok(index) if index < 26 => char::from(b'A' + index).to_string(),
        _ => format!("#{}", index + 1),
    }
}

/// The rows of a comparison with what each figure is.
fn rows(comparison: &Comparison) -> Vec<(FigureKind, &[Option<Entry>])> {
    let kinds = figures();
    let row =
        |row: &'_ crate::compare::Row| kinds.iter().find(|kind| kind.key == row.figure).cloned();
    comparison
        .rows
        .iter()
        .filter_map(|found| Some((row(found)?, found.entries.as_slice())))
        .collect()
}

fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Seconds => duration(value),
        Unit::PerSecond(_) => significant(value),
        Unit::Share => percent(value),
        Unit::Usd => usd(value),
    }
}

fn value_interval(unit: Unit, figure: &SubjectFigure) -> String {
    let Some(ends) = figure.ci95 else {
        return String::new();
    };
    match unit {
        Unit::Seconds => duration_interval(figure.value, ends),
        Unit::Share => format!("[{}, {}]", percent(ends.0), percent(ends.1)),
        Unit::PerSecond(_) | Unit::Usd => interval(ends),
    }
}

/// The name of a figure with its unit, where the values do not carry it.
fn name(kind: &FigureKind) -> String {
    match kind.unit {
        Unit::PerSecond(unit) => format!("{}, {unit}", kind.name),
        Unit::Seconds | Unit::Share | Unit::Usd => kind.name.clone(),
    }
}

fn ratio_text(ratio: &Ratio) -> String {
    let number = |value: f64| format!("{value:.decimals$}", decimals = decimals(value));
    let ends = ratio.ci95;
    let ends = ends.map(|(low, high)| format!(" [{}, {}]", number(low), number(high)));
    format!("×{}{}", number(ratio.value), ends.unwrap_or_default())
}

/// Two decimals, and more where a ratio is small; none where it is large.
fn decimals(value: f64) -> usize {
    match value {
        large if large >= 99.5 => 0,
        large if large >= 9.95 => 1,
        small if small < 0.1 => 4,
        _ => 2,
    }
}

/// What a ratio shows, in a word.
fn word(finding: Finding) -> &'static str {
    match finding {
        Finding::Better => "better",
        Finding::Worse => "worse",
        Finding::NoDifferenceShown => "no difference shown",
        Finding::NotTested => "not tested",
    }
}

fn mark(finding: Finding) -> &'static str {
    match finding {
        Finding::Better => "better",
        Finding::Worse => "worse",
        Finding::NoDifferenceShown => "≈",
        Finding::NotTested => "?",
    }
}

/// What a subject is, in a line.
fn about(subject: &Subject) -> String {
    let model = &subject.model;
    let (load, price) = (&subject.workload, subject.usd_per_hour);
    let parts = [
        Some(subject.source.to_string()),
        subject.device.clone(),
        model.name.clone(),
        model.weights.clone(),
        load.name.clone(),
        load.target_rate
            .map(|rate| format!("{} req/s", significant(rate))),
        load.concurrency.map(|users| format!("{users} at a time")),
        price.map(|dollars| format!("{}/h", usd(dollars))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// One sentence for a break-even.
fn break_even_text(found: &BreakEven, comparison: &Comparison) -> String {
    let work = match found.figure.as_str() {
        "goodput_rate" => "request within the SLO",
        _ => "token",
    };
    let (other, reference) = (letter(found.subject), letter(comparison.reference));
    let mut text = format!(
        "{other} costs less per {work} than {reference} while its price per hour is below {}",
        ratio_text(&found.price_ratio)
    );
    let _ = write!(text, " of {reference}'s");
    if let Some(limit) = found.usd_per_hour {
        let _ = write!(text, ", which is {}/h", usd(limit));
    }
    if let Some(actual) = found.actual_usd_per_hour {
        let _ = write!(text, "; it is {}/h", usd(actual));
    }
    text
}

fn tolerated(comparison: &Comparison) -> Vec<String> {
    let one = |what: &crate::compare::Incomparable| format!("compared in spite of {what}");
    comparison.tolerated.iter().map(one).collect()
}

/// A table for a terminal, at most 100 columns wide.
pub(super) fn terminal(comparison: &Comparison, style: Style) -> String {
    let paint = Paint(style);
    let mut lines = Vec::new();
    for (index, subject) in comparison.subjects.iter().enumerate() {
        let role = if index == comparison.reference {
            "  reference"
        } else {
            ""
        };
        let label = format!("{}  {}{role}", letter(index), one_line(&subject.label));
        lines.push(paint.bold(&label.chars().take(100).collect::<String>()));
        lines.extend(
            wrapped(&about(subject), "   ")
                .iter()
                .map(|line| paint.dim(line)),
        );
    }
    for text in tolerated(comparison) {
        let text = wrapped(&text, "! ");
        lines.extend(text.iter().map(|line| paint.with("1;31", line)));
    }
    let others: Vec<usize> = (0..comparison.subjects.len())
        .filter(|&index| index != comparison.reference)
        .collect();
    for group in others.chunks(OTHERS) {
        lines.push(String::new());
        lines.extend(table(comparison, group, paint));
    }
    lines.push(String::new());
    for found in &comparison.break_even {
        lines.extend(wrapped(&break_even_text(found, comparison), "  "));
    }
    let legend = "×: ratio to the reference with its 95 % interval; ≈: the interval holds 1, no \
                  difference is shown; ?: no interval";
    let notes = std::iter::once(legend).chain(comparison.notes.iter().map(String::as_str));
    for note in notes {
        lines.extend(wrapped(note, "  – ").iter().map(|line| paint.dim(line)));
    }
    lines.join("\n") + "\n"
}

fn table(comparison: &Comparison, group: &[usize], paint: Paint) -> Vec<String> {
    let reference = comparison.reference;
    let mut head = format!("{:NAME$}{:>FIGURE$}", "", letter(reference));
    for &index in group {
        let against = format!("{} ÷ {}", letter(index), letter(reference));
        let _ = write!(head, "{:>FIGURE$}{against:>RATIO$}", letter(index));
    }
    let mut lines = vec![paint.dim(&head)];
    for (kind, entries) in rows(comparison) {
        let shown = SHOWN.contains(&kind.key.as_str());
        if !shown || group.iter().all(|&index| entries[index].is_none()) {
            continue;
        }
        let figure = |index: usize| {
            let text = entries[index].map_or_else(
                || "–".to_owned(),
                |entry| value(kind.unit, entry.figure.value),
            );
            format!("{text:>FIGURE$}")
        };
        let label: String = short_name(&kind).chars().take(NAME - 1).collect();
        let mut line = paint.bold(&format!("{label:<NAME$}")) + &figure(reference);
        for &index in group {
            line += &figure(index);
            let ratio = entries[index].and_then(|entry| entry.ratio);
            let text = ratio.map_or_else(String::new, |ratio| {
                format!("{} {}", ratio_text(&ratio), mark(ratio.finding))
            });
            let text = format!("{text:>RATIO$}");
            let code = ratio.map(|ratio| ratio.finding);
            line += &match code {
                Some(Finding::Better) => paint.with("32", &text),
                Some(Finding::Worse) => paint.with("31", &text),
                _ => text,
            };
        }
        lines.push(line);
    }
    lines
}

/// A name of at most nineteen letters.
fn short_name(kind: &FigureKind) -> String {
    let name = match kind.key.as_str() {
        "usd_per_query" => "Cost per query",
        "usd_per_million_output_tokens" => "Cost 1M output",
        "goodput_rate" => "Goodput /s",
        "request_rate" => "Requests /s",
        "output_tokens_per_s" => "Output tok/s",
        "output_tokens_per_s_per_device" => "Output tok/s/device",
        "total_tokens_per_s_per_device" => "All tok/s/device",
        "prefill_tokens_per_s" => "Prefill tok/s",
        "decode_tokens_per_s" => "Decode tok/s",
        _ => &kind.name,
    };
    name.to_owned()
}

/// Tables for a pull request or a wiki.
pub(super) fn markdown(comparison: &Comparison) -> String {
    let reference = letter(comparison.reference);
    let mut text = "# Comparison\n\n| | subject | what it is |\n|---|---|---|\n".to_owned();
    for (index, subject) in comparison.subjects.iter().enumerate() {
        let (label, about) = (cell(&subject.label), cell(&about(subject)));
        let _ = writeln!(text, "| **{}** | {label} | {about} |", letter(index));
    }
    text.push('\n');
    for said in tolerated(comparison) {
        let _ = writeln!(text, "- **{}**", cell(&said));
    }
    text.push_str("\n| figure |");
    for index in 0..comparison.subjects.len() {
        let _ = write!(text, " {} |", letter(index));
        if index != comparison.reference {
            let _ = write!(text, " {} ÷ {reference} |", letter(index));
        }
    }
    text.push_str("\n|---|");
    text.push_str(&"--:|".repeat(2 * comparison.subjects.len() - 1));
    text.push('\n');
    for (kind, entries) in rows(comparison) {
        let _ = write!(text, "| {} |", cell(&name(&kind)));
        for (index, entry) in entries.iter().enumerate() {
            let figure = entry.map_or_else(
                || "–".to_owned(),
                |entry| {
                    let figure = &entry.figure;
                    let ends = value_interval(kind.unit, figure);
                    let value = value(kind.unit, figure.value);
                    if ends.is_empty() {
                        value
                    } else {
                        format!("{value}<br>{ends}")
                    }
                },
            );
            let _ = write!(text, " {figure} |");
            if index != comparison.reference {
                let ratio = entry.and_then(|entry| entry.ratio).map_or_else(
                    || "–".to_owned(),
                    |ratio| format!("{}<br>{}", ratio_text(&ratio), word(ratio.finding)),
                );
                let _ = write!(text, " {ratio} |");
            }
        }
        text.push('\n');
    }
    text.push_str("\n95 % intervals in brackets; × is the ratio to the reference.\n\n");
    for found in &comparison.break_even {
        let _ = writeln!(text, "- {}", cell(&break_even_text(found, comparison)));
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "- {}", cell(note));
    }
    text
}
