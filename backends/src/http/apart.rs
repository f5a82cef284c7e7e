//! Reads that tell apart the events that wait in a socket.
//!
//! Of several packets that one read takes, the kernel gives the stamp of the last. While they wait,
//! it still has that of each, unless it has merged them, so it is asked for the stamp of what ends
//! an event before all is read. One read is cheaper than several, since the kernel acknowledges
//! reads.
//!
//! Invariants: bytes come out once and in order; where a read is split, ends grow and instants
//! increase. Where events end is a guess from the bytes there are; a wrong one splits bytes where
//! they were not, with an instant at which all before the split had come. It knows nothing of TLS,
//! whose bytes are not to be guessed from.

use std::io;

use mio::net::TcpStream;
use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::stamp::{Came, Stamper};

use super::sse;

/// More are not told apart.
const MOST: usize = 4;
/// Instants that are closer may be of one packet: the clocks are not compared better.
const CLOSE: Nanos = Nanos(20_000);

/// Of the events that waited, those before the last: where each ends, and when that had come.
pub(super) type Firsts = SmallVec<[(usize, Nanos); MOST]>;

/// Reads what there is; `not_before` is when the last bytes came, or the question was asked.
pub(super) fn read(
    stamper: &mut Stamper,
    socket: &TcpStream,
    into: &mut [u8],
    not_before: Nanos,
) -> io::Result<(Firsts, Came)> {
    // An error is told once, to whoever asks first.
    let waiting = socket.peek(into)?;
    let ends: SmallVec<[usize; MOST]> = sse::ends(&into[..waiting]).take(MOST).collect();
    let mut firsts = Firsts::new();
    for end in ends {
        let after = firsts.last().map_or(not_before, |(_, at)| *at);
        let came = stamper.peek(socket, &mut into[..end], after)?;
        if came.bytes < end || came.waited.is_none() {
            break;
        }
        firsts.push((end, came.at));
    }
    let mut came = stamper.read(socket, into, not_before)?;
    came.at = firsts.last().map_or(came.at, |(_, at)| came.at.max(*at));
    // Bytes of one packet, or of merged ones, are not split.
    let after = firsts.iter().skip(1).map(|(_, at)| *at).chain([came.at]);
    let after: SmallVec<[Nanos; MOST]> = after.collect();
    let mut after = after.into_iter();
    firsts.retain(|(end, at)| {
        let is_before = after.next().is_some_and(|next| next.since(*at) > CLOSE);
        is_before && *end < came.bytes
    });
    Ok((firsts, came))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use nix::sys::socket::{setsockopt, sockopt::Linger};

    use super::*;
    use crate::stamp::pair::Pair;

    const EVENT: &[u8] = b"data: {}\n\n";
    const APART: Nanos = Nanos(10_000_000);

    impl Pair {
        fn read_apart(&mut self) -> io::Result<(Firsts, Came)> {
            let Self { client, into, .. } = self;
            read(&mut self.stamper, client, into, Nanos::ZERO)
        }
    }

    #[test]
    fn events_that_wait_in_several_packets_have_an_instant_each() {
        /// After so many the kernel does not acknowledge each at once, but for some 40 ms; on a
        /// busy machine that may be over before both are there.
        const WARM: usize = 40;
        const TRIES: usize = 10;
        let try_once = || {
            let mut pair = Pair::new();
            for _ in 0..WARM {
                pair.send(EVENT);
                while pair.read_apart().is_err() {}
            }
            for _ in 0..2 {
                pair.send(EVENT);
                pair.rest(APART);
            }
            let (firsts, all) = pair.read_apart().expect("something is there");
            assert_eq!(all.bytes, 2 * EVENT.len());
            assert!(firsts.iter().all(|(end, _)| *end == EVENT.len()));
            let first = firsts.first().map(|(_, at)| all.at.since(*at));
            all.waited.map(|_| first.unwrap_or_default())
        };
        let found: Vec<Nanos> = (0..TRIES).map_while(|_| try_once()).collect();
        if found.is_empty() {
            println!("skipped: this kernel does not stamp what arrives");
            return;
        }
        assert!(found.iter().any(|apart| *apart >= APART), "{found:?}");
    }

    #[test]
    fn events_of_one_packet_have_one_instant() {
        let mut pair = Pair::new();
        pair.send(&EVENT.repeat(3));
        pair.rest(APART);
        let (firsts, all) = pair.read_apart().expect("something is there");
        assert_eq!(all.bytes, 3 * EVENT.len());
        assert!(firsts.is_empty(), "{firsts:?}, {all:?}");
        let nothing = pair.read_apart().expect_err("all was read");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reset_is_told_and_an_end_is_none() {
        for reset in [true, false] {
            let mut pair = Pair::new();
            pair.send(EVENT);
            pair.rest(APART);
            drop(pair.read_apart());
            let linger = libc::linger {
                l_onoff: i32::from(reset),
                l_linger: 0,
            };
            setsockopt(&pair.server, Linger, &linger).expect("a socket takes it");
            pair.server = Pair::new().server;
            pair.rest(APART);
            match pair.read_apart() {
                Ok((firsts, came)) => assert!(!reset && firsts.is_empty() && came.bytes == 0),
                Err(error) => assert!(reset && error.kind() == io::ErrorKind::ConnectionReset),
            }
        }
    }
}
