//! What this machine can do at most: bytes read and operations done per second.
//!
//! Measured with the engine's own threads and instructions, for a fraction of a second, when a
//! speed is to be judged. **Invariant.** Each figure is the best of several short rounds, since
//! a limit is what is never exceeded. It says nothing of other machines, nor of this one under
//! another load.

use super::pool::Shared;
use super::simd::{Job, ROWS, Simd};
use super::{Cpu, memory::Memory};
use std::hint::black_box;

/// Rounds of each measurement.
const ROUNDS: usize = 7;
/// Tile updates of a round of arithmetic, per thread.
const UPDATES: usize = 400_000;
/// Independent sums, enough to hide an instruction's latency.
const SUMS: usize = 12;

/// Limits of the machine with the threads and the instruction set it was probed with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineProbe {
    /// Bytes of the memory that was read again and again.
    pub working_set_bytes: u64,
    /// Bytes read per second.
    pub read_bytes_per_s: f64,
    /// 8-bit multiplications and additions per second.
    pub integer_operations_per_s: f64,
    /// 32-bit floating-point multiplications and additions per second.
    pub float_operations_per_s: f64,
}

/// Measures; `now` gives nanoseconds. Fails where the memory cannot be had.
pub fn probe(
    cpu: &mut Cpu,
    working_set_bytes: u64,
    now: fn() -> u64,
) -> std::io::Result<MachineProbe> {
    let bytes = usize::try_from(working_set_bytes).unwrap_or(usize::MAX);
    let bytes = bytes.next_multiple_of(4 * ROWS);
    let mut memory = Memory::for_spans([bytes])?;
    let span = memory.take(bytes);
    memory.bytes_mut(span).fill(1);
    let lines: &[[u8; 4 * ROWS]] = memory.bytes(span).as_chunks().0;
    let level = cpu.level;
    let rate = |amount: f64, mut round: Box<dyn FnMut() + '_>| {
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = now();
            round();
            best = best.min(now().saturating_sub(start).max(1) as f64);
        }
        amount / best * 1e9
    };
    // in pieces, so that a thread that is put aside holds nobody up
    let pieces = lines.len().div_ceil(4096).max(1);
    let pool = &mut cpu.pool;
    let read_bytes_per_s = rate(
        bytes as f64,
        Box::new(|| {
            pool.run(pieces, usize::MAX, |_, range| {
                let at = |piece: usize| (piece * 4096).min(lines.len());
                level.run(Read(&lines[at(range.start)..at(range.end)]));
            });
        }),
    );
    let threads = pool.threads();
    let mut done = vec![0_usize; threads];
    let mut arithmetic = |job: fn(super::Level) -> usize| {
        let mut operations = 0;
        let mut round = || {
            done.fill(0);
            let shared = Shared::new(&mut done);
            pool.run(8 * threads, usize::MAX, |thread, range| {
                for _ in range {
                    let more = job(level);
                    // SAFETY: each thread has a number of its own.
                    #[expect(unsafe_code, reason = "threads count apart")]
                    unsafe {
                        shared.part(thread..thread + 1)[0] += more;
                    }
                }
            });
            operations = done.iter().sum::<usize>();
        };
        round();
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = now();
            round();
            best = best.min(now().saturating_sub(start).max(1) as f64);
        }
        operations as f64 / best * 1e9
    };
    let integer_operations_per_s = arithmetic(|level| level.run(Integers));
    let float_operations_per_s = arithmetic(|level| level.run(Floats));
    Ok(MachineProbe {
        working_set_bytes,
        read_bytes_per_s,
        integer_operations_per_s,
        float_operations_per_s,
    })
}

/// Reads every line.
struct Read<'a>(&'a [[u8; 4 * ROWS]]);

impl Job for Read<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.splat_i32(0); 4];
        for lines in self.0.chunks_exact(4) {
            for (line, sum) in lines.iter().zip(&mut sums) {
                for part in 0..ROWS / S::LANES {
                    *sum = simd.dot(*sum, simd.bytes(line, part), 1);
                }
            }
        }
        black_box(sums.map(|sum| simd.to_f32(sum)));
    }
}

/// Integer dot products on registers; gives their operations.
struct Integers;

impl Job for Integers {
    type Output = usize;

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn run<S: Simd>(self, simd: S) -> usize {
        let mut sums = [simd.splat_i32(0); SUMS];
        let codes = simd.bytes(black_box(&[1; 4 * ROWS]), 0);
        let x = black_box(0x0102_0304);
        for _ in 0..UPDATES / SUMS {
            for sum in &mut sums {
                *sum = simd.dot(*sum, codes, x);
            }
        }
        black_box(sums.map(|sum| simd.to_f32(sum)));
        UPDATES / SUMS * SUMS * S::LANES * 8
    }
}

/// Fused multiplications and additions on registers; gives their operations.
struct Floats;

impl Job for Floats {
    type Output = usize;

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled for the level of the caller")]
    fn run<S: Simd>(self, simd: S) -> usize {
        let mut sums = [simd.splat(0.0); SUMS];
        let x = simd.splat(black_box(0.5));
        let y = simd.splat(black_box(0.25));
        for _ in 0..UPDATES / SUMS {
            for sum in &mut sums {
                *sum = simd.fma(x, y, *sum);
            }
        }
        black_box(sums);
        UPDATES / SUMS * SUMS * S::LANES * 2
    }
}
