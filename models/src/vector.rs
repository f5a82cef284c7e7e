//! Elementwise arithmetic over slices: RMS norm, `SiLU` and the exponential they need.
//!
//! Each public function runs its body with the widest vectors the processor has. The bodies use
//! a fixed number of accumulators and no fused multiply-add, so that **every processor computes
//! the same bits**.

#![expect(
    clippy::inline_always,
    reason = "a body must be inlined into the dispatching caller to get its vector width"
)]

use pulp::Arch;

/// Accumulators side by side: one 512-bit vector.
pub(crate) const LANES: usize = 16;

/// `out = x / rms(x) * weight` for one row.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let mean = sum_of_squares(x) / x.len() as f32;
            let scale = 1.0 / (mean + epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                *out = *x * scale * *weight;
            }
        },
    );
}

/// `out = silu(gate) * up`.
pub(crate) fn silu_times(gate: &[f32], up: &[f32], out: &mut [f32]) {
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = *gate / (1.0 + exp(-*gate)) * *up;
            }
        },
    );
}

/// `target += source`.
pub(crate) fn add_assign(target: &mut [f32], source: &[f32]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += *source;
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    let tail: f32 = rest.iter().map(|x| x * x).sum();
    sum_lanes(&lanes) + tail
}

/// Sums the lanes pairwise, in a fixed order.
#[inline(always)]
pub(crate) fn sum_lanes(lanes: &[f32; LANES]) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `e^x` to within 2 units in the last place, written so that a loop over it is vectorised.
/// Below -87 the result is a tiny positive number instead of a denormal; above 88 it saturates.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r, with ln 2 in two parts so that r is exact
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // adding and subtracting 1.5 * 2^23 rounds to the nearest integer
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.987_569_1e-4;
    series = series * r + 1.398_199_9e-3;
    series = series * r + 8.333_452e-3;
    series = series * r + 4.166_579_6e-2;
    series = series * r + 1.666_666_5e-1;
    series = series * r + 0.5;
    let mantissa = series * r * r + r + 1.0;
    // |n| <= 127: the bits of 2^n
    let power = f32::from_bits((((n + ROUND).to_bits().wrapping_add(127)) << 23) & 0x7f80_0000);
    mantissa * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for step in -8_700..=8_800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 3e-7, "exp({x}): relative error {error}");
        }
        assert!(exp(-1e30) >= 0.0 && exp(-1e30) < 1e-37);
        assert!(exp(1e30).is_finite());
    }

    #[test]
    fn rms_norm_matches_the_definition() {
        for length in [1, 15, 16, 192, 577] {
            let x: Vec<f32> = (0..length).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
            let weight: Vec<f32> = (0..length).map(|i| 1.0 + i as f32 * 0.01).collect();
            let mut out = vec![0.0; length];
            rms_norm(&x, &weight, 1e-5, &mut out);
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / length as f64;
            for i in 0..length {
                let expected = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                assert!((f64::from(out[i]) - expected).abs() < 1e-5, "{length} {i}");
            }
        }
    }

    #[test]
    fn silu_matches_the_definition() {
        let gate: Vec<f32> = (-50..50).map(|i| i as f32 * 0.4).collect();
        let up: Vec<f32> = (0..100).map(|i| i as f32 * 0.1 - 5.0).collect();
        let mut out = vec![0.0; 100];
        silu_times(&gate, &up, &mut out);
        for i in 0..100 {
            let x = f64::from(gate[i]);
            let expected = x / (1.0 + (-x).exp()) * f64::from(up[i]);
            assert!((f64::from(out[i]) - expected).abs() < 1e-4);
        }
    }
}
