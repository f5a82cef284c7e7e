//! The page at which a server tells about itself.
//!
//! Invariant: it is read by the caller's thread, over a connection of its own, so nothing of it
//! comes between requests and their stamps; a key goes nowhere but to the API's own port. What it
//! does not do: know what the metrics mean.

use http::Uri;

use crate::contract::Failure;

use super::get::{self, Place};
use super::stack::Stack;
use super::{HttpConfig, parse_base};

/// Where a server's metrics may be.
#[derive(Debug)]
pub struct MetricsPage {
    /// Those not found wanting yet, best first.
    places: Vec<(Place, String)>,
    /// The first of them has answered.
    is_found: bool,
}

impl MetricsPage {
    /// Where the user says, else at the usual places of a stack.
    pub(super) fn of(config: &HttpConfig, stack: Stack) -> Result<Self, Failure> {
        let api = config.place()?;
        let mut places = Vec::new();
        if let Some(url) = &config.metrics {
            let given = HttpConfig {
                base: url.clone(),
                tls: config.tls.clone(),
                ..HttpConfig::new(url.clone())
            };
            places.push((given.place()?, request(&given, url.path())?));
        } else {
            let own = |port: u16| Place {
                port,
                ..api.clone()
            };
            if let Some(port) = stack.metrics_port() {
                let keyless = HttpConfig {
                    api_key: None,
                    ..config.clone()
                };
                places.push((own(port), request(&keyless, "/metrics")?));
            }
            places.push((api.clone(), request(config, "/metrics")?));
        }
        Ok(Self {
            places,
            is_found: false,
        })
    }

    /// Where it is, or where it is looked for first.
    pub fn url(&self) -> String {
        let shown = |(place, request): &(Place, String)| {
            let scheme = if place.tls.is_some() { "https" } else { "http" };
            let path = request.split(' ').nth(1).unwrap_or_default();
            format!("{scheme}://{}:{}{path}", place.host, place.port)
        };
        self.places.first().map(shown).unwrap_or_default()
    }

    /// The page as it is now. The first place that has one is kept to.
    pub fn read(&mut self) -> Result<String, String> {
        let mut reasons = Vec::new();
        loop {
            let Some((place, request)) = self.places.first() else {
                return Err(reasons.join("; "));
            };
            let reason = match get::get(place, request) {
                Ok(page) if page.head.status == 200 => {
                    self.is_found = true;
                    return Ok(String::from_utf8_lossy(&page.body).into_owned());
                }
                Ok(page) => format!("{}: HTTP status {}", self.url(), page.head.status),
                Err(failure) => format!("{}: {}", self.url(), failure.message),
            };
            reasons.push(reason);
            if self.is_found || self.places.len() == 1 {
                return Err(reasons.join("; "));
            }
            self.places.remove(0);
        }
    }
}

fn request(config: &HttpConfig, path: &str) -> Result<String, Failure> {
    // From the root of the server, not below the API.
    let mut parts = config.base.clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    let root = HttpConfig {
        base: Uri::from_parts(parts).unwrap_or_else(|_| config.base.clone()),
        ..config.clone()
    };
    let head = super::head(&root, "GET", path)?;
    Ok(format!("{head}Connection: close\r\n\r\n"))
}

/// Reads `--metrics-url`.
pub fn parse_metrics_url(text: &str) -> Result<Uri, String> {
    let url = parse_base(text).ok().filter(|url| url.path().len() > 1);
    url.ok_or_else(|| format!("is `{text}`; accepted is `http://HOST:PORT/metrics`"))
}

#[cfg(test)]
mod tests {
    use super::super::ApiKey;
    use super::*;

    #[test]
    fn a_key_goes_to_the_api_s_own_port_only() {
        let base = parse_base("http://127.0.0.1:1025/v1").expect("an address");
        let config = HttpConfig {
            api_key: Some(ApiKey::new("secret".into())),
            ..HttpConfig::new(base)
        };
        for (stack, expected) in [
            (Stack::MindIe, &[(1027, false), (1025, true)][..]),
            (Stack::Vllm, &[(1025, true)]),
        ] {
            let page = MetricsPage::of(&config, stack).expect("there are places");
            let looked = |(place, request): &(Place, String)| {
                assert!(request.starts_with("GET /metrics HTTP/1.1"), "{request}");
                (place.port, request.contains("secret"))
            };
            let looked: Vec<(u16, bool)> = page.places.iter().map(looked).collect();
            assert_eq!(looked, expected, "{stack}");
        }
    }
}
