//! Is a window steady? MSER-5, and how much the answer matters.
//!
//! MSER-5 (White, 1997) takes the means of batches of five in the order of completion and finds the
//! number of batches that are best left out at the beginning: the one with the least marginal
//! standard error of what is left. By itself it is not a test: on noise it leaves out a few
//! batches, and a queue that comes and goes moves it. Here a window is called unsteady only if
//! leaving them out also changes the figures by more than a tenth, and if blocks of time before and
//! after are told apart by a rank test (Mann-Whitney). Neighbouring requests share a queue; blocks
//! that are long against it do not, so a window of few blocks is never called unsteady.
//!
//! Latencies are taken as logarithms, so that a share is a difference and a tail does not rule.
//! Invariant: a function of the values and their order alone.

/// Values of a batch.
const BATCH: usize = 5;
/// Fewest batches that are judged.
const LEAST_BATCHES: usize = 20;
/// A marginal error is nearly the least up to this many times it.
const NEARLY: f64 = 1.25;
/// From this share on the beginning is not a warm-up but most of the window.
const ENDLESS: f64 = 0.4;
/// A shift of the geometric mean by less is no matter.
const SHIFT: f64 = 0.10;
/// The same between the halves of a window that never becomes steady.
const HALVES_SHIFT: f64 = 0.25;
/// Standard errors of the rank test. MSER-5 chooses where to look, so this is further out than a
/// test at a fixed place would need; the tests say how often a steady window is called unsteady.
const FAR: f64 = 3.2;

/// A window that is not steady.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Share of the values that would have to be left out at the beginning; a half or more means
    /// that the window never becomes steady.
    pub left_out: f64,
    /// The value at which the steady part begins.
    pub from: usize,
    /// Geometric mean at the beginning over that of the rest.
    pub ratio: f64,
}

impl Drift {
    /// Does the window never become steady?
    pub fn is_endless(&self) -> bool {
        self.left_out >= ENDLESS
    }
}

/// The batches that MSER-5 leaves out, of how many; `None` with too few. The least marginal error
/// is flat and noisy around its place, so of all that are nearly as small the first is taken.
pub fn mser5(values: &[f64]) -> Option<(usize, usize)> {
    let batches: Vec<f64> = values.chunks_exact(BATCH).map(mean).collect();
    let n = batches.len();
    if n < LEAST_BATCHES {
        return None;
    }
    let (mut sum, mut squares) = (0.0, 0.0);
    let mut marginals = vec![f64::INFINITY; n];
    // From the end, so that each step adds one batch.
    for left_out in (0..n).rev() {
        sum += batches[left_out];
        squares += batches[left_out].powi(2);
        let kept = (n - left_out) as f64;
        marginals[left_out] = (squares - sum * sum / kept) / (kept * kept);
    }
    let judged = &marginals[..=n / 2];
    let least = judged.iter().copied().fold(f64::INFINITY, f64::min);
    let found = judged
        .iter()
        .position(|&marginal| marginal <= NEARLY * least);
    Some((found.unwrap_or(0), n))
}

/// The drift of `(completion, latency)` in the order of completion, if there is one: of the
/// beginning that MSER-5 leaves out, else of one half against the other, for a slow climb has no
/// place where it ends. Blocks of `block_ns` are taken to be independent.
pub fn drift(values: &[(u64, u64)], block_ns: u64) -> Option<Drift> {
    let logs: Vec<f64> = values
        .iter()
        .map(|&(_, ns)| (ns.max(1) as f64).ln())
        .collect();
    let (left_out, batches) = mser5(&logs)?;
    let shift_at = |from: usize| mean(&logs[..from]) - mean(&logs[from..]);
    let found = |from: usize, matters: f64, of: f64| {
        let blocks = |from: usize, to: usize| blocks(&values[from..to], &logs[from..to], block_ns);
        let apart = || rank_z(&blocks(0, from), &blocks(from, logs.len())).abs() > FAR;
        (of.abs() > matters.ln_1p() && apart()).then(|| Drift {
            left_out: from as f64 / logs.len() as f64,
            from,
            ratio: shift_at(from).exp(),
        })
    };
    let is_warm_up = left_out > 1 && (left_out as f64) < ENDLESS * batches as f64;
    let (warm, half) = (left_out * BATCH, logs.len() / 2);
    // What leaving a warm-up out would change; halves are held against each other.
    let warm_up = is_warm_up.then(|| found(warm, SHIFT, mean(&logs) - mean(&logs[warm..])));
    warm_up
        .flatten()
        .or_else(|| found(half, HALVES_SHIFT, shift_at(half)))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Means of blocks of time; what is left at the end is too short and left out.
fn blocks(values: &[(u64, u64)], logs: &[f64], block_ns: u64) -> Vec<f64> {
    let Some(&(start_ns, _)) = values.first() else {
        return Vec::new();
    };
    let last_ns = values.last().map_or(0, |value| value.0 - start_ns);
    let whole = (last_ns / block_ns) as usize;
    let mut sums = vec![(0.0, 0.0); whole];
    for ((at_ns, _), log) in values.iter().zip(logs) {
        if let Some(block) = sums.get_mut(((at_ns - start_ns) / block_ns) as usize) {
            *block = (block.0 + log, block.1 + 1.0);
        }
    }
    let full = sums.into_iter().filter(|block| block.1 > 0.0);
    full.map(|(sum, count)| sum / count).collect()
}

/// Mann-Whitney: by how many standard errors the ranks of two samples differ.
fn rank_z(first: &[f64], second: &[f64]) -> f64 {
    let (n, m) = (first.len() as f64, second.len() as f64);
    let wins = |a: &f64| {
        second
            .iter()
            .map(|b| f64::from(u8::from(a > b)))
            .sum::<f64>()
    };
    let statistic: f64 = first.iter().map(wins).sum();
    let spread = (n * m * (n + m + 1.0) / 12.0).sqrt();
    if spread > 0.0 {
        (statistic - n * m / 2.0) / spread
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    const BLOCK_NS: u64 = 4_000_000_000;

    /// Ten latencies a second around `level(i / n)` milliseconds, with a spread of about 40 %.
    fn noisy(seed: u64, n: usize, level: impl Fn(f64) -> f64) -> Vec<(u64, u64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let one = |i: usize| {
            let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
            let latency_ns = level(i as f64 / n as f64) * (0.4 * normal).exp() * 1e6;
            (i as u64 * 100_000_000, latency_ns as u64)
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn noise_is_steady() {
        let alarms =
            (0..300).filter(|&seed| drift(&noisy(seed, 400, |_| 80.0), BLOCK_NS).is_some());
        assert_eq!(alarms.count(), 0);
    }

    #[test]
    fn a_beginning_that_is_slower_is_found_with_its_length() {
        let warming = |t: f64| if t < 0.25 { 200.0 } else { 80.0 };
        let found = drift(&noisy(1, 2_000, warming), BLOCK_NS).expect("it is plain to see");
        assert!((found.left_out - 0.25).abs() < 0.02, "{found:?}");
        assert!((found.ratio - 2.5).abs() < 0.2, "{found:?}");
        assert!(!found.is_endless());
    }

    #[test]
    fn a_steady_climb_never_becomes_steady() {
        let found = drift(&noisy(2, 2_000, |t| 80.0 * (1.0 + t)), BLOCK_NS).expect("it doubles");
        assert!(found.is_endless() && found.ratio < 0.8, "{found:?}");
    }

    #[test]
    fn little_and_few_is_no_drift() {
        assert_eq!(
            drift(&noisy(3, 2_000, |t| 80.0 * (1.0 + 0.08 * t)), BLOCK_NS),
            None
        );
        assert_eq!(
            drift(&noisy(4, 90, |t| 80.0 * (1.0 + 3.0 * t)), BLOCK_NS),
            None
        );
        assert_eq!(drift(&[], BLOCK_NS), None);
        assert_eq!(drift(&[(7, 5); 1_000], BLOCK_NS), None);
    }
}
