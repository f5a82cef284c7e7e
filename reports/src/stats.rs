//! Quantiles by nearest rank, the smallest samples they need, and block-bootstrap intervals.
//!
//! Invariant: everything is deterministic. Resampling uses `ChaCha8` from a fixed seed, so the same
//! values give the same interval on every machine.
//!
//! Intervals are 95 %, by the percentile method over [`RESAMPLES`] resamples of consecutive,
//! non-overlapping blocks of *time*. Requests that were in the system together share its queue and
//! its batches, so single requests would give intervals that are far too narrow. Quantiles are
//! resampled at the resolution of the histograms, and an interval is rounded outwards to the ends
//! of its buckets, which bounds the cost whatever the number of tokens. Fewer than [`MIN_BLOCKS`]
//! blocks that hold something give no interval at all.
//!
//! What it does not do: intervals of maxima. No resampling can see beyond the largest value.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::histogram::{SparseCounts, bucket_high, bucket_low};

/// Resamples of each interval.
pub const RESAMPLES: usize = 400;
/// Fewest blocks, and fewest blocks that must hold something.
pub const MIN_BLOCKS: usize = 10;
/// Most blocks.
pub const MAX_BLOCKS: usize = 50;
/// Block length aimed at: long against the correlation of neighbouring requests, yet 15 blocks
/// in a window of a minute.
pub const BLOCK_S: f64 = 4.0;
/// Resampling starts here, always.
const SEED: u64 = 0x0077_6569_6768_0001;

/// The quantiles that reports give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantile {
    /// Median.
    P50,
    /// 90th percentile.
    P90,
    /// 95th percentile.
    P95,
    /// 99th percentile.
    P99,
    /// 99.9th percentile.
    P999,
}

impl Quantile {
    /// All of them, rising.
    pub const ALL: [Self; 5] = [Self::P50, Self::P90, Self::P95, Self::P99, Self::P999];

    /// In thousandths.
    pub fn per_mille(self) -> u64 {
        match self {
            Self::P50 => 500,
            Self::P90 => 900,
            Self::P95 => 950,
            Self::P99 => 990,
            Self::P999 => 999,
        }
    }

    /// Its key in reports.
    pub fn key(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::P999 => "p999",
        }
    }

    /// Fewest requests for which the quantile is given.
    ///
    /// Up to p95 the smallest `n` with `1 − q^n − (1−q)^n ≥ 0.95`: the whole range of the sample is
    /// then a distribution-free 95 % interval of the quantile. p99 and p99.9 as `metrics.md` says.
    pub fn min_requests(self) -> u64 {
        match self {
            Self::P50 => 6,
            Self::P90 => 29,
            Self::P95 => 59,
            Self::P99 => 662,
            Self::P999 => 6_636,
        }
    }

    /// Rank from 1 of the quantile among `count` sorted values; `None` when there are none.
    pub fn rank(self, count: u64) -> Option<u64> {
        let rank = (u128::from(count) * u128::from(self.per_mille())).div_ceil(1_000);
        (count > 0).then_some(rank as u64)
    }

    /// Why the quantile cannot be given, or `None` when it can.
    pub fn null_reason(self, requests: u64) -> Option<String> {
        let needed = self.min_requests();
        (requests < needed).then(|| {
            format!(
                "needs {} requests, has {}",
                thousands(needed),
                thousands(requests)
            )
        })
    }
}

/// `6,636`: an integer as people read it.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The value of nearest rank in a sorted slice; `None` when it is empty.
pub fn nearest_rank<T: Copy>(sorted: &[T], quantile: Quantile) -> Option<T> {
    let rank = quantile.rank(sorted.len() as u64)?;
    sorted.get(rank as usize - 1).copied()
}

/// The middle value, or between the two middle ones; not a number when there is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count => f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]),
    }
}

/// How many blocks a window is cut into; `None` when it is too short for any interval.
pub fn block_count(window_s: f64) -> Option<usize> {
    let blocks = (window_s / BLOCK_S).floor() as usize;
    (window_s >= MIN_BLOCKS as f64).then(|| blocks.clamp(MIN_BLOCKS, MAX_BLOCKS))
}

/// The values of one block of time.
#[derive(Debug, Clone, Default)]
pub struct LatencyBlock {
    /// By bucket.
    pub counts: SparseCounts,
    /// Exact sum of the values.
    pub sum_ns: u128,
    /// Values.
    pub count: u64,
}

/// Intervals of one latency metric, in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyIntervals {
    /// Of the mean.
    pub mean: (f64, f64),
    /// Of each quantile, rounded outwards to bucket ends.
    pub quantiles: BTreeMap<Quantile, (u64, u64)>,
}

/// 95 % intervals of the mean and the quantiles; `None` with too few blocks.
pub fn latency_intervals(blocks: &[LatencyBlock]) -> Option<LatencyIntervals> {
    if blocks.iter().filter(|block| block.count > 0).count() < MIN_BLOCKS {
        return None;
    }
    let columns = Columns::new(blocks);
    let mut means = Vec::with_capacity(RESAMPLES);
    let mut marks = vec![Vec::with_capacity(RESAMPLES); Quantile::ALL.len()];
    let mut resampler = Resampler::new(blocks.len());
    for _ in 0..RESAMPLES {
        let weights = resampler.draw();
        let total: u64 = blocks
            .iter()
            .zip(weights)
            .map(|(block, &times)| block.count * times)
            .sum();
        if total == 0 {
            continue;
        }
        let weighted = |(block, &times): (&LatencyBlock, &u64)| block.sum_ns as f64 * times as f64;
        means.push(blocks.iter().zip(weights).map(weighted).sum::<f64>() / total as f64);
        columns.mark_quantiles(weights, total, &mut marks);
    }
    let mean = percentile_interval(&mut means, f64::total_cmp)?;
    let mut quantiles = BTreeMap::new();
    for (quantile, buckets) in Quantile::ALL.into_iter().zip(&mut marks) {
        let (low, high) = percentile_interval(buckets, u32::cmp)?;
        quantiles.insert(quantile, (bucket_low(low), bucket_high(high)));
    }
    Some(LatencyIntervals { mean, quantiles })
}

/// The counts of all blocks by bucket, laid out for a fast pass over each resample.
struct Columns {
    /// `(bucket, end of its entries)`, rising.
    buckets: Vec<(u32, usize)>,
    /// `(block, count)`.
    entries: Vec<(usize, u64)>,
}

impl Columns {
    fn new(blocks: &[LatencyBlock]) -> Self {
        let mut by_bucket: BTreeMap<u32, Vec<(usize, u64)>> = BTreeMap::new();
        for (block, values) in blocks.iter().enumerate() {
            for (bucket, count) in values.counts.iter() {
                by_bucket.entry(bucket).or_default().push((block, count));
            }
        }
        let (mut buckets, mut entries) = (Vec::new(), Vec::new());
        for (bucket, counts) in by_bucket {
            entries.extend(counts);
            buckets.push((bucket, entries.len()));
        }
        Self { buckets, entries }
    }

    /// Adds the bucket of every quantile of one resample to `marks`.
    fn mark_quantiles(&self, weights: &[u64], total: u64, marks: &mut [Vec<u32>]) {
        let ranks = Quantile::ALL.map(|quantile| quantile.rank(total).unwrap_or(u64::MAX));
        let (mut seen, mut start, mut found) = (0, 0, 0);
        for &(bucket, end) in &self.buckets {
            for &(block, count) in &self.entries[start..end] {
                seen += count * weights[block];
            }
            start = end;
            while found < ranks.len() && ranks[found] <= seen {
                marks[found].push(bucket);
                found += 1;
            }
        }
    }
}

/// Events of one block of time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateBlock {
    /// Events.
    pub count: u64,
    /// Length of the block.
    pub seconds: f64,
}

/// 95 % interval of the events per second; `None` with too few blocks.
pub fn rate_interval(blocks: &[RateBlock]) -> Option<(f64, f64)> {
    if blocks.iter().filter(|block| block.count > 0).count() < MIN_BLOCKS {
        return None;
    }
    let mut resampler = Resampler::new(blocks.len());
    let mut rates = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let weights = resampler.draw();
        let mut sum = RateBlock::default();
        for (block, &times) in blocks.iter().zip(weights) {
            sum.count += block.count * times;
            sum.seconds += block.seconds * times as f64;
        }
        rates.push(sum.count as f64 / sum.seconds);
    }
    percentile_interval(&mut rates, f64::total_cmp)
}

/// Draws with replacement how often each block is taken.
struct Resampler {
    rng: ChaCha8Rng,
    weights: Vec<u64>,
}

impl Resampler {
    fn new(blocks: usize) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(SEED),
            weights: vec![0; blocks],
        }
    }

    fn draw(&mut self) -> &[u64] {
        self.weights.fill(0);
        for _ in 0..self.weights.len() {
            let chosen = self.rng.random_range(0..self.weights.len());
            self.weights[chosen] += 1;
        }
        &self.weights
    }
}

/// The 2.5 % and 97.5 % quantiles (nearest rank) of resampled figures.
pub(crate) fn percentile_interval<T: Copy>(
    values: &mut [T],
    order: impl Fn(&T, &T) -> std::cmp::Ordering,
) -> Option<(T, T)> {
    values.sort_unstable_by(order);
    let rank = |per_mille: usize| (values.len() * per_mille).div_ceil(1_000).checked_sub(1);
    Some((*values.get(rank(25)?)?, *values.get(rank(975)?)?))
}
