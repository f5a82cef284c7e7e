//! How often the gate is wrong, on machines that are made up: the tables of `docs/gate.md`.
//!
//! `cargo run --release -p reports --example gate_error_rates [TRIALS]`

use std::io::{self, Write as _};

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use reports::gate::{
    Figures, Interval, MetricResult, Rule, Verdict, judge_pairs, judge_runs, judge_single,
};

#[path = "../tests/it/noise.rs"]
mod noise;

use noise::{Noise, normal, rng};

const ALPHA: f64 = 0.05;
/// Of the figure of one run: 200 requests that differ by 20 %.
const WITHIN_RUN: f64 = 0.2 / 14.142;

/// Values of one trial as logarithms: the baseline's and the candidate's, were they equal.
type Trial = dyn Fn(u64) -> (Vec<f64>, Vec<f64>);
type Judge = fn(&Figures, Rule) -> MetricResult;

fn main() -> io::Result<()> {
    let trials = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(4_000);
    let mut out = io::stdout().lock();
    writeln!(out, "{trials} trials each\n")?;
    head(&mut out, "machine | pairs")?;
    for noise in Noise::ALL {
        for pairs in [6, 10, 20] {
            let trial = move |trial| (vec![0.0; pairs], noise.pairs(pairs, &mut rng(trial)));
            row(
                &mut out,
                &format!("{} | {pairs}", noise.name()),
                &trial,
                paired,
                trials,
            )?;
        }
    }
    writeln!(out)?;
    head(&mut out, "other ways, 40 runs in all | machine")?;
    for noise in [
        Noise::Machine,
        Noise::Quiet,
        Noise::HeavyTails,
        Noise::Ramp,
        Noise::Neighbour,
    ] {
        let name = noise.name();
        let pairs = move |trial| (vec![0.0; 20], noise.pairs(20, &mut rng(trial)));
        row(
            &mut out,
            &format!("pairs in random order | {name}"),
            &pairs,
            paired,
            trials,
        )?;
        let blocks = move |trial| (vec![0.0; 10], blocks(noise, 10, &mut rng(trial)));
        row(
            &mut out,
            &format!("blocks of ABBA or BAAB | {name}"),
            &blocks,
            paired,
            trials,
        )?;
        let stored = move |trial| {
            let mut rng = rng(trial);
            (noise.runs(20, &mut rng), noise.runs(20, &mut rng))
        };
        row(
            &mut out,
            &format!("20 stored runs each | {name}"),
            &stored,
            apart,
            trials,
        )?;
        let single = move |trial| {
            let mut rng = rng(trial);
            let mut run = || vec![noise.runs(1, &mut rng)[0] + WITHIN_RUN * normal(&mut rng)];
            (run(), run())
        };
        row(
            &mut out,
            &format!("1 stored run each | {name}"),
            &single,
            alone,
            trials,
        )?;
    }
    Ok(())
}

/// Two pairs in blocks of ABBA or BAAB by a coin, one value each.
fn blocks(noise: Noise, count: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let runs = noise.runs(4 * count, rng);
    let block = |runs: &[f64]| {
        let mirrored = (runs[1] + runs[2] - runs[0] - runs[3]) / 2.0;
        if rng.random::<bool>() {
            mirrored
        } else {
            -mirrored
        }
    };
    runs.chunks(4).map(block).collect()
}

fn paired(figures: &Figures, rule: Rule) -> MetricResult {
    judge_pairs(std::slice::from_ref(figures), rule).remove(0)
}

fn apart(figures: &Figures, rule: Rule) -> MetricResult {
    judge_runs(std::slice::from_ref(figures), rule).remove(0)
}

fn alone(figures: &Figures, rule: Rule) -> MetricResult {
    let within = |value: f64| {
        let half = 1.96 * WITHIN_RUN;
        Interval {
            low: value * (-half).exp(),
            high: value * half.exp(),
        }
    };
    let within = (within(figures.baseline[0]), within(figures.candidate[0]));
    judge_single(figures, Some(within), rule).expect("there is a figure of each")
}

fn head(out: &mut impl io::Write, first: &str) -> io::Result<()> {
    writeln!(
        out,
        "| {first} | interval misses | false *worse* | *equivalent* | +5 % found at margin 2 % \
         | +10 % found at margin 5 % | half width |\n|---|---|---:|---:|---:|---:|---:|---:|"
    )
}

/// One way of comparing on one machine.
fn row(
    out: &mut impl io::Write,
    name: &str,
    trial: &Trial,
    judge: Judge,
    trials: u64,
) -> io::Result<()> {
    let (mut missed, mut worse, mut equivalent, mut five, mut ten) = (0, 0, 0, 0, 0);
    let mut widths = Vec::new();
    for number in 0..trials {
        let (baseline, candidate) = trial(number);
        let judged = |slower: f64, margin: f64| {
            let figures = Figures {
                name: "figure".to_owned(),
                unit: None,
                more_is_better: false,
                decides: true,
                baseline: baseline.iter().map(|log| log.exp()).collect(),
                candidate: candidate.iter().map(|log| log.exp() * slower).collect(),
            };
            judge(
                &figures,
                Rule {
                    margin,
                    alpha: ALPHA,
                },
            )
        };
        let equal = judged(1.0, 0.05);
        let (low, high) = equal.ratio_interval.expect("there are enough");
        missed += u64::from(low > 1.0 || high < 1.0);
        worse += u64::from(equal.verdict == Verdict::Worse);
        equivalent += u64::from(equal.verdict == Verdict::Equivalent);
        five += u64::from(judged(1.05, 0.02).verdict == Verdict::Worse);
        ten += u64::from(judged(1.10, 0.05).verdict == Verdict::Worse);
        widths.push((high / low).ln() / 2.0);
    }
    widths.sort_unstable_by(f64::total_cmp);
    let share = |count: u64| count as f64 / trials as f64;
    writeln!(
        out,
        "| {name} | {:.3} | {:.3} | {:.2} | {:.2} | {:.2} | {:.1} % |",
        share(missed),
        share(worse),
        share(equivalent),
        share(five),
        share(ten),
        widths[widths.len() / 2] * 100.0
    )
}
