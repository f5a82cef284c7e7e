//! Rests between two looks at the sockets, where much comes.
//!
//! To be woken for each read costs as much as the read, and costs the server's side on the same
//! machine as well. The kernel stamps what arrives, so where many reads a millisecond are to be
//! made, they wait for each other.
//!
//! Invariants: nothing waits for longer than [`REST`] for this, nor beyond the instant for which
//! the caller has something to do, nor once the rouser is woken. Where the kernel does not stamp
//! there is no rest.

use std::io;

use mio::{Events, Poll, Token, Waker};

use crate::alarm::Alarm;
use crate::clock::{Clock, Nanos};

/// The longest rest.
const REST: Nanos = Nanos(500_000);
/// A rest that would be shorter is none.
const SHORTEST: Nanos = Nanos(100_000);
/// A rest is worth it where so many reads come meanwhile.
const WORTH: u64 = 4;
/// How much comes is found anew after so long.
const WINDOW: Nanos = Nanos(10_000_000);

/// Rests of one thread.
#[derive(Debug)]
pub(super) struct Rest {
    poll: Poll,
    alarm: Alarm,
    events: Events,
    rate: Rate,
}

impl Rest {
    /// And what ends a rest from another thread.
    pub(super) fn new(clock: Clock) -> io::Result<(Self, Waker)> {
        const ROUSER: Token = Token(0);
        const ALARM: Token = Token(1);
        let poll = Poll::new()?;
        let rouser = Waker::new(poll.registry(), ROUSER)?;
        let rest = Self {
            alarm: Alarm::new(poll.registry(), ALARM, clock)?,
            events: Events::with_capacity(2),
            rate: Rate::default(),
            poll,
        };
        Ok((rest, rouser))
    }

    /// A read was made of bytes that had waited for so long, if the kernel stamped them.
    pub(super) fn read(&mut self, waited: Option<Nanos>) {
        self.rate.reads += u64::from(waited.is_some());
    }

    /// So much comes that a rest is worth it.
    pub(super) fn is_worth_it(&self) -> bool {
        self.rate.is_high
    }

    /// Rests, if it is worth it; at `until` there is something to do.
    pub(super) fn until(&mut self, now: Nanos, until: Option<Nanos>) -> io::Result<()> {
        self.rate.at(now);
        let end = now.plus(REST);
        let end = until.map_or(end, |until| until.min(end));
        if self.is_worth_it() && end.since(now) >= SHORTEST {
            self.alarm
                .wait(&mut self.poll, &mut self.events, Some(end))?;
        }
        Ok(())
    }
}

/// How much comes.
#[derive(Debug, Default)]
struct Rate {
    since: Nanos,
    reads: u64,
    is_high: bool,
}

impl Rate {
    fn at(&mut self, now: Nanos) {
        let time = now.since(self.since);
        if time >= WINDOW {
            self.is_high = self.reads * REST.0 >= WORTH * time.0;
            self.since = now;
            self.reads = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_worth_it_while_much_comes() {
        /// Reads in a window at which it begins to be.
        const ENOUGH: u64 = WORTH * WINDOW.0 / REST.0;
        let mut rate = Rate::default();
        let mut now = Nanos(1_000_000_000);
        rate.at(now);
        assert!(!rate.is_high, "nothing has come yet");
        for (reads, expected) in [
            (ENOUGH - 1, false),
            (ENOUGH, true),
            (10 * ENOUGH, true),
            (0, false),
        ] {
            rate.reads += reads;
            let was_high = rate.is_high;
            rate.at(now.plus(Nanos(WINDOW.0 - 1)));
            assert_eq!(rate.is_high, was_high, "the window is not over");
            now = now.plus(WINDOW);
            rate.at(now);
            assert_eq!(rate.is_high, expected, "{reads} reads");
        }
    }

    #[test]
    fn reads_without_a_stamp_are_no_reason_to_rest() {
        let (mut rest, _rouser) = Rest::new(Clock::wall()).expect("the system can poll");
        for _ in 0..1000 {
            rest.read(None);
        }
        rest.rate.at(WINDOW);
        assert!(!rest.is_worth_it());
        for _ in 0..1000 {
            rest.read(Some(Nanos::ZERO));
        }
        rest.rate.at(Nanos(2 * WINDOW.0));
        assert!(rest.is_worth_it());
    }

    #[test]
    fn a_rest_ends_in_time_or_when_roused() {
        let clock = Clock::wall();
        let (mut rest, rouser) = Rest::new(clock.clone()).expect("the system can poll");
        let high = |now| Rate {
            since: now,
            reads: 0,
            is_high: true,
        };
        let rests = 100;
        let began = clock.now();
        for _ in 0..rests {
            let now = clock.now();
            rest.rate = high(now);
            rest.until(now, None).expect("it rests");
            assert!(clock.now() >= now.plus(REST));
            rest.until(now, Some(now))
                .expect("there is no time to rest");
        }
        let rested = clock.now().since(began);
        assert!(rested >= Nanos(rests * REST.0));
        // In a rest of ten seconds nothing but the rouser ends it sooner.
        rouser.wake().expect("it can be woken");
        let now = clock.now();
        let far = now.plus(Nanos(10_000_000_000));
        rest.alarm
            .wait(&mut rest.poll, &mut rest.events, Some(far))
            .expect("it rests");
        assert!(clock.now() < far);
    }
}
