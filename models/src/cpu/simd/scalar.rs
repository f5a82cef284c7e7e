//! One lane at a time: what every other level is compared with.

use super::super::short;
use super::{Group, ROWS, Simd, Tables};
use half::{bf16, f16};

/// Plain arithmetic; every processor has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

impl Simd for Scalar {
    const LANES: usize = 1;
    const INT_COLUMNS: usize = 4;
    const FLOAT_COLUMNS: usize = 4;
    const HAS_BF16: bool = false;

    type F = f32;
    type I = i32;
    type B = [u8; 4];

    #[inline(always)]
    fn prefetch<const LEVEL: i32>(self, _bytes: &[u8]) {}

    #[inline(always)]
    fn splat(self, value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn load(self, row: &[f32; ROWS], part: usize) -> f32 {
        row[part]
    }

    #[inline(always)]
    fn store(self, value: f32, row: &mut [f32; ROWS], part: usize) {
        row[part] = value;
    }

    #[inline(always)]
    fn load_f16(self, row: &[u16; ROWS], part: usize) -> f32 {
        f16::from_bits(row[part]).to_f32()
    }

    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }

    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }

    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }

    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }

    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }

    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn largest(self, value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn power_of_two(self, bits: f32) -> f32 {
        f32::from_bits(bits.to_bits().wrapping_add(127) << 23)
    }

    #[inline(always)]
    fn round_to_bytes(self, value: f32, bytes: &mut [u8; ROWS], part: usize) -> i32 {
        let rounded = value.round_ties_even() as i32;
        bytes[part] = rounded as u8;
        rounded
    }

    #[inline(always)]
    fn splat_i32(self, value: i32) -> i32 {
        value
    }

    #[inline(always)]
    fn to_f32(self, value: i32) -> f32 {
        value as f32
    }

    #[inline(always)]
    fn bytes(self, row: &[u8; 4 * ROWS], part: usize) -> [u8; 4] {
        std::array::from_fn(|i| row[4 * part + i])
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: [u8; 4]) -> [u8; 4] {
        bytes.map(|byte| byte & 15)
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: [u8; 4]) -> [u8; 4] {
        bytes.map(|byte| byte >> 4)
    }

    #[inline(always)]
    fn right<const N: i32>(self, bytes: [u8; 4]) -> [u8; 4] {
        bytes.map(|byte| byte >> N)
    }

    #[inline(always)]
    fn merge_left<const N: i32>(self, low: [u8; 4], high: [u8; 4], mask: u8) -> [u8; 4] {
        std::array::from_fn(|i| low[i] | ((high[i] << N) & mask))
    }

    #[inline(always)]
    fn dot(self, sum: i32, codes: [u8; 4], x: i32) -> i32 {
        let x = x.to_le_bytes();
        let products = (0..4).map(|i| i32::from(codes[i]) * i32::from(x[i].cast_signed()));
        sum + products.sum::<i32>()
    }

    #[inline(always)]
    fn dot_wide(self, sum: i32, codes: [u8; 4], x: i32) -> i32 {
        self.dot(sum, codes, x)
    }

    #[inline(always)]
    fn bf16_pairs(self, tables: &Tables, group: &Group, part: usize) -> [[u8; 4]; 4] {
        std::array::from_fn(|pair| {
            let [even, odd] = [0, 1].map(|odd| short::number(tables, group, part, 2 * pair + odd));
            let ([a, b], [c, d]) = (even.to_le_bytes(), odd.to_le_bytes());
            [a, b, c, d]
        })
    }

    #[inline(always)]
    fn bf16_even(self, [a, b, ..]: [u8; 4]) -> f32 {
        bf16::from_le_bytes([a, b]).to_f32()
    }

    #[inline(always)]
    fn bf16_odd(self, [.., c, d]: [u8; 4]) -> f32 {
        bf16::from_le_bytes([c, d]).to_f32()
    }
}
