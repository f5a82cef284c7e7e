//! The page of a comparison.
//!
//! Invariant: percentile curves are drawn on the axis of the run with most requests; a subject
//! without histograms has the percentiles that it states. What it does not do: more than eight
//! subjects in one plot; the tables have all of them.

use crate::compare::{Comparison, Entry, Finding, Ratio};
use crate::render::axis::{Axis, Kind};
use crate::render::bars::{Bar, Bars, place};
use crate::render::definitions::metric_term;
use crate::render::page::{Banner, Block, Card, Cell, Label, Look, Page, Part, Table, Tone, plots};
use crate::render::plot::{Plot, Series, Shape};
use crate::render::view::Figure;
use crate::schema::Metric;
use crate::subject::{Basis, FigureKind, LATENCIES, Subject, Unit, latency_key};

use super::{
    about, break_even_text, letter, name, ratio_text, rows, short_name, tolerated, value,
    value_interval, word,
};

/// Colours there are.
const MOST_SERIES: usize = 8;
/// Figures that stand on top, the most important one first.
const HEADLINES: [&str; 9] = [
    "usd_per_query",
    "usd_per_million_output_tokens",
    "goodput_rate",
    "output_tokens_per_s",
    "output_tokens_per_s_per_device",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "ttft_s.p50",
    "tpot_s.p50",
];
const MOST_CARDS: usize = 6;

pub(in crate::render) fn html(comparison: &Comparison) -> String {
    page(comparison).html()
}

fn page(comparison: &Comparison) -> Page {
    let reasons = tolerated(comparison);
    let fine = "Same workload and tokenizer as far as the sources state them; what they do not \
                state is noted below.";
    let subjects = comparison.subjects.iter();
    let mut parts = vec![Part::new(
        "subjects",
        "What is compared",
        vec![subjects_table(comparison)],
    )];
    parts.extend(ratio_parts(comparison));
    let curves = plots(
        LATENCIES
            .map(|metric| percentiles(comparison, metric))
            .into(),
    );
    parts.extend(curves.map(|curves| Part::new("latency", "Latency by percentile", vec![curves])));
    parts.push(Part::new(
        "figures",
        "All figures",
        vec![figures_table(comparison)],
    ));
    parts.extend(price(comparison));
    parts.push(Part::new(
        "notes",
        "Notes",
        vec![Block::List(comparison.notes.clone())],
    ));
    Page {
        heading: subjects.map(|subject| subject.label.clone()).collect(),
        subtitle: format!(
            "{} held against {}, {}",
            others(comparison),
            letter(comparison.reference),
            comparison.subjects[comparison.reference].label
        ),
        banner: Banner {
            tone: if reasons.is_empty() {
                Tone::Good
            } else {
                Tone::Bad
            },
            word: if reasons.is_empty() {
                "COMPARABLE"
            } else {
                "NOT ALIKE"
            }
            .to_owned(),
            text: fine.to_owned(),
            reasons,
        },
        warnings: Vec::new(),
        cards: cards(comparison),
        parts,
        panels: Vec::new(),
        tail: Vec::new(),
        source: "the results it names",
    }
}

fn others(comparison: &Comparison) -> String {
    let letters = (0..comparison.subjects.len()).filter(|&index| index != comparison.reference);
    letters.map(letter).collect::<Vec<_>>().join(", ")
}

fn tone(finding: Finding) -> Tone {
    match finding {
        Finding::Better => Tone::Good,
        Finding::Worse => Tone::Bad,
        Finding::NoDifferenceShown | Finding::NotTested => Tone::Faint,
    }
}

/// The key of the definition of a figure.
fn figure_term(kind: &FigureKind) -> &'static str {
    let of_metric = LATENCIES
        .into_iter()
        .find(|metric| kind.key.starts_with(&format!("{}_s.", metric.name())));
    match (of_metric, kind.key.as_str()) {
        (Some(metric), _) => metric_term(metric),
        (None, "usd_per_query") => "cost_per_query",
        (None, key) if key.starts_with("usd_per_million") => "cost_per_million",
        (None, key) if key.starts_with("goodput") => "goodput",
        (None, _) => "throughput",
    }
}

/// For each headline the reference, and below it the others.
fn cards(comparison: &Comparison) -> Vec<Card> {
    let rows = rows(comparison);
    let found = HEADLINES
        .into_iter()
        .filter_map(|key| rows.iter().find(|(kind, _)| kind.key == key));
    let card = |(kind, entries): &(FigureKind, &[Option<Entry>])| {
        let held = entries[comparison.reference]?;
        let line = |(index, entry): (usize, &Option<Entry>)| {
            let entry = (*entry).filter(|_| index != comparison.reference)?;
            let figure = value(kind.unit, entry.figure.value);
            let ratio = entry.ratio.map(|ratio| short_ratio(&ratio));
            let text = format!("{figure} {}", ratio.unwrap_or_default());
            Some((letter(index), text))
        };
        let unit = match kind.unit {
            Unit::PerSecond(unit) => format!(" {unit}"),
            Unit::Seconds | Unit::Share | Unit::Usd => String::new(),
        };
        let interval = value_interval(kind.unit, &held.figure);
        Some(Card {
            label: Label::defined(
                format!("{}: {}", letter(comparison.reference), short_name(kind)),
                figure_term(kind),
            ),
            figure: Figure {
                value: value(kind.unit, held.figure.value) + &unit,
                interval,
                reason: String::new(),
            },
            lines: entries
                .iter()
                .enumerate()
                .filter_map(line)
                .take(4)
                .collect(),
        })
    };
    found.filter_map(card).take(MOST_CARDS).collect()
}

fn short_ratio(ratio: &Ratio) -> String {
    let alone = Ratio {
        ci95: None,
        ..*ratio
    };
    let mark = match ratio.finding {
        Finding::Better | Finding::Worse => word(ratio.finding),
        Finding::NoDifferenceShown => "≈",
        Finding::NotTested => "",
    };
    format!("{} {mark}", ratio_text(&alone))
        .trim_end()
        .to_owned()
}

/// A thing to know, and what a subject tells of it.
type Told<'a> = (&'static str, &'a dyn Fn(&Subject) -> Option<String>);

/// One row for each thing to know, one column for each subject.
fn subjects_table(comparison: &Comparison) -> Block {
    let known = |text: Option<String>| text.map_or_else(|| Figure::missing(""), Figure::plain);
    let hash = |subject: &Subject| subject.workload.schedule_hash.clone();
    let rows: [Told<'_>; 9] = [
        ("Measured by", &|subject| {
            let version = subject.tool_version.clone().unwrap_or_default();
            Some(format!("{} {version}", subject.source).trim().to_owned())
        }),
        ("Basis", &|subject| {
            Some(match subject.basis {
                Basis::Measured => "measured".to_owned(),
                Basis::Simulated => "simulated".to_owned(),
            })
        }),
        ("Device", &|subject| {
            let device = subject.device.clone()?;
            let count = subject.devices.filter(|&count| count > 1);
            Some(count.map_or(device.clone(), |count| format!("{count} × {device}")))
        }),
        ("Model", &|subject| subject.model.name.clone()),
        ("Weights", &|subject| subject.model.weights.clone()),
        ("Tokenizer", &|subject| subject.model.tokenizer.clone()),
        ("Workload", &|subject| subject.workload.name.clone()),
        ("Schedule", &hash),
        ("In short", &|subject| Some(about(subject))),
    ];
    let heads = comparison.subjects.iter().enumerate();
    let heads = heads.map(|(index, subject)| {
        let role = if index == comparison.reference {
            ", reference"
        } else {
            ""
        };
        Label::plain(format!("{}{role}", letter(index))).with_note(subject.label.clone())
    });
    let row = |(label, pick): Told<'_>| {
        let cells = comparison
            .subjects
            .iter()
            .map(|subject| known(pick(subject)).into());
        (Label::plain(label), cells.collect())
    };
    Block::Table(Table {
        name: "What is compared".to_owned(),
        look: Look::Text,
        heads: std::iter::once(Label::default()).chain(heads).collect(),
        rows: rows.into_iter().map(row).collect(),
    })
}

fn figures_table(comparison: &Comparison) -> Block {
    let reference = letter(comparison.reference);
    let mut heads = vec![Label::plain("Figure")];
    for index in 0..comparison.subjects.len() {
        heads.push(Label::plain(letter(index)));
        if index != comparison.reference {
            let against = format!("{} ÷ {reference}", letter(index));
            heads.push(Label::defined(against, "ratio"));
        }
    }
    let row = |(kind, entries): (FigureKind, &[Option<Entry>])| {
        let mut cells: Vec<Cell> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let figure = entry.map_or_else(
                || Figure::missing(""),
                |entry| Figure {
                    value: value(kind.unit, entry.figure.value),
                    interval: value_interval(kind.unit, &entry.figure),
                    reason: String::new(),
                },
            );
            cells.push(figure.into());
            if index != comparison.reference {
                cells.push(ratio_cell(entry.and_then(|entry| entry.ratio)));
            }
        }
        (Label::defined(name(&kind), figure_term(&kind)), cells)
    };
    Block::Table(Table {
        name: "All figures".to_owned(),
        look: Look::Wide,
        heads,
        rows: rows(comparison).into_iter().map(row).collect(),
    })
}

fn ratio_cell(ratio: Option<Ratio>) -> Cell {
    let Some(ratio) = ratio else {
        return Figure::missing("").into();
    };
    Cell {
        figure: Figure {
            value: ratio_text(&ratio),
            interval: word(ratio.finding).to_owned(),
            reason: String::new(),
        },
        tone: tone(ratio.finding),
    }
}

/// Ratios of the headlines as ranges around 1, for each subject but the reference.
fn ratio_parts(comparison: &Comparison) -> Option<Part> {
    let rows = rows(comparison);
    let ends = |ratio: &Ratio| ratio.ci95.unwrap_or((ratio.value, ratio.value));
    let ratios = rows
        .iter()
        .flat_map(|(_, entries)| entries.iter().flatten());
    let ratios = ratios.filter_map(|entry| entry.ratio);
    let reach = ratios.flat_map(|ratio| [ends(&ratio).0, ends(&ratio).1]);
    // As far to the left as to the right, so that 1 stands in the middle.
    let reach = reach.map(|end| end.ln().abs()).fold(0.05, f64::max);
    let at = |ratio: f64| place(0.5 + 0.48 * ratio.ln() / reach);
    let others = (0..comparison.subjects.len()).filter(|&index| index != comparison.reference);
    let bars = others.filter_map(|index| {
        let row = |(kind, entries): &(FigureKind, &[Option<Entry>])| {
            let ratio = entries[index]?.ratio?;
            let (low, high) = ends(&ratio);
            Some(Bar {
                label: Label::defined(name(kind), figure_term(kind)),
                from: at(low),
                length: at(high) - at(low),
                dot: Some(at(ratio.value)),
                value: ratio_text(&ratio),
                note: word(ratio.finding).to_owned(),
                tone: tone(ratio.finding),
            })
        };
        let rows: Vec<Bar> = rows.iter().filter_map(row).collect();
        let (other, reference) = (letter(index), letter(comparison.reference));
        let label = &comparison.subjects[index].label;
        (!rows.is_empty()).then(|| Bars {
            title: format!("{other} ÷ {reference}: {label}"),
            caption: format!(
                "Ratio to {reference} on a logarithmic scale; the line is 1, no difference. A bar \
                 is the 95 % interval."
            ),
            line: Some(at(1.0)),
            rows,
        })
    });
    let blocks: Vec<Block> = bars.map(Block::Bars).collect();
    (!blocks.is_empty()).then(|| Part::new("ratios", "Ratios", blocks))
}

/// The curves of a metric, one for each subject.
fn percentiles(comparison: &Comparison, metric: Metric) -> Plot {
    let curves: Vec<(usize, Vec<(f64, f64)>)> = comparison
        .subjects
        .iter()
        .enumerate()
        .take(MOST_SERIES)
        .map(|(index, subject)| (index, curve(subject, metric)))
        .filter(|(_, curve)| curve.len() > 1)
        .collect();
    let ends = curves.iter().filter_map(|(_, curve)| curve.last());
    let reach = ends.map(|point| point.0).fold(0.9, f64::max);
    let count = (0.5 / (1.0 - reach).max(1e-7)).ceil() as u64;
    let ys = curves
        .iter()
        .flat_map(|(_, curve)| curve)
        .map(|point| point.1);
    let y = Axis::log(Kind::Latency, ys);
    let series = curves.into_iter().map(|(index, points)| Series {
        name: letter(index),
        slot: index as u8 + 1,
        shape: Shape::Line,
        points,
    });
    let (id, title) = match metric {
        Metric::Ttft => ("ttft", "TTFT"),
        Metric::Tpot => ("tpot", "TPOT"),
        Metric::Itl => ("itl", "ITL"),
        _ => ("e2e", "E2E"),
    };
    let more = if comparison.subjects.len() > MOST_SERIES {
        " The first eight subjects."
    } else {
        ""
    };
    Plot {
        id,
        title,
        caption: format!("Each nine is as wide as the one before.{more}"),
        x: Axis::tail(count),
        y,
        series: series.collect(),
        shades: Vec::new(),
        marks: Vec::new(),
        levels: Vec::new(),
    }
}

/// The whole curve, or the percentiles that are stated.
fn curve(subject: &Subject, metric: Metric) -> Vec<(f64, f64)> {
    if let Some(curve) = subject.curves.get(metric.name()) {
        return curve.clone();
    }
    let stated = [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p95", 0.95),
        ("p99", 0.99),
        ("p999", 0.999),
    ];
    let point = |(statistic, quantile): (&str, f64)| {
        let figure = subject.figures.get(&latency_key(metric, statistic))?;
        Some((quantile, figure.value))
    };
    stated.into_iter().filter_map(point).collect()
}

/// From which price on each loses to the reference.
fn price(comparison: &Comparison) -> Option<Part> {
    let told = comparison.break_even.iter();
    let told: Vec<String> = told
        .map(|found| break_even_text(found, comparison))
        .collect();
    (!told.is_empty()).then(|| Part::new("price", "Break-even price", vec![Block::List(told)]))
}
