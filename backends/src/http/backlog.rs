//! Reads that wait to be parsed.
//!
//! Where little comes, a thread that wakes for one token finds its caches cold, and parsing costs
//! most of its time; so reads that nobody waits for are parsed some at a time. What may be the end
//! of an answer, or is wanted at once, is *urgent*: with it all that came before it is parsed.
//!
//! Invariants: reads come out in their order, with their bytes; none waits for longer than
//! [`LONGEST_WAIT`] on a machine that is not busy, nor once an urgent one is there. Whether one is
//! urgent is its owner's guess; a wrong guess costs that wait and changes nothing else. It knows
//! no sockets and no time.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use memchr::memmem;

use crate::clock::Nanos;

/// So many are parsed however little they are wanted.
const MANY: usize = 16;
/// One that has waited so long is parsed with the next thing that the thread wakes for.
const WAIT: Nanos = Nanos(100_000_000);
/// One that has waited so long is what the thread wakes for.
pub(super) const LONGEST_WAIT: Nanos = Nanos(2 * WAIT.0);
/// Bytes that are parsed before they are forgotten, while there is always something left to parse.
const ARENA_SLICE: usize = 1 << 20;

/// Bytes in the backlog, counted from the first there ever was.
type Place = Range<usize>;

/// One read of a connection, or its end.
#[derive(Debug)]
pub(super) struct Unparsed<Bytes> {
    pub(super) key: usize,
    /// Tells the connection from others that had its key before.
    pub(super) serial: u64,
    pub(super) at: Nanos,
    pub(super) what: ReadResult<Bytes>,
    pub(super) is_urgent: bool,
}

#[derive(Debug)]
pub(super) enum ReadResult<Bytes> {
    Bytes(Bytes),
    End(Option<io::Error>),
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    reads: VecDeque<Unparsed<Place>>,
    /// Of these.
    urgent: usize,
    /// Bytes of what is not parsed yet, and how many there were before them.
    arena: Vec<u8>,
    forgotten: usize,
}

impl Backlog {
    /// Puts a read aside.
    pub(super) fn push(&mut self, read: Unparsed<&[u8]>) {
        let what = match read.what {
            ReadResult::Bytes(bytes) => {
                let from = self.forgotten + self.arena.len();
                self.arena.extend_from_slice(bytes);
                ReadResult::Bytes(from..from + bytes.len())
            }
            ReadResult::End(error) => ReadResult::End(error),
        };
        self.urgent += usize::from(read.is_urgent);
        self.reads.push_back(Unparsed {
            key: read.key,
            serial: read.serial,
            at: read.at,
            what,
            is_urgent: read.is_urgent,
        });
    }

    /// The oldest read, which does not wait any more.
    pub(super) fn pop(&mut self) -> Option<Unparsed<Place>> {
        let read = self.reads.pop_front()?;
        self.urgent -= usize::from(read.is_urgent);
        Some(read)
    }

    /// What lies at a place.
    pub(super) fn bytes(&self, place: &Place) -> &[u8] {
        &self.arena[place.start - self.forgotten..place.end - self.forgotten]
    }

    /// Lets go of all bytes up to the end of a read that has been parsed; not each time.
    pub(super) fn forget(&mut self, parsed: usize) {
        let parsed = if self.reads.is_empty() {
            self.arena.len()
        } else if parsed - self.forgotten < ARENA_SLICE {
            return;
        } else {
            parsed - self.forgotten
        };
        self.arena.drain(..parsed);
        self.forgotten += parsed;
    }

    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    /// Something waits of the connection with this key.
    pub(super) fn has(&self, key: usize) -> bool {
        self.reads.iter().any(|read| read.key == key)
    }

    /// It is time to parse.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        let late = |read: &Unparsed<_>| now >= read.at.plus(WAIT);
        self.urgent > 0 || self.reads.len() >= MANY || self.reads.front().is_some_and(late)
    }

    /// When it will be time, whatever else comes.
    pub(super) fn due_by(&self) -> Option<Nanos> {
        self.reads.front().map(|read| read.at.plus(LONGEST_WAIT))
    }
}

/// A body of events may end with these bytes: with the mark of the end, with an error, or with the
/// empty line after the last of its chunks. The empty line after an event has another line end
/// after it, that of its chunk; without chunks it may be the last, too.
pub(super) fn may_be_last(bytes: &[u8]) -> bool {
    const EMPTY_LINE: &[u8] = b"\r\n\r\n";
    bytes.len() < EMPTY_LINE.len()
        || (bytes.ends_with(EMPTY_LINE) && !bytes.ends_with(b"\r\n\r\n\r\n"))
        || bytes.ends_with(b"\n\n")
        || memmem::find(bytes, b"[DONE]").is_some()
        || memmem::find(bytes, b"\"error\"").is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(key: usize, at: u64, bytes: &[u8], is_urgent: bool) -> Unparsed<&[u8]> {
        Unparsed {
            key,
            serial: 0,
            at: Nanos(at),
            what: ReadResult::Bytes(bytes),
            is_urgent,
        }
    }

    #[test]
    fn what_nobody_waits_for_waits_for_the_others_but_not_for_ever() {
        let mut backlog = Backlog::default();
        assert!(!backlog.is_due(Nanos(u64::MAX)));
        assert_eq!(backlog.due_by(), None);
        backlog.push(read(1, 5, b"a", false));
        assert!(!backlog.is_due(Nanos(4 + WAIT.0)));
        assert!(backlog.is_due(Nanos(5 + WAIT.0)));
        assert_eq!(backlog.due_by(), Some(Nanos(5 + LONGEST_WAIT.0)));
        backlog.push(read(2, 6, b"b", true));
        assert!(backlog.is_due(Nanos(6)));
        assert_eq!(backlog.pop().map(|read| read.key), Some(1));
        assert!(backlog.is_due(Nanos(6)), "the urgent one is still there");
        assert_eq!(backlog.pop().map(|read| read.key), Some(2));
        assert!(!backlog.is_due(Nanos(u64::MAX)));
        for key in 1..MANY {
            backlog.push(read(key, 7, b"c", false));
        }
        assert!(!backlog.is_due(Nanos(8)));
        backlog.push(read(MANY, 7, b"c", false));
        assert!(backlog.is_due(Nanos(8)));
        assert!(backlog.has(MANY) && !backlog.has(MANY + 1));
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

    #[test]
    fn what_is_parsed_is_let_go_while_something_still_waits() {
        let mut backlog = Backlog::default();
        let some = ARENA_SLICE * 2 / 3;
        for key in 1..=3 {
            backlog.push(read(key, 0, &vec![key as u8; some], false));
        }
        backlog.push(Unparsed {
            key: 3,
            serial: 0,
            at: Nanos(0),
            what: ReadResult::End(None),
            is_urgent: true,
        });
        let mut left = Vec::new();
        for key in 1..=3 {
            let Some(ReadResult::Bytes(place)) = backlog.pop().map(|read| read.what) else {
                panic!("three reads were pushed");
            };
            assert_eq!(backlog.bytes(&place), vec![key; some]);
            backlog.forget(place.end);
            left.push(backlog.arena.len());
        }
        // Not each time; here when two were parsed.
        assert_eq!(left, [3 * some, some, some]);
        let end = backlog.pop().map(|read| read.what);
        assert!(matches!(end, Some(ReadResult::End(None))));
    }

    proptest! {
        #[test]
        fn reads_come_out_in_their_order_with_their_bytes(
            reads in prop::collection::vec((1..3000_usize, any::<bool>(), 0..3_usize), 1..400),
        ) {
            let mut backlog = Backlog::default();
            let (mut pushed, mut popped) = (0, 0);
            let content = |number: usize, length| vec![(number % 251) as u8; length];
            let mut pop = |backlog: &mut Backlog| {
                let Some(found) = backlog.pop() else { return };
                let ReadResult::Bytes(place) = found.what else { unreachable!("none ends") };
                assert_eq!(found.key, popped);
                assert_eq!(backlog.bytes(&place), content(popped, reads[popped].0));
                backlog.forget(place.end);
                popped += 1;
            };
            for (length, is_urgent, parsed) in &reads {
                backlog.push(read(pushed, 0, &content(pushed, *length), *is_urgent));
                pushed += 1;
                (0..*parsed).for_each(|_| pop(&mut backlog));
            }
            while backlog.len() > 0 {
                pop(&mut backlog);
            }
            prop_assert_eq!(popped, pushed);
            prop_assert!(backlog.arena.is_empty() && backlog.urgent == 0);
        }
    }
}
