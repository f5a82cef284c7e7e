//! The highest load that still meets the SLO: which load to try next, and what was found.
//!
//! A load *passes* when the share of requests that meet the SLO is at least the target. Each load
//! is tried in segments, every one a run with prompts of its own, until a sequential test decides:
//! at each of up to [`LOOKS`] looks the share is held against the target with the standard error
//! over blocks of time, beyond Pocock's boundary; at the last look the share itself decides. Loads
//! are doubled or halved until one passes and one fails, then the bracket is bisected.
//!
//! The capacity is where the isotonic curve of all shares against load crosses the target; its
//! interval comes from resampling the blocks of every load.
//!
//! Invariant: [`Search`] is a pure function of the segments it was given. A run that is INVALID
//! never passes. What it does not do: run anything.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stats::percentile_interval;

/// Segments of one load at most.
pub const LOOKS: usize = 3;
/// Pocock's boundary for three looks, one-sided 5 %.
const BOUNDARY: f64 = 1.992;
/// Resamples of the interval.
const RESAMPLES: usize = 400;
const SEED: u64 = 0x0077_6569_6768_0003;
/// A search that has not found a bracket by then is given up.
const MOST_STEPS: usize = 24;

/// Requests of one block of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GoodBlock {
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
    /// Bracket over which bisection stops, as a ratio: 1.03 for 3 %.
    pub bracket: f64,
    /// Loads are whole numbers: users.
    pub whole: bool,
    /// No load above is tried.
    pub most: f64,
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
}

/// All segments of one load.
#[derive(Debug, Clone, Default)]
struct Level {
    blocks: Vec<GoodBlock>,
    segments: usize,
    invalid: usize,
}

impl Search {
    /// Begins.
    pub fn new(goal: Goal) -> Self {
        Self {
            goal,
            segments: Vec::new(),
        }
    }

    /// Takes a finished segment.
    pub fn add(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    /// What became of a load so far.
    pub fn decision(&self, load: f64) -> Decision {
        let levels = self.levels();
        let level = levels.get(&load.to_bits());
        level.map_or(Decision::Open, |level| decide(level, self.goal.share))
    }

    /// Share of the requests of a load that met the SLO.
    pub fn share(&self, load: f64) -> Option<f64> {
        let levels = self.levels();
        levels
            .get(&load.to_bits())
            .and_then(|level| share(&level.blocks))
    }

    /// What to do next.
    pub fn next(&self) -> Next {
        let levels = self.levels();
        let decided: Vec<(f64, Decision)> = levels
            .iter()
            .map(|(&bits, level)| (f64::from_bits(bits), decide(level, self.goal.share)))
            .collect();
        if let Some(&(load, _)) = decided
            .iter()
            .find(|(_, decision)| *decision == Decision::Open)
        {
            return Next::Run { load };
        }
        let failing =
            |&(load, decision): &(f64, Decision)| (decision == Decision::Fail).then_some(load);
        let failed = decided.iter().filter_map(failing).reduce(f64::min);
        let passing = |&(load, decision): &(f64, Decision)| {
            let below = failed.is_none_or(|failed| load < failed);
            (decision == Decision::Pass && below).then_some(load)
        };
        let passed = decided.iter().filter_map(passing).reduce(f64::max);
        match self.candidate(passed, failed, decided.len()) {
            Some(load) => Next::Run { load },
            None => Next::Done(self.found(&levels, passed, failed)),
        }
    }

    /// The load to try, unless the bracket is narrow enough or there is none to be had.
    fn candidate(&self, passed: Option<f64>, failed: Option<f64>, steps: usize) -> Option<f64> {
        let Goal {
            start,
            bracket,
            whole,
            most,
            ..
        } = self.goal;
        if steps >= MOST_STEPS {
            return None;
        }
        let round = |load: f64| if whole { load.round().max(1.0) } else { load };
        let next = match (passed, failed) {
            (None, None) => round(start.min(most)),
            (Some(passed), None) => round((passed * 2.0).min(most)),
            (None, Some(failed)) => round(failed / 2.0),
            (Some(passed), Some(failed)) if failed / passed > bracket => {
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
        for segment in &self.segments {
            // Loads are positive, so their bits are in their order.
            let level = levels.entry(segment.load.to_bits()).or_default();
            level.blocks.extend(&segment.blocks);
            level.segments += 1;
            level.invalid += usize::from(!segment.valid);
        }
        levels
    }

    fn found(
        &self,
        levels: &BTreeMap<u64, Level>,
        passed: Option<f64>,
        failed: Option<f64>,
    ) -> Capacity {
        let mut remarks = Vec::new();
        if passed.is_none() {
            remarks.push("no load met the SLO, however small".to_owned());
        }
        if failed.is_none() && passed.is_some() {
            remarks
                .push("no load failed: the capacity is higher than the highest load tried".into());
        }
        let mut load = None;
        let mut ci95 = None;
        if let (Some(passed), Some(failed)) = (passed, failed) {
            let points: Vec<(f64, &[GoodBlock])> = levels
                .iter()
                .map(|(&bits, level)| (f64::from_bits(bits), level.blocks.as_slice()))
                .collect();
            let shares: Vec<Point> = points
                .iter()
                .map(|(load, blocks)| Point::of(*load, blocks.iter().copied()))
                .collect();
            let crossing = crossing(&shares, self.goal.share);
            let estimate = crossing.unwrap_or_else(|| (passed * failed).sqrt());
            load = Some(estimate);
            let (low, high) = interval(&points, self.goal.share);
            // No finer than the loads that were tried.
            let half = (failed / passed).sqrt();
            ci95 = Some((low.min(estimate / half), high.max(estimate * half)));
        }
        Capacity {
            load,
            ci95,
            passed,
            failed,
            remarks,
        }
    }
}

fn share(blocks: &[GoodBlock]) -> Option<f64> {
    let judged: u64 = blocks.iter().map(|block| block.judged).sum();
    let good: u64 = blocks.iter().map(|block| block.good).sum();
    (judged > 0).then(|| good as f64 / judged as f64)
}

/// The sequential test.
fn decide(level: &Level, target: f64) -> Decision {
    let last = level.segments >= LOOKS;
    if level.invalid * 2 > level.segments || (last && level.invalid > 0) {
        return Decision::Fail;
    }
    let Some(share) = share(&level.blocks) else {
        return if last { Decision::Fail } else { Decision::Open };
    };
    let z = (share - target) / standard_error(&level.blocks, share);
    match z {
        _ if level.invalid > 0 => Decision::Open,
        z if z >= BOUNDARY => Decision::Pass,
        z if z <= -BOUNDARY => Decision::Fail,
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

/// A load and its share, for the curve.
#[derive(Debug, Clone, Copy)]
struct Point {
    load: f64,
    good: f64,
    judged: f64,
}

impl Point {
    fn of(load: f64, blocks: impl Iterator<Item = GoodBlock>) -> Self {
        let sum = |(good, judged): (u64, u64), block: GoodBlock| {
            (good + block.good, judged + block.judged)
        };
        let (good, judged) = blocks.fold((0, 0), sum);
        Self {
            load,
            good: good as f64,
            judged: judged as f64,
        }
    }

    /// Log-odds of the share, half a request away from nought and one.
    fn logit(self) -> f64 {
        ((self.good + 0.5) / (self.judged - self.good + 0.5)).ln()
    }
}

/// Where the curve, made to fall, goes through the target: straight lines between log-odds against
/// the logarithm of load. `None` when it does not.
fn crossing(points: &[Point], target: f64) -> Option<f64> {
    // Pool adjacent violators.
    let mut pools: Vec<(Point, f64)> = Vec::new();
    for &point in points.iter().filter(|point| point.judged > 0.0) {
        let mut pool = (point, point.load.ln() * point.judged);
        while let Some(last) = pools.last() {
            if last.0.logit() > pool.0.logit() {
                break;
            }
            pool.0.good += last.0.good;
            pool.0.judged += last.0.judged;
            pool.1 += last.1;
            pools.pop();
        }
        pools.push(pool);
    }
    let odds = (target / (1.0 - target)).ln();
    let at = |&(point, log_loads): &(Point, f64)| (log_loads / point.judged, point.logit());
    pools.windows(2).find_map(|pair| {
        let ((x0, y0), (x1, y1)) = (at(&pair[0]), at(&pair[1]));
        (y0 >= odds && odds > y1).then(|| (x0 + (y0 - odds) / (y0 - y1) * (x1 - x0)).exp())
    })
}

/// 2.5 % and 97.5 % of the crossings of resampled blocks.
fn interval(levels: &[(f64, &[GoodBlock])], target: f64) -> (f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut crossings: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let points: Vec<Point> = levels
                .iter()
                .map(|&(load, blocks)| {
                    let draw = |_| blocks[rng.random_range(0..blocks.len())];
                    Point::of(load, (0..blocks.len()).map(draw))
                })
                .collect();
            crossing(&points, target)
        })
        .collect();
    percentile_interval(&mut crossings, f64::total_cmp).unwrap_or((f64::MAX, 0.0))
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "loads are passed on, not computed")]
mod tests {
    use super::*;

    const GOAL: Goal = Goal {
        share: 0.95,
        start: 1.0,
        bracket: 1.03,
        whole: false,
        most: 1e6,
    };

    /// A made-up system whose share is 95 % at a load of `knee`; each block has its own luck.
    fn run(load: f64, knee: f64, rng: &mut ChaCha8Rng) -> Segment {
        let odds = (0.95_f64 / 0.05).ln() - 40.0 * (load / knee).ln();
        let blocks = (0..15)
            .map(|_| {
                let luck = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
                let share = 1.0 / (1.0 + (-(odds + 0.5 * luck)).exp());
                let judged = 80;
                let good = (0..judged).filter(|_| rng.random::<f64>() < share).count();
                GoodBlock {
                    good: good as u64,
                    judged,
                }
            })
            .collect();
        Segment {
            load,
            blocks,
            valid: true,
        }
    }

    fn search(knee: f64, seed: u64) -> (Capacity, usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut search = Search::new(GOAL);
        for runs in 0..100 {
            match search.next() {
                Next::Run { load } => search.add(run(load, knee, &mut rng)),
                Next::Done(found) => return (found, runs),
            }
        }
        panic!("a search ends");
    }

    #[test]
    fn a_known_knee_is_found_and_covered() {
        // Log-odds vary between blocks, so the mean share reaches 95 % a little below the knee.
        let truth = |knee: f64| knee * 0.997;
        let (mut near, mut covered, mut runs) = (0, 0, 0);
        let trials = 200;
        for seed in 0..trials {
            let knee = 1.7 * 1.13_f64.powi(seed as i32 % 40);
            let (found, took) = search(knee, seed);
            let load = found.load.expect("there is a knee");
            let (low, high) = found.ci95.expect("and an interval");
            near += usize::from((load / truth(knee) - 1.0).abs() < 0.03);
            covered += usize::from((low..=high).contains(&truth(knee)));
            runs += took;
        }
        assert!(near >= 190, "within 3 %: {near} of {trials}");
        assert!(covered >= 180, "covered: {covered} of {trials}");
        assert!(runs < 25 * trials as usize, "{runs} runs");
    }

    #[test]
    fn systems_without_a_knee_say_so() {
        let all = |valid: bool, good: u64| {
            let mut search = Search::new(Goal { most: 64.0, ..GOAL });
            for _ in 0..100 {
                match search.next() {
                    Next::Run { load } => search.add(Segment {
                        load,
                        blocks: vec![GoodBlock { good, judged: 100 }; 15],
                        valid,
                    }),
                    Next::Done(found) => return found,
                }
            }
            panic!("a search ends");
        };
        let found = all(true, 100);
        assert_eq!(
            (found.passed, found.failed, found.load),
            (Some(64.0), None, None)
        );
        assert!(found.remarks[0].contains("higher than the highest load"));
        for found in [all(true, 10), all(false, 100)] {
            assert_eq!((found.passed, found.load), (None, None));
            assert!(found.remarks[0].contains("no load met the SLO"));
        }
    }

    #[test]
    fn whole_loads_end_next_to_each_other() {
        let mut search = Search::new(Goal {
            whole: true,
            ..GOAL
        });
        let found = loop {
            match search.next() {
                Next::Run { load } => {
                    assert_eq!(load.fract(), 0.0);
                    let good = if load <= 11.0 { 100 } else { 20 };
                    search.add(Segment {
                        load,
                        blocks: vec![GoodBlock { good, judged: 100 }; 15],
                        valid: true,
                    });
                }
                Next::Done(found) => break found,
            }
        };
        assert_eq!((found.passed, found.failed), (Some(11.0), Some(12.0)));
    }

    #[test]
    fn close_shares_take_more_segments() {
        let mut search = Search::new(GOAL);
        let near = |good| Segment {
            load: 1.0,
            blocks: vec![GoodBlock { good, judged: 100 }; 15],
            valid: true,
        };
        search.add(near(95));
        assert_eq!(search.decision(1.0), Decision::Open);
        search.add(near(95));
        assert_eq!(search.next(), Next::Run { load: 1.0 });
        search.add(near(95));
        assert_eq!(search.decision(1.0), Decision::Pass);
        let mut search = Search::new(GOAL);
        search.add(near(80));
        assert_eq!(search.decision(1.0), Decision::Fail);
        assert_eq!(search.share(1.0), Some(0.8));
    }
}
