//! How a load fits its specification, as a table and as a page with plots.
//!
//! Invariant: both are functions of the [`Fit`] alone, and every check is shown, passed or not.

use std::fmt::Write as _;

use crate::fit::{Check, Evidence, Fact, Fit, FitPlot, FitScale, FitShape};

use super::Style;
use super::axis::{Axis, Kind, Scale};
use super::page::{Banner, Block, Cell, Label, Look, Page, Part, Table, Tone, plots};
use super::plot::{Plot, Series, Shape};
use super::view::Figure;

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

/// A page of its own.
pub(super) fn html(fit: &Fit) -> String {
    let failed = fit.checks.iter().filter(|check| !check.passed);
    let reason = |check: &Check| {
        format!(
            "{}: {} is {}, expected {} ({})",
            check.group,
            check.what,
            check.found,
            check.expected,
            evidence(check.evidence)
        )
    };
    let fine = "The generated load fits its specification.";
    let note = format!(
        "A test fails below p = {:.1e}; a right generator fails one check in a thousand.",
        fit.threshold
    );
    let checks = vec![checks(fit), Block::Note(note)];
    let plots = plots(fit.plots.iter().map(plotted).collect());
    let parts = plots.map(|plots| Part::new("plots", "Plots", vec![plots]));
    let page = Page {
        heading: vec![fit.workload.clone()],
        subtitle: fit.sample.clone(),
        banner: Banner {
            tone: if fit.passed { Tone::Good } else { Tone::Bad },
            word: verdict(fit.passed).to_owned(),
            text: if fit.passed { fine } else { "" }.to_owned(),
            reasons: failed.map(reason).collect(),
        },
        warnings: Vec::new(),
        cards: Vec::new(),
        parts: parts
            .into_iter()
            .chain([
                Part::new("checks", "Checks", checks),
                Part::new("sample", "Sample", vec![facts(fit)]),
            ])
            .collect(),
        panels: Vec::new(),
        tail: Vec::new(),
        source: "a generated schedule",
    };
    page.html()
}

fn checks(fit: &Fit) -> Block {
    let row = |check: &Check| {
        let tone = if check.passed { Tone::Plain } else { Tone::Bad };
        let word = if check.passed { "pass" } else { "FAIL" };
        let cells = [
            (check.found.clone(), Tone::Plain),
            (check.expected.clone(), Tone::Plain),
            (evidence(check.evidence), Tone::Plain),
            (word.to_owned(), tone),
        ];
        let cell = |(text, tone)| Cell {
            figure: Figure::plain(text),
            tone,
        };
        let label = Label::plain(check.what.clone()).with_note(check.group);
        (label, cells.map(cell).into())
    };
    Block::Table(Table {
        name: "Checks".to_owned(),
        look: Look::Wide,
        heads: ["Check", "found", "expected", "evidence", "verdict"]
            .map(Label::plain)
            .into(),
        rows: fit.checks.iter().map(row).collect(),
    })
}

fn facts(fit: &Fit) -> Block {
    let row = |fact: &Fact| {
        let cell = Cell::from(Figure::plain(fact.value.clone()));
        (Label::plain(fact.name), vec![cell])
    };
    Block::Table(Table {
        name: "Sample".to_owned(),
        look: Look::Rows,
        heads: Vec::new(),
        rows: fit.facts.iter().map(row).collect(),
    })
}

fn plotted(plot: &FitPlot) -> Plot {
    let values = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        let points = plot.series.iter().flat_map(|(_, _, points)| points);
        points.map(pick).collect()
    };
    let series = (1..)
        .zip(&plot.series)
        .map(|(slot, (name, shape, points))| Series {
            name: (*name).to_owned(),
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
        levels: Vec::new(),
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
