//! Wakes a poll for sockets at an instant, to the microsecond.
//!
//! The time limit of a poll itself is in whole milliseconds, which would show in every figure, so
//! on Linux a timer of the kernel is one of the things that are polled for. Elsewhere the limit is
//! all there is. Invariant: a wait never ends after its instant for want of a timer; it may end
//! earlier, with or without anything ready, so callers look at the clock.

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Registry, Token};

use crate::clock::{Clock, Nanos};

/// A timer that belongs to one poll.
#[derive(Debug)]
pub struct Alarm {
    clock: Clock,
    #[cfg(target_os = "linux")]
    timer: linux::Timer,
}

impl Alarm {
    /// A timer on `clock`, which follows real time; it is registered under `token`.
    pub fn new(registry: &Registry, token: Token, clock: Clock) -> io::Result<Self> {
        #[cfg(not(target_os = "linux"))]
        let _ = (registry, token);
        Ok(Self {
            clock,
            #[cfg(target_os = "linux")]
            timer: linux::Timer::new(registry, token)?,
        })
    }

    /// Waits until something is ready or `until` has come; without an instant, for ever.
    pub fn wait(
        &mut self,
        poll: &mut Poll,
        events: &mut Events,
        until: Option<Nanos>,
    ) -> io::Result<()> {
        let limit = match until {
            None => None,
            Some(until) => match until.since(self.clock.now()) {
                Nanos::ZERO => Some(Duration::ZERO),
                left => self.limit(until, left)?,
            },
        };
        match poll.poll(events, limit) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            result => result,
        }
    }

    #[cfg(target_os = "linux")]
    fn limit(&mut self, until: Nanos, _: Nanos) -> io::Result<Option<Duration>> {
        self.timer.set(self.clock.monotonic_ns(until))?;
        Ok(None)
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "the signature is that of Linux")]
    fn limit(&mut self, _: Nanos, left: Nanos) -> io::Result<Option<Duration>> {
        Ok(Some(Duration::from_nanos(left.0)))
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};

    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    /// A timer that can be polled for.
    #[derive(Debug)]
    pub(super) struct Timer {
        descriptor: OwnedFd,
        set_to_ns: u64,
    }

    impl Timer {
        pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            let raw = descriptor.as_raw_fd();
            registry.register(&mut SourceFd(&raw), token, Interest::READABLE)?;
            Ok(Self {
                descriptor,
                set_to_ns: 0,
            })
        }

        /// Setting it again also takes back that it has gone off, so it is never read.
        pub(super) fn set(&mut self, at_ns: u64) -> io::Result<()> {
            if self.set_to_ns == at_ns {
                return Ok(());
            }
            let at = Itimerspec {
                it_interval: Timespec::default(),
                it_value: Timespec {
                    tv_sec: (at_ns / 1_000_000_000).cast_signed(),
                    tv_nsec: (at_ns % 1_000_000_000).cast_signed(),
                },
            };
            timerfd_settime(&self.descriptor, TimerfdTimerFlags::ABSTIME, &at)?;
            self.set_to_ns = at_ns;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_off_each_time_and_not_before_its_instant() {
        let clock = Clock::wall();
        let mut poll = Poll::new().expect("the system can poll");
        let mut alarm = Alarm::new(poll.registry(), Token(0), clock.clone()).expect("a timer");
        let mut events = Events::with_capacity(4);
        for _ in 0..20 {
            let until = clock.now().plus(Nanos(700_000));
            while clock.now() < until {
                alarm
                    .wait(&mut poll, &mut events, Some(until))
                    .expect("it waits");
            }
        }
        let past = clock.now();
        alarm
            .wait(&mut poll, &mut events, Some(past))
            .expect("an instant that has passed is no wait");
        assert!(clock.now() >= past);
    }
}
