//! Quantiles, sample rules and intervals, against numpy and against the truth.

use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reports::histogram::SparseCounts;
use reports::stats::{
    LatencyBlock, Quantile, RateBlock, block_count, latency_intervals, median, nearest_rank,
    rate_interval,
};

/// Expected values are `numpy.quantile(x, q, method="inverted_cdf")` of
/// `x = [(i * 7919) % 10007 for i in range(1, 1001)]`, numpy 2.4.6.
#[test]
fn quantiles_are_those_of_numpy() {
    let mut values: Vec<u64> = (1..=1_000).map(|i| (i * 7_919) % 10_007).collect();
    values.sort_unstable();
    let found = Quantile::ALL.map(|quantile| nearest_rank(&values, quantile));
    assert_eq!(found, NUMPY.map(Some));
}

const NUMPY: [u64; 5] = [5_003, 9_006, 9_506, 9_901, 9_987];

#[test]
fn rank_is_exact_where_floating_point_is_not() {
    // 0.999 × 7,000 is 6,993.000000000001 in some orders of evaluation.
    for thousands in 1..2_000 {
        assert_eq!(
            Quantile::P999.rank(thousands * 1_000),
            Some(thousands * 999)
        );
        assert_eq!(Quantile::P95.rank(thousands * 20), Some(thousands * 19));
    }
    assert_eq!(Quantile::P50.rank(0), None);
    assert_eq!(Quantile::P50.rank(1), Some(1));
    assert_eq!(Quantile::P99.rank(100), Some(99));
    assert_eq!(Quantile::P99.rank(101), Some(100));
}

#[test]
fn small_samples_have_no_quantile() {
    assert_eq!(
        Quantile::P99.null_reason(40).as_deref(),
        Some("needs 662 requests, has 40")
    );
    assert_eq!(
        Quantile::P999.null_reason(6_635).as_deref(),
        Some("needs 6,636 requests, has 6,635")
    );
    assert_eq!(Quantile::P999.null_reason(6_636), None);
    for quantile in [Quantile::P50, Quantile::P90, Quantile::P95] {
        let covers = |n: u64| {
            let q = quantile.per_mille() as f64 / 1e3;
            1.0 - q.powi(n as i32) - (1.0 - q).powi(n as i32) >= 0.95
        };
        assert!(covers(quantile.min_requests()) && !covers(quantile.min_requests() - 1));
    }
}

#[test]
fn short_windows_have_no_blocks() {
    assert_eq!(block_count(9.9), None);
    assert_eq!(block_count(10.0), Some(10));
    assert_eq!(block_count(60.0), Some(15));
    assert_eq!(block_count(3_600.0), Some(50));
}

fn block(values: &[u64]) -> LatencyBlock {
    let mut counts = SparseCounts::default();
    for &value in values {
        counts.add(value, 1);
    }
    let sum_ns = values.iter().map(|&value| u128::from(value)).sum();
    LatencyBlock {
        counts,
        sum_ns,
        count: values.len() as u64,
    }
}

#[test]
fn too_few_blocks_give_no_interval() {
    let nine: Vec<LatencyBlock> = (0..9).map(|i| block(&[1_000_000 * (i + 1)])).collect();
    assert_eq!(latency_intervals(&nine), None);
    let mut with_empty = nine.clone();
    with_empty.resize(30, LatencyBlock::default());
    assert_eq!(latency_intervals(&with_empty), None);
    let rates = vec![
        RateBlock {
            count: 3,
            seconds: 1.0
        };
        9
    ];
    assert_eq!(rate_interval(&rates), None);
}

#[test]
fn equal_blocks_give_an_interval_without_width() {
    let blocks = vec![block(&[2_000_000, 4_000_000]); 12];
    let intervals = latency_intervals(&blocks).expect("twelve blocks");
    assert_eq!(intervals.mean, (3e6, 3e6));
    let (low, high) = intervals.quantiles[&Quantile::P50];
    assert!(low <= 2_000_000 && 2_000_000 <= high && high - low < 2_000);
    let rates = vec![
        RateBlock {
            count: 8,
            seconds: 2.0
        };
        12
    ];
    assert_eq!(rate_interval(&rates), Some((4.0, 4.0)));
}

/// The block bootstrap is known to fall a little short with few blocks; 25 blocks of a correlated
/// sequence must still cover the true mean and median in well over 80 % of samples.
#[test]
fn intervals_cover_the_truth_of_correlated_data() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut mean, mut median) = (0, 0);
    for _ in 0..200 {
        let mut state: f64 = 0.0;
        let mut step = || {
            let noise = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
            state = 0.5 * state + noise;
            ((100.0 + 5.0 * state) * 1e6) as u64
        };
        let blocks: Vec<LatencyBlock> = (0..25)
            .map(|_| block(&(0..20).map(|_| step()).collect::<Vec<_>>()))
            .collect();
        let intervals = latency_intervals(&blocks).expect("25 blocks");
        mean += u32::from(intervals.mean.0 <= 100e6 && 100e6 <= intervals.mean.1);
        let (low, high) = intervals.quantiles[&Quantile::P50];
        median += u32::from((low..=high).contains(&100_000_000));
    }
    assert!(
        mean >= 176 && median >= 176,
        "of 200: mean {mean}, median {median}"
    );
}

proptest! {
    #[test]
    fn sparse_quantile_is_the_bucket_of_the_nearest_rank(
        mut values in prop::collection::vec(0_u64..4_000_000_000_000, 1..300),
    ) {
        let counts = block(&values).counts;
        values.sort_unstable();
        for quantile in Quantile::ALL {
            let exact = nearest_rank(&values, quantile).expect("not empty");
            let bucket = reports::histogram::bucket_of(exact);
            let highest = reports::histogram::bucket_high(bucket);
            prop_assert_eq!(counts.value_at(quantile), Some(highest));
        }
    }
}

#[test]
fn a_median_is_the_middle_or_between_the_two_in_the_middle() {
    let cases: [(&[f64], f64); 4] = [
        (&[3.0], 3.0),
        (&[9.0, 1.0], 5.0),
        (&[9.0, 1.0, 2.0], 2.0),
        (&[4.0, 9.0, 1.0, 2.0], 3.0),
    ];
    for (values, expected) in cases {
        let found = median(values);
        assert!((found - expected).abs() < 1e-12, "{values:?}: {found}");
    }
    assert!(median(&[]).is_nan());
}
