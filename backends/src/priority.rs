//! How the threads of this process share a processor.
//!
//! The tasks that prepare requests and write records give way to the thread that owns the sockets,
//! and that thread gets its processor as soon as something has come, not when the slice of a task
//! is over.
//!
//! Invariant: no thread gets a larger share than it would have had. A lower priority makes its
//! share smaller; a short slice says how soon its turn comes, not how much it gets in all. Only
//! Linux has either for a single thread; where the kernel refuses, things stay as they are.

#![cfg_attr(
    target_os = "linux",
    expect(
        unsafe_code,
        reason = "asks the kernel what no library of ours can ask"
    )
)]

/// Lowers the priority of the calling thread.
#[cfg(target_os = "linux")]
pub(crate) fn give_way() {
    /// A tenth of the weight of a thread as it starts: as the scheduler of Linux has it.
    const NICER: i32 = 10;
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// Gives the calling thread short slices, so that it takes its turn before threads with long ones.
/// Kernels before 6.12 have one length for all, and change nothing.
#[cfg(target_os = "linux")]
pub fn take_short_turns() {
    if let Err(error) = linux::set_slice(linux::SHORT_NS) {
        tracing::debug!(%error, "a thread keeps the length of its slices");
    }
}

/// Threads have no priority of their own here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_way() {}

/// There are no such slices here.
#[cfg(not(target_os = "linux"))]
pub fn take_short_turns() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use libc::{SYS_sched_getattr, SYS_sched_setattr, c_uint, sched_attr, syscall};

    /// The shortest that there is.
    pub(super) const SHORT_NS: u64 = 100_000;
    const SIZE: c_uint = size_of::<sched_attr>() as c_uint;
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: c_uint = 0;

    /// How the kernel schedules the calling thread.
    pub(super) fn attributes() -> io::Result<sched_attr> {
        let mut attributes = sched_attr {
            size: 0,
            sched_policy: 0,
            sched_flags: 0,
            sched_nice: 0,
            sched_priority: 0,
            sched_runtime: 0,
            sched_deadline: 0,
            sched_period: 0,
        };
        let place = &raw mut attributes;
        // SAFETY: at `place` is a structure of SIZE bytes, and the kernel writes no more.
        let failed = unsafe { syscall(SYS_sched_getattr, THIS_THREAD, place, SIZE, NO_FLAGS) } != 0;
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(attributes)
    }

    /// Sets the length of the slices, and nothing else.
    pub(super) fn set_slice(slice_ns: u64) -> io::Result<()> {
        let attributes = sched_attr {
            sched_runtime: slice_ns,
            ..attributes()?
        };
        let place = &raw const attributes;
        // SAFETY: the kernel reads `size` bytes from `place`, which it wrote itself a moment ago.
        let failed = unsafe { syscall(SYS_sched_setattr, THIS_THREAD, place, NO_FLAGS) } != 0;
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// What the kernel said before and after, on a thread of its own.
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn around(change: fn()) -> Option<(libc::sched_attr, libc::sched_attr)> {
        let thread = std::thread::spawn(move || {
            let before = linux::attributes();
            change();
            Some((before.ok()?, linux::attributes().ok()?))
        });
        let said = thread.join().expect("it does not panic");
        if said.is_none() {
            println!("skipped: this kernel does not tell");
        }
        said
    }

    #[test]
    fn giving_way_lowers_the_priority() {
        let Some((before, after)) = around(give_way) else {
            return;
        };
        assert_eq!(after.sched_nice, (before.sched_nice + 10).min(19));
        assert_eq!(after.sched_policy, before.sched_policy);
    }

    #[test]
    fn short_turns_change_the_length_of_the_slices_and_nothing_else() {
        let Some((before, after)) = around(take_short_turns) else {
            return;
        };
        assert_eq!(after.sched_nice, before.sched_nice);
        assert_eq!(after.sched_policy, before.sched_policy);
        assert_eq!(after.sched_flags, before.sched_flags);
        if before.sched_runtime == 0 {
            println!("skipped: this kernel has one length of slices for all");
            return;
        }
        assert_eq!(after.sched_runtime, linux::SHORT_NS);
    }
}
