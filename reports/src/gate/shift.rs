//! How far one set of values lies above another, and how sure that is.
//!
//! All tests here are exact: under the hypothesis of no difference every assignment of signs (or of
//! labels) is equally likely, and the statistic's distribution over all of them is counted, not
//! approximated. The interval holds the shifts that the same test would not reject.
//!
//! **Invariant.** The interval and the p-value agree: a shift of 0 lies outside the closed interval
//! of level `1 - alpha` if and only if `p <= alpha`. Ties count against a difference.
//!
//! What it does not do: judge whether a difference matters.

/// Most values on one side: the counting is cubic.
pub const MAX_VALUES: usize = 200;

/// A shift with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The Hodges-Lehmann estimate.
    pub estimate: f64,
    /// Interval of level `1 - alpha`; `None` with too few values for one.
    pub interval: Option<(f64, f64)>,
    /// Two-sided p-value of no shift.
    pub p: f64,
}

/// The centre of paired differences, by the sign-flip test on their ranks (Wilcoxon's): flipping
/// the signs of any of them is as likely as not. `None` without differences.
pub fn paired(differences: &[f64], alpha: f64) -> Option<Shift> {
    let mut walsh = Vec::with_capacity(differences.len() * (differences.len() + 1) / 2);
    for (index, &one) in differences.iter().enumerate() {
        walsh.extend(
            differences[index..]
                .iter()
                .map(|other| f64::midpoint(one, *other)),
        );
    }
    invert(walsh, &sign_flips(differences.len()), alpha)
}

/// How far `candidate` lies above `baseline`, by the permutation test on ranks (Mann and
/// Whitney's). `None` when one of them is empty.
pub fn unpaired(baseline: &[f64], candidate: &[f64], alpha: f64) -> Option<Shift> {
    let mut differences = Vec::with_capacity(baseline.len() * candidate.len());
    for one in baseline {
        differences.extend(candidate.iter().map(|other| other - one));
    }
    invert(
        differences,
        &relabelings(baseline.len(), candidate.len()),
        alpha,
    )
}

/// The smallest number of pairs whose sign-flip test can reach `p <= alpha`.
pub fn pairs_needed(alpha: f64) -> usize {
    let reaches = |&count: &usize| 2.0 * 0.5_f64.powf(count as f64) <= alpha;
    (1..=MAX_VALUES).find(reaches).unwrap_or(MAX_VALUES)
}

/// The smallest number of runs on each side whose permutation test can reach `p <= alpha`.
pub fn runs_needed(alpha: f64) -> usize {
    let reaches = |&count: &usize| {
        let ways = (1..=count).fold(1.0, |ways, k| ways * (count + k) as f64 / k as f64);
        2.0 / ways <= alpha
    };
    (1..=MAX_VALUES).find(reaches).unwrap_or(MAX_VALUES)
}

/// Test and interval from the shifts at which the statistic steps, and the chance of each of its
/// values `0..=shifts.len()`, which is symmetric.
fn invert(mut shifts: Vec<f64>, chances: &[f64], alpha: f64) -> Option<Shift> {
    if shifts.is_empty() {
        return None;
    }
    debug_assert_eq!(chances.len(), shifts.len() + 1, "a step for each shift");
    shifts.sort_unstable_by(f64::total_cmp);
    let count = shifts.len();
    let not_above = shifts.partition_point(|&shift| shift <= 0.0);
    let not_below = count - shifts.partition_point(|&shift| shift < 0.0);
    let tail: f64 = chances[..=not_above.min(not_below)].iter().sum();
    let mut below = 0.0;
    let cut = chances.iter().take_while(|&&chance| {
        below += chance;
        2.0 * below <= alpha
    });
    let interval = cut
        .count()
        .checked_sub(1)
        .map(|cut| (shifts[cut], shifts[count - 1 - cut]));
    Some(Shift {
        estimate: f64::midpoint(shifts[(count - 1) / 2], shifts[count / 2]),
        interval,
        p: (2.0 * tail).min(1.0),
    })
}

/// Chance of each sum of the ranks that keep their sign.
fn sign_flips(count: usize) -> Vec<f64> {
    let mut chances = vec![1.0];
    for rank in 1..=count {
        let mut next = vec![0.0; chances.len() + rank];
        for (sum, chance) in chances.iter().enumerate() {
            next[sum] += 0.5 * chance;
            next[sum + rank] += 0.5 * chance;
        }
        chances = next;
    }
    chances
}

/// Chance of each number of pairs, one of either side, in which the second is the larger.
fn relabelings(first: usize, second: usize) -> Vec<f64> {
    let largest = first * second;
    // `chances[k][u]`: of the values seen so far, from the smallest, k are of the second side, and
    // u pairs are decided for it.
    let mut chances = vec![vec![0.0; largest + 1]; second + 1];
    chances[0][0] = 1.0;
    for seen in 0..first + second {
        let mut next = vec![vec![0.0; largest + 1]; second + 1];
        let left = (first + second - seen) as f64;
        for taken in 0..=second.min(seen) {
            let other = seen - taken;
            if other > first {
                continue;
            }
            let second_next = (second - taken) as f64 / left;
            for u in 0..=largest {
                let chance = chances[taken][u];
                if chance == 0.0 {
                    continue;
                }
                if taken < second {
                    next[taken + 1][u + other] += chance * second_next;
                }
                if other < first {
                    next[taken][u] += chance * (1.0 - second_next);
                }
            }
        }
        chances = next;
    }
    chances.swap_remove(second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_tail_chances_of_the_signed_rank_come_out() {
        // One-sided critical values of Wilcoxon's T for 0.025: n, largest T, its chance.
        for (count, critical, chance) in [(6, 0, 0.0156), (8, 3, 0.0195), (10, 8, 0.0244)] {
            let chances = sign_flips(count);
            let tail: f64 = chances[..=critical].iter().sum();
            assert!((tail - chance).abs() < 5e-5, "n = {count}: {tail}");
            assert!(
                tail + chances[critical + 1] > 0.025,
                "n = {count}: not the largest"
            );
        }
    }

    #[test]
    fn published_tail_chances_of_the_rank_sum_come_out() {
        // 4 and 4: U <= 0 has chance 1/70. 5 and 5: the critical U for 0.05 two-sided is 2.
        assert!((relabelings(4, 4)[0] - 1.0 / 70.0).abs() < 1e-12);
        let tail: f64 = relabelings(5, 5)[..=2].iter().sum();
        assert!((tail - 4.0 / 252.0).abs() < 1e-12, "{tail}");
        assert!((relabelings(3, 7).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn too_few_pairs_give_no_interval_and_say_how_many_are_needed() {
        let shift = paired(&[0.1; 5], 0.05).expect("there are differences");
        assert_eq!((shift.interval, shift.p), (None, 0.0625));
        let shift = paired(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.05).expect("there are differences");
        assert_eq!((shift.interval, shift.p), (Some((0.1, 0.6)), 0.03125));
        assert_eq!([0.05, 0.025, 0.01].map(pairs_needed), [6, 7, 8]);
        assert_eq!([0.05, 0.01].map(runs_needed), [4, 5]);
        assert_eq!(paired(&[], 0.05), None);
    }

    #[test]
    fn equal_values_are_no_difference() {
        let shift = paired(&[0.0; 8], 0.05).expect("there are differences");
        assert_eq!(
            (shift.estimate, shift.interval, shift.p),
            (0.0, Some((0.0, 0.0)), 1.0)
        );
    }

    /// The p-value by trying every assignment of signs.
    fn by_enumeration(differences: &[f64]) -> f64 {
        let count = differences.len();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| differences[a].abs().total_cmp(&differences[b].abs()));
        let statistic = |positive: &dyn Fn(usize) -> bool| -> usize {
            let ranks = (1..).zip(&order);
            ranks
                .filter(|&(_, &index)| positive(index))
                .map(|(rank, _)| rank)
                .sum()
        };
        let whole = count * (count + 1) / 2;
        let seen = statistic(&|index| differences[index] > 0.0);
        let extreme = seen.min(whole - seen);
        let hits = (0..1_usize << count)
            .filter(|signs| statistic(&|index| signs >> index & 1 == 1) <= extreme)
            .count();
        (2.0 * hits as f64 / (1_usize << count) as f64).min(1.0)
    }

    proptest! {
        #[test]
        fn the_p_value_is_that_of_all_sign_flips(
            differences in proptest::collection::vec(-1.0..1.0_f64, 1..11)
        ) {
            let shift = paired(&differences, 0.05).expect("there are differences");
            prop_assert!((shift.p - by_enumeration(&differences)).abs() < 1e-9);
        }

        #[test]
        fn the_interval_agrees_with_the_test_and_moves_with_the_data(
            differences in proptest::collection::vec(-1.0..1.5_f64, 6..16),
            ties in any::<bool>(),
        ) {
            let round = |value: f64| if ties { (value * 4.0).round() / 4.0 } else { value };
            let differences: Vec<f64> = differences.into_iter().map(round).collect();
            let shift = paired(&differences, 0.05).expect("there are differences");
            let (low, high) = shift.interval.expect("six are enough");
            prop_assert!(low <= shift.estimate && shift.estimate <= high);
            prop_assert_eq!(shift.p <= 0.05, low > 0.0 || high < 0.0);
            let mirrored: Vec<f64> = differences.iter().map(|value| -value).collect();
            let mirror = paired(&mirrored, 0.05).expect("there are differences");
            prop_assert!((mirror.estimate + shift.estimate).abs() < 1e-12);
            prop_assert!((mirror.p - shift.p).abs() < 1e-12);
        }

        #[test]
        fn unpaired_sides_mirror(
            one in proptest::collection::vec(-1.0..1.0_f64, 4..9),
            other in proptest::collection::vec(-0.5..1.5_f64, 4..9),
        ) {
            let there = unpaired(&one, &other, 0.05).expect("values on both sides");
            let back = unpaired(&other, &one, 0.05).expect("values on both sides");
            prop_assert!((there.estimate + back.estimate).abs() < 1e-12);
            prop_assert!((there.p - back.p).abs() < 1e-9);
            if let Some((low, high)) = there.interval {
                prop_assert_eq!(there.p <= 0.05, low > 0.0 || high < 0.0);
            }
        }
    }
}
