//! From figures to verdicts.
//!
//! Invariant: what is judged is the run, never the request; the metrics that decide were named
//! beforehand, and no others change the verdict.

use super::report::{MetricResult, Verdict};
use super::shift::{Shift, paired, unpaired};
use crate::stats::median;

/// What counts as a difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Largest difference that does not matter, as a share.
    pub margin: f64,
    /// Two-sided chance of an error of the test.
    pub alpha: f64,
}

/// The figures of one metric. All are above 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Name of the metric.
    pub name: String,
    /// Unit of the figures, where it is known: `s` for seconds.
    pub unit: Option<String>,
    /// Is more of it better?
    pub more_is_better: bool,
    /// Was it named beforehand?
    pub decides: bool,
    /// Of the baseline's runs.
    pub baseline: Vec<f64>,
    /// Of the candidate's; for pairs in the same order.
    pub candidate: Vec<f64>,
}

/// A figure with its 95 % interval from within its run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Judges pairs.
///
/// # Panics
/// When a metric does not have as many figures of one side as of the other.
pub fn judge_pairs(figures: &[Figures], rule: Rule) -> Vec<MetricResult> {
    let shift = |metric: &Figures| {
        assert_eq!(
            metric.baseline.len(),
            metric.candidate.len(),
            "figures come in pairs"
        );
        let pairs = metric.baseline.iter().zip(&metric.candidate);
        let differences: Vec<f64> = pairs.map(|(one, other)| (other / one).ln()).collect();
        paired(&differences, rule.alpha)
    };
    judge_all(figures, shift, rule)
}

/// Judges several runs of each side that belong to no pairs.
pub fn judge_runs(figures: &[Figures], rule: Rule) -> Vec<MetricResult> {
    let logs = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
    let shift = |metric: &Figures| {
        unpaired(
            &logs(&metric.baseline),
            &logs(&metric.candidate),
            rule.alpha,
        )
    };
    judge_all(figures, shift, rule)
}

fn judge_all(
    figures: &[Figures],
    shift: impl Fn(&Figures) -> Option<Shift>,
    rule: Rule,
) -> Vec<MetricResult> {
    let shifts: Vec<(&Figures, Shift)> = figures
        .iter()
        .filter_map(|metric| Some((metric, shift(metric)?)))
        .collect();
    let family = |decides: bool| {
        let members = shifts
            .iter()
            .filter(|(metric, _)| metric.decides == decides);
        members.map(|(_, shift)| shift.p).collect::<Vec<_>>()
    };
    let (mut deciding, mut informing) = (
        holm(&family(true)).into_iter(),
        holm(&family(false)).into_iter(),
    );
    let judged = shifts.iter().map(|&(metric, shift)| {
        let corrected = if metric.decides {
            deciding.next()
        } else {
            informing.next()
        };
        let p_holm = corrected.unwrap_or(1.0);
        let significant = p_holm <= rule.alpha;
        let verdict = verdict(metric.more_is_better, shift, significant, rule.margin);
        MetricResult {
            p: Some(shift.p),
            p_holm: Some(p_holm),
            ..result(metric, shift, verdict)
        }
    });
    judged.collect()
}

/// Judges one run of each side by the intervals from within the runs. These do not know how the
/// machine differs from run to run, so *worse* and *better* ask for more: the whole interval must
/// lie beyond the margin.
pub fn judge_single(
    metric: &Figures,
    within: Option<(Interval, Interval)>,
    rule: Rule,
) -> Option<MetricResult> {
    let (baseline, candidate) = (*metric.baseline.first()?, *metric.candidate.first()?);
    let estimate = (candidate / baseline).ln();
    let half = |interval: Interval| (interval.high / interval.low).ln() / 2.0;
    let interval = within.map(|(one, other)| {
        let error = half(one).hypot(half(other));
        (estimate - error, estimate + error)
    });
    let limit = (1.0 + rule.margin).ln();
    let beyond = interval.is_some_and(|(low, high)| low > limit || high < -limit);
    let shift = Shift {
        estimate,
        interval,
        p: 1.0,
    };
    let verdict = verdict(metric.more_is_better, shift, beyond, rule.margin);
    Some(result(metric, shift, verdict))
}

fn result(metric: &Figures, shift: Shift, verdict: Verdict) -> MetricResult {
    MetricResult {
        name: metric.name.clone(),
        unit: metric.unit.clone(),
        more_is_better: metric.more_is_better,
        decides: metric.decides,
        baseline: median(&metric.baseline),
        candidate: median(&metric.candidate),
        ratio: shift.estimate.exp(),
        ratio_interval: shift.interval.map(|(low, high)| (low.exp(), high.exp())),
        p: None,
        p_holm: None,
        verdict,
    }
}

/// The rules of the module above.
fn verdict(more_is_better: bool, shift: Shift, significant: bool, margin: f64) -> Verdict {
    let limit = (1.0 + margin).ln();
    let Some((low, high)) = shift.interval else {
        return Verdict::Inconclusive;
    };
    let (harm, low, high) = if more_is_better {
        (-shift.estimate, -high, -low)
    } else {
        (shift.estimate, low, high)
    };
    if significant && harm > limit {
        Verdict::Worse
    } else if significant && harm < -limit {
        Verdict::Better
    } else if -limit < low && high < limit {
        Verdict::Equivalent
    } else if high < limit {
        Verdict::NotWorse
    } else {
        Verdict::Inconclusive
    }
}

/// The verdict over all metrics that decide, and why, where one of them does not pass.
pub fn overall(results: &[MetricResult], rule: Rule) -> (Verdict, Vec<String>) {
    let deciding: Vec<_> = results.iter().filter(|result| result.decides).collect();
    let having = |verdict: Verdict| {
        deciding
            .iter()
            .filter(move |result| result.verdict == verdict)
            .copied()
    };
    let margin = percent(rule.margin);
    if having(Verdict::Worse).next().is_some() {
        let reason = |result: &MetricResult| {
            let change = signed_percent(result.ratio);
            format!(
                "{} is {change}, significant and beyond the margin of {margin}",
                result.name
            )
        };
        return (Verdict::Worse, having(Verdict::Worse).map(reason).collect());
    }
    if deciding.is_empty() {
        return (
            Verdict::Inconclusive,
            vec!["there is no figure to decide by".to_owned()],
        );
    }
    if having(Verdict::Inconclusive).next().is_some() {
        let reasons = having(Verdict::Inconclusive).map(|result| undecided(result, &margin));
        return (Verdict::Inconclusive, reasons.collect());
    }
    let small = deciding.iter().filter(|result| {
        result.verdict == Verdict::Equivalent
            && result
                .ratio_interval
                .is_some_and(|(low, high)| low > 1.0 || high < 1.0)
    });
    let reasons = small.map(|result| {
        let change = signed_percent(result.ratio);
        format!(
            "{} differs by {change}: real, and within the margin of {margin}",
            result.name
        )
    });
    let reasons = reasons.collect();
    for verdict in [Verdict::NotWorse, Verdict::Better] {
        if having(verdict).next().is_some() {
            return (verdict, reasons);
        }
    }
    (Verdict::Equivalent, reasons)
}

fn undecided(result: &MetricResult, margin: &str) -> String {
    match result.ratio_interval {
        None => format!("{}: too few runs for an interval", result.name),
        Some((low, high)) => format!(
            "{}: the interval {} to {} neither excludes a slowdown beyond {margin} nor shows one",
            result.name,
            signed_percent(low),
            signed_percent(high)
        ),
    }
}

/// `+7.8 %`, of a ratio.
fn signed_percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 1e4).round() / 100.0)
}

/// Holm's correction: each p-value as it must be compared with `alpha` of the whole family.
fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&one, &other| p[one].total_cmp(&p[other]));
    let mut corrected = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max(p[index] * (p.len() - rank) as f64).min(1.0);
        corrected[index] = largest;
    }
    corrected
}
