//! Comparisons without noise: runs in virtual time, and counted instructions.
//!
//! Invariant: of a run in virtual time everything that it found is compared, and nothing that says
//! where, when and by which build it was made.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::slice;

use anyhow::{Context, Result};
use reports::gate::{
    Change, GATE_SCHEMA_VERSION, GateReport, InstructionCounts, Rule, Side, Tier, Verdict,
    changed_values, instructions,
};
use serde_json::Value;

use super::stored::{Stored, invalid, side};

/// What a run found, in its report.
const FOUND: [&str; 8] = [
    "/run/schedule_hash",
    "/workload/realised",
    "/validity",
    "/summary",
    "/histograms",
    "/series",
    "/device_time",
    "/client_error/pushed_turns",
];
/// Every request, one line each; compared where both have it.
const REQUESTS: &str = "requests.jsonl";

/// Compares two runs in virtual time.
pub fn virtual_time(baseline: &Stored, candidate: &Stored, rule: Rule) -> Result<GateReport> {
    let mut changes = Vec::new();
    for place in FOUND {
        let at = |value: &Value| value.pointer(place).cloned().unwrap_or_default();
        changes.extend(changed_values(
            place,
            &at(&baseline.value),
            &at(&candidate.value),
        ));
    }
    // The figures first, then what is derived from resampling them.
    changes.sort_by_key(|change| change.place.contains("/ci95/"));
    let files = [baseline, candidate].map(|run| {
        let path = run.folder.as_ref()?.join(REQUESTS);
        path.exists().then_some(path)
    });
    let compared = if let [Some(one), Some(other)] = &files {
        changes.extend(first_difference(one, other)?);
        "figures, histograms, series and every request"
    } else {
        "figures, histograms and series"
    };
    let (verdict, reason) = if changes.is_empty() {
        (Verdict::Identical, format!("{compared} are equal"))
    } else {
        let reason = format!(
            "{} values differ; time was virtual, so this is the program, not noise",
            changes.len()
        );
        (Verdict::Changed, reason)
    };
    let mut reasons = vec![reason];
    reasons.extend(invalid(
        slice::from_ref(baseline),
        slice::from_ref(candidate),
    ));
    Ok(GateReport {
        schema_version: GATE_SCHEMA_VERSION,
        verdict,
        reasons,
        tier: Tier::VirtualTime,
        weakness: Some(
            "Virtual time is computed from a model of a device: it shows what scheduler and \
             workload do, not how fast the program runs."
                .to_owned(),
        ),
        baseline: side(slice::from_ref(baseline)),
        candidate: side(slice::from_ref(candidate)),
        margin: rule.margin,
        alpha: rule.alpha,
        seed: None,
        metrics: Vec::new(),
        changes,
        runs: Vec::new(),
    })
}

/// The first line in which two files of requests differ.
fn first_difference(baseline: &Path, candidate: &Path) -> Result<Option<Change>> {
    let open = |path: &Path| {
        let file = std::fs::File::open(path).with_context(|| format!("`{}`", path.display()))?;
        anyhow::Ok(BufReader::new(file).lines())
    };
    let (mut one, mut other) = (open(baseline)?, open(candidate)?);
    for number in 1.. {
        let (one, other) = (one.next().transpose()?, other.next().transpose()?);
        if one.is_none() && other.is_none() {
            break;
        }
        if one != other {
            let value = |line: Option<String>| line.map_or(Value::Null, |line| as_json(&line));
            let place = format!("{REQUESTS} line {number}");
            return Ok(changed_values(&place, &value(one), &value(other))
                .into_iter()
                .next());
        }
    }
    Ok(None)
}

fn as_json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))
}

/// Compares counted instructions.
pub fn counts(baseline: &Path, candidate: &Path, rule: Rule) -> Result<GateReport> {
    let read = |path: &Path| {
        let place = || format!("`{}`", path.display());
        let text = std::fs::read_to_string(path).with_context(place)?;
        serde_json::from_str::<InstructionCounts>(&text).with_context(place)
    };
    let (one, other) = (read(baseline)?, read(candidate)?);
    let (verdict, metrics) = instructions(&one, &other, rule.margin)
        .with_context(|| format!("`{}` and `{}`", baseline.display(), candidate.display()))?;
    let named = |verdict: Verdict| {
        let those = metrics
            .iter()
            .filter(move |metric| metric.verdict == verdict);
        those
            .map(|metric| metric.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut reasons = Vec::new();
    for (verdict, words) in [(Verdict::Worse, "more"), (Verdict::Better, "fewer")] {
        let names = named(verdict);
        if !names.is_empty() {
            reasons.push(format!("{words} instructions, beyond the margin: {names}"));
        }
    }
    let new: Vec<&str> = other
        .counts
        .keys()
        .filter(|name| !one.counts.contains_key(*name))
        .map(String::as_str)
        .collect();
    if !new.is_empty() {
        reasons.push(format!("only in the candidate: {}", new.join(", ")));
    }
    let side = |path: &Path| Side {
        source: path.display().to_string(),
        runs: 1,
    };
    Ok(GateReport {
        schema_version: GATE_SCHEMA_VERSION,
        verdict,
        reasons,
        tier: Tier::Instructions,
        weakness: Some(
            "Instructions are not time: a change of memory access, of branches or of waiting does \
             not show."
                .to_owned(),
        ),
        baseline: side(baseline),
        candidate: side(candidate),
        margin: rule.margin,
        alpha: rule.alpha,
        seed: None,
        metrics,
        changes: Vec::new(),
        runs: Vec::new(),
    })
}
