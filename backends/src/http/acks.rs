//! Acknowledgements, put off where that cannot slow the server.
//!
//! Of a client's work for a token a quarter is the kernel's for acknowledging it at once. Some
//! servers wait for that before they send the next token (RFC 896; `TCP_NODELAY` turns it off), and
//! to acknowledge later would make them slower than they are for others. So one connection is
//! watched: two small segments that come while nothing was sent back show that the server does
//! not wait. From then on only every second segment is acknowledged.
//!
//! Invariants: until a server was seen not to wait, at most one segment in a tenth of a second, and
//! ten in all, are acknowledged later than the kernel would have. It knows no HTTP.

use mio::net::TcpStream;

use crate::clock::Nanos;
use crate::segments::{Segments, put_off_acknowledgements};

/// So often a server is given the chance to show that it does not wait.
const TRIES: u32 = 10;
/// A connection is watched for so long at most.
const PATIENCE: Nanos = Nanos(100_000_000);
/// Segments that together have fewer bytes are small: a full one has 1,220 or more, since networks
/// carry packets of 1,280 bytes at the least (RFC 8200, section 5; 60 are headers).
const SMALL: u64 = 1220;
/// The kernel is told again with so many reads.
const AGAIN: u32 = 8;

/// What is known of a server, or of all that share its address.
#[derive(Debug, Default)]
pub(super) struct Acks {
    state: State,
    tries: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    /// A connection is watched since it had carried so much.
    Watching {
        serial: u64,
        since: Segments,
        until: Nanos,
    },
    /// It does not wait.
    PutOff,
    /// It may wait.
    AtOnce,
}

impl Acks {
    /// They are put off.
    pub(super) fn are_put_off(&self) -> bool {
        self.state == State::PutOff
    }

    /// Before what has come is read, for the so-manieth time since the request.
    pub(super) fn before_read(&mut self, serial: u64, reads: u32, socket: &TcpStream) {
        match self.state {
            State::PutOff if reads % AGAIN == 1 => put_off_acknowledgements(socket),
            State::Watching {
                serial: watched, ..
            } if serial == watched => self.judge(Segments::of(socket)),
            _ => {}
        }
    }

    /// After all that had come was read.
    pub(super) fn after_read(&mut self, serial: u64, now: Nanos, socket: &TcpStream) {
        match self.state {
            State::Watching { until, .. } if now > until => self.give_up(),
            State::Unknown => {
                self.watch(serial, now, Segments::of(socket));
                if self.state != State::AtOnce {
                    put_off_acknowledgements(socket);
                }
            }
            _ => {}
        }
    }

    fn watch(&mut self, serial: u64, now: Nanos, since: Option<Segments>) {
        let until = now.plus(PATIENCE);
        self.state = since.map_or(State::AtOnce, |since| State::Watching {
            serial,
            since,
            until,
        });
    }

    /// What the watched connection has carried by now.
    fn judge(&mut self, now: Option<Segments>) {
        let (State::Watching { since, .. }, Some(now)) = (self.state, now) else {
            return;
        };
        let is_silent = now.sent == since.sent;
        let is_small = now.bytes - since.bytes < SMALL;
        // What ends a connection is sent without waiting.
        let came = if now.is_open {
            now.came.wrapping_sub(since.came)
        } else {
            0
        };
        if is_silent && is_small && came >= 2 {
            self.state = State::PutOff;
        }
    }

    fn give_up(&mut self) {
        self.tries += 1;
        self.state = if self.tries < TRIES {
            State::Unknown
        } else {
            State::AtOnce
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: Segments = Segments {
        sent: 7,
        came: 40,
        bytes: 9000,
        is_open: true,
    };

    #[test]
    fn two_small_segments_without_an_acknowledgement_show_it() {
        let with = |sent, came, bytes| Segments {
            sent: SINCE.sent + sent,
            came: SINCE.came + came,
            bytes: SINCE.bytes + bytes,
            ..SINCE
        };
        let ended = Segments {
            is_open: false,
            ..with(0, 2, 500)
        };
        for (name, now, expected) in [
            ("nothing yet", SINCE, false),
            ("one", with(0, 1, 250), false),
            ("two", with(0, 2, 500), true),
            ("three", with(0, 3, SMALL - 1), true),
            ("one was acknowledged", with(1, 2, 500), false),
            ("one may be full", with(0, 2, SMALL), false),
            ("the second ended the connection", ended, false),
        ] {
            let mut acks = Acks::default();
            acks.watch(3, Nanos::ZERO, Some(SINCE));
            acks.judge(Some(now));
            assert_eq!(acks.are_put_off(), expected, "{name}");
        }
    }

    #[test]
    fn where_the_kernel_does_not_tell_nothing_is_put_off() {
        let mut acks = Acks::default();
        acks.watch(3, Nanos::ZERO, None);
        assert_eq!(acks.state, State::AtOnce);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod on_sockets {
    use super::*;
    use crate::stamp::pair::Pair;

    /// Tokens 5 ms apart, read as they come; whether acknowledgements were put off in the end.
    fn are_put_off(nodelay: bool) -> Option<bool> {
        const TOKENS: usize = 500;
        let mut pair = Pair::new();
        pair.server.set_nodelay(nodelay).expect("a socket takes it");
        Segments::of(&pair.client)?;
        let mut acks = Acks::default();
        for reads in 0..TOKENS {
            pair.send(b"token");
            pair.rest(Nanos(5_000_000));
            acks.before_read(0, reads as u32, &pair.client);
            if pair.read(Nanos::ZERO).is_ok() {
                acks.after_read(0, pair.clock.now(), &pair.client);
            }
            if matches!(acks.state, State::PutOff | State::AtOnce) {
                break;
            }
        }
        Some(acks.are_put_off())
    }

    #[test]
    fn a_server_that_waits_is_told_from_one_that_does_not() {
        for does_not_wait in [true, false] {
            match are_put_off(does_not_wait) {
                Some(found) => assert_eq!(found, does_not_wait),
                None => println!("skipped: this kernel does not tell"),
            }
        }
    }
}
