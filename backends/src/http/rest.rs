//! Rests between two looks at the sockets, where much comes.
//!
//! To be woken for each read costs as much as the read, and costs the server's side on the same
//! machine as well. The kernel stamps what arrives, so where many reads a millisecond are to be
//! made, they wait for each other.
//!
//! Invariants: a rest is no longer than [`REST`] and ends [`EARLY`] before there is something to
//! do. [`WINDOW`] after it stops being worth it, or the kernel stops stamping, there is none.
//! The price: two packets of one stream that come within a rest have the instant of the second,
//! and what has no stamp, as the end of a connection, is seen by that much later.

use crate::clock::Nanos;

/// The longest rest.
const REST: Nanos = Nanos(500_000);
/// A rest that would be shorter is none.
const SHORTEST: Nanos = Nanos(100_000);
/// The end of a rest is that exact.
const EARLY: Nanos = Nanos(100_000);
/// A rest is worth it where so many reads come meanwhile.
const WORTH: u64 = 4;
/// How much comes is found anew after so long.
const WINDOW: Nanos = Nanos(10_000_000);

/// Whether to rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    since: Nanos,
    reads: u64,
    is_worth_it: bool,
}

impl Rest {
    /// A read was made of bytes that had waited for so long, if the kernel stamped them.
    pub(super) fn read(&mut self, waited: Option<Nanos>) {
        self.reads += u64::from(waited.is_some());
    }

    /// So much comes that a rest is worth it.
    pub(super) fn is_worth_it(&self) -> bool {
        self.is_worth_it
    }

    /// How long to rest; at `until` there is something to do.
    pub(super) fn length(&mut self, now: Nanos, until: Option<Nanos>) -> Option<Nanos> {
        let time = now.since(self.since);
        if time >= WINDOW {
            self.is_worth_it = self.reads * REST.0 >= WORTH * time.0;
            self.since = now;
            self.reads = 0;
        }
        let left = until.map_or(REST, |until| until.since(now.plus(EARLY)).min(REST));
        (self.is_worth_it && left >= SHORTEST).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads in a window from which on it is worth it.
    const ENOUGH: u64 = WORTH * WINDOW.0 / REST.0;

    #[test]
    fn a_rest_is_worth_it_while_much_comes() {
        let mut rest = Rest::default();
        let mut now = Nanos(1_000_000_000);
        assert_eq!(rest.length(now, None), None, "nothing has come yet");
        for (reads, stamped, expected) in [
            (ENOUGH - 1, true, None),
            (ENOUGH, true, Some(REST)),
            (10 * ENOUGH, true, Some(REST)),
            (10 * ENOUGH, false, None),
            (ENOUGH, true, Some(REST)),
            (0, true, None),
        ] {
            for _ in 0..reads {
                rest.read(stamped.then_some(Nanos::ZERO));
            }
            let was_worth_it = rest.is_worth_it();
            rest.length(now.plus(Nanos(WINDOW.0 - 1)), None);
            assert_eq!(rest.is_worth_it(), was_worth_it, "the window is not over");
            now = now.plus(WINDOW);
            assert_eq!(rest.length(now, None), expected, "{reads} reads, {stamped}");
        }
    }

    #[test]
    fn a_rest_ends_before_there_is_something_to_do() {
        let mut rest = Rest {
            is_worth_it: true,
            ..Rest::default()
        };
        let now = Nanos(1000);
        for (until, expected) in [
            (0, None),
            (1000, None),
            (1000 + EARLY.0 + SHORTEST.0 - 1, None),
            (1000 + EARLY.0 + SHORTEST.0, Some(SHORTEST)),
            (1000 + EARLY.0 + REST.0, Some(REST)),
            (u64::MAX, Some(REST)),
        ] {
            assert_eq!(rest.length(now, Some(Nanos(until))), expected, "{until}");
        }
    }
}
