//! TLS of the client: whom it trusts, who it is, and what a failure means.
//!
//! Invariants: a certificate that cannot be checked ends the connection, unless the user wanted
//! none checked, which the report then says; no key and no certificate is ever shown, only where it
//! was read. HTTP/1.1 is all that is offered (ALPN). It does no input or output but for its files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    Error, RootCertStore, SignatureScheme,
};

/// What the user says of TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Authorities that are trusted in place of the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// The client's own certificate and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Let the server be anybody.
    pub insecure: bool,
}

/// A file of [`TlsOptions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// Authorities.
    Ca,
    /// The client's certificate.
    Certificate,
    /// Its key.
    Key,
}

/// TLS cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file does not do.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// Which.
        file: TlsFile,
        /// Where.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The system has no authorities.
    #[error("this system has no certificate authorities that could be read{0}")]
    NoSystemStore(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// TLS, ready to connect with.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    /// Who checks the server, in words.
    trust: String,
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TlsClient")
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

impl TlsClient {
    /// Reads the files and checks that they belong together.
    pub fn new(options: &TlsOptions) -> Result<Self, TlsError> {
        let other = |error: Error| TlsError::Other(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(other)?;
        let (builder, mut trust) = if options.insecure {
            let nobody = Arc::new(AnybodyWillDo(provider));
            let builder = builder.dangerous().with_custom_certificate_verifier(nobody);
            (builder, "NOT checked (--tls-insecure)".to_owned())
        } else {
            let (roots, trust) = roots(options.ca.as_deref())?;
            (builder.with_root_certificates(roots), trust)
        };
        let mut config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                trust += "; a client certificate is given";
                let chain = certificates(TlsFile::Certificate, certificate)?;
                let own = builder.with_client_auth_cert(chain, private_key(key)?);
                own.map_err(|error| TlsError::File {
                    file: TlsFile::Key,
                    path: key.clone(),
                    reason: format!("does not go with `{}`: {error}", certificate.display()),
                })?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            trust,
        })
    }

    /// Who checks the server, in words.
    pub fn trust(&self) -> &str {
        &self.trust
    }

    /// A connection to a host, by name or address.
    pub(super) fn connection(&self, host: &str) -> Result<ClientConnection, Error> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| Error::General(format!("`{host}` is no name of a host")))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)?;
        // A request is one piece, however long its prompt.
        connection.set_buffer_limit(None);
        Ok(connection)
    }
}

/// Those who are trusted, and who they are in words.
fn roots(ca: Option<&Path>) -> Result<(RootCertStore, String), TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in certificates(TlsFile::Ca, path)? {
            roots.add(certificate).map_err(|error| TlsError::File {
                file: TlsFile::Ca,
                path: path.to_owned(),
                reason: format!("has a certificate that cannot be an authority: {error}"),
            })?;
        }
        return Ok((roots, format!("checked by {}", path.display())));
    }
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(|error| format!(": {error}"));
        return Err(TlsError::NoSystemStore(why.unwrap_or_default()));
    }
    Ok((roots, "checked by the system's authorities".to_owned()))
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::File {
        file,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn certificates(file: TlsFile, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File {
        file,
        path: path.to_owned(),
        reason,
    };
    let bytes = read(file, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = read.map_err(|error| wrong(format!("is no PEM file: {error}")))?;
    if found.is_empty() {
        return Err(wrong(
            "holds no certificate; accepted is PEM (`-----BEGIN CERTIFICATE-----`)".into(),
        ));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wrong = |reason: &str| TlsError::File {
        file: TlsFile::Key,
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let bytes = read(TlsFile::Key, path)?;
    // What a parser says of a key could show some of it.
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        if bytes.windows(9).any(|nine| nine == b"ENCRYPTED") {
            wrong(
                "is encrypted with a password, which cannot be asked for here\n\nhint: `openssl \
                 pkey -in FILE -out OPEN_FILE` writes it without one",
            )
        } else {
            wrong("holds no private key; accepted is PEM (PKCS#8, PKCS#1 or SEC1)")
        }
    })
}

/// What a failure means, and what to do about it. `host` is who was to be reached.
pub(super) fn words(error: &Error, host: &str) -> String {
    let (what, hint) = match error {
        Error::InvalidCertificate(wrong) => certificate_words(wrong, host),
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::HandshakeFailure,
        ) => (
            format!("the server refused the connection ({error})"),
            "`--tls-cert FILE --tls-key FILE` give a client certificate that the server trusts",
        ),
        Error::InvalidMessage(_) => (
            format!("what answers does not speak TLS ({error})"),
            "`http://` in the target is without TLS",
        ),
        _ => (format!("TLS: {error}"), ""),
    };
    if hint.is_empty() {
        return what;
    }
    format!("{what}\n\nhint: {hint}")
}

fn certificate_words(wrong: &CertificateError, host: &str) -> (String, &'static str) {
    const INSECURE: &str = "the server's certificate has to be renewed; `--tls-insecure` \
                            measures all the same, and the report says so";
    match wrong {
        // A bad signature: by an authority of the right name that is another one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            format!("the server's certificate is signed by nobody who is trusted here ({wrong})"),
            "`--tls-ca FILE` names the authority that signed it",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("the server's certificate has expired".to_owned(), INSECURE)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "the server's certificate is not valid yet".to_owned(),
            "is the clock of this machine right?",
        ),
        CertificateError::NotValidForName => (
            format!("the server's certificate is not for `{host}`"),
            "the target has to have a name that is in the certificate",
        ),
        CertificateError::NotValidForNameContext { presented, .. } => (
            format!(
                "the server's certificate is for {}, not for `{host}`",
                if presented.is_empty() {
                    "no name at all".to_owned()
                } else {
                    let names = presented.iter().map(|name| bare_name(name));
                    names.collect::<Vec<_>>().join(", ")
                }
            ),
            "the target has to have a name that is in the certificate",
        ),
        other => (
            format!("the server's certificate cannot be used: {other}"),
            INSECURE,
        ),
    }
}

/// `example.com` of `DnsName("example.com")`.
fn bare_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

/// Takes any certificate; that the server has its key is still checked.
#[derive(Debug)]
struct AnybodyWillDo(Arc<CryptoProvider>);

impl ServerCertVerifier for AnybodyWillDo {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
