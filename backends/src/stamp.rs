//! When bytes came: a read with the instant at which they arrived.
//!
//! On Linux the kernel stamps what arrives, and a read gives that stamp with the bytes; so an
//! instant is right even where the reading thread had to wait for its processor. Elsewhere, or
//! where the kernel gave no stamp, it is the instant after the read. Of several packets taken by
//! one read the last one's counts.
//!
//! Invariants: an instant is never after its read, nor before the instant that the caller knows
//! nothing can have come before. The kernel stamps by the system's wall clock: both clocks are
//! compared at least every 10 ms while something is read, so that setting the wall clock makes no
//! instant wrong for longer, and none by more than those bounds. It knows nothing of what is read.

use std::io;

use mio::net::TcpStream;

use crate::clock::{Clock, Nanos};

/// Reads sockets, and says when what they give has come.
#[derive(Debug)]
pub struct Stamper {
    clock: Clock,
    #[cfg(target_os = "linux")]
    kernel: kernel::Kernel,
}

/// Bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came {
    /// How many; none at the end of what the other side sends.
    pub bytes: usize,
    /// When they arrived.
    pub at: Nanos,
    /// How long they had waited to be read, if the kernel stamped them.
    pub waited: Option<Nanos>,
}

impl Stamper {
    /// Instants are those of `clock`, which follows real time.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            #[cfg(target_os = "linux")]
            kernel: kernel::Kernel::default(),
        }
    }

    /// Reads what there is; `not_before` is when the last bytes came, or the question was asked.
    pub fn read(
        &mut self,
        socket: &TcpStream,
        into: &mut [u8],
        not_before: Nanos,
    ) -> io::Result<Came> {
        self.look(socket, into, not_before, false)
    }

    /// The same, but what there is stays there.
    pub fn peek(
        &mut self,
        socket: &TcpStream,
        into: &mut [u8],
        not_before: Nanos,
    ) -> io::Result<Came> {
        self.look(socket, into, not_before, true)
    }

    fn look(
        &mut self,
        socket: &TcpStream,
        into: &mut [u8],
        not_before: Nanos,
        stays: bool,
    ) -> io::Result<Came> {
        #[cfg(target_os = "linux")]
        let read = self.kernel.look(socket, into, stays);
        #[cfg(not(target_os = "linux"))]
        let read = if stays {
            socket.peek(into)
        } else {
            io::Read::read(&mut &*socket, into)
        }
        .map(|bytes| (bytes, None));
        let now = self.clock.now();
        let (bytes, stamp) = read?;
        let at = stamp.and_then(|stamp| self.on_clock(stamp, now));
        let at = at.filter(|at| (not_before..=now).contains(at));
        Ok(Came {
            bytes,
            at: at.unwrap_or(now),
            waited: at.map(|at| now.since(at)),
        })
    }

    #[cfg(target_os = "linux")]
    fn on_clock(&mut self, stamp: WallNs, now: Nanos) -> Option<Nanos> {
        self.kernel.on_clock(stamp, now, &self.clock)
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "the signature is that of Linux")]
    fn on_clock(&mut self, _: WallNs, _: Nanos) -> Option<Nanos> {
        None
    }
}

/// Nanoseconds on the system's wall clock, since 1970.
type WallNs = i64;

/// Has the kernel stamp what arrives at a socket, or at all that a listening socket will accept.
#[cfg(target_os = "linux")]
pub fn ask_for_stamps(socket: &impl std::os::fd::AsFd) {
    use nix::sys::socket::{setsockopt, sockopt::ReceiveTimestampns};
    if let Err(error) = setsockopt(socket, ReceiveTimestampns, &true) {
        tracing::debug!(%error, "the kernel does not stamp what arrives");
    }
}

/// There are no such stamps here.
#[cfg(not(target_os = "linux"))]
pub fn ask_for_stamps<T>(_: &T) {}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io::{self, IoSliceMut};
    use std::os::fd::AsRawFd;

    use mio::net::TcpStream;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use nix::sys::time::TimeSpec;

    use super::WallNs;
    use crate::clock::{Clock, Nanos};

    /// The clocks are compared again after so long.
    const COMPARED_EVERY: Nanos = Nanos(10_000_000);

    #[derive(Debug)]
    pub(super) struct Kernel {
        control: Vec<u8>,
        /// What the wall clock is ahead of the clock by, and when that was found.
        ahead: Option<(i64, Nanos)>,
    }

    impl Default for Kernel {
        fn default() -> Self {
            Self {
                control: nix::cmsg_space!(TimeSpec),
                ahead: None,
            }
        }
    }

    impl Kernel {
        pub(super) fn look(
            &mut self,
            socket: &TcpStream,
            into: &mut [u8],
            stays: bool,
        ) -> io::Result<(usize, Option<WallNs>)> {
            let mut into = [IoSliceMut::new(into)];
            let control = Some(self.control.as_mut_slice());
            let flags = if stays {
                MsgFlags::MSG_PEEK
            } else {
                MsgFlags::empty()
            };
            let read = recvmsg::<()>(socket.as_raw_fd(), &mut into, control, flags)?;
            // Whatever is wrong with a stamp, the bytes are there.
            let stamp = read
                .cmsgs()
                .into_iter()
                .flatten()
                .find_map(|message| match message {
                    ControlMessageOwned::ScmTimestampns(stamp) => {
                        Some(stamp.tv_sec() * 1_000_000_000 + stamp.tv_nsec())
                    }
                    _ => None,
                });
            Ok((read.bytes, stamp))
        }

        pub(super) fn on_clock(
            &mut self,
            stamp: WallNs,
            now: Nanos,
            clock: &Clock,
        ) -> Option<Nanos> {
            let is_fresh = |(_, found): &(i64, Nanos)| now.since(*found) < COMPARED_EVERY;
            if !self.ahead.as_ref().is_some_and(is_fresh) {
                self.ahead = clock.wall_is_ahead_by().map(|ahead| (ahead, now));
            }
            let (ahead, _) = self.ahead?;
            u64::try_from(stamp - ahead).ok().map(Nanos)
        }
    }
}

/// A connection whose arrivals are stamped, for tests.
#[cfg(test)]
pub(crate) mod pair {
    use std::io::{self, Write};
    use std::net::{TcpListener, TcpStream as Blocking};

    use mio::net::TcpStream;

    use super::{Came, Stamper, ask_for_stamps};
    use crate::clock::{Clock, Nanos};

    /// Long enough for the kernel to begin with stamps, and for a read to be late by.
    pub(crate) const LATE: Nanos = Nanos(50_000_000);

    pub(crate) struct Pair {
        pub(crate) clock: Clock,
        pub(crate) server: Blocking,
        pub(crate) client: TcpStream,
        pub(crate) stamper: Stamper,
        pub(crate) into: Vec<u8>,
    }

    impl Pair {
        pub(crate) fn new() -> Self {
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
            pair.rest(LATE);
            pair
        }

        pub(crate) fn rest(&self, time: Nanos) {
            self.clock.block_on(self.clock.sleep(time));
        }

        pub(crate) fn send(&mut self, bytes: &[u8]) {
            self.server.write_all(bytes).expect("it is open");
        }

        pub(crate) fn read(&mut self, not_before: Nanos) -> io::Result<Came> {
            let Self { client, into, .. } = self;
            self.stamper.read(client, into, not_before)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::pair::{LATE, Pair};
    use super::*;

    impl Pair {
        /// Bytes are sent and left lying; when they were sent, and when they are about to be read.
        fn leave(&mut self, bytes: &[u8]) -> (Nanos, Nanos) {
            let sent = self.clock.now();
            self.send(bytes);
            self.rest(LATE);
            (sent, self.clock.now())
        }
    }

    #[test]
    fn an_instant_is_that_of_the_arrival_however_late_the_read() {
        /// How well two clocks are compared.
        const CLOSE: Nanos = Nanos(10_000);
        let mut pair = Pair::new();
        for bytes in [b"one".as_slice(), b"three", b"seventeen"] {
            let (sent, about_to_read) = pair.leave(bytes);
            let came = pair.read(sent.since(CLOSE)).expect("something is there");
            assert_eq!(came.bytes, bytes.len());
            assert_eq!(&pair.into[..came.bytes], bytes);
            assert!(came.at.plus(CLOSE) >= sent);
            let Some(waited) = came.waited else {
                assert!(came.at >= about_to_read);
                println!("skipped: this kernel does not stamp what arrives");
                return;
            };
            assert!(
                came.at < about_to_read,
                "{came:?}, read at {about_to_read:?}"
            );
            assert!(waited >= about_to_read.since(came.at));
        }
        let nothing = pair.read(Nanos::ZERO).expect_err("all was read");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_stamp_that_cannot_be_is_not_taken() {
        let mut pair = Pair::new();
        let (_, about_to_read) = pair.leave(b"x");
        // As after somebody has set the wall clock.
        let came = pair.read(about_to_read).expect("something is there");
        assert_eq!(came.waited, None);
        assert!(came.at >= about_to_read);
    }

    #[test]
    fn the_end_has_no_bytes() {
        let mut pair = Pair::new();
        pair.server
            .shutdown(std::net::Shutdown::Write)
            .expect("it is open");
        pair.rest(LATE);
        let before = pair.clock.now();
        let came = pair.read(Nanos::ZERO).expect("an end is no error");
        assert_eq!((came.bytes, came.waited), (0, None));
        assert!(came.at >= before);
    }
}
