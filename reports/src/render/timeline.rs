//! What the plots over time show.
//!
//! Invariant: at most [`MOST_POINTS`] points, and each is a second as it was: of seconds that share
//! a pixel the least and the greatest are kept, and nothing is averaged.
//! What it does not do: leave out warm-up and drain; they are shaded.

use crate::schema::{Report, SecondPoint};

use super::axis::{Axis, Kind};
use super::plot::{MOST_POINTS, Plot, Series, Shape, thinned};

/// The series of a report.
struct Timeline<'a>(&'a Report);

/// What was asked for and what came of it; none without a series.
pub(super) fn load_plot(report: &Report) -> Vec<Plot> {
    if report.series.is_empty() {
        return Vec::new();
    }
    vec![Timeline(report).requests()]
}

/// The plots over time; none without a series.
pub(super) fn time_plots(report: &Report) -> Vec<Plot> {
    if report.series.is_empty() {
        return Vec::new();
    }
    let timeline = Timeline(report);
    let mut plots = vec![
        timeline.ttft(),
        timeline.itl(),
        timeline.tokens(),
        timeline.in_flight(),
    ];
    plots.extend(timeline.power());
    plots
}

impl Timeline<'_> {
    fn requests(&self) -> Plot {
        let count =
            |pick: fn(&SecondPoint) -> u64| move |point: &SecondPoint| Some(pick(point) as f64);
        let mut series = vec![
            self.series("Intended", 1, Shape::Line, count(|point| point.intended)),
            self.series("Finished", 3, Shape::Line, count(|point| point.completed)),
        ];
        if self.0.series.iter().any(|point| point.failed > 0) {
            series.push(self.series("Failed", 5, Shape::Line, count(|point| point.failed)));
        }
        let title = "Requests per second";
        self.plot("requests", title, "In each second", Kind::Count, series)
    }

    fn tokens(&self) -> Plot {
        let tokens = |point: &SecondPoint| Some(point.output_tokens as f64);
        let series = vec![self.series("Output tokens/s", 3, Shape::Area, tokens)];
        let title = "Output tokens per second";
        self.plot("tokens", title, "In each second", Kind::Count, series)
    }

    fn in_flight(&self) -> Plot {
        let in_flight = |point: &SecondPoint| Some(point.in_flight as f64);
        let series = vec![self.series("In flight", 1, Shape::Area, in_flight)];
        let what = "Intended and not ended, at the end of each second";
        self.plot("in-flight", "Requests in flight", what, Kind::Count, series)
    }

    /// None where no probe gave power.
    fn power(&self) -> Option<Plot> {
        let points = &self.0.series;
        points.iter().find_map(|point| point.power_w)?;
        let series = vec![self.series("Power", 6, Shape::Area, |point| point.power_w)];
        let what = "Mean of each second, of the devices that the energy is counted for";
        Some(self.plot("power", "Power", what, Kind::Power, series))
    }

    fn ttft(&self) -> Plot {
        let series = vec![
            self.series("TTFT max", 4, Shape::Line, |point| point.ttft_max_s),
            self.series("TTFT p50", 1, Shape::Line, |point| point.ttft_p50_s),
        ];
        let what = "By the second of the intended instant";
        let mut plot = self.plot("ttft-time", "TTFT over time", what, Kind::Latency, series);
        let limit = self.0.workload.slo.and_then(|slo| slo.ttft_s);
        plot.levels.extend(limit.map(|limit| (limit, "SLO")));
        plot
    }

    fn itl(&self) -> Plot {
        let series = vec![
            self.series("ITL p99", 4, Shape::Line, |point| point.itl_p99_s),
            self.series("ITL p50", 2, Shape::Line, |point| point.itl_p50_s),
        ];
        let what = "By the second of the token";
        self.plot("itl-time", "ITL over time", what, Kind::Latency, series)
    }

    fn series(
        &self,
        name: &str,
        slot: u8,
        shape: Shape,
        value: impl Fn(&SecondPoint) -> Option<f64>,
    ) -> Series {
        let points = self.0.series.iter();
        let points = points.map(|point| (point.t_s as f64, value(point).unwrap_or(f64::NAN)));
        Series {
            name: name.to_owned(),
            slot,
            shape,
            points: thinned(points.collect()),
        }
    }

    fn plot(
        &self,
        id: &'static str,
        title: &'static str,
        what: &str,
        kind: Kind,
        series: Vec<Series>,
    ) -> Plot {
        let values = series
            .iter()
            .flat_map(|line| &line.points)
            .map(|&(_, value)| value);
        let y = match kind {
            Kind::Latency => Axis::log(kind, values),
            _ => Axis::from_zero(kind, values),
        };
        let end = self.0.series.len() as f64;
        let (from, to) = self.0.run.window_s;
        let outside = [(0.0, from.min(end)), (to.min(end), end)];
        let thin = if self.0.series.len() > MOST_POINTS {
            "; of seconds that share a pixel the least and the greatest"
        } else {
            ""
        };
        Plot {
            id,
            title,
            caption: format!("{what}{thin}. Warm-up and drain are shaded."),
            x: Axis::between(Kind::Elapsed, 0.0, end),
            y,
            series,
            shades: outside
                .into_iter()
                .filter(|(low, high)| high > low)
                .collect(),
            marks: Vec::new(),
            levels: Vec::new(),
        }
    }
}
