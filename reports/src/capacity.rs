//! The highest load that still meets the SLO: which load to try next, and what was found.
//!
//! A load *passes* when the share of requests that meet the SLO is at least the target. Each load
//! is tried in segments, every one a run with prompts of its own, until a sequential test decides:
//! at each of up to [`LOOKS`] looks the share is held against the target with the standard error
//! over blocks of time, beyond Pocock's boundary; at the last look the share itself decides. Loads
//! are doubled or halved until one passes and one fails, then the bracket is bisected.
//!
//! Then runs on both sides of where the curve crosses the target are added, until the capacity's
//! interval is as narrow as asked or enough runs are made.
//!
//! The capacity is where a logistic regression of the share on the logarithm of load crosses the
//! target, over the runs near the bracket; nearer, where no straight line fits those of further
//! off, as at a cliff. In an open loop a run counts at the rate at which its requests in fact
//! arrived: chance makes that differ by percents from the rate asked for. The interval comes from
//! resampling the blocks of every run.
//!
//! Invariant: [`Search`] is a pure function of the segments it was given. A load with two INVALID
//! runs fails. What it does not do: run anything.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load_curve::LoadUnit;

/// Segments of one load at most.
pub const LOOKS: usize = 3;
/// Pocock's boundary for three looks, one-sided 5 %.
const BOUNDARY: f64 = 1.992;
/// Resamples of the interval.
const RESAMPLES: usize = 400;
/// Share of the resampled capacities beyond each end of the 95 % interval. Less than the 2.5 % of an
/// interval that is computed once: this one is looked at until it is narrow.
const TAIL: f64 = 0.01;
/// Runs at loads within these factors of the bracket take part in the regression: the widest within
/// which it fits.
const NEAR: [f64; 4] = [0.85, 0.92, 0.97, 1.0];
/// Standard errors by which no run may be off the regression.
const OFF: f64 = 6.0;
const SEED: u64 = 0x0077_6569_6768_0003;
/// A search that has not found a bracket by then is given up.
const MOST_STEPS: usize = 24;

/// Requests of one block of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GoodBlock {
    /// That were to arrive in it.
    pub arrived: u64,
    /// That met every limit.
    pub good: u64,
    /// That were to meet them: all but those cancelled by the user.
    pub judged: u64,
}

/// One run at one load.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Requests per second, or users.
    pub load: f64,
    /// Length of its window.
    pub window_s: f64,
    /// Blocks of its window.
    pub blocks: Vec<GoodBlock>,
    /// It was VALID.
    pub valid: bool,
}

/// What is searched for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Share of requests that must meet the SLO.
    pub share: f64,
    /// The first load.
    pub start: f64,
    /// How far a load that passes and one that fails may be apart, and the ends of the interval
    /// from the capacity: 0.03 for 3 %.
    pub precision: f64,
    /// What loads are counted in; users are whole.
    pub unit: LoadUnit,
    /// No load above is tried.
    pub most: f64,
    /// With as many runs made, none is added to narrow the interval.
    pub most_runs: usize,
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It meets the SLO.
    Pass,
    /// It does not, or its runs are INVALID.
    Fail,
    /// Another segment must decide.
    Open,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Run a segment at this load.
    Run {
        /// Requests per second, or users.
        load: f64,
    },
    /// The search is over.
    Done(Capacity),
}

/// The capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// The highest load that meets the SLO; null when none was found.
    pub load: Option<f64>,
    /// Its 95 % interval.
    pub ci95: Option<(f64, f64)>,
    /// Highest load that passed, below every one that failed.
    pub passed: Option<f64>,
    /// Lowest load that failed.
    pub failed: Option<f64>,
    /// What a reader should know.
    pub remarks: Vec<String>,
}

/// A search and what it has seen.
#[derive(Debug, Clone)]
pub struct Search {
    goal: Goal,
    segments: Vec<Segment>,
    /// How many of them found the bracket, once it is found; those after only narrow the interval.
    probes: Option<usize>,
}

/// All segments of one load.
#[derive(Debug, Clone, Default)]
struct Level {
    blocks: Vec<GoodBlock>,
    segments: usize,
    invalid: usize,
}

/// Loads between which the capacity lies, as far as it is known.
#[derive(Debug, Clone, Copy)]
struct Bracket {
    passed: Option<f64>,
    failed: Option<f64>,
}

impl Search {
    /// Begins.
    pub fn new(goal: Goal) -> Self {
        Self {
            goal,
            segments: Vec::new(),
            probes: None,
        }
    }

    /// Takes a finished segment.
    pub fn add(&mut self, segment: Segment) {
        self.segments.push(segment);
        if self.probes.is_none() && self.probe().is_err() {
            self.probes = Some(self.segments.len());
        }
    }

    /// What became of a load so far; `None` for one that was not tried to find the bracket.
    pub fn decision(&self, load: f64) -> Option<Decision> {
        let levels = self.levels();
        let level = levels.get(&load.to_bits())?;
        Some(decide(level, self.goal.share))
    }

    /// Share of the requests of a load that met the SLO.
    pub fn share(&self, load: f64) -> Option<f64> {
        let same = |segment: &&Segment| segment.load.to_bits() == load.to_bits();
        let runs = self.segments.iter().filter(same);
        let blocks: Vec<GoodBlock> = runs.flat_map(|run| &run.blocks).copied().collect();
        share(&blocks)
    }

    /// What to do next.
    pub fn next(&self) -> Next {
        let bracket = match self.probe() {
            Ok(load) => return Next::Run { load },
            Err(bracket) => bracket,
        };
        let found = self.found(bracket);
        match self.another_side(&found) {
            Some(load) => Next::Run { load },
            None => Next::Done(found),
        }
    }

    /// The load to try for the bracket, or that.
    fn probe(&self) -> Result<f64, Bracket> {
        let levels = self.levels();
        let decided: Vec<(f64, Decision)> = levels
            .iter()
            .map(|(&bits, level)| (f64::from_bits(bits), decide(level, self.goal.share)))
            .collect();
        if let Some(&(load, _)) = decided
            .iter()
            .find(|(_, decision)| *decision == Decision::Open)
        {
            return Ok(load);
        }
        let failing =
            |&(load, decision): &(f64, Decision)| (decision == Decision::Fail).then_some(load);
        let failed = decided.iter().filter_map(failing).reduce(f64::min);
        let passing = |&(load, decision): &(f64, Decision)| {
            let below = failed.is_none_or(|failed| load < failed);
            (decision == Decision::Pass && below).then_some(load)
        };
        let passed = decided.iter().filter_map(passing).reduce(f64::max);
        let bracket = Bracket { passed, failed };
        self.candidate(bracket, decided.len()).ok_or(bracket)
    }

    /// The load of a run that would narrow the interval, unless that is narrow enough.
    fn another_side(&self, found: &Capacity) -> Option<f64> {
        let (estimate, precision) = (found.load?, self.goal.precision);
        let wide = found.ci95.is_none_or(|(low, high)| {
            high > estimate * (1.0 + precision) || low < estimate / (1.0 + precision)
        });
        let adjacent = self.whole() && found.failed? - found.passed? <= 1.0;
        if !wide || adjacent || self.segments.len() >= self.goal.most_runs {
            return None;
        }
        // Nearer ones would say less about how the share falls.
        let side = 1.0 + 3.0 * precision;
        let sides = [side, 1.0 / side];
        let load = self.round(estimate * sides[self.segments.len() % 2]);
        Some(load.min(self.goal.most))
    }

    fn whole(&self) -> bool {
        self.goal.unit == LoadUnit::Users
    }

    fn round(&self, load: f64) -> f64 {
        if self.whole() {
            load.round().max(1.0)
        } else {
            load
        }
    }

    /// The load to try, unless the bracket is narrow enough or there is none to be had.
    fn candidate(&self, bracket: Bracket, steps: usize) -> Option<f64> {
        let Goal {
            start,
            precision,
            most,
            ..
        } = self.goal;
        if steps >= MOST_STEPS {
            return None;
        }
        let round = |load: f64| self.round(load);
        let next = match (bracket.passed, bracket.failed) {
            (None, None) => round(start.min(most)),
            (Some(passed), None) => round((passed * 2.0).min(most)),
            (None, Some(failed)) => round(failed / 2.0),
            (Some(passed), Some(failed)) if failed / passed > 1.0 + precision => {
                round((passed * failed).sqrt())
            }
            (Some(_), Some(_)) => return None,
        };
        let tried = self
            .segments
            .iter()
            .any(|segment| segment.load.to_bits() == next.to_bits());
        (!tried).then_some(next)
    }

    fn levels(&self) -> BTreeMap<u64, Level> {
        let mut levels: BTreeMap<u64, Level> = BTreeMap::new();
        let probes = self.probes.unwrap_or(self.segments.len());
        for segment in &self.segments[..probes] {
            // Loads are positive, so their bits are in their order.
            let level = levels.entry(segment.load.to_bits()).or_default();
            level.blocks.extend(&segment.blocks);
            level.segments += 1;
            level.invalid += usize::from(!segment.valid);
        }
        levels
    }

    fn found(&self, Bracket { passed, failed }: Bracket) -> Capacity {
        let mut found = Capacity {
            load: None,
            ci95: None,
            passed,
            failed,
            remarks: Vec::new(),
        };
        let (passed, failed) = match (passed, failed) {
            (Some(passed), Some(failed)) => (passed, failed),
            (None, _) => {
                let remark = "no load met the SLO, however small";
                found.remarks.push(remark.to_owned());
                return found;
            }
            (Some(_), None) => {
                let remark = "no load failed: the capacity is higher than the highest load tried";
                found.remarks.push(remark.to_owned());
                return found;
            }
        };
        let middle = (passed * failed).sqrt();
        let levels = self.levels();
        let late = |level: &Level| share(&level.blocks).is_some_and(|it| it < self.goal.share);
        if !levels.get(&failed.to_bits()).is_some_and(late) {
            found.load = Some(middle);
            found.ci95 = Some((passed, failed));
            let remark = "the load that failed did so by INVALID runs, not by latency: the interval \
                          is from the load that passed to that";
            found.remarks.push(remark.to_owned());
            return found;
        }
        let curve = self.curve(passed, failed);
        let estimate = curve.crossing(&curve.blocks());
        found.load = Some(estimate.unwrap_or(middle));
        found.ci95 = estimate.and_then(|estimate| {
            // No finer than the loads that were tried.
            let half = (failed / passed).sqrt();
            let (low, high) = curve.interval()?;
            Some((low.min(estimate / half), high.max(estimate * half)))
        });
        if found.ci95.is_none() {
            let remark = "the runs are too short to tell how the share falls with load: there is no \
                          interval, and longer runs would give one";
            found.remarks.push(remark.to_owned());
        }
        found
    }

    /// The runs near the bracket that one line describes.
    fn curve(&self, passed: f64, failed: f64) -> Curve<'_> {
        let middle = (passed * failed).sqrt();
        let within = |factor: f64| {
            let near = (middle * factor).min(passed)..=(middle / factor).max(failed);
            Curve {
                runs: self
                    .segments
                    .iter()
                    .filter(|run| near.contains(&run.load))
                    .collect(),
                unit: self.goal.unit,
                middle,
                target: self.goal.share,
            }
        };
        let mut curves = NEAR.into_iter().map(within);
        curves.find(Curve::fits).unwrap_or_else(|| within(NEAR[0]))
    }
}

fn share(blocks: &[GoodBlock]) -> Option<f64> {
    let judged: u64 = blocks.iter().map(|block| block.judged).sum();
    let good: u64 = blocks.iter().map(|block| block.good).sum();
    (judged > 0).then(|| good as f64 / judged as f64)
}

/// The sequential test. A single INVALID run is bad luck and tells what it saw; two decide.
fn decide(level: &Level, target: f64) -> Decision {
    let last = level.segments >= LOOKS;
    let Some(share) = share(&level.blocks) else {
        return if last { Decision::Fail } else { Decision::Open };
    };
    let z = (share - target) / standard_error(&level.blocks, share);
    match z {
        _ if level.invalid >= 2 => Decision::Fail,
        z if z <= -BOUNDARY => Decision::Fail,
        _ if level.invalid == level.segments => Decision::Open,
        z if z >= BOUNDARY => Decision::Pass,
        _ if !last => Decision::Open,
        _ if share >= target => Decision::Pass,
        _ => Decision::Fail,
    }
}

/// Of a share, over blocks; never less than that of as many independent requests.
fn standard_error(blocks: &[GoodBlock], share: f64) -> f64 {
    let judged: f64 = blocks.iter().map(|block| block.judged as f64).sum();
    let used = blocks.iter().filter(|block| block.judged > 0).count() as f64;
    let squares: f64 = blocks
        .iter()
        .map(|block| (block.good as f64 - share * block.judged as f64).powi(2))
        .sum();
    let over_blocks = squares * used / (used - 1.0).max(1.0) / (judged * judged);
    let smoothed = (share * judged + 0.5) / (judged + 1.0);
    let over_requests = smoothed * (1.0 - smoothed) / judged;
    over_blocks.max(over_requests).sqrt()
}

/// Share against load, near the capacity.
struct Curve<'a> {
    runs: Vec<&'a Segment>,
    unit: LoadUnit,
    /// Of the bracket.
    middle: f64,
    target: f64,
}

/// One run of it.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// Logarithm of its load over the middle of the bracket.
    x: f64,
    good: f64,
    judged: f64,
}

impl Curve<'_> {
    fn blocks(&self) -> Vec<Vec<GoodBlock>> {
        self.runs.iter().map(|run| run.blocks.clone()).collect()
    }

    fn regression(&self, blocks: &[Vec<GoodBlock>]) -> Option<Line> {
        let runs = self.runs.iter().zip(blocks);
        let points = runs.map(|(run, blocks)| self.point(run, blocks));
        let points: Vec<Point> = points.filter(|point| point.judged > 0.0).collect();
        logistic_regression(&points, self.target)
    }

    /// Where the regression crosses the target, with these blocks for the runs'.
    fn crossing(&self, blocks: &[Vec<GoodBlock>]) -> Option<f64> {
        let line = self.regression(blocks)?;
        Some(self.middle * ((log_odds(self.target) - line.level) / line.slope).exp())
    }

    /// No run is further off the regression than chance explains. Late requests come together, so
    /// that is more than for independent ones: by as much as shares of blocks vary more.
    fn fits(&self) -> bool {
        let Some(line) = self.regression(&self.blocks()) else {
            return false;
        };
        let independent = |share: f64, judged: f64| share * (1.0 - share) / judged;
        let (mut blocks, mut requests) = (0.0, 0.0);
        let mut found = Vec::new();
        for run in &self.runs {
            let point = self.point(run, &run.blocks);
            let Some(share) = share(&run.blocks) else {
                continue;
            };
            blocks += standard_error(&run.blocks, share).powi(2);
            requests += independent(share, point.judged);
            found.push((point, share));
        }
        let together = (blocks / requests).max(1.0);
        found.iter().all(|&(point, share)| {
            let expected = line.share(point.x);
            let error = (together * independent(expected, point.judged)).sqrt();
            (share - expected).abs() <= OFF * error
        })
    }

    fn point(&self, run: &Segment, blocks: &[GoodBlock]) -> Point {
        let sum = |count: fn(&GoodBlock) -> u64| blocks.iter().map(count).sum::<u64>() as f64;
        let load = match self.unit {
            LoadUnit::RequestsPerSecond => sum(|block| block.arrived) / run.window_s,
            LoadUnit::Users => run.load,
        };
        Point {
            x: (load / self.middle).ln(),
            good: sum(|block| block.good),
            judged: sum(|block| block.judged),
        }
    }

    /// The crossings of resampled blocks, less [`TAIL`] at each end. A resample whose shares do not
    /// fall is beyond either end; with too many of them there is no interval.
    fn interval(&self) -> Option<(f64, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut resampled = |run: &&Segment| {
            let blocks = &run.blocks;
            let draw = |_| blocks[rng.random_range(0..blocks.len())];
            (0..blocks.len()).map(draw).collect()
        };
        let mut crossings: Vec<f64> = (0..RESAMPLES)
            .filter_map(|_| {
                let blocks: Vec<Vec<GoodBlock>> = self.runs.iter().map(&mut resampled).collect();
                self.crossing(&blocks)
            })
            .collect();
        crossings.sort_by(f64::total_cmp);
        let unknown = RESAMPLES - crossings.len();
        let tail = (RESAMPLES as f64 * TAIL) as usize;
        let cut = tail.checked_sub(unknown)?;
        Some((crossings[cut], crossings[crossings.len() - 1 - cut]))
    }
}

/// Log-odds of the share against `x`.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// At `x = 0`.
    level: f64,
    slope: f64,
}

impl Line {
    fn share(self, x: f64) -> f64 {
        1.0 / (1.0 + (-(self.level + self.slope * x)).exp())
    }
}

fn log_odds(share: f64) -> f64 {
    (share / (1.0 - share)).ln()
}

/// By Newton's method from the target's level; `None` when shares do not fall.
fn logistic_regression(points: &[Point], target: f64) -> Option<Line> {
    /// Keeps what separates perfectly, or has one load, from having no solution.
    const RIDGE: f64 = 1e-6;
    /// Longest step of level and slope: further, the next would start where the curve is flat.
    const STEPS: (f64, f64) = (2.0, 30.0);
    let mut line = Line {
        level: log_odds(target),
        slope: -20.0,
    };
    for _ in 0..60 {
        let mut gradient = (0.0, 0.0);
        let mut curvature = (RIDGE, 0.0, RIDGE);
        for &Point { x, good, judged } in points {
            let share = line.share(x);
            let excess = good - judged * share;
            let weight = judged * share * (1.0 - share);
            gradient = (gradient.0 + excess, gradient.1 + excess * x);
            curvature.0 += weight;
            curvature.1 += weight * x;
            curvature.2 += weight * x * x;
        }
        let (a, b, c) = curvature;
        let determinant = a * c - b * b;
        let step = (
            (c * gradient.0 - b * gradient.1) / determinant,
            (a * gradient.1 - b * gradient.0) / determinant,
        );
        let size = (step.0.abs() / STEPS.0).max(step.1.abs() / STEPS.1);
        let shorter = 1.0 / size.max(1.0);
        line.level += step.0 * shorter;
        line.slope += step.1 * shorter;
        if size < 1e-9 {
            break;
        }
    }
    (line.slope < -1.0 && line.level.is_finite()).then_some(line)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "loads are passed on, not computed")]
mod tests {
    use super::*;

    const GOAL: Goal = Goal {
        share: 0.95,
        start: 12.0,
        precision: 0.03,
        unit: LoadUnit::RequestsPerSecond,
        most: 1e6,
        most_runs: 24,
    };

    /// Two places that each serve one request at a time, in the order in which they come; a request
    /// is good when it waits no longer than `PATIENCE_S`.
    struct Queue {
        rng: ChaCha8Rng,
    }

    const SERVICE_S: f64 = 0.064;
    const PATIENCE_S: f64 = 0.0965;
    /// Poisson arrivals at which 95 % are good, from a run of 55 hours (see `the_knee_is_there`).
    const KNEE: f64 = 19.92;

    impl Queue {
        fn run(&mut self, load: f64, window_s: f64) -> Segment {
            const WARM_UP_S: f64 = 10.0;
            let mut blocks = vec![GoodBlock::default(); (window_s / 4.0) as usize];
            let mut free_s = [0.0_f64; 2];
            let mut now_s = 0.0;
            loop {
                now_s -= (1.0 - self.rng.random::<f64>()).ln() / load;
                if now_s >= WARM_UP_S + window_s {
                    break;
                }
                let start_s = free_s[0].max(now_s);
                free_s[0] = start_s + SERVICE_S;
                free_s.sort_by(f64::total_cmp);
                if now_s >= WARM_UP_S {
                    let block = &mut blocks[((now_s - WARM_UP_S) / 4.0) as usize];
                    block.arrived += 1;
                    block.judged += 1;
                    block.good += u64::from(start_s - now_s <= PATIENCE_S);
                }
            }
            Segment {
                load,
                window_s,
                blocks,
                valid: true,
            }
        }
    }

    fn search(goal: Goal, mut run: impl FnMut(f64) -> Segment) -> (Capacity, usize) {
        let mut search = Search::new(goal);
        for runs in 0..100 {
            match search.next() {
                Next::Run { load } => search.add(run(load)),
                Next::Done(found) => return (found, runs),
            }
        }
        panic!("a search ends");
    }

    fn all_alike(load: f64, good: u64, valid: bool) -> Segment {
        let block = GoodBlock {
            arrived: 100,
            judged: 100,
            good,
        };
        Segment {
            load,
            window_s: 1500.0 / load,
            blocks: vec![block; 15],
            valid,
        }
    }

    #[test]
    fn the_knee_is_there() {
        let rng = ChaCha8Rng::seed_from_u64(1);
        let segment = Queue { rng }.run(KNEE, 200_000.0);
        let share = share(&segment.blocks).expect("requests came");
        assert!((share - 0.95).abs() < 0.001, "{share}");
    }

    #[test]
    fn a_known_knee_is_found_and_covered() {
        let (mut near, mut covered, mut narrow, mut runs) = (0, 0, 0, 0);
        let trials = 100;
        for seed in 0..trials {
            let rng = ChaCha8Rng::seed_from_u64(seed);
            let mut queue = Queue { rng };
            let (found, took) = search(GOAL, |load| queue.run(load, 80.0));
            let load = found.load.expect("there is a knee");
            let (low, high) = found.ci95.expect("and an interval");
            near += usize::from((load / KNEE - 1.0).abs() < 0.03);
            covered += usize::from((low..=high).contains(&KNEE));
            narrow += usize::from(low > load / 1.031 && high < load * 1.031);
            runs += took;
        }
        assert!(near >= 92, "within 3 %: {near} of {trials}");
        assert!(covered >= 90, "covered: {covered} of {trials}");
        // The others ran out of runs.
        assert!(narrow >= 70, "as narrow as asked: {narrow} of {trials}");
        assert!(runs < 24 * trials as usize, "{runs} runs");
    }

    #[test]
    fn a_cliff_is_found_between_its_ends() {
        let (found, runs) = search(GOAL, |load| {
            all_alike(load, if load < 50.0 { 100 } else { 20 }, true)
        });
        let (load, (low, high)) = (found.load.expect("found"), found.ci95.expect("found"));
        assert!((load / 50.0 - 1.0).abs() < 0.03, "{load}");
        assert!(
            low < 50.0 && 50.0 < high && high / low < 1.07,
            "{low} {high}"
        );
        assert!(runs < 20, "{runs}");
    }

    #[test]
    fn one_invalid_run_is_repeated_and_two_fail() {
        let mut search = Search::new(GOAL);
        search.add(all_alike(12.0, 100, false));
        assert_eq!(search.next(), Next::Run { load: 12.0 });
        search.add(all_alike(12.0, 100, true));
        assert_eq!(search.decision(12.0), Some(Decision::Pass));
        let mut search = Search::new(GOAL);
        search.add(all_alike(12.0, 100, false));
        search.add(all_alike(12.0, 100, false));
        assert_eq!(search.decision(12.0), Some(Decision::Fail));
        let mut search = Search::new(GOAL);
        search.add(all_alike(12.0, 20, false));
        assert_eq!(search.decision(12.0), Some(Decision::Fail), "late as well");
    }

    #[test]
    fn too_few_requests_give_no_interval_rather_than_a_narrow_one() {
        // One request in a hundred is late, whatever the load, but for a load that is never met.
        let few = |load: f64, late: bool| {
            let block = |good| GoodBlock {
                arrived: 7,
                judged: 7,
                good,
            };
            let mut blocks = vec![block(7); 15];
            blocks[3] = block(if late { 0 } else { 6 });
            Segment {
                load,
                window_s: 105.0 / load,
                blocks,
                valid: true,
            }
        };
        let goal = Goal {
            share: 0.97,
            ..GOAL
        };
        let (found, runs) = search(goal, |load| few(load, load > 20.0));
        assert!(runs >= goal.most_runs, "{runs}: more runs were tried");
        let wide = found.ci95.is_none_or(|(low, high)| high / low > 1.06);
        assert!(wide, "{found:?}");
    }

    #[test]
    fn what_validity_decides_has_the_bracket_for_an_interval() {
        let (found, _) = search(GOAL, |load| all_alike(load, 100, load < 50.0));
        assert_eq!(found.ci95, found.passed.zip(found.failed));
        assert!(found.remarks[0].contains("INVALID"), "{:?}", found.remarks);
    }

    #[test]
    fn systems_without_a_knee_say_so() {
        let goal = Goal { most: 64.0, ..GOAL };
        let (found, _) = search(goal, |load| all_alike(load, 100, true));
        assert_eq!(
            (found.passed, found.failed, found.load),
            (Some(64.0), None, None)
        );
        assert!(found.remarks[0].contains("higher than the highest load"));
        for (good, valid) in [(10, true), (100, false)] {
            let (found, _) = search(goal, |load| all_alike(load, good, valid));
            assert_eq!((found.passed, found.load), (None, None));
            assert!(found.remarks[0].contains("no load met the SLO"));
        }
    }

    #[test]
    fn whole_loads_end_next_to_each_other() {
        let goal = Goal {
            unit: LoadUnit::Users,
            start: 1.0,
            ..GOAL
        };
        let (found, _) = search(goal, |load| {
            assert_eq!(load.fract(), 0.0);
            all_alike(load, if load <= 11.0 { 100 } else { 20 }, true)
        });
        assert_eq!((found.passed, found.failed), (Some(11.0), Some(12.0)));
    }

    #[test]
    fn close_shares_take_more_segments() {
        let mut search = Search::new(GOAL);
        search.add(all_alike(1.0, 95, true));
        assert_eq!(search.decision(1.0), Some(Decision::Open));
        search.add(all_alike(1.0, 95, true));
        assert_eq!(search.next(), Next::Run { load: 1.0 });
        search.add(all_alike(1.0, 95, true));
        assert_eq!(search.decision(1.0), Some(Decision::Pass));
        let mut search = Search::new(GOAL);
        search.add(all_alike(1.0, 80, true));
        assert_eq!(search.decision(1.0), Some(Decision::Fail));
        assert_eq!(search.share(1.0), Some(0.8));
        assert_eq!(search.decision(2.0), None);
    }
}
