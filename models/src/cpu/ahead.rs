//! What a thread that waits asks the memory for: the weights that it will read next.
//!
//! Between two matrices of a step one thread norms and quantises a row and the others wait, and the
//! memory, which is the limit of decode, rests. **Invariant.** Nothing is read here, so nothing
//! depends on it but time; an address that is wrong by then costs a wasted request.

#![expect(unsafe_code, reason = "a prefetch takes a pointer")]

/// A thread asks for so much of its part at most: what its second-level cache holds with ease.
const MOST_BYTES: usize = 128 << 10;
/// Asked for between two looks at whether the wait is over.
const LINES: usize = 4;
const LINE_BYTES: usize = 64;

/// A matrix that is multiplied soon: so many units of so many bytes, of which each thread has a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Soon {
    address: usize,
    units: usize,
    unit_bytes: usize,
}

impl Soon {
    /// The matrix in `weights`.
    pub(crate) fn new(weights: &[u8], unit_bytes: usize) -> Self {
        Self {
            address: weights.as_ptr().addr(),
            units: weights.len() / unit_bytes.max(1),
            unit_bytes,
        }
    }

    /// The beginning of what one of the threads will read.
    pub(crate) fn part(self, thread: usize, threads: usize) -> Ahead {
        let bound = |thread: usize| self.units * thread / threads * self.unit_bytes;
        let (start, end) = (bound(thread), bound(thread + 1));
        Ahead {
            next: self.address + start,
            end: self.address + end.min(start + MOST_BYTES),
        }
    }
}

/// What is still to be asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    next: usize,
    end: usize,
}

impl Ahead {
    /// Asks for some of it; false when all has been asked for.
    #[inline]
    pub(crate) fn ask(&mut self) -> bool {
        if self.next >= self.end {
            return false;
        }
        for _ in 0..LINES {
            prefetch(self.next);
            self.next += LINE_BYTES;
        }
        true
    }
}

/// Asks for the line at an address, into the second-level cache.
#[inline]
fn prefetch(address: usize) {
    let pointer = std::ptr::without_provenance::<u8>(address);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch reads nothing and faults nowhere; every x86-64 processor has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(pointer.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a prefetch reads nothing and faults nowhere.
    unsafe {
        use std::arch::asm;
        asm!("prfm pldl2keep, [{0}]", in(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = pointer;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_ask_for_what_they_will_read() {
        let weights = vec![0_u8; 7 * 1000];
        let soon = Soon::new(&weights, 1000);
        let start = weights.as_ptr().addr();
        let parts = [0, 1, 2].map(|thread| soon.part(thread, 3));
        let bounds = parts.map(|part| (part.next - start, part.end - start));
        assert_eq!(bounds, [(0, 2000), (2000, 4000), (4000, 7000)]);
        let mut one = parts[0];
        let times = std::iter::repeat_with(|| one.ask()).take_while(|&more| more);
        assert_eq!(times.count(), 2000_usize.div_ceil(LINES * LINE_BYTES));
        let large = Soon {
            address: 4096,
            units: 100,
            unit_bytes: MOST_BYTES,
        };
        let part = large.part(1, 2);
        assert_eq!(part.end - part.next, MOST_BYTES);
        assert!(!Soon::default().part(0, 2).ask(), "nothing is known");
    }
}
