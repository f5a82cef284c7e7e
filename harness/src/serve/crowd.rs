//! Memory that a crowd of connections needed, given back when it has gone.
//!
//! glibc's allocator returns only what lies at the end of its heap; one small block that outlives
//! 10,000 connections keeps all they had. Invariant: once no more than an eighth of the most
//! connections there were is left, the free pages of the heap go back to the system. What it does
//! not do: anything with another C library, where it is left to the allocator.

use std::sync::atomic::{AtomicI64, Ordering};

/// Fewer connections than this are no crowd.
const CROWD: i64 = 64;
/// Of the most there were, one in this many may be left.
const LEFT: i64 = 8;

/// The most connections since memory was last given back.
#[derive(Debug, Default)]
pub(super) struct Crowd(AtomicI64);

impl Crowd {
    /// One came, and so many are open.
    pub(super) fn grew(&self, open: i64) {
        self.0.fetch_max(open, Ordering::Relaxed);
    }

    /// One went, and so many are open. True when a crowd has gone.
    pub(super) fn shrank(&self, open: i64) -> bool {
        let most = self.0.load(Ordering::Relaxed);
        let gone = most >= CROWD && open <= most / LEFT;
        if gone {
            self.0.store(open, Ordering::Relaxed);
        }
        gone
    }
}

/// Gives the free pages of the heap back to the system. Takes milliseconds where there are many.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "one call of the C library")]
pub(super) fn give_memory_back() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: malloc_trim(3) may be called at any time by any thread (MT-Safe), touches free memory
    // only, and has this signature since glibc 2.0.
    let gave = unsafe { malloc_trim(0) };
    tracing::debug!(gave, "memory given back after a crowd");
}

/// The C library has no such call.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn give_memory_back() {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_crowd_has_gone_when_an_eighth_is_left_and_few_are_none() {
        let crowd = Crowd::default();
        let open = Cell::new(0);
        let moved = |by: i64| {
            open.set(open.get() + by);
            open.get()
        };
        let come = |many: i64| (0..many).for_each(|_| crowd.grew(moved(1)));
        let go = |many: i64| (0..many).filter(|_| crowd.shrank(moved(-1))).count();
        come(CROWD - 1);
        assert_eq!(go(CROWD - 1), 0, "few");
        come(800);
        assert_eq!(go(699), 0, "101 are left");
        assert_eq!(go(1), 1, "100 of 800");
        assert_eq!(go(87), 0, "13 of 100");
        assert_eq!(go(1), 1, "12 of 100");
        assert_eq!(go(12), 0, "12 were no crowd");
        come(64);
        assert_eq!(go(64), 1, "the next one");
    }

    /// A heap of small blocks, the last of which stays: without the call its pages stay too.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn free_pages_below_a_used_one_go_back() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
            let pages = text.split_whitespace().nth(1).expect("resident pages");
            pages.parse::<u64>().expect("a number") * 4096
        };
        let mut blocks: Vec<Box<[u8; 4000]>> = (0..20_000).map(|_| Box::new([1; 4000])).collect();
        let last = blocks.pop();
        drop(blocks);
        let before = resident();
        give_memory_back();
        let after = resident();
        assert!(last.is_some());
        assert!(after + 40_000_000 < before, "{before} to {after} bytes");
    }
}
