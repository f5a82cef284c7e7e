//! One page from a server, outside the measurement: its models before a run, its metrics beside
//! it.
//!
//! Plain blocking sockets on the caller's thread, one connection each. Invariant: it ends within
//! its limits of time and size, whatever the server does. What it does not do: redirects.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use crate::contract::{Failure, FailureCause};

use super::tls::{self, TlsClient};
use super::wire::{Head, Part, WireReader};

/// How long each step may take: connecting, one read, one write.
const LIMIT: Duration = Duration::from_secs(10);
/// No page is longer.
const MOST_BYTES: usize = 16 << 20;

/// Where a page is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<TlsClient>,
}

/// A page.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    /// Who gave it.
    pub(super) address: SocketAddr,
    /// Version and cipher suite.
    pub(super) tls: Option<String>,
}

/// Asks each address in turn until one can be connected to. `request` is a whole head.
pub(super) fn get(place: &Place, request: &str) -> Result<Page, Failure> {
    let failed = |error: io::Error| failure(place, &error);
    let host = place.host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, place.port).to_socket_addrs().map_err(failed)?;
    let mut last = io::Error::other("the name has no address");
    for address in found {
        match TcpStream::connect_timeout(&address, LIMIT) {
            Ok(stream) => return ask(place, stream, address, request),
            Err(error) => last = error,
        }
    }
    Err(failure(place, &last))
}

fn failure(place: &Place, error: &io::Error) -> Failure {
    let Place { host, port, .. } = place;
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    let words = of_tls.map_or_else(|| error.to_string(), |error| tls::words(error, host));
    Failure::new(FailureCause::Connect, format!("{host}:{port}: {words}"))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        };
        match read {
            // Without TLS's own end; whether that cuts anything off shows in the answer's frame.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    fn tls(&self) -> Option<String> {
        let Self::Tls(stream) = self else { return None };
        let version = stream.conn.protocol_version()?;
        let suite = stream.conn.negotiated_cipher_suite()?.suite();
        Some(format!("{version:?}, {suite:?}"))
    }
}

fn ask(
    place: &Place,
    stream: TcpStream,
    address: SocketAddr,
    request: &str,
) -> Result<Page, Failure> {
    let failed = |error: io::Error| failure(place, &error);
    stream.set_read_timeout(Some(LIMIT)).map_err(failed)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(failed)?;
    let mut stream = match &place.tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let host = place.host.trim_start_matches('[').trim_end_matches(']');
            let connection = tls.connection(host);
            let connection = connection.map_err(|error| failed(io::Error::other(error)))?;
            Stream::Tls(Box::new(StreamOwned::new(connection, stream)))
        }
    };
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let (mut wire, mut answered, mut body) = (WireReader::default(), None, Vec::new());
    let (mut whole, mut seen) = (false, 0);
    let mut buffer = vec![0; 16 << 10];
    while !whole && seen < MOST_BYTES {
        let count = stream.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            whole = wire.close();
            break;
        }
        if seen == 0 && place.tls.is_none() && is_tls(&buffer[..count]) {
            let error = io::Error::other("it speaks TLS\n\nhint: `https://` in the target");
            return Err(failure(place, &error));
        }
        seen += count;
        let read = wire.read(&buffer[..count], |part| match part {
            Part::Head(head) => answered = Some(head),
            Part::Body(bytes) => body.extend_from_slice(bytes),
            Part::End => whole = true,
        });
        read.map_err(|error| Failure::new(FailureCause::BadStream, error.to_string()))?;
    }
    if let Some(head) = answered.filter(|_| whole) {
        return Ok(Page {
            head,
            body,
            address,
            tls: stream.tls(),
        });
    }
    let message = if seen == 0 {
        "the server closed the connection without an answer"
    } else {
        "the server closed the connection in mid-answer"
    };
    Err(Failure::new(FailureCause::Reset, message))
}

/// An alert: what a server says that was to be greeted otherwise.
fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15, 0x03, ..])
}
