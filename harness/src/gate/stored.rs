//! Result folders of earlier runs: reading them, and whether they may be compared.
//!
//! Invariant: two results are compared only if load, model, target and machine are the same, or the
//! user said that they may differ; then the differences are in the report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use reports::Report;
use reports::gate::{
    Figures, GATE_SCHEMA_VERSION, GateReport, MAX_VALUES, MetricResult, Rule, Side, Tier, Verdict,
    judge_runs, judge_single, overall, runs_needed,
};
use reports::schema::SCHEMA_VERSION;
use serde_json::Value;

use super::exact;
use super::metric::{GateMetric, Given, shown};
use crate::versioned;

const WEAK_SINGLE: &str = "One run of each cannot tell a change of the program from a change of \
    the machine: the interval knows only how requests differ within a run. On a machine that \
    drifts by 4 %, one comparison of equal programs in nine is called worse. Use `--ab` before \
    anybody acts on this.";
const WEAK_RUNS: &str = "The two sides were measured at different times: whatever else changed \
    on the machine between them looks like a difference of the programs. On a machine that drifts \
    by 4 %, with the runs of a side in one go, one comparison of equal programs in seven is called \
    worse. Use `--ab` where both can still be run.";

/// A result that was stored.
#[derive(Debug)]
pub struct Stored {
    /// As the user named it.
    pub name: String,
    /// Its folder, if it was named by that.
    pub folder: Option<PathBuf>,
    /// The report.
    pub report: Report,
    /// The same as JSON.
    pub value: Value,
}

/// Reads result folders or files, all different ones.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Stored>> {
    ensure!(
        paths.len() <= MAX_VALUES / 2,
        "{} reports of one side; accepted are up to {}",
        paths.len(),
        MAX_VALUES / 2
    );
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for path in paths {
        let folder = path.is_dir().then(|| path.clone());
        let file = folder
            .as_ref()
            .map_or_else(|| path.clone(), |folder| folder.join("report.json"));
        let (report, value) = versioned::read::<Report>(&file, SCHEMA_VERSION)?;
        ensure!(
            seen.insert(file.canonicalize().unwrap_or(file)),
            "`{}` is given twice; a run counts once",
            path.display()
        );
        all.push(Stored {
            name: path.display().to_string(),
            folder,
            report,
            value,
        });
    }
    Ok(all)
}

/// Judges stored results.
pub fn judge(
    baseline: &[Stored],
    candidate: &[Stored],
    metrics: &[GateMetric],
    rule: Rule,
    may_differ: bool,
) -> Result<GateReport> {
    let is_virtual = |side: &[Stored]| side.iter().all(|run| run.report.target.virtual_time);
    let exactly = is_virtual(baseline) && is_virtual(candidate);
    let differences = differences(baseline, candidate, exactly);
    if !differences.is_empty() && !may_differ {
        bail!(
            "the results are not comparable:\n  {}\n\n\
             hint: `--allow-different` compares them all the same, and says so",
            differences.join("\n  ")
        );
    }
    let mut report = if exactly {
        let ([one], [other]) = (baseline, candidate) else {
            bail!("runs in virtual time repeat to the byte; give one of each side");
        };
        exact::virtual_time(one, other, rule)?
    } else {
        by_figures(baseline, candidate, metrics, rule)?
    };
    let differing = differences
        .into_iter()
        .map(|difference| format!("not the same: {difference}"));
    report.reasons.extend(differing);
    Ok(report)
}

fn by_figures(
    baseline: &[Stored],
    candidate: &[Stored],
    metrics: &[GateMetric],
    rule: Rule,
) -> Result<GateReport> {
    let mut all = Vec::new();
    for metric in metrics {
        all.push((metric.clone(), figures(metric, true, baseline, candidate)?));
    }
    for metric in shown(metrics) {
        // What some run cannot give is not shown; it decides nothing.
        let found = figures(&metric, false, baseline, candidate);
        all.extend(found.ok().map(|figures| (metric, figures)));
    }
    let single = baseline.len() == 1 && candidate.len() == 1;
    let judged: Vec<MetricResult> = if single {
        let judge = |(metric, figures): &(GateMetric, Figures)| {
            let within = metric.interval(&baseline[0].report);
            let within = within.zip(metric.interval(&candidate[0].report));
            judge_single(figures, within, rule)
        };
        all.iter().filter_map(judge).collect()
    } else {
        let figures: Vec<_> = all.into_iter().map(|(_, figures)| figures).collect();
        judge_runs(&figures, rule)
    };
    let (mut verdict, mut reasons) = overall(&judged, rule);
    let needed = runs_needed(rule.alpha / metrics.len() as f64);
    if !single && baseline.len().min(candidate.len()) < needed {
        reasons.push(format!(
            "{} and {} runs: a verdict of better or worse needs {needed} of each",
            baseline.len(),
            candidate.len()
        ));
    }
    let invalid = invalid(baseline, candidate);
    if !invalid.is_empty() {
        verdict = Verdict::Inconclusive;
        reasons.splice(0..0, invalid);
    }
    Ok(GateReport {
        schema_version: GATE_SCHEMA_VERSION,
        verdict,
        reasons,
        tier: if single {
            Tier::StoredSingle
        } else {
            Tier::StoredRuns
        },
        weakness: Some(if single { WEAK_SINGLE } else { WEAK_RUNS }.to_owned()),
        baseline: side(baseline),
        candidate: side(candidate),
        margin: rule.margin,
        alpha: rule.alpha,
        seed: None,
        metrics: judged,
        changes: Vec::new(),
        runs: Vec::new(),
    })
}

/// A side in words.
pub(super) fn side(runs: &[Stored]) -> Side {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    Side {
        source: names.join(" "),
        runs: runs.len(),
    }
}

fn figures(
    metric: &GateMetric,
    decides: bool,
    baseline: &[Stored],
    candidate: &[Stored],
) -> Result<Figures> {
    let read = |run: &Stored| {
        let given = Given::Report(Box::new(run.report.clone()), run.value.clone());
        let found = metric.read(&given, f64::NAN);
        found.map_err(|message| anyhow::anyhow!("`{}`: {message}", run.name))
    };
    Ok(Figures {
        name: metric.name.clone(),
        unit: metric.unit(),
        more_is_better: metric.more_is_better,
        decides,
        baseline: baseline.iter().map(read).collect::<Result<_>>()?,
        candidate: candidate.iter().map(read).collect::<Result<_>>()?,
    })
}

/// The runs that must not be used, with reasons.
pub(super) fn invalid(baseline: &[Stored], candidate: &[Stored]) -> Vec<String> {
    let sides = [("A", baseline), ("B", candidate)];
    let runs = sides
        .into_iter()
        .flat_map(|(name, runs)| runs.iter().map(move |run| (name, run)));
    let invalid = runs.filter(|(_, run)| {
        run.report.validity.verdict == reports::validity::Verdict::Invalid
            || run.report.run.incomplete
    });
    let reason = |(side, run): (&str, &Stored)| {
        let reasons = run.report.validity.reasons.join("; ");
        format!("{side} `{}` is INVALID: {reasons}", run.name)
    };
    invalid.map(reason).collect()
}

/// What is not the same on both sides, though it should be. What a run in virtual time found is no
/// condition, and it does not matter where it was made.
fn differences(baseline: &[Stored], candidate: &[Stored], exactly: bool) -> Vec<String> {
    let values = |runs: &[Stored]| {
        let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for run in runs {
            for (aspect, value) in aspects(&run.report, exactly) {
                values.entry(aspect).or_default().insert(value);
            }
        }
        values
    };
    let (mut one, mut other) = (values(baseline), values(candidate));
    let aspects: BTreeSet<String> = one.keys().chain(other.keys()).cloned().collect();
    let differing = aspects.into_iter().filter_map(|aspect| {
        let (one, other) = (one.remove(&aspect), other.remove(&aspect));
        (one != other).then(|| format!("{aspect}: {} / {}", listed(one), listed(other)))
    });
    differing.collect()
}

fn listed(values: Option<BTreeSet<String>>) -> String {
    let values: Vec<String> = values.into_iter().flatten().collect();
    if values.is_empty() {
        "none".to_owned()
    } else {
        values.join(", ")
    }
}

/// Everything that two comparable runs have in common.
fn aspects(report: &Report, exactly: bool) -> Vec<(String, String)> {
    let mut aspects = vec![
        ("target", report.target.name.clone()),
        ("model", report.model.name.clone()),
        (
            "model file",
            report.model.identity.clone().unwrap_or_default(),
        ),
        ("workload", report.workload.name.clone()),
        ("seed", report.run.seed.to_string()),
    ];
    if !exactly {
        let host = &report.run.host;
        aspects.extend([
            ("schedule", report.run.schedule_hash.clone()),
            ("processor", format!("{} × {}", host.logical_cpus, host.cpu)),
            ("system", host.os.clone()),
            (
                "build",
                report
                    .run
                    .environment
                    .get("build")
                    .cloned()
                    .unwrap_or_default(),
            ),
        ]);
    }
    let scenario = report.workload.scenario.as_object().into_iter().flatten();
    let named = aspects
        .into_iter()
        .map(|(aspect, value)| (aspect.to_owned(), value));
    let said = ["target", "model", "workload", "seed"];
    let others = scenario.filter(|(key, _)| !said.contains(&key.as_str()));
    named
        .chain(others.map(|(key, value)| (format!("`{key}`"), value.to_string())))
        .collect()
}
