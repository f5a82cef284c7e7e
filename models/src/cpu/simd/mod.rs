//! Vectors of one processor, behind one trait.
//!
//! A kernel is written once, over [`Simd`], in safe code; [`Level::run`] compiles it for every
//! instruction set and calls the one that was chosen. A value of a `Simd` type is the proof that
//! the processor has the instructions: only `Level::run` makes one, after asking the processor.
//! **Invariant.** All levels round alike and in the same order, so they compute the same bits;
//! the one exception is [`Simd::dot_bf16`].

#![expect(
    clippy::inline_always,
    reason = "a body must be inlined into the caller that enables the instructions"
)]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
/// Defines methods of a level that are one instruction, or a few.
macro_rules! operations {
    ($(fn $name:ident $(<const $generic:ident: i32>)? ($this:ident $(, $argument:ident: $type:ty)*)
        -> $result:ty $body:block)*) => {
        $(
            #[inline(always)]
            fn $name $(<const $generic: i32>)? ($this $(, $argument: $type)*) -> $result {
                // SAFETY: `self` is the proof that the processor has the instructions; loads
                // and stores stay inside their row because `part` is taken modulo the parts.
                unsafe { $body }
            }
        )*
    };
}

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::short::{Group, Tables};
use std::fmt;

/// Rows of a packed panel: the widest vector of 32-bit lanes.
pub(crate) const ROWS: usize = 16;

/// The vector operations the kernels need.
///
/// A vector holds [`Self::LANES`] of the [`ROWS`] rows of a panel; a panel is walked in
/// `ROWS / LANES` parts, and loads from a panel name the part.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// 32-bit lanes of a vector.
    const LANES: usize;
    /// Columns of the widest integer tile that stays in registers.
    const INT_COLUMNS: usize;
    /// Columns of the widest floating-point tile that stays in registers.
    const FLOAT_COLUMNS: usize;
    /// Whether [`Self::dot_bf16`] rounds the activations to bf16.
    const HAS_BF16: bool;

    /// Lanes of f32.
    type F: Copy;
    /// Lanes of i32.
    type I: Copy;
    /// Four bytes per lane.
    type B: Copy;

    /// Asks for the cache line that `bytes` begin in, to be at hand in the first-level cache, or
    /// in the second-level cache, which can ask for more at a time.
    fn prefetch<const LEVEL: i32>(self, bytes: &[u8]);
    /// Asks for all of `bytes`.
    #[inline(always)]
    fn prefetch_all<const LEVEL: i32>(self, bytes: &[u8]) {
        const CACHE_LINE: usize = 64;
        for line in bytes.chunks(CACHE_LINE) {
            self.prefetch::<LEVEL>(line);
        }
    }
    fn splat(self, value: f32) -> Self::F;
    fn load(self, row: &[f32; ROWS], part: usize) -> Self::F;
    fn store(self, value: Self::F, row: &mut [f32; ROWS], part: usize);
    /// Widens IEEE half-precision numbers.
    fn load_f16(self, row: &[u16; ROWS], part: usize) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The largest lane.
    fn largest(self, value: Self::F) -> f32;
    /// `2^n` for `bits = n + 1.5 * 2^23`, `n` a whole number of at most 127 either way.
    fn power_of_two(self, bits: Self::F) -> Self::F;

    /// Rounds to the nearest whole numbers (ties to even), stores their low bytes and returns
    /// their sum. All are within an i8.
    fn round_to_bytes(self, value: Self::F, bytes: &mut [u8; ROWS], part: usize) -> i32;
    fn splat_i32(self, value: i32) -> Self::I;
    fn to_f32(self, value: Self::I) -> Self::F;

    fn bytes(self, row: &[u8; 4 * ROWS], part: usize) -> Self::B;
    /// The low nibble of every byte.
    fn low_nibbles(self, bytes: Self::B) -> Self::B;
    /// The high nibble of every byte.
    fn high_nibbles(self, bytes: Self::B) -> Self::B;
    /// Moves every byte right by `N` bits; the bits that come in are unspecified.
    fn right<const N: i32>(self, bytes: Self::B) -> Self::B;
    /// `low | ((high << N) & MASK)` for every byte.
    fn merge_left<const N: i32>(self, low: Self::B, high: Self::B, mask: u8) -> Self::B;
    /// Adds to every lane the dot product of its four unsigned bytes, each at most 127, with
    /// the four signed bytes of `x`, none of them -128.
    fn dot(self, sum: Self::I, codes: Self::B, x: i32) -> Self::I;
    /// The same for unsigned bytes up to 255.
    fn dot_wide(self, sum: Self::I, codes: Self::B, x: i32) -> Self::I;

    /// The bf16 numbers of a group of 8 columns, packed as `short` has it: four pairs of
    /// neighbours for every lane.
    fn bf16_pairs(self, tables: &Tables, group: &Group, part: usize) -> [Self::B; 4];
    /// The first of the two bf16 numbers of every lane.
    fn bf16_even(self, pairs: Self::B) -> Self::F;
    /// The second.
    fn bf16_odd(self, pairs: Self::B) -> Self::F;
    /// Adds to every lane the products of its two bf16 numbers with the two of `x`.
    #[inline(always)]
    fn dot_bf16(self, sum: Self::F, pairs: Self::B, x: u32) -> Self::F {
        fused_bf16(self, sum, pairs, x)
    }

    /// `e^x` to within 2 units in the last place. Below -87 the result is a tiny positive number
    /// instead of a denormal; above 88 it saturates.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        // x = n ln 2 + r, with ln 2 in two parts so that r is exact
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        // adding and subtracting 1.5 * 2^23 rounds to the nearest integer
        const ROUND: f32 = 12_582_912.0;
        let x = self.min(self.max(x, self.splat(-87.0)), self.splat(88.0));
        let log2_e = self.splat(std::f32::consts::LOG2_E);
        let bits = self.fma(x, log2_e, self.splat(ROUND));
        let n = self.sub(bits, self.splat(ROUND));
        let r = self.fma(n, self.splat(-LN2_HIGH), x);
        let r = self.fma(n, self.splat(-LN2_LOW), r);
        let mut series = self.splat(1.987_569_1e-4);
        for coefficient in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ] {
            series = self.fma(series, r, self.splat(coefficient));
        }
        let above_one = self.fma(self.mul(r, r), series, r);
        let mantissa = self.add(above_one, self.splat(1.0));
        self.mul(mantissa, self.power_of_two(bits))
    }
}

/// The products of two bf16 numbers per lane, in single precision.
#[inline(always)]
fn fused_bf16<S: Simd>(simd: S, sum: S::F, pairs: S::B, x: u32) -> S::F {
    let (even, odd) = (f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000));
    let sum = simd.fma(simd.bf16_odd(pairs), simd.splat(odd), sum);
    simd.fma(simd.bf16_even(pairs), simd.splat(even), sum)
}

/// Something to compute with the vectors of a level.
pub(crate) trait Job {
    /// What it gives.
    type Output;
    /// Does it; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No vectors: the reference for all others.
    Scalar,
    /// NEON with dot products (ARMv8.2).
    Neon,
    /// AVX2 with FMA and half-precision conversion.
    Avx2,
    /// AVX2 and 256-bit integer dot products.
    AvxVnni,
    /// AVX-512 and 512-bit integer dot products.
    Avx512Vnni,
    /// The same and bf16 dot products.
    Avx512Bf16,
}

impl Level {
    /// From the plainest to the fastest.
    pub const ALL: [Self; 6] = [
        Self::Scalar,
        Self::Neon,
        Self::Avx2,
        Self::AvxVnni,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
    ];

    /// The fastest level of this processor.
    pub fn best() -> Self {
        let mut levels = Self::ALL.into_iter();
        let best = levels.rfind(|level| level.is_available());
        best.unwrap_or(Self::Scalar)
    }

    /// Whether this processor, in this build, has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => x86::has_avx_vnni(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => x86::has_avx512_vnni(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => x86::has_avx512_bf16(),
            _ => false,
        }
    }

    /// Columns of the widest tile for integer weights.
    pub(crate) fn int_columns(self) -> usize {
        self.run(IntColumns)
    }

    /// Columns of the widest tile for floating-point weights.
    pub(crate) fn float_columns(self) -> usize {
        self.run(FloatColumns)
    }

    /// Whether bf16 weights are multiplied with activations rounded to bf16.
    pub(crate) fn has_bf16(self) -> bool {
        self.run_bf16(HasBf16)
    }

    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// Runs a job; a level that is not available runs as [`Self::Scalar`].
    #[inline]
    pub(crate) fn run<J: Job>(self, job: J) -> J::Output {
        match self {
            #[cfg(target_arch = "aarch64")]
            Self::Neon if self.is_available() => neon::run(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if self.is_available() => x86::run_avx2(job),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni if self.is_available() => x86::run_avx_vnni(job),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni | Self::Avx512Bf16 if self.is_available() => x86::run_avx512_vnni(job),
            _ => job.run(scalar::Scalar),
        }
    }

    /// Runs a job that gains from bf16 dot products. Others go through [`Self::run`], which
    /// spares them one more compilation.
    #[inline]
    pub(crate) fn run_bf16<J: Job>(self, job: J) -> J::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 if self.is_available() => x86::run_avx512_bf16(job),
            _ => self.run(job),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

macro_rules! question {
    ($name:ident, $answer:ty, $constant:ident) => {
        struct $name;

        impl Job for $name {
            type Output = $answer;

            #[inline(always)]
            fn run<S: Simd>(self, _simd: S) -> $answer {
                S::$constant
            }
        }
    };
}

question!(IntColumns, usize, INT_COLUMNS);
question!(FloatColumns, usize, FLOAT_COLUMNS);
question!(HasBf16, bool, HAS_BF16);
