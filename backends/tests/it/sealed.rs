//! A server with TLS, and an authority that signs what it and its clients need.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// An authority, and what it has signed, in files.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Signed {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("test")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("writable");
        Self { folder, issuer }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn sign(&self, names: &[&str], until_year: i32) -> Signed {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until_year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        Signed {
            certificate: signed.der().clone(),
            pem: signed.pem(),
            key,
        }
    }

    /// Writes a client's certificate and key; their paths.
    pub(crate) fn client(&self, name: &str) -> (PathBuf, PathBuf) {
        let signed = self.sign(&["client"], 2100);
        let paths = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.key")),
        );
        std::fs::write(&paths.0, &signed.pem).expect("writable");
        std::fs::write(&paths.1, signed.key.serialize_pem()).expect("writable");
        paths
    }
}

/// Does a server ask who its clients are?
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Asks {
    Nobody,
    Everybody,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Connections so far.
    pub(crate) connections: Arc<AtomicUsize>,
}

/// A server with TLS whose every answer is two tokens.
pub(crate) fn serve(authority: &Authority, signed: &Signed, asks: Asks) -> Server {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("ring");
    let builder = if asks == Asks::Everybody {
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.issuer.der().clone())
            .expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::try_from(signed.key.serialize_der()).expect("a key");
    let mut config = builder
        .with_single_cert(vec![signed.certificate.clone()], key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = Server {
        address: listener.local_addr().expect("an address"),
        connections: Arc::default(),
    };
    let connections = Arc::clone(&server.connections);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            connections.fetch_add(1, Ordering::Relaxed);
            let config = Arc::clone(&config);
            std::thread::spawn(move || answer_all(config, stream));
        }
    });
    server
}

fn answer_all(config: Arc<ServerConfig>, stream: TcpStream) {
    let connection = ServerConnection::new(config).expect("a configuration");
    let mut stream = StreamOwned::new(connection, stream);
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            // A reset would overtake what was said about a handshake that failed.
            drop(std::io::copy(&mut stream.sock, &mut std::io::sink()));
            return;
        }
        // HTTP/1.1, not what the server would rather have.
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        let Some(head) = text.find("\r\n\r\n") else {
            continue;
        };
        let length = text.split("Content-Length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        if seen.len() < head + 4 + length.unwrap_or(0) {
            continue;
        }
        seen.clear();
        let answered = if text.starts_with("GET") {
            let body = r#"{"data":[{"id":"m","owned_by":"vllm"}]}"#;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes())
        } else {
            stream_tokens(&mut stream)
        };
        if answered.and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn stream_tokens(stream: &mut impl Write) -> std::io::Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    for data in [
        r#"{"choices":[{"delta":{"content":"你"}}]}"#,
        r#"{"choices":[{"delta":{"content":"好"}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#,
        "[DONE]",
    ] {
        let event = format!("data: {data}\n\n");
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
        stream.flush()?;
    }
    stream.write_all(b"0\r\n\r\n")
}
