//! What the plots over time show.
//!
//! Invariant: at most [`MOST_POINTS`] points. A point that stands for several seconds shows the
//! mean of a rate and the worst of anything else, never an average of quantiles.
//! What it does not do: leave out warm-up and drain; they are shaded.

use crate::schema::{Report, SecondPoint};

use super::axis::{Axis, Kind};
use super::plot::{MOST_POINTS, Plot, Series, Shape};

/// The series of a report in spans of equal length.
struct Timeline<'a> {
    report: &'a Report,
    /// Seconds of a span.
    step: usize,
}

/// The plots over time; none without a series.
pub(super) fn time_plots(report: &Report) -> Vec<Plot> {
    if report.series.is_empty() {
        return Vec::new();
    }
    let step = report.series.len().div_ceil(MOST_POINTS);
    let timeline = Timeline { report, step };
    vec![
        timeline.tokens(),
        timeline.in_flight(),
        timeline.ttft(),
        timeline.itl(),
    ]
}

impl Timeline<'_> {
    fn tokens(&self) -> Plot {
        let mean = |span: &[SecondPoint]| {
            let sum: u64 = span.iter().map(|point| point.output_tokens).sum();
            sum as f64 / span.len() as f64
        };
        let series = self.series("Output tokens/s", 3, Shape::Area, mean);
        let each = match self.step {
            1 => "Each second".to_owned(),
            step => format!("Mean of each {step} seconds"),
        };
        let caption = format!("{each}; warm-up and drain shaded.");
        let title = "Output tokens per second";
        self.plot("tokens", title, caption, Kind::Count, vec![series])
    }

    fn in_flight(&self) -> Plot {
        let worst = worst(|point| Some(point.in_flight as f64));
        let series = self.series("In flight", 1, Shape::Area, worst);
        let caption = self.caption("Intended and not ended, at the end of each second");
        let title = "Requests in flight";
        self.plot("in-flight", title, caption, Kind::Count, vec![series])
    }

    fn ttft(&self) -> Plot {
        let series = vec![
            self.series("TTFT max", 4, Shape::Line, worst(|point| point.ttft_max_s)),
            self.series("TTFT p50", 1, Shape::Line, worst(|point| point.ttft_p50_s)),
        ];
        let caption = self.caption("By the second of the intended instant");
        self.plot(
            "ttft-time",
            "TTFT over time",
            caption,
            Kind::Latency,
            series,
        )
    }

    fn itl(&self) -> Plot {
        let series = vec![
            self.series("ITL p99", 4, Shape::Line, worst(|point| point.itl_p99_s)),
            self.series("ITL p50", 2, Shape::Line, worst(|point| point.itl_p50_s)),
        ];
        let caption = self.caption("By the second of the token");
        self.plot("itl-time", "ITL over time", caption, Kind::Latency, series)
    }

    fn caption(&self, what: &str) -> String {
        match self.step {
            1 => format!("{what}."),
            step => format!("{what}; a point is the worst of {step} seconds."),
        }
    }

    fn series(
        &self,
        name: &'static str,
        slot: u8,
        shape: Shape,
        value: impl Fn(&[SecondPoint]) -> f64,
    ) -> Series {
        let spans = self.report.series.chunks(self.step);
        let points = spans
            .map(|span| (span[0].t_s as f64, value(span)))
            .collect();
        Series {
            name,
            slot,
            shape,
            points,
        }
    }

    fn plot(
        &self,
        id: &'static str,
        title: &'static str,
        caption: String,
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
        let end = self.report.series.len() as f64;
        let (from, to) = self.report.run.window_s;
        let outside = [(0.0, from.min(end)), (to.min(end), end)];
        Plot {
            id,
            title,
            caption,
            x: Axis::between(Kind::Elapsed, 0.0, end),
            y,
            series,
            shades: outside
                .into_iter()
                .filter(|(low, high)| high > low)
                .collect(),
            marks: Vec::new(),
        }
    }
}

/// The largest value of a span; NaN when no second has one.
fn worst(pick: impl Fn(&SecondPoint) -> Option<f64>) -> impl Fn(&[SecondPoint]) -> f64 {
    move |span| span.iter().filter_map(&pick).fold(f64::NAN, f64::max)
}
