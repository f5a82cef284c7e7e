//! From logits to a token.
//!
//! **Invariant.** Sampling has no state: the draw is a function of the seed and the index of the
//! output token, so a request that is preempted and resumed repeats itself.

use crate::cpu::Cpu;
use crate::cpu::attention::sum;
use crate::cpu::pool::Shared;
use crate::cpu::simd::{Job, Level, ROWS, Simd};
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

impl SamplingParams {
    /// Whether the most probable token is taken, without a draw.
    pub(crate) fn is_greedy(&self) -> bool {
        self.temperature.is_nan() || self.temperature <= 0.0 || self.top_k == Some(1)
    }
}

/// Chooses the token after `logits`. `output_index` counts the tokens the request has produced.
/// Of equally probable tokens the lowest id counts as the more probable.
pub fn sample(logits: &[f32], params: &SamplingParams, output_index: u64) -> u32 {
    let draw = Draw {
        params: *params,
        output_index,
        forbidden: &[],
    };
    sample_with(Level::best(), logits, &draw, &mut Vec::new())
}

/// What is drawn from one row of logits.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Parameters of the request.
    pub params: SamplingParams,
    /// How many tokens the request has put out already.
    pub output_index: u64,
    /// Tokens that may not be drawn.
    pub forbidden: &'a [u32],
}

impl Cpu {
    /// Samples every row of logits of the last forward pass.
    pub fn sample(&mut self, draws: &[Draw<'_>], tokens: &mut Vec<u32>) {
        tokens.clear();
        tokens.resize(draws.len(), 0);
        let (threads, level) = (self.pool.threads(), self.level);
        self.buffers.weights.resize_with(threads, Vec::new);
        let logits = &mut self.buffers.logits;
        let (vocab, work) = (logits.len() / draws.len().max(1), logits.len() * 4);
        let logits = Shared::new(logits);
        let weights = Shared::new(&mut self.buffers.weights);
        let tokens = Shared::new(tokens);
        self.pool.run(draws.len(), work, |thread, range| {
            // SAFETY: each thread has a number of its own.
            #[expect(unsafe_code, reason = "threads fill disjoint parts")]
            let weights = unsafe { &mut weights.part(thread..thread + 1)[0] };
            for row in range {
                // SAFETY: each row is one thread's.
                #[expect(unsafe_code, reason = "threads fill disjoint parts")]
                let (logits, token) = unsafe {
                    let logits = logits.part(row * vocab..(row + 1) * vocab);
                    (logits, &mut tokens.part(row..row + 1)[0])
                };
                let draw = &draws[row];
                for id in draw.forbidden {
                    if let Some(logit) = logits.get_mut(*id as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
                *token = sample_with(level, logits, draw, weights);
            }
        });
    }
}

fn sample_with(level: Level, logits: &[f32], draw: &Draw<'_>, weights: &mut Vec<f32>) -> u32 {
    let params = &draw.params;
    let temperature = params.temperature;
    let maximum = level.run(Largest(logits));
    if params.is_greedy() {
        return first(logits, maximum);
    }
    let total = level.run(Weigh {
        logits,
        maximum,
        scale: 1.0 / temperature,
        weights,
    });
    if total <= 0.0 {
        return first(logits, maximum);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
    rng.set_stream(draw.output_index);
    let uniform = rng.random::<f64>();
    let top_k = params.top_k.unwrap_or(0) as usize;
    let top_p = params.top_p.map(f64::from).filter(|top_p| *top_p < 1.0);
    if top_k == 0 && top_p.is_none() {
        return draw_weight(weights, uniform * total);
    }
    let mut candidates = candidates(weights, total, top_p.filter(|_| top_k == 0));
    keep_top_k(&mut candidates, top_k);
    keep_top_p(&mut candidates, top_p);
    draw_candidate(&candidates, uniform)
}

/// The largest number; negative infinity if there is none.
struct Largest<'a>(&'a [f32]);

impl Job for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let (rows, tail) = self.0.as_chunks::<ROWS>();
        let mut largest = f32::NEG_INFINITY;
        for part in 0..ROWS / S::LANES {
            let mut lanes = simd.splat(f32::NEG_INFINITY);
            for row in rows {
                // what is not a number loses
                lanes = simd.max(simd.load(row, part), lanes);
            }
            largest = largest.max(simd.largest(lanes));
        }
        tail.iter().copied().fold(largest, f32::max)
    }
}

/// The lowest id with this logit; 0 if there is none.
#[expect(clippy::float_cmp, reason = "the maximum is one of them")]
fn first(logits: &[f32], maximum: f32) -> u32 {
    let found = logits.iter().position(|logit| *logit == maximum);
    found.unwrap_or(0) as u32
}

/// Computes the weight of every token, proportional to its probability; gives their sum.
struct Weigh<'a> {
    logits: &'a [f32],
    maximum: f32,
    scale: f32,
    weights: &'a mut Vec<f32>,
}

impl Job for Weigh<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        // e^-80 of the best is never drawn
        const LEAST: f32 = -80.0;
        self.weights.clear();
        let mut total = 0.0;
        for chunk in self.logits.chunks(ROWS) {
            let mut row = [f32::NEG_INFINITY; ROWS];
            row[..chunk.len()].copy_from_slice(chunk);
            let mut weights = [0.0; ROWS];
            for part in 0..ROWS / S::LANES {
                let distance = simd.sub(simd.load(&row, part), simd.splat(self.maximum));
                let scaled = simd.mul(distance, simd.splat(self.scale));
                simd.store(scaled, &mut row, part);
                simd.store(simd.exp(scaled), &mut weights, part);
            }
            for (weight, scaled) in weights.iter_mut().zip(&row) {
                *weight = if *scaled > LEAST { *weight } else { 0.0 };
            }
            total += f64::from(sum(&weights));
            self.weights.extend_from_slice(&weights[..chunk.len()]);
        }
        total
    }
}

/// The token at which the running sum of the weights passes `rest`.
fn draw_weight(weights: &[f32], mut rest: f64) -> u32 {
    let mut last = 0;
    for (index, chunk) in weights.chunks(ROWS).enumerate() {
        let mut row = [0.0; ROWS];
        row[..chunk.len()].copy_from_slice(chunk);
        let within = f64::from(sum(&row));
        if rest >= within {
            rest -= within;
            continue;
        }
        for (lane, weight) in chunk
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0.0)
        {
            last = index * ROWS + lane;
            rest -= f64::from(*weight);
            if rest < 0.0 {
                return last as u32;
            }
        }
        return last as u32;
    }
    // rounding: the last that can be drawn
    let possible = weights.iter().rposition(|weight| *weight > 0.0);
    possible.unwrap_or(last) as u32
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    /// Proportional to the probability; the largest is 1.
    weight: f32,
}

impl Candidate {
    /// Most probable first, then lowest id.
    fn order(self, other: Self) -> Ordering {
        other
            .weight
            .total_cmp(&self.weight)
            .then(self.id.cmp(&other.id))
    }
}

/// The tokens that can be drawn. With `top_p` those are left out that can not be needed: all
/// tokens below the threshold together have less than 1 - p.
fn candidates(weights: &[f32], total: f64, top_p: Option<f64>) -> Vec<Candidate> {
    let threshold = top_p.map_or(0.0, |top_p| total * (1.0 - top_p) / weights.len() as f64);
    let kept = |weight: f32| weight > 0.0 && (f64::from(weight) >= threshold || weight >= 1.0);
    let ids = (0..).zip(weights).filter(|(_, weight)| kept(**weight));
    ids.map(|(id, weight)| Candidate {
        id,
        weight: *weight,
    })
    .collect()
}

fn keep_top_k(candidates: &mut Vec<Candidate>, top_k: usize) {
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k - 1, |a, b| a.order(*b));
        candidates.truncate(top_k);
    }
}

fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: Option<f64>) {
    candidates.sort_unstable_by(|a, b| a.order(*b));
    let Some(top_p) = top_p else { return };
    let total: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
    let mut sum = 0.0;
    let needed = candidates.iter().take_while(|candidate| {
        let more = sum < top_p * total;
        sum += f64::from(candidate.weight);
        more
    });
    let needed = needed.count().max(1);
    candidates.truncate(needed);
}

fn draw_candidate(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|one| f64::from(one.weight)).sum();
    let mut rest = uniform * total;
    for candidate in candidates {
        rest -= f64::from(candidate.weight);
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
    fn rows_are_sampled_side_by_side_and_forbidden_tokens_are_not_drawn() {
        let mut cpu = Cpu::new(crate::CpuOptions::new(2.try_into().unwrap()));
        let row: Vec<f32> = (0..20_000).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
        let best = sample(&row, &params(0.0, None, None), 0);
        let draw = |temperature, output_index, forbidden| Draw {
            params: params(temperature, None, Some(0.9)),
            output_index,
            forbidden,
        };
        let forbidden = [best, 99_999];
        let draws = [
            draw(0.0, 0, &[][..]),
            draw(0.0, 0, &forbidden),
            draw(1.0, 7, &[]),
            draw(1.0, 8, &[]),
        ];
        cpu.buffers.logits = row.repeat(draws.len());
        let mut tokens = Vec::new();
        cpu.sample(&draws, &mut tokens);
        assert_eq!(tokens[0], best);
        assert_ne!(tokens[1], best);
        for (draw, token) in draws.iter().zip(&tokens).skip(2) {
            assert_eq!(*token, sample(&row, &draw.params, draw.output_index));
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
