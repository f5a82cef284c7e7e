//! NEON with dot products (ARMv8.2 and later).
//!
//! **Invariant.** A value of [`Neon`] exists only inside [`run`], which is entered after the
//! processor has said that it has the instructions. Every `unsafe` block below rests on that;
//! loads and stores also name the bounds they keep. The dot product and the conversion of half
//! precision have no stable intrinsics yet and are written as the instructions they are.

#![expect(unsafe_code, reason = "vector instructions")]

use super::{Group, Job, ROWS, Simd, Tables};
// The lint passes over tests.
#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "some forty intrinsics")
)]
use std::arch::aarch64::*;
use std::arch::asm;

pub(super) fn is_available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
        && std::arch::is_aarch64_feature_detected!("dotprod")
}

pub(super) fn run<J: Job>(job: J) -> J::Output {
    #[target_feature(enable = "neon,dotprod")]
    fn inner<J: Job>(job: J) -> J::Output {
        job.run(Neon(()))
    }
    assert!(is_available(), "the level was chosen for another processor");
    // SAFETY: the processor has the features; it was asked in the line above.
    unsafe { inner(job) }
}

/// 128-bit vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon(());

/// Parts of a row.
const PARTS: usize = ROWS / 4;

impl Simd for Neon {
    const LANES: usize = 4;
    const INT_COLUMNS: usize = 8;
    const FLOAT_COLUMNS: usize = 12;
    const HAS_BF16: bool = false;

    type F = float32x4_t;
    type I = int32x4_t;
    type B = uint8x16_t;

    operations! {
        fn prefetch<const LEVEL: i32>(self, bytes: &[u8]) -> () {
            let bytes = bytes.as_ptr();
            if LEVEL == 1 {
                asm!("prfm pldl1keep, [{0}]", in(reg) bytes, options(nostack, readonly));
            } else {
                asm!("prfm pldl2keep, [{0}]", in(reg) bytes, options(nostack, readonly));
            }
        }
        fn splat(self, value: f32) -> float32x4_t { vdupq_n_f32(value) }
        fn load(self, row: &[f32; ROWS], part: usize) -> float32x4_t {
            vld1q_f32(row.as_ptr().add(part % PARTS * 4))
        }
        fn store(self, value: float32x4_t, row: &mut [f32; ROWS], part: usize) -> () {
            vst1q_f32(row.as_mut_ptr().add(part % PARTS * 4), value);
        }
        fn load_f16(self, row: &[u16; ROWS], part: usize) -> float32x4_t {
            let half = vld1_u16(row.as_ptr().add(part % PARTS * 4));
            let wide: float32x4_t;
            asm!(
                "fcvtl {0:v}.4s, {1:v}.4h",
                out(vreg) wide,
                in(vreg) half,
                options(pure, nomem, nostack),
            );
            wide
        }
        fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
        fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
        fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
        fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
        fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // like the others: what is not a number loses to `b`
            vbslq_f32(vcgtq_f32(a, b), a, b)
        }
        fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            vbslq_f32(vcltq_f32(a, b), a, b)
        }
        fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            vfmaq_f32(c, a, b)
        }
        fn largest(self, value: float32x4_t) -> f32 { vmaxnmvq_f32(value) }
        fn power_of_two(self, bits: float32x4_t) -> float32x4_t {
            let bits = vaddq_s32(vreinterpretq_s32_f32(bits), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(bits))
        }
        fn round_to_bytes(self, value: float32x4_t, bytes: &mut [u8; ROWS], part: usize) -> i32 {
            let rounded = vcvtnq_s32_f32(value);
            let narrow = vmovn_s16(vcombine_s16(vmovn_s32(rounded), vmovn_s32(rounded)));
            let word = vget_lane_u32::<0>(vreinterpret_u32_s8(narrow));
            bytes[part % PARTS * 4..][..4].copy_from_slice(&word.to_le_bytes());
            vaddvq_s32(rounded)
        }
        fn splat_i32(self, value: i32) -> int32x4_t { vdupq_n_s32(value) }
        fn to_f32(self, value: int32x4_t) -> float32x4_t { vcvtq_f32_s32(value) }
        fn bytes(self, row: &[u8; 4 * ROWS], part: usize) -> uint8x16_t {
            vld1q_u8(row.as_ptr().add(part % PARTS * 16))
        }
        fn low_nibbles(self, bytes: uint8x16_t) -> uint8x16_t { vandq_u8(bytes, vdupq_n_u8(15)) }
        fn high_nibbles(self, bytes: uint8x16_t) -> uint8x16_t { vshrq_n_u8::<4>(bytes) }
        fn right<const N: i32>(self, bytes: uint8x16_t) -> uint8x16_t {
            vshlq_u8(bytes, vdupq_n_s8(-(N as i8)))
        }
        fn merge_left<const N: i32>(
            self,
            low: uint8x16_t,
            high: uint8x16_t,
            mask: u8
        ) -> uint8x16_t {
            let moved = vshlq_u8(high, vdupq_n_s8(N as i8));
            vorrq_u8(low, vandq_u8(moved, vdupq_n_u8(mask)))
        }
        fn dot(self, sum: int32x4_t, codes: uint8x16_t, x: i32) -> int32x4_t {
            // codes are below 128, so they are the same as signed bytes
            let mut sum = sum;
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
            asm!(
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inout(vreg) sum,
                in(vreg) vreinterpretq_s8_u8(codes),
                in(vreg) x,
                options(pure, nomem, nostack),
            );
            sum
        }
        fn dot_wide(self, sum: int32x4_t, codes: uint8x16_t, x: i32) -> int32x4_t {
            // code = (code - 128) + 64 + 64, each a signed byte
            let sum = self.dot(sum, veorq_u8(codes, vdupq_n_u8(128)), x);
            let sum = self.dot(sum, vdupq_n_u8(64), x);
            self.dot(sum, vdupq_n_u8(64), x)
        }
        fn bf16_pairs(self, tables: &Tables, group: &Group, part: usize) -> [uint8x16_t; 4] {
            let [low, next, codes] = group.each_ref().map(|line| self.bytes(line, part));
            let table = self.bytes(tables, part);
            let high = vqtbl1q_u8(table, self.low_nibbles(codes));
            let next_high = vqtbl1q_u8(table, self.high_nibbles(codes));
            [
                vzip1q_u8(low, high),
                vzip2q_u8(low, high),
                vzip1q_u8(next, next_high),
                vzip2q_u8(next, next_high),
            ]
        }
        fn bf16_even(self, pairs: uint8x16_t) -> float32x4_t {
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_u8(pairs)))
        }
        fn bf16_odd(self, pairs: uint8x16_t) -> float32x4_t {
            let mask = vdupq_n_u32(0xffff_0000);
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(pairs), mask))
        }
    }
}
