//! JSON files of ours that carry a schema version.
//!
//! Invariant: a file of another version is refused before anything else of it is read, and every
//! error names the file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A file of the accepted version, and the same as it stands there.
pub fn read<T: DeserializeOwned>(path: &Path, accepted: u32) -> Result<(T, Value)> {
    let place = || format!("`{}`", path.display());
    let text = std::fs::read_to_string(path).with_context(place)?;
    let value: Value = serde_json::from_str(&text).with_context(place)?;
    let version = value["schema_version"].as_u64();
    ensure!(
        version == Some(u64::from(accepted)),
        "{}: schema_version is {version:?}; accepted is {accepted}",
        place()
    );
    let found = serde_json::from_value(value.clone()).with_context(place)?;
    Ok((found, value))
}
