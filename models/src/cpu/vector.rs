//! The elementwise rest: RMS norm.
//!
//! **Invariant.** Sums are taken in 16 lanes whatever the level, so every level gives the same
//! bits.

use super::attention::sum;
use super::simd::{Job, ROWS, Simd};

/// `out = x / rms(x) * weight` for one row.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) epsilon: f32,
    pub(crate) out: &'a mut [f32],
}

impl Job for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            x,
            weight,
            epsilon,
            out,
        } = self;
        let (rows, tail) = x.as_chunks::<ROWS>();
        let mut squares = [0.0_f32; ROWS];
        for part in 0..ROWS / S::LANES {
            let mut lanes = simd.splat(0.0);
            for row in rows {
                let x = simd.load(row, part);
                lanes = simd.fma(x, x, lanes);
            }
            simd.store(lanes, &mut squares, part);
        }
        let tail_squares: f32 = tail.iter().map(|x| x * x).sum();
        let mean = (sum(&squares) + tail_squares) / x.len() as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        let (weights, weight_tail) = weight.as_chunks::<ROWS>();
        let (outs, out_tail) = out.as_chunks_mut::<ROWS>();
        for ((out, x), weight) in outs.iter_mut().zip(rows).zip(weights) {
            for part in 0..ROWS / S::LANES {
                let scaled = simd.mul(simd.load(x, part), simd.splat(scale));
                simd.store(simd.mul(scaled, simd.load(weight, part)), out, part);
            }
        }
        for ((out, x), weight) in out_tail.iter_mut().zip(tail).zip(weight_tail) {
            *out = *x * scale * *weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Level;

    #[test]
    fn rms_norm_matches_the_definition_at_every_level() {
        for length in [1, 15, 16, 192, 577] {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
            let weight: Vec<f32> = (0..length).map(|i| 1.0 + i as f32 * 0.01).collect();
            let norm = |level: Level| {
                let mut out = vec![0.0; length];
                level.run(RmsNorm {
                    x: &x,
                    weight: &weight,
                    epsilon: 1e-5,
                    out: &mut out,
                });
                out
            };
            let reference = norm(Level::Scalar);
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / length as f64;
            for i in 0..length {
                let expected = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                assert!(
                    (f64::from(reference[i]) - expected).abs() < 1e-5,
                    "{length} {i}"
                );
            }
            for level in Level::ALL {
                assert_eq!(norm(level), reference, "{level}, {length}");
            }
        }
    }
}
