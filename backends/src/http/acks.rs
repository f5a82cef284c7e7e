//! Acknowledgements, put off where the server does not wait for them.
//!
//! Of a client's work for a token a quarter is the kernel's for acknowledging it at once. Some
//! servers wait for that before they send the next token (RFC 896; `TCP_NODELAY` turns it off), and
//! to acknowledge later would make them slower than they are for others. So connections are
//! watched: two small segments that come while nothing was sent back show that the server does
//! not wait. Three that show it stand for all at the same address. From then on, while much
//! comes, every second segment is acknowledged, and a single one after some 40 ms.
//!
//! Invariants: before that, ten connections at most are watched, one at a time, and for the time
//! that each is, a tenth of a second, segments of that one are acknowledged later than the kernel
//! would have. Where the kernel does not tell of segments, none is. It knows no HTTP.

use mio::net::TcpStream;

use crate::clock::{Clock, Nanos};
use crate::segments::{Segments, acknowledge_at_once, put_off_acknowledgements};

/// So many times a server is given the chance to show that it does not wait.
const TRIES: u32 = 10;
/// So many times it has to.
const SHOWN: u32 = 3;
/// A connection is watched for so long at most.
const PATIENCE: Nanos = Nanos(100_000_000);
/// Segments that together have no more bytes are small: a full one has 524 or more, since every
/// host takes 536 (RFC 1122, section 4.2.2.6), of which time stamps take 12.
const SMALL: u64 = 523;
/// After so many reads an answer is under way.
const UNDER_WAY: u32 = 3;
/// The kernel is told again with so many reads.
const AGAIN: u32 = 8;

/// What is known of a server.
#[derive(Debug, Default)]
pub(super) struct Acks {
    state: State,
    tries: u32,
    shown: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Watching(Watch),
    /// It does not wait.
    PutOff,
    /// It may wait.
    AtOnce,
}

/// A connection that is watched, since it had carried so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watch {
    serial: u64,
    since: Segments,
    until: Nanos,
}

/// What has become of acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Those of one connection are put off for now.
    Tried,
    /// They are put off.
    PutOff,
}

impl Acks {
    /// Before what has come is read; so many reads of the answer were made already.
    pub(super) fn before_read(
        &mut self,
        serial: u64,
        reads: u32,
        clock: &Clock,
        socket: &TcpStream,
    ) -> Option<Change> {
        match self.state {
            State::PutOff if reads % AGAIN == 1 => put_off_acknowledgements(socket),
            State::Watching(watch) if watch.serial == serial => {
                match watch.judge(Segments::of(socket)) {
                    Some(true) => return self.has_shown(),
                    None if clock.now() <= watch.until => {}
                    _ => {
                        acknowledge_at_once(socket);
                        self.give_up();
                    }
                }
            }
            _ => {}
        }
        None
    }

    /// After all that had come was read, for the so-many-th time of an answer.
    pub(super) fn after_read(
        &mut self,
        serial: u64,
        reads: u32,
        now: Nanos,
        socket: &TcpStream,
    ) -> Option<Change> {
        match self.state {
            // Nothing comes on that one any more.
            State::Watching(watch) if now > watch.until.plus(PATIENCE) => self.give_up(),
            State::Unknown if reads >= UNDER_WAY => {
                let Some(since) = Segments::of(socket) else {
                    self.state = State::AtOnce;
                    return None;
                };
                self.state = State::Watching(Watch {
                    serial,
                    since,
                    until: now.plus(PATIENCE),
                });
                put_off_acknowledgements(socket);
                self.tries += 1;
                return Some(Change::Tried);
            }
            _ => {}
        }
        None
    }

    fn has_shown(&mut self) -> Option<Change> {
        self.shown += 1;
        if self.shown < SHOWN {
            self.give_up();
            return None;
        }
        self.state = State::PutOff;
        Some(Change::PutOff)
    }

    fn give_up(&mut self) {
        self.state = if self.tries < TRIES {
            State::Unknown
        } else {
            State::AtOnce
        };
    }
}

impl Watch {
    /// Did the server wait, by what the connection has carried by now? Nothing where that cannot
    /// be told yet.
    fn judge(&self, now: Option<Segments>) -> Option<bool> {
        let (since, now) = (&self.since, now?);
        let came = now.came.wrapping_sub(since.came);
        // What ends a connection is sent without waiting.
        let cannot_tell = now.sent != since.sent || now.bytes - since.bytes > SMALL || !now.is_open;
        match came {
            _ if cannot_tell => Some(false),
            0 | 1 => None,
            _ => Some(true),
        }
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
            ("nothing yet", SINCE, None),
            ("one", with(0, 1, 250), None),
            ("two", with(0, 2, 500), Some(true)),
            ("three", with(0, 3, SMALL), Some(true)),
            ("one was acknowledged", with(1, 2, 500), Some(false)),
            ("one may be full", with(0, 2, SMALL + 1), Some(false)),
            ("the second ended the connection", ended, Some(false)),
        ] {
            let watch = Watch {
                serial: 3,
                since: SINCE,
                until: Nanos::ZERO,
            };
            assert_eq!(watch.judge(Some(now)), expected, "{name}");
        }
    }

    #[test]
    fn a_server_has_to_show_it_more_than_once_and_is_tried_so_often_only() {
        let mut acks = Acks::default();
        let shown: Vec<_> = (0..SHOWN).map(|_| acks.has_shown()).collect();
        assert_eq!(shown, [None, None, Some(Change::PutOff)]);
        let mut acks = Acks::default();
        for _ in 0..TRIES {
            assert_eq!(acks.state, State::Unknown);
            acks.tries += 1;
            acks.give_up();
        }
        assert_eq!(acks.state, State::AtOnce);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod on_sockets {
    use super::*;
    use crate::stamp::pair::Pair;

    /// Tokens of so many bytes 5 ms apart, read as they come; were acknowledgements put off in the
    /// end?
    fn are_put_off(nodelay: bool, bytes: usize) -> Option<bool> {
        const TOKENS: u32 = 1000;
        let mut pair = Pair::new();
        pair.server.set_nodelay(nodelay).expect("a socket takes it");
        Segments::of(&pair.client)?;
        let mut acks = Acks::default();
        for reads in 0..TOKENS {
            pair.send(&vec![b'x'; bytes]);
            pair.rest(Nanos(5_000_000));
            let now = pair.clock.now();
            acks.before_read(0, reads, &pair.clock, &pair.client);
            if pair.read(Nanos::ZERO).is_ok() {
                acks.after_read(0, reads + 1, now, &pair.client);
            }
            if matches!(acks.state, State::PutOff | State::AtOnce) {
                break;
            }
        }
        assert!(acks.tries <= TRIES);
        Some(acks.state == State::PutOff)
    }

    #[test]
    fn a_server_that_waits_is_told_from_one_that_does_not() {
        for (nodelay, bytes, expected) in [
            (true, 5, true),
            (true, 250, true),
            (false, 5, false),
            (false, 250, false),
            // Large tokens show nothing, so there things stay as they are.
            (true, 700, false),
        ] {
            match are_put_off(nodelay, bytes) {
                Some(found) => assert_eq!(found, expected, "{nodelay}, {bytes} bytes"),
                None => println!("skipped: this kernel does not tell"),
            }
        }
    }
}
