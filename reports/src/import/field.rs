//! Fields of JSON that others wrote: absent, null or of another type are all "not stated".
//!
//! Invariant: nothing here fails or panics, whatever the JSON.

use serde_json::Value;

/// A number at a path like `/a/0/b`.
pub(super) fn number(value: &Value, path: &str) -> Option<f64> {
    let found = value.pointer(path)?;
    let text = || found.as_str()?.trim().parse().ok();
    found
        .as_f64()
        .or_else(text)
        .filter(|number: &f64| number.is_finite())
}

/// A whole number, not negative.
pub(super) fn count(value: &Value, path: &str) -> Option<u64> {
    let number = number(value, path)?;
    (number >= 0.0 && number.fract() == 0.0 && number < 9e15).then_some(number as u64)
}

/// A text that is not empty.
pub(super) fn text(value: &Value, path: &str) -> Option<String> {
    let text = value.pointer(path)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The first of several paths that has a text.
pub(super) fn first_text(value: &Value, paths: &[&str]) -> Option<String> {
    paths.iter().find_map(|path| text(value, path))
}
