//! Rotary position embedding in the interleaved layout that GGUF llama files use.
//!
//! The angles of the positions in a batch are computed once per forward pass, in f64, and shared
//! by all layers and heads.

use crate::config::LlamaConfig;

/// Inverse frequencies, one per rotated pair.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    inverse_frequencies: Vec<f64>,
}

impl Rope {
    /// `factors` divide the frequencies (the `rope_freqs.weight` tensor of long-context models).
    pub(crate) fn new(config: &LlamaConfig, factors: Option<&[f32]>) -> Self {
        let pairs = config.rope_dim / 2;
        let frequency = |pair: usize| {
            let exponent = -2.0 * pair as f64 / config.rope_dim as f64;
            let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
            f64::from(config.rope_base).powf(exponent) / factor
        };
        Self {
            inverse_frequencies: (0..pairs).map(frequency).collect(),
        }
    }

    /// Cosine and sine of every pair, for each of `positions`.
    pub(crate) fn angles(
        &self,
        positions: impl Iterator<Item = usize>,
        angles: &mut Vec<[f32; 2]>,
    ) {
        angles.clear();
        for position in positions {
            angles.extend(self.inverse_frequencies.iter().map(|frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                [cos as f32, sin as f32]
            }));
        }
    }

    /// Rotated pairs per head.
    pub(crate) fn pairs(&self) -> usize {
        self.inverse_frequencies.len()
    }
}

/// Rotates every head of one row in place by the angles of its position.
pub(crate) fn rotate(row: &mut [f32], head_dim: usize, angles: &[[f32; 2]]) {
    for head in row.chunks_exact_mut(head_dim) {
        let (pairs, _) = head.as_chunks_mut::<2>();
        for (pair, [cos, sin]) in pairs.iter_mut().zip(angles) {
            let [x, y] = *pair;
            *pair = [x * cos - y * sin, x * sin + y * cos];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rope_dim: usize) -> LlamaConfig {
        LlamaConfig {
            layers: 1,
            hidden: 16,
            feed_forward: 32,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            rope_dim,
            rope_base: 100.0,
            norm_epsilon: 1e-5,
            context: 64,
            vocab: 10,
        }
    }

    fn angles(rope: &Rope, position: usize) -> Vec<[f32; 2]> {
        let mut angles = Vec::new();
        rope.angles([position].into_iter(), &mut angles);
        angles
    }

    #[test]
    fn rotates_interleaved_pairs() {
        let rope = Rope::new(&config(8), None);
        let angles = angles(&rope, 5);
        let original: Vec<f32> = (0..16).map(|i| i as f32 - 7.5).collect();
        let mut row = original.clone();
        rotate(&mut row, 8, &angles);
        for head in 0..2 {
            for pair in 0..4 {
                let angle = 5.0 * 100.0_f64.powf(-(pair as f64) / 4.0);
                let at = head * 8 + pair * 2;
                let (x, y) = (f64::from(original[at]), f64::from(original[at + 1]));
                let expected = [
                    x * angle.cos() - y * angle.sin(),
                    x * angle.sin() + y * angle.cos(),
                ];
                assert!((f64::from(row[at]) - expected[0]).abs() < 1e-5);
                assert!((f64::from(row[at + 1]) - expected[1]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn position_zero_changes_nothing_and_the_tail_of_a_head_is_left_alone() {
        let rope = Rope::new(&config(4), None);
        let original: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let mut row = original.clone();
        rotate(&mut row, 8, &angles(&rope, 0));
        assert_eq!(row, original);
        rotate(&mut row, 8, &angles(&rope, 3));
        assert_eq!(row[4..8], original[4..8]);
        assert_ne!(row[..4], original[..4]);
    }

    #[test]
    fn factors_divide_the_frequencies() {
        let plain = Rope::new(&config(8), None);
        let slowed = Rope::new(&config(8), Some(&[2.0; 4]));
        assert_eq!(angles(&plain, 3), angles(&slowed, 6));
    }
}
