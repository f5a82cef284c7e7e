//! AVX2, AVX-VNNI and AVX-512.
//!
//! **Invariant.** A value of one of these types exists only inside the `run_*` function of its
//! level, which is entered after the processor has said that it has the instructions. Every
//! `unsafe` block below rests on that; loads and stores also name the bounds they keep.

#![expect(unsafe_code, reason = "vector instructions")]

use super::{Group, Job, ROWS, Simd, Tables, fused_bf16};
// The lint passes over tests.
#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "some eighty intrinsics")
)]
use std::arch::x86_64::*;

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

pub(super) fn has_avx_vnni() -> bool {
    has_avx2() && is_x86_feature_detected!("avxvnni")
}

pub(super) fn has_avx512_vnni() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
}

pub(super) fn has_avx512_bf16() -> bool {
    has_avx512_vnni() && is_x86_feature_detected!("avx512bf16")
}

macro_rules! entry {
    ($name:ident, $has:ident, $simd:expr, $features:literal) => {
        pub(super) fn $name<J: Job>(job: J) -> J::Output {
            #[target_feature(enable = $features)]
            fn inner<J: Job>(job: J) -> J::Output {
                job.run($simd)
            }
            assert!($has(), "the level was chosen for another processor");
            // SAFETY: the processor has the features; it was asked in the line above.
            unsafe { inner(job) }
        }
    };
}

entry!(run_avx2, has_avx2, Avx2::<false>(()), "avx2,fma,f16c");
entry!(
    run_avx_vnni,
    has_avx_vnni,
    Avx2::<true>(()),
    "avx2,fma,f16c,avxvnni"
);
entry!(
    run_avx512_vnni,
    has_avx512_vnni,
    Avx512::<false>(()),
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
);
entry!(
    run_avx512_bf16,
    has_avx512_bf16,
    Avx512::<true>(()),
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"
);

/// 512-bit vectors; with or without bf16 dot products.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Simd for Avx512<BF16> {
    const LANES: usize = 16;
    const INT_COLUMNS: usize = 12;
    const FLOAT_COLUMNS: usize = 12;
    const HAS_BF16: bool = BF16;

    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    operations! {
        fn prefetch<const LEVEL: i32>(self, bytes: &[u8]) -> () {
            if LEVEL == 1 {
                _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().cast());
            }
        }
        fn splat(self, value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(self, row: &[f32; ROWS], _part: usize) -> __m512 { _mm512_loadu_ps(row.as_ptr()) }
        fn store(self, value: __m512, row: &mut [f32; ROWS], _part: usize) -> () {
            _mm512_storeu_ps(row.as_mut_ptr(), value);
        }
        fn load_f16(self, row: &[u16; ROWS], _part: usize) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(row.as_ptr().cast()))
        }
        fn add(self, a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(self, a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(self, a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(self, a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn max(self, a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(self, a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn largest(self, value: __m512) -> f32 { _mm512_reduce_max_ps(value) }
        fn power_of_two(self, bits: __m512) -> __m512 {
            let bits = _mm512_add_epi32(_mm512_castps_si512(bits), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(bits))
        }
        fn round_to_bytes(self, value: __m512, bytes: &mut [u8; ROWS], _part: usize) -> i32 {
            let rounded = _mm512_cvtps_epi32(value);
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(rounded));
            _mm512_reduce_add_epi32(rounded)
        }
        fn splat_i32(self, value: i32) -> __m512i { _mm512_set1_epi32(value) }
        fn to_f32(self, value: __m512i) -> __m512 { _mm512_cvtepi32_ps(value) }
        fn bytes(self, row: &[u8; 4 * ROWS], _part: usize) -> __m512i {
            _mm512_loadu_si512(row.as_ptr().cast())
        }
        fn low_nibbles(self, bytes: __m512i) -> __m512i {
            _mm512_and_si512(bytes, _mm512_set1_epi8(15))
        }
        fn high_nibbles(self, bytes: __m512i) -> __m512i {
            _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15))
        }
        fn right<const N: i32>(self, bytes: __m512i) -> __m512i {
            _mm512_srl_epi16(bytes, _mm_cvtsi32_si128(N))
        }
        fn merge_left<const N: i32>(self, low: __m512i, high: __m512i, mask: u8) -> __m512i {
            let moved = _mm512_sll_epi16(high, _mm_cvtsi32_si128(N));
            // low | (moved & mask)
            _mm512_ternarylogic_epi32::<0xf8>(low, moved, _mm512_set1_epi8(mask.cast_signed()))
        }
        fn dot(self, sum: __m512i, codes: __m512i, x: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x))
        }
        fn dot_wide(self, sum: __m512i, codes: __m512i, x: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x))
        }
        fn bf16_pairs(self, tables: &Tables, group: &Group, part: usize) -> [__m512i; 4] {
            let [low, next, codes] = group.each_ref().map(|line| self.bytes(line, part));
            let table = self.bytes(tables, part);
            let high = _mm512_shuffle_epi8(table, self.low_nibbles(codes));
            let next_high = _mm512_shuffle_epi8(table, self.high_nibbles(codes));
            [
                _mm512_unpacklo_epi8(low, high),
                _mm512_unpackhi_epi8(low, high),
                _mm512_unpacklo_epi8(next, next_high),
                _mm512_unpackhi_epi8(next, next_high),
            ]
        }
        fn bf16_even(self, pairs: __m512i) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))
        }
        fn bf16_odd(self, pairs: __m512i) -> __m512 {
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)))
        }
        fn dot_bf16(self, sum: __m512, pairs: __m512i, x: u32) -> __m512 {
            if BF16 {
                let x = _mm512_set1_epi32(x.cast_signed());
                let pairs = std::mem::transmute::<__m512i, __m512bh>(pairs);
                _mm512_dpbf16_ps(sum, pairs, std::mem::transmute::<__m512i, __m512bh>(x))
            } else {
                fused_bf16(self, sum, pairs, x)
            }
        }
    }
}

/// 256-bit vectors; with or without integer dot products.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const INT_COLUMNS: usize = 4;
    const FLOAT_COLUMNS: usize = 12;
    const HAS_BF16: bool = false;

    type F = __m256;
    type I = __m256i;
    type B = __m256i;

    operations! {
        fn prefetch<const LEVEL: i32>(self, bytes: &[u8]) -> () {
            if LEVEL == 1 {
                _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().cast());
            }
        }
        fn splat(self, value: f32) -> __m256 { _mm256_set1_ps(value) }
        fn load(self, row: &[f32; ROWS], part: usize) -> __m256 {
            _mm256_loadu_ps(row.as_ptr().add(part % 2 * 8))
        }
        fn store(self, value: __m256, row: &mut [f32; ROWS], part: usize) -> () {
            _mm256_storeu_ps(row.as_mut_ptr().add(part % 2 * 8), value);
        }
        fn load_f16(self, row: &[u16; ROWS], part: usize) -> __m256 {
            _mm256_cvtph_ps(_mm_loadu_si128(row.as_ptr().add(part % 2 * 8).cast()))
        }
        fn add(self, a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(self, a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(self, a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(self, a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn max(self, a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
        fn min(self, a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
        fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        fn largest(self, value: __m256) -> f32 {
            let half = _mm_max_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps::<1>(value));
            let pair = _mm_max_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
        fn power_of_two(self, bits: __m256) -> __m256 {
            let bits = _mm256_add_epi32(_mm256_castps_si256(bits), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(bits))
        }
        fn round_to_bytes(self, value: __m256, bytes: &mut [u8; ROWS], part: usize) -> i32 {
            let rounded = _mm256_cvtps_epi32(value);
            let (low, high) = (
                _mm256_castsi256_si128(rounded),
                _mm256_extracti128_si256::<1>(rounded),
            );
            let words = _mm_packs_epi32(low, high);
            let eight = _mm_packs_epi16(words, words);
            _mm_storel_epi64(bytes.as_mut_ptr().add(part % 2 * 8).cast(), eight);
            let four = _mm_add_epi32(low, high);
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
        fn splat_i32(self, value: i32) -> __m256i { _mm256_set1_epi32(value) }
        fn to_f32(self, value: __m256i) -> __m256 { _mm256_cvtepi32_ps(value) }
        fn bytes(self, row: &[u8; 4 * ROWS], part: usize) -> __m256i {
            _mm256_loadu_si256(row.as_ptr().add(part % 2 * 32).cast())
        }
        fn low_nibbles(self, bytes: __m256i) -> __m256i {
            _mm256_and_si256(bytes, _mm256_set1_epi8(15))
        }
        fn high_nibbles(self, bytes: __m256i) -> __m256i {
            _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(15))
        }
        fn right<const N: i32>(self, bytes: __m256i) -> __m256i {
            _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(N))
        }
        fn merge_left<const N: i32>(self, low: __m256i, high: __m256i, mask: u8) -> __m256i {
            let moved = _mm256_sll_epi16(high, _mm_cvtsi32_si128(N));
            let moved = _mm256_and_si256(moved, _mm256_set1_epi8(mask.cast_signed()));
            _mm256_or_si256(low, moved)
        }
        fn dot(self, sum: __m256i, codes: __m256i, x: i32) -> __m256i {
            let x = _mm256_set1_epi32(x);
            if VNNI {
                _mm256_dpbusd_avx_epi32(sum, codes, x)
            } else {
                // at most 2 * 127 * 127: the sums of two products do not saturate
                let pairs = _mm256_maddubs_epi16(codes, x);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
        fn dot_wide(self, sum: __m256i, codes: __m256i, x: i32) -> __m256i {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sum, codes, _mm256_set1_epi32(x));
            }
            let sum = self.dot(sum, _mm256_and_si256(codes, _mm256_set1_epi8(127)), x);
            let top = _mm256_and_si256(_mm256_srli_epi16::<7>(codes), _mm256_set1_epi8(1));
            let pairs = _mm256_maddubs_epi16(top, _mm256_set1_epi32(x));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(128)))
        }
        fn bf16_pairs(self, tables: &Tables, group: &Group, part: usize) -> [__m256i; 4] {
            let [low, next, codes] = group.each_ref().map(|line| self.bytes(line, part));
            let table = self.bytes(tables, part);
            let high = _mm256_shuffle_epi8(table, self.low_nibbles(codes));
            let next_high = _mm256_shuffle_epi8(table, self.high_nibbles(codes));
            [
                _mm256_unpacklo_epi8(low, high),
                _mm256_unpackhi_epi8(low, high),
                _mm256_unpacklo_epi8(next, next_high),
                _mm256_unpackhi_epi8(next, next_high),
            ]
        }
        fn bf16_even(self, pairs: __m256i) -> __m256 {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))
        }
        fn bf16_odd(self, pairs: __m256i) -> __m256 {
            _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)))
        }
    }
}
