//! Does a sample fit a law? The tests that `workloads check` is made of.
//!
//! Invariant: a p-value is that of a true law, so one below a threshold `α` is a false alarm with
//! probability `α` at most (asymptotically; the samples here are hundreds or more). Special
//! functions are `statrs`'s. What it does not do: draw samples, or decide what is too unlikely.

use statrs::function::erf::erfc;
use statrs::function::gamma::{gamma_lr, gamma_ur};

/// Fewest expected in a cell of a chi-square test; smaller ones are put together.
const LEAST_EXPECTED: f64 = 5.0;

/// The outcome of a test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// The statistic.
    pub statistic: f64,
    /// How likely a true law gives one as far out.
    pub p: f64,
}

impl Test {
    /// The same as the worst of so many tests, which is likelier to be bad than one.
    #[must_use]
    pub fn worst_of(self, tests: usize) -> Self {
        let p = 1.0 - (1.0 - self.p).powf(tests as f64);
        Self { p, ..self }
    }
}

/// `P(X ≤ x)` of a gamma law.
pub fn gamma_cdf(x: f64, shape: f64, scale: f64) -> f64 {
    if x <= 0.0 {
        0.0
    } else {
        gamma_lr(shape, x / scale)
    }
}

/// `P(X ≤ x)` of the standard normal law.
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x / std::f64::consts::SQRT_2)
}

/// How likely a standard normal value is as far from 0.
pub fn normal_p(z: f64) -> f64 {
    if z.is_nan() {
        return 0.0;
    }
    erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// How likely a chi-square value is as large.
pub fn chi_square_p(value: f64, degrees: f64) -> f64 {
    if value.is_nan() {
        return 0.0;
    }
    if value <= 0.0 {
        1.0
    } else {
        gamma_ur(degrees / 2.0, value / 2.0)
    }
}

/// How likely a chi-square value is as far out on either side: as large, or as *small*, which is
/// how numbers that were made to fit look.
pub fn chi_square_two_sided_p(value: f64, degrees: f64) -> f64 {
    let above = chi_square_p(value, degrees);
    (2.0 * above.min(1.0 - above)).min(1.0)
}

/// Kolmogorov-Smirnov: are these uniform on `[0, 1]`? The values are sorted in place.
pub fn uniform_ks(values: &mut [f64]) -> Test {
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len() as f64;
    let distance = values
        .iter()
        .enumerate()
        .fold(0.0_f64, |most, (rank, &value)| {
            let (below, upto) = (rank as f64 / n, (rank + 1) as f64 / n);
            most.max(value - below).max(upto - value)
        });
    // Stephens' correction makes the limit law good from a handful of values on.
    let scaled = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * distance;
    Test {
        statistic: distance,
        p: kolmogorov_p(scaled),
    }
}

/// The tail of Kolmogorov's law.
fn kolmogorov_p(value: f64) -> f64 {
    if value < 0.2 {
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        let k = f64::from(k);
        sign * (-2.0 * k * k * value * value).exp()
    };
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

/// Chi-square: do counts fit what is expected of them? Cells that expect too little are joined with
/// the next. Both lists have the same sum, up to rounding.
pub fn chi_square_fit(observed: &[u64], expected: &[f64]) -> Test {
    let mut cells: Vec<(f64, f64)> = Vec::new();
    let mut open = (0.0, 0.0);
    for (&seen, &wanted) in observed.iter().zip(expected) {
        open = (open.0 + seen as f64, open.1 + wanted);
        if open.1 >= LEAST_EXPECTED {
            cells.push(std::mem::take(&mut open));
        }
    }
    match cells.last_mut() {
        Some(last) => *last = (last.0 + open.0, last.1 + open.1),
        None => cells.push(open),
    }
    let statistic = cells
        .iter()
        .map(|(seen, wanted)| (seen - wanted).powi(2) / wanted)
        .sum();
    let degrees = (cells.len() - 1) as f64;
    let p = if degrees > 0.0 {
        chi_square_p(statistic, degrees)
    } else {
        1.0
    };
    Test { statistic, p }
}

/// Binomial: is a share right? By the normal limit.
pub fn share_fit(hits: u64, of: u64, share: f64) -> Test {
    let (n, hits) = (of as f64, hits as f64);
    let sd = (n * share * (1.0 - share)).sqrt();
    let z = if sd > 0.0 {
        (hits - n * share) / sd
    } else if (hits - n * share).abs() < 0.5 {
        0.0
    } else {
        f64::INFINITY
    };
    Test {
        statistic: hits / n,
        p: normal_p(z),
    }
}

/// Spearman's rank correlation; `p` is that of none.
pub fn spearman(pairs: &[(f64, f64)]) -> Test {
    let first: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
    let second: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let correlation = pearson(&ranks(&first), &ranks(&second));
    let n = pairs.len() as f64;
    Test {
        statistic: correlation,
        p: normal_p(correlation * (n - 1.0).max(0.0).sqrt()),
    }
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let value = values[order[from]];
        let equal = order[from..]
            .iter()
            .take_while(|&&at| values[at].total_cmp(&value).is_eq())
            .count();
        let mean = from as f64 + f64::midpoint(equal as f64, 1.0);
        order[from..from + equal]
            .iter()
            .for_each(|&at| ranks[at] = mean);
        from += equal;
    }
    ranks
}

fn pearson(first: &[f64], second: &[f64]) -> f64 {
    let n = first.len() as f64;
    let (mean_a, mean_b) = (
        first.iter().sum::<f64>() / n,
        second.iter().sum::<f64>() / n,
    );
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in first.iter().zip(second) {
        both += (a - mean_a) * (b - mean_b);
        of_a += (a - mean_a).powi(2);
        of_b += (b - mean_b).powi(2);
    }
    if of_a > 0.0 && of_b > 0.0 {
        both / (of_a * of_b).sqrt()
    } else {
        0.0
    }
}

/// Ljung-Box: do values depend on the ones `1..=lags` before them? Of several series at once, each
/// of which stands alone.
pub fn ljung_box(series: &[Vec<f64>], lags: usize) -> Test {
    let n: f64 = series.iter().map(|values| values.len() as f64).sum();
    let mean = series.iter().flatten().sum::<f64>() / n;
    let variance = series
        .iter()
        .flatten()
        .map(|x| (x - mean).powi(2))
        .sum::<f64>();
    let correlation = |lag: usize| {
        let of = |values: &Vec<f64>| -> f64 {
            let pairs = values.iter().zip(values.iter().skip(lag));
            pairs.map(|(a, b)| (a - mean) * (b - mean)).sum()
        };
        series.iter().map(of).sum::<f64>() / variance
    };
    let terms = (1..=lags).map(|lag| correlation(lag).powi(2) / (n - lag as f64));
    let statistic = n * (n + 2.0) * terms.sum::<f64>();
    Test {
        statistic,
        p: chi_square_p(statistic, lags as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    fn uniform(seed: u64, count: usize) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.random()).collect()
    }

    #[test]
    fn tables_are_reproduced() {
        // Critical values of textbooks.
        for (found, expected) in [
            (kolmogorov_p(1.358), 0.05),
            (kolmogorov_p(1.628), 0.01),
            (normal_p(1.96), 0.05),
            (normal_p(-2.576), 0.01),
            (chi_square_p(18.307, 10.0), 0.05),
            (chi_square_two_sided_p(0.000_157, 1.0), 0.02),
            (gamma_cdf(2.0, 1.0, 1.0), 1.0 - (-2.0_f64).exp()),
            (normal_cdf(1.645), 0.95),
        ] {
            assert!((found - expected).abs() < 5e-4, "{found} for {expected}");
        }
    }

    #[test]
    fn true_laws_pass_as_often_as_they_should_and_false_ones_fail() {
        let runs = 400_u64;
        let alarms = (0..runs)
            .filter(|&seed| uniform_ks(&mut uniform(seed, 500)).p < 0.05)
            .count();
        // 20 expected, standard deviation 4.4.
        assert!((5..=38).contains(&alarms), "{alarms} of {runs}");
        let mut bent: Vec<f64> = uniform(3, 2_000).iter().map(|u| u.powf(1.3)).collect();
        assert!(uniform_ks(&mut bent).p < 0.001);
    }

    #[test]
    fn small_cells_are_joined() {
        let fit = chi_square_fit(&[52, 48, 1, 0], &[50.0, 49.0, 1.5, 0.5]);
        assert!((fit.statistic - (4.0 / 50.0 + 4.0 / 51.0)).abs() < 1e-12);
        assert!(chi_square_fit(&[80, 20], &[50.0, 50.0]).p < 1e-6);
        assert!((chi_square_fit(&[3], &[3.0]).p - 1.0).abs() < 1e-12);
        assert!(share_fit(480, 1_000, 0.5).p > 0.2 && share_fit(400, 1_000, 0.5).p < 1e-6);
        assert!(share_fit(1, 100, 0.0).p < 1e-6);
    }

    #[test]
    fn dependence_is_found_where_there_is_some() {
        let (a, b) = (uniform(1, 3_000), uniform(2, 3_000));
        let apart: Vec<(f64, f64)> = a.iter().copied().zip(b.iter().copied()).collect();
        assert!(spearman(&apart).p > 0.01);
        let tied: Vec<(f64, f64)> = a.iter().map(|&x| ((x * 9.0).floor(), x * x)).collect();
        assert!(spearman(&tied).statistic > 0.98);
        assert!(ljung_box(&[a.clone(), b], 5).p > 0.01);
        let smooth: Vec<f64> = a.windows(2).map(|pair| pair[0] + pair[1]).collect();
        assert!(ljung_box(&[smooth], 5).p < 1e-9);
        assert_eq!(ranks(&[2.0, 1.0, 2.0]), [2.5, 1.0, 2.5]);
    }
}
