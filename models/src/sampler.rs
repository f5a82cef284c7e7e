//! From logits to a token.
//!
//! **Invariant.** Sampling has no state: the draw is a function of the seed and the index of the
//! output token, so a request that is preempted and resumed repeats itself.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by this; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep only this many of the most probable tokens; `None` or 0 keeps all.
    pub top_k: Option<u32>,
    /// Keep the most probable tokens that reach this probability together; `None` keeps all.
    pub top_p: Option<f32>,
    /// Seed of the request.
    pub seed: u64,
}

/// Chooses the token after `logits`. `output_index` counts the tokens the request has produced.
/// Of equally probable tokens the lowest id counts as the more probable.
pub fn sample(logits: &[f32], params: &SamplingParams, output_index: u64) -> u32 {
    let temperature = params.temperature;
    if temperature.is_nan() || temperature <= 0.0 || params.top_k == Some(1) {
        return greedy(logits);
    }
    let mut candidates = weigh(logits, temperature);
    if candidates.is_empty() {
        return greedy(logits);
    }
    keep_top_k(&mut candidates, params.top_k);
    keep_top_p(&mut candidates, params.top_p);
    let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
    rng.set_stream(output_index);
    draw(&candidates, rng.random::<f64>())
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    /// Proportional to the probability; the largest is 1.
    weight: f64,
}

impl Candidate {
    /// Most probable first, then lowest id.
    fn order(&self, other: &Self) -> Ordering {
        other
            .weight
            .total_cmp(&self.weight)
            .then(self.id.cmp(&other.id))
    }
}

fn greedy(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0 as u32
}

/// Every token with a weight above zero. Empty if no logit is finite.
fn weigh(logits: &[f32], temperature: f32) -> Vec<Candidate> {
    let maximum = f64::from(logits[greedy(logits) as usize]);
    let scale = 1.0 / f64::from(temperature);
    let weigh = |(id, logit): (usize, &f32)| {
        let weight = ((f64::from(*logit) - maximum) * scale).exp();
        (weight > 0.0).then_some(Candidate {
            id: id as u32,
            weight,
        })
    };
    logits.iter().enumerate().filter_map(weigh).collect()
}

fn keep_top_k(candidates: &mut Vec<Candidate>, top_k: Option<u32>) {
    let keep = top_k.unwrap_or(0) as usize;
    if keep > 0 && keep < candidates.len() {
        candidates.select_nth_unstable_by(keep - 1, Candidate::order);
        candidates.truncate(keep);
        candidates.sort_unstable_by(Candidate::order);
    }
}

fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: Option<f32>) {
    let Some(top_p) = top_p.map(f64::from).filter(|top_p| *top_p < 1.0) else {
        return;
    };
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    // A token below this share can not be needed: all such tokens together are less than 1 - p.
    let negligible = total * (1.0 - top_p) / candidates.len() as f64;
    candidates.retain(|candidate| candidate.weight >= negligible || candidate.weight >= 1.0);
    candidates.sort_unstable_by(Candidate::order);
    let mut sum = 0.0;
    let needed = candidates.iter().take_while(|candidate| {
        let more = sum < top_p * total;
        sum += candidate.weight;
        more
    });
    let needed = needed.count().max(1);
    candidates.truncate(needed);
}

fn draw(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut rest = uniform * total;
    for candidate in candidates {
        rest -= candidate.weight;
        if rest < 0.0 {
            return candidate.id;
        }
    }
    candidates[candidates.len() - 1].id
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, -1.0];

    fn params(temperature: f32, top_k: Option<u32>, top_p: Option<f32>) -> SamplingParams {
        SamplingParams {
            temperature,
            top_k,
            top_p,
            seed: 7,
        }
    }

    /// Share of each token over many draws.
    fn shares(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
        const DRAWS: u64 = 40_000;
        let mut counts = vec![0.0; logits.len()];
        for index in 0..DRAWS {
            counts[sample(logits, params, index) as usize] += 1.0 / DRAWS as f64;
        }
        counts
    }

    fn check(params: &SamplingParams, kept: &[usize]) {
        let weight = |id: usize| (f64::from(LOGITS[id]) / f64::from(params.temperature)).exp();
        let total: f64 = kept.iter().map(|id| weight(*id)).sum();
        for (id, share) in shares(&LOGITS, params).into_iter().enumerate() {
            let expected = if kept.contains(&id) {
                weight(id) / total
            } else {
                0.0
            };
            assert!(
                (share - expected).abs() < 0.01,
                "token {id}: {share} {expected}"
            );
            assert_eq!(share == 0.0, expected == 0.0);
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_tokens() {
        assert_eq!(sample(&LOGITS, &params(0.0, None, None), 3), 1);
        assert_eq!(sample(&LOGITS, &params(f32::NAN, None, None), 3), 1);
        assert_eq!(sample(&LOGITS, &params(1.0, Some(1), None), 3), 1);
        assert_eq!(
            sample(
                &[f32::NAN, 1.0, f32::NEG_INFINITY],
                &params(0.0, None, None),
                0
            ),
            1
        );
        assert_eq!(sample(&[f32::NAN; 3], &params(1.0, None, None), 0), 0);
        assert_eq!(
            sample(&[f32::NEG_INFINITY; 3], &params(1.0, None, Some(0.5)), 0),
            0
        );
    }

    #[test]
    fn draws_follow_the_distribution() {
        check(&params(1.0, None, None), &[0, 1, 2, 3, 4]);
        check(&params(0.7, Some(0), Some(1.0)), &[0, 1, 2, 3, 4]);
        check(&params(2.0, Some(3), None), &[1, 2, 3]);
        check(&params(1.0, Some(100), None), &[0, 1, 2, 3, 4]);
    }

    #[test]
    fn top_p_keeps_the_smallest_sufficient_set() {
        // probabilities, sorted: 0.397 0.397 0.146 0.054 0.007
        check(&params(1.0, None, Some(0.39)), &[1]);
        check(&params(1.0, None, Some(0.5)), &[1, 3]);
        check(&params(1.0, None, Some(0.83)), &[1, 2, 3]);
        check(&params(1.0, None, Some(0.98)), &[0, 1, 2, 3]);
        check(&params(1.0, None, Some(0.0)), &[1]);
        check(&params(1.0, Some(2), Some(0.9)), &[1, 3]);
    }

    #[test]
    fn a_draw_depends_on_seed_and_index_only() {
        let logits: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let draws = |seed, indices: &[u64]| -> Vec<u32> {
            let params = SamplingParams {
                seed,
                ..params(1.0, None, Some(0.95))
            };
            indices
                .iter()
                .map(|index| sample(&logits, &params, *index))
                .collect()
        };
        let mut backwards = draws(1, &[3, 2, 1, 0]);
        backwards.reverse();
        assert_eq!(draws(1, &[0, 1, 2, 3]), backwards);
        assert_ne!(draws(1, &[0, 1, 2, 3]), draws(2, &[0, 1, 2, 3]));
        assert_ne!(draws(1, &[0, 0, 0, 0]), draws(1, &[0, 1, 2, 3]));
    }
}
