//! Joules over time, by a counter or by integrated power.
//!
//! Invariant: a curve never falls, and is linear between its points; what lies outside of them it
//! does not say. The points of a counter are the instants at which it was seen to have changed:
//! what it shows between them is old, by up to a whole step where an exporter repeats it.

/// One sample of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PowerSample {
    /// When it was read; any clock that runs evenly.
    pub at_ns: u64,
    /// Watts.
    pub power_w: Option<f64>,
    /// Counter, joules.
    pub energy_j: Option<f64>,
}

/// A stretch of time on the clock of the samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// First instant inside.
    pub start_ns: u64,
    /// First instant after.
    pub end_ns: u64,
}

impl Span {
    /// Its length.
    pub fn seconds(&self) -> f64 {
        self.end_ns.saturating_sub(self.start_ns) as f64 / 1e9
    }

    /// True for an instant inside.
    pub fn contains(&self, at_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&at_ns)
    }

    fn overlap_s(&self, other: &Self) -> f64 {
        let both = Self {
            start_ns: self.start_ns.max(other.start_ns),
            end_ns: self.end_ns.min(other.end_ns),
        };
        both.seconds()
    }
}

/// Samples further apart than this many periods have a gap between them.
const GAP_PERIODS: f64 = 2.5;
/// Of the window, that may lie in gaps when power is integrated.
const MOST_GAPS: f64 = 0.1;
/// Of the window, that a counter may stand still around each end of it.
const MOST_EDGE: f64 = 0.05;
/// The same of the time before the load, which is short and quiet.
const MOST_IDLE_EDGE: f64 = 0.25;
/// Changes of a counter in a window below which its steps decide the figure.
const LEAST_CHANGES: usize = 10;
/// No device draws more; a rise that would need it is no rise.
const MOST_WATTS: f64 = 100_000.0;

/// Joules over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve(Vec<(u64, f64)>);

impl Curve {
    /// By the device's counter, which may begin again at `range_j`.
    pub fn of_counter(samples: &[PowerSample], range_j: Option<f64>) -> Result<Self, String> {
        let mut points: Vec<(u64, f64)> = Vec::new();
        let mut last = None;
        for sample in samples {
            let Some(now) = sample.energy_j else { continue };
            // When the first reading came about is not known, so it is no point.
            let (since_ns, before) = *last.get_or_insert((sample.at_ns, now));
            let seconds = sample.at_ns.saturating_sub(since_ns) as f64 / 1e9;
            let mut rise = now - before;
            if rise < 0.0 {
                rise += range_j.unwrap_or(0.0);
            }
            if rise < 0.0 || rise > MOST_WATTS * seconds.max(0.01) {
                return Err(format!(
                    "the energy counter went from {before} to {now} J in {seconds:.3} s"
                ));
            }
            if rise > 0.0 {
                let sum = points.last().map_or(0.0, |(_, joules)| *joules + rise);
                points.push((sample.at_ns, sum));
                last = Some((sample.at_ns, now));
            }
        }
        match (last, points.is_empty()) {
            (None, _) => Err("there is no energy counter".to_owned()),
            (Some(_), true) => Err("the energy counter never changed".to_owned()),
            _ => Ok(Self(points)),
        }
    }

    /// By trapezoids over sampled power.
    pub fn of_power(samples: &[PowerSample]) -> Result<Self, String> {
        let mut points: Vec<(u64, f64)> = Vec::new();
        let mut last: Option<(u64, f64)> = None;
        for sample in samples {
            let Some(watts) = sample.power_w else {
                continue;
            };
            let added = last.map_or(0.0, |(at_ns, before)| {
                let seconds = sample.at_ns.saturating_sub(at_ns) as f64 / 1e9;
                f64::midpoint(before, watts) * seconds
            });
            let sum = points.last().map_or(0.0, |(_, joules)| *joules);
            points.push((sample.at_ns, sum + added));
            last = Some((sample.at_ns, watts));
        }
        match points.len() {
            0 => Err("there is no power".to_owned()),
            1 => Err("there is one sample of power only".to_owned()),
            _ => Ok(Self(points)),
        }
    }

    /// Good enough for `window` as integrated power?
    pub(super) fn checked_power(self, window: Span, period_ns: u64) -> Result<Self, String> {
        self.covering(window)?;
        let instants: Vec<u64> = self.0.iter().map(|(at, _)| *at).collect();
        let gaps = gaps(&instants, window, period_ns);
        let lost_s: f64 = gaps.iter().map(|gap| gap.overlap_s(&window)).sum();
        if lost_s > MOST_GAPS * window.seconds() {
            return Err(format!(
                "{lost_s:.1} s of the window of {:.1} s are gaps between samples of power",
                window.seconds()
            ));
        }
        Ok(self)
    }

    /// Good enough for `window` as a counter? It counts through gaps, except at the ends.
    pub(super) fn checked_counter(self, window: Span) -> Result<Self, String> {
        if window.seconds() <= 0.0 {
            return Err("the window is empty".to_owned());
        }
        let inside = self.0.iter().filter(|(at, _)| window.contains(*at)).count();
        if inside < LEAST_CHANGES {
            return Err(format!(
                "the energy counter changed {inside} times in the window; at least \
                 {LEAST_CHANGES} are needed"
            ));
        }
        match self.longest_edge_s(window) {
            None => Err("the energy counter did not change around an end of the window".to_owned()),
            Some(still_s) if still_s > MOST_EDGE * window.seconds() => Err(format!(
                "the energy counter stood still for {still_s:.2} s around an end of the window"
            )),
            Some(_) => Ok(self),
        }
    }

    /// Are the points near enough to the ends of a short quiet time?
    pub(super) fn resolves_idle(&self, span: Span) -> bool {
        let edge_s = self.longest_edge_s(span);
        edge_s.is_some_and(|edge_s| edge_s <= MOST_IDLE_EDGE * span.seconds())
    }

    /// Between the points around the start of `span`, or around its end, whichever are further
    /// apart; `None` where there is no point on one side.
    fn longest_edge_s(&self, span: Span) -> Option<f64> {
        let around = |at_ns: u64| {
            let before = self.0.iter().rev().find(|(at, _)| *at <= at_ns)?;
            let after = self.0.iter().find(|(at, _)| *at >= at_ns)?;
            Some((after.0 - before.0) as f64 / 1e9)
        };
        Some(around(span.start_ns)?.max(around(span.end_ns)?))
    }

    fn covering(&self, window: Span) -> Result<(), String> {
        if window.seconds() <= 0.0 {
            return Err("the window is empty".to_owned());
        }
        if self.covers(window) {
            return Ok(());
        }
        let own = Span {
            start_ns: self.first_ns(),
            end_ns: self.last_ns(),
        };
        Err(format!(
            "telemetry covers {:.1} s of the window of {:.1} s",
            own.overlap_s(&window),
            window.seconds()
        ))
    }

    /// Instant of the first point.
    pub(super) fn first_ns(&self) -> u64 {
        self.0.first().map_or(u64::MAX, |(at, _)| *at)
    }

    fn last_ns(&self) -> u64 {
        self.0.last().map_or(0, |(at, _)| *at)
    }

    /// Do the points reach over all of `span`?
    pub fn covers(&self, span: Span) -> bool {
        self.first_ns() <= span.start_ns && span.end_ns <= self.last_ns()
    }

    /// Is a part of `span` further from any point than samples of this period are?
    pub(super) fn has_gap(&self, span: Span, period_ns: u64) -> bool {
        let from = self.0.partition_point(|(at, _)| *at < span.start_ns);
        let to = self.0.partition_point(|(at, _)| *at < span.end_ns);
        let around = self
            .0
            .get(from.saturating_sub(1)..(to + 1).min(self.0.len()));
        let instants: Vec<u64> = around.into_iter().flatten().map(|(at, _)| *at).collect();
        !gaps(&instants, span, period_ns).is_empty()
    }

    /// Joules in a span that the curve covers; outside of its points it does not rise.
    pub fn between(&self, span: Span) -> f64 {
        self.at(span.end_ns) - self.at(span.start_ns)
    }

    fn at(&self, at_ns: u64) -> f64 {
        let after = self.0.partition_point(|(at, _)| *at < at_ns);
        let (Some(&(t1, j1)), Some(&(t0, j0))) =
            (self.0.get(after), self.0.get(after.wrapping_sub(1)))
        else {
            let end = if after == 0 {
                self.0.first()
            } else {
                self.0.last()
            };
            return end.map_or(0.0, |(_, joules)| *joules);
        };
        let share = (at_ns - t0) as f64 / (t1 - t0).max(1) as f64;
        j0 + share * (j1 - j0)
    }
}

/// Stretches without a sample that reach into the window.
pub(super) fn gaps(instants: &[u64], window: Span, period_ns: u64) -> Vec<Span> {
    let most_ns = (GAP_PERIODS * period_ns as f64) as u64;
    let pairs = instants.windows(2).map(|pair| Span {
        start_ns: pair[0],
        end_ns: pair[1],
    });
    let long = pairs.filter(|gap| gap.end_ns.saturating_sub(gap.start_ns) > most_ns);
    long.filter(|gap| gap.overlap_s(&window) > 0.0).collect()
}
