//! What the runs of a client come to, and whether they are as good as they are to be.
//!
//! Invariant: an error is found within each run, and the median is of the runs' errors; a
//! difference of two medians would mix runs. It does not run anything.

use anyhow::{Result, ensure};
use reports::preflight::{FigureError, Preflight, Spread};
use reports::schema::Metric;
use reports::stats;

use super::Load;

/// One run of one client.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) against: Preflight,
    pub(super) achieved: f64,
    pub(super) cpu_ms_per_1000: f64,
}

/// As it was reported, as it was, or the difference.
type OfFigure = fn(FigureError) -> f64;

const METRICS: [(Metric, &str); 3] = [
    (Metric::Ttft, "TTFT"),
    (Metric::Itl, "ITL"),
    (Metric::Tpot, "TPOT"),
];
/// A reported p50 may be off the truth by so much.
const P50_OFF_MS: f64 = 0.2;
/// A reported p99 may be off by so much more than the floor's.
const P99_OFF_MORE_MS: f64 = 1.0;
const RECEIVE_P50_TIMES: f64 = 2.0;
const RECEIVE_P99_TIMES: f64 = 1.5;
const CPU_TIMES: f64 = 2.0;
const ACHIEVED: f64 = 0.99;

impl Run {
    /// Of a figure what is asked for, in milliseconds; not a number where there are too few values.
    fn ms(&self, metric: Metric, figure: &str, of: OfFigure) -> f64 {
        let found = self.against.errors[&metric].get(figure);
        found.map_or(f64::NAN, |&found| of(found) * 1e3)
    }

    /// Was there such a load? Asked of a run of the floor, since it is the least a client can do:
    /// where it does not reach what is asked of any client in absolute terms, the machine did not
    /// carry the load, and the turn says nothing about another client.
    pub(super) fn was_carried(&self) -> bool {
        let mut off = METRICS
            .iter()
            .map(|&(metric, _)| self.ms(metric, "p50", FigureError::error_s));
        self.achieved >= ACHIEVED && !off.any(|ms| ms > P50_OFF_MS)
    }
}

/// Of the values of all runs.
fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let values: Vec<f64> = runs.iter().map(value).collect();
    stats::median(&values)
}

/// A dash for what there is not.
fn shown(value: f64, digits: usize) -> String {
    if value.is_nan() {
        "–".to_owned()
    } else {
        format!("{value:.digits$}")
    }
}

pub(super) const HEADS: &str = "| client | load | turns | achieved | TTFT p50/p99 | true | \
ITL p50/p99 | true | TPOT p50/p99 | true | receive error p50/p99 µs | send lag p50/p99 µs | \
server late p50/p99 µs | CPU ms/1000 tokens |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// Medians over the runs.
pub(super) fn row(client: &str, load: Load, runs: &[Run]) -> String {
    let ms = |(metric, _)| {
        let both = |of: OfFigure| {
            let figures =
                ["p50", "p99"].map(|figure| median(runs, |run| run.ms(metric, figure, of)));
            figures.map(|ms| shown(ms, 2)).join("/")
        };
        let reported = both(|figure| figure.reported_s);
        format!("{reported} | {}", both(|figure| figure.true_s))
    };
    let us = |spread: fn(&Run) -> Spread| {
        let p50 = median(runs, |run| spread(run).p50 * 1e6);
        let p99 = median(runs, |run| spread(run).p99 * 1e6);
        format!("{}/{}", shown(p50, 0), shown(p99, 0))
    };
    format!(
        "| {client} | {load} | {} | {:.3} | {} | {} | {} | {} | {:.1} |",
        runs.len(),
        median(runs, |run| run.achieved),
        METRICS.map(ms).join(" | "),
        us(|run| run.against.receive_error_s),
        us(|run| run.against.send_lag_s),
        us(|run| run.against.server_late_s.unwrap_or_default()),
        median(runs, |run| run.cpu_ms_per_1000),
    )
}

pub(super) const GOAL_HEADS: &str = "| load | receive error p50, p99, × the floor's | \
p50 off: TTFT, ITL, TPOT, ms (the floor's) | p99 off: TTFT, ITL, TPOT, ms (the floor's) | \
CPU, × the floor's | achieved (the floor's) | goals |
|---|---|---|---|---|---|---|";

/// A client beside the floor, with what misses its goal in bold.
pub(super) fn judgement(load: Load, floor: &[Run], client: &[Run]) -> String {
    let mut missed = 0;
    let mut judged = |text: String, good: bool| {
        if good {
            return text;
        }
        missed += 1;
        format!("**{text}**")
    };
    let times = |value: fn(&Run) -> f64| median(client, value) / median(floor, value);
    let receive = [
        (
            times(|run| run.against.receive_error_s.p50),
            RECEIVE_P50_TIMES,
        ),
        (
            times(|run| run.against.receive_error_s.p99),
            RECEIVE_P99_TIMES,
        ),
    ];
    let receive = receive.map(|(times, most)| judged(format!("{times:.3}"), times <= most));
    let mut off = |figure, most: fn(f64) -> f64| {
        let each = METRICS.map(|(metric, _)| {
            let off = |run: &Run| run.ms(metric, figure, FigureError::error_s);
            let [ours, floors] = [client, floor].map(|runs| median(runs, off));
            let text = format!("{} ({})", shown(ours, 2), shown(floors, 2));
            // Where there are too few values there is no figure to be wrong.
            let neither = ours.is_nan() && floors.is_nan();
            judged(text, neither || ours <= most(floors))
        });
        each.join(", ")
    };
    let p50 = off("p50", |_| P50_OFF_MS);
    let p99 = off("p99", |floors| floors + P99_OFF_MORE_MS);
    let cpu = times(|run| run.cpu_ms_per_1000);
    let cpu = judged(format!("{cpu:.2}"), cpu <= CPU_TIMES);
    let [ours, floors] = [client, floor].map(|runs| median(runs, |run| run.achieved));
    let achieved = judged(format!("{ours:.3} ({floors:.3})"), ours >= ACHIEVED);
    let goals = match missed {
        0 => "met".to_owned(),
        count => format!("{count} missed"),
    };
    let receive = receive.join(", ");
    format!("| {load} | {receive} | {p50} | {p99} | {cpu} | {achieved} | {goals} |")
}

/// Runs made up from a true one: each goal is missed by a client that is worse than it asks in one
/// thing, and by none that is not.
pub(super) fn check(against: Preflight) -> Result<()> {
    type Worse<'a> = &'a dyn Fn(&mut Run);
    let mut good = Run {
        against,
        achieved: 1.0,
        cpu_ms_per_1000: 10.0,
    };
    let spread = Spread {
        p50: 30e-6,
        p99: 2e-3,
        ..Spread::default()
    };
    good.against.receive_error_s = spread;
    for (metric, _) in METRICS {
        let error = FigureError {
            reported_s: 0.0501,
            true_s: 0.05,
        };
        let figures = ["p50", "p99"].map(|figure| (figure.to_owned(), error));
        good.against.errors.insert(metric, figures.into());
    }
    let late = |run: &mut Run, metric, figure: &str, ms: f64| {
        let error = run
            .against
            .errors
            .get_mut(&metric)
            .and_then(|all| all.get_mut(figure));
        error.expect("it was made above").reported_s = 0.05 + ms / 1e3;
    };
    // What is worse, how often a goal is missed for it, and whether a floor like this is void.
    let cases: [(Worse<'_>, usize, bool); 11] = [
        (&|_| (), 0, false),
        (&|run| run.against.receive_error_s.p50 = 59e-6, 0, false),
        (&|run| run.against.receive_error_s.p50 = 61e-6, 1, false),
        (&|run| run.against.receive_error_s.p99 = 3.1e-3, 1, false),
        (&|run| late(run, Metric::Ttft, "p50", 0.3), 1, true),
        (&|run| late(run, Metric::Tpot, "p50", -0.3), 1, true),
        (&|run| late(run, Metric::Itl, "p99", 1.05), 0, false),
        (&|run| late(run, Metric::Itl, "p99", 1.2), 1, false),
        (&|run| run.cpu_ms_per_1000 = 21.0, 1, false),
        (&|run| run.achieved = 0.98, 1, true),
        (
            &|run| (run.achieved, run.cpu_ms_per_1000) = (0.98, 21.0),
            2,
            true,
        ),
    ];
    for (number, (worse, missed, void)) in cases.into_iter().enumerate() {
        let mut bad = good.clone();
        worse(&mut bad);
        ensure!(bad.was_carried() != void, "case {number} is void or is not");
        // The median of three is that of the two that are alike.
        let clients = [bad.clone(), good.clone(), bad];
        let judged = judgement(Load::Closed(1), &[good.clone()], &clients);
        ensure!(
            judged.matches("**").count() == 2 * missed,
            "case {number}: {judged}"
        );
        ensure!(
            judged.contains("| met |") == (missed == 0),
            "case {number}: {judged}"
        );
    }
    Ok(())
}
