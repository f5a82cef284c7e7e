//! `report.html`: the page of one run.
//!
//! Invariant: a function of the report. What stands on top can be read in ten seconds: verdict,
//! cost, goodput, latencies, throughput. What it does not do: layout; `page` does.

use crate::cost::Cost;
use crate::schema::{Metric, Report};
use crate::validity::Verdict;

use super::bars::{Bar, Bars, Waterfall, place};
use super::definitions::{metric_term, term};
use super::format::{duration, percent, significant, usd};
use super::page::{Banner, Block, Card, Cell, Label, Look, Page, Part, Table, Tone, plots, rows};
use super::plot::{latency_plots, length_plots};
use super::sections::{cost_figure, cost_source};
use super::timeline::{load_plot, time_plots};
use super::view::{Figure, LATENCY_HEADS, View, metric_figures, rate_figure};

pub(super) fn html(report: &Report) -> String {
    page(report).html()
}

fn page(report: &Report) -> Page {
    let view = View::new(report);
    let valid = report.validity.verdict == Verdict::Valid;
    let fine = "The load was the one described, the load generator kept time, and the system kept \
                up.";
    let panels = view
        .sections
        .iter()
        .filter(|section| !section.id.starts_with("cost"));
    Page {
        heading: [view.target, view.model, view.workload]
            .map(str::to_owned)
            .into(),
        subtitle: format!("{} · {}", view.device, view.subtitle),
        banner: Banner {
            tone: if valid { Tone::Good } else { Tone::Bad },
            word: view.verdict.to_owned(),
            text: if valid { fine } else { "" }.to_owned(),
            reasons: view.reasons.to_vec(),
        },
        warnings: view.warnings.to_vec(),
        cards: cards(report),
        parts: parts(report, &view),
        panels: panels
            .map(|section| Part::new(section.id, section.title, vec![rows(section)]))
            .collect(),
        tail: vec![command(&view)],
        source: "report.json",
    }
}

fn parts(report: &Report, view: &View<'_>) -> Vec<Part> {
    let part = |id, title, blocks: Vec<Option<Block>>| {
        let blocks: Vec<Block> = blocks.into_iter().flatten().collect();
        (!blocks.is_empty()).then(|| Part::new(id, title, blocks))
    };
    let note = "In brackets: 95 % intervals, by resampling blocks of time. A percentile is shown \
                only where there are enough requests to know it.";
    let table = |id: &str| view.sections.iter().find(|section| section.id == id);
    let cost = report.cost.as_ref();
    let source = cost.map(|cost| Block::Note(cost_source(cost)));
    let bars = |waterfall: Waterfall| Block::Bars(waterfall.bars());
    let found = [
        part(
            "latency",
            "Latency",
            vec![
                Some(latency_table(view)),
                Some(Block::Note(note.to_owned())),
                plots(latency_plots(report)),
            ],
        ),
        part("time", "Over time", vec![plots(time_plots(report))]),
        part(
            "cost",
            "Cost",
            vec![
                cost.and_then(query_waterfall).map(bars),
                cost.and_then(hour_waterfall).map(bars),
                cost.and_then(window_waterfall).map(bars),
                table("cost-figures").map(rows),
                source,
                table("cost-day").map(rows),
            ],
        ),
        part(
            "load",
            "Load and outcomes",
            vec![
                plots(load_plot(report)),
                plots(length_plots(report)),
                Some(Block::Bars(outcomes(report))),
            ],
        ),
    ];
    found.into_iter().flatten().collect()
}

fn latency_table(view: &View<'_>) -> Block {
    let mut heads = vec![Label::plain("Metric")];
    heads.extend(LATENCY_HEADS.map(|head| Label::defined(head, quantile_term(head))));
    heads.push(Label::plain("values"));
    let rows = view.latency.iter().map(|row| {
        let label = Label::defined(row.name, row.term).with_note(row.meaning);
        let mut cells: Vec<Cell> = row.figures.iter().cloned().map(Cell::from).collect();
        cells.push(Figure::plain(row.count.clone()).into());
        (label, cells)
    });
    Block::Table(Table {
        name: "Latency".to_owned(),
        look: Look::Wide,
        heads,
        rows: rows.collect(),
    })
}

fn quantile_term(head: &str) -> &'static str {
    if head.starts_with('p') {
        "quantile"
    } else {
        ""
    }
}

fn command(view: &View<'_>) -> Part {
    let scenario = "Scenario that repeats the run".to_owned();
    let blocks = vec![
        Block::Code(String::new(), view.command.clone()),
        Block::Code(scenario, view.scenario.clone()),
    ];
    Part::new("command", "Command", blocks)
}

fn cards(report: &Report) -> Vec<Card> {
    let mut cards = cost_cards(report.cost.as_ref());
    cards.push(goodput_card(report));
    cards.push(capacity_card(report));
    cards.push(latency_card(report, Metric::Ttft));
    cards.push(latency_card(report, Metric::Tpot));
    let requests = significant(report.summary.request_rate.per_s);
    let mut lines = vec![("requests".to_owned(), format!("{requests}/s"))];
    if let Some(energy) = &report.energy {
        let [(_, per_query), _] = super::energy::headline(energy);
        lines.push(("energy/query".to_owned(), per_query.value));
    }
    cards.push(Card {
        label: Label::defined("Output", term("Output tokens")),
        figure: rate_figure(report.summary.output_tokens_per_s, "tok/s"),
        lines,
    });
    cards
}

/// The median, with its neighbours below.
fn latency_card(report: &Report, metric: Metric) -> Card {
    let figures = metric_figures(report, metric);
    let at = |head: &str| {
        let place = LATENCY_HEADS.iter().position(|known| *known == head);
        place.map_or_else(|| Figure::missing(""), |place| figures[place].clone())
    };
    let mut lines: Vec<(String, String)> = ["p90", "p99"]
        .map(|head| (head.to_owned(), at(head).value))
        .into();
    let limit = report.workload.slo.and_then(|slo| match metric {
        Metric::Ttft => slo.ttft_s,
        Metric::Tpot => slo.tpot_s,
        _ => None,
    });
    lines.extend(limit.map(|limit| ("SLO".to_owned(), format!("≤ {}", duration(limit)))));
    let name = super::view::metric_words(metric).0;
    Card {
        label: Label::defined(format!("{name} p50"), metric_term(metric)),
        figure: at("p50"),
        lines,
    }
}

fn goodput_card(report: &Report) -> Card {
    let summary = &report.summary;
    let label = Label::defined("Goodput", term("Goodput"));
    let (Some(share), Some(rate)) = (summary.goodput_share, summary.goodput_rate) else {
        return Card {
            label,
            figure: Figure::missing("no SLO was given"),
            lines: Vec::new(),
        };
    };
    let interval = rate_figure(rate, "req/s").interval;
    let mut lines = vec![(
        "within SLO".to_owned(),
        format!("{}/s", significant(rate.per_s)),
    )];
    if !interval.is_empty() {
        lines.push((String::new(), interval));
    }
    Card {
        label,
        figure: Figure::plain(percent(share)),
        lines,
    }
}

/// The share of `weighbridge capacity`, unless it is told another.
const CAPACITY_SHARE: f64 = 0.99;

/// On which side of this load the capacity is, where the run can tell.
fn capacity_card(report: &Report) -> Card {
    let workload = &report.workload;
    let load = match (workload.target_rate, workload.users) {
        _ if workload.whole_day => Err("the load of a day rises and falls"),
        (Some(rate), _) => Ok(format!("{} req/s", significant(rate))),
        (None, Some(users)) => Ok(format!("{users} users")),
        (None, None) => Err("a trace has its own rate"),
    };
    let figure = match (side_of_capacity(report), load) {
        (Err(why), _) | (_, Err(why)) => Figure::missing(why),
        (Ok(true), Ok(load)) => Figure::plain(format!("≥ {load}")),
        (Ok(false), Ok(load)) => Figure::plain(format!("< {load}")),
    };
    let share = || {
        (
            "at".to_owned(),
            format!("{} within SLO", percent(CAPACITY_SHARE)),
        )
    };
    Card {
        label: Label::defined("Capacity", "capacity"),
        lines: figure.reason.is_empty().then(share).into_iter().collect(),
        figure,
    }
}

/// True when the capacity is at least this load.
fn side_of_capacity(report: &Report) -> Result<bool, &'static str> {
    /// Late requests come together, so a share varies more than that of independent ones.
    const TOGETHER: f64 = 2.0;
    let Some(share) = report.summary.goodput_share else {
        return Err("no SLO was given");
    };
    if !report.validity.reasons.is_empty() {
        return Err("an INVALID run says nothing");
    }
    let judged = report.summary.requests.judged() as f64;
    // Half a request away from none and from all.
    let smoothed = (share * judged + 0.5) / (judged + 1.0);
    let error = TOGETHER * 1.96 * (smoothed * (1.0 - smoothed) / judged).sqrt();
    if share - error >= CAPACITY_SHARE {
        Ok(true)
    } else if share + error < CAPACITY_SHARE {
        Ok(false)
    } else {
        Err("too close to call from one run")
    }
}

fn cost_cards(cost: Option<&Cost>) -> Vec<Card> {
    let query = Label::defined("Cost per query", "cost_per_query");
    let Some(cost) = cost else {
        return vec![Card {
            label: query,
            figure: Figure::missing("no price is known for this device"),
            lines: Vec::new(),
        }];
    };
    let figures = &cost.at_this_load;
    let per_unit = cost.usd_per_hour.mid / f64::from(cost.units.max(1));
    let input = figures.usd_per_million_input_tokens;
    vec![
        Card {
            label: query,
            figure: cost_figure(cost, "usd_per_query", figures.usd_per_query),
            lines: vec![(
                "hardware".to_owned(),
                format!("{} × {}/h", cost.units, usd(per_unit)),
            )],
        },
        Card {
            label: Label::defined("1M output tokens", "cost_per_million"),
            figure: cost_figure(
                cost,
                "usd_per_million_output_tokens",
                figures.usd_per_million_output_tokens,
            ),
            lines: vec![(
                "1M input".to_owned(),
                input.map_or_else(|| "–".to_owned(), |input| usd(input.mid)),
            )],
        },
    ]
}

/// How the price of an hour is made up, where it has parts.
fn hour_waterfall(cost: &Cost) -> Option<Waterfall> {
    let parts = cost.hour.iter();
    let steps: Vec<(String, f64)> = parts
        .map(|part| (part.name.clone(), part.usd.mid))
        .collect();
    (steps.len() > 1).then(|| Waterfall {
        title: "What an hour costs".to_owned(),
        caption: format!("{} × {}.", cost.units, cost.what),
        steps,
        total: "An hour".to_owned(),
    })
}

/// What a served query costs, from the price of the hardware to idle hours.
fn query_waterfall(cost: &Cost) -> Option<Waterfall> {
    let steps = cost.waterfall();
    (steps.len() > 1).then(|| Waterfall {
        title: "What a query costs".to_owned(),
        caption: "The price of the hardware over all requests that were offered, what failed and \
                  late ones add, and what it costs to have hardware for the peak of a day."
            .to_owned(),
        steps,
        total: match cost.over_the_day {
            Some(_) => "A served query, over the day".to_owned(),
            None => "A served query".to_owned(),
        },
    })
}

/// How the price of the window is shared.
fn window_waterfall(cost: &Cost) -> Option<Waterfall> {
    let steps = [
        ("Input tokens", cost.input_usd?),
        ("Output tokens", cost.output_usd?),
    ];
    Some(Waterfall {
        title: "What the measured window cost".to_owned(),
        caption: "The price of the hardware for the window, by what it was spent on.".to_owned(),
        steps: steps.map(|(name, usd)| (name.to_owned(), usd)).into(),
        total: "The measured window".to_owned(),
    })
}

/// How the requests of the window ended, as parts of one whole.
fn outcomes(report: &Report) -> Bars {
    let requests = report.summary.requests;
    let total = requests.total.max(1) as f64;
    let mut sum = 0;
    let rows = [
        ("Finished", requests.ok, Tone::Good),
        ("Failed", requests.failed, Tone::Bad),
        ("Cancelled, as planned", requests.cancelled, Tone::Faint),
        ("Unfinished", requests.unfinished, Tone::Plain),
    ];
    let row = |(label, count, tone): (&str, u64, Tone)| {
        let from = place(sum as f64 / total);
        sum += count;
        Bar {
            label: Label::plain(label),
            from,
            length: place(sum as f64 / total) - from,
            dot: None,
            value: crate::stats::thousands(count),
            note: percent(count as f64 / total),
            tone,
        }
    };
    Bars {
        title: "How requests ended".to_owned(),
        caption: format!(
            "{} requests intended in the window.",
            crate::stats::thousands(requests.total)
        ),
        line: None,
        rows: rows.into_iter().map(row).collect(),
    }
}
