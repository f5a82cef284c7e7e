//! Reads that wait to be parsed.
//!
//! Where little comes, a thread that wakes for one token finds its caches cold, and parsing costs
//! most of its time; so reads that nobody waits for are parsed some at a time. What may be the end
//! of an answer, or is wanted at once, is *urgent*: with it all that came before it is parsed.
//!
//! Where more comes than can be read at once, reading goes first: bytes that wait too long for it
//! lose their instants, parsing can wait.
//!
//! Invariants: reads come out in their order, with their bytes; none waits for longer than
//! [`LONGEST_WAIT`] on a machine that is not busy, nor once an urgent one is there. Whether one is
//! urgent is its owner's guess; a wrong guess costs that wait and changes nothing else. It knows
//! no sockets and no time.

use std::collections::VecDeque;
use std::io;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use crate::clock::Nanos;

/// So many are parsed however little they are wanted.
const MANY: usize = 16;
/// One that has waited so long is parsed with the next thing that the thread wakes for.
const WAIT: Nanos = Nanos(100_000_000);
/// One that has waited so long is what the thread wakes for.
pub(super) const LONGEST_WAIT: Nanos = Nanos(2 * WAIT.0);
/// Reads that are parsed at least before the sockets are looked at again.
const SLICE: usize = 8;
/// Sockets are behind when their bytes waited so long for a read: bytes that wait for longer than
/// it takes the next token to come are read together with it, and have one instant.
const BEHIND: Nanos = Nanos(2_000_000);
/// Room for bytes is made in pieces of this size.
const ROOM: usize = 1 << 20;

/// One read of a connection, or its end.
#[derive(Debug)]
pub(super) struct Unparsed {
    pub(super) key: usize,
    /// Tells the connection from others that had its key before.
    pub(super) serial: u64,
    pub(super) at: Nanos,
    pub(super) what: ReadResult,
    pub(super) is_urgent: bool,
}

#[derive(Debug)]
pub(super) enum ReadResult {
    Bytes(Bytes),
    End(Option<io::Error>),
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    reads: VecDeque<Unparsed>,
    /// Of these.
    urgent: usize,
    room: BytesMut,
}

impl Backlog {
    /// A copy of what was read, in room that many share.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if self.room.capacity() < bytes.len() {
            self.room.reserve(bytes.len().max(ROOM));
        }
        self.room.extend_from_slice(bytes);
        self.room.split().freeze()
    }

    /// Puts a read aside.
    pub(super) fn push(&mut self, read: Unparsed) {
        self.urgent += usize::from(read.is_urgent);
        self.reads.push_back(read);
    }

    /// The oldest read, which does not wait any more.
    pub(super) fn pop(&mut self) -> Option<Unparsed> {
        let read = self.reads.pop_front()?;
        self.urgent -= usize::from(read.is_urgent);
        Some(read)
    }

    /// It is time to parse.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        self.urgent > 0 || self.reads.len() >= MANY || self.has_waited(WAIT, now)
    }

    /// How many to parse before the sockets are looked at again, whose bytes waited for so long the
    /// last time: few while they are behind, but never for too long, and otherwise never fewer than
    /// came in would need in the long run.
    pub(super) fn slice(&self, sockets_late: Nanos, now: Nanos) -> usize {
        if sockets_late > BEHIND && !self.has_waited(WAIT, now) {
            SLICE
        } else {
            SLICE.max(self.reads.len() / 4)
        }
    }

    /// When it will be time, whatever else comes.
    pub(super) fn due_by(&self) -> Option<Nanos> {
        self.reads.front().map(|read| read.at.plus(LONGEST_WAIT))
    }

    fn has_waited(&self, wait: Nanos, now: Nanos) -> bool {
        let late = |read: &Unparsed| now >= read.at.plus(wait);
        self.reads.front().is_some_and(late)
    }
}

/// A body of events may end with these bytes: with the mark of the end, with an error, or with the
/// empty line after the last of its chunks. The empty line after an event has another line end
/// after it, that of its chunk; without chunks it may be the last, too.
pub(super) fn may_be_last(bytes: &[u8]) -> bool {
    const EMPTY_LINE: &[u8] = b"\r\n\r\n";
    static DONE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"[DONE]"));
    static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));
    bytes.len() < EMPTY_LINE.len()
        || (bytes.ends_with(EMPTY_LINE) && !bytes.ends_with(b"\r\n\r\n\r\n"))
        || bytes.ends_with(b"\n\n")
        || DONE.find(bytes).is_some()
        || ERROR.find(bytes).is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(key: usize, at: u64, is_urgent: bool) -> Unparsed {
        Unparsed {
            key,
            serial: 0,
            at: Nanos(at),
            what: ReadResult::Bytes(Bytes::new()),
            is_urgent,
        }
    }

    #[test]
    fn what_nobody_waits_for_waits_for_the_others_but_not_for_ever() {
        let mut backlog = Backlog::default();
        assert!(!backlog.is_due(Nanos(u64::MAX)));
        assert_eq!(backlog.due_by(), None);
        backlog.push(read(1, 5, false));
        assert!(!backlog.is_due(Nanos(4 + WAIT.0)));
        assert!(backlog.is_due(Nanos(5 + WAIT.0)));
        assert_eq!(backlog.due_by(), Some(Nanos(5 + LONGEST_WAIT.0)));
        backlog.push(read(2, 6, true));
        assert!(backlog.is_due(Nanos(6)));
        assert_eq!(backlog.pop().map(|read| read.key), Some(1));
        assert!(backlog.is_due(Nanos(6)), "the urgent one is still there");
        assert_eq!(backlog.pop().map(|read| read.key), Some(2));
        assert!(!backlog.is_due(Nanos(u64::MAX)));
        for key in 1..MANY {
            backlog.push(read(key, 7, false));
        }
        assert!(!backlog.is_due(Nanos(8)));
        backlog.push(read(MANY, 7, false));
        assert!(backlog.is_due(Nanos(8)));
    }

    #[test]
    fn while_sockets_are_behind_little_is_parsed_but_not_for_long() {
        let mut backlog = Backlog::default();
        for key in 0..400 {
            backlog.push(read(key, 1000, true));
        }
        let (soon, late) = (Nanos(1001), Nanos(1000 + WAIT.0));
        let (in_time, behind) = (BEHIND, Nanos(BEHIND.0 + 1));
        for (sockets_late, now, expected) in [
            (Nanos::ZERO, soon, 100),
            (in_time, soon, 100),
            (behind, soon, SLICE),
            (behind, late, 100),
        ] {
            let found = backlog.slice(sockets_late, now);
            assert_eq!(found, expected, "{sockets_late:?} at {now:?}");
        }
        (0..390).for_each(|_| drop(backlog.pop()));
        assert_eq!(backlog.slice(Nanos::ZERO, soon), SLICE);
    }

    #[test]
    fn what_may_be_the_end() {
        for (bytes, expected) in [
            ("19\r\ndata: {\"choices\":[]}\n\n\r\n", false),
            ("data: {\"choices\":[]}\n", false),
            ("1b\r\ndata: {\"choices\":[]}\r\n\r\n\r\n", false),
            ("e\r\ndata: [DONE]\n\n\r\n", true),
            ("21\r\ndata: {\"error\":{\"message\":\"x\"}}\n\n\r\n", true),
            ("0\r\n\r\n", true),
            (
                "19\r\ndata: {\"choices\":[]}\n\n\r\n0\r\nChecksum: x\r\n\r\n",
                true,
            ),
            // Without chunked coding, each event.
            ("data: {\"choices\":[]}\n\n", true),
            ("data: {\"choices\":[]}\r\n\r\n", true),
            // The last bytes of what was cut anywhere.
            ("\r\n", true),
            ("\n", true),
        ] {
            assert_eq!(may_be_last(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn reads_come_out_in_their_order_with_their_bytes(
            reads in prop::collection::vec((1..ROOM / 20, any::<bool>(), 0..3_usize), 1..100),
        ) {
            let mut backlog = Backlog::default();
            let (mut pushed, mut popped) = (0, 0);
            let content = |number: usize, length| vec![(number % 251) as u8; length];
            let mut pop = |backlog: &mut Backlog| {
                let Some(found) = backlog.pop() else { return false };
                let ReadResult::Bytes(bytes) = found.what else { unreachable!("none ends") };
                assert_eq!(found.key, popped);
                assert_eq!(bytes, content(popped, reads[popped].0));
                popped += 1;
                true
            };
            for (length, is_urgent, parsed) in &reads {
                let bytes = backlog.keep(&content(pushed, *length));
                let what = ReadResult::Bytes(bytes);
                backlog.push(Unparsed { what, ..read(pushed, 0, *is_urgent) });
                pushed += 1;
                for _ in 0..*parsed {
                    pop(&mut backlog);
                }
            }
            while pop(&mut backlog) {}
            prop_assert_eq!(popped, pushed);
            prop_assert_eq!(backlog.urgent, 0);
        }
    }
}
