//! The part of a plan that is about a server: its software, TLS, its own metrics, its warm-up.
//!
//! Invariant: certificates and keys are read here, before any work, and no message shows what is in
//! them.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use backends::http::{Stack, TlsClient, TlsError, TlsFile, TlsOptions, Uri, parse_metrics_url};

use super::Places;
use crate::scenario::Scenario;
use crate::target::Target;
use crate::warm_up::Batches;

/// `--server`, if it is not to be found out.
pub(super) fn stack(scenario: &Scenario, places: &Places<'_>) -> Result<Option<Stack>> {
    let Some(name) = scenario.server.as_deref().filter(|name| *name != "auto") else {
        return Ok(None);
    };
    let stack = Stack::parse(name).ok_or_else(|| {
        let place = places.of("server", |flags| flags.server.is_some());
        let names = Stack::ALL.map(|stack| format!("`{stack}`")).join(", ");
        anyhow!("{place} is `{name}`; accepted are `auto`, {names}")
    })?;
    Ok(Some(stack))
}

fn is_sealed(target: &Target) -> bool {
    matches!(target, Target::Http(server) if server.base.starts_with("https://"))
}

/// TLS, for a target that has it.
pub(super) fn tls(
    scenario: &Scenario,
    places: &Places<'_>,
    target: &Target,
) -> Result<Option<TlsClient>> {
    let insecure = scenario.tls_insecure.unwrap_or(false);
    let files: [(&str, &Option<PathBuf>); 3] = [
        ("tls_ca", &scenario.tls_ca),
        ("tls_cert", &scenario.tls_cert),
        ("tls_key", &scenario.tls_key),
    ];
    let place = |key: &str| {
        places.of(key, |flags| match key {
            "tls_ca" => flags.tls_ca.is_some(),
            "tls_cert" => flags.tls_cert.is_some(),
            "tls_key" => flags.tls_key.is_some(),
            _ => flags.tls_insecure.is_some(),
        })
    };
    if !is_sealed(target) {
        let given = files.iter().find(|(_, file)| file.is_some());
        let given = given
            .map(|(key, _)| *key)
            .or(insecure.then_some("tls_insecure"));
        if let Some(key) = given {
            bail!(
                "{} is for targets with `https://`, not for `{target}`",
                place(key)
            );
        }
        return Ok(None);
    }
    if insecure && scenario.tls_ca.is_some() {
        bail!(
            "{} and {} contradict each other",
            place("tls_ca"),
            place("tls_insecure")
        );
    }
    let path = |file: &Option<PathBuf>| file.as_deref().map(Path::to_path_buf);
    let identity = match (path(&scenario.tls_cert), path(&scenario.tls_key)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => bail!("{} needs `--tls-key FILE` beside it", place("tls_cert")),
        (None, Some(_)) => bail!("{} needs `--tls-cert FILE` beside it", place("tls_key")),
    };
    let options = TlsOptions {
        ca: path(&scenario.tls_ca),
        identity,
        insecure,
    };
    let client = TlsClient::new(&options).map_err(|error| match &error {
        TlsError::File { file, .. } => {
            let key = match file {
                TlsFile::Ca => "tls_ca",
                TlsFile::Certificate => "tls_cert",
                TlsFile::Key => "tls_key",
            };
            anyhow!("{} {error}", place(key))
        }
        TlsError::NoSystemStore(_) => {
            anyhow!("{error}\n\nhint: `--tls-ca FILE` names those that are trusted")
        }
        TlsError::Other(_) => anyhow!("{error}"),
    })?;
    Ok(Some(client))
}

/// `--metrics-url`.
pub(super) fn metrics_url(
    scenario: &Scenario,
    places: &Places<'_>,
    target: &Target,
) -> Result<Option<Uri>> {
    let Some(text) = &scenario.metrics_url else {
        return Ok(None);
    };
    let place = places.of("metrics_url", |flags| flags.metrics_url.is_some());
    let url = parse_metrics_url(text).map_err(|message| anyhow!("{place} {message}"))?;
    if url.scheme_str() == Some("https") && !is_sealed(target) {
        bail!("{place} is `{text}`; accepted is `http://…`, unless the target is `https://…` too");
    }
    Ok(Some(url))
}

/// `--warm-up-batches`.
pub(super) fn warm_up_batches(
    scenario: &Scenario,
    places: &Places<'_>,
    target: &Target,
) -> Result<Batches> {
    let Some(text) = &scenario.warm_up_batches else {
        return Ok(Batches::Auto);
    };
    let place = places.of("warm_up_batches", |flags| flags.warm_up_batches.is_some());
    if !matches!(target, Target::Http(_)) {
        bail!("{place} is for servers, not for `{target}`");
    }
    Batches::parse(text).map_err(|message| anyhow!("{place} {message}"))
}
