//! Events that wait in a socket, told apart.
//!
//! Of several packets that one read takes, the kernel gives the stamp of the last. While they wait,
//! it still has that of each, unless it has merged them, so it is asked for the stamp of what ends
//! an event before all is read. One read is cheaper than several, since the kernel acknowledges
//! each.
//!
//! Invariants: nothing is taken from the socket; ends grow and instants never decrease. Where
//! events end is a guess from the bytes there are; a wrong one splits bytes where they were not,
//! with an instant at which all before the split had come.

use mio::net::TcpStream;
use smallvec::SmallVec;

use crate::clock::Nanos;
use crate::stamp::{Came, Stamper};

use super::sse;

/// More are not asked for.
const MOST: usize = 4;

/// Of the events that wait, all but the last: where each ends, and when that had come.
pub(super) type Firsts = SmallVec<[(usize, Nanos); MOST]>;

/// Finds them; `not_before` is when the last bytes came, or the question was asked.
pub(super) fn firsts(
    stamper: &mut Stamper,
    socket: &TcpStream,
    scratch: &mut [u8],
    not_before: Nanos,
) -> Firsts {
    let waiting = socket.peek(scratch).unwrap_or_default();
    let ends: SmallVec<[usize; MOST]> = sse::ends(&scratch[..waiting]).take(MOST).collect();
    let mut firsts = Firsts::new();
    for end in ends {
        let after = firsts.last().map_or(not_before, |(_, at)| *at);
        match stamper.peek(socket, &mut scratch[..end], after) {
            Ok(Came { bytes, at, waited }) if bytes == end && waited.is_some() => {
                firsts.push((end, at));
            }
            _ => break,
        }
    }
    firsts
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream as Blocking};

    use super::*;
    use crate::clock::Clock;
    use crate::stamp::ask_for_stamps;

    #[test]
    fn events_that_wait_in_several_packets_have_an_instant_each() {
        /// After so many the kernel does not acknowledge each at once, but for some 40 ms; on a
        /// busy machine that may be over before both are there.
        const WARM: usize = 40;
        const TRIES: usize = 10;
        const APART: Nanos = Nanos(10_000_000);
        const EVENT: &[u8] = b"data: {}\n\n";
        let clock = Clock::wall();
        let rest = || clock.block_on(clock.sleep(APART));
        let try_once = || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let address = listener.local_addr().expect("it has one");
            let client = Blocking::connect(address).expect("it listens");
            let (mut server, _) = listener.accept().expect("somebody connected");
            server.set_nodelay(true).expect("a socket takes it");
            client.set_nonblocking(true).expect("a socket takes it");
            let client = TcpStream::from_std(client);
            ask_for_stamps(&client);
            let mut stamper = Stamper::new(clock.clone());
            let mut scratch = vec![0; 1000];
            for _ in 0..WARM {
                server.write_all(EVENT).expect("it is open");
                while stamper.read(&client, &mut scratch, Nanos::ZERO).is_err() {}
            }
            assert!(firsts(&mut stamper, &client, &mut scratch, Nanos::ZERO).is_empty());
            for _ in 0..2 {
                server.write_all(EVENT).expect("it is open");
                rest();
            }
            let found = firsts(&mut stamper, &client, &mut scratch, Nanos::ZERO);
            let [(end, first)] = found[..] else {
                panic!("one event comes before the last: {found:?}");
            };
            assert_eq!(end, EVENT.len());
            let all = stamper.read(&client, &mut scratch, first);
            let all = all.expect("something is there");
            assert_eq!(all.bytes, 2 * EVENT.len(), "nothing was taken before");
            all.waited.map(|_| all.at.since(first))
        };
        let found: Vec<Nanos> = (0..TRIES).map_while(|_| try_once()).collect();
        if found.is_empty() {
            println!("skipped: this kernel does not stamp what arrives");
            return;
        }
        assert!(found.iter().any(|apart| *apart >= APART), "{found:?}");
    }
}
