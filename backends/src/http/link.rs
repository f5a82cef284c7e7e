//! One connection's way to the wire: plain, or TLS.
//!
//! Invariants: what a socket gives is decrypted in the time for parsing, not when it is read;
//! nothing of a request is written before the handshake is over. It takes no time and knows nothing
//! of HTTP.

use std::io::{self, Read as _, Write};

use mio::net::TcpStream;
use rustls::ClientConnection;

/// A socket, and TLS on it if the server wants that.
pub(super) struct Link {
    pub(super) stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// What is to be written, and how much of it has been.
    out: Vec<u8>,
    written: usize,
}

impl Link {
    pub(super) fn new(stream: TcpStream, tls: Option<ClientConnection>) -> Self {
        Self {
            stream,
            tls: tls.map(Box::new),
            out: Vec::new(),
            written: 0,
        }
    }

    /// Is the connection made? Not yet is `false`.
    pub(super) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.tls.is_some()
    }

    /// A handshake, where one is needed, is still going on.
    pub(super) fn is_shaking_hands(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Takes what is to be written next.
    pub(super) fn put(&mut self, bytes: Vec<u8>) {
        self.out = bytes;
        self.written = 0;
    }

    /// Something of what was put is not written yet.
    pub(super) fn is_behind(&self) -> bool {
        self.written < self.out.len() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Writes what it can. An error shows in the next read, after what the server had said.
    pub(super) fn write(&mut self) {
        if self.tls.is_some() {
            self.write_sealed();
            return;
        }
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.put(Vec::new());
    }

    fn write_sealed(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        if !tls.is_handshaking() && !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            // Into memory without a limit, so this cannot fail.
            drop(tls.writer().write_all(&out));
        }
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Decrypts a read and adds what it says to `plain`; true when the server has ended TLS. What
    /// TLS itself has to answer is written at once.
    pub(super) fn unseal(
        &mut self,
        mut sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        let Some(tls) = &mut self.tls else {
            plain.extend_from_slice(sealed);
            return Ok(false);
        };
        let mut has_ended = false;
        let mut result = Ok(());
        while !sealed.is_empty() && result.is_ok() && !has_ended {
            // Reading from memory fails only when there is too much of it for one record.
            if tls.read_tls(&mut sealed).is_err() {
                result = Err(rustls::Error::General("a record is too long".into()));
                break;
            }
            match tls.process_new_packets() {
                Ok(state) => {
                    let from = plain.len();
                    plain.resize(from + state.plaintext_bytes_to_read(), 0);
                    drop(tls.reader().read_exact(&mut plain[from..]));
                    has_ended = state.peer_has_closed();
                }
                Err(error) => result = Err(error),
            }
        }
        self.write();
        result.map(|()| has_ended)
    }
}
