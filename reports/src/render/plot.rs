//! What the plots show, as data: percentile curves and distributions. `timeline` adds time series.
//!
//! Invariant: the number of points of a plot is bounded, whatever the length of the run.
//! What it does not do: draw; `svg` does.

use crate::histogram::LatencyHistogram;
use crate::lengths::LengthBin;
use crate::schema::{Metric, Report};

use super::axis::{Axis, Kind};

/// Most points of a series: no more than there are pixels.
pub(super) const MOST_POINTS: usize = 480;
/// Points of a percentile curve.
const CURVE_POINTS: usize = 240;
/// Bars of a distribution.
const BARS: usize = 48;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Line,
    /// A line with its area filled.
    Area,
    /// Bars between the x of a point and the next.
    Bars,
}

/// One series.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// Colour slot, from 1; unique in its plot.
    pub(super) slot: u8,
    pub(super) shape: Shape,
    /// NaN as y is a gap.
    pub(super) points: Vec<(f64, f64)>,
}

/// One plot.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) caption: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Ranges of x outside the window.
    pub(super) shades: Vec<(f64, f64)>,
    /// Lines at an x, with a label.
    pub(super) marks: Vec<(f64, &'static str)>,
    /// Lines at a y, with a label; not drawn outside the axis.
    pub(super) levels: Vec<(f64, &'static str)>,
}

/// At most [`MOST_POINTS`] of the points: the least and the greatest of each span, where they are.
pub(super) fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points;
    }
    let step = points.len().div_ceil(MOST_POINTS / 2);
    let ends = |span: &[(f64, f64)]| {
        let known = || span.iter().filter(|(_, y)| !y.is_nan()).copied();
        let least = known().min_by(|a, b| a.1.total_cmp(&b.1));
        let most = known().max_by(|a, b| a.1.total_cmp(&b.1));
        match (least, most) {
            (Some(least), Some(most)) if least.0 < most.0 => vec![least, most],
            (Some(least), Some(most)) if most.0 < least.0 => vec![most, least],
            (Some(only), _) => vec![only],
            (None, _) => vec![(span[0].0, f64::NAN)],
        }
    };
    points.chunks(step).flat_map(ends).collect()
}

/// One bar of a distribution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bin {
    pub(super) low_s: f64,
    pub(super) high_s: f64,
    pub(super) share: f64,
}

/// Shares of the values in bins of equal width on a logarithmic axis.
pub(super) fn density(histogram: &LatencyHistogram, bins: usize) -> Vec<Bin> {
    let seconds = |ns: u64| (ns as f64 / 1e9).max(5e-7);
    let ends: Vec<(f64, f64, u64)> = histogram
        .buckets()
        .map(|(low, high, count)| (seconds(low), seconds(high + 1), count))
        .collect();
    let (Some(&(min, ..)), Some(&(_, max, _))) = (ends.first(), ends.last()) else {
        return Vec::new();
    };
    let centre = (min * max).sqrt();
    let (min, max) = (min.min(centre / 1.2), max.max(centre * 1.2));
    let total = histogram.count() as f64;
    let edge = |index: usize| min * (max / min).powf(index as f64 / bins as f64);
    let at = |value: f64| {
        let position = (value / min).ln() / (max / min).ln() * bins as f64;
        (position.max(0.0) as usize).min(bins - 1)
    };
    let bin = |index| Bin {
        low_s: edge(index),
        high_s: edge(index + 1),
        share: 0.0,
    };
    let mut found: Vec<Bin> = (0..bins).map(bin).collect();
    for (low, high, count) in ends {
        for bin in &mut found[at(low)..=at(high)] {
            let overlap = (high.min(bin.high_s) - low.max(bin.low_s)).max(0.0);
            bin.share += count as f64 / total * overlap / (high - low).max(1e-12);
        }
    }
    found
}

/// The plots of latencies.
pub(super) fn latency_plots(report: &Report) -> Vec<Plot> {
    let shown = [
        (Metric::Ttft, 1),
        (Metric::Itl, 2),
        (Metric::E2e, 3),
        (Metric::Tpot, 4),
    ];
    let mut plots = vec![percentiles(report, &shown)];
    let heads = [
        ("ttft-distribution", "TTFT distribution", Metric::Ttft, 1),
        ("itl-distribution", "ITL distribution", Metric::Itl, 2),
        ("e2e-distribution", "E2E distribution", Metric::E2e, 3),
    ];
    plots.extend(
        heads.map(|(id, title, metric, slot)| distribution(report, id, title, metric, slot)),
    );
    plots
}

pub(super) fn histogram(report: &Report, metric: Metric) -> LatencyHistogram {
    let encoded = report.histograms.get(&metric);
    encoded
        .and_then(|held| LatencyHistogram::decode(held).ok())
        .unwrap_or_default()
}

fn metric_name(metric: Metric) -> &'static str {
    super::view::metric_words(metric).0
}

fn percentiles(report: &Report, shown: &[(Metric, u8)]) -> Plot {
    let held: Vec<LatencyHistogram> = shown
        .iter()
        .map(|&(metric, _)| histogram(report, metric))
        .collect();
    // As far as requests reach: tokens of one request do not make a percentile better known.
    let requests = shown
        .iter()
        .map(|&(metric, _)| report.summary.metric(metric).requests);
    let x = Axis::tail(requests.max().unwrap_or(0));
    let series: Vec<Series> = shown
        .iter()
        .zip(&held)
        .map(|(&(metric, slot), histogram)| Series {
            name: metric_name(metric).to_owned(),
            slot,
            shape: Shape::Line,
            points: curve(histogram, &x),
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    let y = Axis::log(
        Kind::Latency,
        series.iter().flat_map(|s| &s.points).map(|&(_, y)| y),
    );
    Plot {
        id: "percentiles",
        title: "Latency by percentile",
        caption: "Each nine is as wide as the one before. The right end rests on single requests; \
                  the table says which percentiles can be trusted."
            .to_owned(),
        x,
        y,
        series,
        shades: Vec::new(),
        marks: Vec::new(),
        levels: Vec::new(),
    }
}

/// `(quantile, seconds)`, at most [`CURVE_POINTS`], evenly along the axis.
pub(super) fn curve(histogram: &LatencyHistogram, x: &Axis) -> Vec<(f64, f64)> {
    let total = histogram.count() as f64;
    let mut seen = 0;
    let mut points: Vec<(f64, f64)> = Vec::new();
    let mut next = 0.0;
    for (low, high, count) in histogram.buckets() {
        let value = high as f64 / 1e9;
        if seen == 0 {
            points.push((0.0, (low as f64 / 1e9).max(5e-7)));
        }
        seen += count;
        let quantile = (seen as f64 - 0.5) / total;
        if quantile > x.max {
            break;
        }
        let place = x.fraction(quantile);
        if place >= next || seen == histogram.count() {
            points.push((quantile, value));
            next = place + 1.0 / CURVE_POINTS as f64;
        }
    }
    points
}

fn distribution(
    report: &Report,
    id: &'static str,
    title: &'static str,
    metric: Metric,
    slot: u8,
) -> Plot {
    let held = histogram(report, metric);
    let bins = density(&held, BARS);
    let mut points: Vec<(f64, f64)> = bins.iter().map(|bin| (bin.low_s, bin.share)).collect();
    let mut x = Axis::log(Kind::Latency, std::iter::empty());
    if let (Some(first), Some(last)) = (bins.first(), bins.last()) {
        (x.min, x.max) = (first.low_s, last.high_s);
        points.push((last.high_s, 0.0));
    }
    let summary = report.summary.metric(metric);
    let marks = [("p50", summary.p50), ("p99", summary.p99)];
    Plot {
        id,
        title,
        caption: format!(
            "{} values of {} requests, by share; logarithmic axis.",
            crate::stats::thousands(summary.count),
            crate::stats::thousands(summary.requests)
        ),
        y: Axis::from_zero(Kind::Share, points.iter().map(|&(_, share)| share)),
        x,
        series: vec![Series {
            name: metric_name(metric).to_owned(),
            slot,
            shape: Shape::Bars,
            points,
        }],
        shades: Vec::new(),
        marks: marks
            .into_iter()
            .filter_map(|(name, value)| Some((value?, name)))
            .collect(),
        levels: Vec::new(),
    }
}

/// Prompts and answers by length; without series in a report that does not have them.
pub(super) fn length_plots(report: &Report) -> Vec<Plot> {
    let summary = &report.summary;
    vec![
        length_plot(
            ("prompt-lengths", "Prompt length"),
            &summary.prompt_lengths,
            1,
        ),
        length_plot(
            ("answer-lengths", "Answer length"),
            &summary.answer_lengths,
            3,
        ),
    ]
}

fn length_plot((id, title): (&'static str, &'static str), bins: &[LengthBin], slot: u8) -> Plot {
    let total: u64 = bins.iter().map(|bin| bin.requests).sum();
    let mut points: Vec<(f64, f64)> = Vec::new();
    for bin in bins {
        let from = bin.from.max(1) as f64;
        // The bin before ends where this one begins, or there is nothing between them.
        points.pop_if(|last| last.0 >= from);
        points.push((from, bin.requests as f64 / total as f64));
        points.push((bin.to as f64 + 1.0, 0.0));
    }
    let mut x = Axis::log(Kind::Count, std::iter::empty());
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        (x.min, x.max) = (first.0, last.0.max(first.0 * 1.25));
    }
    let y = Axis::from_zero(Kind::Share, points.iter().map(|&(_, share)| share));
    let series = Series {
        name: title.to_owned(),
        slot,
        shape: Shape::Bars,
        points,
    };
    let requests = crate::stats::thousands(total);
    Plot {
        id,
        title,
        caption: format!("{requests} requests by tokens, as shares; logarithmic axis."),
        x,
        y,
        series: if total > 0 { vec![series] } else { Vec::new() },
        shades: Vec::new(),
        marks: Vec::new(),
        levels: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_hour_keeps_its_worst_second() {
        let mut hour: Vec<(f64, f64)> = (0..3_600).map(|t| (f64::from(t), 1.0)).collect();
        hour[1_234].1 = 9.0;
        hour[2_345].1 = 0.1;
        hour[3_000].1 = f64::NAN;
        let thin = thinned(hour);
        assert!(thin.len() <= MOST_POINTS);
        assert!(thin.contains(&(1_234.0, 9.0)) && thin.contains(&(2_345.0, 0.1)));
    }

    proptest! {
        #[test]
        fn thinning_keeps_extremes_and_order(ys in prop::collection::vec(0.0_f64..9.0, 1..3_000)) {
            let points: Vec<_> = ys.iter().enumerate().map(|(i, &y)| (i as f64, y)).collect();
            let thin = thinned(points.clone());
            prop_assert!(thin.len() <= MOST_POINTS);
            prop_assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(thin.iter().all(|point| points.contains(point)));
            let ends = |points: &[(f64, f64)]| {
                let ys = points.iter().map(|point| point.1);
                (ys.clone().fold(f64::MAX, f64::min), ys.fold(0.0, f64::max))
            };
            prop_assert_eq!(ends(&thin), ends(&points));
        }
    }
}
