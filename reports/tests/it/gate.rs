//! The gate's judgement: its rules, its error rates on made-up machines, and what people see of it.

use reports::gate::{
    Change, Figures, GATE_SCHEMA_VERSION, GateReport, MetricResult, Rule, Run, Side, Tier, Verdict,
    judge_pairs, judge_runs, judge_single, overall,
};
use reports::render::{self, Style};

use crate::noise::{Noise, rng};

const RULE: Rule = Rule {
    margin: 0.05,
    alpha: 0.05,
};

fn figures(name: &str, changes: &[f64]) -> Figures {
    Figures {
        name: name.to_owned(),
        unit: Some("s".to_owned()),
        more_is_better: false,
        decides: true,
        baseline: vec![2.0; changes.len()],
        candidate: changes.iter().map(|change| 2.0 * (1.0 + change)).collect(),
    }
}

#[test]
fn the_rules_give_the_verdicts_they_promise() {
    // Percent; the interval of six pairs spans them all.
    for (low, high, less_is_better, more_is_better) in [
        (7.0, 10.0, Verdict::Worse, Verdict::Better),
        (1.0, 12.0, Verdict::Worse, Verdict::Better),
        (-12.0, -7.0, Verdict::Better, Verdict::Worse),
        (-3.0, 4.0, Verdict::Equivalent, Verdict::Equivalent),
        (2.0, 4.0, Verdict::Equivalent, Verdict::Equivalent),
        (0.0, 0.0, Verdict::Equivalent, Verdict::Equivalent),
        (-9.0, 2.0, Verdict::NotWorse, Verdict::Inconclusive),
        (2.0, 7.0, Verdict::Inconclusive, Verdict::NotWorse),
        (-9.0, 9.0, Verdict::Inconclusive, Verdict::Inconclusive),
    ] {
        let changes: Vec<f64> = (0..6)
            .map(|k| (low + (high - low) * f64::from(k) / 5.0) / 100.0)
            .collect();
        let mut metric = figures("m_s", &changes);
        let judged = |metric: &Figures| {
            let results = judge_pairs(std::slice::from_ref(metric), RULE);
            (results[0].verdict, overall(&results, RULE).0)
        };
        assert_eq!(
            judged(&metric),
            (less_is_better, less_is_better),
            "{low} to {high}"
        );
        metric.more_is_better = true;
        assert_eq!(
            judged(&metric),
            (more_is_better, more_is_better),
            "{low} to {high}, more"
        );
    }
    let few = judge_pairs(&[figures("m_s", &[0.5; 5])], RULE);
    assert_eq!(
        (few[0].verdict, few[0].ratio_interval),
        (Verdict::Inconclusive, None)
    );
}

#[test]
fn only_metrics_that_were_named_decide_and_they_share_one_alpha() {
    let worse = [0.08, 0.09, 0.1, 0.11, 0.12, 0.13];
    let same = [0.01, -0.01, 0.02, -0.02, 0.0, 0.005];
    let mut informing = figures("other_s", &worse);
    informing.decides = false;
    let results = judge_pairs(&[figures("named_s", &same), informing], RULE);
    assert_eq!(
        results.iter().map(|r| r.verdict).collect::<Vec<_>>(),
        [Verdict::Equivalent, Verdict::Worse]
    );
    assert_eq!(overall(&results, RULE).0, Verdict::Equivalent);
    // Six pairs reach p = 1/32: enough for one metric, not for the better of two.
    let results = judge_pairs(&[figures("one_s", &worse), figures("two_s", &same)], RULE);
    assert_eq!(
        (results[0].p, results[0].p_holm),
        (Some(0.03125), Some(0.0625))
    );
    assert_eq!(overall(&results, RULE).0, Verdict::Inconclusive);
    let long: Vec<f64> = worse.iter().chain(&worse[..2]).copied().collect();
    let results = judge_pairs(
        &[figures("one_s", &long), figures("two_s", &[0.0; 8])],
        RULE,
    );
    assert_eq!(overall(&results, RULE).0, Verdict::Worse);
    assert_eq!(overall(&[], RULE).0, Verdict::Inconclusive);
}

#[test]
fn one_run_each_must_be_beyond_the_margin_with_its_whole_interval() {
    let within = |share: f64| {
        let around = move |centre: f64| reports::gate::Interval {
            low: centre * (1.0 - share),
            high: centre * (1.0 + share),
        };
        move |change: f64| Some((around(2.0), around(2.0 * (1.0 + change))))
    };
    let judged = |change: f64, share: f64| {
        let metric = figures("m_s", &[change]);
        judge_single(&metric, within(share)(change), RULE)
            .expect("there are figures")
            .verdict
    };
    assert_eq!(judged(0.2, 0.02), Verdict::Worse);
    assert_eq!(judged(0.07, 0.02), Verdict::Inconclusive);
    assert_eq!(judged(0.0, 0.02), Verdict::Equivalent);
    assert_eq!(judged(-0.2, 0.02), Verdict::Better);
    let bare = judge_single(&figures("m_s", &[0.2]), None, RULE).expect("there are figures");
    assert_eq!(bare.verdict, Verdict::Inconclusive);
}

#[test]
fn several_stored_runs_are_judged_as_runs() {
    let mut metric = figures("m_s", &[0.0]);
    metric.baseline = vec![1.0, 1.01, 1.02, 0.99];
    metric.candidate = metric.baseline.iter().map(|value| value * 1.1).collect();
    let results = judge_runs(&[metric.clone()], RULE);
    assert_eq!(results[0].verdict, Verdict::Worse);
    assert!((results[0].ratio - 1.1).abs() < 0.005);
    metric.candidate.truncate(3);
    assert_eq!(
        judge_runs(&[metric], RULE)[0].verdict,
        Verdict::Inconclusive
    );
}

/// Equal programs on every made-up machine: the promised rates, give or take what so many trials
/// can tell. `gate_error_rates` is the long form.
#[test]
fn equal_programs_are_seldom_called_different() {
    const TRIALS: u64 = 600;
    // Three standard errors.
    let above = |rate: f64| rate + 3.0 * (rate * (1.0 - rate) / TRIALS as f64).sqrt();
    for noise in Noise::ALL {
        for pairs in [6, 10] {
            let (mut different, mut worse) = (0, 0);
            for trial in 0..TRIALS {
                let changes = noise.pairs(pairs, &mut rng(trial));
                let changes: Vec<f64> = changes.iter().map(|log| log.exp_m1()).collect();
                let result = &judge_pairs(&[figures("m_s", &changes)], RULE)[0];
                let (low, high) = result.ratio_interval.expect("six pairs are enough");
                different += u32::from(low > 1.0 || high < 1.0);
                worse += u32::from(result.verdict == Verdict::Worse);
            }
            let share = |count: u32| f64::from(count) / TRIALS as f64;
            let name = noise.name();
            assert!(
                share(different) <= above(0.05),
                "{name}, {pairs}: {}",
                share(different)
            );
            assert!(
                share(worse) <= above(0.025),
                "{name}, {pairs}: {}",
                share(worse)
            );
        }
    }
}

/// The same machines with a candidate that is 10 % slower: the gate must not sleep.
#[test]
fn a_slowdown_of_ten_percent_is_found() {
    let found = |noise: Noise, pairs: usize| {
        let worse = (0..200).filter(|&trial| {
            let changes = noise.pairs(pairs, &mut rng(trial));
            let changes: Vec<f64> = changes.iter().map(|log| log.exp() * 1.1 - 1.0).collect();
            judge_pairs(&[figures("m_s", &changes)], RULE)[0].verdict == Verdict::Worse
        });
        worse.count()
    };
    assert!(found(Noise::Quiet, 6) >= 195);
    assert!(
        found(Noise::Machine, 10) >= 160,
        "{}",
        found(Noise::Machine, 10)
    );
}

fn metric(name: &str, ratio: f64, verdict: Verdict, decides: bool) -> MetricResult {
    MetricResult {
        name: name.to_owned(),
        unit: name.ends_with("p50").then(|| "s".to_owned()),
        more_is_better: name.ends_with("per_s"),
        decides,
        baseline: 0.0523,
        candidate: 0.0523 * ratio,
        ratio,
        ratio_interval: Some((ratio - 0.021, ratio + 0.019)),
        p: Some(0.03125),
        p_holm: Some(0.0625),
        verdict,
    }
}

fn worse() -> GateReport {
    let side = |source: &str| Side {
        source: source.to_owned(),
        runs: 12,
    };
    GateReport {
        schema_version: GATE_SCHEMA_VERSION,
        verdict: Verdict::Worse,
        reasons: vec!["ttft_p50 is +8.3 %, significant and beyond the margin of 5 %".to_owned()],
        tier: Tier::Paired,
        weakness: None,
        baseline: side("./main/weighbridge run --workload smoke --rate 2"),
        candidate: side("./branch/weighbridge run --workload smoke --rate 2"),
        margin: 0.05,
        alpha: 0.05,
        seed: Some(1),
        metrics: vec![
            metric("ttft_p50", 1.083, Verdict::Worse, true),
            metric(
                "/engine/details/decode_tokens_per_s",
                0.9876,
                Verdict::Equivalent,
                false,
            ),
        ],
        changes: Vec::new(),
        runs: vec![Run {
            side: "A".to_owned(),
            pair: 1,
            figures: [("ttft_p50".to_owned(), 0.0523)].into(),
            invalid: None,
        }],
    }
}

const HOSTILE: &str = "<script>alert(1)</script>\"'|`*](x)\u{1b}[31m\n# h]]>";

fn changed() -> GateReport {
    let change = |place: &str, one: &str, other: Option<&str>, ratio| Change {
        place: place.to_owned(),
        baseline: Some(one.to_owned()),
        candidate: other.map(ToOwned::to_owned),
        ratio,
    };
    let mut changes = vec![
        change(
            "/summary/ttft_s/p50",
            "0.0523",
            Some("0.0524"),
            Some(0.0524 / 0.0523),
        ),
        change("/summary/failures/timeout", "2", None, None),
        change(HOSTILE, HOSTILE, Some(HOSTILE), None),
    ];
    changes.extend((0..30).map(|k| change(&format!("/series/{k}"), "1", Some("2"), Some(2.0))));
    GateReport {
        verdict: Verdict::Changed,
        tier: Tier::VirtualTime,
        reasons: vec![format!("33 values differ {HOSTILE}")],
        weakness: Some("Virtual time is computed.".to_owned()),
        metrics: Vec::new(),
        changes,
        runs: Vec::new(),
        baseline: Side {
            source: HOSTILE.to_owned(),
            runs: 1,
        },
        ..worse()
    }
}

#[test]
fn terminal_worse() {
    insta::assert_snapshot!(render::gate(&worse(), Style::Plain));
}

#[test]
fn terminal_changed() {
    insta::assert_snapshot!(render::gate(&changed(), Style::Plain));
}

#[test]
fn markdown_worse() {
    insta::assert_snapshot!(render::gate_markdown(&worse()));
}

#[test]
fn text_from_outside_stays_text() {
    let (terminal, markdown) = (
        render::gate(&changed(), Style::Plain),
        render::gate_markdown(&changed()),
    );
    assert!(!terminal.contains('\u{1b}') && !markdown.contains('\u{1b}'));
    assert!(
        terminal
            .lines()
            .chain(markdown.lines())
            .all(|line| !line.starts_with("# h"))
    );
    let prose = markdown.split("```").step_by(2).collect::<String>();
    assert!(!prose.contains("<script>"), "{prose}");
    assert!(terminal.contains("and 13 more"));
}

#[test]
fn junit_can_be_read_again_and_has_the_verdict() {
    for (report, failures, skipped) in [(worse(), 1, 0), (changed(), 1, 0), (undecided(), 0, 1)] {
        let xml = render::gate_junit(&report);
        let read = quick_junit::Report::deserialize_from_str(&xml).expect("it is JUnit");
        let suite = &read.test_suites[0];
        assert_eq!(
            (suite.failures, suite.skipped),
            (failures, skipped),
            "{xml}"
        );
    }
}

fn undecided() -> GateReport {
    GateReport {
        verdict: Verdict::Inconclusive,
        metrics: vec![metric("ttft_p50", 1.01, Verdict::Equivalent, true)],
        ..worse()
    }
}
