//! The page of a load curve: what is paid, served and waited for at each load.
//!
//! Invariant: a point of a plot is a load, with the median of its runs; the table has every run.

use crate::capacity::Decision;
use crate::cost::Estimate;
use crate::load_curve::{LoadCurve, LoadUnit, Point};
use crate::render::axis::{Axis, Kind};
use crate::render::format::{interval, percent, significant};
use crate::render::page::{Banner, Block, Card, Cell, Label, Look, Page, Part, Table, Tone, plots};
use crate::render::plot::{Plot, Series, Shape};
use crate::render::view::{Figure, usd_figure};

use super::{HEADS, cells, findings, rising};

pub(in crate::render) fn html(curve: &LoadCurve) -> String {
    page(curve).html()
}

fn page(curve: &LoadCurve) -> Page {
    let levels = levels(curve);
    let invalid = rising(curve)
        .into_iter()
        .filter(|point| !point.invalid.is_empty());
    let invalid: Vec<String> = invalid
        .map(|point| format!("{}: {}", point.folder, point.invalid.join(" ")))
        .collect();
    let part = |id, title: &str, block: Option<Block>| Some(Part::new(id, title, vec![block?]));
    let notes = (!invalid.is_empty()).then_some(Block::List(invalid));
    let parts = [
        part("runs", "Runs", Some(table(curve))),
        part("load", "By load", plots(load_plots(curve, &levels))),
        part(
            "trade",
            "What a faster answer costs",
            plots(trade_plots(curve, &levels)),
        ),
        part("invalid", "Why runs are INVALID", notes),
        part("command", "Command", Some(command(curve))),
    ];
    Page {
        heading: [&curve.target, &curve.model, &curve.workload]
            .map(Clone::clone)
            .into(),
        subtitle: curve.device.clone(),
        banner: banner(curve),
        warnings: curve.warnings.clone(),
        cards: cards(curve),
        parts: parts.into_iter().flatten().collect(),
        panels: Vec::new(),
        tail: Vec::new(),
        source: "curve.json",
    }
}

fn banner(curve: &LoadCurve) -> Banner {
    let found = curve.search.as_ref();
    let (tone, word) = match found.map(|found| found.capacity.load) {
        Some(Some(_)) => (Tone::Good, "CAPACITY FOUND"),
        Some(None) => (Tone::Bad, "NO CAPACITY FOUND"),
        None if curve.run.incomplete => (Tone::Bad, "INCOMPLETE"),
        None => (Tone::Plain, "SWEEP"),
    };
    Banner {
        tone,
        word: word.to_owned(),
        text: findings(curve).join(" "),
        reasons: Vec::new(),
    }
}

fn cards(curve: &LoadCurve) -> Vec<Card> {
    let Some(found) = &curve.search else {
        return Vec::new();
    };
    let money = |label: &str, term, value: Option<Estimate>| {
        let value = value?;
        Some(Card {
            label: Label::defined(label, term),
            figure: usd_figure(value),
            lines: Vec::new(),
        })
    };
    let capacity = found.capacity.load.map(|load| Card {
        label: Label::defined("Capacity", "capacity"),
        figure: Figure {
            value: format!("{} {}", significant(load), curve.unit.name()),
            interval: found.capacity.ci95.map(interval).unwrap_or_default(),
            reason: String::new(),
        },
        lines: vec![("within the SLO".to_owned(), percent(found.goal_share))],
    });
    let per_query = money(
        "Cost per query there",
        "cost_per_query",
        found.usd_per_query,
    );
    let per_million = money(
        "Cost per 1M tokens there",
        "cost_per_million",
        found.usd_per_million_total_tokens,
    );
    [capacity, per_query, per_million]
        .into_iter()
        .flatten()
        .collect()
}

fn table(curve: &LoadCurve) -> Block {
    let heads = HEADS
        .into_iter()
        .enumerate()
        .map(|(column, head)| match column {
            0 => Label::plain(curve.unit.name()),
            _ => Label::plain(head),
        });
    let row = |point: &Point| {
        let mut texts = cells(point).into_iter();
        let load = texts.next().unwrap_or_default();
        let tone = match (point.decision, point.invalid.is_empty()) {
            (Some(Decision::Pass), true) => Tone::Good,
            (Some(Decision::Fail), _) | (_, false) => Tone::Bad,
            _ => Tone::Plain,
        };
        let cell = |(column, text): (usize, String)| Cell {
            figure: Figure::plain(text),
            tone: if column == 1 { tone } else { Tone::Plain },
        };
        let label = Label::plain(load).with_note(point.folder.clone());
        (label, texts.enumerate().map(cell).collect())
    };
    Block::Table(Table {
        name: "Every run".to_owned(),
        look: Look::Wide,
        heads: heads.collect(),
        rows: rising(curve).into_iter().map(row).collect(),
    })
}

/// Runs by load, rising.
fn levels(curve: &LoadCurve) -> Vec<Vec<&Point>> {
    let mut levels: Vec<Vec<&Point>> = Vec::new();
    for point in rising(curve) {
        match levels.last_mut() {
            Some(level) if level[0].load.to_bits() == point.load.to_bits() => level.push(point),
            _ => levels.push(vec![point]),
        }
    }
    levels
}

type Pick = fn(&Point) -> Option<f64>;

/// The median over the runs of a load.
fn median(level: &[&Point], pick: Pick) -> Option<f64> {
    let mut values: Vec<f64> = level.iter().filter_map(|point| pick(point)).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn line(levels: &[Vec<&Point>], name: &str, slot: u8, x: Pick, y: Pick) -> Series {
    let point = |level: &Vec<&Point>| Some((median(level, x)?, median(level, y)?));
    let mut points: Vec<(f64, f64)> = levels.iter().filter_map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series {
        name: name.to_owned(),
        slot,
        shape: Shape::Line,
        points,
    }
}

struct Draft {
    id: &'static str,
    title: &'static str,
    caption: String,
    kind: Kind,
    x: Pick,
    lines: Vec<(&'static str, u8, Pick)>,
}

fn drawn(levels: &[Vec<&Point>], draft: Draft) -> Plot {
    let Draft {
        id,
        title,
        caption,
        kind,
        x,
        lines,
    } = draft;
    let series: Vec<Series> = lines
        .into_iter()
        .map(|(name, slot, y)| line(levels, name, slot, x, y))
        .filter(|series| series.points.len() > 1)
        .collect();
    let all = || series.iter().flat_map(|series| &series.points);
    let ys = all().map(|point| point.1);
    let y = match kind {
        Kind::Latency => Axis::log(kind, ys),
        _ => Axis::from_zero(kind, ys),
    };
    Plot {
        id,
        title,
        caption,
        x: Axis::log(Kind::Count, all().map(|point| point.0)),
        y,
        series,
        shades: Vec::new(),
        marks: Vec::new(),
        levels: Vec::new(),
    }
}

fn load_plots(curve: &LoadCurve, levels: &[Vec<&Point>]) -> Vec<Plot> {
    let by = match curve.unit {
        LoadUnit::RequestsPerSecond => "requests per second",
        LoadUnit::Users => "users",
    };
    let plot = |id, title, what: &str, kind, lines: &[(&'static str, u8, Pick)]| {
        let draft = Draft {
            id,
            title,
            caption: format!("{what}, by {by}."),
            kind,
            x: |point| Some(point.load),
            lines: lines.to_vec(),
        };
        drawn(levels, draft)
    };
    let what = "Share of requests that met every limit";
    let share: [(&str, u8, Pick); 1] = [("Within the SLO", 2, |point| point.share)];
    let mut within = plot("within", "Within the SLO", what, Kind::Within, &share);
    if let Some(found) = &curve.search {
        within.levels.push((found.goal_share, "goal"));
        let capacity = found.capacity.load;
        within.marks.extend(capacity.map(|load| (load, "capacity")));
    }
    let ttfts: [(&str, u8, Pick); 3] = [
        ("p99", 4, |point| point.ttft_p99_s),
        ("p95", 3, |point| point.ttft_p95_s),
        ("p50", 1, |point| point.ttft_p50_s),
    ];
    let what = "Percentiles of the time to first token";
    let mut ttft = plot("ttft-load", "TTFT", what, Kind::Latency, &ttfts);
    let tpots: [(&str, u8, Pick); 3] = [
        ("p99", 4, |point| point.tpot_p99_s),
        ("p95", 3, |point| point.tpot_p95_s),
        ("p50", 1, |point| point.tpot_p50_s),
    ];
    let what = "Percentiles of the time per output token";
    let mut tpot = plot("tpot-load", "TPOT", what, Kind::Latency, &tpots);
    if let Some(slo) = curve.slo {
        ttft.levels.extend(slo.ttft_s.map(|limit| (limit, "SLO")));
        tpot.levels.extend(slo.tpot_s.map(|limit| (limit, "SLO")));
    }
    let tokens: [(&str, u8, Pick); 1] = [("Output tokens/s", 1, |point| {
        Some(point.output_tokens_per_s.per_s)
    })];
    let all = "Of all users together";
    let title = "Output tokens per second";
    let tokens = plot("tokens-load", title, all, Kind::Count, &tokens);
    let queries: [(&str, u8, Pick); 1] = [("Per 1,000 queries", 5, |point| {
        Some(1e3 * point.usd_per_query?.mid)
    })];
    let what = "In US dollars; none where nothing was served in time";
    let title = "Cost per 1,000 served queries";
    let queries = plot("query-load", title, what, Kind::Usd, &queries);
    vec![within, ttft, tpot, tokens, queries]
}

/// Tokens per second of a user against what a device gives and what a million tokens cost.
fn trade_plots(_: &LoadCurve, levels: &[Vec<&Point>]) -> Vec<Plot> {
    let x: Pick = |point| point.tokens_per_s_per_user;
    let draft = |id, title, caption: &str, kind, line| Draft {
        id,
        title,
        caption: caption.to_owned(),
        kind,
        x,
        lines: vec![line],
    };
    let device: (&'static str, u8, Pick) = ("Tokens/s per device", 1, |point| {
        Some(point.output_tokens_per_s.per_s / f64::from(point.units.unwrap_or(1)))
    });
    let cost: (&'static str, u8, Pick) = ("Cost per 1M output tokens", 5, |point| {
        Some(point.usd_per_million_output_tokens?.mid)
    });
    let total: (&'static str, u8, Pick) = ("Cost per 1M tokens", 5, |point| {
        Some(point.usd_per_million_total_tokens?.mid)
    });
    [
        draft(
            "pareto",
            "Tokens per second: device against user",
            "Each point is a load: to the right answers are faster, further up the device gives more.",
            Kind::Count,
            device,
        ),
        draft(
            "pareto-output",
            "Cost of output tokens against speed",
            "Dollars for a million output tokens, by tokens per second that a user sees.",
            Kind::Usd,
            cost,
        ),
        draft(
            "pareto-total",
            "Cost of all tokens against speed",
            "Dollars for a million tokens, input and output alike, by tokens per second of a user.",
            Kind::Usd,
            total,
        ),
    ]
    .map(|draft| drawn(levels, draft))
    .into()
}

fn command(curve: &LoadCurve) -> Block {
    let run = &curve.run;
    let commit = run.git_commit.as_deref().unwrap_or("unknown");
    let text = format!(
        "{}\n\nweighbridge {}, commit {commit}\n{} to {}\nseed {} and those after it\n{}, {} processors",
        run.command.join(" "),
        run.tool_version,
        run.start,
        run.end,
        run.seed,
        run.host.cpu,
        run.host.logical_cpus
    );
    Block::Code(String::new(), text)
}
