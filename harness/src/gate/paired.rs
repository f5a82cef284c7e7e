//! Two commands in pairs, in random order.
//!
//! Which of a pair comes first is decided by a coin, so that two pairs make a block of ABBA, BAAB,
//! ABAB or BABA. What the test does, flipping the sign of a pair's difference, is then exactly what
//! the coin would have done to equal commands, whatever the machine did meanwhile. Only ABBA and
//! BAAB would cancel a steady drift, but leave one coin for four runs; `docs/gate.md` has what that
//! would cost.
//!
//! Invariant: the number of runs is fixed before the first; nothing that is measured changes it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use backends::Clock;
use rand::Rng as _;
use reports::gate::{
    Figures, GATE_SCHEMA_VERSION, GateReport, Rule, Run, Side, Tier, Verdict, judge_pairs, overall,
    pairs_needed,
};

use super::command::{Program, Ran};
use super::exact;
use super::metric::{GateMetric, Given, WALL, shown};
use super::stored::Stored;
use crate::cmd::note;
use crate::random::{Purpose, stream};
use crate::units::show_duration;

/// What is to be run.
#[derive(Debug)]
pub struct Plan {
    /// Baseline and candidate.
    pub programs: [Program; 2],
    /// What decides.
    pub metrics: Vec<GateMetric>,
    /// Pairs of runs.
    pub pairs: usize,
    /// What counts as a difference.
    pub rule: Rule,
    /// Of the order of runs.
    pub seed: u64,
    /// For one run.
    pub timeout: Duration,
}

const NAMES: [&str; 2] = ["A", "B"];

/// Which side comes when: `0` is A.
fn order(pairs: usize, seed: u64) -> Vec<usize> {
    let mut coin = stream(seed, Purpose::GateOrder, 0);
    let pair = |_| {
        let first = usize::from(coin.random::<bool>());
        [first, 1 - first]
    };
    (0..pairs).flat_map(pair).collect()
}

/// Runs the plan and judges what came of it.
pub async fn run(plan: &Plan, clock: &Clock) -> Result<GateReport> {
    let folder = tempfile::Builder::new()
        .prefix("weighbridge-gate-")
        .tempdir()?;
    let mut runs = Vec::new();
    let mut warm = Vec::new();
    for (side, name) in NAMES.into_iter().enumerate() {
        let place = folder.path().join(format!("warm-up-{name}"));
        let ran = once(plan, side, &place, clock).await;
        let ran = ran.with_context(|| about(plan, side, "warm-up"))?;
        runs.push(recorded(plan, side, 0, &ran)?);
        warm.push(ran);
    }
    if let Some(report) = exactly(plan, &warm, folder.path())? {
        return Ok(report);
    }
    note(&format!(
        "warm-up done, not counted; {} pairs follow, each in random order",
        plan.pairs
    ));
    for (index, side) in order(plan.pairs, plan.seed).into_iter().enumerate() {
        let pair = index / 2 + 1;
        let place = folder.path().join(format!("{}-{}", index + 1, NAMES[side]));
        let ran = once(plan, side, &place, clock).await;
        let ran = ran.with_context(|| about(plan, side, &format!("pair {pair}")))?;
        let run = recorded(plan, side, pair, &ran)
            .with_context(|| about(plan, side, &format!("pair {pair}")))?;
        note(&progress(plan, &run));
        runs.push(run);
        // A long gate would otherwise fill the disk.
        std::fs::remove_dir_all(&place).with_context(|| format!("`{}`", place.display()))?;
    }
    Ok(judge(plan, runs, &warm))
}

async fn once(plan: &Plan, side: usize, place: &Path, clock: &Clock) -> Result<Ran> {
    std::fs::create_dir(place).with_context(|| format!("`{}`", place.display()))?;
    let wants_output = plan.metrics.iter().any(|metric| metric.name != WALL);
    plan.programs[side]
        .run(place, plan.timeout, wants_output, clock)
        .await
}

fn about(plan: &Plan, side: usize, when: &str) -> String {
    format!("{} (`{}`), {when}", NAMES[side], plan.programs[side].text)
}

/// One line for each run.
fn progress(plan: &Plan, run: &Run) -> String {
    let figures = plan.metrics.iter().filter_map(|metric| {
        let value = run.figures.get(&metric.name)?;
        Some(match metric.unit() {
            Some(_) => format!("{} {}", metric.name, show_duration(*value)),
            None => format!("{} {value:.4}", metric.name),
        })
    });
    let figures: Vec<String> = figures.collect();
    let invalid = run.invalid.as_ref().map_or("", |_| "  INVALID");
    format!(
        "pair {}/{} {}  {}{invalid}",
        run.pair,
        plan.pairs,
        run.side,
        figures.join("  ")
    )
}

/// The figures of a run. One that is VALID has all that decide.
fn recorded(plan: &Plan, side: usize, pair: usize, ran: &Ran) -> Result<Run> {
    let mut figures = BTreeMap::new();
    for metric in &plan.metrics {
        match metric.read(&ran.given, ran.wall_s) {
            Ok(value) => drop(figures.insert(metric.name.clone(), value)),
            Err(_) if ran.invalid.is_some() => {}
            Err(message) => return Err(anyhow!(message)),
        }
    }
    if let Given::Report(..) = ran.given {
        let read = |metric: GateMetric| {
            Some((
                metric.name.clone(),
                metric.read(&ran.given, ran.wall_s).ok()?,
            ))
        };
        figures.extend(shown(&plan.metrics).into_iter().filter_map(read));
    }
    let side = NAMES[side].to_owned();
    Ok(Run {
        side,
        pair,
        figures,
        invalid: ran.invalid.clone(),
    })
}

/// If time was virtual the first run of each says all.
fn exactly(plan: &Plan, warm: &[Ran], folder: &Path) -> Result<Option<GateReport>> {
    let is_virtual = |ran: &Ran| match &ran.given {
        Given::Report(report, _) => report.target.virtual_time,
        Given::Json(_) | Given::Nothing => false,
    };
    match [is_virtual(&warm[0]), is_virtual(&warm[1])] {
        [false, false] => return Ok(None),
        [true, true] => {}
        _ => bail!("one side ran in virtual time and the other did not; they cannot be compared"),
    }
    let stored = |side: usize| {
        let Given::Report(report, value) = &warm[side].given else {
            return None;
        };
        Some(Stored {
            name: plan.programs[side].text.clone(),
            folder: Some(folder.join(format!("warm-up-{}", NAMES[side])).join("out")),
            report: (**report).clone(),
            value: value.clone(),
        })
    };
    let (Some(one), Some(other)) = (stored(0), stored(1)) else {
        return Ok(None);
    };
    exact::virtual_time(&one, &other, plan.rule).map(Some)
}

fn judge(plan: &Plan, runs: Vec<Run>, warm: &[Ran]) -> GateReport {
    let mut all: Vec<(GateMetric, bool)> = plan
        .metrics
        .iter()
        .map(|metric| (metric.clone(), true))
        .collect();
    if plan.programs.iter().all(Program::gives_report) {
        all.extend(
            shown(&plan.metrics)
                .into_iter()
                .map(|metric| (metric, false)),
        );
    }
    let figures = all
        .iter()
        .filter_map(|(metric, decides)| by_pair(metric, *decides, &runs));
    let figures: Vec<Figures> = figures.collect();
    let metrics = judge_pairs(&figures, plan.rule);
    let (mut verdict, mut reasons) = overall(&metrics, plan.rule);
    let needed = pairs_needed(plan.rule.alpha / plan.metrics.len() as f64);
    if plan.pairs < needed {
        reasons.push(format!(
            "{} pairs: a verdict of better or worse needs {needed}",
            plan.pairs
        ));
    }
    let invalid: Vec<&Run> = runs
        .iter()
        .filter(|run| run.pair > 0 && run.invalid.is_some())
        .collect();
    if let Some(first) = invalid.first() {
        verdict = Verdict::Inconclusive;
        let count = |side: &str| invalid.iter().filter(|run| run.side == side).count();
        let why = first.invalid.as_deref().unwrap_or_default();
        let reason = format!(
            "INVALID runs: {} of A, {} of B; the first ({}, pair {}): {why}",
            count("A"),
            count("B"),
            first.side,
            first.pair
        );
        reasons.insert(0, reason);
    }
    let counted = |name: &str| {
        runs.iter()
            .filter(|run| run.side == name && run.pair > 0 && run.invalid.is_none())
            .count()
    };
    let side = |index: usize| Side {
        source: plan.programs[index].text.clone(),
        runs: counted(NAMES[index]),
    };
    GateReport {
        schema_version: GATE_SCHEMA_VERSION,
        verdict,
        reasons,
        tier: Tier::Paired,
        weakness: unlike(warm),
        baseline: side(0),
        candidate: side(1),
        margin: plan.rule.margin,
        alpha: plan.rule.alpha,
        seed: Some(plan.seed),
        metrics,
        changes: Vec::new(),
        runs,
    }
}

/// The figures of one metric by pair; a pair with an INVALID run is not there. `None` when a run
/// that counts has no such figure.
fn by_pair(metric: &GateMetric, decides: bool, runs: &[Run]) -> Option<Figures> {
    let (mut baseline, mut candidate) = (Vec::new(), Vec::new());
    let counted: Vec<&Run> = runs.iter().filter(|run| run.pair > 0).collect();
    for pair in counted.chunks(2) {
        if pair.iter().any(|run| run.invalid.is_some()) {
            continue;
        }
        for run in pair {
            let figures = if run.side == NAMES[0] {
                &mut baseline
            } else {
                &mut candidate
            };
            figures.push(*run.figures.get(&metric.name)?);
        }
    }
    Some(Figures {
        name: metric.name.clone(),
        unit: metric.unit(),
        more_is_better: metric.more_is_better,
        decides,
        baseline,
        candidate,
    })
}

/// Were the sides given different loads?
fn unlike(warm: &[Ran]) -> Option<String> {
    let hash = |ran: &Ran| match &ran.given {
        Given::Report(report, _) => Some(report.run.schedule_hash.clone()),
        Given::Json(_) | Given::Nothing => None,
    };
    let (one, other) = (hash(&warm[0])?, hash(&warm[1])?);
    (one != other).then(|| {
        format!(
            "A and B were given different loads (schedules {one} and {other}): the difference is \
             that of the loads too."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_has_both_sides_in_an_order_by_the_seed() {
        let runs = order(200, 1);
        assert_eq!(runs.len(), 400);
        for pair in runs.chunks(2) {
            assert_eq!(pair[0] + pair[1], 1);
        }
        let first_a = runs.iter().step_by(2).filter(|&&side| side == 0).count();
        assert!(
            (70..=130).contains(&first_a),
            "{first_a} of 200 pairs begin with A"
        );
        assert_eq!(runs, order(200, 1));
        assert_ne!(runs, order(200, 2));
    }
}
