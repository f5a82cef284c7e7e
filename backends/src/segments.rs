//! What the kernel says of the segments of a TCP connection, and when it acknowledges them.
//!
//! Invariant: numbers are those of one instant. Only Linux tells them to us; elsewhere there are
//! none, and nothing changes. It knows nothing of what the segments carry.

#![cfg_attr(
    target_os = "linux",
    expect(
        unsafe_code,
        reason = "asks the kernel what no library of ours can ask"
    )
)]

use mio::net::TcpStream;

/// What a connection has carried so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segments {
    /// Of any kind, from here; acknowledgements are among them.
    pub(crate) sent: u32,
    /// With data, from the other side.
    pub(crate) came: u32,
    /// Bytes of data from the other side.
    pub(crate) bytes: u64,
    /// Neither side has ended it.
    pub(crate) is_open: bool,
}

#[cfg(target_os = "linux")]
impl Segments {
    /// Those of a socket, if the kernel tells.
    pub(crate) fn of(socket: &TcpStream) -> Option<Self> {
        use std::mem::{offset_of, zeroed};
        use std::os::fd::AsRawFd;

        use libc::{IPPROTO_TCP, TCP_INFO, getsockopt, socklen_t, tcp_info};

        /// The last field that is read ends here; kernels before 4.6 tell less.
        const NEEDED: usize = offset_of!(tcp_info, tcpi_data_segs_in) + size_of::<u32>();
        /// `TCP_ESTABLISHED` of the kernel's `include/net/tcp_states.h`.
        const ESTABLISHED: u8 = 1;
        // SAFETY: it is a structure of integers, for which zeros are values.
        let mut info: tcp_info = unsafe { zeroed() };
        let mut length = size_of::<tcp_info>() as socklen_t;
        let (place, socket) = (&raw mut info, socket.as_raw_fd());
        // SAFETY: the kernel writes at most `length` bytes to `place`, where there are so many.
        let failed =
            unsafe { getsockopt(socket, IPPROTO_TCP, TCP_INFO, place.cast(), &raw mut length) }
                != 0;
        (!failed && length as usize >= NEEDED).then_some(Self {
            sent: info.tcpi_segs_out,
            came: info.tcpi_data_segs_in,
            bytes: info.tcpi_bytes_received,
            is_open: info.tcpi_state == ESTABLISHED,
        })
    }
}

#[cfg(not(target_os = "linux"))]
impl Segments {
    /// Nobody tells.
    pub(crate) fn of(_: &TcpStream) -> Option<Self> {
        None
    }
}

/// Has the kernel acknowledge what comes next not at once but with the second segment, or after
/// some 40 ms, up to 200 on slow networks. After such a wait it goes back to its own ways.
#[cfg(target_os = "linux")]
pub(crate) fn put_off_acknowledgements(socket: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_tcp_quickack(socket, false) {
        tracing::debug!(%error, "acknowledgements are not put off");
    }
}

/// Takes that back, and acknowledges what was not yet.
#[cfg(target_os = "linux")]
pub(crate) fn acknowledge_at_once(socket: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_tcp_quickack(socket, true) {
        tracing::debug!(%error, "acknowledgements may be late");
    }
}

/// There is no such thing here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn put_off_acknowledgements(_: &TcpStream) {}

/// Nor this.
#[cfg(not(target_os = "linux"))]
pub(crate) fn acknowledge_at_once(_: &TcpStream) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::clock::Nanos;
    use crate::stamp::pair::Pair;

    /// Sends two segments 5 ms apart, each of which is read; what was sent back until the second
    /// had come, and then. Nothing where the machine was too busy for that.
    fn two_segments(pair: &mut Pair) -> Option<[u32; 2]> {
        let before = Segments::of(&pair.client)?;
        let mut sent = [0; 2];
        for (sent, done) in sent.iter_mut().zip(1..) {
            pair.send(b"token");
            pair.rest(Nanos(5_000_000));
            let came = pair.read(Nanos::ZERO).ok()?.bytes;
            let now = Segments::of(&pair.client)?;
            assert_eq!(now.bytes - before.bytes, u64::from(done) * 5);
            assert!((1..=done).contains(&(now.came - before.came)) && now.is_open);
            *sent = now.sent - before.sent;
            if came != 5 {
                return None;
            }
        }
        Some(sent)
    }

    #[test]
    fn an_end_is_told() {
        let mut pair = Pair::new();
        pair.send(b"the last");
        pair.server
            .shutdown(std::net::Shutdown::Write)
            .expect("it is open");
        pair.rest(Nanos(50_000_000));
        let told = Segments::of(&pair.client);
        assert!(told.is_none_or(|told| !told.is_open));
    }

    #[test]
    fn segments_are_counted_and_acknowledged_when_they_are_read_or_later_if_asked() {
        /// The first tries warm up: the kernel acknowledges what comes first as it comes. On a
        /// busy machine the time after which it acknowledges may be over before a read.
        const TRIES: usize = 50;
        let mut pair = Pair::new();
        if Segments::of(&pair.client).is_none() {
            println!("skipped: this kernel does not tell");
            return;
        }
        for (name, ask, expected) in [
            ("at once", acknowledge_at_once as fn(&TcpStream), [1, 2]),
            ("later", put_off_acknowledgements, [0, 1]),
        ] {
            let found = (0..TRIES).find(|_| {
                ask(&pair.client);
                two_segments(&mut pair) == Some(expected)
            });
            assert!(found.is_some(), "{name}");
        }
    }
}
