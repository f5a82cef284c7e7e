//! Bars beside their figures: a waterfall of costs, outcomes, ratios with their intervals.
//!
//! They are rows of a table with a coloured track, so that the figures are read by everyone and
//! break and print like text. Invariant: positions lie between 0 and 100 percent of the track, and
//! the steps of a waterfall end at their sum.

use serde::Serialize;

use super::format::usd;
use super::page::{Label, Tone};

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Bar {
    pub(super) label: Label,
    /// Start and length on the track, percent.
    pub(super) from: f64,
    pub(super) length: f64,
    /// A dot on the track, percent.
    pub(super) dot: Option<f64>,
    pub(super) value: String,
    /// Beside the value, smaller.
    pub(super) note: String,
    pub(super) tone: Tone,
}

/// Rows with a common track.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Bars {
    pub(super) title: String,
    pub(super) caption: String,
    /// A line down the track, percent.
    pub(super) line: Option<f64>,
    pub(super) rows: Vec<Bar>,
}

/// Two decimals of a percent are finer than a pixel.
pub(super) fn place(share: f64) -> f64 {
    if share.is_finite() {
        (share.clamp(0.0, 1.0) * 1e4).round() / 100.0
    } else {
        0.0
    }
}

/// How an amount of money comes about, step by step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waterfall {
    pub(super) title: String,
    pub(super) caption: String,
    /// Name of a step and what it adds, or takes away where it is negative.
    pub(super) steps: Vec<(String, f64)>,
    /// Name of what they add up to.
    pub(super) total: String,
}

impl Waterfall {
    /// What the steps add up to.
    pub(super) fn total_usd(&self) -> f64 {
        self.steps.iter().map(|(_, usd)| usd).sum()
    }

    /// One row for each step, and one for the sum.
    pub(super) fn bars(&self) -> Bars {
        let total = self.total_usd();
        let mut sums = vec![0.0];
        for (_, step) in &self.steps {
            sums.push(sums[sums.len() - 1] + step);
        }
        let low = sums.iter().copied().fold(0.0, f64::min);
        let high = sums.iter().copied().fold(0.0, f64::max);
        let span = if high > low { high - low } else { 1.0 };
        let at = |usd: f64| place((usd - low) / span);
        let row = |label: &str, start: f64, end: f64, tone| {
            let (from, to) = (at(start.min(end)), at(start.max(end)));
            Bar {
                label: Label::plain(label),
                from,
                length: to - from,
                dot: None,
                value: signed_usd(end - start),
                note: share(end - start, total),
                tone,
            }
        };
        let steps = self.steps.iter().zip(sums.windows(2));
        let mut rows: Vec<Bar> = steps
            .map(|((label, usd), ends)| {
                let tone = if *usd < 0.0 { Tone::Good } else { Tone::Plain };
                row(label, ends[0], ends[1], tone)
            })
            .collect();
        rows.push(row(&self.total, 0.0, total, Tone::Faint));
        Bars {
            title: self.title.clone(),
            caption: self.caption.clone(),
            line: None,
            rows,
        }
    }
}

fn signed_usd(value: f64) -> String {
    if value < 0.0 {
        format!("−{}", usd(-value))
    } else {
        usd(value)
    }
}

fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 {
        super::format::percent(part / whole)
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waterfall(steps: Vec<(String, f64)>) -> Waterfall {
        Waterfall {
            title: "Cost".to_owned(),
            caption: String::new(),
            steps,
            total: "Total".to_owned(),
        }
    }

    #[test]
    fn steps_stand_on_each_other() {
        let steps = [("Hardware", 6.0), ("Energy", 2.0), ("Discount", -3.0)];
        let steps = steps.map(|(name, usd)| (name.to_owned(), usd)).to_vec();
        let bars = waterfall(steps).bars();
        let drawn: Vec<_> = bars
            .rows
            .iter()
            .map(|row| (row.from, row.length, row.value.as_str(), row.note.as_str()))
            .collect();
        assert_eq!(
            drawn,
            [
                (0.0, 75.0, "$6.00", "120 %"),
                (75.0, 25.0, "$2.00", "40.0 %"),
                (62.5, 37.5, "−$3.00", "-60.0 %"),
                (0.0, 62.5, "$5.00", "100 %"),
            ]
        );
    }

    proptest! {
        #[test]
        fn a_waterfall_adds_up(usd in prop::collection::vec(-1e3_f64..1e3, 0..12)) {
            let steps: Vec<_> = usd.iter().map(|&usd| ("step".to_owned(), usd)).collect();
            let bars = waterfall(steps).bars();
            let (total, steps) = bars.rows.split_last().expect("a total");
            let mut end = None;
            let mut sum = 0.0;
            for (row, usd) in steps.iter().zip(&usd) {
                prop_assert!(row.from >= 0.0 && row.length >= 0.0);
                prop_assert!(row.from + row.length <= 100.01);
                let (start, next) = if *usd < 0.0 {
                    (row.from + row.length, row.from)
                } else {
                    (row.from, row.from + row.length)
                };
                prop_assert!(end.is_none_or(|end: f64| (end - start).abs() < 0.021));
                end = Some(next);
                sum += usd;
            }
            let top = if sum < 0.0 { total.from } else { total.from + total.length };
            prop_assert!(end.is_none_or(|end| (end - top).abs() < 0.021), "{end:?} {top}");
        }
    }
}
