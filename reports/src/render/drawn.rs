//! A plot as the page has it: drawn, with the values for read-outs and a table beside it.
//!
//! Invariant: the table has at most [`MOST_ROWS`] rows, and shows every value or the range of
//! those it stands for. What it does not do: decide what is shown; plots come from elsewhere.

use serde::Serialize;

use super::axis::{Axis, Scale};
use super::plot::{Plot, Series};
use super::svg::{FRAME, svg};

/// Rows of the table beside a plot.
const MOST_ROWS: usize = 60;
/// Quantiles that have a row, where the curve reaches them.
const QUANTILES: [f64; 10] = [
    0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999,
];

/// A plot, drawn, with what the page says about it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Drawn {
    pub(super) id: &'static str,
    title: &'static str,
    caption: String,
    legend: Vec<(u8, String)>,
    svg: String,
    data: Data,
    table: Values,
}

/// What the script needs for read-outs and zoom.
#[derive(Debug, Clone, Serialize)]
struct Data {
    frame: [i32; 6],
    x: Axis,
    y: Axis,
    series: Vec<(u8, String, Points)>,
}

/// `null` is a gap.
type Points = Vec<(f64, Option<f64>)>;

/// The table beside a plot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Values {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Drawn {
    pub(super) fn new(plot: Plot) -> Self {
        let point = |&(x, y): &(f64, f64)| (round(x), (!y.is_nan()).then(|| round(y)));
        let points = |series: &Series| series.points.iter().map(point).collect();
        Self {
            id: plot.id,
            title: plot.title,
            legend: plot
                .series
                .iter()
                .map(|series| (series.slot, series.name.clone()))
                .collect(),
            svg: svg(&plot),
            table: values(&plot),
            data: Data {
                frame: FRAME,
                series: plot
                    .series
                    .iter()
                    .map(|series| (series.slot, series.name.clone(), points(series)))
                    .collect(),
                x: plot.x,
                y: plot.y,
            },
            caption: plot.caption,
        }
    }
}

/// Digits beyond those that a page shows would only make it larger.
fn round(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

fn values(plot: &Plot) -> Values {
    let heads = std::iter::once(String::new()).chain(plot.series.iter().map(|s| s.name.clone()));
    let rows = match plot.x.scale {
        Scale::Tail => quantile_rows(plot),
        Scale::Linear | Scale::Log => span_rows(plot),
    };
    Values {
        heads: heads.collect(),
        rows,
    }
}

/// One row for each of some quantiles: the first point of a curve that is not below it.
fn quantile_rows(plot: &Plot) -> Vec<Vec<String>> {
    let reached = QUANTILES.into_iter().filter(|&q| q <= plot.x.max);
    let row = |quantile: f64| {
        let value = |series: &Series| {
            let found = series.points.iter().find(|point| point.0 >= quantile);
            found.map_or_else(|| "–".to_owned(), |point| plot.y.words(point.1))
        };
        let values = plot.series.iter().map(value);
        std::iter::once(plot.x.words(quantile))
            .chain(values)
            .collect()
    };
    reached.map(row).collect()
}

/// One row for each x, or for each span of them with the range of its values.
fn span_rows(plot: &Plot) -> Vec<Vec<String>> {
    let points = plot.series.iter().flat_map(|series| &series.points);
    let mut xs: Vec<f64> = points.map(|point| point.0).collect();
    xs.sort_unstable_by(f64::total_cmp);
    xs.dedup();
    let step = xs.len().div_ceil(MOST_ROWS).max(1);
    let row = |span: &[f64]| {
        let (first, last) = (span[0], span[span.len() - 1]);
        let of = |series: &Series| {
            let inside = series
                .points
                .iter()
                .filter(|(x, y)| (first..=last).contains(x) && !y.is_nan())
                .map(|point| point.1);
            let (low, high) = inside.fold((f64::MAX, f64::MIN), |(low, high), y| {
                (low.min(y), high.max(y))
            });
            match (plot.y.words(low), plot.y.words(high)) {
                _ if low > high => "–".to_owned(),
                (low, high) if low == high => low,
                (low, high) => format!("{low} … {high}"),
            }
        };
        let values = plot.series.iter().map(of);
        std::iter::once(plot.x.words(first)).chain(values).collect()
    };
    xs.chunks(step).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::axis::Kind;
    use super::super::plot::Shape;
    use super::*;

    fn plot(x: Axis, points: Vec<(f64, f64)>) -> Plot {
        let ys: Vec<f64> = points.iter().map(|point| point.1).collect();
        Plot {
            id: "plot",
            title: "Plot",
            caption: String::new(),
            x,
            y: Axis::log(Kind::Latency, ys.into_iter()),
            series: vec![Series {
                name: "TTFT".to_owned(),
                slot: 1,
                shape: Shape::Line,
                points,
            }],
            shades: Vec::new(),
            marks: Vec::new(),
            levels: Vec::new(),
        }
    }

    #[test]
    fn a_table_shows_each_value_or_its_range() {
        let x = Axis::between(Kind::Elapsed, 0.0, 3.0);
        let few = values(&plot(x, vec![(0.0, 0.01), (1.0, f64::NAN), (2.0, 0.03)]));
        assert_eq!(few.heads, ["", "TTFT"]);
        assert_eq!(
            few.rows,
            [["0 s", "10.0 ms"], ["1 s", "–"], ["2 s", "30.0 ms"]]
        );
        let x = Axis::between(Kind::Elapsed, 0.0, 180.0);
        let many = (0..180).map(|t| (f64::from(t), 0.001 * f64::from(t + 1)));
        let many = values(&plot(x, many.collect()));
        assert_eq!(many.rows.len(), MOST_ROWS);
        assert_eq!(many.rows[1], ["3 s", "4.00 ms … 6.00 ms"]);
    }

    #[test]
    fn a_curve_has_a_row_for_each_quantile_it_reaches() {
        let curve = (0..100).map(|i| (f64::from(i) / 100.0, 0.001 * f64::from(i + 1)));
        let table = values(&plot(Axis::tail(100), curve.collect()));
        assert_eq!(table.rows[2], ["p50", "51.0 ms"]);
        assert_eq!(table.rows.len(), 7, "{:?}", table.rows);
    }
}
