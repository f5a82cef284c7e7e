//! `report.html`: one self-contained page.
//!
//! Invariant: the page fetches nothing, and text from outside enters it only through the template
//! engine's escaping. The SVG of plots and the JSON beside it hold numbers and our own words only.

use minijinja::Environment;
use serde::Serialize;

use crate::schema::{Metric, Report, SecondPoint};

use super::axis::Axis;
use super::format::{duration, percent, significant, usd};
use super::plot::{Plot, latency_plots};
use super::sections::cost_figure;
use super::svg::{FRAME, svg};
use super::timeline::time_plots;
use super::view::{Figure, View, metric_figures, rate_figure};

const TEMPLATE: &str = include_str!("../../templates/report.html.jinja");
pub(super) const STYLE: &str = include_str!("../../templates/report.css");
pub(super) const SCRIPT: &str = include_str!("../../templates/report.js");
/// Rows of the table of seconds; longer runs are read from `report.json`.
const MOST_SECONDS: usize = 600;

#[derive(Serialize)]
struct Page<'a> {
    view: View<'a>,
    cards: Vec<Card>,
    groups: [Group; 2],
    seconds: Vec<[String; 10]>,
    seconds_left_out: usize,
    style: &'static str,
    script: &'static str,
}

#[derive(Serialize)]
struct Card {
    label: &'static str,
    figure: Figure,
    more: String,
}

#[derive(Serialize)]
struct Group {
    title: &'static str,
    plots: Vec<Drawn>,
}

/// A plot, drawn, with what the page says about it.
#[derive(Serialize)]
pub(super) struct Drawn {
    id: &'static str,
    title: &'static str,
    caption: String,
    legend: Vec<(u8, &'static str)>,
    svg: String,
    data: Data,
}

/// What the script needs for read-outs and zoom.
#[derive(Serialize)]
struct Data {
    frame: [i32; 6],
    x: Axis,
    y: Axis,
    series: Vec<(u8, &'static str, Points)>,
}

/// `null` is a gap.
type Points = Vec<(f64, Option<f64>)>;

pub(super) fn html(report: &Report) -> String {
    let group = |title, plots: Vec<Plot>| Group {
        title,
        plots: plots
            .into_iter()
            .filter(|plot| !plot.series.is_empty())
            .map(drawn)
            .collect(),
    };
    let page = Page {
        view: View::new(report),
        cards: cards(report),
        groups: [
            group("Latency distributions", latency_plots(report)),
            group("Over time", time_plots(report)),
        ],
        seconds: report
            .series
            .iter()
            .take(MOST_SECONDS)
            .map(second)
            .collect(),
        seconds_left_out: report.series.len().saturating_sub(MOST_SECONDS),
        style: STYLE,
        script: SCRIPT,
    };
    filled("report.html", TEMPLATE, page)
}

/// A template with the fields of its page.
pub(super) fn filled(name: &str, template: &str, page: impl Serialize) -> String {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment
        .render_named_str(name, template, page)
        .expect("the template uses only fields of the page, and a test renders it")
}

pub(super) fn drawn(plot: Plot) -> Drawn {
    let round = |value: f64| format!("{value:.6e}").parse().unwrap_or(value);
    let point = |&(x, y): &(f64, f64)| (round(x), (!y.is_nan()).then(|| round(y)));
    let series = plot
        .series
        .iter()
        .map(|series| {
            (
                series.slot,
                series.name,
                series.points.iter().map(point).collect(),
            )
        })
        .collect();
    Drawn {
        id: plot.id,
        title: plot.title,
        legend: plot
            .series
            .iter()
            .map(|series| (series.slot, series.name))
            .collect(),
        svg: svg(&plot),
        data: Data {
            frame: FRAME,
            x: plot.x,
            y: plot.y,
            series,
        },
        caption: plot.caption,
    }
}

fn cards(report: &Report) -> Vec<Card> {
    let summary = &report.summary;
    let latency = |label, metric: Metric, at: usize| Card {
        label,
        figure: metric_figures(report, metric).swap_remove(at),
        more: format!(
            "max {}",
            summary
                .metric(metric)
                .max
                .map_or_else(|| "–".to_owned(), duration)
        ),
    };
    let mut cards = vec![
        latency("TTFT p50", Metric::Ttft, 1),
        latency("TTFT p99", Metric::Ttft, 4),
        latency("TPOT p50", Metric::Tpot, 1),
        Card {
            label: "Output",
            figure: rate_figure(summary.output_tokens_per_s, "tok/s"),
            more: format!("{} req/s", significant(summary.request_rate.per_s)),
        },
    ];
    if let Some(share) = summary.goodput_share {
        let mut figure = rate_figure(summary.request_rate, "");
        figure.value = percent(share);
        figure.interval = String::new();
        let rate = summary.goodput_rate.map_or(0.0, |rate| rate.per_s);
        let more = format!("{} req/s within the SLO", significant(rate));
        cards.push(Card {
            label: "Goodput",
            figure,
            more,
        });
    }
    if let Some(cost) = &report.cost {
        let figures = &cost.at_this_load;
        cards.push(Card {
            label: "Cost per query",
            figure: cost_figure(cost, "usd_per_query", figures.usd_per_query),
            more: format!(
                "{} × {} at {}/h",
                cost.units,
                cost.device,
                usd(cost.usd_per_hour.mid / f64::from(cost.units.max(1)))
            ),
        });
        let key = "usd_per_million_output_tokens";
        let input = figures
            .usd_per_million_input_tokens
            .map_or_else(|| "–".to_owned(), |input| usd(input.mid));
        cards.push(Card {
            label: "Cost per 1M output",
            figure: cost_figure(cost, key, figures.usd_per_million_output_tokens),
            more: format!("input {input}"),
        });
    }
    cards
}

fn second(point: &SecondPoint) -> [String; 10] {
    let time = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), duration);
    [
        format!("{}{}", point.t_s, if point.in_window { "" } else { " ·" }),
        point.intended.to_string(),
        point.completed.to_string(),
        point.failed.to_string(),
        point.in_flight.to_string(),
        point.output_tokens.to_string(),
        time(point.ttft_p50_s),
        time(point.ttft_max_s),
        time(point.itl_p50_s),
        time(point.itl_p99_s),
    ]
}
