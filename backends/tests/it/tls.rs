//! The client against a server with TLS: whom it trusts, who it says it is, what it says is wrong.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backends::http::{
    HttpBackend, HttpConfig, TlsClient, TlsError, TlsFile, TlsOptions, parse_base,
};
use backends::{Backend, Clock, EventKind, Failure, Prompt, Request};
use models::{Message, Role, SamplingParams};

use crate::sealed::{Asks, Authority, serve};

/// A long prompt: more than one TLS record, and more than a socket takes at once.
fn request() -> Request {
    let message = Message {
        role: Role::User,
        content: "你好".repeat(400_000),
    };
    Request {
        prompt: Prompt {
            tokens: Arc::from([]),
            messages: Arc::from([message]),
        },
        max_tokens: 2,
        ignore_eos: true,
        min_tokens: 0,
        sampling: SamplingParams {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            seed: 0,
        },
    }
}

/// Connects, asks twice in a row; the texts, and what the backend says of itself.
fn ask(base: &str, options: &TlsOptions) -> Result<(Vec<String>, String), Failure> {
    let clock = Clock::wall();
    clock.block_on(async {
        let config = HttpConfig {
            tls: Some(TlsClient::new(options).expect("the files are right")),
            ..HttpConfig::new(parse_base(base).expect("an address"))
        };
        let backend = HttpBackend::connect(config, clock.clone()).await?;
        let mut texts = Vec::new();
        for _ in 0..2 {
            let mut stream = backend.submit(request());
            let mut said = String::new();
            while let Some(event) = stream.next().await {
                match event.kind {
                    EventKind::Text { text, .. } => said.push_str(&text),
                    EventKind::Failed(failure) => return Err(failure),
                    _ => {}
                }
            }
            texts.push(said);
        }
        Ok((texts, backend.describe().details["tls"].clone()))
    })
}

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions {
        ca: Some(authority.path("ca.pem")),
        ..TlsOptions::default()
    }
}

#[test]
fn requests_are_answered_over_one_connection() {
    let authority = Authority::new();
    let server = serve(
        &authority,
        &authority.sign(&["127.0.0.1"], 2100),
        Asks::Nobody,
    );
    let base = format!("https://{}/v1", server.address);
    let (texts, tls) = ask(&base, &trusting(&authority)).expect("it works");
    assert_eq!(texts, ["你好", "你好"]);
    assert!(
        tls.starts_with("TLSv1_3, TLS13_") && tls.contains("ca.pem"),
        "{tls}"
    );
    // One for the models, one for both requests.
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
}

#[test]
fn a_client_shows_its_certificate_when_asked() {
    let authority = Authority::new();
    let signed = authority.sign(&["127.0.0.1"], 2100);
    let server = serve(&authority, &signed, Asks::Everybody);
    let base = format!("https://{}/v1", server.address);
    let options = TlsOptions {
        identity: Some(authority.client("client")),
        ..trusting(&authority)
    };
    let (texts, tls) = ask(&base, &options).expect("it works");
    assert_eq!(texts.len(), 2);
    assert!(tls.contains("a client certificate is given"), "{tls}");
    // One of another authority does not do, nor does none.
    let [same_name, other_name] = ["test", "other"].map(|name| {
        let stranger = Authority::named(name);
        let identity = Some(stranger.client("client"));
        (stranger, identity)
    });
    let with = |identity| TlsOptions {
        identity,
        ..trusting(&authority)
    };
    for options in [with(same_name.1), with(other_name.1), with(None)] {
        let failure = ask(&base, &options).expect_err("it is refused");
        let message = failure.message;
        assert!(
            message.contains("`--tls-cert FILE --tls-key FILE`"),
            "{message}"
        );
    }
}

#[test]
fn a_server_that_cannot_be_trusted_is_not_asked_and_the_reason_is_told() {
    let (authority, other) = (Authority::new(), Authority::named("other"));
    let same_name = Authority::new();
    let good = authority.sign(&["127.0.0.1"], 2100);
    let old = authority.sign(&["127.0.0.1"], 2001);
    let named = authority.sign(&["example.com"], 2100);
    for (signed, trusted, part, hint) in [
        (
            &good,
            &other,
            "signed by nobody who is trusted",
            "`--tls-ca FILE`",
        ),
        (
            &good,
            &same_name,
            "trusted here (BadSignature)",
            "`--tls-ca FILE`",
        ),
        (&old, &authority, "has expired", "`--tls-insecure`"),
        (
            &named,
            &authority,
            "is for example.com, not for `127.0.0.1`",
            "name",
        ),
    ] {
        let server = serve(&authority, signed, Asks::Nobody);
        let base = format!("https://{}/v1", server.address);
        let message = ask(&base, &trusting(trusted)).expect_err(part).message;
        assert!(message.contains(part), "{message}");
        let (_, after) = message.split_once("\n\nhint: ").expect("a hint");
        assert!(after.contains(hint), "{message}");
        let insecure = TlsOptions {
            insecure: true,
            ..TlsOptions::default()
        };
        let (texts, tls) = ask(&base, &insecure).expect("nothing is checked");
        assert_eq!(texts.len(), 2);
        assert!(tls.contains("NOT checked"), "{tls}");
    }
}

#[test]
fn tls_and_plain_servers_are_told_apart() {
    let authority = Authority::new();
    let server = serve(
        &authority,
        &authority.sign(&["127.0.0.1"], 2100),
        Asks::Nobody,
    );
    let plain = format!("http://{}/v1", server.address);
    let message = ask(&plain, &trusting(&authority))
        .expect_err("it speaks TLS")
        .message;
    assert!(
        message.contains("hint: `https://` in the target"),
        "{message}"
    );
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let sealed = format!("https://{}/v1", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            drop(stream.read(&mut [0; 4096]));
            drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let message = ask(&sealed, &trusting(&authority))
        .expect_err("it does not")
        .message;
    assert!(message.contains("does not speak TLS"), "{message}");
}

#[test]
fn files_that_do_not_do_are_named_and_never_shown() {
    let authority = Authority::new();
    let (certificate, key) = authority.client("client");
    let (_, other_key) = authority.client("other");
    let write = |name: &str, text: &str| {
        let path = authority.path(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    let empty = write("empty.pem", "");
    let sealed = write(
        "sealed.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let broken = write(
        "broken.key",
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0!!\n-----END PRIVATE KEY-----\n",
    );
    let nowhere = authority.path("nowhere");
    let pair = |certificate: &PathBuf, key: &PathBuf| TlsOptions {
        identity: Some((certificate.clone(), key.clone())),
        ..trusting(&authority)
    };
    let ca = |path: &PathBuf| TlsOptions {
        ca: Some(path.clone()),
        ..TlsOptions::default()
    };
    for (options, which, part) in [
        (ca(&nowhere), TlsFile::Ca, "No such file"),
        (ca(&empty), TlsFile::Ca, "holds no certificate"),
        (
            pair(&key, &key),
            TlsFile::Certificate,
            "holds no certificate",
        ),
        (pair(&certificate, &nowhere), TlsFile::Key, "No such file"),
        (
            pair(&certificate, &certificate),
            TlsFile::Key,
            "holds no private key",
        ),
        (pair(&certificate, &sealed), TlsFile::Key, "`openssl pkey"),
        (
            pair(&certificate, &broken),
            TlsFile::Key,
            "holds no private key",
        ),
        (
            pair(&certificate, &other_key),
            TlsFile::Key,
            "does not go with",
        ),
    ] {
        let error = TlsClient::new(&options).expect_err(part);
        let shown = error.to_string();
        assert!(shown.contains(part) && !shown.contains("c2Vj"), "{shown}");
        let TlsError::File { file, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(file, which, "{shown}");
    }
    let whole = TlsClient::new(&pair(&certificate, &key)).expect("they belong together");
    assert!(!format!("{whole:?}").contains("PRIVATE"), "{whole:?}");
}
