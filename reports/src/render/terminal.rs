//! The summary for a terminal: verdict first, one screen, at most 100 columns.
//!
//! Invariant: colour only where the caller asks for it; without it the text is plain.
//! What it does not do: look at the terminal, or name the files that the caller wrote.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::histogram::LatencyHistogram;
use crate::schema::{Metric, Report};
use crate::validity::Verdict;

use super::Style;
use super::format::{duration, percent};
use super::plot::density;
use super::sections::cost_figure;
use super::view::{DOUBTFUL, Figure, metric_figures, metric_words, rate_figure, verdict_text};
use crate::cost::SplitMethod;

const WIDTH: usize = 100;
const METRICS: [Metric; 4] = [Metric::Ttft, Metric::Itl, Metric::Tpot, Metric::E2e];
/// Columns of the table: positions in `LATENCY_HEADS` and heads.
const COLUMNS: [(usize, &str); 5] = [(1, "p50"), (2, "p90"), (3, "p95"), (4, "p99"), (6, "max")];

/// Colours, or nothing.
#[derive(Clone, Copy)]
pub(super) struct Paint(pub(super) Style);

impl Paint {
    pub(super) fn with(self, code: &str, text: &str) -> String {
        match self.0 {
            Style::Ansi if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            Style::Plain | Style::Ansi => text.to_owned(),
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
}

pub(super) fn terminal(report: &Report, style: Style) -> String {
    let paint = Paint(style);
    let mut lines = verdict(report, paint);
    lines.extend(latency(report, paint));
    lines.push(String::new());
    lines.extend(sketches(report, paint));
    lines.push(String::new());
    lines.extend(rates(report, paint));
    lines.extend(cost(report, paint));
    lines.extend(energy(report, paint));
    lines.extend(own_error(report, paint));
    for warning in &report.warnings {
        lines.extend(wrapped(warning, "  ! "));
    }
    lines.join("\n") + "\n"
}

fn verdict(report: &Report, paint: Paint) -> Vec<String> {
    let word = verdict_text(report.validity.verdict);
    let code = match report.validity.verdict {
        Verdict::Valid => "1;32",
        Verdict::Invalid => "1;31",
    };
    let about = format!(
        "  {} · {} · {} · {} window",
        one_line(&report.target.name),
        one_line(&report.model.name),
        one_line(&report.workload.name),
        duration(report.summary.window_s)
    );
    let about: String = about.chars().take(WIDTH - word.len()).collect();
    let mut lines = vec![format!("{}{about}", paint.with(code, word))];
    for reason in &report.validity.reasons {
        lines.extend(wrapped(reason, "  - "));
    }
    lines.push(String::new());
    lines
}

/// Control characters would let a name of a model write on the terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Breaks text at spaces to fit the width; later lines are indented.
pub(super) fn wrapped(text: &str, prefix: &str) -> Vec<String> {
    let mut lines = vec![prefix.to_owned()];
    let indent = " ".repeat(prefix.chars().count());
    for word in one_line(text).split_whitespace() {
        let last = lines.len() - 1;
        let used = lines[last].chars().count();
        let space = if used > indent.len() { " " } else { "" };
        if used + space.len() + word.chars().count() > WIDTH && used > indent.len() {
            lines.push(format!("{indent}{word}"));
        } else {
            lines[last].push_str(space);
            lines[last].push_str(word);
        }
    }
    lines
}

fn latency(report: &Report, paint: Paint) -> Vec<String> {
    let heads = COLUMNS.map(|(_, head)| format!("{head:>18}")).concat();
    let mut lines = vec![paint.dim(&format!("{:8}{heads}", ""))];
    let mut nulls: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for metric in METRICS {
        let (name, _) = metric_words(metric);
        let figures = metric_figures(report, metric);
        let cell = |pick: fn(&Figure) -> &String| {
            let cells = COLUMNS.map(|(at, _)| format!("{:>18}", pick(&figures[at])));
            cells.concat()
        };
        let label = format!("{name:<8}");
        lines.push(format!(
            "{}{}",
            paint.bold(&label),
            cell(|figure| &figure.value)
        ));
        if COLUMNS
            .iter()
            .any(|&(at, _)| !figures[at].interval.is_empty())
        {
            let intervals = cell(|figure| &figure.interval);
            lines.push(paint.dim(&format!("{:8}{intervals}", "")));
        }
        for (figure, reason) in missing(name, &figures) {
            nulls.entry(reason).or_default().push(figure);
        }
    }
    for (reason, figures) in nulls {
        let text = format!("{}: {reason}", figures.join(", "));
        lines.extend(wrapped(&text, "  – ").iter().map(|line| paint.dim(line)));
    }
    lines
}

/// `(figure, reason)` of what is missing; the name alone when all of a metric is, for one reason.
fn missing(name: &str, figures: &[Figure]) -> Vec<(String, String)> {
    let reasons = COLUMNS.map(|(at, head)| (head, figures[at].reason.as_str()));
    let first = reasons[0].1;
    if !first.is_empty() && reasons.iter().all(|&(_, reason)| reason == first) {
        return vec![(name.to_owned(), first.to_owned())];
    }
    let missing = reasons.into_iter().filter(|(_, reason)| !reason.is_empty());
    missing
        .map(|(head, reason)| (format!("{name} {head}"), reason.to_owned()))
        .collect()
}

/// Density over a logarithmic axis, for TTFT and ITL.
fn sketches(report: &Report, paint: Paint) -> Vec<String> {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut lines = Vec::new();
    for metric in [Metric::Ttft, Metric::Itl] {
        let (name, _) = metric_words(metric);
        let encoded = report.histograms.get(&metric);
        let Some(histogram) = encoded.and_then(|held| LatencyHistogram::decode(held).ok()) else {
            continue;
        };
        let bins = density(&histogram, 56);
        let peak = bins.iter().map(|bin| bin.share).fold(0.0, f64::max);
        let (Some(first), Some(last)) = (bins.first(), bins.last()) else {
            continue;
        };
        let bar = |share: f64| {
            let height = (share / peak * 8.0).ceil() as usize;
            BARS[height.min(8)]
        };
        let drawn: String = bins.iter().map(|bin| bar(bin.share)).collect();
        lines.push(format!(
            "{}{:>9} {} {}",
            paint.bold(&format!("{name:<8}")),
            duration(first.low_s),
            paint.with("36", &drawn),
            duration(last.high_s)
        ));
    }
    lines
}

fn line(label: &str, figure: &Figure, after: &str, paint: Paint) -> String {
    let beside = if figure.value == "–" {
        &figure.reason
    } else {
        &figure.interval
    };
    let label = paint.bold(&format!("{label:<20}"));
    let text = format!("{label}{:>16} {} {after}", figure.value, paint.dim(beside));
    text.trim_end().to_owned()
}

fn rates(report: &Report, paint: Paint) -> Vec<String> {
    let summary = &report.summary;
    let requests = summary.requests;
    let mut counts = format!(
        "{} ok, {} failed, {} cancelled, {} unfinished of {}",
        requests.ok, requests.failed, requests.cancelled, requests.unfinished, requests.total
    );
    for (cause, count) in &summary.failures {
        let _ = write!(counts, "; {count} × {cause}");
    }
    let tokens = rate_figure(summary.output_tokens_per_s, "tok/s");
    let mut lines = vec![
        line("Output tokens", &tokens, "", paint),
        line(
            "Requests",
            &rate_figure(summary.request_rate, "req/s"),
            "",
            paint,
        ),
    ];
    if let Some(rate) = summary.goodput_rate {
        let share = summary
            .goodput_share
            .map(|share| format!("{} of requests", percent(share)));
        let figure = rate_figure(rate, "req/s");
        lines.push(line("Goodput", &figure, &share.unwrap_or_default(), paint));
    }
    lines.extend(wrapped(&counts, "  "));
    lines
}

/// Energy, where a probe gave any; why it gave none is in the other renderings.
fn energy(report: &Report, paint: Paint) -> Vec<String> {
    let found = report.energy.as_ref();
    let Some(energy) = found.filter(|energy| energy.joules.is_some()) else {
        return Vec::new();
    };
    let figures = super::energy::headline(energy).into_iter();
    let mut lines: Vec<String> = figures
        .map(|(label, figure)| line(label, &figure, "", paint))
        .collect();
    let source = wrapped(&super::energy::source(energy), "  ");
    lines.extend(source.iter().map(|text| paint.dim(text)));
    lines
}

/// The client's own error, where it was measured.
fn own_error(report: &Report, paint: Paint) -> Vec<String> {
    let Some(preflight) = &report.client_error.preflight else {
        return Vec::new();
    };
    let error = preflight.receive_error_s;
    let mut figure = Figure::plain(duration(error.p50));
    figure.interval = format!(
        "at p50, {} at p99 ({})",
        duration(error.p99),
        preflight.load
    );
    let mut lines = vec![line("Client's own error", &figure, "", paint)];
    if !preflight.marks.is_empty() {
        let note = format!(
            "{} more than 5 % of it is the client's own error",
            DOUBTFUL.trim()
        );
        lines.extend(wrapped(&note, "  ").iter().map(|text| paint.dim(text)));
    }
    lines
}

fn cost(report: &Report, paint: Paint) -> Vec<String> {
    let Some(cost) = &report.cost else {
        return Vec::new();
    };
    let figures = &cost.at_this_load;
    let per_query = cost_figure(cost, "usd_per_query", figures.usd_per_query);
    let input = cost_figure(
        cost,
        "usd_per_million_input_tokens",
        figures.usd_per_million_input_tokens,
    );
    let output = cost_figure(
        cost,
        "usd_per_million_output_tokens",
        figures.usd_per_million_output_tokens,
    );
    let split = match cost.split.as_ref().map(|split| split.method) {
        Some(SplitMethod::DeviceTime) => "input to output as measured",
        Some(SplitMethod::Solved) => "input to output as solved from several runs",
        Some(SplitMethod::Assumed) => "input to output as assumed",
        None => "nothing to split",
    };
    let source = format!(
        "{} × {} ({}; sheet {}, confidence {}; {split})",
        cost.units,
        cost.device,
        cost.what,
        cost.sheet,
        cost.confidence.name()
    );
    let mut lines = vec![
        line("Cost per query", &per_query, "", paint),
        line("Cost per 1M input", &input, "", paint),
        line("Cost per 1M output", &output, "", paint),
    ];
    lines.extend(wrapped(&source, "  ").iter().map(|text| paint.dim(text)));
    if let Some(why) = cost.null_reasons.get("interval") {
        let note = format!("– no interval of the costs: {why}");
        lines.extend(wrapped(&note, "  ").iter().map(|text| paint.dim(text)));
    }
    lines
}
