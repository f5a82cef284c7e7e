//! Reads that tell apart the events that wait in a socket.
//!
//! Of several packets that one read takes, the kernel gives the stamp of the last. While they wait,
//! it still has that of each, unless it has merged them, so it is asked for the stamp of what ends
//! an event before all is read. One read is cheaper than several, since the kernel acknowledges
//! each.
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
    while let Some((end, at)) = firsts.last() {
        came.at = came.at.max(*at);
        if *end < came.bytes && came.at.since(*at) > CLOSE {
            break;
        }
        firsts.pop();
    }
    let instants: SmallVec<[Nanos; MOST]> = firsts.iter().map(|(_, at)| *at).collect();
    let mut next = instants.into_iter().skip(1);
    firsts.retain(|(_, at)| next.next().is_none_or(|next| next.since(*at) > CLOSE));
    Ok((firsts, came))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream as Blocking};

    use nix::sys::socket::{setsockopt, sockopt::Linger};

    use super::*;
    use crate::clock::Clock;
    use crate::stamp::ask_for_stamps;

    const EVENT: &[u8] = b"data: {}\n\n";

    struct Pair {
        clock: Clock,
        server: Blocking,
        client: TcpStream,
        stamper: Stamper,
        into: Vec<u8>,
    }

    impl Pair {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let address = listener.local_addr().expect("it has one");
            let client = Blocking::connect(address).expect("it listens");
            let (server, _) = listener.accept().expect("somebody connected");
            server.set_nodelay(true).expect("a socket takes it");
            client.set_nonblocking(true).expect("a socket takes it");
            let client = TcpStream::from_std(client);
            ask_for_stamps(&client);
            let clock = Clock::wall();
            let pair = Self {
                server,
                client,
                stamper: Stamper::new(clock.clone()),
                clock,
                into: vec![0; 1000],
            };
            // Until the kernel begins with stamps.
            pair.rest(50_000_000);
            pair
        }

        fn rest(&self, ns: u64) {
            self.clock.block_on(self.clock.sleep(Nanos(ns)));
        }

        fn send(&mut self, bytes: &[u8]) {
            self.server.write_all(bytes).expect("it is open");
        }

        fn read(&mut self) -> io::Result<(Firsts, Came)> {
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
        const APART: Nanos = Nanos(10_000_000);
        let try_once = || {
            let mut pair = Pair::new();
            for _ in 0..WARM {
                pair.send(EVENT);
                while pair.read().is_err() {}
            }
            for _ in 0..2 {
                pair.send(EVENT);
                pair.rest(APART.0);
            }
            let (firsts, all) = pair.read().expect("something is there");
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
        pair.rest(10_000_000);
        let (firsts, all) = pair.read().expect("something is there");
        assert_eq!(all.bytes, 3 * EVENT.len());
        assert!(firsts.is_empty(), "{firsts:?}, {all:?}");
        let nothing = pair.read().expect_err("all was read");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reset_is_told_and_an_end_is_none() {
        for reset in [true, false] {
            let mut pair = Pair::new();
            pair.send(EVENT);
            pair.rest(10_000_000);
            drop(pair.read());
            let linger = libc::linger {
                l_onoff: i32::from(reset),
                l_linger: 0,
            };
            setsockopt(&pair.server, Linger, &linger).expect("a socket takes it");
            pair.server = Pair::new().server;
            pair.rest(10_000_000);
            match pair.read() {
                Ok((firsts, came)) => assert!(!reset && firsts.is_empty() && came.bytes == 0),
                Err(error) => assert!(reset && error.kind() == io::ErrorKind::ConnectionReset),
            }
        }
    }
}
